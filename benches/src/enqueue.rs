//! How fast jobs go in: one by one with 1 and with 100 callers in flight, and in bulks of 1,000.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ferroq::Client;

use crate::store::Backend;
use crate::work::{QUEUE, Tick, fill};
use crate::{Bench, BenchError};

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in Backend::ALL {
        for (settings, callers, full) in [("in_flight=1", 1, 20_000), ("in_flight=100", 100, 100_000)] {
            if !bench.wants("enqueue", backend.name(), settings) {
                continue;
            }
            let jobs = bench.jobs(full);
            let mut figures = Vec::new();
            for _ in 0..bench.runs() {
                let store = backend.store().await?;
                let started = Instant::now();
                one_by_one(&store.client, callers, jobs).await?;
                figures.push(jobs as f64 / started.elapsed().as_secs_f64());
                check(&store.client, jobs).await?;
            }
            bench.record("enqueue", backend.name(), settings, "jobs/s", &figures);
        }
        if bench.wants("enqueue", backend.name(), "bulk=1000") {
            let jobs = bench.jobs(500_000);
            let mut figures = Vec::new();
            for _ in 0..bench.runs() {
                let store = backend.store().await?;
                let started = Instant::now();
                fill(&store.client, 0, jobs).await?;
                figures.push(jobs as f64 / started.elapsed().as_secs_f64());
                check(&store.client, jobs).await?;
            }
            bench.record("enqueue", backend.name(), "bulk=1000", "jobs/s", &figures);
        }
    }
    Ok(())
}

async fn one_by_one(client: &Client, callers: usize, jobs: usize) -> Result<(), BenchError> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (client, next) = (client.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= jobs {
                    return Ok::<_, ferroq::ClientError>(());
                }
                client.enqueue(Tick::new(n)).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn check(client: &Client, jobs: usize) -> Result<(), BenchError> {
    let waiting = client.queue(QUEUE)?.counts().await?.waiting;
    if waiting == jobs as u64 { Ok(()) } else { Err(format!("{waiting} of {jobs} jobs are waiting").into()) }
}
