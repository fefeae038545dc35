//! A settlement with follow-ups for several queues, and what must have become of them in the end: each is there once, in
//! order, or its key was held. The same follow-ups are known to the process that sends them and to the test that looks
//! for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{JobId, JobSpec, JobState, QueueName, WorkerId};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{
    ClaimSpec, EnqueueAnswer, EnqueueRequest, SettleAnswer, Settlement, Storage, StorageError, StorageExt,
};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{KIND, SpecExt, TERM, completed, kind, queue_name, spec};
use ferroq_testkit::model::Snapshot;
use serde::{Deserialize, Serialize};

use super::letters::Deed;
use crate::jobs::id_of;

/// Where the settled jobs are.
pub const SOURCE: &str = "source";
/// Where their follow-ups go, and some stay at home.
pub const DESTINATIONS: [&str; 3] = ["left", "right", SOURCE];

/// How many jobs are settled, and how many follow-ups each has: enough for several reads of the outbox.
const SETTLED: u64 = 4;
const EACH: u64 = 90;

/// What a child process is to do: settle everything, and die at a visit to a step of the relay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The server.
    pub url: String,
    /// The namespace.
    pub namespace: String,
    /// The step's name.
    pub step: String,
    /// Which visit to it.
    pub visit: u64,
    /// What to do instead of settling a series: something about dead letters.
    pub deed: Option<Deed>,
}

/// A series of follow-ups; a second one has other ids.
#[derive(Clone, Copy, Debug)]
pub struct Series(pub u64);

impl Series {
    fn numbers(self) -> std::ops::Range<u64> {
        let first = self.0 * 1_000_000;
        first..first + SETTLED * EACH
    }

    fn follow_up(self, n: u64) -> JobSpec {
        let mut job = spec(&queue_name(DESTINATIONS[n as usize % 3]));
        job.id = id_of(n);
        match key(n) {
            Some(key) => job.dedup(&key, DedupMode::UntilFinished),
            None => job,
        }
    }

    /// Makes the jobs to settle, and others that hold some of the follow-ups' keys.
    ///
    /// # Panics
    /// If the storage fails.
    pub async fn prepare(self, storage: &dyn Storage) {
        for destination in DESTINATIONS {
            let queue = queue_name(destination);
            let held = self.numbers().filter(|n| DESTINATIONS[*n as usize % 3] == destination);
            let holders = held.filter_map(|n| {
                let job = spec(&queue).dedup(&key(n)?, DedupMode::UntilFinished);
                Some(JobSpec { id: holder_of(n), start: ferroq_core::job::Start::After(TERM * 100), ..job })
            });
            put(storage, &queue, holders.collect()).await;
        }
        self.prepare_reachable(storage).await;
    }

    /// Makes the jobs to settle, and no others.
    ///
    /// # Panics
    /// If the storage fails.
    pub async fn prepare_reachable(self, storage: &dyn Storage) {
        let queue = queue_name(SOURCE);
        put(storage, &queue, (0..SETTLED).map(|_| spec(&queue).priority(0)).collect()).await;
    }

    /// Claims the jobs and settles them with their follow-ups, in one call.
    ///
    /// # Errors
    /// The storage's.
    pub async fn settle(self, storage: &dyn Storage) -> Result<Vec<SettleAnswer>, StorageError> {
        let queue = queue_name(SOURCE);
        let claim = ClaimSpec {
            kinds: Arc::new([kind(KIND)]),
            max_items: SETTLED as usize,
            max_bytes: usize::MAX,
            term: TERM,
            worker: WorkerId::new("relay").expect("a name"),
            alone: false,
        };
        let claims = storage.claim(None, &queue, claim).await?.claims;
        assert_eq!(claims.len() as u64, SETTLED, "the jobs to settle come first");
        let mut numbers = self.numbers();
        let settlements = claims.into_iter().map(|claim| {
            let follow_ups = numbers.by_ref().take(EACH as usize).map(|n| Arc::new(self.follow_up(n))).collect();
            Settlement { lease: claim.lease, outcome: completed(), follow_ups }
        });
        storage.settle(None, &queue, settlements.collect()).await
    }

    /// What the settlements must answer about their follow-ups, where all queues can be reached.
    pub fn answers(self) -> Vec<SettleAnswer> {
        let answer = |n| match key(n) {
            Some(_) => EnqueueAnswer::Duplicate(holder_of(n)),
            None => EnqueueAnswer::Inserted,
        };
        let answers: Vec<_> = self.numbers().map(answer).collect();
        let settled =
            |follow_ups: &[_]| SettleAnswer::Settled { state: JobState::Completed, follow_ups: follow_ups.to_vec() };
        answers.chunks(EACH as usize).map(settled).collect()
    }

    /// The follow-ups that must come to be in a queue, in their order.
    pub fn expected(self, queue: &str) -> Vec<JobId> {
        let there = self.numbers().filter(|n| DESTINATIONS[*n as usize % 3] == queue && key(*n).is_none());
        there.map(id_of).collect()
    }

    /// The follow-ups that are in a queue, in the order of their seqs.
    pub fn found(self, snapshot: &Snapshot, queue: &str) -> Vec<JobId> {
        let ids: BTreeMap<JobId, u64> = self.numbers().map(|n| (id_of(n), n)).collect();
        let jobs = snapshot.queues.get(&queue_name(queue)).map(|queue| &queue.jobs[..]).unwrap_or_default();
        let mut found: Vec<_> =
            jobs.iter().filter(|job| ids.contains_key(&job.id())).map(|job| (job.seq, job.id())).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Every follow-up is in its queue once, in order.
    ///
    /// # Panics
    /// If that is not so.
    pub fn all_arrived(self, snapshot: &Snapshot) {
        for queue in DESTINATIONS {
            assert_eq!(self.found(snapshot, queue), self.expected(queue), "the follow-ups in {queue:?}");
        }
    }
}

fn key(n: u64) -> Option<String> {
    (n % 7 == 3).then(|| format!("key {n}"))
}

fn holder_of(n: u64) -> JobId {
    id_of(n + 500_000)
}

async fn put(storage: &dyn Storage, queue: &QueueName, jobs: Vec<JobSpec>) {
    let count = jobs.len();
    let request = EnqueueRequest { call: None, queue: queue.clone(), jobs: jobs.into_iter().map(Arc::new).collect() };
    assert_eq!(storage.enqueue(request).await.expect("enqueue"), vec![EnqueueAnswer::Inserted; count]);
}

/// A handle that calls `hook` with the name of each step of a relay, and how often that step was come to.
///
/// # Panics
/// If the server does not answer.
pub async fn open_with(
    url: &str,
    namespace: &str,
    hook: impl Fn(&'static str, u64) + Send + Sync + 'static,
) -> Arc<RedisStorage> {
    open_on(url, namespace, None, hook).await
}

/// The same, on a clock of its own if one is given.
///
/// # Panics
/// If the server does not answer.
pub async fn open_on(
    url: &str,
    namespace: &str,
    clock: Option<ManualClock>,
    hook: impl Fn(&'static str, u64) + Send + Sync + 'static,
) -> Arc<RedisStorage> {
    let visits = std::sync::Mutex::new(BTreeMap::<&'static str, u64>::new());
    let options = RedisOptions::from_url(url).expect("a URL").namespace(namespace).on_step(move |step| {
        let mut visits = visits.lock().expect("nobody panicked with the visits");
        let visit = visits.entry(step).or_default();
        *visit += 1;
        let visit = *visit;
        drop(visits);
        hook(step, visit);
    });
    let options = match clock {
        Some(clock) => options.clock(Arc::new(clock)),
        None => options,
    };
    Arc::new(RedisStorage::open(options).await.expect("the server answers"))
}
