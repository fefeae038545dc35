//! How late a job starts that a rate held back: with one start in any 50 ms, by how much the time between two starts is more
//! than that. The storage holds the rate by its own time, so what is seen here is a little off that.

use std::time::{Duration, Instant};

use ferroq::prelude::*;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use crate::store::Backend;
use crate::work::{QUEUE, Tick, fill};
use crate::{Bench, BenchError};

const WINDOW: Duration = Duration::from_millis(50);

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in [Backend::Memory, Backend::SqliteNormal, Backend::Redis] {
        if !bench.wants("starts", backend.name(), "rate=1/50ms") {
            continue;
        }
        let jobs = bench.jobs(2_000).min(200);
        let store = backend.store().await?;
        store.client.queue(QUEUE)?.limits().rate(Rate::sliding(1, WINDOW)).set().await?;
        fill(&store.client, 0, jobs).await?;
        let (tx, mut starts) = mpsc::unbounded_channel();
        let worker = Worker::new(&store.client).state(tx).concurrency(10).handle(note).start().await?;
        let mut late: Histogram<u64> = Histogram::new(3)?;
        let mut last: Option<Instant> = None;
        for _ in 0..jobs {
            let at = starts.recv().await.ok_or("the worker ended")?;
            if let Some(last) = last.replace(at) {
                late.record(at.duration_since(last).saturating_sub(WINDOW).as_micros() as u64)?;
            }
        }
        worker.shutdown().await;
        for (name, quantile) in [("p50 late, ms", 0.5), ("p99 late, ms", 0.99), ("most late, ms", 1.0)] {
            let figure = late.value_at_quantile(quantile) as f64 / 1000.0;
            bench.record("starts", backend.name(), "rate=1/50ms", name, &[figure]);
        }
    }
    Ok(())
}

async fn note(_job: Tick, cx: Context<mpsc::UnboundedSender<Instant>>) -> JobResult {
    cx.state().send(Instant::now()).or_abort()
}
