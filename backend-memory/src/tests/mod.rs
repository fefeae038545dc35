//! Each rule of `docs/contract.md` as a claim about this backend, against a clock that moves only when told to. The
//! shared conformance suite says the same about all backends; these tests are here to fail close to the code.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod acts;
mod claims;
mod ends;
mod enqueues;
mod handles;
mod log;
mod moves;
mod times;

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::event::{EventCursor, EventKind};
use ferroq_core::job::{ErrorKind, JobId, JobKind, JobOptions, JobRecord, JobSpec, Payload, QueueName, WorkerId};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::storage::{
    Act, ActAnswer, ActRequest, CallId, Claim, ClaimAnswer, ClaimSpec, Control, EnqueueAnswer, EnqueueRequest,
    EventLog, Inspect, Jobs, Lease, Outcome, QueueConfig, RunError, Selection, SettleAnswer, Settlement, StorageExt,
    SweepAnswer, SweepRequest,
};
use uuid::Uuid;

use crate::MemoryStorage;

const TERM: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn q(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn kind(name: &str) -> JobKind {
    JobKind::new(name).unwrap()
}

fn call(number: u64) -> Option<CallId> {
    Some(CallId { session: Uuid::from_u128(7), number, acknowledged_below: 0 })
}

fn asking(kinds: &[&str], max_items: usize) -> ClaimSpec {
    ClaimSpec {
        kinds: kinds.iter().map(|name| kind(name)).collect(),
        max_items,
        max_bytes: usize::MAX,
        term: TERM,
        worker: WorkerId::new("w").unwrap(),
        alone: false,
    }
}

fn done() -> Outcome {
    Outcome::Completed { result: None }
}

fn failed(delay: Duration) -> Outcome {
    Outcome::Retry { error: RunError::new(ErrorKind::Error, "no"), delay }
}

/// A store, its clock, and the queue `q` that most tests need one of.
struct Bench {
    store: MemoryStorage,
    clock: ManualClock,
    q: QueueName,
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::default();
        let store = MemoryStorage::builder().clock(Arc::new(clock.clone())).build();
        Bench { store, clock, q: q("q") }
    }

    fn spec(&self) -> JobSpec {
        JobSpec::new(self.q.clone(), kind("k"), Payload::json("1"))
    }

    fn spec_with(&self, change: impl FnOnce(&mut JobOptions)) -> JobSpec {
        let mut options = JobOptions::default();
        change(&mut options);
        JobSpec { options: Arc::new(options), ..self.spec() }
    }

    fn keyed(&self, mode: DedupMode) -> JobSpec {
        let dedup = Dedup { key: "same".try_into().unwrap(), mode };
        JobSpec { dedup: Some(dedup), ..self.spec() }
    }

    async fn enqueue(&self, spec: JobSpec) -> EnqueueAnswer {
        self.enqueue_all(vec![spec]).await[0]
    }

    async fn enqueue_all(&self, specs: Vec<JobSpec>) -> Vec<EnqueueAnswer> {
        let jobs = specs.into_iter().map(Arc::new).collect();
        self.store.enqueue(EnqueueRequest { call: None, queue: self.q.clone(), jobs }).await.unwrap()
    }

    /// Enqueues a job that must be new.
    async fn add(&self, spec: JobSpec) -> JobId {
        let id = spec.id;
        assert_eq!(self.enqueue(spec).await, EnqueueAnswer::Inserted);
        id
    }

    async fn ask(&self, spec: ClaimSpec) -> ClaimAnswer {
        self.store.claim(None, &self.q, spec).await.unwrap()
    }

    async fn claim(&self, max_items: usize) -> Vec<Claim> {
        self.ask(asking(&["k"], max_items)).await.claims
    }

    /// Claims one job that must be there.
    async fn take(&self) -> Claim {
        self.claim(1).await.pop().expect("a job waits")
    }

    async fn settle(&self, lease: Lease, outcome: Outcome) -> SettleAnswer {
        self.settle_with(lease, outcome, Vec::new()).await
    }

    async fn settle_with(&self, lease: Lease, outcome: Outcome, follow_ups: Vec<JobSpec>) -> SettleAnswer {
        let follow_ups = follow_ups.into_iter().map(Arc::new).collect();
        let settlement = Settlement { lease, outcome, follow_ups };
        self.store.settle(None, &self.q, vec![settlement]).await.unwrap().remove(0)
    }

    async fn sweep(&self) -> SweepAnswer {
        self.store.sweep(SweepRequest { queue: self.q.clone(), max_items: 1000 }).await.unwrap()
    }

    /// Lets a lease run out without letting it look like an outage, and takes it.
    async fn crash(&self) -> SweepAnswer {
        for _ in 0..3 {
            self.clock.advance(TERM / 3);
            let answer = self.sweep().await;
            if answer.stalled > 0 {
                return answer;
            }
        }
        panic!("no lease ran out");
    }

    async fn act(&self, id: JobId, act: Act) -> ActAnswer {
        let request = ActRequest { call: None, queue: self.q.clone(), on: Selection::Ids(vec![id]), act };
        self.store.act(request).await.unwrap().answers[0].1
    }

    async fn find(&self, id: JobId) -> Option<JobRecord> {
        self.store.job(Some(&self.q), id).await.unwrap()
    }

    async fn record(&self, id: JobId) -> JobRecord {
        self.find(id).await.expect("the record is kept")
    }

    async fn configure(&self, change: impl FnOnce(&mut QueueConfig)) {
        let mut config = self.store.config(&self.q).await.unwrap();
        change(&mut config);
        self.store.configure(&self.q, config).await.unwrap();
    }

    async fn log(&self) -> Vec<EventKind> {
        let page = self.store.events(&self.q, EventCursor(0), usize::MAX).await.unwrap();
        page.events.iter().map(|event| event.kind).collect()
    }
}

fn ids(claims: &[Claim]) -> Vec<JobId> {
    claims.iter().map(|claim| claim.lease.id).collect()
}
