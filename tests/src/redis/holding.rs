//! Jobs that run until the test lets them go on, or until they are told to stop: so a test knows what is under way while
//! it does its worst.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::Job;
use ferroq_core::worker::{Worker, WorkerBuilder};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// Runs until the test lets it go on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Its number.
    pub n: usize,
}

impl Job for Held {
    const NAME: &'static str = "test.held";
    const QUEUE: &'static str = "held";
    type Output = ();
}

/// What the handlers of [`Held`] jobs share with the test.
#[derive(Clone, Debug)]
pub struct Holding {
    starts: Arc<AtomicU64>,
    go: Arc<Semaphore>,
}

impl Default for Holding {
    fn default() -> Self {
        Holding::new()
    }
}

impl Holding {
    /// Nothing has run, and what runs is held.
    pub fn new() -> Self {
        Holding { starts: Arc::default(), go: Arc::new(Semaphore::new(0)) }
    }

    /// A worker with the handler, whose settings may be changed.
    pub fn worker(&self, client: &Client) -> WorkerBuilder<Holding> {
        Worker::new(client).poll_interval(Duration::from_millis(50)).state(self.clone()).handle(hold)
    }

    /// How many runs have started.
    pub fn started(&self) -> u64 {
        self.starts.load(Ordering::SeqCst)
    }

    /// Lets all go on that run, and all that start from now on.
    pub fn let_go(&self) {
        self.go.close();
    }
}

async fn hold(_job: Held, cx: Context<Holding>) -> JobResult {
    cx.state().starts.fetch_add(1, Ordering::SeqCst);
    tokio::select! {
        // It is closed, not given out.
        _closed = cx.state().go.acquire() => Ok(()),
        () = cx.cancelled() => Err("told to stop".into()),
    }
}
