//! Processes that work on queues with limits and are killed with SIGKILL at random moments, or lose their leases: no limit
//! is ever exceeded, also where it changes meanwhile, none is left unused for long, no slot is lost, and every job ends.
#![cfg(unix)]

use std::collections::{HashMap, HashSet};

use ferroq_core::clock::{Clock, ManualClock, Timestamp};
use ferroq_core::event::{Event, EventKind};
use ferroq_core::job::JobId;
use ferroq_core::storage::{Storage, StorageExt};
use ferroq_tests::crowd::{Crowd, FileClock, Order, STEP, Work, claim, end_all, every_job_ended, log};
use ferroq_tests::dedup::Place;
use ferroq_tests::redis::server::{namespace, shared};
use ferroq_tests::starts::{Limited, PHASES, WINDOW};
use ferroq_tests::store;
use ferroq_tests::wait::seed;

const CHILD: &str = env!("CARGO_BIN_EXE_crowd_child");
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
    let (directory, begin) = (store::directory(), ManualClock::default().now());
    let (order, clock) = Order::in_directory(Work::Starts, place, directory.path(), begin);
    let storage = order.open().await;
    let (queues, mut lanes) = (Limited::all(), HashMap::new());
    for limited in &queues {
        limited.configure(storage.as_ref()).await;
    }
    let steps = WINDOWS * STEPS_A_WINDOW;
    let mut crowd = Crowd::start(CHILD, &order, seed("start_processes", test), steps);
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
        crowd.step(step).await;
    }
    let killed = crowd.end().await.len();
    let phases = PHASES_AT.map(|window| begin.after(WINDOW * window));
    let mut logs = HashMap::new();
    for limited in &queues {
        end_all(storage.as_ref(), &clock, &limited.queue).await;
        let log = log(storage.as_ref(), &limited.queue).await;
        assert_eq!(limited.check(&log, &lanes, &phases), Ok(()));
        logs.insert(limited.queue.to_string(), log);
    }
    every_job_ended(lanes.keys(), logs.values().flatten());
    check_trace(&order.trace(), &logs, phases[PHASES], killed);
    let stalled = logs.values().flatten().filter(|event| event.kind == EventKind::Stalled).count();
    assert!(stalled > 0, "no lease was lost; the test shows little");
    no_slot_is_taken(storage.as_ref(), &clock).await;
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
