//! Exchange: settlements with their follow-ups, and then a claim, as one atomic unit. Follow-ups and dead letters may go
//! to other queues; see [`crate::across`].

use std::time::Duration;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobRecord, JobState, QueueName};
use ferroq_core::storage::{
    CallAnswer, ClaimSpec, ExchangeAnswer, ExchangeRequest, SettleAnswer, Settlement, StorageError,
};

use crate::MemoryStorage;
use crate::across::{Across, Turns};
use crate::jobs::other_call;
use crate::queue::QueueState;
use crate::storage::invalid;

/// The shortest lease that may be asked for.
const TERM_MIN: Duration = Duration::from_millis(1);

impl MemoryStorage {
    /// Settles and claims.
    pub(crate) fn exchange_now(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        if request.claim.as_ref().is_some_and(|claim| claim.max_items == 0 || claim.term < TERM_MIN) {
            return Err(invalid("a claim asks for at least one job and a lease of at least a millisecond"));
        }
        let name = request.queue.clone();
        let follow_ups = request.settlements.iter().flat_map(|settlement| &settlement.follow_ups);
        let foreign: Vec<QueueName> =
            follow_ups.map(|spec| spec.queue.clone()).filter(|other| *other != name).collect();
        let others = |queue: &QueueState, _| foreign.iter().chain(&queue.config.dead_letter).cloned().collect();
        self.write_across(&name, others, |across, clock| exchange(across, clock, request))
    }
}

/// The call itself.
fn exchange(
    across: &mut Across<'_>,
    clock: Timestamp,
    request: ExchangeRequest,
) -> Result<ExchangeAnswer, StorageError> {
    let ExchangeRequest { call, settlements, claim, .. } = request;
    match across.home.answers.recall(call) {
        Some(CallAnswer::Exchange(kept)) => return Ok(still_current(kept.clone(), across.home)),
        Some(_) => return Err(other_call()),
        None => {}
    }
    let answer = if across.home.exists {
        across.turn(clock, |turns| {
            turns.home.attend();
            let settled = settlements.into_iter().map(|settlement| turns.settle(settlement)).collect();
            let claimed = claim.map(|claim: ClaimSpec| turns.home.claim(&claim));
            ExchangeAnswer { settled, claimed }
        })
    } else {
        let settled = vec![SettleAnswer::Gone; settlements.len()];
        ExchangeAnswer { settled, claimed: claim.map(|_| Default::default()) }
    };
    let home = &mut *across.home;
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

impl Turns<'_, '_> {
    fn settle(&mut self, settlement: Settlement) -> SettleAnswer {
        let mut answer = self.home.settle(settlement.lease, settlement.outcome);
        if let SettleAnswer::Settled { follow_ups, .. } = &mut answer {
            self.post();
            follow_ups.extend(settlement.follow_ups.into_iter().map(|spec| self.enqueue(spec)));
        }
        answer
    }
}
