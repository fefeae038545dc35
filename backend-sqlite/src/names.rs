//! Numbers for names: queues and kinds of jobs are stored as numbers, and looked up here without asking the database.
//! Numbers are never given twice and names never renamed, so what is known stays true; only what a commit has made
//! durable may be learned, because a rolled back transaction takes its numbers with it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferroq_core::job::{JobKind, QueueName};
use ferroq_core::storage::QueueConfig;

/// What is known of names, shared by all handles of a store in a process.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    kinds: HashMap<JobKind, i64>,
    kind_names: HashMap<i64, JobKind>,
    queues: HashMap<QueueName, i64>,
    configs: HashMap<i64, (String, QueueConfig)>,
}

impl Names {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kind_number(&self, kind: &JobKind) -> Option<i64> {
        self.known().kinds.get(kind).copied()
    }

    pub(crate) fn kind_name(&self, number: i64) -> Option<JobKind> {
        self.known().kind_names.get(&number).cloned()
    }

    pub(crate) fn learn_kind(&self, number: i64, kind: JobKind) {
        let mut known = self.known();
        known.kind_names.insert(number, kind.clone());
        known.kinds.insert(kind, number);
    }

    pub(crate) fn queue_number(&self, queue: &QueueName) -> Option<i64> {
        self.known().queues.get(queue).copied()
    }

    pub(crate) fn learn_queue(&self, queue: &QueueName, number: i64) {
        let mut known = self.known();
        if known.queues.get(queue) != Some(&number) {
            known.queues.insert(queue.clone(), number);
        }
    }

    /// A queue's settings from their stored form, which most often is the one read last.
    pub(crate) fn config(&self, queue: i64, text: &str) -> QueueConfig {
        let mut known = self.known();
        if let Some((stored, config)) = known.configs.get(&queue)
            && stored == text
        {
            return config.clone();
        }
        let config = serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::warn!(queue, %error, "the stored settings of a queue can't be read; the defaults are used");
            QueueConfig::default()
        });
        known.configs.insert(queue, (text.to_owned(), config.clone()));
        config
    }
}
