//! What time brings about, on the model: lost leases, due jobs, old records.

use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{ErrorKind, FailReason, JobId, JobRecord, JobState, Slot};
use ferroq_core::storage::{SweepAnswer, SweepRequest};

use super::Model;
use super::leave::Left;
use super::queue::{QueueModel, add_error, epoch_after};

impl Model {
    pub(super) fn sweep(&mut self, clock: Timestamp, request: &SweepRequest) -> SweepAnswer {
        let Some(queue) = self.queues.get_mut(&request.queue) else { return SweepAnswer::default() };
        queue.begin(clock);
        queue.attend();
        let failed = queue.fail_members(request.max_items);
        let mut room = request.max_items - failed;
        let lost = queue.lost_leases();
        let stalled = lost.len().min(room);
        lost.into_iter().take(room).for_each(|id| queue.lose_lease(id));
        room -= stalled;
        let promoted = queue.promote_due(room);
        room -= promoted;
        let old = queue.old_records();
        let pruned = old.len().min(room);
        old.into_iter().take(room).for_each(|id| queue.remove(id, Left::RemovedEnded));
        let next = if queue.has_doomed() { Some(queue.now) } else { queue.next_instant() };
        let more = next.is_some_and(|at| at <= queue.now);
        let answer = SweepAnswer { failed, stalled, promoted, pruned, more, next: next.map(|at| at.since(queue.now)) };
        queue.leave_attended();
        queue.prune_by_count();
        self.post(clock, &request.queue);
        answer
    }
}

impl QueueModel {
    fn lost_leases(&self) -> Vec<JobId> {
        let over =
            |job: &&JobRecord| job.state == JobState::Active && job.lease_until.is_some_and(|until| until <= self.now);
        let mut lost: Vec<&JobRecord> = self.jobs.iter().filter(over).collect();
        lost.sort_by_key(|job| (job.lease_until, job.seq));
        lost.iter().map(|job| job.spec.id).collect()
    }

    fn lose_lease(&mut self, id: JobId) {
        let now = self.now;
        let Some(job) = self.find(id) else { return };
        job.crashes += 1;
        job.epoch = epoch_after(job.epoch, now);
        add_error(job, now, ErrorKind::Crash, "the lease ran out: the worker's process died or hung");
        let (cancelled, out_of_crashes) = (job.cancel_requested, job.crashes >= job.spec.options.max_crashes);
        let lane = job.spec.lane.clone();
        self.log(EventKind::Stalled, id);
        if cancelled {
            self.end(id, JobState::Cancelled, None);
        } else if out_of_crashes {
            self.end(id, JobState::Failed, Some(FailReason::CrashesExhausted));
        } else {
            self.stand(id, None);
        }
        self.release(&lane);
        self.release_heirs();
    }

    fn old_records(&self) -> Vec<JobId> {
        let old = |job: &&JobRecord| job.state.is_terminal() && job.prune_at.is_some_and(|at| at <= self.now);
        let mut records: Vec<&JobRecord> = self.jobs.iter().filter(old).collect();
        records.sort_by_key(|job| (job.state, job.prune_at, job.seq));
        records.iter().map(|job| job.spec.id).collect()
    }

    /// The earliest instant at which a sweep has something to do.
    pub fn next_instant(&self) -> Option<Timestamp> {
        let instant = |job: &JobRecord| match job.state {
            JobState::Active => job.lease_until,
            JobState::Delayed => Some(job.due_at),
            state if state.is_terminal() => job.prune_at,
            _ => None,
        };
        self.jobs.iter().filter_map(instant).min()
    }

    /// The shortest term of a current lease.
    pub fn shortest_term(&self) -> Option<Duration> {
        self.jobs.iter().filter_map(|job| job.lease_term).min()
    }

    /// Whether a job stands in the solo line.
    pub fn has_solo(&self) -> bool {
        self.jobs.iter().any(|job| job.state == JobState::Waiting && job.slot == Slot::Solo)
    }
}
