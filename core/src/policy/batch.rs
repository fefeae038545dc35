//! Batches: jobs of a lane that run together, under one lease. When the gate of a lane opens, what it is then worth to its
//! members that the leader's run ends, and how much is gathered in one step. How a storage keeps batches is in
//! `docs/contract.md`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;
use crate::clock::{TimeStep, Timestamp, advance};
use crate::job::{ErrorEntry, ErrorKind, FailReason, JobOptions, JobRecord};

/// How many jobs one call gathers into batches at most; a larger batch is gathered in several.
pub const GATHER_ITEMS_MAX: usize = 1000;

/// At how many jobs of a line, from its head on, a gate looks for the one that came due first.
pub const GATE_LOOKS_MAX: usize = 1000;

/// When the jobs of a lane run, together: as soon as so many wait, or the one that came due first has waited so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchGate {
    /// How many jobs open the gate, and are in a batch at most.
    pub size: u32,
    /// How long each of them waits at most.
    #[serde(with = "micros")]
    pub max_wait: Duration,
}

impl BatchGate {
    /// A gate that opens at `size` jobs, or when one has waited `max_wait`.
    pub fn new(size: u32, max_wait: Duration) -> Self {
        BatchGate { size, max_wait }
    }

    /// When the gate opens for jobs of which the first came due then, however few they are.
    pub fn opens_at(&self, since: Timestamp) -> Timestamp {
        since.after(self.max_wait)
    }

    /// Whether so many jobs, of which the first came due then, may run now.
    pub fn is_open(&self, waiting: u64, since: Timestamp, now: Timestamp) -> bool {
        waiting >= u64::from(self.size) || self.opens_at(since) <= now
    }
}

/// What gates know of a clock that stepped back. The jobs that were there may have come due at times that are still to come, and
/// for their gates they did at the instant to which it stepped: otherwise they would wait for it to come back to those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBack {
    /// Jobs up to this seq were there.
    pub seq: i64,
    /// Whence the clock stepped; if it did several times, the latest of these instants.
    pub from: Timestamp,
    /// Where to; the earliest of these.
    pub to: Timestamp,
}

impl SetBack {
    /// What is known once the clock stepped, with the jobs up to this seq there.
    pub fn noted(known: Option<SetBack>, seq: i64, from: Timestamp, to: Timestamp) -> SetBack {
        known.map_or(SetBack { seq, from, to }, |known| SetBack {
            seq: seq.max(known.seq),
            from: from.max(known.from),
            to: to.min(known.to),
        })
    }

    /// What is known to a call that reads the clock, where storage time was `last`.
    pub fn read(known: Option<SetBack>, seq: i64, last: Option<Timestamp>, clock: Timestamp) -> Option<SetBack> {
        match advance(last, clock) {
            (now, TimeStep::SteppedBack { from }) => Some(SetBack::noted(known, seq, from, now)),
            _ => known,
        }
    }

    /// When the job with this seq came due, as a gate takes it.
    pub fn due(known: Option<SetBack>, seq: i64, due_at: Timestamp) -> Timestamp {
        let applies = |known: &SetBack| seq.saturating_abs() <= known.seq && known.to < due_at && due_at <= known.from;
        known.filter(applies).map_or(due_at, |known| known.to)
    }
}

/// What becomes of the members of a batch whose leader ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The first of them leads the batch.
    GoOn,
    /// They fail with it, because the run that failed was theirs too.
    Fail(Doom),
}

/// What members of a batch that failed as a whole take over from its leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    /// The kind of the leader's last error.
    pub kind: ErrorKind,
    /// Its text.
    pub message: String,
}

/// How often the runs of a batch failed, its leases were lost, and it ran again: by how much its leader's counters grew
/// while it led.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Runs that failed.
    pub attempts: u32,
    /// Leases that were lost.
    pub crashes: u32,
    /// Runs after the first.
    pub runs: u32,
}

impl Spent {
    /// A job's counters.
    pub fn of(record: &JobRecord) -> Self {
        Spent { attempts: record.attempts, crashes: record.crashes, runs: record.runs }
    }

    /// What was spent, if the leader's counters are these now and were `then` when it came to lead, and `before` was spent
    /// by then.
    pub fn grown(now: Spent, then: Spent, before: Spent) -> Self {
        let grown = |now: u32, then: u32, before: u32| now.saturating_sub(then).saturating_add(before);
        Spent {
            attempts: grown(now.attempts, then.attempts, before.attempts),
            crashes: grown(now.crashes, then.crashes, before.crashes),
            runs: grown(now.runs, then.runs, before.runs),
        }
    }

    /// The counters of a member with these, who bears it and may run again: no budget is quite used up by it.
    pub fn borne(self, own: Spent, options: &JobOptions) -> Self {
        let all = self.borne_to_the_end(own);
        Spent {
            attempts: all.attempts.min(options.max_attempts.saturating_sub(1)).max(own.attempts),
            crashes: all.crashes.min(options.max_crashes.saturating_sub(1)).max(own.crashes),
            runs: all.runs,
        }
    }

    /// The counters of a member with these, who bears all of it and ends.
    pub fn borne_to_the_end(self, own: Spent) -> Self {
        Spent {
            attempts: own.attempts.saturating_add(self.attempts),
            crashes: own.crashes.saturating_add(self.crashes),
            runs: own.runs.saturating_add(self.runs),
        }
    }
}

/// Decides what becomes of members whose leader ended, with this reason if it Failed, and left these errors.
pub fn fate(failure: Option<FailReason>, errors: &[ErrorEntry]) -> Fate {
    match failure {
        Some(FailReason::AttemptsExhausted | FailReason::CrashesExhausted | FailReason::Aborted) => {}
        // It was too old or could not be read, or somebody cancelled it: that is its own affair.
        _ => return Fate::GoOn,
    }
    let (kind, message) = match errors.last() {
        Some(error) => (error.kind, error.message.clone()),
        None => (ErrorKind::Error, String::new()),
    };
    Fate::Fail(Doom { kind, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_opens_for_its_size_or_at_its_time() {
        let gate = BatchGate::new(3, Duration::from_secs(10));
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        assert!(!gate.is_open(2, at(5), at(14)));
        assert!(gate.is_open(3, at(5), at(5)));
        assert!(gate.is_open(1, at(5), at(15)));
        assert_eq!(gate.opens_at(at(5)), at(15));
    }

    #[test]
    fn jobs_that_were_there_when_the_clock_stepped_back_came_due_no_later() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let due = |known, seq, due_at: i64| SetBack::due(known, seq, at(due_at));
        assert_eq!(due(None, 1, 500), at(500));
        assert_eq!(SetBack::read(None, 10, Some(at(500)), at(450)), None, "a clock that lags is followed by nobody");
        let known = SetBack::read(None, 10, Some(at(500)), at(400));
        assert_eq!([390, 450, 500, 501].map(|due_at| due(known, 10, due_at)), [at(390), at(400), at(400), at(501)]);
        assert_eq!((due(known, -10, 450), due(known, 11, 450)), (at(400), at(450)));
        let twice = SetBack::read(known, 20, Some(at(480)), at(420));
        assert_eq!(twice, Some(SetBack { seq: 20, from: at(500), to: at(400) }));
    }

    #[test]
    fn only_a_run_that_failed_for_good_takes_the_members_along() {
        let error = ErrorEntry { at: Timestamp::default(), run: 1, kind: ErrorKind::Panic, message: "boom".into() };
        let doom = Fate::Fail(Doom { kind: ErrorKind::Panic, message: "boom".into() });
        for reason in [FailReason::AttemptsExhausted, FailReason::CrashesExhausted, FailReason::Aborted] {
            assert_eq!(fate(Some(reason), std::slice::from_ref(&error)), doom);
        }
        for reason in [None, Some(FailReason::Expired), Some(FailReason::Quarantined)] {
            assert_eq!(fate(reason, std::slice::from_ref(&error)), Fate::GoOn);
        }
    }

    #[test]
    fn what_a_batch_spent_is_added_to_each_members_own() {
        let spent = |attempts, crashes, runs| Spent { attempts, crashes, runs };
        let options = JobOptions { max_attempts: 4, max_crashes: 3, ..JobOptions::default() };
        let grown = Spent::grown(spent(3, 1, 6), spent(1, 1, 2), spent(1, 0, 1));
        assert_eq!(grown, spent(3, 0, 5));
        assert_eq!(grown.borne(spent(0, 0, 1), &options), spent(3, 0, 6));
        assert_eq!(grown.borne(spent(2, 2, 9), &options), spent(3, 2, 14));
        assert_eq!(grown.borne_to_the_end(spent(2, 2, 9)), spent(5, 2, 14));
    }
}
