//! What happened in a queue, as a capped log with a durable cursor. A storage writes one entry per call, holding all
//! of the call's events, so that the log costs the hot path next to nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::job::JobId;

/// What happened. The number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The job was inserted.
    Enqueued = 0,
    /// The job's time came, or an operator brought it forward.
    Promoted = 1,
    /// A worker claimed it.
    Started = 2,
    /// It completed.
    Completed = 3,
    /// A run failed, and it will be tried again.
    Retrying = 4,
    /// Its handler asked for more time.
    Snoozed = 5,
    /// Its worker gave it back.
    Released = 6,
    /// It is Failed.
    Failed = 7,
    /// Its lease ran out.
    Stalled = 8,
    /// It is Cancelled.
    Cancelled = 9,
    /// Its worker was asked to cancel it.
    CancelRequested = 10,
    /// An operator put it back.
    Retried = 11,
    /// An operator gave it another time or priority.
    Rescheduled = 12,
    /// Its record was removed by an operator.
    Removed = 13,
    /// It waits on the shelf of its kind for a worker with a handler.
    Shelved = 14,
    /// Its progress changed.
    Progress = 15,
    /// The queue was paused (no job).
    Paused = 16,
    /// The queue was resumed (no job).
    Resumed = 17,
    /// The store's clock went back by a minute or more, and storage time with it (no job).
    ClockSteppedBack = 18,
    /// Nobody attended to the queue for more than half a lease; leases were extended (no job).
    LeasesExtended = 19,
}

impl EventKind {
    /// Every kind, by number.
    pub const ALL: [EventKind; 20] = [
        EventKind::Enqueued,
        EventKind::Promoted,
        EventKind::Started,
        EventKind::Completed,
        EventKind::Retrying,
        EventKind::Snoozed,
        EventKind::Released,
        EventKind::Failed,
        EventKind::Stalled,
        EventKind::Cancelled,
        EventKind::CancelRequested,
        EventKind::Retried,
        EventKind::Rescheduled,
        EventKind::Removed,
        EventKind::Shelved,
        EventKind::Progress,
        EventKind::Paused,
        EventKind::Resumed,
        EventKind::ClockSteppedBack,
        EventKind::LeasesExtended,
    ];

    /// The stored number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this stored number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// A place in a queue's event log: everything up to and including that entry has been read. Zero is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventCursor(pub u64);

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventCursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(EventCursor)
    }
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The log entry that it is in; several events of one call share it.
    pub cursor: EventCursor,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// To which job; `None` for what concerns the queue as a whole.
    pub job: Option<JobId>,
}

/// The events of one storage call, before they get their place in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    events: Vec<(EventKind, Option<JobId>)>,
}

/// The bytes of a stored entry are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event log entry is damaged and was skipped")]
pub struct DamagedEntry;

impl EventBatch {
    /// Adds an event about a job.
    pub fn job(&mut self, kind: EventKind, id: JobId) {
        self.events.push((kind, Some(id)));
    }

    /// Adds an event about the queue.
    pub fn queue(&mut self, kind: EventKind) {
        self.events.push((kind, None));
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// The events, in the order in which they happened.
    pub fn iter(&self) -> impl Iterator<Item = (EventKind, Option<JobId>)> + '_ {
        self.events.iter().copied()
    }

    /// The entry's stored form: for each event its kind's number, then 1 and the id's sixteen bytes, or 0.
    pub fn pack(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.events.len() * 18);
        for (kind, job) in &self.events {
            bytes.push(kind.number());
            bytes.push(u8::from(job.is_some()));
            if let Some(id) = job {
                bytes.extend_from_slice(id.as_bytes());
            }
        }
        bytes
    }

    /// Reads [`pack`](Self::pack)'s form back. Kinds that this version does not know are left out.
    ///
    /// # Errors
    /// [`DamagedEntry`] if the bytes are not such a form.
    pub fn unpack(mut bytes: &[u8]) -> Result<Self, DamagedEntry> {
        let mut batch = EventBatch::default();
        while let [kind, has_job, rest @ ..] = bytes {
            let job = match has_job {
                0 => {
                    bytes = rest;
                    None
                }
                1 => {
                    let (id, rest) = rest.split_first_chunk::<16>().ok_or(DamagedEntry)?;
                    bytes = rest;
                    Some(JobId::from_bytes(*id))
                }
                _ => return Err(DamagedEntry),
            };
            if let Some(kind) = EventKind::from_number(*kind) {
                batch.events.push((kind, job));
            }
        }
        if bytes.is_empty() { Ok(batch) } else { Err(DamagedEntry) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let mut batch = EventBatch::default();
        for kind in EventKind::ALL {
            batch.job(kind, JobId::new());
            batch.queue(kind);
        }
        assert_eq!(EventBatch::unpack(&batch.pack()), Ok(batch));
    }

    #[test]
    fn a_damaged_entry_is_an_error_and_not_a_panic() {
        let mut batch = EventBatch::default();
        batch.job(EventKind::Enqueued, JobId::new());
        let bytes = batch.pack();
        for cut in 1..bytes.len() {
            assert_eq!(EventBatch::unpack(&bytes[..cut]), Err(DamagedEntry), "cut at {cut}");
        }
        assert_eq!(EventBatch::unpack(&[0, 7]), Err(DamagedEntry));
    }
}
