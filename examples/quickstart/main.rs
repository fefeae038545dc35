//! The quickstart: one durable job per file of a directory. A worker computes each file's SHA-256, size and line count;
//! files that can't be read are retried and end Failed. Kill it at any moment and start it again with the same database:
//! it goes on where it was, and no file is missed, run again once its completion was stored, or enqueued twice.
//!
//! `cargo run --release --example quickstart -- [DIR] [--db PATH]`
//!
//! Read this file for the story; `digest.rs` is the job and its handler, `walk.rs` lists files, `report.rs` adds up.

mod digest;
mod report;
mod walk;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ferroq::{Client, DedupMode, KeepRule, QueueHandle, Retention, Worker};
use indicatif::{ProgressBar, ProgressStyle};

use digest::{DigestFile, Trace, digest, sha256_hex};
use walk::Walked;

/// Computes SHA-256, size and line count of every file in a directory, as durable jobs.
///
/// Kill it whenever you like and start it again with the same database: it continues. Run again after the end, it reports
/// the same files and runs only new ones; delete the database to start over.
///
/// Symlinks are not followed. Left out are the database's own files, directories named `.git`, and cache directories such as
/// Cargo's `target` (those with a CACHEDIR.TAG file); --all takes the latter two in.
#[derive(Parser)]
#[command(name = "quickstart")]
struct Arguments {
    /// The directory.
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The SQLite database that holds the jobs; made if it is missing, in the current directory unless said otherwise.
    #[arg(long, value_name = "PATH", default_value = "quickstart.db")]
    db: PathBuf,
    /// Also take the files in `.git` and in cache directories.
    #[arg(long)]
    all: bool,
}

/// How many files one storage call enqueues.
const ENQUEUE_FILES: usize = 500;
/// How often to look how far the worker is.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A lease this short lets a restart after a kill take over at once; the worker renews it in time by itself.
const LEASE: Duration = Duration::from_secs(2);
/// What a shell expects of a program that was ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let code = runtime.block_on(run(arguments)).unwrap_or_else(|error| complain(error.as_ref()));
    // Not waiting for threads: one that hangs in a dead network mount must not keep the program from ending.
    runtime.shutdown_background();
    code
}

async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Arguments { dir, db, all } = arguments;
    let root = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
    let jobs = open(&db).await?;
    let db = db.canonicalize()?;

    // A queue of its own for each directory, so that one database can serve several.
    let queue = jobs.queue(format!("files:{}", &sha256_hex(root.as_os_str().as_encoded_bytes())[..16]))?;
    keep_everything(&queue).await?;

    let worker = Worker::new(&jobs)
        .state(Trace::from_env()?)
        .queue(queue.name())
        .concurrency(16)
        .lease(LEASE)
        .grace(Duration::from_secs(1))
        .handle(digest)
        .start()
        .await?;

    let finished = tokio::select! {
        finished = work_off(&jobs, &queue, &root, &db, all) => Some(finished),
        () = interrupted() => None,
    };
    if finished.is_none() {
        note("stopping: files under way are given back; press Ctrl-C again to end at once")?;
    }
    tokio::select! {
        _report = worker.shutdown() => {}
        () = interrupted() => {}
    }
    let Some(walked) = finished.transpose()? else {
        note("stopped; run the same command again to continue")?;
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let totals = report::collect(&queue).await?;
    jobs.close().await;
    totals.print(&root, &walked, &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

async fn open(db: &Path) -> Result<Client, Box<dyn Error>> {
    let options = ferroq::sqlite::SqliteOptions::new(db);
    let storage = ferroq::sqlite::SqliteStorage::open(options).await?;
    Ok(Client::new(std::sync::Arc::new(storage)))
}

/// Records are the result here, and what tells a second run which files are done; so none is ever pruned.
async fn keep_everything(queue: &QueueHandle) -> Result<(), Box<dyn Error>> {
    let forever = KeepRule { age: Duration::from_secs(100 * 365 * 24 * 3600), count: u64::from(u32::MAX) };
    queue.retention(Retention { completed: forever, failed: forever, cancelled: forever }).await?;
    Ok(())
}

/// Enqueues every file while the worker is at it, and waits until nothing is left to do.
async fn work_off(
    jobs: &Client,
    queue: &QueueHandle,
    root: &Path,
    db: &Path,
    all: bool,
) -> Result<Walked, Box<dyn Error>> {
    let (found, mut batches) = tokio::sync::mpsc::channel::<Vec<PathBuf>>(4);
    let walk = walk::Walk::new(root, db, all);
    let walk = tokio::task::spawn_blocking(move || walk.run(ENQUEUE_FILES, |batch| found.blocking_send(batch).is_ok()));
    let enqueue = async {
        while let Some(batch) = batches.recv().await {
            enqueue_files(jobs, queue, batch).await?;
        }
        Ok::<_, Box<dyn Error>>(walk.await?)
    };
    tokio::pin!(enqueue);

    let bar = ProgressBar::new(0).with_style(style()?);
    let mut walked = None;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            done = &mut enqueue, if walked.is_none() => walked = Some(done?),
            _ = ticks.tick() => {}
        }
        let counts = queue.counts().await?;
        let ended = counts.completed + counts.failed + counts.cancelled;
        bar.set_length(ended + counts.live());
        bar.set_position(ended);
        bar.set_message(format!("{} failed, {} to be retried", counts.failed, counts.delayed));
        if counts.live() == 0
            && let Some(walked) = walked.take()
        {
            bar.finish_and_clear();
            return Ok(walked);
        }
    }
}

/// One job per file. The key is held as long as the record is kept, so a file that is listed again is not enqueued again.
async fn enqueue_files(jobs: &Client, queue: &QueueHandle, files: Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let mut specs = Vec::with_capacity(files.len());
    for path in files {
        // A path may be longer than a key, and hold what no name may hold; its hash is neither.
        let key = sha256_hex(path.as_os_str().as_encoded_bytes());
        let job = jobs.enqueue(DigestFile::new(path)).queue(queue.name()).dedup(key, DedupMode::WhileKept);
        let (_client, spec) = job.into_spec()?;
        specs.push(spec);
    }
    jobs.enqueue_batch(specs).await?;
    Ok(())
}

/// Ready at Ctrl-C, and at SIGTERM where there is such a thing.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                heard = tokio::signal::ctrl_c() => if heard.is_ok() { return },
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Signals can't be heard here; a kill does no harm either.
        std::future::pending::<()>().await;
    }
}

/// The bar goes to stderr, and only if that is a terminal.
fn style() -> Result<ProgressStyle, Box<dyn Error>> {
    Ok(ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} files, {per_sec}, {msg}")?)
}

fn note(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "quickstart: {text}")
}

fn complain(error: &dyn Error) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    // Nobody is left to tell if stderr is gone as well.
    let _told = note(&text);
    ExitCode::FAILURE
}
