//! Counts equal rows: what a queue's counts say is what counting its records gives.

use std::collections::BTreeMap;

use ferroq_core::job::{JobState, Slot};

use super::History;

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    for (step, snapshot) in history.snapshots() {
        for (name, queue) in &snapshot.queues {
            for state in JobState::ALL {
                let rows = queue.jobs.iter().filter(|job| job.state == state).count() as u64;
                let count = queue.counts.of(state);
                if rows != count {
                    return Err((step, format!("queue {name:?} counts {count} {state} and has {rows}")));
                }
            }
            let mut rows = BTreeMap::new();
            for job in queue.jobs.iter().filter(|job| job.state == JobState::Waiting && job.slot == Slot::Shelf) {
                *rows.entry(job.spec.kind.clone()).or_insert(0u64) += 1;
            }
            let counted: BTreeMap<_, _> =
                queue.counts.shelved.iter().filter(|(_, count)| *count > 0).cloned().collect();
            if rows != counted {
                return Err((step, format!("queue {name:?} counts {counted:?} as shelved and has {rows:?}")));
            }
            if queue.counts.paused != queue.config.paused {
                return Err((step, format!("queue {name:?} counts say paused {}", queue.counts.paused)));
            }
        }
    }
    Ok(())
}
