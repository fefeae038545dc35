//! Where a dead letter comes from: what its copy carries along of a job that failed for good, so that a person can see
//! what happened, and a redrive knows where it belongs.

use serde::{Deserialize, Serialize};

use super::{ErrorEntry, FailReason, JobId, QueueName};
use crate::clock::Timestamp;

/// What a dead letter says about the job that it is a copy of. A job that was redriven keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The queue on which the job failed, and to which a redrive brings it back.
    pub queue: QueueName,
    /// The job that failed.
    pub id: JobId,
    /// Why it is Failed.
    pub reason: FailReason,
    /// When it failed, in its own queue's time.
    pub failed_at: Timestamp,
    /// How many of its runs failed.
    pub attempts: u32,
    /// How many of its leases were lost.
    pub crashes: u32,
    /// Its last errors, oldest first.
    pub errors: Vec<ErrorEntry>,
}
