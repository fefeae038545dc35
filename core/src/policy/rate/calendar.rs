//! When a minute, an hour or a day begins and ends in a time zone, also where its clocks change.
//!
//! - A **day** is as long as the calendar's: 23 or 25 hours where clocks change, and where it begins without a midnight,
//!   it begins with its first instant. A day that comes twice (clocks that go back over midnight) begins once, the first
//!   time.
//! - An **hour** and a **minute** are what a clock on the wall shows, cut where the clocks change. So an hour that is shown
//!   twice is two windows: a limit per hour is about an hour's work, and nobody should wait for two. Where clocks
//!   change by half an hour, the hour that is cut is half as long, with the whole limit.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

use super::RateError;
use crate::clock::Timestamp;

/// No zone is further from UTC than this, in seconds.
const OFFSET_MAX_S: i64 = 26 * 3600;
const DAY_S: i64 = 24 * 3600;
const SECOND_MICROS: i64 = 1_000_000;

/// The zones that came with the library, so that what the host has installed makes no difference.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalendarUnit {
    /// From :00 to :00.
    Minute,
    /// From hour to hour of the clock.
    Hour,
    /// From midnight to midnight.
    Day,
}

impl CalendarUnit {
    /// The unit that usually is this long.
    pub(super) fn of(window: Duration) -> Option<Self> {
        let units = [CalendarUnit::Minute, CalendarUnit::Hour, CalendarUnit::Day];
        units.into_iter().find(|unit| Duration::from_secs(unit.seconds().unsigned_abs()) == window)
    }

    fn seconds(self) -> i64 {
        match self {
            CalendarUnit::Minute => 60,
            CalendarUnit::Hour => 3600,
            CalendarUnit::Day => DAY_S,
        }
    }
}

impl fmt::Display for CalendarUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CalendarUnit::Minute => "minute",
            CalendarUnit::Hour => "hour",
            CalendarUnit::Day => "day",
        })
    }
}

/// The IANA name of a time zone, such as `America/New_York`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeZoneName {
    zone: TimeZone,
}

/// A window of the calendar: from `start`, up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

impl Window {
    /// Whether the instant is in the window.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

impl TimeZoneName {
    /// Looks the name up among the zones that came with the library.
    ///
    /// # Errors
    /// [`RateError::NoSuchZone`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, RateError> {
        let name = name.as_ref();
        let known = ZONES.get(name).ok().filter(|zone| zone.iana_name().is_some() && !zone.is_unknown());
        known.map(|zone| TimeZoneName { zone }).ok_or_else(|| RateError::NoSuchZone(name.chars().take(40).collect()))
    }

    /// The name, spelt as the database spells it.
    pub fn as_str(&self) -> &str {
        self.zone.iana_name().unwrap_or_default()
    }

    /// The window of the zone's calendar that holds an instant.
    ///
    /// Windows follow one another without gaps. Before the year -9999 and from the year 9999 on nobody has a calendar;
    /// there it is one window.
    pub fn window(&self, unit: CalendarUnit, at: Timestamp) -> Window {
        let found = calendar_second(at).and_then(|second| match unit {
            CalendarUnit::Day => self.day(second),
            CalendarUnit::Minute | CalendarUnit::Hour => self.cut(second, unit.seconds()),
        });
        let (start, end) = found.unwrap_or((i64::MIN, i64::MAX));
        let instant = |second: i64| Timestamp::from_micros(second.saturating_mul(SECOND_MICROS));
        Window { start: instant(start), end: instant(end) }
    }

    /// The day: from the first instant of a date to the first instant of the next.
    fn day(&self, at: i64) -> Option<(i64, i64)> {
        let date = (at + self.offset(at)?).div_euclid(DAY_S);
        let (mut start, mut next) = (self.first_instant(date * DAY_S)?, date + 1);
        loop {
            let end = self.first_instant(next * DAY_S)?;
            // A clock that went back over midnight shows yesterday's date again, after today began.
            if at < end {
                return Some((start, end));
            }
            (start, next) = (end, next + 1);
        }
    }

    /// The first instant at which the zone's clocks show `local` (in seconds) or later.
    fn first_instant(&self, local: i64) -> Option<i64> {
        let mut from = local - OFFSET_MAX_S;
        let mut offset = self.offset(from)?;
        loop {
            let shown = (local - offset).max(from);
            match self.zone.following(jiff_second(from)?).next() {
                Some(change) if change.timestamp().as_second() <= shown => {
                    from = change.timestamp().as_second();
                    offset = i64::from(change.offset().seconds());
                }
                _ => return Some(shown),
            }
        }
    }

    /// The hour or minute of the clock, cut where the offset changes.
    fn cut(&self, at: i64, unit: i64) -> Option<(i64, i64)> {
        let offset = self.offset(at)?;
        let start = (at + offset).div_euclid(unit) * unit - offset;
        let (mut from, mut to) = (start, start + unit);
        for change in self.zone.preceding(jiff_second(at + 1)?) {
            let second = change.timestamp().as_second();
            if second <= start {
                break;
            }
            if self.offset(second - 1)? != offset {
                from = second;
                break;
            }
        }
        for change in self.zone.following(jiff_second(at)?) {
            let second = change.timestamp().as_second();
            if second >= start + unit {
                break;
            }
            if i64::from(change.offset().seconds()) != offset {
                to = second;
                break;
            }
        }
        Some((from, to))
    }

    fn offset(&self, second: i64) -> Option<i64> {
        Some(i64::from(self.zone.to_offset(jiff_second(second)?).seconds()))
    }
}

/// The second that holds an instant, if calendars reach from well before it to well after.
fn calendar_second(at: Timestamp) -> Option<i64> {
    let second = at.as_micros().div_euclid(SECOND_MICROS);
    jiff_second(second - 3 * DAY_S)?;
    jiff_second(second + 3 * DAY_S)?;
    Some(second)
}

fn jiff_second(second: i64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(second).ok()
}

impl PartialEq for TimeZoneName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for TimeZoneName {}

impl fmt::Display for TimeZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TimeZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl FromStr for TimeZoneName {
    type Err = RateError;
    fn from_str(name: &str) -> Result<Self, RateError> {
        TimeZoneName::new(name)
    }
}

impl TryFrom<String> for TimeZoneName {
    type Error = RateError;
    fn try_from(name: String) -> Result<Self, RateError> {
        TimeZoneName::new(name)
    }
}

impl From<TimeZoneName> for String {
    fn from(name: TimeZoneName) -> String {
        name.as_str().to_owned()
    }
}
