//! Time as the storage knows it. A storage reads a [`Clock`] once per call and passes the reading through
//! [`advance`], which decides what to make of a clock that stepped or a store that nobody wrote to for a while.
//! The decision is pure, so every backend (and the scripts of one) can follow it to the letter.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in storage time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest instant that can be stored; "never".
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// The instant `micros` microseconds after (or, if negative, before) the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The instant `delay` later; the latest instant there is, if that would overflow.
    pub fn after(self, delay: Duration) -> Self {
        Timestamp(self.0.saturating_add(micros(delay)))
    }

    /// The instant `span` earlier; the earliest instant there is, if that would overflow.
    pub fn before(self, span: Duration) -> Self {
        Timestamp(self.0.saturating_sub(micros(span)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp(micros(since)),
            Err(before) => Timestamp(-micros(before.duration())),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        let span = Duration::from_micros(at.0.unsigned_abs());
        let moved = if at.0 >= 0 { UNIX_EPOCH.checked_add(span) } else { UNIX_EPOCH.checked_sub(span) };
        moved.unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_micros(SystemTime::from(*self)))
    }
}

/// A duration in whole microseconds, the largest that fits if it does not.
pub fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Where a storage reads the time from. Tests inject a [`ManualClock`].
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The current reading; it may step in either direction.
    fn now(&self) -> Timestamp;
}

/// The host's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that moves only when told to. Clones share their reading.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Timestamp) -> Self {
        ManualClock(Arc::new(AtomicI64::new(start.as_micros())))
    }

    /// Moves the clock forward by `span`.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(micros(span), Ordering::SeqCst);
    }

    /// Moves the clock back by `span`, as a wrong time server would.
    pub fn step_back(&self, span: Duration) {
        self.0.fetch_sub(micros(span), Ordering::SeqCst);
    }

    /// Sets the clock.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_micros(), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// Starts on 2026-01-01, so that dates in test output look like dates.
    fn default() -> Self {
        ManualClock::new(Timestamp::from_micros(1_767_225_600_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// How far a clock may lag behind the stored time before the stored time is taken to be the wrong one.
pub const LAG_MAX: Duration = Duration::from_secs(60);

/// What [`advance`] made of a clock reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStep {
    /// Time went on.
    Onward,
    /// The clock is [`LAG_MAX`] or more behind the stored time: storage time goes back to the clock, every current
    /// lease gets its full term again, and the event log says so.
    SteppedBack {
        /// The stored time that is given up.
        from: Timestamp,
    },
}

/// Storage time for a call: `max(last, clock)`, unless the clock lags by [`LAG_MAX`] or more.
///
/// `last` is the queue's stored time, `None` for a queue that has none yet.
pub fn advance(last: Option<Timestamp>, clock: Timestamp) -> (Timestamp, TimeStep) {
    match last {
        Some(last) if clock < last && last.since(clock) >= LAG_MAX => (clock, TimeStep::SteppedBack { from: last }),
        Some(last) => (clock.max(last), TimeStep::Onward),
        None => (clock, TimeStep::Onward),
    }
}

/// Whether a lease of this `term` must be extended before it may expire, because nobody attended to the queue for
/// `gap`: more than half the term. Then it was most likely the store, the host or the clock that stood still (or
/// jumped), and not the worker.
pub fn is_outage(gap: Duration, term: Duration) -> bool {
    gap > term / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn storage_time_never_goes_back_for_a_small_lag() {
        let last = Timestamp::from_micros(1_000_000_000);
        let clock = last.before(Duration::from_secs(59));
        assert_eq!(advance(Some(last), clock), (last, TimeStep::Onward));
    }

    #[test]
    fn a_lag_of_a_minute_re_anchors_storage_time() {
        let last = Timestamp::from_micros(10_000_000_000);
        let clock = last.before(HOUR);
        assert_eq!(advance(Some(last), clock), (clock, TimeStep::SteppedBack { from: last }));
    }

    #[test]
    fn timestamps_saturate_instead_of_wrapping() {
        assert_eq!(Timestamp::MAX.after(HOUR), Timestamp::MAX);
        assert_eq!(Timestamp::from_micros(5).since(Timestamp::from_micros(9)), Duration::ZERO);
    }
}
