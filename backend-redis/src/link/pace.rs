//! How often to try to connect. After a failure there is a pause that doubles from 10 ms to half a second, so that a
//! dead server is not hammered and yet found within a second of its return; a random part keeps many processes from
//! trying in step.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::CallError;

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);

/// Failures in a row, and the pause after the last.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    pause: Option<(Instant, CallError)>,
}

impl Pace {
    /// Why nothing should be tried now, if so: what the last attempt said.
    pub(super) fn pausing(&self, now: Instant) -> Option<CallError> {
        self.pause.as_ref().filter(|(until, _)| now < *until).map(|(_, why)| why.clone())
    }

    /// An attempt failed; `lot` is drawn from 0 to 1.
    pub(super) fn failed(&mut self, now: Instant, why: CallError, lot: f64) {
        let longest = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.pause = Some((now + longest.mul_f64(0.5 + lot.clamp(0.0, 1.0) / 2.0), why));
    }

    /// A command was served, so the next failure is a first one.
    pub(super) fn served(&mut self) {
        *self = Pace::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_second_and_start_anew_once_served() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert!(pace.pausing(now).is_none());
        let mut ends = Vec::new();
        for _ in 0..10 {
            pace.failed(now, CallError::closed(), 1.0);
            ends.push((0..=600).find(|ms| pace.pausing(now + Duration::from_millis(*ms)).is_none()).expect("bounded"));
        }
        assert_eq!(ends, [10, 20, 40, 80, 160, 320, 500, 500, 500, 500]);
        pace.served();
        assert!(pace.pausing(now).is_none());
        pace.failed(now, CallError::closed(), 0.0);
        assert!(pace.pausing(now + Duration::from_millis(5)).is_none());
    }
}
