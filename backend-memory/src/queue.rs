//! The state of one queue, all of it under one lock: records, keys, settings, event log, time, and the answers kept
//! for repeats. A queue that does not exist has a state too, an empty one, so that calls on it are repeated like
//! others and no call can write to a queue that was just unlinked.

use std::collections::BTreeMap;
use std::time::Duration;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobState, LaneKey};
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::storage::{AnswerBook, QueueConfig};

use crate::batches::BatchBook;
use crate::events::Log;
use crate::keys::Keys;
use crate::roster::Roster;

/// Everything about one queue.
#[derive(Debug, Default)]
pub(crate) struct QueueState {
    /// Whether the queue exists.
    pub(crate) exists: bool,
    /// The stored settings, or the defaults.
    pub(crate) config: QueueConfig,
    /// The lanes' own policies.
    pub(crate) lane_policies: BTreeMap<LaneKey, LanePolicy>,
    /// The records in their lines.
    pub(crate) roster: Roster,
    /// The batches that have not ended.
    pub(crate) batches: BatchBook,
    /// The dedup keys.
    pub(crate) keys: Keys,
    /// The event log.
    pub(crate) log: Log,
    /// The highest `|seq|` given or restored.
    pub(crate) seq_last: i64,
    /// The storage time of the last write.
    pub(crate) last: Option<Timestamp>,
    /// When somebody last attended to the Active jobs; of no meaning while there are none.
    pub(crate) attended_at: Timestamp,
    /// No Active job's lease has a shorter term, so that attendance can tell at a glance that no lease needs help.
    pub(crate) term_min: Duration,
    /// The answers that may be asked for again. They outlive the queue, as the sessions do.
    pub(crate) answers: AnswerBook,
}

impl QueueState {
    /// Leaves nothing of the queue but the kept answers.
    pub(crate) fn obliterate(&mut self) {
        *self = QueueState { answers: std::mem::take(&mut self.answers), ..QueueState::default() };
    }

    /// Stores one lane's own policy, or removes it.
    pub(crate) fn set_policy(&mut self, lane: &LaneKey, policy: Option<LanePolicy>) {
        let before = match policy.clone() {
            Some(policy) => self.lane_policies.insert(lane.clone(), policy),
            None => self.lane_policies.remove(lane),
        };
        if before != policy {
            self.roster.lanes.reopen_lane(lane);
        }
    }

    /// Takes note of the term of a lease that begins now.
    pub(crate) fn note_term(&mut self, term: Duration) {
        let none_active = self.roster.count(JobState::Active) == 0;
        self.term_min = if none_active { term } else { self.term_min.min(term) };
    }
}
