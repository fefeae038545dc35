//! How a job leaves a state in the model: back in line or to its end, what becomes of its record and of its dedup key,
//! and what a full house of ended records lets go.

use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{FailReason, JobId, JobRecord, JobState, Slot, Start};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::policy::retention::{KeepFor, KeepRule};

use super::letters::copy_of;
use super::queue::{QueueModel, line_of};

/// For how long a record with a waiter stays.
const WAITED_ON: Duration = Duration::from_secs(60);

/// How a job left, as far as its dedup key is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    ForWork,
    ByItself,
    Cancelled,
    RemovedLive,
    RemovedEnded,
}

/// The instant at which a job may start.
pub(super) fn due(start: Start, now: Timestamp) -> Timestamp {
    match start {
        Start::Now => now,
        Start::After(delay) => now.after(delay),
        Start::At(at) => at.max(now),
    }
}

impl QueueModel {
    /// Puts a job in line, or lets it wait for its time.
    pub(super) fn stand(&mut self, id: JobId, due_at: Option<Timestamp>) -> JobState {
        self.steps_back(id);
        let now = self.now;
        let Some(job) = self.find(id) else { return JobState::Waiting };
        job.lease_until = None;
        job.lease_term = None;
        let delayed = due_at.is_some_and(|at| at > now);
        if let Some(at) = due_at {
            job.due_at = at;
        }
        job.state = if delayed { JobState::Delayed } else { JobState::Waiting };
        job.slot = if delayed { Slot::Lane } else { line_of(job.crashes, &job.spec) };
        let state = job.state;
        self.see_lanes();
        state
    }

    /// Ends a job: its record is kept for as long as somebody wants it, or goes at once.
    pub(super) fn end(&mut self, id: JobId, state: JobState, failure: Option<FailReason>) -> JobState {
        self.leaves_batch(id, failure);
        let now = self.now;
        let retention = self.config.retention;
        let Some(job) = self.find(id) else { return state };
        let (own, rule, event) = match state {
            JobState::Completed => (job.spec.options.keep.completed, retention.completed, EventKind::Completed),
            JobState::Cancelled => (job.spec.options.keep.cancelled, retention.cancelled, EventKind::Cancelled),
            _ => (job.spec.options.keep.failed, retention.failed, EventKind::Failed),
        };
        let mut age = match own {
            KeepFor::Remove => Duration::ZERO,
            KeepFor::Age(age) => age,
            KeepFor::QueueDefault if rule.count == 0 => Duration::ZERO,
            KeepFor::QueueDefault => rule.age,
        };
        if job.waited_on && age < WAITED_ON {
            age = WAITED_ON;
        }
        job.state = state;
        job.slot = Slot::Lane;
        job.batch = None;
        job.lease_until = None;
        job.lease_term = None;
        job.finished_at = Some(now);
        job.failure = failure;
        job.prune_at = Some(now.after(age));
        let dead = self.config.dead_letter.clone();
        if let (Some(job), Some(dead), JobState::Failed) = (self.job(id), dead, state) {
            let copy = copy_of(job, dead);
            self.letters.push(copy);
        }
        self.log(event, id);
        self.let_go(id, if state == JobState::Cancelled { Left::Cancelled } else { Left::ByItself });
        self.see_lanes();
        if age == Duration::ZERO {
            self.remove(id, Left::RemovedEnded);
        } else {
            self.ended.push(id);
        }
        state
    }

    /// Removes a record, and frees its key if this way out does.
    pub(super) fn remove(&mut self, id: JobId, left: Left) {
        self.leaves_batch(id, None);
        self.let_go(id, left);
        self.jobs.retain(|job| job.spec.id != id);
        self.see_lanes();
    }

    /// Frees a job's key, if it still holds it and this way out frees it.
    pub(super) fn let_go(&mut self, id: JobId, left: Left) {
        let Some(dedup) = self.job(id).and_then(|job| job.spec.dedup.clone()) else { return };
        let frees = match dedup.mode {
            DedupMode::For(_) => left == Left::Cancelled || left == Left::RemovedLive,
            DedupMode::WhileKept => left == Left::RemovedLive || left == Left::RemovedEnded,
            DedupMode::Debounce(_) | DedupMode::Coalesce { .. } => true,
            _ => left != Left::ForWork,
        };
        if !frees {
            return;
        }
        for entry in self.dedup.iter_mut().filter(|entry| entry.key == dedup.key) {
            if entry.holder.pending == Some(id) {
                entry.holder.pending = None;
            }
            if entry.holder.id == id
                && let Some(next) = entry.holder.pending.take()
            {
                entry.holder.id = next;
                self.heirs.push(next);
            }
        }
        self.dedup.retain(|entry| entry.key != dedup.key || entry.holder.id != id);
    }

    /// Pending jobs whose key came free go where their time says.
    pub(super) fn release_heirs(&mut self) {
        for id in std::mem::take(&mut self.heirs) {
            if let Some(due_at) = self.job(id).filter(|job| job.state == JobState::Blocked).map(|job| job.due_at) {
                self.stand(id, Some(due_at));
                self.log(EventKind::Promoted, id);
            }
        }
        self.pass_on();
    }

    /// Ends a writing call: where it added records beyond a state's count, up to twice as many go.
    pub(super) fn prune_by_count(&mut self) {
        let retention = self.config.retention;
        let rules: [(JobState, KeepRule); 3] = [
            (JobState::Completed, retention.completed),
            (JobState::Failed, retention.failed),
            (JobState::Cancelled, retention.cancelled),
        ];
        let ended = std::mem::take(&mut self.ended);
        for (state, rule) in rules {
            let added = ended.iter().filter(|id| self.job(**id).is_some_and(|job| job.state == state)).count() as u64;
            let mut kept: Vec<&JobRecord> = self.jobs.iter().filter(|job| job.state == state).collect();
            let beyond = (kept.len() as u64).saturating_sub(rule.count).min(2 * added) as usize;
            kept.sort_by_key(|job| (job.prune_at, job.seq));
            kept.retain(|job| !(job.waited_on && job.finished_at.is_some_and(|at| self.now.since(at) < WAITED_ON)));
            let go: Vec<JobId> = kept.iter().take(beyond).map(|job| job.spec.id).collect();
            for id in go {
                self.remove(id, Left::RemovedEnded);
            }
        }
    }
}
