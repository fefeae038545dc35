//! The role that moves a queue between stores: everything out, and everything in, with seqs and epochs, so that order
//! and fencing survive the move.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{ErrorCode, ListCursor, QueueConfig, StorageError};
use crate::job::{DedupKey, JobRecord, LaneKey, QueueName};
use crate::policy::dedup::Holder;
use crate::policy::lanes::{LanePolicy, Limited, Starts};

/// A held dedup key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupEntry {
    /// The key.
    pub key: DedupKey,
    /// Who holds it.
    pub holder: Holder,
}

/// One lane's own policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyEntry {
    /// The lane.
    pub lane: LaneKey,
    /// What it may do.
    pub policy: LanePolicy,
}

/// Starts that a limit remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartsEntry {
    /// Of what.
    pub of: Limited,
    /// When, and how many.
    pub starts: Starts,
}

/// A part of a queue's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpPage {
    /// The queue's settings; on the first page.
    pub config: Option<QueueConfig>,
    /// The held dedup keys, in the order of keys; on the first page. Holds that ran out may be among them.
    pub dedup: Vec<DedupEntry>,
    /// The lanes' own policies, in the order of lanes; on the first page.
    #[serde(default)]
    pub policies: Vec<PolicyEntry>,
    /// The starts that limits remember, in the order of [`Limited`]; on the first page. Such as no longer count may be among
    /// them.
    #[serde(default)]
    pub starts: Vec<StartsEntry>,
    /// Jobs, in the order of [`Inspect::list`](super::Inspect::list).
    pub jobs: Vec<JobRecord>,
    /// Where the next page goes on; `None` if this was the last.
    pub next: Option<ListCursor>,
}

impl DumpPage {
    /// Whether the settings and policies of the page can be those of `queue`; storages ask before they store them.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong.
    pub fn check(&self, queue: &QueueName) -> Result<(), StorageError> {
        if let Some(config) = &self.config {
            config.check(queue)?;
        }
        let problems = |entry: &PolicyEntry| entry.policy.problems(&format!("the lane {:?}", entry.lane));
        let problems: Vec<String> = self.policies.iter().flat_map(problems).collect();
        if problems.is_empty() { Ok(()) } else { Err(StorageError::new(ErrorCode::Invalid, problems.join("; "))) }
    }
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

    /// Writes a page of a dump into a queue: settings, keys, lanes' policies, starts, and jobs with their states, seqs and
    /// epochs. Lanes take their turns anew.
    ///
    /// # Guarantees
    /// One atomic unit. New jobs of the queue get seqs beyond the restored ones. An Active job keeps its lease, and counts
    /// for the limits on concurrency. Under rates, what started before the move counts after it.
    ///
    /// # Repeating
    /// Jobs that are there already are left as they are, and so are keys and starts.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](super::Jobs::enqueue); `Invalid` if a seq is taken by another job, or as
    /// [`DumpPage::check`] says of settings and policies.
    ///
    /// # Backends
    /// The same on all.
    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Result<RestoreAnswer, StorageError>;
}
