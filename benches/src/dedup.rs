//! What a dedup key costs: enqueues in bulks of 1,000, without a key, with one of its own for each job, and all under one
//! key, where every job but the first meets the holder.

use std::time::{Duration, Instant};

use ferroq::{Client, DedupMode};

use crate::store::Backend;
use crate::work::{QUEUE, Tick};
use crate::{Bench, BenchError};

const BULK: usize = 1_000;
const COALESCE: DedupMode = DedupMode::Coalesce { count: u32::MAX, max_wait: Duration::from_secs(3600) };

/// A setting, its mode, and whether all jobs share one key.
const SETTINGS: [(&str, Option<DedupMode>, bool); 5] = [
    ("key=none", None, false),
    ("key=own,mode=until_finished", Some(DedupMode::UntilFinished), false),
    ("key=own,mode=coalesce", Some(COALESCE), false),
    ("key=one,mode=until_finished", Some(DedupMode::UntilFinished), true),
    ("key=one,mode=coalesce", Some(COALESCE), true),
];

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in Backend::ALL {
        for (settings, mode, shared) in SETTINGS {
            if !bench.wants("dedup", backend.name(), settings) {
                continue;
            }
            let jobs = bench.jobs(100_000);
            let mut figures = Vec::new();
            for _ in 0..bench.runs() {
                let store = backend.store().await?;
                let started = Instant::now();
                enqueue(&store.client, jobs, mode, shared).await?;
                figures.push(jobs as f64 / started.elapsed().as_secs_f64());
                let live = store.client.queue(QUEUE)?.counts().await?.live();
                if live != if shared { 1 } else { jobs as u64 } {
                    return Err(format!("{live} of {jobs} jobs are there").into());
                }
            }
            bench.record("dedup", backend.name(), settings, "jobs/s", &figures);
        }
    }
    Ok(())
}

async fn enqueue(client: &Client, jobs: usize, mode: Option<DedupMode>, shared: bool) -> Result<(), BenchError> {
    for from in (0..jobs).step_by(BULK) {
        let bulk = client.enqueue_all((from..jobs.min(from + BULK)).map(Tick::new));
        match mode {
            None => drop(bulk.await?),
            Some(mode) => {
                let key = |job: &Tick| if shared { "key".to_owned() } else { format!("key-{}", job.n) };
                bulk.dedup_by(key, mode).await?;
            }
        }
    }
    Ok(())
}
