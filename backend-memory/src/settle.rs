//! Settlement: the end of a run, under the lease that the run was handed out with. What becomes of the job is core's
//! verdict; this file checks the lease and writes the verdict down.

use ferroq_core::event::EventKind;
use ferroq_core::job::{JobState, Move, transition};
use ferroq_core::policy::batch::Spent;
use ferroq_core::policy::settle::{self, Standing, Verdict};
use ferroq_core::storage::{Lease, Outcome, SettleAnswer};

use crate::batches::bear;
use crate::roster::Key;
use crate::turn::Turn;

impl Turn<'_> {
    /// Settles one run. Its follow-ups are the caller's to enqueue, because they may go to other queues.
    pub(crate) fn settle(&mut self, lease: Lease, outcome: Outcome) -> SettleAnswer {
        let now = self.now;
        let Some(key) = self.queue.roster.key(lease.id) else { return SettleAnswer::Gone };
        let spent = self.queue.spent_under(self.queue.roster.get(key), lease.epoch);
        let record = self.queue.roster.get_mut(key);
        if let Some(spent) = spent {
            record.epoch = lease.epoch;
            bear(record, spent.borne(Spent::of(record), &record.spec.options));
        } else if record.epoch != lease.epoch || record.batch.is_some() && record.state == JobState::Blocked {
            return SettleAnswer::LeaseLost;
        } else if record.state != JobState::Active {
            return SettleAnswer::AlreadyDone;
        }
        let standing = Standing::new(record.attempts, record.crashes, record.cancel_requested, &record.spec.options);
        let verdict = settle::settle(standing, &outcome, now);
        if let Some((kind, message)) = settle::error_of(&outcome) {
            record.notes.push_error(now, record.runs, kind, message);
        }
        if let Outcome::Completed { result } = outcome {
            record.notes.result = result;
        }
        let state = self.apply(key, &verdict);
        self.place_heirs();
        SettleAnswer::Settled { state, follow_ups: Vec::new() }
    }

    /// Writes a verdict about an Active job, or a member of a batch, down; the state that it leads to.
    pub(crate) fn apply(&mut self, key: Key, verdict: &Verdict) -> JobState {
        let record = self.queue.roster.get_mut(key);
        let active = (record.state == JobState::Active).then(|| record.spec.lane.clone());
        debug_assert!(transition(record.state, verdict.made).is_some(), "{} {:?}", record.state, verdict.made);
        record.attempts = verdict.attempts;
        record.crashes = verdict.crashes;
        let event = match verdict.made {
            Move::Complete => Some(EventKind::Completed),
            Move::Fail => Some(EventKind::Failed),
            Move::Cancel => Some(EventKind::Cancelled),
            Move::Retry => Some(EventKind::Retrying),
            Move::Snooze => Some(EventKind::Snoozed),
            Move::Release => Some(EventKind::Released),
            // A crash that the job survives is told by the Stalled event alone.
            _ => None,
        };
        if let Some(event) = event {
            self.events.job(event, record.id());
        }
        if verdict.state.is_terminal() {
            self.end(key, verdict.state, verdict.failure);
        } else {
            self.hints.work = true;
            let batch = self.step_back(key);
            self.queue.roster.change(key, |record| {
                record.batch = batch;
                record.state = verdict.state;
                record.slot = verdict.slot;
                record.due_at = verdict.due_at.unwrap_or(record.due_at);
                record.lease_until = None;
                record.lease_term = None;
            });
        }
        if let Some(lane) = active {
            self.released(&lane);
        }
        verdict.state
    }
}
