//! Where a job lands when a storage takes it, and what a claim makes of a job whose turn has come.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::job::{JobState, Slot, Start};

/// Where a new (or rescheduled, or retried) job stands: Waiting if its time has come, else Delayed until then.
pub fn land(due_at: Timestamp, now: Timestamp) -> JobState {
    if due_at > now { JobState::Delayed } else { JobState::Waiting }
}

/// The state and due time of a job enqueued at `now`.
pub fn place(start: Start, now: Timestamp) -> (JobState, Timestamp) {
    let due_at = start.resolve(now);
    (land(due_at, now), due_at)
}

/// The instant after which a job enqueued at `now` is no longer started.
pub fn expiry(expires_in: Option<Duration>, now: Timestamp) -> Option<Timestamp> {
    expires_in.map(|span| now.after(span))
}

/// Whether a job is too old to start. It may start at the very instant that it expires, and not after.
pub fn is_expired(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|at| now > at)
}

/// The line that a Waiting job belongs in: the solo line if losing one more lease would use up its crash budget.
pub fn line(crashes: u32, max_crashes: u32) -> Slot {
    if crashes.saturating_add(1) >= max_crashes { Slot::Solo } else { Slot::Lane }
}

/// The epoch of a claim (or of the crash that ends one): it rises with every claim, and a store that lost its last
/// writes does not give the same one again, because time went on.
pub fn next_epoch(last: i64, now: Timestamp) -> i64 {
    last.saturating_add(1).max(now.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_rises_even_when_the_clock_does_not() {
        let now = Timestamp::from_micros(100);
        assert_eq!(next_epoch(0, now), 100);
        assert_eq!(next_epoch(100, now), 101);
        assert_eq!(next_epoch(500, now), 501);
    }

    #[test]
    fn only_the_last_crash_is_run_alone() {
        assert_eq!([0, 1, 2].map(|crashes| line(crashes, 3)), [Slot::Lane, Slot::Lane, Slot::Solo]);
        assert_eq!(line(0, 1), Slot::Solo);
    }
}
