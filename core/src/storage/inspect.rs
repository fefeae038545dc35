//! The role that only looks.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{JobFilter, StorageError};
use crate::clock::Timestamp;
use crate::job::{JobId, JobKind, JobRecord, JobState, QueueName, Slot};
use crate::policy::explain::Explanation;

/// How many jobs a queue has, by state, and what stands in their way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCounts {
    /// In line, shelves and the solo line included.
    pub waiting: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// Waiting for other jobs.
    pub blocked: u64,
    /// Leased to a worker.
    pub active: u64,
    /// Ended well, as far as kept.
    pub completed: u64,
    /// Failed, as far as kept.
    pub failed: u64,
    /// Cancelled, as far as kept.
    pub cancelled: u64,
    /// Of the Waiting: those that no worker that came by has a handler for, by kind.
    pub shelved: Vec<(JobKind, u64)>,
    /// Whether the queue is paused.
    pub paused: bool,
}

impl QueueCounts {
    /// The count of one state.
    pub fn of(&self, state: JobState) -> u64 {
        match state {
            JobState::Waiting => self.waiting,
            JobState::Delayed => self.delayed,
            JobState::Blocked => self.blocked,
            JobState::Active => self.active,
            JobState::Completed => self.completed,
            JobState::Failed => self.failed,
            JobState::Cancelled => self.cancelled,
        }
    }

    /// The count of one state, to change it.
    pub fn of_mut(&mut self, state: JobState) -> &mut u64 {
        match state {
            JobState::Waiting => &mut self.waiting,
            JobState::Delayed => &mut self.delayed,
            JobState::Blocked => &mut self.blocked,
            JobState::Active => &mut self.active,
            JobState::Completed => &mut self.completed,
            JobState::Failed => &mut self.failed,
            JobState::Cancelled => &mut self.cancelled,
        }
    }

    /// Jobs that have not ended.
    pub fn live(&self) -> u64 {
        self.waiting + self.delayed + self.blocked + self.active
    }
}

/// A place in a walk over a queue's jobs: after the job that stood at this place. It has a text form to hand to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListCursor {
    /// The state walked.
    pub state: JobState,
    /// The line walked, in Waiting; otherwise [`Slot::Lane`].
    pub slot: Slot,
    /// The backend's number for the lane or shelf within the slot; 0 for the default lane, the solo line and every
    /// other state.
    pub line: i64,
    /// The order within the line: priority (Waiting), due time (Delayed), lease end (Active), prune time (ended).
    pub rank: i64,
    /// The job's seq.
    pub seq: i64,
}

impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = match self.slot {
            Slot::Lane => 0,
            Slot::Solo => 1,
            Slot::Shelf => 2,
        };
        write!(f, "{}.{slot}.{}.{}.{}", self.state.number(), self.line, self.rank, self.seq)
    }
}

/// A text is not a cursor that a list answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor of a job list; pass one that an earlier page answered")]
pub struct CursorError;

impl FromStr for ListCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let numbers: Vec<i64> = text.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| CursorError)?;
        let &[state, slot, line, rank, seq] = numbers.as_slice() else { return Err(CursorError) };
        let state = u8::try_from(state).ok().and_then(JobState::from_number).ok_or(CursorError)?;
        let slot = match slot {
            0 => Slot::Lane,
            1 => Slot::Solo,
            2 => Slot::Shelf,
            _ => return Err(CursorError),
        };
        Ok(ListCursor { state, slot, line, rank, seq })
    }
}

/// Asks for a page of a queue's jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// The queue.
    pub queue: QueueName,
    /// Which jobs.
    pub filter: JobFilter,
    /// Where the last page ended; `None` for the first.
    pub after: Option<ListCursor>,
    /// How many records to look at for this page, at most; a page may hold fewer than match.
    pub max_items: usize,
}

/// A page of a queue's jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobRecord>,
    /// Where the next page goes on; `None` if the walk is over.
    pub next: Option<ListCursor>,
}

/// Looks at jobs and queues.
#[async_trait]
pub trait Inspect: Send + Sync + 'static {
    /// A job's record; without a queue, every queue is searched.
    ///
    /// # Guarantees
    /// What the last acknowledged call left.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    async fn job(&self, queue: Option<&QueueName>, id: JobId) -> Result<Option<JobRecord>, StorageError>;

    /// Why a job is not running now, or that it is. A job that is not there is explained as [`Reason::Unknown`].
    ///
    /// # Guarantees
    /// Everything in the answer was true at one moment, and as [`explain`](crate::policy::explain::explain) decides: while
    /// there is a reason, no claim hands the job out; if it is ready, one that asks for enough jobs does (or several, where
    /// so many lanes were set aside that they come back in steps). Nothing is written, and no backlog is walked: what is
    /// counted is counted up to [`COUNTED_MAX`].
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    ///
    /// [`Reason::Unknown`]: crate::policy::explain::Reason::Unknown
    /// [`COUNTED_MAX`]: crate::policy::explain::COUNTED_MAX
    async fn explain(&self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError>;

    /// A page of a queue's jobs.
    ///
    /// # Guarantees
    /// The walk goes by state in the order of [`JobState::ALL`], and within a state: Waiting by lane (in no stated order
    /// of lanes), then the solo line, then the shelves (in no stated order of kinds), each by (priority, seq); Delayed
    /// by (due time, seq); Blocked by seq; Active by (lease end, seq); the ended states by (prune time, seq). A job
    /// that does not move meanwhile is on exactly one page. A step looks at no more than `max_items` records.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`; `Invalid` for `max_items` 0.
    ///
    /// # Backends
    /// The same on all.
    async fn list(&self, request: ListRequest) -> Result<Page, StorageError>;

    /// How many jobs a queue has, by state. Zero for a queue that does not exist.
    ///
    /// # Guarantees
    /// The counts equal the records at one moment.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, StorageError>;

    /// Every queue that has, or had, a job or settings, and was not obliterated since; in the order of names.
    ///
    /// # Guarantees
    /// What the last acknowledged call left.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    async fn queues(&self) -> Result<Vec<QueueName>, StorageError>;

    /// Storage time in a queue.
    ///
    /// # Guarantees
    /// Not before the time of any call that was acknowledged, unless the clock stepped back (see [`crate::clock`]).
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    async fn now(&self, queue: &QueueName) -> Result<Timestamp, StorageError>;
}
