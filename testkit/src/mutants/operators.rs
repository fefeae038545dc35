//! Mutants that ignore what somebody asked for: the one who enqueues, the worker, or the operator.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ferroq_core::job::{ErrorKind, JobId, JobOptions, JobRecord, JobSpec, JobState, LaneKey, Priority, QueueName};
use ferroq_core::policy::rate::{Per, Rate};
use ferroq_core::storage::{
    AcquireAnswer, AcquireRequest, Act, ActAnswer, ActReport, ActRequest, EnqueueAnswer, EnqueueRequest,
    ExchangeAnswer, ExchangeRequest, Outcome, RunError, Selection, Storage,
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

/// What jobs were enqueued as, where the storage behind got something else, so that reads don't give the mistake away
/// and only what becomes of the jobs does.
#[derive(Default)]
struct Originals {
    specs: Mutex<HashMap<(QueueName, JobId), Arc<JobSpec>>>,
}

impl Originals {
    /// Exchanges the jobs of a request for changed ones.
    fn exchange(&self, request: &mut EnqueueRequest, change: impl Fn(&mut JobSpec)) {
        let mut specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        for spec in &mut request.jobs {
            let mut changed = JobSpec::clone(spec);
            change(&mut changed);
            if changed != **spec {
                specs.entry((spec.queue.clone(), spec.id)).or_insert_with(|| spec.clone());
                *spec = Arc::new(changed);
            }
        }
    }

    /// Puts back what was exchanged; whether it was.
    fn put_back(&self, spec: &mut Arc<JobSpec>) -> bool {
        let specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        let original = specs.get(&(spec.queue.clone(), spec.id));
        if let Some(original) = original {
            *spec = original.clone();
        }
        original.is_some()
    }

    /// Passes an exchange on and puts back what its claims show.
    async fn hand_out(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        let mut answer = to.exchange(request).await?;
        for claim in answer.claimed.iter_mut().flat_map(|claimed| &mut claimed.claims) {
            self.put_back(&mut claim.spec);
        }
        Ok(answer)
    }
}

/// Serves jobs in the order in which they came.
#[derive(Default)]
pub(super) struct NoPriority {
    originals: Originals,
}

#[async_trait]
impl Twist for NoPriority {
    async fn enqueue(&self, to: &dyn Storage, mut request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        self.originals.exchange(&mut request, |spec| spec.priority = Priority::default());
        to.enqueue(request).await
    }

    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        self.originals.hand_out(to, request).await
    }

    fn shown(&self, mut record: JobRecord) -> JobRecord {
        if self.originals.put_back(&mut record.spec) && record.priority == Priority::default() {
            record.priority = record.spec.priority;
        }
        record
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

/// Starts jobs however old they are.
#[derive(Default)]
pub(super) struct NeverExpires {
    originals: Originals,
}

#[async_trait]
impl Twist for NeverExpires {
    async fn enqueue(&self, to: &dyn Storage, mut request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        self.originals.exchange(&mut request, |spec| {
            spec.options = Arc::new(JobOptions { expires_in: None, ..JobOptions::clone(&spec.options) });
        });
        to.enqueue(request).await
    }

    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        self.originals.hand_out(to, request).await
    }

    fn shown(&self, mut record: JobRecord) -> JobRecord {
        if self.originals.put_back(&mut record.spec) {
            record.expires_at = record.spec.options.expires_in.map(|span| record.created_at.after(span));
        }
        record
    }
}

/// Puts all jobs in one lane.
#[derive(Default)]
pub(super) struct OneLane {
    originals: Originals,
}

#[async_trait]
impl Twist for OneLane {
    async fn enqueue(&self, to: &dyn Storage, mut request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        self.originals.exchange(&mut request, |spec| spec.lane = LaneKey::DEFAULT);
        to.enqueue(request).await
    }

    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        self.originals.hand_out(to, request).await
    }

    fn shown(&self, mut record: JobRecord) -> JobRecord {
        self.originals.put_back(&mut record.spec);
        record
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

/// Reads each limit as one more.
#[derive(Default)]
pub(super) struct TooGenerous;

#[async_trait]
impl Twist for TooGenerous {
    async fn acquire(&self, to: &dyn Storage, request: AcquireRequest) -> Answer<AcquireAnswer> {
        let limit = request.rate.limit().saturating_add(1);
        let rate = match request.rate.per().clone() {
            Per::Sliding(window) => Rate::sliding(limit, window),
            Per::Calendar { unit, zone } => Rate::calendar(limit, unit, zone),
        };
        to.acquire(AcquireRequest { rate, ..request }).await
    }
}
