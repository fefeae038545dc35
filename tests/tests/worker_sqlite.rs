//! The worker and the client on a real SQLite file that the app shares: across handles as across processes, and inside
//! the app's own transactions.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ferroq::prelude::*;
use ferroq::sqlite::{CompleteIn, EnqueueIn, EnqueueSpecsIn};
use ferroq::{ActAnswer, EnqueueAnswer, JobState, WaitError};
use ferroq_tests::wait::until_so;
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use tokio::sync::Notify;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "order.charge", queue = "orders", max_attempts = 3, backoff = "fixed(1ms)", output = "u32")]
struct Charge {
    order: u32,
    part: String,
}

impl Charge {
    fn new(order: u32, part: &str) -> Self {
        Charge { order, part: part.to_owned() }
    }
}

struct App {
    db: SqlitePool,
    runs: AtomicU32,
    started: Notify,
}

async fn charge(job: Charge, cx: Context<Arc<App>>) -> JobResult<u32> {
    let app = cx.state();
    let run = app.runs.fetch_add(1, Ordering::SeqCst) + 1;
    app.started.notify_one();
    match job.part.as_str() {
        "until told" => {
            cx.cancelled().await;
            return Err(JobError::retry("told to stop"));
        }
        "plain" => return Ok(job.order),
        _ => {}
    }
    let mut tx = app.db.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("INSERT INTO charges VALUES (?)").bind(job.order).execute(&mut *tx).await?;
    cx.enqueue(Charge::new(job.order + 1000, "plain")).await?;
    cx.complete_in(&mut tx, &job.order).await?;
    match job.part.as_str() {
        "roll back once" if run == 1 => {
            tx.rollback().await?;
            return Err(JobError::retry("rolled back"));
        }
        "fail after commit" => {
            tx.commit().await?;
            return Err(JobError::retry("too late to fail"));
        }
        _ => tx.commit().await?,
    }
    Ok(job.order)
}

async fn open(path: &Path) -> Client {
    ferroq::connect(&format!("sqlite://{}", path.display())).await.expect("the file can be opened")
}

async fn app(path: &Path) -> Arc<App> {
    let options =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(Duration::from_secs(5));
    let db = SqlitePool::connect_with(options).await.expect("the app opens its own database");
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS charges (number INTEGER)").execute(&db).await.unwrap();
    Arc::new(App { db, runs: AtomicU32::new(0), started: Notify::new() })
}

fn worker(client: &Client, app: &Arc<App>) -> ferroq::WorkerBuilder<Arc<App>> {
    Worker::new(client).state(app.clone()).handle(charge)
}

async fn charges(app: &App) -> Vec<u32> {
    sqlx::query_scalar("SELECT number FROM charges ORDER BY number").fetch_all(&app.db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clients_worker_runs_what_another_client_enqueues_and_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (theirs, ours) = (open(&path).await, open(&path).await);
    let running = worker(&theirs, &app(&path).await).start().await.unwrap();
    for order in 0..20 {
        let handle = ours.enqueue(Charge::new(order, "plain")).await.unwrap();
        assert_eq!(handle.wait().await.unwrap(), order);
    }
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_from_another_client_reaches_the_handler() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (theirs, ours, app) = (open(&path).await, open(&path).await, app(&path).await);
    let running = worker(&theirs, &app).start().await.unwrap();
    let handle = ours.enqueue(Charge::new(1, "until told")).await.unwrap();
    app.started.notified().await;
    assert_eq!(ours.cancel(handle.id()).await.unwrap(), ActAnswer::Requested);
    assert!(matches!(handle.wait().await, Err(WaitError::Cancelled)));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_from_another_client_lets_the_worker_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (theirs, ours) = (open(&path).await, open(&path).await);
    ours.queue("orders").unwrap().pause().await.unwrap();
    let running = worker(&theirs, &app(&path).await).start().await.unwrap();
    let handle = ours.enqueue(Charge::new(1, "plain")).await.unwrap();
    assert_eq!(handle.record().await.unwrap().unwrap().state, JobState::Waiting);
    ours.queue("orders").unwrap().resume().await.unwrap();
    assert_eq!(handle.wait().await.unwrap(), 1);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_enqueued_in_the_apps_transaction_shares_its_fate() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (jobs, app) = (open(&path).await, app(&path).await);

    let mut tx = app.db.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let lost = jobs.enqueue(Charge::new(1, "plain")).enqueue_in(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(lost.record().await.unwrap().is_none());

    let running = worker(&jobs, &app).start().await.unwrap();
    let mut tx = app.db.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let kept = jobs.enqueue(Charge::new(2, "plain")).dedup("two", DedupMode::UntilFinished).enqueue_in(&mut tx).await;
    let (_, again) = jobs.enqueue(Charge::new(2, "plain")).dedup("two", DedupMode::UntilFinished).into_spec().unwrap();
    let answers = jobs.enqueue_specs_in(&mut tx, vec![again]).await.unwrap();
    let kept = kept.unwrap();
    assert_eq!(answers, [EnqueueAnswer::Duplicate(kept.id())], "the transaction sees its own jobs");
    tx.commit().await.unwrap();
    assert_eq!(kept.wait().await.unwrap(), 2, "the worker is woken by the app's commit");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_in_the_apps_transaction_happens_exactly_once_with_its_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (jobs, app) = (open(&path).await, app(&path).await);
    let handle = jobs.enqueue(Charge::new(7, "roll back once")).await.unwrap();
    let running = worker(&jobs, &app).start().await.unwrap();
    assert_eq!(handle.wait().await.unwrap(), 7);
    // A worker that is told to stop claims nothing more, and the job's end may be known before its follow-up was claimed.
    until_so("the follow-up runs", || app.runs.load(Ordering::SeqCst) == 3).await;
    let report = running.shutdown().await;
    assert_eq!((report.completed, report.retried), (2, 1), "the job, its follow-up, and one run that was rolled back");
    assert_eq!(charges(&app).await, [7]);
    assert_eq!(app.runs.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_fails_after_its_commit_has_completed_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (jobs, app) = (open(&path).await, app(&path).await);
    let handle = jobs.enqueue(Charge::new(8, "fail after commit")).await.unwrap();
    worker(&jobs, &app).run_until_idle().await.unwrap();
    assert_eq!(handle.wait().await.unwrap(), 8);
    assert_eq!(charges(&app).await, [8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_lost_its_job_cannot_complete_it_in_a_transaction() {
    #[derive(Serialize, Deserialize, Job)]
    #[job(name = "lose", queue = "lose")]
    struct Lose;
    async fn lose(_job: Lose, cx: Context<Arc<App>>) -> JobResult {
        // Somebody removes the queue under the run.
        cx.client().queue("lose")?.obliterate(true).await?;
        let mut tx = cx.state().db.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("INSERT INTO charges VALUES (1)").execute(&mut *tx).await?;
        cx.complete_in(&mut tx, &()).await?;
        tx.commit().await?;
        Ok(())
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (jobs, app) = (open(&path).await, app(&path).await);
    jobs.enqueue(Lose).await.unwrap();
    let report = Worker::new(&jobs).state(app.clone()).handle(lose).run_until_idle().await.unwrap();
    assert_eq!(report.lost, 1);
    assert!(charges(&app).await.is_empty(), "the handler's writes went with its claim to the job");
}

/// A task that a handler left behind completed its job although the run had been settled as failed: the lease's epoch
/// is that of the job until the next claim. Its rows were committed, and then written again by the next run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_left_behind_by_a_settled_run_cannot_complete_the_job_in_a_transaction() {
    #[derive(Serialize, Deserialize, Job)]
    #[job(name = "outlived", queue = "outlived", max_attempts = 2, backoff = "fixed(1h)")]
    struct Outlived;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let (jobs, app) = (open(&path).await, app(&path).await);
    let (hand_out, mut left_behind) = tokio::sync::mpsc::unbounded_channel::<Context>();
    let handler = move |_job: Outlived, cx: Context| {
        drop(hand_out.send(cx));
        async move { Err::<(), _>(JobError::retry("the task goes on alone")) }
    };
    let handle = jobs.enqueue(Outlived).await.unwrap();
    let running = Worker::new(&jobs).handle(handler).start().await.unwrap();
    let cx = left_behind.recv().await.unwrap();
    running.shutdown().await;
    assert_eq!(handle.record().await.unwrap().unwrap().state, JobState::Delayed);
    let mut tx = app.db.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = cx.complete_in(&mut tx, &()).await.unwrap_err();
    assert!(matches!(error, ferroq::ContextError::LeaseLost), "{error}");
    tx.rollback().await.unwrap();
    assert_eq!(handle.record().await.unwrap().unwrap().state, JobState::Delayed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_outlive_the_client_and_the_apps_tables_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let app = app(&path).await;
    sqlx::raw_sql("CREATE TABLE _sqlx_migrations (version INTEGER); INSERT INTO _sqlx_migrations VALUES (1)")
        .execute(&app.db)
        .await
        .unwrap();
    let jobs = open(&path).await;
    jobs.enqueue(Charge::new(3, "plain")).await.unwrap();
    jobs.close().await;
    let jobs = open(&path).await;
    assert_eq!(worker(&jobs, &app).run_until_idle().await.unwrap().completed, 1);
    let mut own = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'ferroq_%' AND name NOT LIKE 'sqlite_%' ORDER BY name")
            .fetch_all(&mut own)
            .await
            .unwrap();
    assert_eq!(tables, ["_sqlx_migrations", "charges"]);
    let versions: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations").fetch_all(&mut own).await.unwrap();
    assert_eq!(versions, [1]);
}
