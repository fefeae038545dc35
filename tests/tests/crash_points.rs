//! Processes that die at the points of a job's way where there is most to lose, and come back: at each of them nothing
//! is lost, and nothing that was committed is repeated.
#![cfg(unix)]

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use ferroq_core::client::Client;
use ferroq_core::job::{JobState, QueueName};
use ferroq_core::storage::EnqueueAnswer;
use ferroq_testkit::faults::FaultPoint;
use ferroq_testkit::harness::{QueueDump, audit};
use ferroq_tests::child::Child;
use ferroq_tests::jobs::{Effect, Order, QUEUE, State, id_of, worker};
use ferroq_tests::store;
use ferroq_tests::trace::{self, Trace};
use ferroq_tests::wait::within;
use tempfile::TempDir;

const WORKER: &str = env!("CARGO_BIN_EXE_crash_worker");
const JOBS: u64 = 40;
const SIGABRT: i32 = 6;

struct Crashed {
    directory: TempDir,
    order: Order,
    client: Client,
}

/// Lets a child die at its second visit to a point, having enqueued jobs and, unless it dies of that, worked on them.
async fn die_at(point: FaultPoint) -> Crashed {
    let directory = store::directory();
    let mut order = Order::work(store::db_in(&directory));
    order.fault = Some((point.name().to_owned(), 2));
    order.enqueue = 0..JOBS;
    let mut child = Child::spawn(WORKER, &order);
    let status = child.exit().await;
    assert_eq!(status.signal(), Some(SIGABRT), "the child died at {point}");
    let client = Client::new(Arc::new(store::sqlite(&order.db).await));
    Crashed { directory, order, client }
}

impl Crashed {
    async fn dump(&self) -> QueueDump {
        audit(self.client.storage().as_ref(), &QueueName::new(QUEUE).expect("a name")).await
    }

    async fn count(&self, state: JobState) -> u64 {
        self.client.queue(QUEUE).expect("a name").counts().await.expect("counts").of(state)
    }

    /// Works everything off without faults, and answers how often each job was started in all.
    async fn recover(&self) -> HashMap<u64, usize> {
        let state = State {
            trace: Trace::open(&self.order.trace),
            app: None,
            neighbours: Default::default(),
            directory: self.directory.path().to_owned(),
        };
        let run = worker(&self.client, Arc::new(state), &self.order).run_until_idle();
        within("everything left is worked off", run).await.expect("run");
        let dump = self.dump().await;
        assert!(dump.jobs.iter().all(|record| record.state == JobState::Completed), "{:#?}", dump.jobs);
        let mut starts = HashMap::new();
        for line in trace::read(&self.order.trace).iter().filter(|line| line.what == "start") {
            *starts.entry(line.n).or_default() += 1;
        }
        starts
    }
}

#[tokio::test]
async fn death_before_an_enqueue_leaves_no_trace_of_it() {
    let crashed = die_at(FaultPoint::BeforeEnqueue).await;
    let dump = crashed.dump().await;
    assert_eq!(dump.jobs.iter().map(|record| record.id()).collect::<Vec<_>>(), [id_of(0)]);
    let again = crashed.client.enqueue(Effect { n: 1 }).id(id_of(1)).await.expect("enqueue");
    assert_eq!(again.answer(), EnqueueAnswer::Inserted);
}

#[tokio::test]
async fn death_after_an_enqueue_keeps_the_job_and_a_repeat_inserts_nothing() {
    let crashed = die_at(FaultPoint::AfterEnqueue).await;
    let dump = crashed.dump().await;
    assert_eq!(dump.jobs.iter().map(|record| record.id()).collect::<Vec<_>>(), [id_of(0), id_of(1)]);
    let again = crashed.client.enqueue(Effect { n: 1 }).id(id_of(1)).await.expect("enqueue");
    assert_eq!(again.answer(), EnqueueAnswer::Duplicate(id_of(1)));
    let starts = crashed.recover().await;
    assert_eq!(starts, HashMap::from([(0, 1), (1, 1)]));
}

#[tokio::test]
async fn death_before_a_claim_costs_no_job_anything() {
    let crashed = die_at(FaultPoint::BeforeClaim).await;
    crashed.recover().await;
    let starts = crashed.recover().await;
    assert_eq!(starts.len() as u64, JOBS, "every job ran");
}

#[tokio::test]
async fn death_after_a_claim_gives_the_jobs_to_another_run() {
    let crashed = die_at(FaultPoint::AfterClaim).await;
    let active = crashed.count(JobState::Active).await;
    assert!(active > 0, "jobs were claimed by the dead process");
    let starts = crashed.recover().await;
    assert_eq!(starts.len() as u64, JOBS, "every job ran");
    let crashes: u32 = crashed.dump().await.jobs.iter().map(|record| record.crashes).sum();
    assert_eq!(u64::from(crashes), active, "each lost lease is counted once");
}

#[tokio::test]
async fn death_before_a_settle_runs_the_jobs_again() {
    let crashed = die_at(FaultPoint::BeforeSettle).await;
    let done = trace::read(&crashed.order.trace).into_iter().filter(|line| line.what == "done").count() as u64;
    let completed = crashed.count(JobState::Completed).await;
    assert!(done > completed, "runs ended that the store does not know of: {done} done, {completed} completed");
    let starts = crashed.recover().await;
    assert_eq!(starts.len() as u64, JOBS, "every job ran");
    assert!(starts.values().any(|runs| *runs > 1), "at least once: what was not committed runs again");
}

#[tokio::test]
async fn death_after_a_settle_repeats_nothing_that_was_committed() {
    let crashed = die_at(FaultPoint::AfterSettle).await;
    let before = crashed.dump().await;
    let completed: Vec<_> = before.jobs.iter().filter(|r| r.state == JobState::Completed).map(|r| r.id()).collect();
    assert!(!completed.is_empty(), "something was settled");
    let starts = crashed.recover().await;
    assert_eq!(starts.len() as u64, JOBS, "every job ran");
    for n in (0..JOBS).filter(|n| completed.contains(&id_of(*n))) {
        assert_eq!(starts[&n], 1, "job {n} was committed and ran again");
    }
}
