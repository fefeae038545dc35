//! What else may become of a process: stopped past its lease and continued, ended by a handler, told to end twice, and
//! eight of them on one file.
#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::job::{FailReason, JobState, QueueName};
use ferroq_core::storage::JobFilter;
use ferroq_testkit::harness::audit;
use ferroq_tests::child::Child;
use ferroq_tests::jobs::{NEIGHBOURS, Neighbour, Order, Paused, Poison, QUEUE, State, Stubborn, worker};
use ferroq_tests::store;
use ferroq_tests::trace::{self, Trace};
use ferroq_tests::wait::{until, within};

const WORKER: &str = env!("CARGO_BIN_EXE_crash_worker");

fn queue() -> QueueName {
    QueueName::new(QUEUE).expect("a name")
}

#[tokio::test]
async fn a_process_stopped_past_its_lease_can_write_nothing_when_it_goes_on() {
    let directory = store::directory();
    let order = Order::work(store::db_in(&directory));
    let client = Client::new(Arc::new(store::sqlite(&order.db).await));
    let handle = client.enqueue(Paused { n: 1 }).await.expect("enqueue");
    let mut child = Child::spawn(WORKER, &order);
    child.says("paused").await;
    child.signal("STOP");

    // The rival's run of the same job must wait until the stopped one has had its answers.
    let state = State {
        trace: Trace::open(&order.trace),
        app: None,
        neighbours: Default::default(),
        directory: store::directory().keep(),
    };
    let rival_directory = state.directory.clone();
    let rival = worker(&client, Arc::new(state), &order).start().await.expect("start");
    until("the rival's run starts", async || {
        let lines = trace::read(&order.trace);
        lines.iter().any(|line| line.pid == std::process::id()).then_some(())
    })
    .await;
    std::fs::write(directory.path().join("go"), "").expect("write");
    child.signal("CONT");
    let answers = directory.path().join("answers");
    let answers = until("the answers", async || std::fs::read_to_string(&answers).ok()).await;
    let expected = [
        "renew: [LeaseLost]",
        "progress: Err(LeaseLost)",
        "log: Err(LeaseLost)",
        "checkpoint: Err(LeaseLost)",
        "settle: [LeaseLost]",
        "stop reason: Some(LeaseLost)",
    ];
    assert_eq!(answers.lines().collect::<Vec<_>>(), expected);

    let record = handle.record().await.expect("record").expect("it is there");
    assert_eq!((record.state, record.crashes, record.runs), (JobState::Active, 1, 2), "the rival still has it");
    assert!(record.notes.progress.is_none() && record.notes.log.is_empty() && record.notes.checkpoint.is_none());
    std::fs::write(rival_directory.join("go"), "").expect("write");
    let ended = within("the rival completes it", handle.wait_record()).await.expect("a record");
    assert_eq!((ended.state, ended.crashes, ended.runs), (JobState::Completed, 1, 2));
    child.signal("TERM");
    let report = child.says("report").await;
    assert!(report.contains("completed: 0") && report.contains("lost: 1"), "{report}");
    assert!(child.exit().await.success());
    rival.shutdown().await;
    audit(client.storage().as_ref(), &queue()).await;
    std::fs::remove_dir_all(rival_directory).expect("remove");
}

#[tokio::test]
async fn a_handler_that_aborts_its_process_fails_alone_and_its_neighbours_complete() {
    let directory = store::directory();
    let order = Order::work(store::db_in(&directory));
    let client = Client::new(Arc::new(store::sqlite(&order.db).await));
    let poison = client.enqueue(Poison { n: 0 }).await.expect("enqueue");
    let mut neighbours = Vec::new();
    for n in 1..=NEIGHBOURS as u64 {
        neighbours.push(client.enqueue(Neighbour { n }).await.expect("enqueue"));
    }
    // A supervisor: whenever the process dies, it starts another.
    let supervisor = tokio::spawn({
        let order = order.clone();
        async move {
            let mut deaths = 0;
            loop {
                let mut child = Child::spawn(WORKER, &order);
                if child.exit().await.signal().is_none() {
                    return deaths;
                }
                deaths += 1;
            }
        }
    });
    let ended = within("the poison ends", poison.wait_record()).await.expect("a record");
    assert_eq!((ended.state, ended.failure), (JobState::Failed, Some(FailReason::CrashesExhausted)));
    assert_eq!((ended.crashes, ended.attempts), (3, 0));
    for neighbour in &neighbours {
        let ended = within("a neighbour ends", neighbour.wait_record()).await.expect("a record");
        assert_eq!((ended.state, ended.crashes), (JobState::Completed, 2), "it lost two leases with its neighbour");
    }
    supervisor.abort();
    let lines = trace::read(&order.trace);
    let poisoned: Vec<_> = lines.iter().filter(|line| line.what == "poison").map(|line| line.pid).collect();
    assert_eq!(poisoned.len(), 3, "three runs, each the end of a process");
    // On its last crash it ran alone: a neighbour beside it would have lost its third lease, and would be Failed too.
    audit(client.storage().as_ref(), &queue()).await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_gives_the_job_back() {
    let directory = store::directory();
    let mut order = Order::work(store::db_in(&directory));
    order.grace = Duration::from_secs(3600);
    let client = Client::new(Arc::new(store::sqlite(&order.db).await));
    let handle = client.enqueue(Stubborn { n: 1 }).await.expect("enqueue");
    let mut child = Child::spawn(WORKER, &order);
    child.says("running").await;
    // Signals that come close together are one to the process, so they are sent until it ends; had it waited for its grace
    // period after all, it would not end before this test gives up.
    let report = loop {
        child.signal("TERM");
        if let Ok(report) = tokio::time::timeout(Duration::from_millis(20), child.says("report")).await {
            break report;
        }
    };
    assert!(report.contains("completed: 0") && report.contains("released: 1"), "{report}");
    assert!(child.exit().await.success());
    let record = handle.record().await.expect("record").expect("it is there");
    assert_eq!((record.state, record.attempts, record.crashes), (JobState::Waiting, 0, 0));
    audit(client.storage().as_ref(), &queue()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_on_one_file_complete_every_job_once() {
    const PROCESSES: u64 = 8;
    const JOBS: u64 = 100;
    let directory = store::directory();
    let mut order = Order::work(store::db_in(&directory));
    // Nobody dies here, so a lease that is lost on a busy machine would only blur the picture.
    order.lease = Duration::from_secs(30);
    let client = Client::new(Arc::new(store::sqlite(&order.db).await));
    let mut children = Vec::new();
    for process in 0..PROCESSES {
        order.enqueue = process * JOBS..(process + 1) * JOBS;
        children.push(Child::spawn(WORKER, &order));
    }
    for child in &mut children {
        child.says("enqueued").await;
    }
    // Every fifth job has a follow-up.
    let all = PROCESSES * JOBS * 6 / 5;
    until("all jobs are completed", async || {
        let counts = client.queue(QUEUE).expect("a name").counts().await.expect("counts");
        (counts.completed == all).then_some(())
    })
    .await;
    for child in &mut children {
        child.signal("TERM");
    }
    for child in &mut children {
        child.says("end").await;
        assert!(child.exit().await.success());
    }
    let dump = audit(client.storage().as_ref(), &queue()).await;
    assert!(dump.jobs.iter().all(|record| (record.state, record.runs) == (JobState::Completed, 1)));
    let starts = trace::read(&order.trace).iter().filter(|line| line.what == "start").count() as u64;
    assert_eq!(starts, PROCESSES * JOBS, "each job was started once");
    let failed = client.queue(QUEUE).expect("a name").all(JobFilter::states([JobState::Failed])).await.expect("list");
    assert_eq!(failed, []);
    let app = store::app(&order.db).await;
    let (check,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&app).await.expect("integrity_check");
    assert_eq!(check, "ok");
}
