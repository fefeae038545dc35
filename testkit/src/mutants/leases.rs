//! Mutants that get the right to a job wrong: who holds it, for how long, and since when.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ferroq_core::job::{JobId, JobRecord, JobState, QueueName};
use ferroq_core::storage::{
    Claim, ExchangeAnswer, ExchangeRequest, JobFilter, Lease, ListRequest, RenewRequest, Storage,
};

use super::wrap::{Answer, Twist};

/// The job's current lease, whatever lease was shown; none if it is not Active.
async fn current(to: &dyn Storage, queue: &QueueName, lease: Lease) -> Answer<Lease> {
    let record = to.job(Some(queue), lease.id).await?;
    let active = record.filter(|record| record.state == JobState::Active);
    Ok(active.map_or(lease, |record| record.lease()))
}

/// All jobs that run, of as many as a test has.
async fn active(to: &dyn Storage, queue: &QueueName) -> Answer<Vec<JobRecord>> {
    let filter = JobFilter::states([JobState::Active]);
    let request = ListRequest { queue: queue.clone(), filter, after: None, max_items: 10_000 };
    Ok(to.list(request).await?.jobs)
}

/// Looks at the job's id and not at the epoch.
#[derive(Default)]
pub(super) struct StaleAccepted;

#[async_trait]
impl Twist for StaleAccepted {
    async fn exchange(&self, to: &dyn Storage, mut request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        for settlement in &mut request.settlements {
            settlement.lease = current(to, &request.queue, settlement.lease).await?;
        }
        to.exchange(request).await
    }

    async fn lease(&self, to: &dyn Storage, queue: &QueueName, lease: Lease) -> Answer<Lease> {
        current(to, queue, lease).await
    }
}

/// Looks, for a member of a batch, at the run in which it was gathered and not at the one that its leader is in.
#[derive(Default)]
pub(super) struct OldBatchAccepted;

#[async_trait]
impl Twist for OldBatchAccepted {
    async fn exchange(&self, to: &dyn Storage, mut request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        for settlement in &mut request.settlements {
            let lease = &mut settlement.lease;
            let member = to.job(Some(&request.queue), lease.id).await?;
            let member = member.filter(|record| record.state == JobState::Blocked && record.epoch == lease.epoch);
            let Some(batch) = member.and_then(|record| record.batch) else { continue };
            let leader = active(to, &request.queue).await?.into_iter().find(|record| record.batch == Some(batch));
            lease.epoch = leader.map_or(lease.epoch, |record| record.epoch);
        }
        to.exchange(request).await
    }
}

/// Hands a batch out to whoever led it once.
#[derive(Default)]
pub(super) struct ReadByAnyone;

#[async_trait]
impl Twist for ReadByAnyone {
    async fn leading(&self, to: &dyn Storage, queue: &QueueName, lease: Lease) -> Answer<Lease> {
        current(to, queue, lease).await
    }
}

/// Hands the last job of a claim out again to the next one who asks.
#[derive(Default)]
pub(super) struct ClaimedTwice {
    last: Mutex<HashMap<QueueName, Claim>>,
}

#[async_trait]
impl Twist for ClaimedTwice {
    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        let queue = request.queue.clone();
        let mut answer = to.exchange(request).await?;
        if let Some(claimed) = &mut answer.claimed {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let again = last.remove(&queue);
            if let Some(claim) = claimed.claims.last() {
                last.insert(queue, claim.clone());
            }
            claimed.claims.extend(again);
        }
        Ok(answer)
    }
}

/// Gives every claim of a job the epoch of the first.
#[derive(Default)]
pub(super) struct SameEpoch {
    first: Mutex<HashMap<JobId, i64>>,
}

#[async_trait]
impl Twist for SameEpoch {
    async fn exchange(&self, to: &dyn Storage, mut request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        for settlement in &mut request.settlements {
            settlement.lease = self.lease(to, &request.queue, settlement.lease).await?;
        }
        let mut answer = to.exchange(request).await?;
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in answer.claimed.iter_mut().flat_map(|claimed| &mut claimed.claims) {
            claim.lease.epoch = *first.entry(claim.lease.id).or_insert(claim.lease.epoch);
        }
        Ok(answer)
    }

    async fn lease(&self, to: &dyn Storage, queue: &QueueName, lease: Lease) -> Answer<Lease> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).get(&lease.id).copied();
        if first == Some(lease.epoch) { current(to, queue, lease).await } else { Ok(lease) }
    }

    fn shown(&self, mut record: JobRecord) -> JobRecord {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        record.epoch = first.get(&record.id()).copied().unwrap_or(record.epoch);
        record
    }
}

/// Renews every lease before it looks for those that ran out.
#[derive(Default)]
pub(super) struct NeverStalled;

#[async_trait]
impl Twist for NeverStalled {
    async fn before_sweep(&self, to: &dyn Storage, queue: &QueueName) -> Answer<()> {
        for record in active(to, queue).await? {
            let term = record.lease_term.unwrap_or(Duration::from_secs(1));
            to.renew(RenewRequest { queue: queue.clone(), leases: vec![record.lease()], term }).await?;
        }
        Ok(())
    }
}

/// Takes every worker to be alone in its process.
#[derive(Default)]
pub(super) struct InCompany;

#[async_trait]
impl Twist for InCompany {
    async fn exchange(&self, to: &dyn Storage, mut request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        if let Some(claim) = &mut request.claim {
            claim.alone = true;
        }
        to.exchange(request).await
    }
}
