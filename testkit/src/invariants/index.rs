//! Each job is in exactly the index that its state names: listing a state gives the dump's records of that state in the
//! same order, each record once; and a record has the fields that its state calls for, and no others.

use std::collections::HashSet;

use ferroq_core::job::{JobRecord, JobState, Slot};

use super::History;

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    for (step, snapshot) in history.snapshots() {
        for (name, queue) in &snapshot.queues {
            let mut ids = HashSet::new();
            for job in &queue.jobs {
                if !ids.insert(job.id()) {
                    return Err((step, format!("{} is in the dump of queue {name:?} twice", job.id())));
                }
                if let Some(wrong) = misfit(job) {
                    return Err((step, format!("{} is {} and {wrong}", job.id(), job.state)));
                }
                if job.spec.queue != *name {
                    return Err((step, format!("{} of queue {:?} is in {name:?}", job.id(), job.spec.queue)));
                }
            }
            for (state, listed) in &queue.lists {
                let dumped: Vec<_> = queue.jobs.iter().filter(|job| job.state == *state).map(JobRecord::id).collect();
                if *listed != dumped {
                    let what = format!("queue {name:?} lists {listed:?} as {state}, and its dump has {dumped:?}");
                    return Err((step, what));
                }
            }
        }
    }
    Ok(())
}

/// What a record should not have, or lacks, given its state.
fn misfit(job: &JobRecord) -> Option<&'static str> {
    let active = job.state == JobState::Active;
    if job.lease_until.is_some() != active || job.lease_term.is_some() != active {
        return Some("its lease does not fit that");
    }
    if job.finished_at.is_some() != job.state.is_terminal() || job.prune_at.is_some() != job.state.is_terminal() {
        return Some("its end does not fit that");
    }
    if job.failure.is_some() != (job.state == JobState::Failed) {
        return Some("its reason to be Failed does not fit that");
    }
    if job.slot != Slot::Lane && job.state != JobState::Waiting {
        return Some("stands in a line");
    }
    if active && job.worker.is_none() {
        return Some("nobody holds it");
    }
    None
}
