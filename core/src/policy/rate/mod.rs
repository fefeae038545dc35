//! Rate limits: how many may start in which span of storage time. A [`Rate`] is what a user says, time zone and all. A
//! [`Bound`] is what it comes to at one instant, without zones, so that a storage (or its scripts) can apply it. A
//! [`RateState`] is what must be remembered of past starts to keep the promise.

mod calendar;
pub mod limiter;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use calendar::{CalendarUnit, TimeZoneName, Window};
pub use state::{RateState, StateError};

use super::micros;
use crate::clock::Timestamp;

/// The shortest sliding window.
pub const SLIDING_MIN: Duration = Duration::from_millis(1);

/// No window of a calendar is longer: a day that a zone had twice, because it moved over the date line.
pub const CALENDAR_WINDOW_MAX: Duration = Duration::from_secs(48 * 3600);

/// How many may start in which span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Rate {
    limit: u32,
    per: Per,
}

/// A span of time that a limit is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Any window of this length, wherever it begins; 1 ms or more.
    Sliding(#[serde(with = "micros")] Duration),
    /// The minute, hour or day that the calendar of a time zone shows.
    Calendar {
        /// Which of them.
        unit: CalendarUnit,
        /// Where.
        zone: TimeZoneName,
    },
}

/// Why a rate was refused. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// The limit is zero.
    #[error("a rate of 0 would let nothing start, ever; give it 1 or more, or pause the queue")]
    NothingAllowed,
    /// The sliding window is too short.
    #[error("a window of {} µs is too short; a millisecond is the shortest", .0.as_micros())]
    TooShort(Duration),
    /// A window of this length is not a unit of the calendar.
    #[error("no calendar unit is {} long; a minute, an hour or a day may follow a time zone", humantime::format_duration(*.0))]
    NoSuchUnit(Duration),
    /// The time zone is not known.
    #[error("there is no time zone {0:?}; use an IANA name such as \"America/New_York\" or \"UTC\"")]
    NoSuchZone(String),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    limit: u32,
    per: Per,
}

impl TryFrom<Stored> for Rate {
    type Error = RateError;
    fn try_from(stored: Stored) -> Result<Self, RateError> {
        let rate = Rate { limit: stored.limit, per: stored.per };
        rate.check()?;
        Ok(rate)
    }
}

impl From<Rate> for Stored {
    fn from(rate: Rate) -> Stored {
        Stored { limit: rate.limit, per: rate.per }
    }
}

impl Rate {
    /// At most `limit` in any window of this length. What is wrong with it, if anything, [`check`](Self::check) says, and
    /// so does everything that takes a rate.
    pub const fn sliding(limit: u32, window: Duration) -> Self {
        Rate { limit, per: Per::Sliding(window) }
    }

    /// At most `limit` in any second.
    pub const fn per_second(limit: u32) -> Self {
        Rate::sliding(limit, Duration::from_secs(1))
    }

    /// At most `limit` in any minute, wherever it begins; with [`in_zone`](Self::in_zone), in each minute of the clock.
    pub const fn per_minute(limit: u32) -> Self {
        Rate::sliding(limit, Duration::from_secs(60))
    }

    /// At most `limit` in any hour, wherever it begins; with [`in_zone`](Self::in_zone), in each hour of the clock.
    pub const fn per_hour(limit: u32) -> Self {
        Rate::sliding(limit, Duration::from_secs(3600))
    }

    /// At most `limit` in any 24 hours; with [`in_zone`](Self::in_zone), in each day of the calendar.
    pub const fn per_day(limit: u32) -> Self {
        Rate::sliding(limit, Duration::from_secs(24 * 3600))
    }

    /// At most `limit` in each unit of a zone's calendar.
    pub const fn calendar(limit: u32, unit: CalendarUnit, zone: TimeZoneName) -> Self {
        Rate { limit, per: Per::Calendar { unit, zone } }
    }

    /// The same limit for each minute, hour or day that the calendar of this time zone shows, instead of any that long.
    ///
    /// # Errors
    /// [`RateError::NoSuchZone`]; [`RateError::NoSuchUnit`] if the window is not a minute, an hour or a day.
    pub fn in_zone(self, zone: impl AsRef<str>) -> Result<Self, RateError> {
        let zone = TimeZoneName::new(zone)?;
        let unit = match self.per {
            Per::Calendar { unit, .. } => unit,
            Per::Sliding(window) => CalendarUnit::of(window).ok_or(RateError::NoSuchUnit(window))?,
        };
        Ok(Rate::calendar(self.limit, unit, zone))
    }

    /// Whether the rate makes sense.
    ///
    /// # Errors
    /// [`RateError::NothingAllowed`], [`RateError::TooShort`].
    pub fn check(&self) -> Result<(), RateError> {
        if self.limit == 0 {
            return Err(RateError::NothingAllowed);
        }
        match self.per {
            Per::Sliding(window) if window < SLIDING_MIN => Err(RateError::TooShort(window)),
            _ => Ok(()),
        }
    }

    /// How many.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// In which span of time.
    pub fn per(&self) -> &Per {
        &self.per
    }

    /// What the rate comes to at `now`. It may be kept for as long as it [covers](Bound::covers) the time.
    pub fn bound_at(&self, now: Timestamp) -> Bound {
        let span = match &self.per {
            // Time is stored in whole microseconds, and so is the window: rounded up, so that it promises no less.
            Per::Sliding(window) => Span::Sliding(whole_micros(*window)),
            Per::Calendar { unit, zone } => Span::Window(zone.window(*unit, now)),
        };
        Bound { limit: self.limit, span }
    }
}

fn whole_micros(window: Duration) -> Duration {
    let whole = Duration::from_micros(u64::try_from(window.as_micros()).unwrap_or(u64::MAX));
    if whole < window { whole + Duration::from_micros(1) } else { whole }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.per {
            Per::Sliding(window) => write!(f, "{} in any {}", self.limit, humantime::format_duration(*window)),
            Per::Calendar { unit, zone } => write!(f, "{} per {unit} in {zone}", self.limit),
        }
    }
}

/// A rate as it is applied at one instant: no time zones any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// How many may start; 1 or more.
    pub limit: u32,
    /// In which span of time.
    pub span: Span,
}

/// The span of time that a bound is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Any window of this length, in whole microseconds.
    Sliding(Duration),
    /// This window of the calendar, which holds the present.
    Window(Window),
}

impl Bound {
    /// Whether the bound is still right at `now`: a calendar's is within its window, a sliding one always.
    pub fn covers(&self, now: Timestamp) -> bool {
        match self.span {
            Span::Sliding(_) => true,
            Span::Window(window) => window.contains(now),
        }
    }

    /// Whether a start at `at`, no later than `now`, still counts.
    fn counts(&self, at: Timestamp, now: Timestamp) -> bool {
        match self.span {
            Span::Sliding(window) => now < at.after(window),
            Span::Window(window) => window.start <= at,
        }
    }

    /// When a start at `at` that counts no longer does.
    fn forgets(&self, at: Timestamp) -> Timestamp {
        match self.span {
            Span::Sliding(window) => at.after(window),
            Span::Window(window) => window.end,
        }
    }

    /// How many starts of different times may share a group, which counts them all as of the last: a hundredth of the
    /// limit, rounded up. So nothing is rounded for limits up to 100, and at most 1/51 of a larger one is left unused.
    fn group_starts_max(&self) -> u32 {
        match self.span {
            Span::Sliding(_) => self.limit.div_ceil(100),
            // Only the sum of a calendar's window matters.
            Span::Window(_) => u32::MAX,
        }
    }
}
