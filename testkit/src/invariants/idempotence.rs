//! Settle is idempotent: a lease is settled once, whatever comes after; and a call repeated under its own id answers
//! as before (of the claims, those still current, with their present checkpoints).

use std::collections::{HashMap, HashSet};

use ferroq_core::storage::{Claim, ExchangeAnswer, SettleAnswer};

use super::{History, Lives, Step, Told, told};
use crate::model::Answer;

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut lives = Lives::default();
    let mut settled = HashSet::new();
    let mut answered: HashMap<_, &Answer> = HashMap::new();
    for (step, one) in history.steps.iter().enumerate() {
        let Step::Call { call, answer, repeat, .. } = one else { continue };
        if let Some(id) = call.id() {
            let key = (id.session, id.number);
            match answered.get(&key) {
                Some(before) if !same(before, answer) => {
                    return Err((step, format!("a repeat answers {answer:?}, and the call answered {before:?}")));
                }
                Some(_) => {}
                None => {
                    answered.insert(key, answer);
                }
            }
        }
        if *repeat {
            continue;
        }
        for told in told(call, answer) {
            if let Told::Settled(settlement, SettleAnswer::Settled { .. }) = told
                && !settled.insert((lives.of(call.queue(), settlement.lease.id), settlement.lease.epoch))
            {
                return Err((step, format!("{:?} was settled twice", settlement.lease)));
            }
            lives.note(&told);
        }
    }
    Ok(())
}

/// Whether a repeated call's answer is the one given before, but for claims that are no longer current.
fn same(before: &Answer, again: &Answer) -> bool {
    match (before, again) {
        (Answer::Exchange(a), Answer::Exchange(b)) => {
            // A run may have saved a checkpoint since; the model knows which one a repeat has to show.
            let claims = |answer: &ExchangeAnswer| {
                let claims = answer.claimed.as_ref().map(|claimed| claimed.claims.clone()).unwrap_or_default();
                claims.into_iter().map(|claim| Claim { checkpoint: None, ..claim }).collect::<Vec<_>>()
            };
            let given = claims(a);
            a.settled == b.settled && claims(b).iter().all(|claim| given.contains(claim))
        }
        (a, b) => a == b,
    }
}
