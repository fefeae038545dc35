//! The job that is measured: 100 bytes of JSON and a handler that only ticks it off; and the tally that makes a run
//! count only if every job was ticked off exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use ferroq::prelude::*;
use ferroq::{KeepRule, QueueConfig, Retention};
use serde::{Deserialize, Serialize};

use crate::BenchError;

/// The queue that benches use.
pub(crate) const QUEUE: &str = "bench";

/// 100 bytes as JSON.
#[derive(Serialize, Deserialize, Job)]
#[job(name = "bench.tick", queue = "bench")]
pub(crate) struct Tick {
    pub(crate) n: usize,
    pad: String,
}

impl Tick {
    pub(crate) fn new(n: usize) -> Self {
        // {"n":1234567,"pad":"..."}: 15 bytes around the number and the padding.
        let digits = n.checked_ilog10().unwrap_or(0) as usize + 1;
        Tick { n, pad: "x".repeat(100 - 15 - digits) }
    }
}

/// Which jobs ran how often.
pub(crate) struct Tally {
    runs: Vec<AtomicU8>,
    total: AtomicUsize,
}

impl Tally {
    pub(crate) fn new(jobs: usize) -> Arc<Self> {
        Arc::new(Tally { runs: (0..jobs).map(|_| AtomicU8::new(0)).collect(), total: AtomicUsize::new(0) })
    }

    pub(crate) fn tick(&self, n: usize) {
        if let Some(runs) = self.runs.get(n) {
            runs.fetch_add(1, Ordering::Relaxed);
        }
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    /// Fails unless every job ran exactly once.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        let wrong = self.runs.iter().filter(|runs| runs.load(Ordering::Relaxed) != 1).count();
        let total = self.total.load(Ordering::Relaxed);
        if wrong == 0 && total == self.runs.len() {
            Ok(())
        } else {
            Err(format!("{wrong} of {} jobs did not run exactly once ({total} runs)", self.runs.len()).into())
        }
    }
}

pub(crate) async fn tick(job: Tick, cx: Context<Arc<Tally>>) -> JobResult {
    cx.state().tick(job.n);
    Ok(())
}

/// What becomes of completed jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Removed,
    Default,
}

impl Kept {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kept::Removed => "removed",
            Kept::Default => "kept",
        }
    }
}

pub(crate) async fn configure(client: &Client, kept: Kept) -> Result<(), BenchError> {
    if kept == Kept::Removed {
        let mut config = QueueConfig::default();
        config.retention = Retention { completed: KeepRule::REMOVE, ..Retention::default() };
        client.queue(QUEUE)?.configure(config).await?;
    }
    Ok(())
}

/// Enqueues jobs `from..to` in bulks of 1,000.
pub(crate) async fn fill(client: &Client, from: usize, to: usize) -> Result<(), BenchError> {
    let mut at = from;
    while at < to {
        let end = (at + 1000).min(to);
        client.enqueue_all((at..end).map(Tick::new)).await?;
        at = end;
    }
    Ok(())
}
