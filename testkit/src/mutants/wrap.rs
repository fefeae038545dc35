//! How a mutant is made: a [`Twist`] passes every call of the contract on to a sound storage, and overrides the ones
//! that it gets wrong. So a mutant's code is only its mistake.

use std::sync::Arc;

use async_trait::async_trait;
use ferroq_core::Timestamp;
use ferroq_core::event::EventCursor;
use ferroq_core::job::{JobId, JobRecord, LaneKey, LimiterName, QueueName};
use ferroq_core::policy::explain::Explanation;
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{
    AcquireAnswer, AcquireRequest, ActReport, ActRequest, Batches, Capabilities, Control, DumpPage, EnqueueAnswer,
    EnqueueRequest, EventLog, EventPage, ExchangeAnswer, ExchangeRequest, GatherAnswer, Inspect, JobWatch, Jobs, Lease,
    Limits, ListCursor, ListRequest, MembersAnswer, MembersRequest, Note, NoteAnswer, ObliterateAnswer, Page,
    QueueConfig, QueueCounts, Reconfigured, RenewAnswer, RenewRequest, RestoreAnswer, SignalReceiver, Storage,
    StorageError, SweepAnswer, SweepRequest, Transfer,
};

/// What every call answers.
pub(super) type Answer<T> = Result<T, StorageError>;

/// One mistake. Each method is a call on its way to the storage `to`; what is not overridden is passed on.
#[async_trait]
pub(super) trait Twist: Send + Sync + 'static {
    async fn enqueue(&self, to: &dyn Storage, request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        to.enqueue(request).await
    }

    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        to.exchange(request).await
    }

    /// A lease that is renewed or annotated under.
    async fn lease(&self, _to: &dyn Storage, _queue: &QueueName, lease: Lease) -> Answer<Lease> {
        Ok(lease)
    }

    /// A lease that a batch is gathered or read under.
    async fn leading(&self, _to: &dyn Storage, _queue: &QueueName, lease: Lease) -> Answer<Lease> {
        Ok(lease)
    }

    async fn before_sweep(&self, _to: &dyn Storage, _queue: &QueueName) -> Answer<()> {
        Ok(())
    }

    async fn watch(&self, to: &dyn Storage, queue: &QueueName, id: JobId) -> Answer<JobWatch> {
        to.watch(queue, id).await
    }

    async fn act(&self, to: &dyn Storage, request: ActRequest) -> Answer<ActReport> {
        to.act(request).await
    }

    async fn acquire(&self, to: &dyn Storage, request: AcquireRequest) -> Answer<AcquireAnswer> {
        to.acquire(request).await
    }

    /// A record that somebody reads.
    fn shown(&self, record: JobRecord) -> JobRecord {
        record
    }

    fn counted(&self, _queue: &QueueName, counts: QueueCounts) -> QueueCounts {
        counts
    }

    fn told(&self, page: EventPage) -> EventPage {
        page
    }

    fn restored(&self, page: DumpPage) -> DumpPage {
        page
    }

    /// Settings on their way in; they are noted once they are stored.
    fn heard_config(&self, config: QueueConfig) -> QueueConfig {
        config
    }

    fn note_config(&self, _queue: &QueueName, _said: QueueConfig) {}

    /// Settings on their way out.
    fn shown_config(&self, _queue: &QueueName, stored: QueueConfig) -> QueueConfig {
        stored
    }

    /// A lane's policy on its way in; it is noted once it is stored.
    fn heard_policy(&self, policy: LanePolicy) -> LanePolicy {
        policy
    }

    fn note_policy(&self, _queue: &QueueName, _lane: &LaneKey, _said: LanePolicy) {}

    /// A lane's policy on its way out.
    fn shown_policy(&self, _queue: &QueueName, _lane: &LaneKey, stored: LanePolicy) -> LanePolicy {
        stored
    }
}

/// No mistake.
#[derive(Default)]
pub(super) struct Sound;

impl Twist for Sound {}

/// A storage with a mistake.
pub(super) struct Mutated<T> {
    inner: Arc<dyn Storage>,
    twist: Arc<T>,
}

/// A storage that makes this mistake.
pub(super) fn mutate<T: Twist + Default>(inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
    Arc::new(Mutated { inner, twist: Arc::new(T::default()) })
}

#[async_trait]
impl<T: Twist> Jobs for Mutated<T> {
    async fn enqueue(&self, request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        self.twist.enqueue(&*self.inner, request).await
    }

    async fn exchange(&self, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        self.twist.exchange(&*self.inner, request).await
    }

    async fn renew(&self, mut request: RenewRequest) -> Answer<Vec<RenewAnswer>> {
        for lease in &mut request.leases {
            *lease = self.twist.lease(&*self.inner, &request.queue, *lease).await?;
        }
        self.inner.renew(request).await
    }

    async fn annotate(&self, queue: &QueueName, mut notes: Vec<(Lease, Note)>) -> Answer<Vec<NoteAnswer>> {
        for (lease, _) in &mut notes {
            *lease = self.twist.lease(&*self.inner, queue, *lease).await?;
        }
        self.inner.annotate(queue, notes).await
    }

    async fn sweep(&self, request: SweepRequest) -> Answer<SweepAnswer> {
        self.twist.before_sweep(&*self.inner, &request.queue).await?;
        self.inner.sweep(request).await
    }

    fn signals(&self, queue: &QueueName) -> SignalReceiver {
        self.inner.signals(queue)
    }

    async fn watch(&self, queue: &QueueName, id: JobId) -> Answer<JobWatch> {
        self.twist.watch(&*self.inner, queue, id).await
    }
}

#[async_trait]
impl<T: Twist> Inspect for Mutated<T> {
    async fn job(&self, queue: Option<&QueueName>, id: JobId) -> Answer<Option<JobRecord>> {
        Ok(self.inner.job(queue, id).await?.map(|record| self.twist.shown(record)))
    }

    async fn explain(&self, queue: &QueueName, id: JobId) -> Answer<Explanation> {
        self.inner.explain(queue, id).await
    }

    async fn list(&self, request: ListRequest) -> Answer<Page> {
        let page = self.inner.list(request).await?;
        Ok(Page { jobs: page.jobs.into_iter().map(|record| self.twist.shown(record)).collect(), ..page })
    }

    async fn counts(&self, queue: &QueueName) -> Answer<QueueCounts> {
        Ok(self.twist.counted(queue, self.inner.counts(queue).await?))
    }

    async fn queues(&self) -> Answer<Vec<QueueName>> {
        self.inner.queues().await
    }

    async fn now(&self, queue: &QueueName) -> Answer<Timestamp> {
        self.inner.now(queue).await
    }
}

#[async_trait]
impl<T: Twist> Control for Mutated<T> {
    async fn act(&self, request: ActRequest) -> Answer<ActReport> {
        self.twist.act(&*self.inner, request).await
    }

    async fn config(&self, queue: &QueueName) -> Answer<QueueConfig> {
        Ok(self.twist.shown_config(queue, self.inner.config(queue).await?))
    }

    async fn configure(&self, queue: &QueueName, config: QueueConfig) -> Answer<()> {
        self.inner.configure(queue, self.twist.heard_config(config.clone())).await?;
        self.twist.note_config(queue, config);
        Ok(())
    }

    async fn configure_lane(&self, queue: &QueueName, lane: &LaneKey, policy: Option<LanePolicy>) -> Answer<()> {
        let heard = policy.clone().map(|policy| self.twist.heard_policy(policy));
        self.inner.configure_lane(queue, lane, heard).await?;
        policy.into_iter().for_each(|policy| self.twist.note_policy(queue, lane, policy));
        Ok(())
    }

    async fn reconfigure(
        &self,
        queue: &QueueName,
        from: QueueConfig,
        to: QueueConfig,
    ) -> Answer<Reconfigured<QueueConfig>> {
        let hear = |config: &QueueConfig| self.twist.heard_config(config.clone());
        Ok(match self.inner.reconfigure(queue, hear(&from), hear(&to)).await? {
            Reconfigured::Stored => {
                self.twist.note_config(queue, to);
                Reconfigured::Stored
            }
            Reconfigured::Conflict(present) => Reconfigured::Conflict(self.twist.shown_config(queue, present)),
        })
    }

    async fn reconfigure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        from: Option<LanePolicy>,
        to: Option<LanePolicy>,
    ) -> Answer<Reconfigured<Option<LanePolicy>>> {
        let hear = |policy: &Option<LanePolicy>| policy.clone().map(|policy| self.twist.heard_policy(policy));
        Ok(match self.inner.reconfigure_lane(queue, lane, hear(&from), hear(&to)).await? {
            Reconfigured::Stored => {
                to.into_iter().for_each(|policy| self.twist.note_policy(queue, lane, policy));
                Reconfigured::Stored
            }
            Reconfigured::Conflict(present) => {
                Reconfigured::Conflict(present.map(|policy| self.twist.shown_policy(queue, lane, policy)))
            }
        })
    }

    async fn lane_policy(&self, queue: &QueueName, lane: &LaneKey) -> Answer<Option<LanePolicy>> {
        let policy = self.inner.lane_policy(queue, lane).await?;
        Ok(policy.map(|policy| self.twist.shown_policy(queue, lane, policy)))
    }

    async fn lane_policies(
        &self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Answer<Vec<(LaneKey, LanePolicy)>> {
        let mut policies = self.inner.lane_policies(queue, after, max_items).await?;
        for (lane, policy) in &mut policies {
            *policy = self.twist.shown_policy(queue, lane, policy.clone());
        }
        Ok(policies)
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Answer<bool> {
        self.inner.set_paused(queue, paused).await
    }

    async fn obliterate(&self, queue: &QueueName, force: bool, max_items: usize) -> Answer<ObliterateAnswer> {
        self.inner.obliterate(queue, force, max_items).await
    }
}

#[async_trait]
impl<T: Twist> Batches for Mutated<T> {
    async fn gather(&self, queue: &QueueName, lease: Lease, max_items: usize) -> Answer<GatherAnswer> {
        let lease = self.twist.leading(&*self.inner, queue, lease).await?;
        self.inner.gather(queue, lease, max_items).await
    }

    async fn members(&self, mut request: MembersRequest) -> Answer<MembersAnswer> {
        request.lease = self.twist.leading(&*self.inner, &request.queue, request.lease).await?;
        self.inner.members(request).await
    }
}

#[async_trait]
impl<T: Twist> Limits for Mutated<T> {
    async fn acquire(&self, request: AcquireRequest) -> Answer<AcquireAnswer> {
        self.twist.acquire(&*self.inner, request).await
    }

    async fn peek(&self, limiter: &LimiterName, rate: &Rate, permits: u32) -> Answer<AcquireAnswer> {
        self.inner.peek(limiter, rate, permits).await
    }

    async fn reset(&self, limiter: &LimiterName) -> Answer<()> {
        self.inner.reset(limiter).await
    }
}

#[async_trait]
impl<T: Twist> EventLog for Mutated<T> {
    async fn events(&self, queue: &QueueName, after: EventCursor, max_entries: usize) -> Answer<EventPage> {
        Ok(self.twist.told(self.inner.events(queue, after, max_entries).await?))
    }

    async fn last_event(&self, queue: &QueueName) -> Answer<EventCursor> {
        self.inner.last_event(queue).await
    }
}

#[async_trait]
impl<T: Twist> Transfer for Mutated<T> {
    async fn dump(&self, queue: &QueueName, after: Option<ListCursor>, max_items: usize) -> Answer<DumpPage> {
        let mut page = self.inner.dump(queue, after, max_items).await?;
        page.config = page.config.map(|config| self.twist.shown_config(queue, config));
        for entry in &mut page.policies {
            entry.policy = self.twist.shown_policy(queue, &entry.lane, entry.policy.clone());
        }
        Ok(DumpPage { jobs: page.jobs.into_iter().map(|record| self.twist.shown(record)).collect(), ..page })
    }

    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Answer<RestoreAnswer> {
        self.inner.restore(queue, self.twist.restored(page)).await
    }
}

#[async_trait]
impl<T: Twist> Storage for Mutated<T> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn second_handle(&self) -> Answer<Arc<dyn Storage>> {
        Ok(Arc::new(Mutated { inner: self.inner.second_handle().await?, twist: self.twist.clone() }))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
