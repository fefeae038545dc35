//! Explanations in words.

use std::fmt;

use super::{COUNTED_MAX, Count, Explanation, PausedBy, Place, Reason};
use crate::job::{FailReason, JobState, LaneKey, Slot};
use crate::policy::lanes::Limited;

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exact() {
            Some(count) => count.fmt(f),
            // The bound as people write it.
            None => write!(f, "{},{:03} or more", COUNTED_MAX / 1000, COUNTED_MAX % 1000),
        }
    }
}

/// A number of things, with a word for one and a word for several.
struct Things(Count, &'static str, &'static str);

impl fmt::Display for Things {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Things(count, one, several) = self;
        match count.exact() {
            Some(0) => write!(f, "no {one}"),
            Some(1) => write!(f, "1 {one}"),
            _ => write!(f, "{count} {several}"),
        }
    }
}

/// A lane, as the subject of a sentence.
struct Lane<'a>(&'a LaneKey);

impl fmt::Display for Lane<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name() {
            Some(name) => write!(f, "the lane {name}"),
            None => f.write_str("the default lane"),
        }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limited::Queue => f.write_str("the queue"),
            Limited::Class(class) => write!(f, "the class {class}"),
            Limited::Lane(lane) => Lane(lane).fmt(f),
        }
    }
}

impl fmt::Display for PausedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PausedBy::Queue => f.write_str("the queue is paused"),
            PausedBy::EveryLane => f.write_str("all lanes of the queue are paused"),
            PausedBy::Class(class) => write!(f, "the lanes of the class {class} are paused"),
            PausedBy::Lane(lane) => write!(f, "{} is paused", Lane(lane)),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unknown => f.write_str("there is no such job in the queue"),
            Reason::Ended { state: JobState::Failed, at, failure } => {
                let why = match failure {
                    Some(FailReason::AttemptsExhausted) => "its attempts are used up",
                    Some(FailReason::CrashesExhausted) => "its worker was lost too often",
                    Some(FailReason::Aborted) => "its handler gave it up",
                    Some(FailReason::Expired) => "it was not started in time",
                    Some(FailReason::WithBatch) => "the batch that it was in failed",
                    _ => "its record could not be read",
                };
                write!(f, "it failed at {at}: {why}")
            }
            Reason::Ended { state: JobState::Cancelled, at, .. } => write!(f, "it was cancelled at {at}"),
            Reason::Ended { at, .. } => write!(f, "it completed at {at}"),
            Reason::Active { since, worker, lease_until, cancel_requested } => {
                write!(f, "it is running since {since}")?;
                if let Some(worker) = worker {
                    write!(f, " on the worker {worker}")?;
                }
                write!(f, ", under a lease until {lease_until}")?;
                if *cancel_requested { f.write_str(", and was asked to cancel") } else { Ok(()) }
            }
            Reason::Expired { at } => {
                write!(f, "it was to be started by {at}, so it fails as expired as soon as a worker comes to it")
            }
            Reason::Pending { key, holder } => {
                write!(f, "it waits for the job {holder} to end, which holds its dedup key {key:?}")
            }
            Reason::InBatch { leader: Some(leader), .. } => {
                write!(f, "it is in a batch, and runs with the job {leader}")
            }
            Reason::InBatch { leader: None, .. } => {
                f.write_str("it is in a batch that failed, and is about to fail with it")
            }
            Reason::Blocked => f.write_str("it waits for other jobs"),
            Reason::Paused { by } => by.fmt(f),
            Reason::Shelved { kind } => {
                write!(f, "no worker that came by has a handler for its kind, {kind}")
            }
            Reason::AtConcurrency { of, active, most } => {
                write!(f, "{of} is limited to {most} at once, and {active} are running")
            }
            Reason::AtRate { of, rate, until } => {
                write!(f, "{of} is limited to {rate}, and the next may start at {until}")
            }
            Reason::AtGate { waiting, size, until } => {
                write!(
                    f,
                    "its lane collects a batch of {size}, of which {waiting} are there, until {until} at the latest"
                )
            }
            Reason::Delayed { until } => write!(f, "it is delayed until {until}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead = Things(self.ahead, "job", "jobs");
        match self.line {
            Slot::Lane => {
                let lanes = Things(self.lanes_before, "lane", "lanes");
                write!(f, "it is in line in {}, with {ahead} ahead of it and {lanes} before its turn", Lane(&self.lane))
            }
            Slot::Solo => {
                write!(f, "it may not crash again, so it waits for a worker to run it alone, with {ahead} ahead of it")
            }
            Slot::Shelf => write!(f, "it is on the shelf of its kind, with {ahead} ahead of it"),
        }
    }
}

/// One sentence after the other, each from what the others begin with a small letter.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sentences: Vec<String> = self.reasons.iter().map(ToString::to_string).collect();
        sentences.extend(self.place.as_ref().map(ToString::to_string));
        if self.reasons.is_empty() {
            if self.state == Some(JobState::Delayed) {
                sentences.push("its time has come".to_owned());
            }
            let room = self.place.as_ref().and_then(|place| place.room);
            sentences.push(match (self.is_ready, room) {
                (true, _) => "nothing stands in its way: a worker that asks for enough jobs gets it".to_owned(),
                (false, Some(room)) => {
                    let room = Things(Count::new(room.into()), "job", "jobs");
                    format!("nothing stands in its way but jobs that may come before it, while its limits let {room} start now")
                }
                (false, None) => "nothing stands in its way but jobs that may come before it".to_owned(),
            });
        }
        if let Some(at) = self.expires_at
            && !self.reasons.iter().any(|reason| matches!(reason, Reason::Expired { .. }))
        {
            sentences.push(format!("it is no longer started after {at}"));
        }
        for (place, sentence) in sentences.iter().enumerate() {
            let mut letters = sentence.chars();
            let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
            write!(f, "{}{first}{}.", if place == 0 { "" } else { " " }, letters.as_str())?;
        }
        Ok(())
    }
}
