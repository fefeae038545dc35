//! Mutants that get wrong what must happen exactly once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ferroq_core::job::{JobId, JobSpec};
use ferroq_core::storage::{
    AcquireAnswer, AcquireRequest, ActReport, ActRequest, EnqueueAnswer, EnqueueRequest, ExchangeAnswer,
    ExchangeRequest, SettleAnswer, Storage,
};
use uuid::Uuid;

use super::wrap::{Answer, Twist};

/// Keeps no answers.
#[derive(Default)]
pub(super) struct Forgetful;

#[async_trait]
impl Twist for Forgetful {
    async fn enqueue(&self, to: &dyn Storage, request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        to.enqueue(EnqueueRequest { call: None, ..request }).await
    }

    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        to.exchange(ExchangeRequest { call: None, ..request }).await
    }

    async fn act(&self, to: &dyn Storage, request: ActRequest) -> Answer<ActReport> {
        to.act(ActRequest { call: None, ..request }).await
    }
}

/// Takes permits again when an acquire is repeated.
#[derive(Default)]
pub(super) struct PermitsTwice;

#[async_trait]
impl Twist for PermitsTwice {
    async fn acquire(&self, to: &dyn Storage, request: AcquireRequest) -> Answer<AcquireAnswer> {
        to.acquire(AcquireRequest { call: None, ..request }).await
    }
}

/// Enqueues a settlement's follow-ups again when it is repeated, under ids of its own.
#[derive(Default)]
pub(super) struct FollowUpsDoubled {
    calls: Mutex<HashSet<(Uuid, u64)>>,
}

#[async_trait]
impl Twist for FollowUpsDoubled {
    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        let settlements = request.settlements.clone();
        let repeated = request.call.is_some_and(|call| {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            !calls.insert((call.session, call.number))
        });
        let answer = to.exchange(request).await?;
        for (settlement, answer) in settlements.into_iter().zip(&answer.settled) {
            let settled = matches!(answer, SettleAnswer::Settled { .. });
            if settled && !repeated || matches!(answer, SettleAnswer::LeaseLost | SettleAnswer::Gone) {
                continue;
            }
            for spec in settlement.follow_ups {
                let again = JobSpec { id: JobId::new(), dedup: None, ..JobSpec::clone(&spec) };
                let queue = again.queue.clone();
                to.enqueue(EnqueueRequest { call: None, queue, jobs: vec![Arc::new(again)] }).await?;
            }
        }
        Ok(answer)
    }
}

/// Answers that follow-ups were inserted, and inserts none.
#[derive(Default)]
pub(super) struct FollowUpsDropped;

#[async_trait]
impl Twist for FollowUpsDropped {
    async fn exchange(&self, to: &dyn Storage, mut request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        let settlements = request.settlements.iter_mut();
        let dropped: Vec<_> = settlements.map(|settlement| std::mem::take(&mut settlement.follow_ups).len()).collect();
        let mut answer = to.exchange(request).await?;
        for (answer, dropped) in answer.settled.iter_mut().zip(dropped) {
            if let SettleAnswer::Settled { follow_ups, .. } = answer {
                *follow_ups = vec![EnqueueAnswer::Inserted; dropped];
            }
        }
        Ok(answer)
    }
}
