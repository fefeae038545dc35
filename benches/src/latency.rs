//! How long a job that finds an idle worker waits for its handler to start: in the same process, and with the worker in
//! another process on the same SQLite file or Redis server. Both ends read the same clock (the host's, which processes share).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferroq::prelude::*;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::store::{Backend, Store};
use crate::{Bench, BenchError};

/// Knows when it was enqueued, in nanoseconds since 1970.
#[derive(Serialize, Deserialize, Job)]
#[job(name = "bench.stamp", queue = "bench")]
struct Stamp {
    at_ns: u64,
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    let samples = bench.jobs(2_000);
    for backend in [Backend::Memory, Backend::SqliteNormal, Backend::Redis] {
        if bench.wants("latency", backend.name(), "in-process") {
            let store = backend.store().await?;
            let (tx, mut starts) = mpsc::unbounded_channel();
            let worker = Worker::new(&store.client).state(tx).concurrency(10).handle(stamp).start().await?;
            let waits = sample(&store, samples, &mut starts).await?;
            worker.shutdown().await;
            record(bench, backend.name(), "in-process", &waits);
        }
    }
    for backend in [Backend::SqliteNormal, Backend::Redis] {
        if !bench.wants("latency", backend.name(), "across-processes") {
            continue;
        }
        let store = backend.store().await?;
        let url = store.url.clone().ok_or("the store can't be shared by processes")?;
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .arg("--latency-worker")
            .arg(&url)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("the child's output is piped")?).lines();
        let (tx, mut starts) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(wait) = line.parse::<u64>()
                    && tx.send(wait).is_err()
                {
                    return;
                }
            }
        });
        let waits = sample(&store, samples, &mut starts).await?;
        // Closing its input ends the child.
        drop(child.stdin.take());
        child.wait().await?;
        reader.abort();
        record(bench, backend.name(), "across-processes", &waits);
    }
    Ok(())
}

async fn stamp(job: Stamp, cx: Context<mpsc::UnboundedSender<u64>>) -> JobResult {
    cx.state().send(now_ns().saturating_sub(job.at_ns)).or_abort()
}

/// Enqueues one job at a time, each after the last one's handler started and the worker had time to fall idle.
async fn sample(
    store: &Store,
    samples: usize,
    starts: &mut mpsc::UnboundedReceiver<u64>,
) -> Result<Histogram<u64>, BenchError> {
    let mut waits = Histogram::new(3)?;
    for n in 0..samples {
        store.client.enqueue(Stamp { at_ns: now_ns() }).await?;
        let wait = tokio::time::timeout(Duration::from_secs(30), starts.recv()).await?.ok_or("the worker ended")?;
        // The first ones open connections and prepare statements.
        if n >= samples / 10 {
            waits.record(wait)?;
        }
        // Spread over the watcher's polling, so that no phase is favoured.
        tokio::time::sleep(Duration::from_micros(3_000 + (n as u64 * 977) % 5_000)).await;
    }
    Ok(waits)
}

fn record(bench: &mut Bench, backend: &str, settings: &str, waits: &Histogram<u64>) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let ms = waits.value_at_quantile(quantile) as f64 / 1e6;
        bench.record("latency", backend, &format!("{settings},{name}"), "ms", &[ms]);
    }
}

/// The other process: works, and prints each job's wait in nanoseconds, until its input is closed.
pub(crate) async fn worker(url: &str) -> Result<(), BenchError> {
    let client = ferroq::connect(url).await?;
    let (tx, mut waits) = mpsc::unbounded_channel::<u64>();
    let printer = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let mut out = tokio::io::stdout();
        while let Some(wait) = waits.recv().await {
            out.write_all(format!("{wait}\n").as_bytes()).await?;
            out.flush().await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let closed = async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(_)) = lines.next_line().await {}
    };
    Worker::new(&client).state(tx).concurrency(10).handle(stamp).run_until(closed).await?;
    printer.await??;
    Ok(())
}
