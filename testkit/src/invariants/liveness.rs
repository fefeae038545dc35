//! Liveness: once workers with a handler for every kind have worked without faults for as long as there was anything
//! to do, no job is left that has not ended. Blocked jobs wait for others and are not counted, but for those that are
//! pending behind the holder of their dedup key, and members of batches: there is none any more.

use ferroq_core::job::{JobRecord, JobState};

use super::{History, Step};

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let Some(drained) = history.steps.iter().position(|step| matches!(step, Step::Drained)) else { return Ok(()) };
    for (step, snapshot) in history.snapshots().filter(|(step, _)| *step > drained) {
        let may_wait =
            |job: &JobRecord| job.state == JobState::Blocked && job.spec.dedup.is_none() && job.batch.is_none();
        let left = snapshot.records().find(|(_, job)| !job.state.is_terminal() && !may_wait(job));
        if let Some((queue, job)) = left {
            return Err((step, format!("{} of queue {queue:?} is still {} ({:?})", job.id(), job.state, job.slot)));
        }
    }
    Ok(())
}
