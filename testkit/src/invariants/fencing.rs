//! No write under an old epoch: once a job was seen at a higher epoch (claimed again, or its lease lost), a lease of a
//! lower one neither settles nor renews nor writes a note.

use std::collections::HashMap;

use ferroq_core::job::QueueName;
use ferroq_core::storage::{Lease, NoteAnswer, RenewAnswer, SettleAnswer};

use super::{History, Lives, Step, Told, told};
use crate::model::{Answer, Call};

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut lives = Lives::default();
    // Epochs of a job's present life only: ids that were enqueued anew are another job.
    let mut highest: HashMap<_, i64> = HashMap::new();
    for (step, one) in history.steps.iter().enumerate() {
        match one {
            Step::Call { call, answer, repeat: false, .. } => {
                for (lease, verb) in written(call, answer) {
                    let old = highest.get(&lives.of(call.queue(), lease.id)).is_some_and(|high| lease.epoch < *high);
                    if old {
                        return Err((step, format!("{lease:?} is stale and {verb}")));
                    }
                }
                for told in told(call, answer) {
                    lives.note(&told);
                    if let Told::Claimed(claim) = told {
                        raise(&mut highest, &lives, call.queue(), claim.lease);
                    }
                }
            }
            Step::Seen(snapshot) => {
                for (queue, job) in snapshot.records() {
                    raise(&mut highest, &lives, queue, job.lease());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

type Highest = HashMap<(QueueName, ferroq_core::JobId, usize), i64>;

fn raise(highest: &mut Highest, lives: &Lives, queue: &QueueName, lease: Lease) {
    let entry = highest.entry(lives.of(queue, lease.id)).or_insert(lease.epoch);
    *entry = (*entry).max(lease.epoch);
}

/// The leases under which a call wrote, and what it did.
fn written(call: &Call, answer: &Answer) -> Vec<(Lease, &'static str)> {
    match (call, answer) {
        (Call::Exchange(request), Answer::Exchange(answer)) => {
            let pairs = request.settlements.iter().zip(&answer.settled);
            pairs
                .filter(|(_, answer)| matches!(answer, SettleAnswer::Settled { .. }))
                .map(|(one, _)| (one.lease, "settled"))
                .collect()
        }
        (Call::Renew(request), Answer::Renew(answers)) => {
            let pairs = request.leases.iter().zip(answers);
            pairs
                .filter(|(_, answer)| matches!(answer, RenewAnswer::Renewed { .. }))
                .map(|(lease, _)| (*lease, "was renewed"))
                .collect()
        }
        (Call::Annotate { notes, .. }, Answer::Annotate(answers)) => {
            let pairs = notes.iter().zip(answers);
            pairs.filter(|(_, answer)| **answer == NoteAnswer::Noted).map(|((lease, _), _)| (*lease, "wrote")).collect()
        }
        _ => Vec::new(),
    }
}
