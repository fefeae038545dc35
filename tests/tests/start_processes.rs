//! Processes that work on queues with limits and are killed with SIGKILL at random moments, or lose their leases: no limit
//! is ever exceeded, also where it changes meanwhile, none is left unused for long, no slot is lost, and every job ends.
#![cfg(unix)]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ferroq_core::clock::{Clock, ManualClock, Timestamp};
use ferroq_core::event::{Event, EventKind};
use ferroq_core::job::JobId;
use ferroq_core::storage::{Storage, StorageExt};
use ferroq_testkit::harness::audit;
use ferroq_tests::child::Child;
use ferroq_tests::dedup::Place;
use ferroq_tests::redis::server::{namespace, shared};
use ferroq_tests::starts::{FileClock, Limited, Order, PHASES, STEP, TERM, WINDOW, claim, log, work_off};
use ferroq_tests::store;
use ferroq_tests::wait::seed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CHILD: &str = env!("CARGO_BIN_EXE_start_child");
const PROCESSES: usize = 3;
/// How many of them are killed, unless `FERROQ_KILLS` says otherwise.
const KILLS: u32 = 20;
/// So many claims are in one answer at most.
const CLAIMS_MAX: usize = 7;
/// Steps of the clock in one window.
const STEPS_A_WINDOW: u32 = (WINDOW.as_millis() / STEP.as_millis()) as u32;
/// For how many windows there is more work than may start. The first is left out of what must be used.
const WINDOWS: u32 = 5;
/// When, in windows, each phase begins in which some limits are others; and the end.
const PHASES_AT: [u32; PHASES + 1] = [0, 1, 2, 3, WINDOWS];

/// What was handed to whom before `to`, as the processes wrote it down: the logs say the same, but for what a process did not
/// live to write down.
fn check_trace(text: &str, logs: &HashMap<String, Vec<Event>>, to: Timestamp, kills: usize) {
    let told: HashSet<(String, JobId, Timestamp)> = logs
        .iter()
        .flat_map(|(queue, log)| log.iter().map(move |event| (queue, event)))
        .filter(|(_, event)| event.kind == EventKind::Started && event.at < to)
        .filter_map(|(queue, event)| Some((queue.clone(), event.job?, event.at)))
        .collect();
    let (mut handed, mut lost) = (HashSet::new(), kills);
    for line in text.lines() {
        if line == "lost" {
            lost += 1;
            continue;
        }
        let parts: Vec<&str> = line.split(' ').collect();
        let [queue, id, at] = parts[..] else { panic!("a torn line: {line:?}") };
        let at = Timestamp::from_micros(at.parse().expect("a time"));
        let start = (queue.to_owned(), id.parse().expect("an id"), at);
        assert!(told.contains(&start), "a process was handed {start:?}, and the log does not say so");
        handed.insert(start);
    }
    let unknown = told.difference(&handed).count();
    assert!(unknown <= lost * CLAIMS_MAX, "{unknown} starts were handed to nobody, and {lost} answers were lost");
}

async fn race(place: Place, test: &str) {
    let mut random = StdRng::seed_from_u64(seed("start_processes", test));
    let kills = std::env::var("FERROQ_KILLS").map_or(KILLS, |text| text.parse().expect("FERROQ_KILLS is a number"));
    let directory = store::directory();
    let (clock_path, trace) = (directory.path().join("clock"), directory.path().join("trace"));
    let (clock, begin) = (FileClock::new(&clock_path), ManualClock::default().now());
    clock.set(begin);
    let order = Order { place, clock: clock_path, trace, seed: 0 };
    let storage = order.open().await;
    let (queues, mut lanes) = (Limited::all(), HashMap::new());
    for limited in &queues {
        limited.configure(storage.as_ref()).await;
    }
    let start = |random: &mut StdRng| Child::spawn(CHILD, &Order { seed: random.random(), ..order.clone() });
    let mut children: Vec<Child> = (0..PROCESSES).map(|_| start(&mut random)).collect();
    let steps = WINDOWS * STEPS_A_WINDOW;
    let mut killed = 0;
    for step in 0..steps {
        // In the first window a little work comes with each step, so that the starts that are remembered are spread over
        // it; after that there is always more than may start.
        if step < STEPS_A_WINDOW {
            for limited in &queues {
                limited.put(storage.as_ref(), &mut lanes).await;
            }
        }
        if step % STEPS_A_WINDOW == STEPS_A_WINDOW - 1 {
            for limited in &queues {
                for _ in 0..limited.rounds_a_window() {
                    limited.put(storage.as_ref(), &mut lanes).await;
                }
            }
        }
        // Everybody is idle, so nothing starts between a change and the next time that the clock shows.
        if let Some(phase) = PHASES_AT.iter().position(|window| window * STEPS_A_WINDOW == step) {
            Limited::slotted(phase).configure(storage.as_ref()).await;
        }
        clock.set(begin.after(STEP * step));
        if killed * steps < kills * step {
            // The moment of a kill is the subject of the test; any time is as good as another.
            tokio::time::sleep(Duration::from_micros(random.random_range(0..5_000))).await;
            let victim = random.random_range(0..children.len());
            children[victim].kill().await;
            children[victim] = start(&mut random);
            killed += 1;
        }
        let idle = format!("idle {}", clock.now().as_micros());
        for child in &mut children {
            child.says(&idle).await;
        }
    }
    for child in &mut children {
        child.kill().await;
    }
    let phases = PHASES_AT.map(|window| begin.after(WINDOW * window));
    end_all(storage.as_ref(), &clock, &queues).await;
    let mut logs = HashMap::new();
    for limited in &queues {
        let log = log(storage.as_ref(), &limited.queue).await;
        assert_eq!(limited.check(&log, &lanes, &phases), Ok(()));
        logs.insert(limited.queue.to_string(), log);
    }
    every_job_ended(&lanes, &logs);
    let text = std::fs::read_to_string(&order.trace).expect("the trace");
    check_trace(&text, &logs, phases[PHASES], killed as usize + PROCESSES);
    let stalled = logs.values().flatten().filter(|event| event.kind == EventKind::Stalled).count();
    assert!(stalled > 0, "no lease was lost; the test shows little");
    no_slot_is_taken(storage.as_ref(), &clock).await;
}

/// Lets time pass until everything has ended, which it must.
async fn end_all(storage: &dyn Storage, clock: &FileClock, queues: &[Limited]) {
    for limited in queues {
        audit(storage, &limited.queue).await;
        let mut steps = 0;
        while work_off(storage, &limited.queue).await.expect("work off") {
            clock.set(clock.now().after(TERM / 4));
            steps += 1;
            assert!(steps < 10_000, "{} does not end: {:?}", limited.queue, storage.counts(&limited.queue).await);
        }
        audit(storage, &limited.queue).await;
    }
}

fn every_job_ended<L>(lanes: &HashMap<JobId, L>, logs: &HashMap<String, Vec<Event>>) {
    let ends = [EventKind::Completed, EventKind::Failed, EventKind::Cancelled];
    let mut ended = HashMap::new();
    for event in logs.values().flatten().filter(|event| ends.contains(&event.kind)) {
        *ended.entry(event.job.expect("an end is a job's")).or_insert(0) += 1;
    }
    assert!(lanes.keys().all(|id| ended.get(id) == Some(&1)), "each job ends, and ends once");
    assert_eq!(ended.len(), lanes.len());
}

/// With nothing left, every slot can be taken again, and no more than that.
async fn no_slot_is_taken(storage: &dyn Storage, clock: &FileClock) {
    clock.set(clock.now().after(WINDOW));
    let (limited, mut lanes) = (Limited::slotted(PHASES - 1), HashMap::new());
    for _ in 0..10 {
        limited.put(storage, &mut lanes).await;
    }
    let answer = storage.claim(None, &limited.queue, claim(100)).await.expect("claim");
    assert_eq!(answer.claims.len(), 14);
    assert_eq!(storage.claim(None, &limited.queue, claim(100)).await.expect("claim").claims, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_exceed_no_limit_and_lose_no_slot_on_sqlite() {
    let directory = store::directory();
    race(Place::Sqlite(store::db_in(&directory)), "sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_exceed_no_limit_and_lose_no_slot_on_redis() {
    race(Place::Redis(shared().url(), namespace()), "redis").await;
}
