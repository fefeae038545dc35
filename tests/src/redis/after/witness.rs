//! A storage that takes note of what its callers were told. A call that was repeated under its number is one call, made
//! when it was first tried and answered when somebody got the answer. In the end the calls about each job must have an
//! order that explains every answer and what is in the store; so an answer that was given twice, or to nobody, shows
//! even where the store itself is whole.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use ferroq_core::clock::Timestamp;
use ferroq_core::event::EventCursor;
use ferroq_core::job::{JobId, JobRecord, LaneKey, LimiterName, QueueName};
use ferroq_core::policy::explain::Explanation;
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{
    AcquireAnswer, AcquireRequest, ActReport, ActRequest, Batches, CallId, Capabilities, Control, DumpPage, Effect,
    EnqueueAnswer, EnqueueRequest, EventLog, EventPage, ExchangeAnswer, ExchangeRequest, GatherAnswer, Inspect,
    JobWatch, Jobs, Lease, Limits, ListCursor, ListRequest, MembersAnswer, MembersRequest, Note, NoteAnswer,
    ObliterateAnswer, Page, QueueConfig, QueueCounts, Reconfigured, RenewAnswer, RenewRequest, RestoreAnswer,
    SettleAnswer, SignalReceiver, Storage, StorageError, SweepAnswer, SweepRequest, Transfer,
};
use ferroq_testkit::history::{Recorded, explain, job_histories};
use ferroq_testkit::model::{Answer, Call, Snapshot};
use uuid::Uuid;

/// A storage whose calls are noted. Its second handles note theirs in the same place, and so do all witnesses made
/// [beside](Witness::beside) it.
pub struct Witness {
    inner: Arc<dyn Storage>,
    notes: Arc<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    moment: AtomicU64,
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    calls: Vec<Recorded>,
    /// Calls with a number that may have had an effect and were not answered yet, and when they were first made.
    open: HashMap<(Uuid, u64), u64>,
    /// How many calls failed and may have had an effect.
    unknown: u64,
    /// How many failed without one.
    refused: u64,
}

impl Witness {
    /// A witness of what goes through this handle.
    pub fn new(inner: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Witness { inner, notes: Arc::default() })
    }

    /// A witness of another handle, whose notes belong to the same story.
    pub fn beside(&self, inner: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Witness { inner, notes: self.notes.clone() })
    }

    /// How many calls failed so that their callers could not know what became of them.
    pub fn unknown(&self) -> u64 {
        self.notes.lists().unknown
    }

    /// How many calls failed without effect.
    pub fn refused(&self) -> u64 {
        self.notes.lists().refused
    }

    /// How many calls of this method were answered.
    pub fn answered(&self, method: &str) -> u64 {
        self.notes.lists().calls.iter().filter(|call| call.call.name() == method).count() as u64
    }

    /// The jobs that somebody was told are there.
    pub fn acknowledged(&self) -> BTreeSet<JobId> {
        let mut ids = BTreeSet::new();
        for recorded in &self.notes.lists().calls {
            match (&recorded.call, &recorded.answer) {
                (Call::Enqueue(request), Answer::Enqueue(_)) => ids.extend(request.jobs.iter().map(|job| job.id)),
                (Call::Exchange(request), Answer::Exchange(answer)) => {
                    for (settlement, answer) in request.settlements.iter().zip(&answer.settled) {
                        if matches!(answer, SettleAnswer::Settled { .. }) {
                            ids.extend(settlement.follow_ups.iter().map(|job| job.id));
                        }
                    }
                }
                _ => {}
            }
        }
        ids
    }

    /// The epochs of all leases that were handed out.
    pub fn epochs(&self) -> BTreeSet<i64> {
        let of = |recorded: &Recorded| match &recorded.answer {
            Answer::Exchange(ExchangeAnswer { claimed: Some(claimed), .. }) => {
                claimed.claims.iter().map(|claim| claim.lease.epoch).collect()
            }
            _ => Vec::new(),
        };
        self.notes.lists().calls.iter().flat_map(of).collect()
    }

    /// Every answer can be explained: for each job there is an order of the calls about it. Jobs that lost a lease are left
    /// out, because the answer that would tell of the claim may have been lost with the lease.
    ///
    /// # Panics
    /// If there is no such order, or a call was never answered.
    pub fn explain(&self, snapshot: &Snapshot) {
        let lists = self.notes.lists();
        assert!(lists.open.is_empty(), "{} calls were never answered", lists.open.len());
        let histories = job_histories(&lists.calls, snapshot).unwrap_or_else(|wrong| panic!("{wrong}"));
        for history in histories {
            if history.end.as_ref().is_some_and(|record| record.crashes > 0) {
                continue;
            }
            if let Err(unexplained) = explain(&history) {
                panic!("{unexplained}");
            }
        }
    }

    async fn through<T>(
        &self,
        call: Call,
        made: impl Future<Output = Result<T, StorageError>>,
        answer: impl FnOnce(&T) -> Answer,
    ) -> Result<T, StorageError> {
        let now = self.notes.next();
        let id = call.id().map(|CallId { session, number, .. }| (session, number));
        match made.await {
            Ok(answered) => {
                self.notes.note(id, now, call, answer(&answered));
                Ok(answered)
            }
            Err(error) => {
                let mut lists = self.notes.lists();
                if error.effect() == Effect::Unknown {
                    lists.unknown += 1;
                    if let Some(id) = id {
                        lists.open.entry(id).or_insert(now);
                    }
                } else {
                    lists.refused += 1;
                }
                Err(error)
            }
        }
    }
}

impl Notes {
    fn next(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst)
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().expect("nobody panicked with the notes")
    }

    fn note(&self, id: Option<(Uuid, u64)>, now: u64, call: Call, answer: Answer) {
        let answered = self.next();
        let mut lists = self.lists();
        let made = id.and_then(|id| lists.open.remove(&id)).unwrap_or(now);
        // What was deferred comes into being some time later.
        for jobs in deferred(&call, &answer) {
            let answer = Answer::Enqueue(vec![EnqueueAnswer::Inserted; jobs.jobs.len()]);
            lists.calls.push(Recorded { task: 0, made, answered: u64::MAX, call: Call::Enqueue(jobs), answer });
        }
        lists.calls.push(Recorded { task: 0, made, answered, call, answer });
    }
}

fn deferred(call: &Call, answer: &Answer) -> Vec<EnqueueRequest> {
    let (Call::Exchange(request), Answer::Exchange(answer)) = (call, answer) else { return Vec::new() };
    let mut requests = Vec::new();
    for (settlement, answer) in request.settlements.iter().zip(&answer.settled) {
        let SettleAnswer::Settled { follow_ups, .. } = answer else { continue };
        for (job, answer) in settlement.follow_ups.iter().zip(follow_ups) {
            if *answer == EnqueueAnswer::Deferred {
                requests.push(EnqueueRequest { call: None, queue: job.queue.clone(), jobs: vec![job.clone()] });
            }
        }
    }
    requests
}

#[async_trait]
impl Jobs for Witness {
    async fn enqueue(&self, request: EnqueueRequest) -> Result<Vec<EnqueueAnswer>, StorageError> {
        let call = Call::Enqueue(request.clone());
        self.through(call, self.inner.enqueue(request), |answers| Answer::Enqueue(answers.clone())).await
    }

    async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        let call = Call::Exchange(request.clone());
        self.through(call, self.inner.exchange(request), |answer| Answer::Exchange(answer.clone())).await
    }

    async fn renew(&self, request: RenewRequest) -> Result<Vec<RenewAnswer>, StorageError> {
        let call = Call::Renew(request.clone());
        self.through(call, self.inner.renew(request), |answers| Answer::Renew(answers.clone())).await
    }

    async fn annotate(&self, queue: &QueueName, notes: Vec<(Lease, Note)>) -> Result<Vec<NoteAnswer>, StorageError> {
        let call = Call::Annotate { queue: queue.clone(), notes: notes.clone() };
        self.through(call, self.inner.annotate(queue, notes), |answers| Answer::Annotate(answers.clone())).await
    }

    async fn sweep(&self, request: SweepRequest) -> Result<SweepAnswer, StorageError> {
        let call = Call::Sweep(request.clone());
        self.through(call, self.inner.sweep(request), |answer| Answer::Sweep(*answer)).await
    }

    fn signals(&self, queue: &QueueName) -> SignalReceiver {
        self.inner.signals(queue)
    }

    async fn watch(&self, queue: &QueueName, id: JobId) -> Result<JobWatch, StorageError> {
        self.inner.watch(queue, id).await
    }
}

#[async_trait]
impl Inspect for Witness {
    async fn job(&self, queue: Option<&QueueName>, id: JobId) -> Result<Option<JobRecord>, StorageError> {
        self.inner.job(queue, id).await
    }

    async fn explain(&self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError> {
        self.inner.explain(queue, id).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StorageError> {
        self.inner.list(request).await
    }

    async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, StorageError> {
        self.inner.counts(queue).await
    }

    async fn queues(&self) -> Result<Vec<QueueName>, StorageError> {
        self.inner.queues().await
    }

    async fn now(&self, queue: &QueueName) -> Result<Timestamp, StorageError> {
        self.inner.now(queue).await
    }
}

#[async_trait]
impl Control for Witness {
    async fn act(&self, request: ActRequest) -> Result<ActReport, StorageError> {
        let call = Call::Act { request: request.clone(), order: Vec::new() };
        self.through(call, self.inner.act(request), |report| Answer::Act(report.clone())).await
    }

    async fn config(&self, queue: &QueueName) -> Result<QueueConfig, StorageError> {
        self.inner.config(queue).await
    }

    async fn configure(&self, queue: &QueueName, config: QueueConfig) -> Result<(), StorageError> {
        self.inner.configure(queue, config).await
    }

    async fn configure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: Option<LanePolicy>,
    ) -> Result<(), StorageError> {
        self.inner.configure_lane(queue, lane, policy).await
    }

    async fn reconfigure(
        &self,
        queue: &QueueName,
        from: QueueConfig,
        to: QueueConfig,
    ) -> Result<Reconfigured<QueueConfig>, StorageError> {
        self.inner.reconfigure(queue, from, to).await
    }

    async fn reconfigure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        from: Option<LanePolicy>,
        to: Option<LanePolicy>,
    ) -> Result<Reconfigured<Option<LanePolicy>>, StorageError> {
        self.inner.reconfigure_lane(queue, lane, from, to).await
    }

    async fn lane_policy(&self, queue: &QueueName, lane: &LaneKey) -> Result<Option<LanePolicy>, StorageError> {
        self.inner.lane_policy(queue, lane).await
    }

    async fn lane_policies(
        &self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Result<Vec<(LaneKey, LanePolicy)>, StorageError> {
        self.inner.lane_policies(queue, after, max_items).await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, StorageError> {
        self.inner.set_paused(queue, paused).await
    }

    async fn obliterate(
        &self,
        queue: &QueueName,
        force: bool,
        max_items: usize,
    ) -> Result<ObliterateAnswer, StorageError> {
        self.inner.obliterate(queue, force, max_items).await
    }
}

#[async_trait]
impl Limits for Witness {
    async fn acquire(&self, request: AcquireRequest) -> Result<AcquireAnswer, StorageError> {
        self.inner.acquire(request).await
    }

    async fn peek(&self, limiter: &LimiterName, rate: &Rate, permits: u32) -> Result<AcquireAnswer, StorageError> {
        self.inner.peek(limiter, rate, permits).await
    }

    async fn reset(&self, limiter: &LimiterName) -> Result<(), StorageError> {
        self.inner.reset(limiter).await
    }
}

#[async_trait]
impl Batches for Witness {
    async fn gather(&self, queue: &QueueName, lease: Lease, max_items: usize) -> Result<GatherAnswer, StorageError> {
        let call = Call::Gather { queue: queue.clone(), lease, max_items };
        self.through(call, self.inner.gather(queue, lease, max_items), |answer| Answer::Gather(*answer)).await
    }

    async fn members(&self, request: MembersRequest) -> Result<MembersAnswer, StorageError> {
        self.inner.members(request).await
    }
}

#[async_trait]
impl EventLog for Witness {
    async fn events(
        &self,
        queue: &QueueName,
        after: EventCursor,
        max_entries: usize,
    ) -> Result<EventPage, StorageError> {
        self.inner.events(queue, after, max_entries).await
    }

    async fn last_event(&self, queue: &QueueName) -> Result<EventCursor, StorageError> {
        self.inner.last_event(queue).await
    }
}

#[async_trait]
impl Transfer for Witness {
    async fn dump(
        &self,
        queue: &QueueName,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<DumpPage, StorageError> {
        self.inner.dump(queue, after, max_items).await
    }

    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Result<RestoreAnswer, StorageError> {
        self.inner.restore(queue, page).await
    }
}

#[async_trait]
impl Storage for Witness {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn second_handle(&self) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(self.beside(self.inner.second_handle().await?))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
