//! How fast jobs come out: one worker, no-op handlers, at several concurrencies, with completed jobs removed and under
//! the default retention. The backlog is there before the clock starts; the clock stops when the worker is idle.

use std::time::Instant;

use ferroq::Worker;

use crate::store::{Backend, Store};
use crate::work::{Kept, QUEUE, Tally, configure, fill, tick};
use crate::{Bench, BenchError};

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in Backend::ALL {
        for kept in [Kept::Removed, Kept::Default] {
            for (concurrency, full) in [(1, 20_000), (10, 100_000), (100, 300_000), (500, 300_000)] {
                let settings = format!("concurrency={concurrency},completed={}", kept.name());
                if !bench.wants("drain", backend.name(), &settings) {
                    continue;
                }
                let scale = if backend == Backend::Memory { 3 } else { 1 };
                let jobs = bench.jobs(full * scale);
                let mut figures = Vec::new();
                for _ in 0..bench.runs() {
                    let store = backend.store().await?;
                    configure(&store.client, kept).await?;
                    fill(&store.client, 0, jobs).await?;
                    figures.push(drain(&store, concurrency, jobs).await?);
                }
                bench.record("drain", backend.name(), &settings, "jobs/s", &figures);
            }
        }
    }
    Ok(())
}

/// Drains a store of `jobs` jobs, and answers how many a second.
pub(crate) async fn drain(store: &Store, concurrency: usize, jobs: usize) -> Result<f64, BenchError> {
    drain_beside(store, concurrency, jobs, 0).await
}

/// The same beside so many jobs that are held back, and stay.
pub(crate) async fn drain_beside(
    store: &Store,
    concurrency: usize,
    jobs: usize,
    held: usize,
) -> Result<f64, BenchError> {
    let tally = Tally::new(jobs);
    let worker = Worker::new(&store.client).state(tally.clone()).concurrency(concurrency).handle(tick);
    let started = Instant::now();
    worker.run_until_idle().await?;
    let figure = jobs as f64 / started.elapsed().as_secs_f64();
    tally.check()?;
    let counts = store.client.queue(QUEUE)?.counts().await?;
    if counts.live() != held as u64 {
        return Err(format!("{} jobs are left, and {held} were held back", counts.live()).into());
    }
    Ok(figure)
}
