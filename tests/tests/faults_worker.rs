//! The worker's own edges: what the app's code may do outside a handler's body, workers that are dropped at the worst
//! moment, storages that hang or fail while everything else goes on, and acts on many jobs at once.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ferroq::memory::MemoryStorage;
use ferroq::prelude::*;
use ferroq::sqlite::{SqliteOptions, SqliteStorage};
use ferroq::{ErrorKind, FailReason, JobFilter, JobState, Start, UpcastError, WaitError};
use ferroq_testkit::faults::{Faulty, Outage, polled};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::Connection;
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);

/// Panics where it is told to, outside of its handler.
#[derive(Debug)]
struct Trap(String);

impl Serialize for Trap {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, "written");
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let place = String::deserialize(from)?;
        assert_ne!(place, "read");
        Ok(Trap(place))
    }
}

impl ferroq::Job for Trap {
    const NAME: &'static str = "trap";
    const QUEUE: &'static str = "traps";
    const VERSION: u16 = 2;
    type Output = Trap;

    fn options() -> ferroq::JobOptions {
        ferroq::JobOptions { max_attempts: 2, backoff: Backoff::fixed(SECOND), ..Default::default() }
    }

    fn upcast(_from: u16, _payload: serde_json::Value) -> Result<Self, UpcastError> {
        panic!("in upcast")
    }
}

struct Undisplayable;

impl std::fmt::Debug for Undisplayable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Undisplayable")
    }
}

impl std::fmt::Display for Undisplayable {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("in display")
    }
}

impl std::error::Error for Undisplayable {}

struct DropsLoudly;

impl Drop for DropsLoudly {
    fn drop(&mut self) {
        panic!("in drop")
    }
}

async fn spring(job: Trap, _cx: Context) -> JobResult<Trap> {
    match job.0.as_str() {
        "output" => Ok(Trap("written".into())),
        "error" => Err(Undisplayable)?,
        "drop" => {
            let _loud = DropsLoudly;
            std::future::pending().await
        }
        other => Ok(Trap(other.to_owned())),
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_what_surrounds_the_handler_is_a_failed_run_like_any_other() {
    for place in ["read", "upcast", "output", "error", "drop"] {
        let jobs = Client::new(Arc::new(MemoryStorage::new()));
        let (_, spec) = jobs.enqueue(Trap(place.to_owned())).timeout(SECOND).into_spec().unwrap();
        let mut spec = Arc::unwrap_or_clone(spec);
        if place == "upcast" {
            spec.payload.version = 1;
        }
        let id = spec.id;
        jobs.enqueue_batch(vec![Arc::new(spec)]).await.unwrap();
        let worker = Worker::new(&jobs).handle(spring).start().await.unwrap();
        let handle = jobs.handle::<Trap>(id).await.unwrap().unwrap();
        let Err(WaitError::Failed { reason, errors }) = handle.wait().await else { panic!("{place} must fail") };
        assert_eq!(reason, FailReason::AttemptsExhausted, "{place}");
        assert_eq!(errors.iter().map(|error| error.kind).collect::<Vec<_>>(), [ErrorKind::Panic; 2], "{place}");
        worker.shutdown().await;
    }
}

#[derive(Debug, Serialize, Deserialize, Job)]
#[job(name = "bulk", queue = "bulk")]
struct Bulk {
    n: u32,
}

async fn bulk(_job: Bulk, cx: Context<Arc<AtomicU32>>) -> JobResult {
    cx.state().fetch_add(1, Ordering::SeqCst);
    Ok(())
}

async fn sqlite(directory: &tempfile::TempDir) -> Client {
    let options = SqliteOptions::new(directory.path().join("jobs.db")).busy_timeout(Duration::from_secs(3600));
    Client::new(Arc::new(SqliteStorage::open(options).await.unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_on_many_jobs_meets_each_of_them_once() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = sqlite(&directory).await;
    jobs.enqueue_all((0..1_200).map(|n| Bulk { n })).delay(SECOND * 3600).await.unwrap();
    let queue = jobs.queue("bulk").unwrap();
    let once = |answers: Vec<(ferroq::JobId, ferroq::ActAnswer)>| {
        let ids: HashSet<_> = answers.iter().map(|(id, _)| *id).collect();
        assert_eq!((answers.len(), ids.len()), (1_200, 1_200));
    };
    once(queue.reschedule(JobFilter::default(), Start::After(SECOND * 7200)).await.unwrap());
    let due: HashSet<_> = queue.all(JobFilter::default()).await.unwrap().iter().map(|job| job.due_at).collect();
    assert_eq!(due.len(), 1, "all at the same time, however long it took to say so");
    once(queue.set_priority(JobFilter::default(), ferroq::Priority(200)).await.unwrap());
    once(queue.promote(JobFilter::default()).await.unwrap());
    once(queue.cancel(JobFilter::default()).await.unwrap());
    once(queue.retry(JobFilter::default(), false).await.unwrap());
    once(queue.remove(JobFilter::default()).await.unwrap());
}

#[tokio::test]
async fn many_jobs_under_one_dedup_key_are_refused_and_keys_of_their_own_are_not() {
    let jobs = Client::new(Arc::new(MemoryStorage::new()));
    let mode = DedupMode::UntilFinished;
    let refused = jobs.enqueue_all((0..3).map(|n| Bulk { n })).dedup("same", mode).await.unwrap_err();
    assert!(refused.to_string().contains("dedup_by"), "{refused}");
    for duplicates in [0, 3] {
        let handles =
            jobs.enqueue_all((0..3).map(|n| Bulk { n })).dedup_by(|job| format!("bulk-{}", job.n), mode).await.unwrap();
        assert_eq!(handles.iter().filter(|handle| handle.is_duplicate()).count(), duplicates);
    }
}

#[tokio::test]
async fn a_worker_dropped_at_any_moment_leaves_the_way_free_for_jobs_that_run_alone() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = sqlite(&directory).await;
    let ran = Arc::new(AtomicU32::new(0));
    for polls in 0..40 {
        jobs.enqueue(Bulk { n: polls }).await.unwrap();
        let worker = Worker::new(&jobs).state(ran.clone()).lease(Duration::from_millis(50)).handle(bulk);
        polled(polls as usize, worker.run_until_idle()).await;
    }
    // It runs alone, so it waits until nothing else runs from this client.
    let alone = jobs.enqueue(Bulk { n: 99 }).max_crashes(1).await.unwrap();
    let worker = Worker::new(&jobs).state(ran).lease(Duration::from_millis(50)).handle(bulk).start().await.unwrap();
    tokio::time::timeout(SECOND * 60, alone.wait()).await.expect("the gate is free").unwrap();
    worker.shutdown().await;
}

#[derive(Debug, Serialize, Deserialize, Job)]
#[job(name = "long", queue = "bulk")]
struct Long;

async fn long(_job: Long, cx: Context<Arc<Notify>>) -> JobResult {
    cx.state().notify_one();
    tokio::time::sleep(SECOND * 20).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_failed_before_a_shutdown_does_not_keep_the_worker_busy() {
    let (inner, outage) = (Arc::new(MemoryStorage::new()), Outage::new());
    let jobs = Client::new(Arc::new(Faulty::new(inner.clone(), outage.clone())));
    let started = Arc::new(Notify::new());
    jobs.enqueue(Long).await.unwrap();
    let worker = Worker::new(&jobs).state(started.clone()).handle(long).start().await.unwrap();
    started.notified().await;
    outage.begin();
    // Another job's hint makes the worker ask once more, and be refused.
    Client::new(inner).enqueue(Long).await.unwrap();
    outage.until_refused(1).await;
    outage.end();
    // A loop that spins would never let the paused clock come to the handler's end.
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.released), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_hangs_cannot_hold_up_an_abort() {
    let directory = tempfile::tempdir().unwrap();
    let (jobs, started) = (sqlite(&directory).await, Arc::new(Notify::new()));
    let handle = jobs.enqueue(Long).await.unwrap();
    let worker =
        Worker::new(&jobs).state(started.clone()).lease(Duration::from_millis(200)).handle(long).start().await.unwrap();
    started.notified().await;
    // From now on every write waits for an hour: the settlement, the heartbeat's and the sweeper's.
    let url = format!("sqlite://{}", directory.path().join("jobs.db").display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    tokio::time::timeout(SECOND * 60, worker.abort()).await.expect("the worker ends all the same");
    assert_eq!(handle.record().await.unwrap().unwrap().state, JobState::Active, "its lease will run out");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
}
