//! What a storage keeps of a job: the specification it was enqueued with and everything that happened since.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{JobId, JobSpec, JobState, Payload, Priority, WorkerId};
use crate::clock::Timestamp;
use crate::policy::micros;
use crate::storage::Lease;

/// How many errors a record keeps: the last ones.
pub const ERRORS_KEPT_MAX: usize = 5;
/// The longest error text kept, in bytes; the rest is cut off.
pub const ERROR_TEXT_BYTES_MAX: usize = 2048;
/// How many log lines a record keeps: the last ones.
pub const LOG_LINES_MAX: usize = 100;
/// The longest log line kept, in bytes; the rest is cut off.
pub const LOG_LINE_BYTES_MAX: usize = 1024;

/// Why a run (or a job that could not be run) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The handler returned an error.
    Error,
    /// The handler panicked.
    Panic,
    /// The run took longer than its timeout.
    Timeout,
    /// The handler said that trying again is of no use.
    Abort,
    /// The payload could not be read by the handler's type.
    Payload,
    /// The lease ran out: the process died or hung.
    Crash,
    /// The job was older than `expires_in` when its turn came.
    Expired,
    /// The stored record could not be read.
    Quarantine,
}

/// One entry of a record's error history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// When the storage took note of it.
    pub at: Timestamp,
    /// Which run it was, counting from 1; 0 where there was none.
    pub run: u32,
    /// What sort of failure.
    pub kind: ErrorKind,
    /// The error's text with its sources, at most [`ERROR_TEXT_BYTES_MAX`] bytes.
    pub message: String,
}

/// Why a job is Failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailReason {
    /// `max_attempts` runs failed.
    AttemptsExhausted,
    /// `max_crashes` leases were lost.
    CrashesExhausted,
    /// The handler aborted it.
    Aborted,
    /// It was not started within `expires_in`.
    Expired,
    /// Its stored record could not be read.
    Quarantined,
    /// The batch that it was a member of failed for good.
    WithBatch,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// What is being done, for a person to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A line that a handler logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the storage took it.
    pub at: Timestamp,
    /// The run that wrote it, counting from 1.
    pub run: u32,
    /// The text, at most [`LOG_LINE_BYTES_MAX`] bytes.
    pub text: String,
}

/// Which line of its queue a Waiting job stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// Its lane's line: the ordinary case, and the value in every other state.
    #[default]
    Lane,
    /// The solo line: it is on its last crash, so it runs alone in its process.
    Solo,
    /// The shelf of its kind: a worker without a handler for it came by.
    Shelf,
}

/// Names a batch in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchNumber(pub i64);

/// What runs left on a job: the parts of a record that most jobs never have. Storages keep it as one serialized
/// value and leave it out where it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// The last [`ERRORS_KEPT_MAX`] errors, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorEntry>,
    /// The last progress reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What a run saved for the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Payload>,
    /// What the completing run returned, unless it is the unit value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// The last [`LOG_LINES_MAX`] lines, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
}

impl Notes {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
            && self.progress.is_none()
            && self.checkpoint.is_none()
            && self.result.is_none()
            && self.log.is_empty()
    }

    /// Adds an error, dropping the oldest beyond [`ERRORS_KEPT_MAX`].
    pub fn push_error(&mut self, at: Timestamp, run: u32, kind: ErrorKind, message: &str) {
        if self.errors.len() >= ERRORS_KEPT_MAX {
            self.errors.drain(..=self.errors.len() - ERRORS_KEPT_MAX);
        }
        self.errors.push(ErrorEntry { at, run, kind, message: clip(message, ERROR_TEXT_BYTES_MAX) });
    }

    /// Adds a log line, dropping the oldest beyond [`LOG_LINES_MAX`].
    pub fn push_log(&mut self, at: Timestamp, run: u32, text: &str) {
        if self.log.len() >= LOG_LINES_MAX {
            self.log.drain(..=self.log.len() - LOG_LINES_MAX);
        }
        self.log.push(LogLine { at, run, text: clip(text, LOG_LINE_BYTES_MAX) });
    }
}

/// `text`, cut at a character boundary to at most `bytes_max` bytes.
pub fn clip(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[..end].to_owned()
}

/// Everything that a storage knows about a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What it was enqueued with.
    pub spec: Arc<JobSpec>,
    /// The order within its queue, given by the storage and never changed: rising for ordinary jobs, falling below
    /// zero for `lifo` ones, so that (priority, seq) is the order of service.
    pub seq: i64,
    /// Where it is in its life.
    pub state: JobState,
    /// Which line it stands in while Waiting.
    pub slot: Slot,
    /// Its present priority.
    pub priority: Priority,
    /// The epoch of its last claim (or of the crash that ended it); 0 before the first. It only rises.
    pub epoch: i64,
    /// Runs that the handler failed.
    pub attempts: u32,
    /// Leases that were lost.
    pub crashes: u32,
    /// How many times it was claimed.
    pub runs: u32,
    /// For how many enqueues it stands; more than 1 only under
    /// [`DedupMode::Coalesce`](crate::policy::dedup::DedupMode::Coalesce).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub coalesced: u32,
    /// The batch of its queue that it leads or is a member of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchNumber>,
    /// Somebody asked to cancel it while it was Active.
    pub cancel_requested: bool,
    /// When the storage took it.
    pub created_at: Timestamp,
    /// When it may start, or could; a retry or snooze moves it.
    pub due_at: Timestamp,
    /// The instant after which it is no longer started.
    pub expires_at: Option<Timestamp>,
    /// When it was last claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When its record may be removed; set as it ends.
    pub prune_at: Option<Timestamp>,
    /// Until when its lease holds, while Active.
    pub lease_until: Option<Timestamp>,
    /// The lease's full term, while Active.
    #[serde(with = "micros::option")]
    pub lease_term: Option<Duration>,
    /// Who holds it, while Active; who held it last, after.
    pub worker: Option<WorkerId>,
    /// Why it is Failed.
    pub failure: Option<FailReason>,
    /// Somebody waits for its outcome, so its record outlives its end by a minute.
    pub waited_on: bool,
    /// What its runs left.
    pub notes: Notes,
}

fn one() -> u32 {
    1
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

impl JobRecord {
    /// The job's id.
    pub fn id(&self) -> JobId {
        self.spec.id
    }

    /// The lease that its last claim handed out (current only while the job is Active).
    pub fn lease(&self) -> Lease {
        Lease { id: self.spec.id, epoch: self.epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_five_errors_are_kept() {
        let mut notes = Notes::default();
        for run in 1..=9 {
            notes.push_error(Timestamp::default(), run, ErrorKind::Error, "x");
        }
        assert_eq!(notes.errors.iter().map(|e| e.run).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(clip("aéb", 2), "a");
        assert_eq!(clip("aéb", 3), "aé");
    }
}
