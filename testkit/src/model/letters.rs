//! Dead letters, on the model: the copy of a job that failed for good, and the job that a redrive makes of it.

use std::sync::Arc;

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{FailReason, JobId, JobRecord, JobSpec, JobState, Origin, QueueName, Start};
use ferroq_core::storage::ActAnswer;

use super::Model;
use super::leave::Left;
use super::queue::QueueModel;

/// The copy of a job that has just ended as Failed.
pub(super) fn copy_of(job: &JobRecord, to: QueueName) -> Arc<JobSpec> {
    let failed_at = job.finished_at.unwrap_or_default();
    let mut copy = bare(job);
    copy.id = id_from(job, 1, failed_at);
    copy.queue = to;
    copy.origin = Some(Arc::new(Origin {
        queue: job.spec.queue.clone(),
        id: job.spec.id,
        reason: job.failure.unwrap_or(FailReason::Aborted),
        failed_at,
        attempts: job.attempts,
        crashes: job.crashes,
        errors: job.notes.errors.clone(),
    }));
    Arc::new(copy)
}

/// What a copy and a redriven job have of the job that they come from.
fn bare(job: &JobRecord) -> JobSpec {
    let mut bare = JobSpec::clone(&job.spec);
    bare.priority = job.priority;
    bare.lifo = false;
    bare.start = Start::Now;
    bare.dedup = None;
    Arc::make_mut(&mut bare.options).expires_in = None;
    bare
}

fn id_from(job: &JobRecord, more: i64, at: Timestamp) -> JobId {
    let mut bytes = *job.spec.id.as_bytes();
    let (millis, rest) = (at.as_micros() / 1000, at.as_micros() % 1000);
    let eight = |number: i64| (0..8).map(move |place| (number >> (56 - 8 * place)) as u8);
    for (byte, new) in bytes.iter_mut().zip(eight(millis).skip(2)) {
        *byte = new;
    }
    let mixed = eight(rest).skip(6).chain(eight(job.epoch + more));
    for (byte, more) in bytes.iter_mut().skip(6).zip(mixed) {
        *byte ^= more;
    }
    JobId::from_bytes(bytes)
}

impl QueueModel {
    pub(super) fn redrive(&mut self, id: JobId, state: JobState) -> ActAnswer {
        let now = self.now;
        let Some(job) = self.job(id) else { return ActAnswer::NotFound };
        let home = job.spec.origin.as_ref().map(|origin| origin.queue.clone());
        let Some(home) = home.filter(|home| state != JobState::Active && *home != job.spec.queue) else {
            return ActAnswer::Refused(state);
        };
        let mut again = bare(job);
        again.id = id_from(job, 2, now);
        again.queue = home;
        self.letters.push(Arc::new(again));
        self.log(EventKind::Removed, id);
        self.remove(id, if state.is_terminal() { Left::RemovedEnded } else { Left::RemovedLive });
        ActAnswer::Done(state)
    }
}

impl Model {
    /// Enqueues what a call on this queue has had for others so far.
    pub(super) fn post(&mut self, clock: Timestamp, from: &QueueName) {
        let letters = self.queues.get_mut(from).map(|queue| std::mem::take(&mut queue.letters));
        for letter in letters.unwrap_or_default() {
            self.enqueue(clock, &letter.queue, std::slice::from_ref(&letter));
        }
    }
}
