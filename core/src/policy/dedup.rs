//! When two jobs of a queue are the same job. A job with a dedup key holds that key for as long as its mode says; an
//! enqueue under a held key inserts nothing and answers who holds it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;
use crate::clock::Timestamp;
use crate::job::{DedupKey, JobId};

/// A dedup key and for how long the job holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dedup {
    /// What makes two jobs the same.
    pub key: DedupKey,
    /// For how long.
    pub mode: DedupMode,
}

/// For how long a job holds its dedup key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DedupMode {
    /// Until the job ends, however it ends.
    UntilFinished,
    /// For this long after it was enqueued, even if it ends sooner; cancelling or removing it while it is live frees
    /// the key at once.
    For(#[serde(with = "micros")] Duration),
    /// For as long as its record exists.
    WhileKept,
}

/// How a job left: the occasions on which a key may come free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself: completed, failed, expired, quarantined.
    Ended,
    /// It was cancelled.
    Cancelled,
    /// Its record was removed while it was live.
    RemovedLive,
    /// Its record was removed after it had ended.
    RemovedEnded,
}

impl DedupMode {
    /// Whether this way out frees the key, given that the job still holds it.
    pub const fn frees(self, exit: Exit) -> bool {
        match (self, exit) {
            (DedupMode::UntilFinished, _) => true,
            (DedupMode::For(_), Exit::Cancelled | Exit::RemovedLive) => true,
            (DedupMode::For(_), Exit::Ended | Exit::RemovedEnded) => false,
            (DedupMode::WhileKept, Exit::RemovedLive | Exit::RemovedEnded) => true,
            (DedupMode::WhileKept, Exit::Ended | Exit::Cancelled) => false,
        }
    }
}

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The job.
    pub id: JobId,
    /// Until when, for [`DedupMode::For`]; otherwise until the job lets go.
    pub until: Option<Timestamp>,
}

impl Holder {
    /// The hold that `id` takes under `mode` at `now`.
    pub fn take(id: JobId, mode: DedupMode, now: Timestamp) -> Self {
        let until = match mode {
            DedupMode::For(span) => Some(now.after(span)),
            DedupMode::UntilFinished | DedupMode::WhileKept => None,
        };
        Holder { id, until }
    }

    /// Whether the key is still held at `now`. A hold for a time ends with the instant itself.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}
