//! What batches bring and cost: the drain of jobs that run a hundred, or ten thousand, at a time, by one handler, next to the plain
//! drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroq::prelude::*;
use ferroq::{BatchGate, BatchJob};

use crate::drain::drain;
use crate::store::Backend;
use crate::work::{Kept, QUEUE, Tally, Tick, configure, fill};
use crate::{Bench, BenchError};

const JOBS: usize = 300_000;
const CONCURRENCY: usize = 10;

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in Backend::ALL {
        for (settings, size) in [("plain", None), ("size=100", Some(100)), ("size=10000", Some(10_000))] {
            if !bench.wants("batches", backend.name(), settings) {
                continue;
            }
            let mut figures = Vec::new();
            for _ in 0..bench.runs() {
                figures.push(measure(bench, backend, size).await?);
            }
            bench.record("batches", backend.name(), settings, "jobs/s", &figures);
        }
    }
    Ok(())
}

async fn measure(bench: &Bench, backend: Backend, size: Option<u32>) -> Result<f64, BenchError> {
    let jobs = bench.jobs(JOBS);
    let store = backend.store().await?;
    configure(&store.client, Kept::Removed).await?;
    let Some(size) = size else {
        fill(&store.client, 0, jobs).await?;
        return drain(&store, 100, jobs).await;
    };
    let gate = BatchGate::new(size, Duration::ZERO);
    store.client.queue(QUEUE)?.default_lane().batch(gate).set().await?;
    fill(&store.client, 0, jobs).await?;
    let tally = Tally::new(jobs);
    let worker = Worker::new(&store.client).state(tally.clone()).concurrency(CONCURRENCY).handle_batch(tick_all);
    let started = Instant::now();
    worker.run_until_idle().await?;
    let figure = jobs as f64 / started.elapsed().as_secs_f64();
    tally.check()?;
    Ok(figure)
}

async fn tick_all(batch: Vec<BatchJob<Tick>>, cx: Context<Arc<Tally>>) -> JobResult {
    batch.iter().for_each(|job| cx.state().tick(job.n));
    Ok(())
}
