//! The jobs of the fault tests and what a child process is told to do with them. Handlers leave lines in a trace, so
//! that a test can compare what was done with what the store says was done.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobId, JobOptions};
use ferroq_core::storage::{RenewRequest, SettleAnswer, StorageExt};
use ferroq_core::worker::{Worker, WorkerBuilder};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;

use crate::trace::Trace;
use crate::wait::until_so;

/// The queue that all of these jobs are on.
pub const QUEUE: &str = "work";

/// What a child process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The database to open.
    pub db: PathBuf,
    /// The trace to append to.
    pub trace: PathBuf,
    /// How long leases hold.
    pub lease: Duration,
    /// How many jobs to run at once.
    pub concurrency: usize,
    /// How long running jobs may take to end at shutdown.
    pub grace: Duration,
    /// At which fault point to die, and at which visit to it.
    pub fault: Option<(String, u64)>,
    /// Numbers of the [`Effect`] jobs to enqueue first.
    pub enqueue: std::ops::Range<u64>,
    /// Whether to work after that, until told to stop.
    pub work: bool,
}

impl Order {
    /// Works on a database.
    pub fn work(db: impl Into<PathBuf>) -> Self {
        let db = db.into();
        Order {
            trace: crate::trace::path_beside(&db),
            db,
            // Long enough that a busy machine takes no job from a process that lives.
            lease: Duration::from_secs(1),
            concurrency: 8,
            grace: Duration::from_secs(30),
            fault: None,
            enqueue: 0..0,
            work: true,
        }
    }
}

/// What the handlers of a process share.
#[derive(Debug)]
pub struct State {
    /// Where they write what they did.
    pub trace: Trace,
    /// The app's own connections to the database, for handlers that use it.
    pub app: Option<SqlitePool>,
    /// How many [`Neighbour`]s have started in this process.
    pub neighbours: AtomicUsize,
    /// The directory in which tests and handlers leave files for each other.
    pub directory: PathBuf,
}

/// The id of a job by its number, so that the same enqueue can be made by several processes.
pub fn id_of(n: u64) -> JobId {
    let mut bytes = [0x5a; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    JobId::from_bytes(bytes)
}

/// Kills are the subject, not the cause of failures: a job may lose any number of leases.
fn crash_proof() -> JobOptions {
    JobOptions { max_crashes: 100_000, ..JobOptions::default() }
}

macro_rules! job {
    ($(#[$doc:meta])* $type:ident, $name:literal, $output:ty, $options:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub struct $type {
            /// Its number.
            pub n: u64,
        }

        impl Job for $type {
            const NAME: &'static str = $name;
            const QUEUE: &'static str = QUEUE;
            type Output = $output;

            fn options() -> JobOptions {
                $options
            }
        }
    };
}

job! {
    /// Leaves `start` and `done` in the trace; every fifth one enqueues an [`Echo`].
    Effect, "test.effect", u64, crash_proof()
}
job! {
    /// The follow-up of an [`Effect`], with its number.
    Echo, "test.echo", (), crash_proof()
}
job! {
    /// Writes a row of the app's in the transaction that completes it.
    AppEffect, "test.app_effect", (), crash_proof()
}
job! {
    /// Aborts its process, once all [`Neighbour`]s run beside it or when it runs alone.
    Poison, "test.poison", (), JobOptions::default()
}
job! {
    /// Runs until [`Poison`] ends its process, and completes when it runs alone.
    Neighbour, "test.neighbour", (), JobOptions::default()
}
job! {
    /// Waits for the file `go`, then writes under its lease and leaves what it was answered in the file `answers`.
    Paused, "test.paused", (), JobOptions::default()
}
job! {
    /// Runs until it is told to stop, and then still does not stop.
    Stubborn, "test.stubborn", (), JobOptions::default()
}

/// How many [`Neighbour`]s a [`Poison`] has.
pub const NEIGHBOURS: usize = 4;

/// The SQL of the app's own table. It has no unique constraint, so that an effect that happened twice shows.
pub const APP_TABLE: &str = "CREATE TABLE IF NOT EXISTS app_effects (n INTEGER NOT NULL, epoch INTEGER NOT NULL)";

async fn effect(job: Effect, cx: Context<State>) -> JobResult<u64> {
    cx.state().trace.write("start", job.n, cx.fencing_token());
    if job.n.is_multiple_of(5) {
        cx.enqueue(Echo { n: job.n }).await?;
    }
    // Some work, so that a kill meets handlers in all stages.
    tokio::time::sleep(Duration::from_micros(job.n % 7 * 500)).await;
    cx.state().trace.write("done", job.n, cx.fencing_token());
    Ok(job.n * 2)
}

async fn echo(job: Echo, cx: Context<State>) -> JobResult {
    cx.state().trace.write("echo", job.n, cx.fencing_token());
    Ok(())
}

async fn app_effect(job: AppEffect, cx: Context<State>) -> JobResult {
    let app = cx.state().app.as_ref().ok_or("this process has no app database")?;
    cx.state().trace.write("start", job.n, cx.fencing_token());
    let mut transaction = app.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("INSERT INTO app_effects (n, epoch) VALUES (?, ?)")
        .bind(i64::try_from(job.n)?)
        .bind(cx.fencing_token())
        .execute(&mut *transaction)
        .await?;
    // Long enough for a kill to fall between the app's write and the commit.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let answer = crate::store::complete_in(&cx, &mut transaction).await?;
    if !matches!(answer, SettleAnswer::Settled { .. }) {
        // Somebody else has the job: our row goes with the transaction.
        return Err(format!("not completed: {answer:?}").into());
    }
    transaction.commit().await?;
    cx.state().trace.write("committed", job.n, cx.fencing_token());
    Ok(())
}

async fn poison(job: Poison, cx: Context<State>) -> JobResult {
    cx.state().trace.write("poison", job.n, cx.fencing_token());
    if cx.crashes() + 1 < JobOptions::MAX_CRASHES_DEFAULT {
        let neighbours = &cx.state().neighbours;
        until_so("all neighbours run", || neighbours.load(Ordering::SeqCst) == NEIGHBOURS).await;
    }
    std::process::abort();
}

async fn neighbour(job: Neighbour, cx: Context<State>) -> JobResult {
    cx.state().trace.write("neighbour", job.n, cx.fencing_token());
    cx.state().neighbours.fetch_add(1, Ordering::SeqCst);
    if cx.crashes() + 1 < JobOptions::MAX_CRASHES_DEFAULT {
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn paused(job: Paused, cx: Context<State>) -> JobResult {
    cx.state().trace.write("paused", job.n, cx.fencing_token());
    say("paused");
    let (go, directory) = (cx.state().directory.join("go"), &cx.state().directory);
    until_so("the file go", || go.exists()).await;
    let storage = cx.client().storage();
    let renew = RenewRequest { queue: cx.queue().clone(), leases: vec![cx.lease()], term: Duration::from_secs(30) };
    let answers = [
        format!("renew: {:?}", storage.renew(renew).await?),
        format!("progress: {:?}", cx.progress(1, 2).await),
        format!("log: {:?}", cx.log("still here").await),
        format!("checkpoint: {:?}", cx.checkpoint(&job).await),
        format!("settle: {:?}", storage.settle(None, cx.queue(), vec![cx.completion(&())?]).await?),
        format!("stop reason: {:?}", cx.stop_reason()),
    ];
    // Written whole before it is there under its name.
    std::fs::write(directory.join("answers.new"), answers.join("\n"))?;
    std::fs::rename(directory.join("answers.new"), directory.join("answers"))?;
    Ok(())
}

async fn stubborn(job: Stubborn, cx: Context<State>) -> JobResult {
    cx.state().trace.write("stubborn", job.n, cx.fencing_token());
    say("running");
    cx.cancelled().await;
    say("told to stop");
    std::future::pending::<()>().await;
    Ok(())
}

/// Says a line to whoever started this process.
#[expect(clippy::print_stdout, reason = "the parent process listens")]
pub fn say(line: &str) {
    println!("{line}");
}

/// A worker with a handler for each of these jobs.
pub fn worker(client: &Client, state: Arc<State>, order: &Order) -> WorkerBuilder<State> {
    Worker::new(client)
        .shared_state(state)
        .lease(order.lease)
        .concurrency(order.concurrency)
        .grace(order.grace)
        .poll_interval(Duration::from_millis(50))
        .handle(effect)
        .handle(echo)
        .handle(app_effect)
        .handle(poison)
        .handle(neighbour)
        .handle(paused)
        .handle(stubborn)
}
