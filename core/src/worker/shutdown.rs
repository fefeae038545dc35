//! The phases of a worker's end: work, stop claiming and let runs end, tell them to stop, give back what is left. Each
//! is a token, and firing a later one fires those before it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The phases, shared by the worker and whoever ends it.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases {
    /// Claim nothing more.
    pub(super) drain: CancellationToken,
    /// Tell handlers to stop, and give back what has not ended a moment later.
    pub(super) stop: CancellationToken,
    /// Give back everything now.
    pub(super) abort: CancellationToken,
    /// The worker has ended.
    pub(super) ended: CancellationToken,
}

/// How long a handler that was told to stop may take for its last words.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Shuts down: waits for runs to end for the grace period, then tells them to stop. Returns when the worker has ended.
pub(super) async fn within(phases: &Phases, grace: Duration) {
    phases.drain.cancel();
    tokio::select! {
        () = phases.ended.cancelled() => return,
        () = phases.abort.cancelled() => {}
        () = tokio::time::sleep(grace) => phases.stop.cancel(),
    }
    phases.ended.cancelled().await;
}

/// Shuts down at the first signal, and ends at once at the second.
pub(super) async fn on_signals(phases: Phases, grace: Duration) {
    signal().await;
    info!(?grace, "shutting down: no new jobs are claimed; a second signal ends at once");
    tokio::select! {
        () = within(&phases, grace) => {}
        () = signal() => {
            warn!("ending at once: running jobs are given back");
            phases.abort.cancel();
        }
    }
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            Err(error) => {
                warn!(%error, "SIGTERM can't be listened for; only Ctrl-C shuts down");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = terminate => {}
        () = interrupt() => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    interrupt().await;
}

async fn interrupt() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        warn!(%error, "Ctrl-C can't be listened for");
        std::future::pending::<()>().await;
    }
}
