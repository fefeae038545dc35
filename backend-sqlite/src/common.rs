//! What the handles of one store share in a process: options, the clock, names, and the hints between them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use ferroq_core::storage::SignalHub;
use ferroq_core::{Clock, QueueName};
use tokio::sync::Notify;

use crate::names::Names;
use crate::options::SqliteOptions;
use crate::queue::Queue;

#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) options: SqliteOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) names: Names,
    pub(crate) hub: SignalHub,
    /// The work and control marks that this process has seen or made, by queue.
    marks: Mutex<HashMap<QueueName, (i64, i64)>>,
    /// Queues that got work which nobody has asked for yet: whoever asks first need not look before claiming.
    work: Mutex<HashSet<QueueName>>,
    /// Tells the watcher that somebody listens.
    pub(crate) listening: Notify,
    /// Whether a watcher runs.
    pub(crate) watched: AtomicBool,
}

impl Common {
    pub(crate) fn new(options: SqliteOptions) -> Self {
        Common {
            clock: options.clock.clone(),
            options,
            names: Names::default(),
            hub: SignalHub::default(),
            marks: Mutex::default(),
            work: Mutex::default(),
            listening: Notify::new(),
            watched: AtomicBool::new(false),
        }
    }

    /// Hints what a committed transaction did to a queue.
    pub(crate) fn hint(&self, queue: &Queue) {
        if queue.hint_work || queue.hint_control {
            self.see(&queue.name, queue.marks());
        }
        if queue.hint_control {
            self.hub.control(&queue.name);
        } else if queue.hint_work {
            self.work(&queue.name);
        }
        if !queue.ended.is_empty() {
            self.hub.ended(queue.ended.iter().copied());
        }
    }

    /// Hints that a queue may have work.
    pub(crate) fn work(&self, queue: &QueueName) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if !work.contains(queue) {
            work.insert(queue.clone());
        }
        drop(work);
        self.hub.work(queue);
    }

    /// Whether a queue got work since this was last asked.
    pub(crate) fn take_work(&self, queue: &QueueName) -> bool {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).remove(queue)
    }

    /// Takes note of a queue's marks, and says which of them rose: (work, control). Of marks seen for
    /// the first time, work counts as risen: it may have come after whoever listens has looked.
    pub(crate) fn see(&self, queue: &QueueName, marks: (i64, i64)) -> (bool, bool) {
        let mut seen = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get_mut(queue) {
            Some(before) => {
                let rose = (marks.0 > before.0, marks.1 > before.1);
                *before = marks;
                rose
            }
            None => {
                seen.insert(queue.clone(), marks);
                (marks.0 > 0, false)
            }
        }
    }
}
