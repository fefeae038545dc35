//! One holder per dedup key: no key is held twice, and of the jobs that hold a key for as long as they live (or are
//! kept) each has its hold, so no two of them share a key.

use std::collections::HashMap;

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
                let must_hold = match dedup.mode {
                    DedupMode::UntilFinished => !job.state.is_terminal(),
                    DedupMode::WhileKept => true,
                    _ => false,
                };
                let holder = holders.get(&dedup.key).map(|holder| holder.id);
                if must_hold && holder != Some(job.id()) {
                    let what = format!("{} ({}) should hold {:?}, held by {holder:?}", job.id(), job.state, dedup);
                    return Err((step, what));
                }
                let must_not_hold = dedup.mode == DedupMode::UntilFinished && job.state.is_terminal();
                if must_not_hold && holder == Some(job.id()) {
                    return Err((step, format!("{} ended and still holds {:?}", job.id(), dedup.key)));
                }
            }
            for entry in queue.dedup.iter().filter(|entry| entry.holder.until.is_none()) {
                if !queue.jobs.iter().any(|job| job.id() == entry.holder.id) {
                    return Err((step, format!("{:?} is held for good by a job that is gone", entry.key)));
                }
            }
        }
    }
    Ok(())
}
