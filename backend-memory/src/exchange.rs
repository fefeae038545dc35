//! Exchange: settlements with their follow-ups, and then a claim, as one atomic unit. Follow-ups may go to other queues,
//! so this is the one call that can hold several locks: all at once and in the order of names, which keeps two such
//! calls from waiting for each other, and nothing of the call is visible in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobRecord, JobSpec, JobState, QueueName};
use ferroq_core::storage::{
    CallAnswer, ClaimSpec, EnqueueAnswer, ExchangeAnswer, ExchangeRequest, SettleAnswer, Settlement, StorageError,
};

use crate::MemoryStorage;
use crate::jobs::other_call;
use crate::queue::QueueState;
use crate::storage::{invalid, lock};
use crate::turn::{Hints, Turn};

/// The shortest lease that may be asked for.
const TERM_MIN: Duration = Duration::from_millis(1);

impl MemoryStorage {
    /// Settles and claims.
    pub(crate) fn exchange_now(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        if request.claim.as_ref().is_some_and(|claim| claim.max_items == 0 || claim.term < TERM_MIN) {
            return Err(invalid("a claim asks for at least one job and a lease of at least a millisecond"));
        }
        let foreign = request.settlements.iter().flat_map(|settlement| &settlement.follow_ups);
        let mut foreign: Vec<QueueName> =
            foreign.map(|spec| &spec.queue).filter(|name| **name != request.queue).cloned().collect();
        if foreign.is_empty() {
            let name = request.queue.clone();
            return self.write(&name, |home, clock| {
                let mut hints = Vec::new();
                let answer = exchange(home, BTreeMap::new(), clock, request, &mut hints)?;
                let home = hints.pop().map(|(_, hints)| hints).unwrap_or_default();
                Ok((answer, home))
            });
        }
        self.check_open()?;
        foreign.push(request.queue.clone());
        foreign.sort();
        foreign.dedup();
        let queues: Vec<_> = foreign.into_iter().map(|name| (self.state_of(&name), name)).collect();
        let mut hints = Vec::new();
        let answer = {
            let mut locked: Vec<_> = queues.iter().map(|(queue, name)| (name, lock(queue))).collect();
            let clock = self.store.clock.now();
            let mut states: BTreeMap<&QueueName, &mut QueueState> =
                locked.iter_mut().map(|(name, state)| (*name, &mut **state)).collect();
            match states.remove(&request.queue) {
                Some(home) => exchange(home, states, clock, request, &mut hints)?,
                None => unreachable!("the queue itself is among those that were locked"),
            }
        };
        for (name, hints) in hints {
            self.hint(&name, hints);
        }
        Ok(answer)
    }
}

/// The call itself, on the queue and those of its follow-ups. Hints come in the order of turns, the queue's own last.
fn exchange(
    home: &mut QueueState,
    foreign: BTreeMap<&QueueName, &mut QueueState>,
    clock: Timestamp,
    request: ExchangeRequest,
    hints: &mut Vec<(QueueName, Hints)>,
) -> Result<ExchangeAnswer, StorageError> {
    let ExchangeRequest { call, queue: name, settlements, claim } = request;
    match home.answers.recall(call) {
        Some(CallAnswer::Exchange(kept)) => return Ok(still_current(kept.clone(), home)),
        Some(_) => return Err(other_call()),
        None => {}
    }
    let answer = if home.exists {
        let mut turns = Turns { home: Turn::begin(home, clock), idle: foreign, foreign: BTreeMap::new(), clock };
        turns.home.attend();
        let settled = settlements.into_iter().map(|settlement| turns.settle(settlement)).collect();
        let claimed = claim.map(|claim: ClaimSpec| turns.home.claim(&claim));
        hints.extend(turns.foreign.into_iter().map(|(name, turn)| (name.clone(), turn.finish())));
        hints.push((name, turns.home.finish()));
        ExchangeAnswer { settled, claimed }
    } else {
        let settled = vec![SettleAnswer::Gone; settlements.len()];
        ExchangeAnswer { settled, claimed: claim.map(|_| Default::default()) }
    };
    let now = home.last.unwrap_or(clock);
    home.answers.keep(call, now, || CallAnswer::Exchange(answer.clone()));
    Ok(answer)
}

/// A kept answer, handed out again: of its claims those whose lease is still current, with their present checkpoints.
fn still_current(mut answer: ExchangeAnswer, queue: &QueueState) -> ExchangeAnswer {
    if let Some(claimed) = &mut answer.claimed {
        claimed.claims.retain_mut(|claim| {
            let record = queue.roster.key(claim.lease.id).map(|key| queue.roster.get(key));
            let is_current =
                |record: &&JobRecord| record.state == JobState::Active && record.epoch == claim.lease.epoch;
            let Some(record) = record.filter(is_current) else { return false };
            claim.checkpoint = record.notes.checkpoint.clone();
            true
        });
    }
    answer
}

/// The turns of one exchange: its own queue's, and one on each queue that a follow-up was put on.
struct Turns<'q, 'n> {
    home: Turn<'q>,
    /// Locked, and untouched so far: a queue takes part only once a follow-up comes to it.
    idle: BTreeMap<&'n QueueName, &'q mut QueueState>,
    foreign: BTreeMap<&'n QueueName, Turn<'q>>,
    clock: Timestamp,
}

impl Turns<'_, '_> {
    fn settle(&mut self, settlement: Settlement) -> SettleAnswer {
        let mut answer = self.home.settle(settlement.lease, settlement.outcome);
        if let SettleAnswer::Settled { follow_ups, .. } = &mut answer {
            follow_ups.extend(settlement.follow_ups.into_iter().map(|spec| self.follow_up(spec)));
        }
        answer
    }

    fn follow_up(&mut self, spec: Arc<JobSpec>) -> EnqueueAnswer {
        if let Some((name, queue)) = self.idle.remove_entry(&spec.queue) {
            self.foreign.insert(name, Turn::begin(queue, self.clock));
        }
        // What is neither idle nor foreign is the queue itself: every other queue was locked beforehand.
        self.foreign.get_mut(&spec.queue).unwrap_or(&mut self.home).enqueue(spec)
    }
}
