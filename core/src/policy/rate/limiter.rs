//! A limiter that belongs to no queue: its state, its own time, and when it may go. Storages that can call this do.

use super::{Rate, RateState};
use crate::clock::{LAG_MAX, Timestamp};
use crate::storage::{AcquireAnswer, ErrorCode, StorageError};

/// What a storage keeps of a limiter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimiterState {
    /// What it gave.
    pub state: RateState,
    /// From when on (by the clock) it is as if it had never been. A clock may lag by [`LAG_MAX`] without time going back,
    /// so this is that much after the last of what it gave has ceased to count.
    pub gone_at: Timestamp,
}

impl LimiterState {
    /// Whether nothing of it counts any more, so that it may be dropped.
    pub fn is_gone(&self, clock: Timestamp) -> bool {
        clock >= self.gone_at
    }

    /// Decides whether `permits` are given. Answers also whether the state changed and must be stored; a refusal changes it
    /// only where the clock stepped back.
    pub fn acquire(&mut self, rate: &Rate, clock: Timestamp, permits: u32) -> (AcquireAnswer, bool) {
        if self.is_gone(clock) {
            self.state = RateState::default();
        }
        let (now, anchored) = self.state.time(clock);
        let bound = rate.bound_at(now);
        let free = self.state.free(&bound, now);
        let granted = permits <= free;
        let answer = AcquireAnswer {
            granted,
            remaining: if granted { free - permits } else { free },
            retry_after: (!granted).then(|| self.state.retry_at(&bound, now, permits).since(now)),
        };
        if granted {
            self.state.take(&bound, now, permits);
        }
        if granted || anchored {
            self.gone_at = self.state.idle_at(&bound).map_or(now, |idle| idle.after(LAG_MAX));
        }
        (answer, granted || anchored)
    }

    /// What [`acquire`](Self::acquire) would answer, if it took nothing.
    pub fn peek(&self, rate: &Rate, clock: Timestamp, permits: u32) -> AcquireAnswer {
        let (mut answer, _) = self.clone().acquire(rate, clock, permits);
        if answer.granted {
            answer.remaining += permits;
        }
        answer
    }
}

/// Checks a question to a limiter.
///
/// # Errors
/// `Invalid`, and why.
pub fn check(rate: &Rate, permits: u32) -> Result<(), StorageError> {
    let invalid = |why: String| Err(StorageError::new(ErrorCode::Invalid, why));
    match rate.check() {
        Err(error) => invalid(error.to_string()),
        Ok(()) if permits == 0 => invalid("a limiter was asked for 0 permits; ask for 1 at least".to_owned()),
        Ok(()) if permits > rate.limit() => {
            invalid(format!("a limiter was asked for {permits} permits, and its limit is {}", rate.limit()))
        }
        Ok(()) => Ok(()),
    }
}
