//! Epochs only rise: every claim of a job has a higher epoch than everything seen of that job before.

use std::collections::HashMap;

use super::{History, Lives, Step, Told, told};

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut lives = Lives::default();
    let mut last = HashMap::new();
    for (step, one) in history.steps.iter().enumerate() {
        match one {
            Step::Call { call, answer, repeat: false, .. } => {
                for told in told(call, answer) {
                    lives.note(&told);
                    if let Told::Claimed(claim) = told {
                        let key = lives.of(call.queue(), claim.lease.id);
                        let before = last.insert(key, claim.lease.epoch);
                        if before.is_some_and(|before| before >= claim.lease.epoch) {
                            let what = format!("{} is claimed at an epoch not above {before:?}", claim.lease.id);
                            return Err((step, format!("{what}: {}", claim.lease.epoch)));
                        }
                    }
                }
            }
            Step::Seen(snapshot) => {
                for (queue, job) in snapshot.records() {
                    let before = last.insert(lives.of(queue, job.id()), job.epoch);
                    if before.is_some_and(|before| before > job.epoch) {
                        return Err((step, format!("{} fell from epoch {before:?} to {}", job.id(), job.epoch)));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
