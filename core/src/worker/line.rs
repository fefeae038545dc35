//! One queue from a worker's side: what runs from it, what ended and is not settled yet, and whether asking it may give
//! work. A hint, a due time or a poll makes it ready; a claim that found nothing makes it wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::registry::Registry;
use crate::job::QueueName;
use crate::storage::{ClaimAnswer, Settlement, SignalReceiver, Storage, StorageError};

/// How long to wait after a failed call: at first, and at most. A storage may refuse calls for half a second by itself,
/// and is still to be found within a second of its return.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What is known of jobs that stand in line though claims give none: for a worker that ends when nothing may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Unknown,
    /// Jobs were seen in line, and a claim is to say what holds them back.
    Asked,
    /// Time lets them go, or an end of this worker's runs.
    Later,
    /// Only an operator does, or other workers.
    Held,
}

/// One queue that the worker works on.
pub(super) struct Line {
    pub(super) name: QueueName,
    pub(super) registry: Arc<Registry>,
    /// Ended runs, not settled yet.
    pub(super) done: Vec<Settlement>,
    /// When the first of them ended.
    pub(super) first_done_at: Option<Instant>,
    /// Set while the storage fails for this queue: when to try again, and how long the last pause was.
    pub(super) down: Option<(Instant, Duration)>,
    /// Asking may give work.
    pub(super) ready: bool,
    /// When to ask again, should no hint come.
    pub(super) look_at: Option<Instant>,
    /// What holds back the jobs that stand in line.
    pub(super) rest: Rest,
    /// Since when a job waits that must run alone.
    pub(super) solo_since: Option<Instant>,
    pub(super) hint: BoxFuture<'static, (SignalReceiver, bool, bool)>,
}

impl Line {
    pub(super) fn new(name: &QueueName, storage: &Arc<dyn Storage>) -> Self {
        Line {
            name: name.clone(),
            registry: Arc::default(),
            done: Vec::new(),
            first_done_at: None,
            down: None,
            ready: true,
            look_at: None,
            rest: Rest::Unknown,
            solo_since: None,
            hint: next_hint(storage.signals(name)),
        }
    }

    /// Takes note of what a claim says of the jobs that it left in line.
    pub(super) fn learn_rest(&mut self, answer: &ClaimAnswer) {
        self.rest = match self.rest {
            _ if !answer.claims.is_empty() || answer.more => Rest::Unknown,
            _ if answer.look_again.is_some() || answer.solo_waiting => Rest::Later,
            // What was in line before the claim is in line after it.
            Rest::Asked | Rest::Later | Rest::Held => Rest::Held,
            Rest::Unknown => Rest::Unknown,
        };
    }

    /// Whether jobs that were just seen in line are held back by what this worker need not wait for. If that is not known,
    /// the next claim is to say it.
    pub(super) fn is_held(&mut self) -> bool {
        if self.rest == Rest::Unknown {
            self.rest = Rest::Asked;
            self.ready = true;
        }
        self.rest == Rest::Held
    }

    /// Takes in a run that ended.
    pub(super) fn add_done(&mut self, settlement: Settlement) {
        self.done.push(settlement);
        self.first_done_at.get_or_insert_with(Instant::now);
    }

    /// Whether calls for this queue are put off for now, because the last one failed.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.down.is_some_and(|(until, _)| now < until)
    }

    /// Puts calls for this queue off for a while, longer each time.
    pub(super) fn went_down(&mut self, error: &StorageError) {
        let pause = match self.down {
            None => {
                warn!(queue = %self.name, %error, "the storage fails; running jobs go on, and outcomes are kept until it answers");
                PAUSE_MIN
            }
            Some((_, pause)) => (pause * 2).min(PAUSE_MAX),
        };
        // Up to half of the pause is left to chance, so that many workers don't come back together.
        let spread = rand::random_range(0.5..=1.0);
        self.down = Some((Instant::now() + pause.mul_f64(spread), pause));
    }

    pub(super) fn came_up(&mut self) {
        if self.down.take().is_some() {
            info!(queue = %self.name, "the storage answers again");
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
            line.rest = Rest::Unknown;
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
