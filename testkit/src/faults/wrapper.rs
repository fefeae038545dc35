//! The storage around a storage. It changes nothing by itself: it tells a plan of every call, once before it is made
//! and once after it was answered, and the plan may fail it there.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ferroq_core::clock::Timestamp;
use ferroq_core::event::EventCursor;
use ferroq_core::job::{JobId, JobRecord, LaneKey, LimiterName, QueueName};
use ferroq_core::policy::explain::Explanation;
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{
    AcquireAnswer, AcquireRequest, ActReport, ActRequest, Batches, CallId, Capabilities, Control, DumpPage,
    EnqueueAnswer, EnqueueRequest, EventLog, EventPage, ExchangeAnswer, ExchangeRequest, GatherAnswer, Inspect,
    JobWatch, Jobs, Lease, Limits, ListCursor, ListRequest, MembersAnswer, MembersRequest, Note, NoteAnswer,
    ObliterateAnswer, Page, QueueConfig, QueueCounts, Reconfigured, RenewAnswer, RenewRequest, RestoreAnswer,
    SignalReceiver, Storage, StorageError, SweepAnswer, SweepRequest, Transfer,
};

/// Which side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was not made yet.
    Before,
    /// It has taken effect, and nobody saw its answer yet.
    After,
}

/// A call, as a plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The method's name, as in the contract: `enqueue`, `exchange`, `renew`...
    pub method: &'static str,
    /// Before or after.
    pub stage: Stage,
    /// Its number, if it can be repeated.
    pub call: Option<CallId>,
    /// Whether it changes the store.
    pub writes: bool,
    /// How many settlements it carries.
    pub settlements: usize,
    /// Before: how many jobs it asks for. After: how many it got.
    pub claims: usize,
}

impl Visit {
    fn new(method: &'static str, writes: bool) -> Self {
        Visit { method, stage: Stage::Before, call: None, writes, settlements: 0, claims: 0 }
    }

    fn write(method: &'static str) -> Self {
        Visit::new(method, true)
    }

    fn read(method: &'static str) -> Self {
        Visit::new(method, false)
    }

    fn call(mut self, call: Option<CallId>) -> Self {
        self.call = call;
        self
    }

    fn after(mut self) -> Self {
        self.stage = Stage::After;
        self
    }
}

/// What goes wrong, and when.
pub trait Faults: Send + Sync + 'static {
    /// Told of every call, on both sides. An error is answered in the call's place; before a call it means that the call is
    /// not made.
    ///
    /// # Errors
    /// Whatever the plan wants the caller to see.
    fn visit(&self, visit: Visit) -> Result<(), StorageError>;
}

/// A storage that follows a plan of faults.
pub struct Faulty<P> {
    inner: Arc<dyn Storage>,
    plan: Arc<P>,
}

impl<P: Faults> Faulty<P> {
    /// Puts the plan around the storage. Keep a clone of the plan to change it later.
    pub fn new(inner: Arc<dyn Storage>, plan: P) -> Self {
        Faulty { inner, plan: Arc::new(plan) }
    }

    /// The storage without faults.
    pub fn inner(&self) -> &Arc<dyn Storage> {
        &self.inner
    }

    async fn through<T>(
        &self,
        visit: Visit,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        self.plan.visit(visit)?;
        let answer = call.await?;
        self.plan.visit(visit.after())?;
        Ok(answer)
    }
}

impl<P> fmt::Debug for Faulty<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

#[async_trait]
impl<P: Faults> Jobs for Faulty<P> {
    async fn enqueue(&self, request: EnqueueRequest) -> Result<Vec<EnqueueAnswer>, StorageError> {
        let visit = Visit::write("enqueue").call(request.call);
        self.through(visit, self.inner.enqueue(request)).await
    }

    async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        let mut visit = Visit::write("exchange").call(request.call);
        visit.settlements = request.settlements.len();
        visit.claims = request.claim.as_ref().map_or(0, |claim| claim.max_items);
        self.plan.visit(visit)?;
        let answer = self.inner.exchange(request).await?;
        visit.claims = answer.claimed.as_ref().map_or(0, |claimed| claimed.claims.len());
        self.plan.visit(visit.after())?;
        Ok(answer)
    }

    async fn renew(&self, request: RenewRequest) -> Result<Vec<RenewAnswer>, StorageError> {
        self.through(Visit::write("renew"), self.inner.renew(request)).await
    }

    async fn annotate(&self, queue: &QueueName, notes: Vec<(Lease, Note)>) -> Result<Vec<NoteAnswer>, StorageError> {
        self.through(Visit::write("annotate"), self.inner.annotate(queue, notes)).await
    }

    async fn sweep(&self, request: SweepRequest) -> Result<SweepAnswer, StorageError> {
        self.through(Visit::write("sweep"), self.inner.sweep(request)).await
    }

    fn signals(&self, queue: &QueueName) -> SignalReceiver {
        self.inner.signals(queue)
    }

    async fn watch(&self, queue: &QueueName, id: JobId) -> Result<JobWatch, StorageError> {
        self.through(Visit::write("watch"), self.inner.watch(queue, id)).await
    }
}

#[async_trait]
impl<P: Faults> Inspect for Faulty<P> {
    async fn job(&self, queue: Option<&QueueName>, id: JobId) -> Result<Option<JobRecord>, StorageError> {
        self.through(Visit::read("job"), self.inner.job(queue, id)).await
    }

    async fn explain(&self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError> {
        self.through(Visit::read("explain"), self.inner.explain(queue, id)).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StorageError> {
        self.through(Visit::read("list"), self.inner.list(request)).await
    }

    async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, StorageError> {
        self.through(Visit::read("counts"), self.inner.counts(queue)).await
    }

    async fn queues(&self) -> Result<Vec<QueueName>, StorageError> {
        self.through(Visit::read("queues"), self.inner.queues()).await
    }

    async fn now(&self, queue: &QueueName) -> Result<Timestamp, StorageError> {
        self.through(Visit::read("now"), self.inner.now(queue)).await
    }
}

#[async_trait]
impl<P: Faults> Control for Faulty<P> {
    async fn act(&self, request: ActRequest) -> Result<ActReport, StorageError> {
        let visit = Visit::write("act").call(request.call);
        self.through(visit, self.inner.act(request)).await
    }

    async fn config(&self, queue: &QueueName) -> Result<QueueConfig, StorageError> {
        self.through(Visit::read("config"), self.inner.config(queue)).await
    }

    async fn configure(&self, queue: &QueueName, config: QueueConfig) -> Result<(), StorageError> {
        self.through(Visit::write("configure"), self.inner.configure(queue, config)).await
    }

    async fn configure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: Option<LanePolicy>,
    ) -> Result<(), StorageError> {
        self.through(Visit::write("configure_lane"), self.inner.configure_lane(queue, lane, policy)).await
    }

    async fn reconfigure(
        &self,
        queue: &QueueName,
        from: QueueConfig,
        to: QueueConfig,
    ) -> Result<Reconfigured<QueueConfig>, StorageError> {
        self.through(Visit::write("reconfigure"), self.inner.reconfigure(queue, from, to)).await
    }

    async fn reconfigure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        from: Option<LanePolicy>,
        to: Option<LanePolicy>,
    ) -> Result<Reconfigured<Option<LanePolicy>>, StorageError> {
        self.through(Visit::write("reconfigure_lane"), self.inner.reconfigure_lane(queue, lane, from, to)).await
    }

    async fn lane_policy(&self, queue: &QueueName, lane: &LaneKey) -> Result<Option<LanePolicy>, StorageError> {
        self.through(Visit::read("lane_policy"), self.inner.lane_policy(queue, lane)).await
    }

    async fn lane_policies(
        &self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Result<Vec<(LaneKey, LanePolicy)>, StorageError> {
        self.through(Visit::read("lane_policies"), self.inner.lane_policies(queue, after, max_items)).await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, StorageError> {
        self.through(Visit::write("set_paused"), self.inner.set_paused(queue, paused)).await
    }

    async fn obliterate(
        &self,
        queue: &QueueName,
        force: bool,
        max_items: usize,
    ) -> Result<ObliterateAnswer, StorageError> {
        self.through(Visit::write("obliterate"), self.inner.obliterate(queue, force, max_items)).await
    }
}

#[async_trait]
impl<P: Faults> Batches for Faulty<P> {
    async fn gather(&self, queue: &QueueName, lease: Lease, max_items: usize) -> Result<GatherAnswer, StorageError> {
        self.through(Visit::write("gather"), self.inner.gather(queue, lease, max_items)).await
    }

    async fn members(&self, request: MembersRequest) -> Result<MembersAnswer, StorageError> {
        self.through(Visit::read("members"), self.inner.members(request)).await
    }
}

#[async_trait]
impl<P: Faults> Limits for Faulty<P> {
    async fn acquire(&self, request: AcquireRequest) -> Result<AcquireAnswer, StorageError> {
        let visit = Visit::write("acquire").call(request.call);
        self.through(visit, self.inner.acquire(request)).await
    }

    async fn peek(&self, limiter: &LimiterName, rate: &Rate, permits: u32) -> Result<AcquireAnswer, StorageError> {
        self.through(Visit::read("peek"), self.inner.peek(limiter, rate, permits)).await
    }

    async fn reset(&self, limiter: &LimiterName) -> Result<(), StorageError> {
        self.through(Visit::write("reset"), self.inner.reset(limiter)).await
    }
}

#[async_trait]
impl<P: Faults> EventLog for Faulty<P> {
    async fn events(
        &self,
        queue: &QueueName,
        after: EventCursor,
        max_entries: usize,
    ) -> Result<EventPage, StorageError> {
        self.through(Visit::read("events"), self.inner.events(queue, after, max_entries)).await
    }

    async fn last_event(&self, queue: &QueueName) -> Result<EventCursor, StorageError> {
        self.through(Visit::read("last_event"), self.inner.last_event(queue)).await
    }
}

#[async_trait]
impl<P: Faults> Transfer for Faulty<P> {
    async fn dump(
        &self,
        queue: &QueueName,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<DumpPage, StorageError> {
        self.through(Visit::read("dump"), self.inner.dump(queue, after, max_items)).await
    }

    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Result<RestoreAnswer, StorageError> {
        self.through(Visit::write("restore"), self.inner.restore(queue, page)).await
    }
}

#[async_trait]
impl<P: Faults> Storage for Faulty<P> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn second_handle(&self) -> Result<Arc<dyn Storage>, StorageError> {
        let second = self.through(Visit::read("second_handle"), self.inner.second_handle()).await?;
        Ok(Arc::new(Faulty { inner: second, plan: self.plan.clone() }))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
