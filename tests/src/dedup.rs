//! Many processes that enqueue under the same few keys, in every mode, and work on the jobs; and what must be so about the
//! keys at every moment, and once all of them are dead and the rest is worked off.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::job::{ErrorKind, JobRecord, JobSpec, JobState, QueueName, WorkerId};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{
    Act, ActRequest, ClaimSpec, EnqueueAnswer, EnqueueRequest, ExchangeRequest, JobFilter, Lease, ListRequest, Outcome,
    RunError, Selection, Settlement, Storage, StorageError, SweepRequest,
};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{KIND, SpecExt, audit, kind, queue_name, spec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::store;
use crate::wait::until;

/// How many keys each mode has.
const KEYS: u8 = 2;
/// The lease of every claim: short, so that what a killed process held is soon taken over.
const TERM: Duration = Duration::from_millis(100);
const SPAN: Duration = Duration::from_millis(2);

/// Every mode, with the name that its keys begin with.
const MODES: [(&str, DedupMode); 6] = [
    ("finished", DedupMode::UntilFinished),
    ("time", DedupMode::For(Duration::from_millis(20))),
    ("kept", DedupMode::WhileKept),
    ("debounce", DedupMode::Debounce(SPAN)),
    ("latest", DedupMode::KeepLatest),
    ("coalesce", DedupMode::Coalesce { count: 4, max_wait: SPAN }),
];

/// Where the store is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Place {
    /// A file.
    Sqlite(PathBuf),
    /// A server and a namespace.
    Redis(String, String),
}

impl Place {
    /// Opens the store.
    ///
    /// # Panics
    /// If it can't be opened.
    pub async fn open(&self) -> Arc<dyn Storage> {
        match self {
            Place::Sqlite(db) => Arc::new(store::sqlite(db).await),
            Place::Redis(url, namespace) => {
                let options = RedisOptions::from_url(url).expect("a URL").namespace(namespace);
                Arc::new(RedisStorage::open(options).await.expect("the server answers"))
            }
        }
    }
}

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where.
    pub place: Place,
    /// What it draws its calls from.
    pub seed: u64,
}

/// The queue of the keys.
///
/// # Panics
/// Never: the name is one.
pub fn queue() -> QueueName {
    queue_name("keyed")
}

fn keyed(mode: usize, key: u8) -> JobSpec {
    let (name, mode) = MODES[mode % MODES.len()];
    let job = spec(&queue()).dedup(&format!("{name}-{key}"), mode).attempts(3).crashes(3);
    job.options(|options| options.keep.completed = ferroq_core::policy::retention::KeepFor::Remove)
}

impl Order {
    /// Enqueues, claims, settles, cancels and sweeps, for as long as nobody kills it.
    ///
    /// # Errors
    /// What a call answered that can't be tried again.
    pub async fn toil(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut held = Vec::new();
        loop {
            match self.step(storage, &mut random, &mut held).await {
                Err(error) if !error.is_retryable() => return Err(error),
                _ => {}
            }
        }
    }

    async fn step(
        &self,
        storage: &dyn Storage,
        random: &mut StdRng,
        held: &mut Vec<Lease>,
    ) -> Result<(), StorageError> {
        let queue = queue();
        match random.random_range(0..8) {
            0..4 => {
                let jobs = (0..random.random_range(1..4))
                    .map(|_| Arc::new(keyed(random.random_range(0..MODES.len()), random.random_range(0..KEYS))));
                let jobs = jobs.collect();
                storage.enqueue(EnqueueRequest { call: None, queue, jobs }).await?;
            }
            4..6 => {
                let settlements = held.drain(..).map(|lease| settlement(lease, random)).collect();
                let claim = Some(claim(random.random_range(1..5)));
                let answer = storage.exchange(ExchangeRequest { call: None, queue, settlements, claim }).await?;
                held.extend(answer.claimed.iter().flat_map(|claimed| &claimed.claims).map(|claim| claim.lease));
            }
            6 => {
                let act = if random.random_bool(0.5) { Act::Cancel } else { Act::Remove };
                let filter = JobFilter::states([STATES[random.random_range(0..STATES.len())]]);
                let on = Selection::Filter { filter, after: None, max_items: 2 };
                storage.act(ActRequest { call: None, queue, on, act }).await?;
            }
            _ => drop(storage.sweep(SweepRequest { queue, max_items: 20 }).await?),
        }
        Ok(())
    }
}

const STATES: [JobState; 5] =
    [JobState::Waiting, JobState::Delayed, JobState::Blocked, JobState::Failed, JobState::Cancelled];

fn claim(max_items: usize) -> ClaimSpec {
    ClaimSpec {
        kinds: Arc::new([kind(KIND)]),
        max_items,
        max_bytes: usize::MAX,
        term: TERM,
        worker: WorkerId::new("toiler").expect("a name"),
        alone: true,
    }
}

fn settlement(lease: Lease, random: &mut StdRng) -> Settlement {
    let error = RunError::new(ErrorKind::Error, "it failed");
    let outcome = match random.random_range(0..6) {
        0..3 => Outcome::Completed { result: None },
        3 => Outcome::Retry { error, delay: SPAN },
        4 => Outcome::Release,
        _ => Outcome::Abort { error },
    };
    let follow_ups = (0..random.random_range(0..2)).map(|_| {
        let (mode, key) = (random.random_range(0..MODES.len()), random.random_range(0..KEYS));
        Arc::new(keyed(mode, key))
    });
    Settlement { lease, outcome, follow_ups: follow_ups.collect() }
}

/// At one moment, while others work: of the jobs that hold their key for as long as they live, each key has one, and behind
/// it at most one is pending. Answers how many were pending.
///
/// # Panics
/// If that is not so.
pub async fn one_holder_each(storage: &dyn Storage) -> usize {
    let live = [JobState::Waiting, JobState::Delayed, JobState::Blocked, JobState::Active];
    let request = ListRequest { queue: queue(), filter: JobFilter::states(live), after: None, max_items: 1000 };
    let page = storage.list(request).await.expect("list");
    assert_eq!(page.next, None, "one look sees all");
    let mut holders: HashMap<_, Vec<&JobRecord>> = HashMap::new();
    let mut pending: HashMap<_, Vec<&JobRecord>> = HashMap::new();
    for job in &page.jobs {
        let dedup = job.spec.dedup.as_ref().expect("every job has a key");
        let holds = match dedup.mode {
            DedupMode::UntilFinished | DedupMode::WhileKept | DedupMode::KeepLatest => true,
            DedupMode::For(_) => false,
            _ => job.runs == 0,
        };
        if job.state == JobState::Blocked {
            pending.entry(&dedup.key).or_default().push(job);
        } else if holds {
            holders.entry(&dedup.key).or_default().push(job);
        }
    }
    for (key, jobs) in holders.iter().chain(&pending) {
        assert!(jobs.len() <= 1, "{key:?} has {jobs:#?}");
    }
    for key in pending.keys() {
        assert!(holders.contains_key(key), "{key:?} has a pending job and no holder");
    }
    pending.len()
}

/// Once nobody else works: works everything off, removes what is left, and then every key can be taken, in every mode.
///
/// # Panics
/// If a job does not end, or a key does not come free.
pub async fn every_key_comes_free(storage: &dyn Storage) {
    audit(storage, &queue()).await;
    until("everything left is worked off", async || {
        storage.sweep(SweepRequest { queue: queue(), max_items: 1000 }).await.expect("sweep");
        let request = ExchangeRequest { call: None, queue: queue(), settlements: Vec::new(), claim: Some(claim(100)) };
        let claims = storage.exchange(request).await.expect("claim").claimed.expect("an answer").claims;
        let settlements = claims.into_iter().map(|claim| Settlement {
            lease: claim.lease,
            outcome: Outcome::Completed { result: None },
            follow_ups: Vec::new(),
        });
        let settlements = settlements.collect();
        let request = ExchangeRequest { call: None, queue: queue(), settlements, claim: None };
        storage.exchange(request).await.expect("settle");
        (storage.counts(&queue()).await.expect("counts").live() == 0).then_some(())
    })
    .await;
    audit(storage, &queue()).await;
    let ended = Selection::Filter { filter: JobFilter::default(), after: None, max_items: 100_000 };
    storage.act(ActRequest { call: None, queue: queue(), on: ended, act: Act::Remove }).await.expect("remove");
    let dump = audit(storage, &queue()).await;
    let orphans: Vec<_> = dump.dedup.iter().filter(|entry| entry.holder.until.is_none()).collect();
    assert!(orphans.is_empty(), "held by nobody: {orphans:?}");
    // A hold for a time may last a moment longer.
    until("holds for a time run out", async || {
        let now = storage.now(&queue()).await.expect("now");
        storage.sweep(SweepRequest { queue: queue(), max_items: 1 }).await.expect("sweep");
        dump.dedup.iter().all(|entry| !entry.holder.holds(now)).then_some(())
    })
    .await;
    let jobs: Vec<_> = (0..MODES.len()).flat_map(|mode| (0..KEYS).map(move |key| Arc::new(keyed(mode, key)))).collect();
    let inserted = vec![EnqueueAnswer::Inserted; jobs.len()];
    let request = EnqueueRequest { call: None, queue: queue(), jobs };
    assert_eq!(storage.enqueue(request).await.expect("enqueue"), inserted, "every key can be taken again");
}
