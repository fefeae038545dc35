//! How late a job starts that a rate held back: with one start in any 50 ms, of the queue, of a class of lanes or of a lane, by how
//! much the time between two starts is more than that. Two workers wait for them, each on a storage handle of its own where the
//! store has several. The storage holds the rate by its own time, so what is seen here is a little off that.

use std::time::{Duration, Instant};

use ferroq::prelude::*;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use crate::store::Backend;
use crate::work::{QUEUE, Tick};
use crate::{Bench, BenchError};

const WINDOW: Duration = Duration::from_millis(50);
const LANE: &str = "class/lane";

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in [Backend::Memory, Backend::SqliteNormal, Backend::Redis] {
        for of in ["queue", "class", "lane"] {
            let settings = format!("rate=1/50ms,of={of}");
            if !bench.wants("starts", backend.name(), &settings) {
                continue;
            }
            let late = measure(backend, of, bench.jobs(2_000).min(200)).await?;
            for (name, quantile) in [("p50 late, ms", 0.5), ("p99 late, ms", 0.99), ("most late, ms", 1.0)] {
                let figure = late.value_at_quantile(quantile) as f64 / 1000.0;
                bench.record("starts", backend.name(), &settings, name, &[figure]);
            }
        }
    }
    Ok(())
}

async fn measure(backend: Backend, of: &str, jobs: usize) -> Result<Histogram<u64>, BenchError> {
    let store = backend.store().await?;
    let (queue, rate) = (store.client.queue(QUEUE)?, Rate::sliding(1, WINDOW));
    match of {
        "queue" => drop(queue.limits().rate(rate).set().await?),
        "class" => drop(queue.lane_class("class").total(|limits| limits.rate(rate)).set().await?),
        _ => drop(queue.lane(LANE).rate(rate).set().await?),
    }
    let specs = (0..jobs).map(|n| Ok(store.client.enqueue(Tick::new(n)).lane(LANE).into_spec()?.1));
    store.client.enqueue_batch(specs.collect::<Result<Vec<_>, BenchError>>()?).await?;
    let other = match &store.url {
        Some(url) => ferroq::connect(url).await?,
        None => store.client.clone(),
    };
    let (tx, mut starts) = mpsc::unbounded_channel();
    let mut workers = Vec::new();
    for client in [&store.client, &other] {
        workers.push(Worker::new(client).state(tx.clone()).concurrency(10).handle(note).start().await?);
    }
    let mut late = Histogram::new(3)?;
    let mut last: Option<Instant> = None;
    for _ in 0..jobs {
        let at = starts.recv().await.ok_or("the workers ended")?;
        if let Some(last) = last.replace(at) {
            late.record(at.duration_since(last).saturating_sub(WINDOW).as_micros() as u64)?;
        }
    }
    for worker in workers {
        worker.shutdown().await;
    }
    Ok(late)
}

async fn note(_job: Tick, cx: Context<mpsc::UnboundedSender<Instant>>) -> JobResult {
    cx.state().send(Instant::now()).or_abort()
}
