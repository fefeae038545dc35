//! The side that works: claims jobs in batches, runs their handlers, settles what they ended in, keeps the leases and
//! does what time makes due. `turn.rs` is the loop; read it first.

mod batch;
mod builder;
mod ending;
pub(crate) mod gate;
mod heartbeat;
mod line;
mod pick;
mod registry;
mod run;
mod shutdown;
mod sweeper;
mod turn;

use std::time::Duration;

pub use builder::WorkerBuilder;

use self::shutdown::Phases;
use crate::client::Client;
use crate::job::JobState;
use crate::storage::{Outcome, SettleAnswer, Settlement, StorageError};

/// Works on jobs. Start with [`Worker::new`].
pub enum Worker {}

impl Worker {
    /// A worker for this client's storage, to be given handlers and run.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(client: &Client) -> WorkerBuilder<()> {
        WorkerBuilder::new(client)
    }
}

/// A worker could not start. No job was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// Some settings make no sense; all of them are listed.
    #[error("the worker can't start: {}", problems.join("; "))]
    Invalid {
        /// Everything that is wrong.
        problems: Vec<String>,
    },
    /// The storage could not be used.
    #[error("the worker can't start")]
    Storage(#[from] StorageError),
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerReport {
    /// Runs that completed their job.
    pub completed: u64,
    /// Runs after which the job was tried again later: failed ones and snoozed ones.
    pub retried: u64,
    /// Runs that ended with the job Failed.
    pub failed: u64,
    /// Runs that ended with the job Cancelled.
    pub cancelled: u64,
    /// Runs that were given back.
    pub released: u64,
    /// Runs whose outcome was refused, because the lease was lost or the job was gone.
    pub lost: u64,
}

impl WorkerReport {
    /// Counts a run that was settled, or not.
    fn count(&mut self, settlement: &Settlement, answer: &SettleAnswer) {
        *match answer {
            SettleAnswer::Settled { state: JobState::Completed, .. } => &mut self.completed,
            SettleAnswer::Settled { state: JobState::Failed, .. } => &mut self.failed,
            SettleAnswer::Settled { state: JobState::Cancelled, .. } => &mut self.cancelled,
            SettleAnswer::Settled { .. } if settlement.outcome == Outcome::Release => &mut self.released,
            SettleAnswer::Settled { .. } => &mut self.retried,
            // The handler settled it itself, inside the app's own transaction.
            SettleAnswer::AlreadyDone if matches!(settlement.outcome, Outcome::Completed { .. }) => &mut self.completed,
            SettleAnswer::AlreadyDone | SettleAnswer::LeaseLost | SettleAnswer::Gone => &mut self.lost,
        } += 1;
    }

    /// Adds what was counted elsewhere.
    fn add(&mut self, other: WorkerReport) {
        let WorkerReport { completed, retried, failed, cancelled, released, lost } = other;
        self.completed += completed;
        self.retried += retried;
        self.failed += failed;
        self.cancelled += cancelled;
        self.released += released;
        self.lost += lost;
    }
}

/// A worker that works as a task; made by [`WorkerBuilder::start`]. Dropping it shuts the worker down without waiting.
#[derive(Debug)]
pub struct RunningWorker {
    phases: Phases,
    grace: Duration,
    task: Option<tokio::task::JoinHandle<WorkerReport>>,
}

impl RunningWorker {
    /// Shuts it down within its grace period: no new jobs, running ones may end, what is left is given back without
    /// using up an attempt.
    pub async fn shutdown(mut self) -> WorkerReport {
        shutdown::within(&self.phases, self.grace).await;
        self.report().await
    }

    /// Ends it at once: running jobs are given back without using up an attempt.
    pub async fn abort(mut self) -> WorkerReport {
        self.phases.drain.cancel();
        self.phases.abort.cancel();
        self.report().await
    }

    async fn report(&mut self) -> WorkerReport {
        match self.task.take() {
            // The task panics only if the runtime is being torn down around it.
            Some(task) => task.await.unwrap_or_default(),
            None => WorkerReport::default(),
        }
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.phases.drain.cancel();
        self.phases.stop.cancel();
    }
}
