//! The role that moves a queue between stores: everything out, and everything in, with seqs and epochs, so that order
//! and fencing survive the move.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{ListCursor, QueueConfig, StorageError};
use crate::job::{DedupKey, JobRecord, QueueName};
use crate::policy::dedup::Holder;

/// A held dedup key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupEntry {
    /// The key.
    pub key: DedupKey,
    /// Who holds it.
    pub holder: Holder,
}

/// A part of a queue's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpPage {
    /// The queue's settings; on the first page.
    pub config: Option<QueueConfig>,
    /// The held dedup keys, in the order of keys; on the first page. Holds that ran out may be among them.
    pub dedup: Vec<DedupEntry>,
    /// Jobs, in the order of [`Inspect::list`](super::Inspect::list).
    pub jobs: Vec<JobRecord>,
    /// Where the next page goes on; `None` if this was the last.
    pub next: Option<ListCursor>,
}

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreAnswer {
    /// Jobs written.
    pub restored: usize,
    /// Jobs whose id exists in the queue already; left as they were.
    pub existing: usize,
}

/// Moves a queue's contents between stores.
#[async_trait]
pub trait Transfer: Send + Sync + 'static {
    /// A page of a queue's contents: at most `max_items` jobs.
    ///
    /// # Guarantees
    /// What [`Inspect::list`](super::Inspect::list) guarantees; a dump of a queue that nobody works on is exact.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`; `Invalid` for `max_items` 0.
    ///
    /// # Backends
    /// The same on all.
    async fn dump(
        &self,
        queue: &QueueName,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<DumpPage, StorageError>;

    /// Writes a page of a dump into a queue: settings, keys, and jobs with their states, seqs and epochs.
    ///
    /// # Guarantees
    /// One atomic unit. New jobs of the queue get seqs beyond the restored ones. An Active job keeps its lease.
    ///
    /// # Repeating
    /// Jobs that are there already are left as they are.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](super::Jobs::enqueue); `Invalid` if a seq is taken by another job, or as
    /// [`QueueConfig::check`] says of the settings.
    ///
    /// # Backends
    /// The same on all.
    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Result<RestoreAnswer, StorageError>;
}
