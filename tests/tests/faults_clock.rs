//! Clocks that step by an hour and by ten years, both ways, under a worker that runs: no lease of a live worker is lost,
//! and no job is. Storage time is the storage's own, so the workers' clocks don't matter; what matters is the clock that
//! the storage reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::clock::ManualClock;
use ferroq_core::context::Context;
use ferroq_core::event::{EventCursor, EventKind};
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobState, QueueName};
use ferroq_core::policy::retention::KeepFor;
use ferroq_core::storage::{Storage, StorageError};
use ferroq_core::worker::Worker;
use ferroq_memory::MemoryStorage;
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::faults::{Faults, Faulty, Stage, Visit};
use ferroq_testkit::harness::audit;
use ferroq_tests::store;
use ferroq_tests::wait::{until, within};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

const QUEUE: &str = "work";
const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LATER: Duration = Duration::from_secs(600);
const AGES: Duration = Duration::from_secs(1000 * 365 * 24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Forward(Duration),
    Back(Duration),
}

const STEPS: [Step; 4] = [Step::Forward(HOUR), Step::Back(HOUR), Step::Forward(TEN_YEARS), Step::Back(TEN_YEARS)];

#[derive(Serialize, Deserialize)]
struct Tick {
    /// Whether it waits for the gate.
    waits: bool,
}

impl Job for Tick {
    const NAME: &'static str = "test.tick";
    const QUEUE: &'static str = QUEUE;
    type Output = ();
}

struct Gate {
    started: AtomicUsize,
    ended: AtomicUsize,
    open: Semaphore,
}

async fn tick(job: Tick, cx: Context<Arc<Gate>>) -> JobResult {
    let gate = cx.state();
    gate.started.fetch_add(1, Ordering::SeqCst);
    if job.waits {
        gate.open.acquire().await?.forget();
        // Whatever the clock did, the run still holds its job.
        cx.progress(1, 1).await?;
    }
    gate.ended.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

/// Counts the calls that may take a lease or keep one.
#[derive(Clone, Default)]
struct Calls(Arc<(AtomicUsize, AtomicUsize)>);

impl Calls {
    /// Renewals and sweeps.
    fn so_far(&self) -> (usize, usize) {
        (self.0.0.load(Ordering::SeqCst), self.0.1.load(Ordering::SeqCst))
    }
}

impl Faults for Calls {
    fn visit(&self, visit: Visit) -> Result<(), StorageError> {
        match (visit.stage, visit.method) {
            (Stage::After, "renew") => self.0.0.fetch_add(1, Ordering::SeqCst),
            (Stage::After, "sweep") => self.0.1.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        Ok(())
    }
}

async fn step_under_a_running_worker(name: &str, storage: Arc<dyn Storage>, clock: &ManualClock, step: Step) {
    let what = format!("{name}, {step:?}");
    let calls = Calls::default();
    let storage: Arc<dyn Storage> = Arc::new(Faulty::new(storage, calls.clone()));
    let client = Client::new(storage.clone());
    let queue = QueueName::new(QUEUE).expect("a name");
    let gate = Arc::new(Gate { started: AtomicUsize::new(0), ended: AtomicUsize::new(0), open: Semaphore::new(0) });
    let running = client.enqueue_all((0..4).map(|_| Tick { waits: true })).keep_completed(KeepFor::Age(AGES));
    let running = running.await.expect("enqueue");
    let delayed = client.enqueue(Tick { waits: false }).delay(LATER).keep_completed(KeepFor::Age(AGES));
    let delayed = delayed.await.expect("enqueue");
    let worker = Worker::new(&client).lease(Duration::from_millis(400)).poll_interval(Duration::from_millis(20));
    let worker = worker.state(gate.clone()).handle(tick).start().await.expect("start");
    until(&what, async || (gate.started.load(Ordering::SeqCst) == 4).then_some(())).await;

    let before = storage.now(&queue).await.expect("now");
    match step {
        Step::Forward(span) => clock.advance(span),
        Step::Back(span) => clock.step_back(span),
    }
    // A job that comes after the step, so that a store without a poll looks at its clock.
    let late = client.enqueue(Tick { waits: false }).keep_completed(KeepFor::Age(AGES)).await.expect("enqueue");
    within(&what, late.wait()).await.expect("it completes");
    let after = storage.now(&queue).await.expect("now");
    match step {
        Step::Forward(span) => assert!(after >= before.after(span), "{what}"),
        Step::Back(_) => {
            assert!(after < before, "{what}: a large step back is believed");
            let events = storage.events(&queue, EventCursor::default(), 1000).await.expect("events").events;
            assert!(events.iter().any(|event| event.kind == EventKind::ClockSteppedBack), "{what}: it is logged");
        }
    }
    // Several heartbeats and sweeps under the new time: none of them may take a live worker's job.
    let (renewals, sweeps) = calls.so_far();
    until(&what, async || {
        let (now_renewals, now_sweeps) = calls.so_far();
        (now_renewals >= renewals + 4 && now_sweeps >= sweeps + 4).then_some(())
    })
    .await;
    gate.open.add_permits(4);
    for handle in &running {
        let record = within(&what, handle.wait_record()).await.expect("a record");
        assert_eq!((record.state, record.crashes, record.runs), (JobState::Completed, 0, 1), "{what}");
    }
    // The delayed job's instant stands, and comes: at once if the clock passed it, else when the clock gets there.
    if let Step::Back(span) = step {
        let record = delayed.record().await.expect("record").expect("it is there");
        assert_eq!(record.state, JobState::Delayed, "{what}");
        clock.advance(span + LATER);
        client.enqueue(Tick { waits: false }).await.expect("enqueue");
    }
    within(&what, delayed.wait()).await.expect("it completes");
    let report = worker.shutdown().await;
    assert_eq!((report.lost, report.failed, report.released), (0, 0, 0), "{what}");
    assert_eq!(gate.started.load(Ordering::SeqCst), gate.ended.load(Ordering::SeqCst), "{what}");
    let dump = audit(storage.as_ref(), &queue).await;
    assert!(dump.jobs.iter().all(|record| record.state == JobState::Completed), "{what}");
}

#[tokio::test]
async fn a_clock_step_takes_no_job_from_a_running_worker_on_memory() {
    for step in STEPS {
        let clock = ManualClock::default();
        let storage = MemoryStorage::builder().clock(Arc::new(clock.clone())).build();
        step_under_a_running_worker("memory", Arc::new(storage), &clock, step).await;
    }
}

#[tokio::test]
async fn a_clock_step_takes_no_job_from_a_running_worker_on_sqlite() {
    for step in STEPS {
        let clock = ManualClock::default();
        let directory = store::directory();
        let options = SqliteOptions::new(store::db_in(&directory)).clock(Arc::new(clock.clone()));
        let storage = SqliteStorage::open(options).await.expect("open");
        step_under_a_running_worker("sqlite", Arc::new(storage), &clock, step).await;
    }
}

#[tokio::test]
async fn a_clock_that_stepped_while_nothing_ran_loses_nothing_either() {
    for step in STEPS {
        let clock = ManualClock::default();
        let directory = store::directory();
        let options = SqliteOptions::new(store::db_in(&directory)).clock(Arc::new(clock.clone()));
        let gate = || {
            let (started, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
            Arc::new(Gate { started, ended, open: Semaphore::new(0) })
        };
        {
            let client = Client::new(Arc::new(SqliteStorage::open(options.clone()).await.expect("open")));
            client.enqueue_all((0..3).map(|_| Tick { waits: false })).await.expect("enqueue");
            client.close().await;
        }
        match step {
            Step::Forward(span) => clock.advance(span),
            Step::Back(span) => clock.step_back(span),
        }
        let storage: Arc<dyn Storage> = Arc::new(SqliteStorage::open(options).await.expect("open"));
        let client = Client::new(storage.clone());
        let gate = gate();
        let report = Worker::new(&client).state(gate.clone()).handle(tick).run_until_idle().await.expect("run");
        assert_eq!(report.completed, 3, "{step:?}");
        audit(storage.as_ref(), &QueueName::new(QUEUE).expect("a name")).await;
    }
}
