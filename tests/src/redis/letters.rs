//! Everything that leaves dead letters, or brings them back, as a deed that a process dies in the middle of: each is one
//! call whose script fills the outbox for several reads. What must have become of the jobs in the end is the same
//! whoever relayed.

use std::sync::Arc;

use ferroq_core::clock::{Clock, ManualClock, SystemClock};
use ferroq_core::job::{JobId, JobRecord, JobState, QueueName, WorkerId};
use ferroq_core::storage::{
    Act, ActAnswer, ActRequest, ClaimSpec, Control, EnqueueRequest, JobFilter, Jobs, ListRequest, QueueConfig,
    Selection, Settlement, Storage, StorageExt, SweepRequest,
};
use ferroq_redis::RedisStorage;
use ferroq_testkit::harness::{KIND, SpecExt, TERM, abort, kind, queue_name, spec};
use serde::{Deserialize, Serialize};

use super::relay::open_on;
use crate::jobs::id_of;

/// Where jobs fail.
pub const FAILING: &str = "failing";
/// Where their copies go.
pub const DEAD: &str = "dead";

/// How many jobs fail: enough for several reads of the outbox.
const JOBS: u64 = 250;

/// What fills the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A settlement of runs that were aborted.
    Abort,
    /// A claim that finds jobs too old to start.
    Expire,
    /// A sweep that finds lost leases.
    Crash,
    /// An operator's redrive, of what was aborted before.
    Redrive,
}

impl Deed {
    /// All of them.
    pub const ALL: [Deed; 4] = [Deed::Abort, Deed::Expire, Deed::Crash, Deed::Redrive];

    /// The queue whose outbox it fills.
    pub fn source(self) -> &'static str {
        if self == Deed::Redrive { DEAD } else { FAILING }
    }

    /// Does it, with a handle that calls `hook` at each step of its relays.
    ///
    /// # Panics
    /// If a call fails or answers something else than it must.
    pub async fn run(self, url: &str, namespace: &str, hook: impl Fn(&'static str, u64) + Send + Sync + 'static) {
        let clock = ManualClock::new(SystemClock.now());
        let plain = open_on(url, namespace, Some(clock.clone()), |_, _| {}).await;
        let hooked = open_on(url, namespace, Some(clock.clone()), hook).await;
        let queue = queue_name(FAILING);
        let mut config = QueueConfig::default();
        config.dead_letter = Some(queue_name(DEAD));
        plain.configure(&queue, config).await.expect("configure");
        let jobs = (0..JOBS).map(|n| {
            let mut job = spec(&queue).crashes(1);
            job.id = id_of(n);
            // Jobs with a single crash to lose stand in a line of their own, from which one is claimed at a time.
            let job = if self == Deed::Crash { job } else { job.crashes(3) };
            Arc::new(if self == Deed::Expire { job.expires_in(TERM) } else { job })
        });
        let request = EnqueueRequest { call: None, queue: queue.clone(), jobs: jobs.collect() };
        plain.enqueue(request).await.expect("enqueue");
        match self {
            Deed::Abort => abort_all(&hooked, &queue).await,
            Deed::Expire => {
                clock.advance(TERM + TERM / 10);
                assert!(claim(&hooked, &queue).await.is_empty(), "all were too old");
            }
            Deed::Crash => {
                for _ in 0..JOBS {
                    assert_eq!(claim(&plain, &queue).await.len(), 1, "they run alone");
                }
                let sweep = SweepRequest { queue, max_items: 1000 };
                clock.advance(TERM / 2);
                plain.sweep(sweep.clone()).await.expect("sweep");
                clock.advance(TERM / 2);
                assert_eq!(hooked.sweep(sweep).await.expect("sweep").stalled as u64, JOBS);
            }
            Deed::Redrive => {
                abort_all(&plain, &queue).await;
                while plain.sweep(SweepRequest { queue: queue.clone(), max_items: 10 }).await.expect("sweep").more {}
                let dead = queue_name(DEAD);
                let ids = list(plain.as_ref(), DEAD).await.iter().map(JobRecord::id).collect();
                let request = ActRequest { call: None, queue: dead, on: Selection::Ids(ids), act: Act::Redrive };
                let report = hooked.act(request).await.expect("act");
                let done = report.answers.iter().filter(|(_, answer)| *answer == ActAnswer::Done(JobState::Waiting));
                assert_eq!(done.count() as u64, JOBS);
            }
        }
    }

    /// Each failure left one copy, in order, or was redriven once.
    ///
    /// # Panics
    /// If that is not so.
    pub async fn all_arrived(self, storage: &dyn Storage) {
        let expected: Vec<_> = (0..JOBS).map(|n| (queue_name(FAILING), id_of(n))).collect();
        let (dead, home) = (origins(&list(storage, DEAD).await), origins(&list(storage, FAILING).await));
        let (here, none) = if self == Deed::Redrive { (home, dead) } else { (dead, home) };
        assert_eq!(none.len(), 0, "{self:?}: nothing is at the other end");
        assert_eq!(here.len(), expected.len(), "{self:?}: one for each");
        // Leases that end at one instant are lost in the order of seqs, as all others are.
        assert_eq!(here, expected, "{self:?}: in their order");
    }
}

fn origins(jobs: &[JobRecord]) -> Vec<(QueueName, JobId)> {
    let mut with: Vec<_> = jobs.iter().filter_map(|job| Some((job.seq, job.spec.origin.as_ref()?))).collect();
    with.sort_by_key(|(seq, _)| *seq);
    with.into_iter().map(|(_, origin)| (origin.queue.clone(), origin.id)).collect()
}

async fn list(storage: &dyn Storage, queue: &str) -> Vec<JobRecord> {
    let filter = JobFilter::default();
    let request = ListRequest { queue: queue_name(queue), filter, after: None, max_items: 10_000 };
    storage.list(request).await.expect("list").jobs
}

async fn claim(storage: &RedisStorage, queue: &QueueName) -> Vec<ferroq_core::storage::Claim> {
    let claim = ClaimSpec {
        kinds: Arc::new([kind(KIND)]),
        max_items: JOBS as usize,
        max_bytes: usize::MAX,
        term: TERM,
        worker: WorkerId::new("letters").expect("a name"),
        alone: true,
    };
    storage.claim(None, queue, claim).await.expect("claim").claims
}

async fn abort_all(storage: &RedisStorage, queue: &QueueName) {
    let claims = claim(storage, queue).await;
    assert_eq!(claims.len() as u64, JOBS);
    let settlements =
        claims.into_iter().map(|claim| Settlement { lease: claim.lease, outcome: abort(), follow_ups: Vec::new() });
    storage.settle(None, queue, settlements.collect()).await.expect("settle");
}
