//! Whether cost grows with the backlog: the same number of jobs is drained from queues of 1e3 to 1e6 waiting jobs, and
//! the same number enqueued. Throughput at a million should be close to that at a thousand. On Redis also for how long a
//! script kept the server busy at most: with 1,000 jobs an enqueue, and 100 an exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ferroq::prelude::*;
use ferroq_tests::redis::server::Server;
use tokio::sync::Notify;

use crate::store::{Backend, Store};
use crate::work::{Kept, Tick, configure, fill};
use crate::{Bench, BenchError};

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in [Backend::Memory, Backend::SqliteNormal, Backend::Redis] {
        for backlog in [1_000, 10_000, 100_000, 1_000_000] {
            if bench.quick && backlog > 100_000 {
                continue;
            }
            let settings = format!("backlog={backlog}");
            if !bench.wants("backlog-drain", backend.name(), &settings)
                && !bench.wants("backlog-enqueue", backend.name(), &settings)
            {
                continue;
            }
            let moved = bench.jobs(100_000);
            let (mut drains, mut enqueues, mut longest) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..bench.runs().min(3) {
                let store = backend.store().await?;
                configure(&store.client, Kept::Removed).await?;
                fill(&store.client, 0, backlog).await?;
                let started = Instant::now();
                fill(&store.client, backlog, backlog + moved).await?;
                enqueues.push(moved as f64 / started.elapsed().as_secs_f64());
                if let Some(server) = store.server() {
                    longest.push(longest_script_ms(server)?);
                }
                drains.push(drain_some(&store, backlog + moved, moved).await?);
                if let Some(server) = store.server() {
                    longest.push(longest_script_ms(server)?);
                }
            }
            bench.record("backlog-enqueue", backend.name(), &settings, "jobs/s", &enqueues);
            bench.record("backlog-drain", backend.name(), &settings, "jobs/s", &drains);
            if !longest.is_empty() {
                bench.record("backlog-script", backend.name(), &settings, "ms at most", &longest);
            }
        }
    }
    Ok(())
}

/// The longest script since this was last asked, in milliseconds, as the server measured it.
fn longest_script_ms(server: &Server) -> Result<f64, BenchError> {
    server.config_set("latency-tracking-info-percentiles", "100");
    let stats = server.cli(&["INFO", "latencystats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("latency_percentiles_usec_evalsha:p100="));
    let longest: f64 = line.ok_or("the server does not tell how long scripts took")?.trim().parse()?;
    server.cli(&["CONFIG", "RESETSTAT"]);
    Ok(longest / 1000.0)
}

struct Progress {
    ran: AtomicUsize,
    enough: usize,
    reached: Notify,
}

async fn count(_job: Tick, cx: Context<Arc<Progress>>) -> JobResult {
    let progress = cx.state();
    if progress.ran.fetch_add(1, Ordering::Relaxed) + 1 == progress.enough {
        progress.reached.notify_one();
    }
    Ok(())
}

/// Drains `some` of the `total` jobs, and answers how many a second.
async fn drain_some(store: &Store, total: usize, some: usize) -> Result<f64, BenchError> {
    let progress = Arc::new(Progress { ran: AtomicUsize::new(0), enough: some, reached: Notify::new() });
    let started = Instant::now();
    let worker = Worker::new(&store.client).state(progress.clone()).concurrency(100).handle(count).start().await?;
    progress.reached.notified().await;
    let figure = some as f64 / started.elapsed().as_secs_f64();
    worker.shutdown().await;
    let left = store.client.queue(crate::work::QUEUE)?.counts().await?.live() as usize;
    let ran = progress.ran.load(Ordering::Relaxed);
    if ran + left == total { Ok(figure) } else { Err(format!("{ran} runs and {left} left of {total} jobs").into()) }
}
