//! A load on a queue that knows to the microsecond what it was told: producers and workers that call the storage itself,
//! under numbers of their own session, and write down when each answer came. So a test that kills the server can say
//! what had been acknowledged by then, and what had not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobId, JobSpec, JobState, QueueName, WorkerId};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::policy::retention::{KeepRule, Retention};
use ferroq_core::storage::{
    ClaimSpec, Effect, EnqueueAnswer, EnqueueRequest, ExchangeRequest, QueueConfig, Session, SettleAnswer, Settlement,
    Storage, StorageError,
};
use ferroq_core::worker::{Worker, WorkerBuilder};
use ferroq_testkit::harness::{KIND, SpecExt, completed, fail, kind, released, spec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

/// The queue of the load.
pub const QUEUE: &str = "load";
/// The queue of the follow-ups.
pub const FOLLOWERS: &str = "followers";

/// Nobody sweeps under a load, so no lease is taken away however short it is; and those that the server forgot to have ended
/// don't hold up whoever works off the rest.
const TERM: Duration = Duration::from_millis(500);

/// The job of the load, for those who work it off: nothing is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {}

impl Job for Item {
    const NAME: &'static str = KIND;
    const QUEUE: &'static str = QUEUE;
    type Output = ();
}

async fn work(_job: Item, _cx: Context) -> JobResult {
    Ok(())
}

/// A worker with a handler for the load's jobs.
pub fn worker(client: &Client) -> WorkerBuilder<()> {
    Worker::new(client).queue(QUEUE).queue(FOLLOWERS).poll_interval(Duration::from_millis(20)).handle(work)
}

/// Keeps every record and event, so that the end can be compared with what was acknowledged on the way.
pub fn keep_all() -> QueueConfig {
    let rule = KeepRule { age: Duration::from_secs(3600), count: 10_000_000 };
    let mut config = QueueConfig::default();
    config.retention = Retention { completed: rule, failed: rule, cancelled: rule };
    config.event_entries_kept = 10_000_000;
    config
}

fn name(name: &str) -> QueueName {
    QueueName::new(name).expect("a queue's name")
}

/// What was told, and when.
#[derive(Debug, Default)]
pub struct Book {
    /// Jobs that are there: when the call that brought them was made, and when it was answered.
    pub inserted: HashMap<JobId, (Instant, Instant)>,
    /// Jobs that are not, because the call failed with nothing changed.
    pub refused: BTreeSet<JobId>,
    /// Jobs that ended, and under which epoch.
    pub ended: HashMap<JobId, (i64, Instant)>,
    /// The epochs under which jobs were handed out.
    pub claimed: BTreeMap<JobId, BTreeSet<i64>>,
    /// How often a call was tried in vain.
    pub failures: u64,
}

impl Book {
    /// Jobs that were acknowledged before an instant, whether by an answer to an enqueue or as a follow-up.
    pub fn inserted_before(&self, instant: Instant) -> BTreeSet<JobId> {
        self.inserted.iter().filter(|(_, (_, told))| *told < instant).map(|(id, _)| *id).collect()
    }

    /// Jobs that were brought by calls made after an instant.
    pub fn inserted_after(&self, instant: Instant) -> BTreeSet<JobId> {
        self.inserted.iter().filter(|(_, (made, _))| *made > instant).map(|(id, _)| *id).collect()
    }

    /// Nothing whose end was acknowledged before an instant was handed out again.
    ///
    /// # Panics
    /// If something was.
    pub fn nothing_ran_again(&self, ended_before: Instant) {
        for (id, (epoch, _)) in self.ended.iter().filter(|(_, (_, at))| *at < ended_before) {
            let later = self.claimed.get(id).and_then(|epochs| epochs.range(epoch + 1..).next());
            assert!(later.is_none(), "{id} ended under epoch {epoch}, and was handed out again under {later:?}");
        }
    }
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Starts producers and workers on each of these handles.
    pub fn start(storages: &[Arc<dyn Storage>], seed: u64) -> Self {
        let (book, stop) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        let mut random = StdRng::seed_from_u64(seed);
        for storage in storages {
            for place in 0..3 {
                let hand = Hand {
                    storage: storage.clone(),
                    session: Session::new(),
                    book: Arc::clone(&book),
                    stop: Arc::clone(&stop),
                    random: StdRng::seed_from_u64(random.random()),
                };
                if place == 0 {
                    tasks.spawn(hand.work());
                } else {
                    tasks.spawn(hand.produce());
                }
            }
        }
        Load { book, stop, tasks }
    }

    /// What is in the book now.
    ///
    /// # Panics
    /// If a task of the load has.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panicked with the book")
    }

    /// Lets everybody finish what is under way, and answers what is in the book then.
    ///
    /// # Panics
    /// If a task of the load has, or does not come to its end.
    pub async fn stop(mut self) -> Book {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = crate::wait::within("the load ends", self.tasks.join_next()).await {
            ended.expect("a task of the load");
        }
        std::mem::take(&mut *self.book())
    }
}

/// One task of a load.
struct Hand {
    storage: Arc<dyn Storage>,
    session: Session,
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    random: StdRng,
}

impl Hand {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panicked with the book")
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Counts a try that failed.
    async fn noted<T>(&self, tried: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
        let answer = tried.await;
        if answer.is_err() {
            self.book().failures += 1;
        }
        answer
    }

    /// Gives the server some time; it may be down.
    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    fn job(&mut self) -> JobSpec {
        let job = spec(&name(QUEUE));
        match self.random.random_range(0..10) {
            0 => job.priority(self.random.random()),
            1 => job.delay(Duration::from_millis(self.random.random_range(1..50))),
            2 => {
                let key = job.id.to_string();
                job.dedup(&key, DedupMode::UntilFinished)
            }
            3 => {
                let key = job.id.to_string();
                job.dedup(&key, DedupMode::For(Duration::from_millis(20)))
            }
            4 => job.lifo(),
            _ => job,
        }
    }

    async fn produce(mut self) {
        while !self.is_over() {
            let count = self.random.random_range(1..8);
            let jobs: Vec<Arc<JobSpec>> = (0..count).map(|_| Arc::new(self.job())).collect();
            let made = Instant::now();
            let request = |call| EnqueueRequest { call: Some(call), queue: name(QUEUE), jobs: jobs.clone() };
            let answer = self.session.call(|call| self.noted(self.storage.enqueue(request(call)))).await;
            let failed = answer.is_err();
            match answer {
                Ok(answers) => {
                    assert_eq!(answers, vec![EnqueueAnswer::Inserted; jobs.len()], "all of them are new");
                    let times = (made, Instant::now());
                    self.book().inserted.extend(jobs.iter().map(|job| (job.id, times)));
                }
                Err(error) if error.effect() == Effect::None => {
                    self.book().refused.extend(jobs.iter().map(|job| job.id));
                }
                Err(_unknown) => {}
            }
            if failed {
                self.pause().await;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn work(mut self) {
        let mut settlements: Vec<Settlement> = Vec::new();
        loop {
            let over = self.is_over();
            if over && settlements.is_empty() {
                return;
            }
            let claim = (!over).then(|| ClaimSpec {
                kinds: Arc::new([kind(KIND)]),
                max_items: 8,
                max_bytes: usize::MAX,
                term: TERM,
                worker: WorkerId::new("load").expect("a name"),
                alone: false,
            });
            let made = Instant::now();
            let request = |call| ExchangeRequest {
                call: Some(call),
                queue: name(QUEUE),
                settlements: settlements.clone(),
                claim: claim.clone(),
            };
            match self.session.call(|call| self.noted(self.storage.exchange(request(call)))).await {
                Ok(answer) => {
                    self.note(made, &settlements, &answer.settled);
                    let claims = answer.claimed.unwrap_or_default().claims;
                    for claim in &claims {
                        let mut book = self.book();
                        let is_new = book.claimed.entry(claim.lease.id).or_default().insert(claim.lease.epoch);
                        assert!(is_new, "{:?} was handed out twice", claim.lease);
                    }
                    let idle = settlements.is_empty() && claims.is_empty();
                    settlements = claims.iter().map(|claim| self.outcome(claim.lease)).collect();
                    if idle {
                        self.pause().await;
                    }
                }
                Err(_) => self.pause().await,
            }
        }
    }

    fn outcome(&mut self, lease: ferroq_core::storage::Lease) -> Settlement {
        let mut follow_ups = Vec::new();
        let outcome = match self.random.random_range(0..10) {
            0 => fail(Duration::from_millis(self.random.random_range(0..10))),
            1 => released(),
            2 => {
                follow_ups.push(Arc::new(spec(&name(FOLLOWERS))));
                completed()
            }
            3 => {
                follow_ups.push(Arc::new(spec(&name(QUEUE))));
                completed()
            }
            _ => completed(),
        };
        Settlement { lease, outcome, follow_ups }
    }

    fn note(&self, made: Instant, settlements: &[Settlement], answers: &[SettleAnswer]) {
        let now = Instant::now();
        let mut book = self.book();
        for (settlement, answer) in settlements.iter().zip(answers) {
            if let SettleAnswer::Settled { state, .. } = answer {
                book.inserted.extend(settlement.follow_ups.iter().map(|job| (job.id, (made, now))));
                if *state == JobState::Completed {
                    book.ended.insert(settlement.lease.id, (settlement.lease.epoch, now));
                }
            }
        }
    }
}
