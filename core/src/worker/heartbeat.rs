//! Keeps the leases of running jobs. It runs on a thread with a runtime and a storage handle of its own, so a handler
//! that blocks the app's runtime does not lose its lease; under a virtual clock it is a task of the test's runtime,
//! because there time belongs to that runtime.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::registry::Registry;
use super::shutdown::LAST_WORDS;
use crate::context::StopReason;
use crate::job::QueueName;
use crate::storage::{RenewAnswer, RenewRequest, Storage, StorageError};

/// What the heartbeat needs to know.
pub(super) struct Heartbeat {
    pub(super) queues: Vec<(QueueName, Arc<Registry>)>,
    /// How long leases hold; they are renewed three times as often.
    pub(super) term: Duration,
    /// Rung when leases should be looked at now, because somebody may have cancelled a job.
    pub(super) look: Arc<Notify>,
    /// Rung when jobs were claimed.
    pub(super) claimed: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

impl Heartbeat {
    /// Starts it, and answers what to wait for after `stop` was fired.
    ///
    /// # Errors
    /// If the second storage handle can't be opened or the thread can't be started.
    pub(super) async fn start(self, storage: Arc<dyn Storage>) -> Result<Beating, StorageError> {
        if storage.capabilities().virtual_time {
            let task = tokio::spawn(self.beat(storage));
            return Ok(Beating { ended: tokio::sync::oneshot::channel().1, task: Some(task) });
        }
        let (opened, is_open) = tokio::sync::oneshot::channel();
        let (ends, ended) = tokio::sync::oneshot::channel();
        let spawned = std::thread::Builder::new().name("ferroq-heartbeat".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _starter_gone = opened.send(Err(cannot_start(error)));
                    return;
                }
            };
            runtime.block_on(async move {
                match storage.second_handle().await {
                    Err(error) => {
                        let _starter_gone = opened.send(Err(error));
                    }
                    Ok(own) => {
                        let _starter_gone = opened.send(Ok(()));
                        self.beat(own.clone()).await;
                        own.close().await;
                    }
                }
            });
            let _nobody_waits = ends.send(());
        });
        spawned.map_err(cannot_start)?;
        match is_open.await {
            Ok(Ok(())) => Ok(Beating { ended, task: None }),
            Ok(Err(error)) => Err(error),
            Err(_thread_died) => Err(cannot_start("its thread ended at once")),
        }
    }

    async fn beat(self, storage: Arc<dyn Storage>) {
        let mut failing = false;
        let mut pause = self.term / 3;
        let virtual_time = storage.capabilities().virtual_time;
        loop {
            // A timer that runs while there is nothing to renew would keep a virtual clock from jumping far. Elsewhere
            // such a timer costs nothing, and being rung for every claim would.
            if virtual_time && self.queues.iter().all(|(_, registry)| registry.is_empty()) {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.claimed.notified() => {}
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.look.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let renewed = tokio::select! {
                () = self.stop.cancelled() => return,
                renewed = self.renew_all(&storage) => renewed,
            };
            match renewed {
                Ok(()) => {
                    pause = self.term / 3;
                    if failing {
                        info!("leases are renewed again");
                    }
                    failing = false;
                }
                Err(error) => {
                    // There is room for several more tries before the leases run out.
                    pause = self.term / 20;
                    if !failing {
                        warn!(%error, "leases can't be renewed; trying on");
                    }
                    failing = true;
                }
            }
        }
    }

    /// Renews what runs, queue by queue; one that fails does not keep the others from being renewed.
    async fn renew_all(&self, storage: &Arc<dyn Storage>) -> Result<(), StorageError> {
        let mut failed = Ok(());
        for (queue, registry) in &self.queues {
            let leases = registry.renewable();
            if leases.is_empty() {
                continue;
            }
            let request = RenewRequest { queue: queue.clone(), leases: leases.clone(), term: self.term };
            let answers = match storage.renew(request).await {
                Ok(answers) => answers,
                Err(error) => {
                    failed = Err(error);
                    continue;
                }
            };
            for (lease, answer) in leases.into_iter().zip(answers) {
                match answer {
                    RenewAnswer::Renewed { cancel_requested: false } => {}
                    RenewAnswer::Renewed { cancel_requested: true } => {
                        registry.stop(lease, StopReason::CancelRequested);
                    }
                    // A run that ended and was settled meanwhile is no longer in the registry, and stop does nothing.
                    RenewAnswer::LeaseLost | RenewAnswer::Gone => registry.stop(lease, StopReason::LeaseLost),
                }
            }
        }
        failed
    }
}

/// A heartbeat that was started.
pub(super) struct Beating {
    ended: tokio::sync::oneshot::Receiver<()>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Beating {
    /// Waits until it has ended, but not for ever: closing its storage handle may hang.
    pub(super) async fn ended(self) {
        let _ended_in_time = tokio::time::timeout(LAST_WORDS * 2, async {
            match self.task {
                Some(task) => task.await.is_ok(),
                None => self.ended.await.is_ok(),
            }
        })
        .await;
    }
}

fn cannot_start(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StorageError {
    StorageError::new(crate::storage::ErrorCode::Other, "the heartbeat's thread could not be started").because(why)
}
