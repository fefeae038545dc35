//! Wake-ups within a process: what a backend uses to hint that a queue may have work or that a job ended. Hints cost
//! latency when lost and never a job, so nothing here is durable or counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::job::{JobId, QueueName};

/// Counters that only rise; a change is a hint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// There may be work to claim.
    pub work: u64,
    /// Something was paused, resumed, cancelled or configured.
    pub control: u64,
}

/// Receives hints about one queue.
#[derive(Clone, Debug)]
pub struct SignalReceiver {
    inner: watch::Receiver<Signals>,
    seen: Signals,
}

impl SignalReceiver {
    /// Waits for the next hint and says which counters moved since the last one seen here: (work, control).
    ///
    /// Never returns once the storage is closed. Cancel safe.
    pub async fn changed(&mut self) -> (bool, bool) {
        loop {
            let now = *self.inner.borrow_and_update();
            if now != self.seen {
                let moved = (now.work != self.seen.work, now.control != self.seen.control);
                self.seen = now;
                return moved;
            }
            if self.inner.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Forgets the hints that came so far.
    pub fn mark_seen(&mut self) {
        self.seen = *self.inner.borrow_and_update();
    }
}

/// A hint that one job ended.
#[derive(Debug)]
pub struct JobWatch {
    ended: Arc<Notify>,
    hub: Arc<Inner>,
    id: JobId,
}

impl JobWatch {
    /// Waits for the hint. A hint that came before is not lost. Cancel safe.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        let mut watched = self.hub.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watchers) = watched.get_mut(&self.id) {
            watchers.retain(|one| !Arc::ptr_eq(one, &self.ended));
            if watchers.is_empty() {
                watched.remove(&self.id);
            }
        }
    }
}

/// Where a backend sends hints to everyone in its process.
#[derive(Clone, Debug, Default)]
pub struct SignalHub {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queues: Mutex<HashMap<QueueName, watch::Sender<Signals>>>,
    watched: Mutex<HashMap<JobId, Vec<Arc<Notify>>>>,
}

impl SignalHub {
    /// A receiver of a queue's hints, starting now.
    pub fn receiver(&self, queue: &QueueName) -> SignalReceiver {
        let mut queues = self.inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = queues.entry(queue.clone()).or_default().subscribe();
        let seen = *inner.borrow();
        SignalReceiver { inner, seen }
    }

    /// Hints that a queue may have work.
    pub fn work(&self, queue: &QueueName) {
        self.send(queue, |signals| signals.work += 1);
    }

    /// Hints that something about a queue was changed by hand.
    pub fn control(&self, queue: &QueueName) {
        self.send(queue, |signals| {
            signals.control += 1;
            signals.work += 1;
        });
    }

    /// The queues that somebody receives hints about; a backend that has to poll for them polls for these.
    pub fn listened(&self) -> Vec<QueueName> {
        let mut queues = self.inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, sender| sender.receiver_count() > 0);
        queues.keys().cloned().collect()
    }

    /// Whether somebody receives hints about a queue.
    pub fn is_listened(&self, queue: &QueueName) -> bool {
        let queues = self.inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.get(queue).is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Watches a job.
    pub fn watch(&self, id: JobId) -> JobWatch {
        let ended = Arc::new(Notify::new());
        let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.entry(id).or_default().push(ended.clone());
        JobWatch { ended, hub: self.inner.clone(), id }
    }

    /// Hints that these jobs ended.
    pub fn ended(&self, ids: impl IntoIterator<Item = JobId>) {
        let watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.is_empty() {
            return;
        }
        for id in ids {
            for watcher in watched.get(&id).into_iter().flatten() {
                watcher.notify_one();
            }
        }
    }

    /// The jobs that somebody watches.
    pub fn watched(&self) -> Vec<JobId> {
        self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn send(&self, queue: &QueueName, change: impl FnOnce(&mut Signals)) {
        let queues = self.inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = queues.get(queue) {
            sender.send_modify(change);
        }
    }
}
