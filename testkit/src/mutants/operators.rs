//! Mutants that ignore what somebody asked for: the one who enqueues, the worker, or the operator.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ferroq_core::job::{ErrorKind, JobOptions, JobSpec, JobState, Priority};
use ferroq_core::storage::{
    Act, ActAnswer, ActReport, ActRequest, EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest, Outcome,
    RunError, Selection, Storage,
};

use super::wrap::{Answer, Twist};

/// Counts a job that was given back as a run that failed.
#[derive(Default)]
pub(super) struct ReleaseFails;

#[async_trait]
impl Twist for ReleaseFails {
    async fn exchange(&self, to: &dyn Storage, mut request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        for settlement in &mut request.settlements {
            if settlement.outcome == Outcome::Release {
                let error = RunError::new(ErrorKind::Error, "it was given back");
                settlement.outcome = Outcome::Retry { error, delay: Duration::ZERO };
            }
        }
        to.exchange(request).await
    }
}

/// Serves jobs in the order in which they came.
#[derive(Default)]
pub(super) struct NoPriority;

#[async_trait]
impl Twist for NoPriority {
    async fn enqueue(&self, to: &dyn Storage, mut request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        for spec in &mut request.jobs {
            *spec = Arc::new(JobSpec { priority: Priority::default(), ..JobSpec::clone(spec) });
        }
        to.enqueue(request).await
    }
}

/// Answers that it asked the worker of an Active job to cancel it, and does not.
#[derive(Default)]
pub(super) struct CancelIgnored;

#[async_trait]
impl Twist for CancelIgnored {
    async fn act(&self, to: &dyn Storage, mut request: ActRequest) -> Answer<ActReport> {
        let (Act::Cancel, Selection::Ids(ids)) = (&request.act, &mut request.on) else { return to.act(request).await };
        let asked = ids.clone();
        let mut active = HashSet::new();
        for id in &asked {
            let record = to.job(Some(&request.queue), *id).await?;
            if record.is_some_and(|record| record.state == JobState::Active) {
                active.insert(*id);
            }
        }
        ids.retain(|id| !active.contains(id));
        let mut others = to.act(request).await?.answers.into_iter();
        let answer = |id| if active.contains(&id) { Some((id, ActAnswer::Requested)) } else { others.next() };
        Ok(ActReport { answers: asked.into_iter().filter_map(answer).collect(), next: None })
    }
}

/// Hands jobs out while their queue is paused.
#[derive(Default)]
pub(super) struct PauseIgnored;

#[async_trait]
impl Twist for PauseIgnored {
    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        let queue = request.queue.clone();
        let paused = request.claim.is_some() && to.config(&queue).await?.paused;
        if paused {
            to.set_paused(&queue, false).await?;
        }
        let answer = to.exchange(request).await;
        if paused {
            to.set_paused(&queue, true).await?;
        }
        answer
    }
}

/// Takes jobs without their `expires_in`.
#[derive(Default)]
pub(super) struct NeverExpires;

#[async_trait]
impl Twist for NeverExpires {
    async fn enqueue(&self, to: &dyn Storage, mut request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        for spec in &mut request.jobs {
            let options = JobOptions { expires_in: None, ..JobOptions::clone(&spec.options) };
            *spec = Arc::new(JobSpec { options: Arc::new(options), ..JobSpec::clone(spec) });
        }
        to.enqueue(request).await
    }
}

/// Hands out as many bytes as there are.
#[derive(Default)]
pub(super) struct AnySize;

#[async_trait]
impl Twist for AnySize {
    async fn exchange(&self, to: &dyn Storage, mut request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        if let Some(claim) = &mut request.claim {
            claim.max_bytes = usize::MAX;
        }
        to.exchange(request).await
    }
}
