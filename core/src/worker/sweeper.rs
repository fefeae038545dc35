//! Does what time makes due while a worker runs: takes leases that ran out, promotes Delayed jobs, removes old records.
//! Every worker does it for its queues; there is no leader, because a sweep that finds nothing costs next to nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::job::QueueName;
use crate::storage::{Storage, StorageError, SweepRequest};

/// How many jobs one sweep touches at most: a few milliseconds' work, so that no other caller waits long.
const SWEEP_ITEMS: usize = 500;

/// What the sweeping needs to know.
pub(super) struct Sweeper {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) queues: Vec<QueueName>,
    /// The longest time between two sweeps.
    pub(super) interval: Duration,
    /// Rung when jobs were claimed: from then on there are leases to look after.
    pub(super) claimed: Arc<Notify>,
    /// How long this worker's leases hold.
    pub(super) term: Duration,
    pub(super) stop: CancellationToken,
}

impl Sweeper {
    pub(super) async fn run(self) {
        let mut failing = false;
        loop {
            let swept = tokio::select! {
                () = self.stop.cancelled() => return,
                swept = self.sweep_all() => swept,
            };
            let pause = match swept {
                Ok(pause) => {
                    if failing {
                        info!("sweeping again");
                    }
                    failing = false;
                    pause
                }
                Err(error) => {
                    if !failing {
                        warn!(%error, "the queues can't be swept; trying on");
                    }
                    failing = true;
                    self.interval
                }
            };
            let sleep = tokio::time::sleep(pause);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep => continue,
                () = self.claimed.notified() => {}
            }
            // Not at once: claims come by the thousand, and their leases have just begun.
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause.min(self.term / 4)) => {}
            }
        }
    }

    /// Sweeps every queue, and answers how long nothing will be due; one that fails does not keep the others from it.
    async fn sweep_all(&self) -> Result<Duration, StorageError> {
        let mut pause = Ok(self.interval);
        for queue in &self.queues {
            match self.sweep(queue).await {
                Ok(None) => {}
                Ok(Some(next)) => pause = pause.map(|pause| pause.min(approach(next))),
                Err(error) => pause = Err(error),
            }
        }
        pause
    }

    /// Sweeps a queue until nothing is due, and answers when something will be.
    async fn sweep(&self, queue: &QueueName) -> Result<Option<Duration>, StorageError> {
        loop {
            let request = SweepRequest { queue: queue.clone(), max_items: SWEEP_ITEMS };
            let answer = self.storage.sweep(request).await?;
            if !answer.more {
                return Ok(answer.next);
            }
            // Others may want the storage as well.
            tokio::task::yield_now().await;
        }
    }
}

/// How long to sleep when something comes due in `next`: a quarter of the way. What comes due may be a lease, and a queue
/// that nobody attended to for half a lease gets its leases extended; so leases must be looked at well before they end.
fn approach(next: Duration) -> Duration {
    const NEAR: Duration = Duration::from_millis(4);
    if next <= NEAR { next.max(Duration::from_millis(1)) } else { next / 4 }
}
