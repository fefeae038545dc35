//! A store under test, one queue of it, and shorthands for what a worker, a client and an operator do. A call that
//! fails as a whole fails the case: where an error is what a case expects, it calls the storage itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::{Clock, Timestamp};
use ferroq_core::event::{Event, EventCursor, EventKind};
use ferroq_core::job::{ErrorKind, JobId, JobKind, JobRecord, JobSpec, JobState, Payload, QueueName, WorkerId};
use ferroq_core::storage::{
    Act, ActAnswer, ActReport, ActRequest, CallId, Capabilities, Claim, ClaimAnswer, ClaimSpec, DedupEntry,
    EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest, JobFilter, Lease, ListRequest, Note, NoteAnswer,
    Outcome, PolicyEntry, QueueConfig, QueueCounts, RenewAnswer, RenewRequest, RunError, Selection, SettleAnswer,
    Settlement, StartsEntry, Storage, StorageExt, SweepAnswer, SweepRequest,
};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::Fixture;
use super::spec::{KIND, kind, spec};

/// The term of the leases that a [`Scene`] claims with, unless told otherwise.
pub const TERM: Duration = Duration::from_secs(30);

/// So many pages, steps or rounds are given to whatever should end by itself, before it is taken to hang.
const ROUNDS_MAX: usize = 100_000;

/// A queue's name that is known to be good.
pub fn queue_name(name: &str) -> QueueName {
    QueueName::new(name).expect("a queue name that follows the rule for names")
}

/// The run succeeded and returned nothing.
pub fn completed() -> Outcome {
    Outcome::Completed { result: None }
}

/// The run failed; the job waits this long before the next.
pub fn fail(delay: Duration) -> Outcome {
    Outcome::Retry { error: RunError::new(ErrorKind::Error, "it failed"), delay }
}

/// The run failed for good.
pub fn abort() -> Outcome {
    Outcome::Abort { error: RunError::new(ErrorKind::Abort, "it is of no use") }
}

/// The handler goes on this much later.
pub fn snoozed(delay: Duration) -> Outcome {
    Outcome::Snooze { delay }
}

/// The worker gives the job back.
pub fn released() -> Outcome {
    Outcome::Release
}

/// The answer to a settlement without follow-ups that took the job to `state`.
pub fn settled(state: JobState) -> SettleAnswer {
    SettleAnswer::Settled { state, follow_ups: Vec::new() }
}

/// All that a store holds of a queue, as [`Transfer::dump`](ferroq_core::storage::Transfer::dump) tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDump {
    /// The settings.
    pub config: QueueConfig,
    /// The held keys, in the order of keys.
    pub dedup: Vec<DedupEntry>,
    /// The lanes' own policies, in the order of lanes.
    pub policies: Vec<PolicyEntry>,
    /// The starts that are remembered, in the order of what they are of.
    pub starts: Vec<StartsEntry>,
    /// The jobs, in the order of a list.
    pub jobs: Vec<JobRecord>,
}

/// Dumps a whole queue in pages of `page` jobs.
pub async fn dump_queue(storage: &dyn Storage, queue: &QueueName, page: usize) -> QueueDump {
    let mut dump = QueueDump::default();
    let mut after = None;
    for round in 0..ROUNDS_MAX {
        let part = storage.dump(queue, after, page).await.expect("dump");
        assert!(part.jobs.len() <= page, "a page holds more than it was asked for");
        if round == 0 {
            dump.config = part.config.unwrap_or_default();
            dump.dedup = part.dedup;
            dump.policies = part.policies;
            dump.starts = part.starts;
        }
        dump.jobs.extend(part.jobs);
        after = part.next;
        if after.is_none() {
            return dump;
        }
    }
    panic!("the dump of {queue} does not end");
}

/// Where a scene asks for other stores. The builder is only lent to the one who plays the case, so it builds them there.
pub(crate) type OtherStores = mpsc::UnboundedSender<oneshot::Sender<Fixture>>;

/// A store under test and one queue of it.
pub struct Scene {
    /// The store.
    pub fixture: Fixture,
    /// The queue that the shorthands are about.
    pub queue: QueueName,
    session: Uuid,
    calls: u64,
    others: Option<OtherStores>,
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Scene {
    /// A scene on this store, about a queue called `queue`.
    pub fn new(fixture: Fixture) -> Self {
        Scene { fixture, queue: queue_name("queue"), session: Uuid::now_v7(), calls: 0, others: None }
    }

    /// A scene on this store that can ask for other stores of the same sort.
    pub(crate) fn with_others(fixture: Fixture, others: OtherStores) -> Self {
        Scene { others: Some(others), ..Scene::new(fixture) }
    }

    /// A scene on another fresh store of the same sort.
    pub(crate) async fn another_store(&self) -> Scene {
        let (answer, store) = oneshot::channel();
        let others = self.others.clone().expect("a scene that the suite plays");
        others.send(answer).expect("the suite builds stores while a case runs");
        Scene::with_others(store.await.expect("a store"), others)
    }

    /// The store's handle.
    pub fn storage(&self) -> &dyn Storage {
        self.fixture.storage.as_ref()
    }

    /// What the store can do.
    pub fn capabilities(&self) -> Capabilities {
        self.storage().capabilities()
    }

    /// The reading of the clock.
    pub fn clock(&self) -> Timestamp {
        self.fixture.clock.now()
    }

    /// Moves the clock on.
    pub fn advance(&self, span: Duration) {
        self.fixture.clock.advance(span);
    }

    /// Moves the clock on by `span`, with a call that attends to the queue at least every half [`TERM`], so that no
    /// lease is extended as after an outage. Nothing is swept.
    pub async fn attend_for(&self, span: Duration) {
        let mut left = span;
        while !left.is_zero() {
            let step = left.min(TERM / 2);
            self.advance(step);
            left -= step;
            self.attend().await;
        }
    }

    /// A call that attends to the queue and does nothing else: it renews a lease of a job that does not exist.
    pub async fn attend(&self) {
        let nobody = Lease { id: JobId::new(), epoch: 1 };
        assert_eq!(self.renew(nobody).await, RenewAnswer::Gone);
    }

    /// A job of the queue.
    pub fn spec(&self) -> JobSpec {
        spec(&self.queue)
    }

    /// The number of a new call of this scene's session, acknowledging nothing.
    pub fn call(&mut self) -> CallId {
        let number = self.calls;
        self.calls += 1;
        CallId { session: self.session, number, acknowledged_below: 0 }
    }

    /// Enqueues jobs in one call and answers what the storage answered.
    pub async fn enqueue(&self, jobs: impl IntoIterator<Item = JobSpec>) -> Vec<EnqueueAnswer> {
        let jobs: Vec<_> = jobs.into_iter().map(Arc::new).collect();
        let queue = jobs.first().map_or_else(|| self.queue.clone(), |job| job.queue.clone());
        self.storage().enqueue(EnqueueRequest { call: None, queue, jobs }).await.expect("enqueue")
    }

    /// Enqueues jobs that must all be inserted, and answers their ids.
    pub async fn put(&self, jobs: impl IntoIterator<Item = JobSpec>) -> Vec<JobId> {
        let jobs: Vec<_> = jobs.into_iter().collect();
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        let answers = self.enqueue(jobs).await;
        assert_eq!(answers, vec![EnqueueAnswer::Inserted; ids.len()]);
        ids
    }

    /// Enqueues one job that must be inserted.
    pub async fn put_one(&self, job: JobSpec) -> JobId {
        self.put([job]).await[0]
    }

    /// Enqueues `count` ordinary jobs.
    pub async fn put_many(&self, count: usize) -> Vec<JobId> {
        self.put((0..count).map(|_| self.spec())).await
    }

    /// What this scene's worker asks for: jobs of [`KIND`] for [`TERM`], alone in its process.
    pub fn asking(&self, max_items: usize) -> ClaimSpec {
        self.asking_for(&[KIND], max_items)
    }

    /// The same for other kinds.
    pub fn asking_for(&self, kinds: &[&str], max_items: usize) -> ClaimSpec {
        ClaimSpec {
            kinds: kinds.iter().map(|name| kind(name)).collect::<Vec<JobKind>>().into(),
            max_items,
            max_bytes: usize::MAX,
            term: TERM,
            worker: WorkerId::new("worker-1").expect("a good worker id"),
            alone: true,
        }
    }

    /// Claims as [`asking`](Self::asking) says.
    pub async fn claim(&self, max_items: usize) -> Vec<Claim> {
        self.claim_as(self.asking(max_items)).await.claims
    }

    /// Claims one job, which must be there.
    pub async fn claim_one(&self) -> Claim {
        self.claim(1).await.pop().expect("a job to claim")
    }

    /// Claims and answers what the storage answered.
    pub async fn claim_as(&self, claim: ClaimSpec) -> ClaimAnswer {
        self.storage().claim(None, &self.queue, claim).await.expect("claim")
    }

    /// Settles one run.
    pub async fn settle(&self, lease: Lease, outcome: Outcome) -> SettleAnswer {
        self.settle_all(vec![Settlement { lease, outcome, follow_ups: Vec::new() }]).await.remove(0)
    }

    /// Settles one run with follow-ups.
    pub async fn settle_with(
        &self,
        lease: Lease,
        outcome: Outcome,
        follow_ups: impl IntoIterator<Item = JobSpec>,
    ) -> SettleAnswer {
        let follow_ups = follow_ups.into_iter().map(Arc::new).collect();
        self.settle_all(vec![Settlement { lease, outcome, follow_ups }]).await.remove(0)
    }

    /// Settles runs in one call.
    pub async fn settle_all(&self, settlements: Vec<Settlement>) -> Vec<SettleAnswer> {
        let asked = settlements.len();
        let answers = self.storage().settle(None, &self.queue, settlements).await.expect("settle");
        assert_eq!(answers.len(), asked, "one answer per settlement");
        answers
    }

    /// Exchanges in one call.
    pub async fn exchange(
        &self,
        call: Option<CallId>,
        settlements: Vec<Settlement>,
        claim: Option<ClaimSpec>,
    ) -> ExchangeAnswer {
        let request = ExchangeRequest { call, queue: self.queue.clone(), settlements, claim };
        self.storage().exchange(request).await.expect("exchange")
    }

    /// Enqueues a job, claims it (it must be next) and settles it with `outcome`; answers its id.
    pub async fn run(&self, job: JobSpec, outcome: Outcome) -> JobId {
        let id = self.put_one(job).await;
        let claim = self.claim_one().await;
        assert_eq!(claim.lease.id, id, "the job is next in line");
        let answer = self.settle(claim.lease, outcome).await;
        assert!(matches!(answer, SettleAnswer::Settled { .. }), "{answer:?}");
        id
    }

    /// Renews one lease for [`TERM`].
    pub async fn renew(&self, lease: Lease) -> RenewAnswer {
        let request = RenewRequest { queue: self.queue.clone(), leases: vec![lease], term: TERM };
        let answers = self.storage().renew(request).await.expect("renew");
        assert_eq!(answers.len(), 1, "one answer per lease");
        answers[0]
    }

    /// Writes one note.
    pub async fn annotate(&self, lease: Lease, note: Note) -> NoteAnswer {
        let answers = self.storage().annotate(&self.queue, vec![(lease, note)]).await.expect("annotate");
        assert_eq!(answers.len(), 1, "one answer per note");
        answers[0]
    }

    /// One step of a sweep.
    pub async fn sweep(&self, max_items: usize) -> SweepAnswer {
        self.storage().sweep(SweepRequest { queue: self.queue.clone(), max_items }).await.expect("sweep")
    }

    /// Lets every lease of [`TERM`] that was just claimed run out, attended, and sweeps once.
    pub async fn let_leases_expire(&self) -> SweepAnswer {
        self.attend_for(TERM).await;
        self.sweep(1000).await
    }

    /// Acts on one job.
    pub async fn act(&self, id: JobId, act: Act) -> ActAnswer {
        let answers = self.act_on(Selection::Ids(vec![id]), act).await.answers;
        assert_eq!(answers.len(), 1, "one answer per id");
        assert_eq!(answers[0].0, id, "the answer names its job");
        answers[0].1
    }

    /// Acts on some jobs.
    pub async fn act_on(&self, on: Selection, act: Act) -> ActReport {
        let request = ActRequest { call: None, queue: self.queue.clone(), on, act };
        self.storage().act(request).await.expect("act")
    }

    /// A job's record, if there is one.
    pub async fn find(&self, id: JobId) -> Option<JobRecord> {
        self.storage().job(Some(&self.queue), id).await.expect("job")
    }

    /// A job's record, which must be there.
    pub async fn record(&self, id: JobId) -> JobRecord {
        self.find(id).await.unwrap_or_else(|| panic!("the record of {id} is gone"))
    }

    /// A job's state; its record must be there.
    pub async fn state(&self, id: JobId) -> JobState {
        self.record(id).await.state
    }

    /// Every record that matches, in pages of `page`.
    pub async fn list(&self, filter: JobFilter, page: usize) -> Vec<JobRecord> {
        let mut jobs = Vec::new();
        let mut after = None;
        for _ in 0..ROUNDS_MAX {
            let request = ListRequest { queue: self.queue.clone(), filter: filter.clone(), after, max_items: page };
            let part = self.storage().list(request).await.expect("list");
            assert!(part.jobs.len() <= page, "a page holds more than it was asked for");
            jobs.extend(part.jobs);
            after = part.next;
            if after.is_none() {
                return jobs;
            }
        }
        panic!("the list of {} does not end", self.queue);
    }

    /// The queue's counts.
    pub async fn counts(&self) -> QueueCounts {
        self.storage().counts(&self.queue).await.expect("counts")
    }

    /// All that the store holds of the queue.
    pub async fn dump(&self) -> QueueDump {
        dump_queue(self.storage(), &self.queue, 1000).await
    }

    /// Changes the queue's settings.
    pub async fn configure(&self, change: impl FnOnce(&mut QueueConfig)) {
        let mut config = self.storage().config(&self.queue).await.expect("config");
        change(&mut config);
        self.storage().configure(&self.queue, config).await.expect("configure");
    }

    /// The cursor behind the last event.
    pub async fn last_event(&self) -> EventCursor {
        self.storage().last_event(&self.queue).await.expect("last_event")
    }

    /// The events after a cursor, all of which must still be there.
    pub async fn events_after(&self, after: EventCursor) -> Vec<Event> {
        let mut events = Vec::new();
        let mut next = after;
        for _ in 0..ROUNDS_MAX {
            let page = self.storage().events(&self.queue, next, 100).await.expect("events");
            assert!(!page.missed, "events were dropped before they were read");
            if page.events.is_empty() {
                return events;
            }
            assert!(page.next > next, "the cursor moves on");
            next = page.next;
            events.extend(page.events);
        }
        panic!("the events of {} do not end", self.queue);
    }

    /// What happened to which job after a cursor.
    pub async fn happened_after(&self, after: EventCursor) -> Vec<(EventKind, Option<JobId>)> {
        self.events_after(after).await.into_iter().map(|event| (event.kind, event.job)).collect()
    }

    /// Bytes as a payload.
    pub fn bytes(bytes: &[u8]) -> Payload {
        Payload::json(bytes.to_vec())
    }
}
