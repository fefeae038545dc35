//! What becomes of a job that failed for good where its queue has a dead-letter queue: a copy of it is enqueued there,
//! and a redrive turns the copy into a new job on the queue that it came from.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::job::{FailReason, JobId, JobSpec, Origin, Priority, QueueName, Start};

/// Whether a job that failed for this reason is copied. What can't be read can't be carried: a quarantined job stays
/// on its queue, Failed, and there is no copy.
pub fn is_copied(reason: FailReason) -> bool {
    reason != FailReason::Quarantined
}

/// The copy of a job that failed under `epoch`, for the dead-letter queue `to`.
///
/// It has the job's kind, payload, present priority, lane and options, and neither its dedup key, nor a start, nor an
/// expiry: it is to lie there until somebody looks at it.
pub fn copy(spec: &JobSpec, priority: Priority, epoch: i64, to: QueueName, origin: Origin) -> JobSpec {
    let id = derived_id(spec.id, epoch.saturating_add(1), origin.failed_at);
    JobSpec { id, queue: to, origin: Some(Arc::new(origin)), ..plain(spec, priority) }
}

/// The job that a redrive at `now` makes of a copy, with full budgets; `None` if this is no copy, or is at home already.
pub fn redriven(spec: &JobSpec, priority: Priority, epoch: i64, now: Timestamp) -> Option<JobSpec> {
    let home = &spec.origin.as_ref()?.queue;
    if *home == spec.queue {
        return None;
    }
    let id = derived_id(spec.id, epoch.saturating_add(2), now);
    Some(JobSpec { id, queue: home.clone(), ..plain(spec, priority) })
}

/// The job without what belongs to one enqueue of it only.
fn plain(spec: &JobSpec, priority: Priority) -> JobSpec {
    let mut copy = JobSpec { priority, lifo: false, start: Start::Now, dedup: None, ..spec.clone() };
    if copy.options.expires_in.is_some() {
        Arc::make_mut(&mut copy.options).expires_in = None;
    }
    copy
}

/// The id of the job that comes of `id` at the instant `at`: the same however often it is computed, and another one for
/// each failure of a job, since each has an epoch or an instant of its own. The number is one more than the epoch for a
/// copy and two more for what is redriven, so that neither has the id of the job that it comes from, nor what was
/// redriven that of the job that failed, even if all of it happens at one instant.
///
/// It is a UUIDv7 again, so that ids of copies are ordered by time like all others: the first six bytes are the
/// milliseconds of `at`, what is below a millisecond is added (exclusive or) to the twelve bits behind the version, and the
/// number to the last eight bytes.
fn derived_id(id: JobId, number: i64, at: Timestamp) -> JobId {
    let micros = at.as_micros().max(0).unsigned_abs();
    let millis = (micros / 1000).to_be_bytes();
    let mut bytes = *id.as_bytes();
    bytes[..6].copy_from_slice(&millis[2..]);
    let fraction = (micros % 1000).to_be_bytes();
    let number = number.to_be_bytes();
    for (byte, other) in bytes[6..].iter_mut().zip(fraction[6..].iter().chain(&number)) {
        *byte ^= other;
    }
    JobId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_failure_of_a_job_has_an_id_of_its_own() {
        let id = JobId::new();
        let mut ids = HashSet::from([id]);
        for number in [1, 2, 3, 1_767_225_600_000_000] {
            for micros in [0, 1, 255, 256, 999, 1000, 1001, 1_767_225_600_000_000] {
                assert!(ids.insert(derived_id(id, number, Timestamp::from_micros(micros))), "{number} {micros}");
            }
        }
    }

    #[test]
    fn a_derived_id_is_a_uuid_of_its_time() {
        let at = Timestamp::from_micros(1_767_225_600_123_456);
        let uuid = uuid::Uuid::from(derived_id(JobId::new(), at.as_micros(), at));
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_timestamp().map(|time| time.to_unix().0), Some(1_767_225_600));
        let later = derived_id(JobId::new(), 5, Timestamp::from_micros(at.as_micros() + 1000));
        assert!(JobId::from(uuid) < later);
    }
}
