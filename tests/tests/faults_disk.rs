//! Disks without room and disks that can't be written to, for real: small file systems in memory, which only root may
//! mount. What can't be stored is refused with a reason and leaves nothing; once there is room, work goes on.
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferroq_core::client::{Client, ClientError};
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobState, QueueName};
use ferroq_core::storage::{Effect, ErrorCode, Storage, StorageError};
use ferroq_core::worker::Worker;
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::audit;
use ferroq_tests::disk::Disk;
use ferroq_tests::store;
use ferroq_tests::wait::{until, within};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

const QUEUE: &str = "work";

#[derive(Serialize, Deserialize)]
struct Load {
    bytes: String,
}

impl Load {
    fn of(bytes: usize) -> Self {
        Load { bytes: "x".repeat(bytes) }
    }
}

impl Job for Load {
    const NAME: &'static str = "test.load";
    const QUEUE: &'static str = QUEUE;
    type Output = usize;
}

async fn weigh(job: Load, _cx: Context) -> JobResult<usize> {
    Ok(job.bytes.len())
}

fn queue() -> QueueName {
    QueueName::new(QUEUE).expect("a name")
}

fn storage_error(error: ClientError) -> StorageError {
    match error {
        ClientError::Storage(error) => error,
        other => panic!("no storage error: {other}"),
    }
}

#[tokio::test]
async fn a_full_disk_refuses_jobs_without_a_trace_and_takes_them_once_there_is_room() {
    let disk = Disk::in_memory(4096);
    let storage: Arc<dyn Storage> = Arc::new(store::sqlite(&disk.db()).await);
    let client = Client::new(storage.clone());
    let before = client.enqueue(Load::of(100)).await.expect("there is room");
    disk.fill();
    for bytes in [10, 100_000] {
        let error = storage_error(client.enqueue_all([Load::of(bytes), Load::of(bytes)]).await.expect_err("no room"));
        assert_eq!(
            (error.code(), error.effect(), error.is_retryable()),
            (ErrorCode::Full, Effect::None, true),
            "{error}"
        );
        assert!(error.to_string().contains("free disk space"), "it says what to do: {error}");
    }
    let dump = audit(storage.as_ref(), &queue()).await;
    assert_eq!(dump.jobs.iter().map(|record| record.id()).collect::<Vec<_>>(), [before.id()], "no trace");
    disk.free();
    let after = client.enqueue(Load::of(100_000)).await.expect("there is room again");
    Worker::new(&client).handle(weigh).run_until_idle().await.expect("run");
    assert_eq!(before.wait().await.expect("it completes"), 100);
    assert_eq!(after.wait().await.expect("it completes"), 100_000);
    audit(storage.as_ref(), &queue()).await;
    client.close().await;
}

/// The row of a new queue goes with the COMMIT that fails, and that it is not there was once taken to say nothing of
/// that COMMIT: the client then repeated the call for minutes instead of answering.
#[tokio::test]
async fn a_full_disk_refuses_the_first_job_of_a_queue_as_well() {
    let disk = Disk::in_memory(4096);
    let storage: Arc<dyn Storage> = Arc::new(store::sqlite(&disk.db()).await);
    let client = Client::new(storage.clone());
    disk.fill();
    for _ in 0..2 {
        let answer = within("the answer", async { client.enqueue(Load::of(100_000)).await }).await;
        let error = storage_error(answer.expect_err("no room"));
        assert_eq!((error.code(), error.effect()), (ErrorCode::Full, Effect::None), "{error}");
    }
    assert!(storage.queues().await.expect("queues").is_empty(), "no trace");
    disk.free();
    client.enqueue(Load::of(100_000)).await.expect("there is room again");
    audit(storage.as_ref(), &queue()).await;
    client.close().await;
}

#[tokio::test]
async fn a_worker_sits_out_a_full_disk_and_runs_nothing_twice() {
    let disk = Disk::in_memory(4096);
    let storage: Arc<dyn Storage> = Arc::new(store::sqlite(&disk.db()).await);
    let client = Client::new(storage.clone());
    let handles = client.enqueue_all((0..20).map(|_| Load::of(200))).await.expect("there is room");
    let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let held = {
        let (runs, gate) = (runs.clone(), gate.clone());
        move |job: Load, _cx: Context| {
            let (runs, gate) = (runs.clone(), gate.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await?.forget();
                Ok(job.bytes.len())
            }
        }
    };
    let worker = Worker::new(&client).concurrency(5).poll_interval(Duration::from_millis(20)).handle(held);
    let worker = worker.start().await.expect("start");
    until("five run", async || (runs.load(Ordering::SeqCst) == 5).then_some(())).await;
    disk.fill();
    gate.add_permits(20);
    // That their outcomes can't be stored is seen by another call that can't be stored either.
    let error = until("the disk is full", async || client.enqueue(Load::of(100_000)).await.err()).await;
    assert_eq!(storage_error(error).code(), ErrorCode::Full);
    disk.free();
    for handle in &handles {
        assert_eq!(within("it completes", handle.wait()).await.expect("it completes"), 200);
    }
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.lost, report.failed), (20, 0, 0));
    assert_eq!(runs.load(Ordering::SeqCst), 20, "each ran once");
    audit(storage.as_ref(), &queue()).await;
    client.close().await;
}

#[tokio::test]
async fn a_read_only_disk_is_refused_at_opening_and_nothing_on_it_changes() {
    let disk = Disk::in_memory(4096);
    let client = Client::new(Arc::new(store::sqlite(&disk.db()).await));
    let handle = client.enqueue(Load::of(100)).await.expect("enqueue");
    client.close().await;
    let before = std::fs::read(disk.db()).expect("the file");
    disk.remount("ro");
    let error = SqliteStorage::open(SqliteOptions::new(disk.db())).await.expect_err("a read-only disk");
    assert_eq!(error.code(), ErrorCode::ReadOnly, "{error:?}");
    assert_eq!(error.effect(), Effect::None);
    let error = SqliteStorage::open(SqliteOptions::new(disk.path().join("new.db"))).await.expect_err("a new file");
    assert_eq!(error.code(), ErrorCode::ReadOnly, "{error:?}");
    assert_eq!(std::fs::read(disk.db()).expect("the file"), before, "not a byte has changed");
    disk.remount("rw");
    let client = Client::new(Arc::new(store::sqlite(&disk.db()).await));
    let record = client.job(handle.id()).await.expect("job").expect("it is there");
    assert_eq!(record.state, JobState::Waiting);
    Worker::new(&client).handle(weigh).run_until_idle().await.expect("run");
    client.close().await;
}

#[tokio::test]
async fn a_file_or_directory_marked_read_only_is_refused_with_what_to_do() {
    let directory = store::directory();
    let db = store::db_in(&directory);
    store::sqlite(&db).await.close().await;
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    mode(&db, 0o444);
    let error = SqliteStorage::open(SqliteOptions::new(&db)).await.expect_err("a read-only file");
    assert_eq!(error.code(), ErrorCode::ReadOnly);
    assert!(error.to_string().contains("make it and its directory writable"), "{error}");
    mode(&db, 0o644);
    let inner = directory.path().join("inner");
    std::fs::create_dir(&inner).expect("a directory");
    mode(&inner, 0o555);
    let error = SqliteStorage::open(SqliteOptions::new(inner.join("app.db"))).await.expect_err("a read-only directory");
    assert_eq!(error.code(), ErrorCode::ReadOnly);
    assert_eq!(std::fs::read_dir(&inner).expect("the directory").count(), 0, "nothing was made in it");
    mode(&inner, 0o755);
    store::sqlite(&inner.join("app.db")).await.close().await;
}
