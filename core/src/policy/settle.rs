//! What becomes of an Active job when its run ends, or when its lease does. The two budgets live here: failed runs
//! use up `max_attempts`, lost leases use up `max_crashes`, and releases and snoozes use up neither.

use crate::clock::Timestamp;
use crate::job::{ErrorKind, FailReason, JobOptions, JobState, Move, Slot};
use crate::policy::enqueue::{land, line};
use crate::storage::Outcome;

/// The part of a record that the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Runs that failed so far.
    pub attempts: u32,
    /// The attempts budget.
    pub max_attempts: u32,
    /// Leases lost so far.
    pub crashes: u32,
    /// The crash budget.
    pub max_crashes: u32,
    /// Whether somebody asked to cancel the job.
    pub cancel_requested: bool,
}

impl Standing {
    /// The standing of a job with these counters and options.
    pub fn new(attempts: u32, crashes: u32, cancel_requested: bool, options: &JobOptions) -> Self {
        Standing {
            attempts,
            crashes,
            cancel_requested,
            max_attempts: options.max_attempts,
            max_crashes: options.max_crashes,
        }
    }
}

/// What the storage then writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The move made.
    pub made: Move,
    /// The state it leads to; Waiting instead of Delayed where the time has come already.
    pub state: JobState,
    /// The line, if that state is Waiting.
    pub slot: Slot,
    /// When the job may start again; `None` leaves its due time as it was.
    pub due_at: Option<Timestamp>,
    /// The attempts counter from now on.
    pub attempts: u32,
    /// The crash counter from now on.
    pub crashes: u32,
    /// Why it is Failed, if it is.
    pub failure: Option<FailReason>,
}

/// Decides what becomes of a job whose run ended in `outcome`.
///
/// A request to cancel wins over every outcome except success: work that is done stays done.
pub fn settle(standing: Standing, outcome: &Outcome, now: Timestamp) -> Verdict {
    let attempts = match outcome {
        Outcome::Retry { .. } | Outcome::Abort { .. } => standing.attempts.saturating_add(1),
        _ => standing.attempts,
    };
    let back = |made, due_at: Option<Timestamp>| {
        let state = due_at.map_or(JobState::Waiting, |at| land(at, now));
        Verdict {
            made,
            state,
            slot: slot(state, standing.crashes, standing.max_crashes),
            due_at,
            attempts,
            crashes: standing.crashes,
            failure: None,
        }
    };
    let end = |made, state, failure| Verdict {
        made,
        state,
        slot: Slot::Lane,
        due_at: None,
        attempts,
        crashes: standing.crashes,
        failure,
    };
    match outcome {
        Outcome::Completed { .. } => end(Move::Complete, JobState::Completed, None),
        Outcome::Cancelled => end(Move::Cancel, JobState::Cancelled, None),
        _ if standing.cancel_requested => end(Move::Cancel, JobState::Cancelled, None),
        Outcome::Abort { .. } => end(Move::Fail, JobState::Failed, Some(FailReason::Aborted)),
        Outcome::Retry { .. } if attempts >= standing.max_attempts => {
            end(Move::Fail, JobState::Failed, Some(FailReason::AttemptsExhausted))
        }
        Outcome::Retry { delay, .. } => back(Move::Retry, Some(now.after(*delay))),
        Outcome::Snooze { delay } => back(Move::Snooze, Some(now.after(*delay))),
        Outcome::Release => back(Move::Release, None),
    }
}

/// Only Waiting jobs stand in a line of their own; in every other state the slot says nothing.
fn slot(state: JobState, crashes: u32, max_crashes: u32) -> Slot {
    if state == JobState::Waiting { line(crashes, max_crashes) } else { Slot::Lane }
}

/// Decides what becomes of a job whose lease ran out.
pub fn crash(standing: Standing) -> Verdict {
    let crashes = standing.crashes.saturating_add(1);
    let (made, state, failure) = if standing.cancel_requested {
        (Move::Cancel, JobState::Cancelled, None)
    } else if crashes >= standing.max_crashes {
        (Move::Fail, JobState::Failed, Some(FailReason::CrashesExhausted))
    } else {
        (Move::Crash, JobState::Waiting, None)
    };
    let slot = slot(state, crashes, standing.max_crashes);
    Verdict { made, state, slot, due_at: None, attempts: standing.attempts, crashes, failure }
}

/// The text of the error entry that a lost lease leaves.
pub const CRASH_MESSAGE: &str = "the lease ran out: the worker's process died or hung";
/// The text of the error entry that an expired job leaves.
pub const EXPIRED_MESSAGE: &str = "older than expires_in when its turn came";

/// The error entry that an outcome leaves, if it leaves one.
pub fn error_of(outcome: &Outcome) -> Option<(ErrorKind, &str)> {
    match outcome {
        Outcome::Retry { error, .. } | Outcome::Abort { error } => Some((error.kind, &error.message)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::transition;
    use crate::storage::RunError;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn standing() -> Standing {
        Standing { attempts: 0, max_attempts: 2, crashes: 0, max_crashes: 3, cancel_requested: false }
    }

    fn retry(delay: Duration) -> Outcome {
        Outcome::Retry { error: RunError::new(ErrorKind::Error, "x"), delay }
    }

    #[test]
    fn a_failed_run_uses_an_attempt_and_the_last_one_fails_the_job() {
        let first = settle(standing(), &retry(Duration::from_secs(5)), NOW);
        assert_eq!((first.state, first.attempts), (JobState::Delayed, 1));
        let last = settle(Standing { attempts: 1, ..standing() }, &retry(Duration::ZERO), NOW);
        assert_eq!((last.state, last.failure), (JobState::Failed, Some(FailReason::AttemptsExhausted)));
    }

    #[test]
    fn release_and_snooze_use_up_nothing() {
        for outcome in [Outcome::Release, Outcome::Snooze { delay: Duration::from_secs(1) }] {
            let verdict = settle(Standing { attempts: 1, ..standing() }, &outcome, NOW);
            assert_eq!((verdict.attempts, verdict.crashes, verdict.failure), (1, 0, None));
        }
    }

    #[test]
    fn a_cancel_request_wins_over_everything_but_success() {
        let asked = Standing { cancel_requested: true, ..standing() };
        for outcome in [retry(Duration::ZERO), Outcome::Release, Outcome::Snooze { delay: Duration::ZERO }] {
            assert_eq!(settle(asked, &outcome, NOW).state, JobState::Cancelled);
        }
        assert_eq!(settle(asked, &Outcome::Completed { result: None }, NOW).state, JobState::Completed);
        assert_eq!(crash(asked).state, JobState::Cancelled);
    }

    #[test]
    fn the_last_crash_fails_the_job_and_the_one_before_it_makes_it_run_alone() {
        let slots: Vec<_> = (0..3).map(|crashes| crash(Standing { crashes, ..standing() })).collect();
        assert_eq!(slots[0].slot, Slot::Lane);
        assert_eq!(slots[1].slot, Slot::Solo);
        assert_eq!(slots[2].failure, Some(FailReason::CrashesExhausted));
    }

    #[test]
    fn every_verdict_is_a_legal_move_from_active() {
        let outcomes = [
            retry(Duration::ZERO),
            Outcome::Abort { error: RunError::new(ErrorKind::Abort, "x") },
            Outcome::Release,
            Outcome::Cancelled,
            Outcome::Completed { result: None },
            Outcome::Snooze { delay: Duration::from_secs(1) },
        ];
        for outcome in outcomes {
            let verdict = settle(standing(), &outcome, NOW);
            assert!(transition(JobState::Active, verdict.made).is_some(), "{outcome:?}");
        }
    }
}
