//! One queue from a worker's side: what runs from it, what ended and is not settled yet, and whether asking it may give
//! work. A hint, a due time or a poll makes it ready; a claim that found nothing makes it wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::registry::Registry;
use crate::job::QueueName;
use crate::storage::{Settlement, SignalReceiver, Storage};

/// One queue that the worker works on.
pub(super) struct Line {
    pub(super) name: QueueName,
    pub(super) registry: Arc<Registry>,
    /// Ended runs, not settled yet.
    pub(super) done: Vec<Settlement>,
    /// Asking may give work.
    pub(super) ready: bool,
    /// When to ask again, should no hint come.
    pub(super) look_at: Option<Instant>,
    /// A job waits that must run alone.
    pub(super) solo_waiting: bool,
    pub(super) hint: BoxFuture<'static, (SignalReceiver, bool, bool)>,
}

impl Line {
    pub(super) fn new(name: &QueueName, storage: &Arc<dyn Storage>) -> Self {
        Line {
            name: name.clone(),
            registry: Arc::default(),
            done: Vec::new(),
            ready: true,
            look_at: None,
            solo_waiting: false,
            hint: next_hint(storage.signals(name)),
        }
    }
}

fn next_hint(mut receiver: SignalReceiver) -> BoxFuture<'static, (SignalReceiver, bool, bool)> {
    Box::pin(async move {
        let (work, control) = receiver.changed().await;
        (receiver, work, control)
    })
}

/// Waits for a hint on any line, and marks the line.
pub(super) async fn hints(lines: &mut [Line], look: &Notify) {
    std::future::poll_fn(|context| {
        let mut hinted = false;
        for line in lines.iter_mut() {
            let Poll::Ready((receiver, _work, control)) = Pin::new(&mut line.hint).poll(context) else { continue };
            line.hint = next_hint(receiver);
            line.ready = true;
            if control && !line.registry.is_empty() {
                // Somebody may have cancelled a job that runs here.
                look.notify_one();
            }
            hinted = true;
        }
        if hinted { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
