//! The role that hands a worker the members of a batch that it has the leader of.

use async_trait::async_trait;

use super::{Claim, Lease, StorageError};
use crate::job::QueueName;

/// Asks for the members of a batch.
#[derive(Clone, Debug)]
pub struct MembersRequest {
    /// The queue.
    pub queue: QueueName,
    /// The lease of the batch's leader.
    pub lease: Lease,
    /// Members after this one; see [`MembersPage::next`].
    pub after: Option<i64>,
    /// How many at most. At least 1.
    pub max_items: usize,
    /// How many bytes of payload at most; the first member comes whatever its size.
    pub max_bytes: usize,
}

/// Some members of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersPage {
    /// The members, in the order in which they were enqueued. A member's lease names its own id and the leader's epoch; it
    /// settles the member for as long as the leader's is current, and is good for nothing else.
    pub members: Vec<Claim>,
    /// Where the next page begins; `None` if this was the last.
    pub next: Option<i64>,
    /// Whether the batch has all its members. If not, [`Batches::gather`] gathers more.
    pub formed: bool,
}

/// What gathering came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatherAnswer {
    /// The batch has so many members now that have not been settled.
    Gathered {
        /// How many, beside the leader.
        members: u64,
        /// Whether it has all of them.
        formed: bool,
    },
    /// The lease is not the job's current one, or the job leads no batch; nothing changed.
    LeaseLost,
    /// There is no such job (any more); nothing changed.
    Gone,
}

/// What the reading of members came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersAnswer {
    /// These.
    Page(MembersPage),
    /// The lease is not the job's current one, or the job leads no batch.
    LeaseLost,
    /// There is no such job (any more).
    Gone,
}

/// Hands out the members of batches. The leader of a batch comes with a claim ([`Claim::batch`]), which gathers the first
/// members; leader and members are settled by [`Jobs::exchange`](super::Jobs::exchange).
#[async_trait]
pub trait Batches: Send + Sync + 'static {
    /// Gathers more members into a batch, out of its lane's line, if its gate let it be larger than one step.
    ///
    /// # Guarantees
    /// Looks at no more than `max_items` jobs. A batch that is formed stays as it is.
    ///
    /// # Repeating
    /// A repeat gathers more, if there are more to gather.
    ///
    /// # Errors
    /// As for [`renew`](super::Jobs::renew). A record that can't be read is no error: its job is Failed as quarantined.
    ///
    /// # Backends
    /// The same on all.
    async fn gather(&self, queue: &QueueName, lease: Lease, max_items: usize) -> Result<GatherAnswer, StorageError>;

    /// Reads members of a batch, with their payloads.
    ///
    /// # Guarantees
    /// Changes nothing. Members that were settled or removed are not among them.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// As for reads: `Busy`, `Unavailable`. A member that can't be read is left out, and fails when its batch is over.
    ///
    /// # Backends
    /// The same on all.
    async fn members(&self, request: MembersRequest) -> Result<MembersAnswer, StorageError>;
}
