//! What lanes cost: the drain of a queue without lanes, and of the same jobs in one lane, in a thousand and in a hundred
//! thousand, under a rate limit of the queue that never binds, and where every lane holds one job. The settings are measured
//! in turn, round after round, and each is also shown as a share of the plain drain of its round.

use ferroq::{Client, Rate};

use crate::drain::drain_beside;
use crate::store::{Backend, Store};
use crate::work::{Kept, QUEUE, Tick, configure};
use crate::{Bench, BenchError};

const BULK: usize = 1_000;
const CONCURRENCY: usize = 100;

/// What is drained.
struct Setting {
    name: &'static str,
    jobs: usize,
    /// How many jobs a lane holds; none: jobs name no lane.
    per_lane: Option<usize>,
    limited: bool,
    /// How many other lanes hold a job each of which nothing may start.
    aside: usize,
}

const PLAIN: &str = "lanes=0";
const SETTINGS: [Setting; 9] = [
    Setting { name: PLAIN, jobs: 300_000, per_lane: None, limited: false, aside: 0 },
    Setting { name: "lanes=0,limited", jobs: 300_000, per_lane: None, limited: true, aside: 0 },
    Setting { name: "lanes=1", jobs: 300_000, per_lane: Some(300_000), limited: false, aside: 0 },
    Setting { name: "lanes=100", jobs: 300_000, per_lane: Some(3_000), limited: false, aside: 0 },
    Setting { name: "lanes=1000", jobs: 300_000, per_lane: Some(300), limited: false, aside: 0 },
    Setting { name: "lanes=1000,limited", jobs: 300_000, per_lane: Some(300), limited: true, aside: 0 },
    Setting { name: "lanes=1000,aside=100000", jobs: 300_000, per_lane: Some(300), limited: false, aside: 100_000 },
    Setting { name: "lanes=100000,jobs=10", jobs: 1_000_000, per_lane: Some(10), limited: false, aside: 0 },
    Setting { name: "lanes=100000,jobs=1", jobs: 100_000, per_lane: Some(1), limited: false, aside: 0 },
];

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in Backend::ALL {
        let wanted: Vec<&Setting> =
            SETTINGS.iter().filter(|setting| bench.wants("lanes", backend.name(), setting.name)).collect();
        if wanted.is_empty() {
            continue;
        }
        let mut plain = Vec::new();
        let mut figures = vec![Vec::new(); wanted.len()];
        for _ in 0..bench.runs() {
            plain.push(measure(bench, backend, &SETTINGS[0]).await?);
            for (setting, figures) in wanted.iter().zip(&mut figures) {
                if setting.name != PLAIN {
                    figures.push(measure(bench, backend, setting).await?);
                }
            }
        }
        for (setting, figures) in wanted.iter().zip(&figures) {
            if setting.name == PLAIN {
                bench.record("lanes", backend.name(), setting.name, "jobs/s", &plain);
                continue;
            }
            bench.record("lanes", backend.name(), setting.name, "jobs/s", figures);
            let shares: Vec<f64> = figures.iter().zip(&plain).map(|(figure, plain)| figure / plain).collect();
            bench.record("lanes", backend.name(), setting.name, "of plain", &shares);
        }
    }
    Ok(())
}

async fn measure(bench: &Bench, backend: Backend, setting: &Setting) -> Result<f64, BenchError> {
    // Fewer jobs are in fewer lanes, but as many in each.
    let jobs = bench.jobs(setting.jobs);
    let store = backend.store().await?;
    configure(&store.client, Kept::Removed).await?;
    if setting.limited {
        let queue = store.client.queue(QUEUE)?;
        let mut config = queue.config().await?;
        config.limits.rate = Some(Rate::per_second(100_000_000));
        queue.configure(config).await?;
    }
    let aside = bench.jobs(setting.aside).min(setting.aside);
    if aside > 0 {
        hold_aside(&store, aside).await?;
    }
    match setting.per_lane {
        Some(per_lane) => fill(&store.client, jobs, per_lane, "lane ").await?,
        None => crate::work::fill(&store.client, 0, jobs).await?,
    }
    drain_beside(&store, CONCURRENCY, jobs, aside).await
}

/// Enqueues a job into each of so many lanes of which nothing may start, and has a worker meet them all.
async fn hold_aside(store: &Store, lanes: usize) -> Result<(), BenchError> {
    fill(&store.client, lanes, 1, "held/").await?;
    store.client.queue(QUEUE)?.lane_class("held").pause().await?;
    drain_beside(store, CONCURRENCY, 0, lanes).await?;
    Ok(())
}

/// Enqueues jobs in bulks of 1,000, their lanes in turn, whose names begin alike.
async fn fill(client: &Client, jobs: usize, per_lane: usize, name: &str) -> Result<(), BenchError> {
    let lanes = jobs.div_ceil(per_lane);
    for from in (0..jobs).step_by(BULK) {
        let mut specs = Vec::with_capacity(BULK);
        for n in from..jobs.min(from + BULK) {
            specs.push(client.enqueue(Tick::new(n)).lane(format!("{name}{}", n % lanes)).into_spec()?.1);
        }
        client.enqueue_batch(specs).await?;
    }
    Ok(())
}
