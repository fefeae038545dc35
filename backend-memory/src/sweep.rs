//! Sweep: what time alone has made due. Leases that ran out, Delayed jobs, and records that may go, within one budget.

use std::time::Duration;

use ferroq_core::clock::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{ErrorKind, JobState, Slot};
use ferroq_core::policy::enqueue::next_epoch;
use ferroq_core::policy::settle::{CRASH_MESSAGE, Standing, crash};
use ferroq_core::storage::SweepAnswer;

use crate::turn::Turn;

/// The states whose lines are ordered by an instant that a sweep waits for.
const TIMED: [JobState; 5] =
    [JobState::Active, JobState::Delayed, JobState::Completed, JobState::Failed, JobState::Cancelled];

impl Turn<'_> {
    /// Does what is due, up to `max_items` jobs in all.
    pub(crate) fn sweep(&mut self, max_items: usize) -> SweepAnswer {
        let failed = self.fail_members(max_items);
        let stalled = self.sweep_leases(max_items - failed);
        let promoted = self.promote_due(max_items - failed - stalled);
        let pruned = self.sweep_records(max_items - failed - stalled - promoted);
        self.queue.roster.usage.forget(self.now, max_items);
        let next = TIMED.iter().filter_map(|state| self.queue.roster.first_rank(*state)).min();
        let next = next.map(|at| Timestamp::from_micros(at).since(self.now));
        let next = if self.queue.batches.has_failing() { Some(Duration::ZERO) } else { next };
        let more = next.is_some_and(|wait| wait.is_zero());
        SweepAnswer { failed, stalled, promoted, pruned, more, next }
    }

    fn sweep_leases(&mut self, max_items: usize) -> usize {
        let now = self.now;
        let mut stalled = 0;
        while stalled < max_items
            && let Some(key) = self.queue.roster.first(JobState::Active, Slot::Lane, now.as_micros())
        {
            let record = self.queue.roster.get_mut(key);
            // The new epoch fences off the worker that is gone, or was only slow.
            record.epoch = next_epoch(record.epoch, now);
            record.notes.push_error(now, record.runs, ErrorKind::Crash, CRASH_MESSAGE);
            self.events.job(EventKind::Stalled, record.id());
            let verdict =
                crash(Standing::new(record.attempts, record.crashes, record.cancel_requested, &record.spec.options));
            self.apply(key, &verdict);
            self.place_heirs();
            stalled += 1;
        }
        stalled
    }

    fn sweep_records(&mut self, max_items: usize) -> usize {
        let mut pruned = 0;
        for state in [JobState::Completed, JobState::Failed, JobState::Cancelled] {
            while pruned < max_items
                && let Some(key) = self.queue.roster.first(state, Slot::Lane, self.now.as_micros())
            {
                self.remove(key);
                pruned += 1;
            }
        }
        pruned
    }
}
