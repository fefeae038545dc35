//! Batches: jobs of a lane that run together, under one lease. When the gate of a lane opens, what it is then worth to its
//! members that the leader's run ends, and how much is gathered in one step. How a storage keeps batches is in
//! `docs/contract.md`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;
use crate::clock::Timestamp;
use crate::job::{ErrorEntry, ErrorKind, FailReason};

/// How many jobs one call gathers into a batch at most; a larger one is gathered in several.
pub const GATHER_ITEMS_MAX: usize = 1000;

/// When the jobs of a lane run, together: as soon as so many wait, or the first of them has waited so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchGate {
    /// How many jobs open the gate, and are in a batch at most.
    pub size: u32,
    /// How long the first of them waits at most.
    #[serde(with = "micros")]
    pub max_wait: Duration,
}

impl BatchGate {
    /// A gate that opens at `size` jobs, or when the first has waited `max_wait`.
    pub fn new(size: u32, max_wait: Duration) -> Self {
        BatchGate { size, max_wait }
    }

    /// When the gate opens for jobs of which the first waits since then, however few they are.
    pub fn opens_at(&self, since: Timestamp) -> Timestamp {
        since.after(self.max_wait)
    }

    /// Whether so many jobs, of which the first waits since then, may run now.
    pub fn is_open(&self, waiting: u64, since: Timestamp, now: Timestamp) -> bool {
        waiting >= u64::from(self.size) || self.opens_at(since) <= now
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
    /// Why they are Failed.
    pub reason: FailReason,
    /// The kind of the leader's last error.
    pub kind: ErrorKind,
    /// Its text.
    pub message: String,
}

/// Decides what becomes of members whose leader ended, with this reason if it Failed, and left these errors.
pub fn fate(failure: Option<FailReason>, errors: &[ErrorEntry]) -> Fate {
    let reason = match failure {
        Some(reason @ (FailReason::AttemptsExhausted | FailReason::CrashesExhausted | FailReason::Aborted)) => reason,
        // It was too old or could not be read, or somebody cancelled it: that is its own affair.
        _ => return Fate::GoOn,
    };
    let (kind, message) = match errors.last() {
        Some(error) => (error.kind, error.message.clone()),
        None => (ErrorKind::Error, String::new()),
    };
    Fate::Fail(Doom { reason, kind, message })
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
    fn only_a_run_that_failed_for_good_takes_the_members_along() {
        let error = ErrorEntry { at: Timestamp::default(), run: 1, kind: ErrorKind::Panic, message: "boom".into() };
        let doom = |reason| Fate::Fail(Doom { reason, kind: ErrorKind::Panic, message: "boom".into() });
        for reason in [FailReason::AttemptsExhausted, FailReason::CrashesExhausted, FailReason::Aborted] {
            assert_eq!(fate(Some(reason), std::slice::from_ref(&error)), doom(reason));
        }
        for reason in [None, Some(FailReason::Expired), Some(FailReason::Quarantined)] {
            assert_eq!(fate(reason, std::slice::from_ref(&error)), Fate::GoOn);
        }
    }
}
