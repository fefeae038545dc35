//! The policy by example: what is free when, what a change of rate or clock does, and the calendar where it is odd.

use super::*;

const S: fn(i64) -> Timestamp = |second| Timestamp::from_micros(second * 1_000_000);

fn zone(name: &str) -> TimeZoneName {
    TimeZoneName::new(name).expect(name)
}

fn utc(text: &str) -> Timestamp {
    humantime::parse_rfc3339(text).expect(text).into()
}

#[test]
fn a_sliding_limit_frees_each_start_when_its_own_window_has_passed() {
    let bound = Rate::sliding(3, Duration::from_secs(10)).bound_at(S(0));
    let mut state = RateState::default();
    for second in [0, 4, 5] {
        assert!(state.free(&bound, S(second)) > 0);
        state.take(&bound, S(second), 1);
    }
    assert_eq!(state.free(&bound, S(6)), 0);
    assert_eq!([1, 2, 3].map(|n| state.retry_at(&bound, S(6), n)), [S(10), S(14), S(15)]);
    assert_eq!(state.retry_at(&bound, S(6), 4), Timestamp::MAX);
    assert_eq!(state.free(&bound, S(10).before(Duration::from_micros(1))), 0);
    assert_eq!((state.free(&bound, S(10)), state.free(&bound, S(14)), state.free(&bound, S(15))), (1, 2, 3));
    assert!(!state.is_idle(&bound, S(14)) && state.is_idle(&bound, S(15)));
    assert_eq!(state.idle_at(&bound), Some(S(15)));
}

#[test]
fn what_is_remembered_stays_small_however_large_the_limit() {
    for limit in [100, 101, 1_000, 1_000_000, u32::MAX] {
        let bound = Rate::per_hour(limit).bound_at(S(0));
        let mut state = RateState::default();
        for micros in 0..5_000 {
            let now = Timestamp::from_micros(micros);
            let n = (limit / 3_000).max(1).min(state.free(&bound, now));
            state.take(&bound, now, n);
            assert!(state.groups() <= 101, "{} groups for a limit of {limit}", state.groups());
        }
    }
}

#[test]
fn what_is_remembered_stays_small_however_often_the_rate_changes() {
    let mut state = RateState::default();
    for step in 0..2_000 {
        let bound = Rate::per_hour(if step % 2 == 0 { 10 } else { 10 + step * 100 }).bound_at(S(0));
        let now = S(i64::from(step));
        let before: u32 = state.used(&bound, now);
        state.take(&bound, now, state.free(&bound, now).min(step));
        assert!(state.groups() <= 128 && state.used(&bound, now) >= before);
    }
}

#[test]
fn a_changed_rate_applies_to_what_is_remembered() {
    let mut state = RateState::default();
    let at = |rate: Rate, now| rate.bound_at(now);
    state.take(&at(Rate::per_minute(10), S(0)), S(0), 5);
    state.take(&at(Rate::per_minute(10), S(30)), S(30), 5);
    assert_eq!(state.free(&at(Rate::per_minute(12), S(30)), S(30)), 2);
    assert_eq!(state.free(&at(Rate::per_minute(7), S(30)), S(30)), 0);
    assert_eq!(state.retry_at(&at(Rate::per_minute(7), S(30)), S(30), 1), S(60));
    assert_eq!(state.free(&at(Rate::sliding(10, Duration::from_secs(20)), S(30)), S(30)), 5);
    let daily = Rate::per_day(20).in_zone("UTC").expect("a zone");
    assert_eq!(state.free(&at(daily, S(40)), S(40)), 10);
}

#[test]
fn starts_of_a_time_that_a_clock_gave_up_count_as_of_now() {
    let bound = Rate::per_minute(4).bound_at(S(0));
    let mut state = RateState::default();
    state.take(&bound, S(990), 1);
    state.take(&bound, S(1_000_000), 3);
    assert_eq!(state.time(S(999_990)), (S(1_000_000), false), "a clock that lags a little is waited for");
    assert_eq!(state.free(&bound, S(1_000)), 1);
    assert_eq!(state.time(S(1_000)), (S(1_000), true));
    assert_eq!(state.retry_at(&bound, S(1_000), 4), S(1_060), "and not as of a time far ahead");
}

#[test]
fn a_calendar_limit_begins_anew_with_each_window() {
    let rate = Rate::per_day(3).in_zone("America/New_York").expect("a zone");
    let evening = utc("2026-11-21T04:59:59Z");
    let mut state = RateState::default();
    state.take(&rate.bound_at(evening), evening, 2);
    let bound = rate.bound_at(evening);
    assert_eq!(state.free(&bound, evening), 1);
    let midnight = utc("2026-11-21T05:00:00Z");
    assert_eq!(state.retry_at(&bound, evening, 2), midnight);
    assert!(!bound.covers(midnight));
    assert_eq!(state.free(&rate.bound_at(midnight), midnight), 3);
}

#[test]
fn a_state_survives_both_of_its_forms() {
    let bound = Rate::per_minute(10).bound_at(S(0));
    let mut state = RateState::default();
    state.take(&bound, Timestamp::from_micros(-5), 1);
    state.take(&bound, S(7), 4_000_000_000);
    assert_eq!(RateState::from_bytes(&state.to_bytes()), Ok(state.clone()));
    let json = serde_json::to_string(&state).expect("json");
    assert_eq!(serde_json::from_str::<RateState>(&json).expect("a state"), state);
    assert!(RateState::from_bytes(&[0; 13]).is_err());
}

#[test]
fn a_rate_is_checked_wherever_it_comes_from() {
    assert_eq!(Rate::per_second(0).check(), Err(RateError::NothingAllowed));
    let short = Duration::from_micros(999);
    assert_eq!(Rate::sliding(1, short).check(), Err(RateError::TooShort(short)));
    assert_eq!(Rate::per_second(1).in_zone("UTC"), Err(RateError::NoSuchUnit(Duration::from_secs(1))));
    for unknown in ["America/New_Yrok", "", "Etc/Unknown"] {
        assert_eq!(Rate::per_day(1).in_zone(unknown), Err(RateError::NoSuchZone(unknown.to_owned())));
    }
    for rate in [Rate::per_hour(7), Rate::per_hour(7).in_zone("europe/berlin").expect("a zone")] {
        let json = serde_json::to_string(&rate).expect("json");
        assert_eq!(serde_json::from_str::<Rate>(&json).expect(&json), rate);
    }
    let zoned = Rate::per_day(50).in_zone("america/new_york").expect("a zone").to_string();
    assert_eq!(zoned, "50 per day in America/New_York");
    assert!(serde_json::from_str::<Rate>(r#"{"limit":0,"per":{"sliding":1000000}}"#).is_err());
    assert!(serde_json::from_str::<Rate>(r#"{"limit":1,"per":{"calendar":{"unit":"day","zone":"Moon"}}}"#).is_err());
}

/// Each case: zone, unit, an instant, and the window that holds it.
#[test]
fn windows_of_the_calendar_are_right_where_clocks_change() {
    use CalendarUnit::{Day, Hour, Minute};
    let cases = [
        ("UTC", Day, "2026-11-21T04:00:00.5Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
        // 23 hours, 25 hours.
        ("America/New_York", Day, "2026-03-08T12:00:00Z", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
        ("America/New_York", Day, "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        // 01:30 comes twice: two windows.
        ("America/New_York", Hour, "2026-11-01T05:30:00Z", "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"),
        ("America/New_York", Hour, "2026-11-01T06:30:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"),
        ("America/New_York", Minute, "2026-11-01T05:59:30Z", "2026-11-01T05:59:00Z", "2026-11-01T06:00:00Z"),
        // By half an hour: 02:00 becomes 01:30 in April, 02:00 becomes 02:30 in October.
        ("Australia/Lord_Howe", Day, "2026-04-05T00:00:00Z", "2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z"),
        ("Australia/Lord_Howe", Hour, "2026-04-04T14:10:00Z", "2026-04-04T14:00:00Z", "2026-04-04T15:00:00Z"),
        ("Australia/Lord_Howe", Hour, "2026-04-04T15:10:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"),
        ("Australia/Lord_Howe", Hour, "2026-10-03T15:10:00Z", "2026-10-03T14:30:00Z", "2026-10-03T15:30:00Z"),
        ("Australia/Lord_Howe", Hour, "2026-10-03T15:40:00Z", "2026-10-03T15:30:00Z", "2026-10-03T16:00:00Z"),
        // No midnight: 00:00 becomes 01:00. And midnight twice: 01:00 becomes 00:00.
        ("America/Havana", Day, "2026-03-08T12:00:00Z", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
        ("America/Havana", Day, "2026-03-08T04:59:59Z", "2026-03-07T05:00:00Z", "2026-03-08T05:00:00Z"),
        ("America/Havana", Day, "2026-11-01T05:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ("America/Havana", Hour, "2026-11-01T04:30:00Z", "2026-11-01T04:00:00Z", "2026-11-01T05:00:00Z"),
        // 00:01 becomes 23:01 of the day before: the new day has begun, and goes on.
        ("America/St_Johns", Day, "2006-10-29T02:30:30Z", "2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"),
        ("America/St_Johns", Day, "2006-10-29T03:00:00Z", "2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"),
        // A day that did not happen.
        ("Pacific/Apia", Day, "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
        ("Pacific/Apia", Day, "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
        ("Asia/Kathmandu", Hour, "2026-01-01T00:00:00Z", "2025-12-31T23:15:00Z", "2026-01-01T00:15:00Z"),
    ];
    for (name, unit, at, start, end) in cases {
        let window = zone(name).window(unit, utc(at));
        assert_eq!(window, Window { start: utc(start), end: utc(end) }, "the {unit} of {at} in {name}");
    }
}

#[test]
fn windows_of_the_calendar_follow_one_another_without_gaps() {
    let names = [
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Havana",
        "America/St_Johns",
        "Africa/Casablanca",
        "Asia/Beirut",
        "Antarctica/Troll",
        "Pacific/Apia",
    ];
    let units = [(CalendarUnit::Hour, 24 * 400), (CalendarUnit::Day, 365 * 30), (CalendarUnit::Minute, 3_000)];
    for name in names {
        let zone = zone(name);
        for (unit, many) in units {
            let mut window = zone.window(unit, utc("2005-10-28T00:00:00Z"));
            for _ in 0..many {
                assert!(window.start < window.end, "{window:?}");
                let last = window.end.before(Duration::from_micros(1));
                assert_eq!(zone.window(unit, last), window, "the {unit} of {last} in {name}");
                let next = zone.window(unit, window.end);
                assert_eq!(next.start, window.end, "the {unit} after {last} in {name}");
                window = next;
            }
        }
    }
}

#[test]
fn no_window_of_the_calendar_is_longer_than_two_days() {
    for (name, date) in [("America/Sitka", "1867-10-18"), ("Pacific/Kwajalein", "1969-09-30")] {
        let window = zone(name).window(CalendarUnit::Day, utc("1970-01-01T00:00:00Z"));
        assert_eq!(window.end.since(window.start), Duration::from_secs(24 * 3600));
        let noon = date.parse::<jiff::civil::Date>().expect(date).at(12, 0, 0, 0).to_zoned(jiff::tz::TimeZone::UTC);
        let noon = Timestamp::from_micros(noon.expect(date).timestamp().as_microsecond());
        let window = zone(name).window(CalendarUnit::Day, noon);
        let length = window.end.since(window.start);
        assert!(length > Duration::from_secs(40 * 3600) && length <= CALENDAR_WINDOW_MAX, "{length:?} in {name}");
    }
}

#[test]
fn a_time_that_no_calendar_knows_has_a_window_all_the_same() {
    let zone = zone("Europe/Berlin");
    for at in [Timestamp::from_micros(i64::MIN), Timestamp::MAX.before(Duration::from_micros(1))] {
        assert!(zone.window(CalendarUnit::Day, at).contains(at));
    }
}

/// Found by the property: a look that took nothing forgot what was just old enough; then the clock lagged by a
/// microsecond, as it may, and one start too many fitted in.
#[test]
fn taking_nothing_forgets_nothing() {
    let bound = Rate::sliding(1, Duration::from_secs(10)).bound_at(S(0));
    let mut state = RateState::default();
    state.take(&bound, S(0), 1);
    state.take(&bound, S(10), 0);
    let (now, _) = state.time(S(10).before(Duration::from_micros(1)));
    assert_eq!(state.free(&bound, now), 0);
}
