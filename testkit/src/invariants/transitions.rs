//! Legal transitions only: from one snapshot to the next, every job is in a state to which the transition table leads
//! from the one before, by moves that the calls in between can have made.

use std::collections::{BTreeSet, HashMap};

use ferroq_core::job::{JobState, Move, transition};
use ferroq_core::storage::Act;

use super::{History, Lives, Step, told};
use crate::model::Call;

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut lives = Lives::default();
    let mut states = HashMap::new();
    let mut made: BTreeSet<&'static str> = BTreeSet::new();
    let mut moves: Vec<Move> = Vec::new();
    for (step, one) in history.steps.iter().enumerate() {
        match one {
            Step::Call { call, answer, repeat: false, .. } => {
                told(call, answer).iter().for_each(|told| lives.note(told));
                made.insert(call.name());
                moves.extend(moves_of(call));
            }
            Step::Seen(snapshot) => {
                let mut now = HashMap::new();
                for (queue, job) in snapshot.records() {
                    let key = lives.of(queue, job.id());
                    if let Some(before) = states.get(&key)
                        && !reachable(*before, &moves).contains(&job.state)
                    {
                        let what = format!("{} went from {before} to {}, by {made:?}", job.id(), job.state);
                        return Err((step, what));
                    }
                    now.insert(key, job.state);
                }
                states = now;
                moves.clear();
                made.clear();
            }
            _ => {}
        }
    }
    Ok(())
}

/// The moves that a call can make.
fn moves_of(call: &Call) -> Vec<Move> {
    match call {
        Call::Exchange(request) => {
            // A job that ends, or is found expired, may have another pending behind it.
            let mut moves = vec![Move::Unblock, Move::Due];
            if request.settlements.iter().any(|one| !one.follow_ups.is_empty()) {
                moves.push(Move::Reschedule);
            }
            if !request.settlements.is_empty() {
                let ends =
                    [Move::Complete, Move::Retry, Move::Snooze, Move::Release, Move::Fail, Move::Cancel, Move::Due];
                moves.extend(ends);
            }
            if request.claim.is_some() {
                moves.extend([Move::Due, Move::Claim, Move::Gather, Move::Fail]);
            }
            moves
        }
        // An enqueue under a held key may give the holder another time, or make it due.
        Call::Enqueue(_) => vec![Move::Reschedule, Move::Due],
        Call::Gather { .. } => vec![Move::Gather, Move::Fail, Move::Unblock, Move::Due],
        Call::Obliterate { .. } => vec![Move::Unblock, Move::Due],
        Call::Sweep(_) => vec![Move::Due, Move::Crash, Move::Fail, Move::Cancel, Move::Unblock],
        Call::Act { request, .. } => match request.act {
            Act::Cancel => vec![Move::Cancel, Move::Unblock, Move::Due],
            Act::Remove | Act::Redrive => vec![Move::Unblock, Move::Due],
            Act::Retry { .. } => vec![Move::RetryByOperator],
            Act::Promote => vec![Move::Promote],
            Act::Reschedule(_) => vec![Move::Reschedule, Move::Due],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The states to which these moves lead, in any number and order.
fn reachable(from: JobState, moves: &[Move]) -> BTreeSet<JobState> {
    let mut states = BTreeSet::from([from]);
    loop {
        let next: BTreeSet<JobState> = states
            .iter()
            .flat_map(|state| moves.iter().filter_map(|what| transition(*state, *what)))
            .chain(states.iter().copied())
            .collect();
        if next == states {
            return states;
        }
        states = next;
    }
}
