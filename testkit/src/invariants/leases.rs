//! One current lease per job: a job is handed out again only after the lease before was settled, lost or removed with
//! its job.

use std::collections::HashMap;

use ferroq_core::storage::SettleAnswer;

use super::{History, Lives, Told, told};
use crate::model::{Answer, Call};

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut lives = Lives::default();
    let mut held = HashMap::new();
    for (step, call, answer) in history.calls() {
        for told in told(call, answer) {
            lives.note(&told);
            match told {
                Told::Settled(settlement, SettleAnswer::Settled { .. }) => {
                    held.remove(&lives.of(call.queue(), settlement.lease.id));
                }
                Told::Claimed(claim) => {
                    let before = held.insert(lives.of(call.queue(), claim.lease.id), claim.lease);
                    if let Some(before) = before {
                        return Err((step, format!("{:?} is handed out while {before:?} is current", claim.lease)));
                    }
                }
                _ => {}
            }
        }
        match (call, answer) {
            // The answer does not name the leases that were lost; any of the queue's may have been.
            (Call::Sweep(request), Answer::Sweep(answer)) if answer.stalled > 0 => {
                held.retain(|(queue, ..), _| *queue != request.queue);
            }
            (Call::Obliterate { queue, .. }, _) => held.retain(|(name, ..), _| name != queue),
            _ => {}
        }
    }
    Ok(())
}
