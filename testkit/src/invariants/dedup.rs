//! One holder per dedup key: no key is held twice, and of the jobs that hold a key for as long as they live (or are
//! kept) each has its hold, so no two of them share a key. A job that holds until it starts does not hold after. Behind a
//! holder at most one job is pending, and no job is Blocked for its key without being that one.

use std::collections::HashMap;

use ferroq_core::job::{JobId, JobState};
use ferroq_core::policy::dedup::DedupMode;

use super::History;

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    for (step, snapshot) in history.snapshots() {
        for (name, queue) in &snapshot.queues {
            let mut holders = HashMap::new();
            for entry in &queue.dedup {
                if holders.insert(&entry.key, entry.holder).is_some() {
                    return Err((step, format!("key {:?} of queue {name:?} is held twice", entry.key)));
                }
            }
            for job in &queue.jobs {
                let Some(dedup) = &job.spec.dedup else { continue };
                let holder = holders.get(&dedup.key).map(|holder| holder.id);
                let pending = holders.get(&dedup.key).and_then(|holder| holder.pending);
                let is_pending =
                    dedup.mode == DedupMode::KeepLatest && job.state == JobState::Blocked && job.batch.is_none();
                if is_pending != (pending == Some(job.id())) {
                    let what = format!("{} ({}) and pending behind {:?}: {pending:?}", job.id(), job.state, dedup.key);
                    return Err((step, what));
                }
                let must_hold = match dedup.mode {
                    DedupMode::UntilFinished => !job.state.is_terminal(),
                    DedupMode::KeepLatest => !job.state.is_terminal() && !is_pending,
                    DedupMode::WhileKept => true,
                    // An operator's retry of a job that never started does not take these again.
                    _ => false,
                };
                if must_hold && holder != Some(job.id()) {
                    let what = format!("{} ({}) should hold {:?}, held by {holder:?}", job.id(), job.state, dedup);
                    return Err((step, what));
                }
                let must_not_hold = match dedup.mode {
                    DedupMode::UntilFinished | DedupMode::KeepLatest => job.state.is_terminal(),
                    DedupMode::Debounce(_) | DedupMode::Coalesce { .. } => job.runs > 0 || job.state.is_terminal(),
                    _ => false,
                };
                if must_not_hold && holder == Some(job.id()) {
                    return Err((step, format!("{} ({}) still holds {:?}", job.id(), job.state, dedup.key)));
                }
            }
            for entry in queue.dedup.iter().filter(|entry| entry.holder.until.is_none()) {
                let exists = |id: JobId| queue.jobs.iter().any(|job| job.id() == id);
                if !exists(entry.holder.id) || !entry.holder.pending.is_none_or(exists) {
                    return Err((step, format!("{:?} is held for good by a job that is gone", entry.key)));
                }
            }
        }
    }
    Ok(())
}
