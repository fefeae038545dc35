//! The tasks of a concurrent round: what clients, workers and the passage of time do, drawn from a seed per task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{
    DedupKey, ErrorKind, JobId, JobKind, JobOptions, JobSpec, LaneKey, Payload, Priority, QueueName, Start, WorkerId,
};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::policy::retention::{Keep, KeepFor};
use ferroq_core::storage::{
    Act, ActRequest, ClaimSpec, EnqueueRequest, ExchangeRequest, Lease, Note, Outcome, RenewRequest, RunError,
    Selection, Settlement, Storage, SweepRequest,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::Config;
use super::limits;
use super::record::Recorder;
use crate::harness::Fixture;
use crate::model::{Answer, Call};

/// The term of every lease. Time passes in steps of at most a quarter of it, so that leases are lost and not extended.
pub(super) const TERM: Duration = Duration::from_secs(10);

/// The modes in which jobs share a few keys.
const MODES: [DedupMode; 5] = [
    DedupMode::UntilFinished,
    DedupMode::KeepLatest,
    DedupMode::KeepLatest,
    DedupMode::Debounce(Duration::from_secs(2)),
    DedupMode::Coalesce { count: 3, max_wait: Duration::from_secs(4) },
];

type Named<T> = Result<T, String>;

pub(super) fn queue() -> Named<QueueName> {
    QueueName::new("crowded").map_err(|error| error.to_string())
}

pub(super) fn kinds() -> Named<Arc<[JobKind]>> {
    let kinds: Result<Vec<_>, _> = ["one", "two"].iter().map(JobKind::new).collect();
    kinds.map(Into::into).map_err(|error| error.to_string())
}

pub(super) fn worker(number: usize) -> Named<WorkerId> {
    WorkerId::new(format!("worker-{number}")).map_err(|error| error.to_string())
}

/// What the tasks of a round share.
struct Shared {
    storage: Arc<dyn Storage>,
    clock: ManualClock,
    recorder: Arc<Recorder>,
    queue: QueueName,
    kinds: Arc<[JobKind]>,
    calls: usize,
    /// The jobs made so far, for the clients to act on and enqueue again.
    jobs: Mutex<Vec<Arc<JobSpec>>>,
    made: AtomicUsize,
    at_work: AtomicUsize,
}

/// Runs a round to its end, and answers in which lane each job is that was made.
pub(super) async fn run(
    fixture: &Fixture,
    recorder: &Arc<Recorder>,
    queue: &QueueName,
    config: &Config,
    seed: u64,
) -> Result<HashMap<JobId, LaneKey>, String> {
    let shared = Arc::new(Shared {
        storage: fixture.storage.clone(),
        clock: fixture.clock.clone(),
        recorder: recorder.clone(),
        queue: queue.clone(),
        kinds: kinds()?,
        calls: config.calls,
        jobs: Mutex::default(),
        made: AtomicUsize::new(0),
        at_work: AtomicUsize::new(2 * config.tasks),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..2 * config.tasks + 1 {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(task as u64));
        let (one, name) = (shared.clone(), worker(task)?);
        tasks.spawn(async move {
            if task == 0 {
                one.let_time_pass(task, random).await;
                return;
            }
            if task % 2 == 1 {
                one.be_client(task, random).await;
            } else {
                one.be_worker(task, name, random).await;
            }
            one.at_work.fetch_sub(1, Ordering::SeqCst);
        });
    }
    while let Some(joined) = tasks.join_next().await {
        joined.map_err(|error| format!("a task of the round ended badly: {error}"))?;
    }
    let jobs = shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(jobs.iter().map(|job| (job.id, job.lane.clone())).collect())
}

impl Shared {
    async fn call(&self, task: usize, call: Call) -> Answer {
        self.recorder.call(task, &*self.storage, call).await
    }

    async fn let_time_pass(&self, task: usize, mut random: StdRng) {
        while self.at_work.load(Ordering::SeqCst) > 0 {
            self.clock.advance(TERM / 4);
            let max_items = random.random_range(1..20);
            self.call(task, Call::Sweep(SweepRequest { queue: self.queue.clone(), max_items })).await;
            for _ in 0..random.random_range(1..8) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn make(&self, random: &mut StdRng) -> Arc<JobSpec> {
        let number = self.made.fetch_add(1, Ordering::SeqCst) as u128 + 1;
        let id = JobId::from(Uuid::from_u128(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)));
        let keep = if random.random_bool(0.3) { KeepFor::Remove } else { KeepFor::QueueDefault };
        let options = JobOptions {
            max_attempts: random.random_range(1..4),
            max_crashes: random.random_range(1..4),
            keep: Keep { completed: keep, failed: KeepFor::QueueDefault, cancelled: keep },
            ..JobOptions::default()
        };
        let mode = MODES[random.random_range(0..MODES.len())];
        let key = random.random_bool(0.3).then(|| DedupKey::new(format!("key-{}", random.random_range(0..3))).ok());
        let delay = Duration::from_secs(random.random_range(1..4));
        let job = Arc::new(JobSpec {
            id,
            queue: self.queue.clone(),
            lane: limits::lane(limits::LANES[random.random_range(0..limits::LANES.len())]),
            kind: self.kinds[random.random_range(0..self.kinds.len())].clone(),
            payload: Payload::json(&b"{}"[..]),
            priority: Priority(random.random_range(120..130)),
            lifo: random.random_bool(0.2),
            start: if random.random_bool(0.3) { Start::After(delay) } else { Start::Now },
            dedup: key.flatten().map(|key| Dedup { key, mode }),
            options: Arc::new(options),
            origin: None,
        });
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push(job.clone());
        job
    }

    fn some_job(&self, random: &mut StdRng) -> Option<Arc<JobSpec>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).choose(random).cloned()
    }

    async fn be_client(&self, task: usize, mut random: StdRng) {
        for _ in 0..self.calls {
            let queue = self.queue.clone();
            let call = match random.random_range(0..10) {
                0..5 => {
                    let jobs = (0..random.random_range(1..4)).map(|_| self.make(&mut random)).collect();
                    Call::Enqueue(EnqueueRequest { call: None, queue, jobs })
                }
                5 => {
                    let jobs = self.some_job(&mut random).into_iter().collect();
                    Call::Enqueue(EnqueueRequest { call: None, queue, jobs })
                }
                6 => Call::Sweep(SweepRequest { queue, max_items: random.random_range(1..20) }),
                other => {
                    let ids = (0..2).filter_map(|_| self.some_job(&mut random)).map(|job| job.id).collect();
                    let act = match other {
                        7 => Act::Cancel,
                        8 => Act::Retry { reset: random.random_bool(0.5) },
                        _ => Act::Remove,
                    };
                    let request = ActRequest { call: None, queue, on: Selection::Ids(ids), act };
                    Call::Act { request, order: Vec::new() }
                }
            };
            self.call(task, call).await;
            tokio::task::yield_now().await;
        }
    }

    async fn be_worker(&self, task: usize, name: WorkerId, mut random: StdRng) {
        let mut held: Vec<Lease> = Vec::new();
        let mut over: Vec<Lease> = Vec::new();
        for _ in 0..self.calls {
            let queue = self.queue.clone();
            // Now and then a worker dies: what it held is settled by nobody, or by a ghost that comes back too late.
            if random.random_bool(0.1) {
                over.append(&mut held);
            }
            let call = match random.random_range(0..10) {
                0 => Call::Renew(RenewRequest { queue, leases: some(&held, &over, &mut random), term: TERM }),
                1 => {
                    let leases = some(&held, &over, &mut random);
                    let note = Note { log: vec!["a line".to_owned()], ..Note::default() };
                    let notes = leases.into_iter().map(|lease| (lease, note.clone())).collect();
                    Call::Annotate { queue, notes }
                }
                _ => {
                    let leases = some(&held, &over, &mut random);
                    held.retain(|lease| !leases.contains(lease));
                    over.extend(leases.iter().copied());
                    let settlements = leases.into_iter().map(|lease| self.settlement(lease, &mut random)).collect();
                    let claim = ClaimSpec {
                        kinds: self.kinds.clone(),
                        max_items: random.random_range(1..5),
                        max_bytes: usize::MAX,
                        term: TERM,
                        worker: name.clone(),
                        alone: random.random_bool(0.5),
                    };
                    let claim = random.random_bool(0.8).then_some(claim);
                    Call::Exchange(ExchangeRequest { call: None, queue, settlements, claim })
                }
            };
            if let Answer::Exchange(answer) = self.call(task, call).await {
                held.extend(answer.claimed.iter().flat_map(|claimed| &claimed.claims).map(|claim| claim.lease));
            }
            tokio::task::yield_now().await;
        }
    }

    fn settlement(&self, lease: Lease, random: &mut StdRng) -> Settlement {
        let delay = Duration::from_secs(random.random_range(0..3));
        let error = RunError::new(ErrorKind::Error, "it failed");
        let outcome = match random.random_range(0..8) {
            0..3 => Outcome::Completed { result: None },
            3..5 => Outcome::Retry { error, delay },
            5 => Outcome::Snooze { delay },
            6 => Outcome::Release,
            _ => Outcome::Abort { error },
        };
        let follow_ups = if random.random_bool(0.1) { vec![self.make(random)] } else { Vec::new() };
        Settlement { lease, outcome, follow_ups }
    }
}

/// A few leases to write under: mostly those held, sometimes one that is over.
fn some(held: &[Lease], over: &[Lease], random: &mut StdRng) -> Vec<Lease> {
    let mut leases: Vec<Lease> = held.iter().copied().filter(|_| random.random_bool(0.6)).collect();
    if random.random_bool(0.3) {
        leases.extend(over.choose(random));
    }
    leases
}
