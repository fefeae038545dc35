//! What a dead letter costs: one worker, handlers that give every job up, with a dead-letter queue and without. The
//! figures without are what failing costs by itself; those with also write a copy of each job to another queue.

use std::sync::Arc;
use std::time::Instant;

use ferroq::prelude::*;

use crate::store::{Backend, Store};
use crate::work::{QUEUE, Tally, Tick, fill};
use crate::{Bench, BenchError};

const DEAD: &str = "bench:dead";
const CONCURRENCY: usize = 100;

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in Backend::ALL {
        for copied in [false, true] {
            let settings = format!("concurrency={CONCURRENCY},copied={copied}");
            if !bench.wants("dead-letter", backend.name(), &settings) {
                continue;
            }
            let jobs = bench.jobs(100_000);
            let mut figures = Vec::new();
            for _ in 0..bench.runs() {
                let store = backend.store().await?;
                if copied {
                    store.client.queue(QUEUE)?.dead_letter(Some(DEAD)).await?;
                }
                fill(&store.client, 0, jobs).await?;
                figures.push(drain(&store, jobs, copied).await?);
            }
            bench.record("dead-letter", backend.name(), &settings, "jobs/s", &figures);
        }
    }
    Ok(())
}

async fn give_up(job: Tick, cx: Context<Arc<Tally>>) -> JobResult {
    cx.state().tick(job.n);
    Err(JobError::abort("of no use"))
}

/// Fails all jobs, and answers how many a second.
async fn drain(store: &Store, jobs: usize, copied: bool) -> Result<f64, BenchError> {
    let tally = Tally::new(jobs);
    let worker = Worker::new(&store.client).state(tally.clone()).concurrency(CONCURRENCY).handle(give_up);
    let started = Instant::now();
    worker.run_until_idle().await?;
    let figure = jobs as f64 / started.elapsed().as_secs_f64();
    tally.check()?;
    let counts = store.client.queue(QUEUE)?.counts().await?;
    let letters = store.client.queue(DEAD)?.counts().await?.waiting;
    if counts.live() > 0 || letters != if copied { jobs as u64 } else { 0 } {
        return Err(format!("{} jobs are left, and there are {letters} dead letters", counts.live()).into());
    }
    Ok(figure)
}
