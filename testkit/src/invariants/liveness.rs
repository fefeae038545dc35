//! Liveness: once workers with a handler for every kind have worked without faults for as long as there was anything
//! to do, no job is left that has not ended. Blocked jobs wait for others and are not counted.

use ferroq_core::job::JobState;

use super::{History, Step};

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let Some(drained) = history.steps.iter().position(|step| matches!(step, Step::Drained)) else { return Ok(()) };
    for (step, snapshot) in history.snapshots().filter(|(step, _)| *step > drained) {
        let left = snapshot.records().find(|(_, job)| !job.state.is_terminal() && job.state != JobState::Blocked);
        if let Some((queue, job)) = left {
            return Err((step, format!("{} of queue {queue:?} is still {} ({:?})", job.id(), job.state, job.slot)));
        }
    }
    Ok(())
}
