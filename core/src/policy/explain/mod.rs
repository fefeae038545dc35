//! Why a job is not running now. A storage reads the [`Facts`], all at one moment; what follows from them is decided here,
//! so that every backend says the same, in the same words.

mod facts;
#[cfg(test)]
mod tests;
mod words;

use serde::{Deserialize, Serialize};

pub use facts::{ActiveJobs, AtGate, Facts, RememberedStarts, WaitingJobs, explain};

use super::lanes::Limited;
use super::rate::Rate;
use crate::clock::Timestamp;
use crate::job::{BatchNumber, DedupKey, FailReason, JobId, JobKind, JobState, LaneClass, LaneKey, Slot, WorkerId};

/// Up to this many jobs or lanes are counted; beyond it an explanation says "1,000 or more".
pub const COUNTED_MAX: u32 = 1000;

/// What stands between a job and its run, as it was at one moment. Its [`Display`](std::fmt::Display) says it in sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The job.
    pub id: JobId,
    /// The storage time at which it was so; none for a job that is not there.
    pub at: Option<Timestamp>,
    /// The job's state; none for a job that is not there.
    pub state: Option<JobState>,
    /// Everything that stands in its way now, the most binding first: what needs somebody to do something, what waits for
    /// other jobs, and then what ends with time, the latest first. While there is any, no claim hands the job out; only that
    /// jobs that come due make up a batch can't be foreseen.
    pub reasons: Vec<Reason>,
    /// Where it stands in line, if it does.
    pub place: Option<Place>,
    /// From when on it is no longer started, if it has not been by then.
    pub expires_at: Option<Timestamp>,
    /// Whether it is clear that the next claim hands it out, if it asks for enough jobs. It is not clear if those ahead of it
    /// may use up what a limit lets start.
    pub is_ready: bool,
}

/// One thing that stands in a job's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// There is no such job in the queue: it never was there, or its record is gone.
    Unknown,
    /// It has ended.
    Ended {
        /// How: Completed, Failed or Cancelled.
        state: JobState,
        /// When.
        at: Timestamp,
        /// Why, if it Failed.
        failure: Option<FailReason>,
    },
    /// It is Active.
    Active {
        /// Since when.
        since: Timestamp,
        /// Who has it.
        worker: Option<WorkerId>,
        /// When its lease ends, if that is not renewed. A lease whose time is over stays good until a sweep took it.
        lease_until: Timestamp,
        /// Whether its worker was asked to cancel it.
        cancel_requested: bool,
    },
    /// Its time to start is over: it is Failed as soon as a claim comes to it.
    Expired {
        /// Since when.
        at: Timestamp,
    },
    /// It comes after the job that holds its dedup key, and waits for that one to end.
    Pending {
        /// The key.
        key: DedupKey,
        /// The job that holds it.
        holder: JobId,
    },
    /// It is a member of a batch, and runs with the job that leads that.
    InBatch {
        /// The batch.
        batch: BatchNumber,
        /// The job that leads it; none in a batch that fails.
        leader: Option<JobId>,
    },
    /// It waits for other jobs.
    Blocked,
    /// Nothing starts there.
    Paused {
        /// Where.
        by: PausedBy,
    },
    /// It is on the shelf of its kind, because a worker without a handler for it came by. A worker with one takes it off.
    Shelved {
        /// Its kind.
        kind: JobKind,
    },
    /// As many are Active as may be at once.
    AtConcurrency {
        /// Of what.
        of: Limited,
        /// How many are Active.
        active: u64,
        /// How many may be.
        most: u32,
    },
    /// As many have started as may in a span of time.
    AtRate {
        /// Of what.
        of: Limited,
        /// How many may.
        rate: Rate,
        /// When the next may start.
        until: Timestamp,
    },
    /// Its lane waits for a batch to form.
    AtGate {
        /// How many jobs are in its line.
        waiting: u64,
        /// How many make a batch.
        size: u32,
        /// Until when it waits for them at most.
        until: Timestamp,
    },
    /// It waits for its time.
    Delayed {
        /// When that is.
        until: Timestamp,
    },
}

/// What is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PausedBy {
    /// The queue.
    Queue,
    /// Every lane of the queue.
    EveryLane,
    /// The lanes of a class.
    Class(LaneClass),
    /// One lane.
    Lane(LaneKey),
}

/// Where a Waiting job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// In which sort of line.
    pub line: Slot,
    /// Its lane, whatever line it is in.
    pub lane: LaneKey,
    /// How many jobs are ahead of it in its line.
    pub ahead: Count,
    /// In a lane's line: how many other lanes take their turn before its lane does. A lane that is set aside takes its turn
    /// after all that are there when it comes back.
    pub lanes_before: Count,
    /// How many jobs the limits of its queue, class and lane let start now, whichever is least; none: as many as workers take.
    pub room: Option<u32>,
}

/// A number of jobs or lanes that is only counted up to [`COUNTED_MAX`], since nobody walks a backlog to tell how long it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Count(u32);

impl Count {
    /// This many, or [`COUNTED_MAX`] or more.
    pub fn new(count: u64) -> Self {
        Count(u32::try_from(count).unwrap_or(COUNTED_MAX).min(COUNTED_MAX))
    }

    /// How many there are at least.
    pub fn at_least(self) -> u32 {
        self.0
    }

    /// How many there are, unless that is [`COUNTED_MAX`] or more.
    pub fn exact(self) -> Option<u32> {
        (self.0 < COUNTED_MAX).then_some(self.0)
    }
}

impl Explanation {
    /// Of a job that is not there.
    pub fn unknown(id: JobId) -> Self {
        let reasons = vec![Reason::Unknown];
        Explanation { id, at: None, state: None, reasons, place: None, expires_at: None, is_ready: false }
    }
}

impl Reason {
    /// When it ends by itself, if that is known.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Reason::Delayed { until } | Reason::AtRate { until, .. } | Reason::AtGate { until, .. } => Some(*until),
            _ => None,
        }
    }
}
