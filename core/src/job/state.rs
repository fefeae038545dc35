//! The states of a job and the only moves between them. [`transition`] is the whole table: a storage asks it before
//! it moves a job, and the diagram in ARCHITECTURE.md is generated from it by a test.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a job is in its life. The number is stored, and states are listed in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Eligible, in line for a worker.
    Waiting = 0,
    /// Waits for its time: a delay, a retry's backoff, a snooze.
    Delayed = 1,
    /// Waits for other jobs to end: those it depends on, the one that holds its dedup key, or the one that leads its batch.
    Blocked = 2,
    /// A worker holds its lease.
    Active = 3,
    /// Ended: the handler succeeded.
    Completed = 4,
    /// Ended: out of attempts or crashes, aborted, expired, or unreadable.
    Failed = 5,
    /// Ended: cancelled before it could complete.
    Cancelled = 6,
}

impl JobState {
    /// Every state, in the order in which lists and filters walk them.
    pub const ALL: [JobState; 7] = [
        JobState::Waiting,
        JobState::Delayed,
        JobState::Blocked,
        JobState::Active,
        JobState::Completed,
        JobState::Failed,
        JobState::Cancelled,
    ];

    /// Whether the job has ended. Only an operator's retry leaves a terminal state.
    pub const fn is_terminal(self) -> bool {
        matches!(self, JobState::Completed | JobState::Failed | JobState::Cancelled)
    }

    /// The stored number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The state with this stored number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() { Some(Self::ALL[number as usize]) } else { None }
    }

    /// The state's name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::Delayed => "delayed",
            JobState::Blocked => "blocked",
            JobState::Active => "active",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can happen to a job that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// Its time came.
    Due,
    /// The jobs it waited for ended.
    Unblock,
    /// A worker took it.
    Claim,
    /// It was gathered into the batch that a worker took.
    Gather,
    /// Its handler succeeded.
    Complete,
    /// Its handler failed and may try again later.
    Retry,
    /// Its handler asked for more time.
    Snooze,
    /// Its worker gave it back unfinished.
    Release,
    /// Its lease ran out, within the crash budget.
    Crash,
    /// It waits for jobs it added itself.
    Block,
    /// It is out of a budget, aborted, expired, or unreadable.
    Fail,
    /// Somebody cancelled it (from Active: its worker honours the request).
    Cancel,
    /// An operator put it back.
    RetryByOperator,
    /// An operator brought it forward to now.
    Promote,
    /// An operator gave it another time.
    Reschedule,
}

impl Move {
    /// Every move, in the order of the diagram.
    pub const ALL: [Move; 15] = [
        Move::Due,
        Move::Unblock,
        Move::Claim,
        Move::Gather,
        Move::Complete,
        Move::Retry,
        Move::Snooze,
        Move::Release,
        Move::Crash,
        Move::Block,
        Move::Fail,
        Move::Cancel,
        Move::RetryByOperator,
        Move::Promote,
        Move::Reschedule,
    ];
}

/// The state that `what` takes a job in `from` to; `None` if that move is illegal.
///
/// Moves that name a time (Retry, Snooze, Reschedule, Unblock) land in Delayed here; where that time is not in the future,
/// the storage makes the [`Move::Due`] that follows in the same step, and the job is Waiting.
pub const fn transition(from: JobState, what: Move) -> Option<JobState> {
    use JobState::*;
    use Move::*;
    Some(match (from, what) {
        (Delayed, Due) => Waiting,
        (Blocked, Unblock) => Delayed,
        (Waiting, Claim) => Active,
        (Waiting, Gather) => Blocked,
        // A member of a batch is settled from where it is gathered.
        (Active | Blocked, Complete) => Completed,
        (Active | Blocked, Retry) => Delayed,
        (Active | Blocked, Snooze) => Delayed,
        (Active | Blocked, Release) => Waiting,
        (Active, Crash) => Waiting,
        (Active, Block) => Blocked,
        (Active | Waiting | Blocked, Fail) => Failed,
        (Waiting | Delayed | Blocked | Active, Cancel) => Cancelled,
        (Completed | Failed | Cancelled, RetryByOperator) => Waiting,
        (Delayed, Promote) => Waiting,
        (Waiting | Delayed, Reschedule) => Delayed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_operators_retry_leaves_a_terminal_state() {
        for from in JobState::ALL.into_iter().filter(|s| s.is_terminal()) {
            for what in Move::ALL {
                assert_eq!(transition(from, what).is_some(), what == Move::RetryByOperator, "{from} {what:?}");
            }
        }
    }

    #[test]
    fn cancel_is_legal_from_every_live_state() {
        for from in JobState::ALL.into_iter().filter(|s| !s.is_terminal()) {
            assert_eq!(transition(from, Move::Cancel), Some(JobState::Cancelled));
        }
    }

    #[test]
    fn every_state_has_the_number_of_its_place() {
        for (place, state) in JobState::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.number()), place);
            assert_eq!(JobState::from_number(state.number()), Some(state));
        }
        assert_eq!(JobState::from_number(7), None);
    }
}
