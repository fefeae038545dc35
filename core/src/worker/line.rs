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

/// Jobs of a queue that must run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SoloLine {
    Empty,
    /// Limits or pauses hold them all back.
    Held,
    /// One may start, if nothing else runs.
    Waiting,
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
    /// How many jobs were in line when a last look was asked for, before the worker ends for want of work; and whether that look
    /// found none that may start.
    pub(super) last_look: Option<(u64, bool)>,
    /// What the last claim said of jobs that must run alone.
    pub(super) solo: SoloLine,
    /// Since when there are some, of which one might have started.
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
            last_look: None,
            solo: SoloLine::Empty,
            solo_since: None,
            hint: next_hint(storage.signals(name)),
        }
    }

    /// Takes in a run that ended.
    pub(super) fn add_done(&mut self, settlement: Settlement) {
        self.done.push(settlement);
        self.first_done_at.get_or_insert_with(Instant::now);
    }

    /// Whether jobs that are in line are all held back, by a limit, a gate or a pause, as a claim has shown since they are that many.
    /// Asks for such a claim if there was none.
    pub(super) fn are_held_back(&mut self, in_line: u64) -> bool {
        match self.last_look {
            Some((then, found_nothing)) if then == in_line => found_nothing,
            _ => {
                self.last_look = Some((in_line, false));
                self.ready = true;
                false
            }
        }
    }

    /// Takes note of what a claim said of jobs that must run alone. One that now and then might have started has waited since it
    /// first might have: others take the room that comes free, until this worker stops asking for them.
    pub(super) fn note_solo(&mut self, answer: &ClaimAnswer) {
        self.solo = match (answer.solo_waiting, answer.solo_held) {
            (true, _) => SoloLine::Waiting,
            (false, true) => SoloLine::Held,
            (false, false) => SoloLine::Empty,
        };
        match self.solo {
            SoloLine::Empty => self.solo_since = None,
            SoloLine::Held => {}
            SoloLine::Waiting => drop(self.solo_since.get_or_insert_with(Instant::now)),
        }
    }

    /// Takes note of whether a claim found anything to start.
    pub(super) fn looked(&mut self, found_nothing: bool) {
        match &mut self.last_look {
            Some((_, seen)) if found_nothing => *seen = true,
            last_look => *last_look = None,
        }
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
