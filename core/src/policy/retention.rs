//! What becomes of records of jobs that have ended. Each gets the instant after which it may go ([`prune_at`]) as it
//! ends, and a queue keeps at most so many of each terminal state.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;
use crate::clock::Timestamp;
use crate::job::JobState;

/// How long the record of a job with a waiter outlives the job's end, whatever retention says.
pub const WAITED_ON_KEEP: Duration = Duration::from_secs(60);

/// A job's own word on its record, by how the job ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keep {
    /// If it completed.
    pub completed: KeepFor,
    /// If it failed.
    pub failed: KeepFor,
    /// If it was cancelled.
    pub cancelled: KeepFor,
}

/// How long to keep a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepFor {
    /// As long as the queue says.
    #[default]
    QueueDefault,
    /// Not at all: the record goes in the step that ends the job.
    Remove,
    /// This long, or less if the queue's count is full.
    Age(#[serde(with = "micros")] Duration),
}

/// A queue's rule for one terminal state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepRule {
    /// How long a record is kept.
    #[serde(with = "micros")]
    pub age: Duration,
    /// How many records are kept; the ones due to go soonest go first.
    pub count: u64,
}

impl KeepRule {
    /// Keeps nothing.
    pub const REMOVE: KeepRule = KeepRule { age: Duration::ZERO, count: 0 };
}

/// A queue's rules for all three terminal states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Completed jobs: 24 hours and 10,000 by default.
    pub completed: KeepRule,
    /// Failed jobs: 7 days and 100,000 by default.
    pub failed: KeepRule,
    /// Cancelled jobs: 24 hours and 10,000 by default.
    pub cancelled: KeepRule,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Retention {
            completed: KeepRule { age: DAY, count: 10_000 },
            failed: KeepRule { age: DAY.saturating_mul(7), count: 100_000 },
            cancelled: KeepRule { age: DAY, count: 10_000 },
        }
    }
}

impl Retention {
    /// The rule for a terminal state.
    ///
    /// A live state has no rule; asked for one, the rule that keeps longest answers, so that nothing can be lost.
    pub fn rule(&self, state: JobState) -> KeepRule {
        match state {
            JobState::Completed => self.completed,
            JobState::Cancelled => self.cancelled,
            _ => self.failed,
        }
    }
}

/// When the record of a job that ended in `state` at `finished_at` may go. `None`: it goes at once.
pub fn prune_at(
    keep: &Keep,
    queue: &Retention,
    state: JobState,
    finished_at: Timestamp,
    waited_on: bool,
) -> Option<Timestamp> {
    let rule = queue.rule(state);
    let own = match state {
        JobState::Completed => keep.completed,
        JobState::Cancelled => keep.cancelled,
        _ => keep.failed,
    };
    let age = match own {
        KeepFor::Remove => Duration::ZERO,
        KeepFor::Age(age) => age,
        KeepFor::QueueDefault if rule.count == 0 => Duration::ZERO,
        KeepFor::QueueDefault => rule.age,
    };
    let age = if waited_on { age.max(WAITED_ON_KEEP) } else { age };
    (!age.is_zero()).then(|| finished_at.after(age))
}

/// How many records of a terminal state to prune after a call that added `added` to it: those beyond `count`, but at
/// most twice what was added, so that no caller pays for another's backlog.
pub fn prune_quota(kept: u64, count: u64, added: u64) -> u64 {
    kept.saturating_sub(count).min(added.saturating_mul(2))
}
