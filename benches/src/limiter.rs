//! How many questions limiters answer: one that gives all, one that refuses nearly all, and ten thousand of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ferroq::{Client, Rate};

use crate::store::Backend;
use crate::{Bench, BenchError};

const CALLERS: usize = 100;

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    // Each with its settings, how many limiters share the questions, and the limit per day.
    let sorts = [("given", 1, u32::MAX), ("refused", 1, 100), ("limiters=10000", 10_000, 1_000)];
    for backend in Backend::ALL {
        for (settings, limiters, limit) in sorts {
            if !bench.wants("limiter", backend.name(), settings) {
                continue;
            }
            let questions = bench.jobs(50_000);
            let mut figures = Vec::new();
            for _ in 0..bench.runs() {
                let store = backend.store().await?;
                let started = Instant::now();
                let given = ask(&store.client, questions, limiters, limit).await?;
                figures.push(questions as f64 / started.elapsed().as_secs_f64());
                let right = questions.min(limit as usize * limiters);
                if given != right {
                    return Err(format!("{given} permits were given, and {right} are right").into());
                }
            }
            bench.record("limiter", backend.name(), settings, "questions/s", &figures);
        }
    }
    Ok(())
}

/// Asks so many questions, and answers how many permits were given.
async fn ask(client: &Client, questions: usize, limiters: usize, limit: u32) -> Result<usize, BenchError> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..CALLERS {
        let (client, next) = (client.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            let mut given = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= questions {
                    return Ok::<_, ferroq::ClientError>(given);
                }
                let limiter = client.limiter(format!("limiter {}", n % limiters), Rate::per_day(limit));
                given += usize::from(limiter.acquire(1).await?.granted);
            }
        }));
    }
    let mut given = 0;
    for task in tasks {
        given += task.await??;
    }
    Ok(given)
}
