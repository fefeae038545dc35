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
pub(super) struct Maintain {
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

impl Maintain {
    pub(super) async fn run(self) {
        let mut failing = false;
        loop {
            let pause = match self.sweep_all().await {
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

    /// Sweeps every queue until nothing is due, and answers how long that will hold.
    async fn sweep_all(&self) -> Result<Duration, StorageError> {
        let mut pause = self.interval;
        for queue in &self.queues {
            loop {
                let request = SweepRequest { queue: queue.clone(), max_items: SWEEP_ITEMS };
                let answer = self.storage.sweep(request).await?;
                if answer.more && !self.stop.is_cancelled() {
                    // Others may want the storage as well.
                    tokio::task::yield_now().await;
                    continue;
                }
                if let Some(next) = answer.next {
                    pause = pause.min(approach(next));
                }
                break;
            }
        }
        Ok(pause)
    }
}

/// How long to sleep when something comes due in `next`: a quarter of the way. What comes due may be a lease, and a queue
/// that nobody attended to for half a lease gets its leases extended; so leases must be looked at well before they end.
fn approach(next: Duration) -> Duration {
    const NEAR: Duration = Duration::from_millis(4);
    if next <= NEAR { next.max(Duration::from_millis(1)) } else { next / 4 }
}
