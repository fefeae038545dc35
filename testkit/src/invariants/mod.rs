//! What must hold whatever a queue goes through, one file per invariant. Each looks at a [`History`]: the calls that
//! were made one after another, their answers, and snapshots of the store in between. None of them uses the reference
//! model, so they hold even where the model and a backend share a mistake.

mod budgets;
mod conservation;
mod counts;
mod dedup;
mod epochs;
mod fencing;
mod idempotence;
mod index;
mod leases;
pub mod limits;
mod liveness;
mod order;
mod starts;
#[cfg(test)]
mod tests;
mod transitions;

use std::collections::HashMap;
use std::fmt;

use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, LimiterName, QueueName};
use ferroq_core::storage::{AcquireAnswer, AcquireRequest, Claim, EnqueueAnswer, SettleAnswer, Settlement};

use crate::model::{Answer, Call, Snapshot};

/// Something that happened to a store.
#[derive(Clone, Debug)]
// Nearly every step is a call, so boxing it would cost an allocation per step and save nothing.
#[allow(clippy::large_enum_variant)]
pub enum Step {
    /// A call was made and answered.
    Call {
        /// The clock's reading.
        at: Timestamp,
        /// The call.
        call: Call,
        /// Its answer.
        answer: Answer,
        /// Whether it was made before under the same call id.
        repeat: bool,
    },
    /// A limiter was asked and answered.
    Acquired {
        /// The clock's reading.
        at: Timestamp,
        /// The question.
        request: AcquireRequest,
        /// Its answer.
        answer: AcquireAnswer,
        /// Whether it was made before under the same call id.
        repeat: bool,
    },
    /// A limiter was made to forget.
    Reset(LimiterName),
    /// Everything that the store held was read.
    Seen(Snapshot),
    /// The store was closed and opened again.
    Reopened,
    /// From here on, workers with a handler for every kind worked without faults until nothing was left to do.
    Drained,
}

/// What happened to a store, one step after another.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The steps.
    pub steps: Vec<Step>,
}

/// An invariant does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// The step at which it shows.
    pub step: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant broken at step {}: {}: {}", self.step, self.invariant, self.what)
    }
}

impl std::error::Error for Violation {}

/// A checker: the step at which the invariant is first seen broken, and how.
pub type Checker = fn(&History) -> Result<(), (usize, String)>;

/// Every invariant, by the name that a violation gives it.
pub const ALL: [(&str, Checker); 14] = [
    ("conservation: acknowledged = live + ended + removed", conservation::check),
    ("one current lease per job", leases::check),
    ("epochs only rise", epochs::check),
    ("no write under an old epoch", fencing::check),
    ("budgets are kept", budgets::check),
    ("legal transitions only", transitions::check),
    ("order by (priority, seq) within a line", order::check),
    ("one holder per dedup key", dedup::check),
    ("each job in exactly the index that its state names", index::check),
    ("counts equal rows", counts::check),
    ("no window of a rate has more starts than its limit", limits::check),
    ("what is paused does not start, and no more start than a queue, class or lane may", starts::check),
    ("settle is idempotent", idempotence::check),
    ("liveness: with the faults gone, every eligible job ends", liveness::check),
];

/// Checks every invariant.
///
/// # Errors
/// The first [`Violation`] of each invariant that does not hold.
pub fn check_all(history: &History) -> Result<(), Vec<Violation>> {
    let violations: Vec<Violation> = ALL
        .iter()
        .filter_map(|(invariant, checker)| {
            checker(history).err().map(|(step, what)| Violation { invariant, step, what })
        })
        .collect();
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

impl History {
    /// Adds a call.
    pub fn call(&mut self, at: Timestamp, call: Call, answer: Answer, repeat: bool) {
        self.steps.push(Step::Call { at, call, answer, repeat });
    }

    /// Adds a snapshot.
    pub fn seen(&mut self, snapshot: Snapshot) {
        self.steps.push(Step::Seen(snapshot));
    }

    /// The calls that were not repeats, with their places.
    fn calls(&self) -> impl Iterator<Item = (usize, &Call, &Answer)> {
        self.steps.iter().enumerate().filter_map(|(place, step)| match step {
            Step::Call { call, answer, repeat: false, .. } => Some((place, call, answer)),
            _ => None,
        })
    }

    /// The snapshots, with their places.
    fn snapshots(&self) -> impl Iterator<Item = (usize, &Snapshot)> {
        self.steps.iter().enumerate().filter_map(|(place, step)| match step {
            Step::Seen(snapshot) => Some((place, snapshot)),
            _ => None,
        })
    }
}

/// A job, named across queues.
type Key = (QueueName, JobId);

/// What a call did to single jobs, as far as its answer tells.
#[derive(Clone, Debug)]
enum Told<'a> {
    /// A settlement and its answer.
    Settled(&'a Settlement, &'a SettleAnswer),
    /// A job was inserted.
    Inserted(Key),
    /// A job was handed out.
    Claimed(&'a Claim),
}

/// What an answer tells, in the order in which it happened.
fn told<'a>(call: &'a Call, answer: &'a Answer) -> Vec<Told<'a>> {
    let mut all = Vec::new();
    match (call, answer) {
        (Call::Enqueue(request), Answer::Enqueue(answers)) => {
            let inserted = request.jobs.iter().zip(answers).filter(|(_, answer)| **answer == EnqueueAnswer::Inserted);
            all.extend(inserted.map(|(job, _)| Told::Inserted((job.queue.clone(), job.id))));
        }
        (Call::Exchange(request), Answer::Exchange(answer)) => {
            for (settlement, settled) in request.settlements.iter().zip(&answer.settled) {
                all.push(Told::Settled(settlement, settled));
                if let SettleAnswer::Settled { follow_ups, .. } = settled {
                    let jobs = settlement.follow_ups.iter().zip(follow_ups);
                    let inserted = jobs.filter(|(_, answer)| **answer == EnqueueAnswer::Inserted);
                    all.extend(inserted.map(|(job, _)| Told::Inserted((job.queue.clone(), job.id))));
                }
            }
            all.extend(answer.claimed.iter().flat_map(|claimed| &claimed.claims).map(Told::Claimed));
        }
        _ => {}
    }
    all
}

/// Which life of a job a step belongs to: an id that was removed may be enqueued again, and everything about it
/// begins anew.
#[derive(Default)]
struct Lives {
    lives: HashMap<Key, usize>,
}

impl Lives {
    /// Takes note of the insertions of a call.
    fn note(&mut self, told: &Told<'_>) {
        if let Told::Inserted(key) = told {
            *self.lives.entry(key.clone()).or_default() += 1;
        }
    }

    /// The present life of a job.
    fn of(&self, queue: &QueueName, id: JobId) -> (QueueName, JobId, usize) {
        let key = (queue.clone(), id);
        let life = self.lives.get(&key).copied().unwrap_or_default();
        (key.0, key.1, life)
    }
}
