//! Worker processes killed with SIGKILL at random moments while they, and the test, enqueue and work on one SQLite file.
//! Afterwards nothing may be lost, nothing whose completion was committed may have run again, and what a handler wrote
//! in the transaction that completes its job must be there exactly once.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::event::{EventCursor, EventKind};
use ferroq_core::job::{JobId, JobState, QueueName};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::policy::retention::{KeepRule, Retention};
use ferroq_core::storage::{EnqueueAnswer, JobFilter, QueueConfig, Storage};
use ferroq_testkit::harness::{QueueDump, audit};
use ferroq_testkit::invariants::{self, History, Step};
use ferroq_testkit::model::Snapshot;
use ferroq_tests::child::Child;
use ferroq_tests::jobs::{APP_TABLE, AppEffect, Effect, Order, QUEUE, State, id_of, worker};
use ferroq_tests::store;
use ferroq_tests::trace::{self, Trace};
use ferroq_tests::wait::{seed, within};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const WORKER: &str = env!("CARGO_BIN_EXE_crash_worker");
/// Kills, unless `FERROQ_KILLS` says otherwise (a soak runs far more).
const KILLS: u64 = 110;
/// New jobs after each kill, of either kind.
const JOBS_A_KILL: u64 = 25;
/// Jobs that each child enqueues as it starts.
const JOBS_A_CHILD: u64 = 5;
/// The numbers of those begin here.
const OF_CHILDREN: u64 = 1_000_000;

/// Keeps every record and event, so that the end can be compared with what happened on the way.
fn keep_all() -> QueueConfig {
    let rule = KeepRule { age: Duration::from_secs(3600), count: 10_000_000 };
    let mut config = QueueConfig::default();
    config.retention = Retention { completed: rule, failed: rule, cancelled: rule };
    config.event_entries_kept = 10_000_000;
    config
}

async fn completed(client: &Client) -> HashSet<JobId> {
    let queue = client.queue(QUEUE).expect("a name");
    let jobs = queue.all(JobFilter::states([JobState::Completed])).await.expect("list");
    jobs.into_iter().map(|record| record.id()).collect()
}

/// The event log tells of each job what its record tells: it was enqueued once, it completed once, and that was the last
/// of it.
async fn the_log_tells_the_same(storage: &dyn Storage, dump: &QueueDump) {
    let queue = QueueName::new(QUEUE).expect("a name");
    let mut by_job: HashMap<JobId, Vec<EventKind>> = HashMap::new();
    let mut cursor = EventCursor::default();
    loop {
        let page = storage.events(&queue, cursor, 1000).await.expect("events");
        assert!(!page.missed, "all events are kept");
        if page.events.is_empty() {
            break;
        }
        cursor = page.next;
        for event in page.events {
            // Some are about the queue: that leases were extended on a machine too busy to attend to them.
            if let Some(job) = event.job {
                by_job.entry(job).or_default().push(event.kind);
            }
        }
    }
    for record in &dump.jobs {
        let events = by_job.remove(&record.id()).unwrap_or_default();
        let count = |kind| events.iter().filter(|event| **event == kind).count() as u32;
        let told = [EventKind::Enqueued, EventKind::Started, EventKind::Stalled, EventKind::Completed].map(count);
        assert_eq!(told, [1, record.runs, record.crashes, 1], "{}: {events:?}", record.id());
        assert_eq!(events.last(), Some(&EventKind::Completed), "{}: {events:?}", record.id());
    }
    assert!(by_job.is_empty(), "the log tells of jobs that are not there: {by_job:?}");
}

/// Those of the kit's invariants that show in what a store holds, whatever was called before.
async fn the_invariants_hold(storage: &dyn Storage) {
    let mut history = History::default();
    history.steps.push(Step::Drained);
    history.seen(Snapshot::take(storage).await.expect("a snapshot"));
    let shown = ["one holder", "each job in exactly", "counts equal rows", "liveness"];
    let checkers: Vec<_> =
        invariants::ALL.iter().filter(|(name, _)| shown.iter().any(|shown| name.starts_with(shown))).collect();
    assert_eq!(checkers.len(), shown.len(), "the kit names its invariants otherwise now");
    for (name, checker) in checkers {
        checker(&history).unwrap_or_else(|(_, what)| panic!("{name}: {what}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_lose_nothing_and_repeat_nothing_that_was_committed() {
    let seed = seed("crash_kill", "killed_workers");
    let mut random = StdRng::seed_from_u64(seed);
    let kills = std::env::var("FERROQ_KILLS").map_or(KILLS, |text| text.parse().expect("FERROQ_KILLS is a number"));
    let directory = store::directory();
    let lease = Duration::from_millis(200);
    let order = Order { lease, ..Order::work(store::db_in(&directory)) };
    let client = Client::new(Arc::new(store::sqlite(&order.db).await));
    client.queue(QUEUE).expect("a name").configure(keep_all()).await.expect("configure");
    let app = store::app(&order.db).await;
    sqlx::query(APP_TABLE).execute(&app).await.expect("the app's table");

    // Two workers at a time, so that a killed one's jobs are taken over while the other lives.
    let mut of_children = OF_CHILDREN;
    let mut start = || {
        let enqueue = of_children..of_children + JOBS_A_CHILD;
        of_children = enqueue.end;
        Child::spawn(WORKER, &Order { enqueue, ..order.clone() })
    };
    let mut children = [start(), start()];
    let mut next = 0;
    // What was completed when, as a place in the trace: nothing of it may start after that place.
    let mut committed: HashMap<JobId, usize> = HashMap::new();
    for _ in 0..kills {
        for _ in 0..JOBS_A_KILL {
            // The key is freed as the job ends, or the last assertion on keys fails.
            let enqueue = client.enqueue(Effect { n: next }).id(id_of(next));
            enqueue.dedup(format!("key-{next}"), DedupMode::UntilFinished).await.expect("enqueue");
            client.enqueue(AppEffect { n: next + 1 }).id(id_of(next + 1)).await.expect("enqueue");
            next += 2;
        }
        // The moment of the kill is the subject of the test; any time is as good as another.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..200_000))).await;
        let victim = random.random_range(0..children.len());
        // The store first and the trace after: what was committed before the look was traced before it as well.
        let done = completed(&client).await;
        let length = trace::read(&order.trace).len();
        for id in done {
            committed.entry(id).or_insert(length);
        }
        children[victim].kill().await;
        children[victim] = start();
    }
    for mut child in children {
        child.kill().await;
    }

    // A child that was killed while it enqueued can't know what came of it; whoever repeats it by id finds out.
    let mut found = 0;
    for n in OF_CHILDREN..of_children {
        let again = client.enqueue(Effect { n }).id(id_of(n)).await.expect("enqueue");
        found += u64::from(again.answer() == EnqueueAnswer::Duplicate(id_of(n)));
    }
    assert!(found > kills, "the children enqueued {found} jobs; the test shows nothing");

    let state = State {
        trace: Trace::open(&order.trace),
        app: Some(app.clone()),
        neighbours: Default::default(),
        directory: directory.path().to_owned(),
    };
    within("everything left is worked off", worker(&client, Arc::new(state), &order).run_until_idle())
        .await
        .expect("run");

    let queue = QueueName::new(QUEUE).expect("a name");
    let dump = audit(client.storage().as_ref(), &queue).await;
    let unfinished: Vec<_> = dump.jobs.iter().filter(|record| record.state != JobState::Completed).collect();
    assert!(unfinished.is_empty(), "not completed: {unfinished:#?}");
    let ids: HashSet<_> = dump.jobs.iter().map(|record| record.id()).collect();
    let effects = || (0..next).step_by(2).chain(OF_CHILDREN..of_children);
    let enqueued = || effects().chain((1..next).step_by(2));
    let missing: Vec<_> = enqueued().filter(|n| !ids.contains(&id_of(*n))).collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    assert_eq!(dump.dedup, [], "all keys are free");

    the_log_tells_the_same(client.storage().as_ref(), &dump).await;
    the_invariants_hold(client.storage().as_ref()).await;

    // Follow-ups come into being with the completion that asked for them: one for every fifth job, and never two.
    let mut echoes: BTreeMap<u64, u32> = BTreeMap::new();
    for record in dump.jobs.iter().filter(|record| &*record.spec.kind == "test.echo") {
        let payload: serde_json::Value = serde_json::from_slice(&record.spec.payload.bytes).expect("JSON");
        *echoes.entry(payload["n"].as_u64().expect("a number")).or_default() += 1;
    }
    let expected: BTreeMap<_, _> = effects().filter(|n| n.is_multiple_of(5)).map(|n| (n, 1)).collect();
    assert_eq!(echoes, expected, "follow-ups by parent");

    // No run starts after its job's completion was seen, and epochs rise from run to run.
    let lines = trace::read(&order.trace);
    let mut epochs: HashMap<u64, i64> = HashMap::new();
    for (place, line) in lines.iter().enumerate().filter(|(_, line)| line.what == "start") {
        if let Some(&length) = committed.get(&id_of(line.n)) {
            assert!(place < length, "job {} ran again after it was completed: {line:?}", line.n);
        }
        let last = epochs.insert(line.n, line.epoch);
        assert!(last.is_none_or(|last| last < line.epoch), "job {}: {last:?} before {line:?}", line.n);
    }
    let records: HashMap<_, _> = dump.jobs.iter().map(|record| (record.id(), record)).collect();
    for n in enqueued() {
        let record = records[&id_of(n)];
        assert_eq!(epochs.get(&n), Some(&record.epoch), "job {n} was completed by its last run");
    }

    // Exactly once: a row for each job, written by the run that completed it.
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("SELECT n, epoch FROM app_effects ORDER BY n").fetch_all(&app).await.expect("rows");
    let in_app: BTreeSet<_> = rows.iter().map(|(n, _)| *n as u64).collect();
    assert_eq!(rows.len(), in_app.len(), "an effect happened twice");
    assert_eq!(in_app, (1..next).step_by(2).collect::<BTreeSet<_>>(), "effects of the app's own transaction");
    for (n, epoch) in rows {
        assert_eq!(epochs.get(&(n as u64)), Some(&epoch), "the row of {n} is of the run that completed it");
    }
    let (check,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&app).await.expect("integrity_check");
    assert_eq!(check, "ok");
    // The kills must have met runs in their middle, or all of this shows nothing.
    let runs = |what: &str| lines.iter().filter(|line| line.what == what && line.n < next && line.n % 2 == 1).count();
    let interrupted = runs("start") - runs("committed");
    assert!(interrupted as u64 > kills / 10, "only {interrupted} of {kills} kills met a run in its middle");
}
