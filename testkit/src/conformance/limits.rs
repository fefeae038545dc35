//! Limiters that callers ask themselves: what they give, when, and once.

use ferroq_core::clock::LAG_MAX;
use ferroq_core::job::LimiterName;
use ferroq_core::policy::rate::Rate;

use super::prelude::*;
use crate::invariants::limits::check_rate;

topic! {
    ($) limits, __conformance_limits:
    a_limiter_gives_up_to_its_limit_and_says_what_remains,
    a_limiter_gives_all_or_nothing,
    a_permit_comes_back_exactly_when_its_window_has_passed,
    a_refusal_says_when_to_come_back_and_that_is_true,
    a_question_that_makes_no_sense_is_refused,
    limiters_know_nothing_of_each_other,
    a_peek_takes_nothing,
    a_reset_forgets_all,
    permits_given_are_given_once,
    a_refusal_is_decided_anew,
    a_call_of_another_number_takes_more,
    a_limit_of_thousands_is_kept_and_used,
    a_changed_rate_applies_to_what_was_given,
    a_day_begins_at_midnight_in_its_zone,
    a_day_of_23_hours_ends_on_time,
    an_hour_that_comes_twice_is_two_windows,
    a_minute_of_the_calendar_begins_on_the_minute,
    callers_in_different_zones_share_what_was_given,
    a_small_lag_of_the_clock_gives_nothing_back,
    a_step_back_counts_what_came_later_as_of_now,
    a_long_idle_limiter_is_as_new,
    a_limiter_outlives_the_handle_where_the_store_does,
    a_second_handle_shares_the_limiters,
    callers_at_once_get_no_more_than_the_limit,
    a_closed_handle_gives_nothing,
}

fn limiter(name: &str) -> LimiterName {
    LimiterName::new(name).expect("a limiter name that follows the rule for names")
}

fn asking(rate: &Rate, permits: u32) -> AcquireRequest {
    AcquireRequest { call: None, limiter: limiter("limiter"), rate: rate.clone(), permits }
}

async fn acquire(t: &Scene, rate: &Rate, permits: u32) -> AcquireAnswer {
    t.storage().acquire(asking(rate, permits)).await.expect("acquire")
}

async fn acquire_as(t: &Scene, call: CallId, rate: &Rate, permits: u32) -> AcquireAnswer {
    t.storage().acquire(AcquireRequest { call: Some(call), ..asking(rate, permits) }).await.expect("acquire")
}

async fn peek(t: &Scene, rate: &Rate, permits: u32) -> AcquireAnswer {
    t.storage().peek(&limiter("limiter"), rate, permits).await.expect("peek")
}

fn granted(remaining: u32) -> AcquireAnswer {
    AcquireAnswer { granted: true, remaining, retry_after: None }
}

fn refused(remaining: u32, retry_after: Duration) -> AcquireAnswer {
    AcquireAnswer { granted: false, remaining, retry_after: Some(retry_after) }
}

async fn a_limiter_gives_up_to_its_limit_and_says_what_remains(t: &mut Scene) {
    let rate = Rate::per_minute(3);
    assert_eq!(acquire(t, &rate, 1).await, granted(2));
    assert_eq!(acquire(t, &rate, 2).await, granted(0));
    assert_eq!(acquire(t, &rate, 1).await, refused(0, MINUTE));
}

async fn a_limiter_gives_all_or_nothing(t: &mut Scene) {
    let rate = Rate::per_minute(5);
    assert_eq!(acquire(t, &rate, 3).await, granted(2));
    assert_eq!(acquire(t, &rate, 3).await, refused(2, MINUTE));
    assert_eq!(acquire(t, &rate, 2).await, granted(0), "the refusal took none");
}

async fn a_permit_comes_back_exactly_when_its_window_has_passed(t: &mut Scene) {
    let rate = Rate::sliding(2, 10 * SECOND);
    let (micro, ten) = (Duration::from_micros(1), 10 * SECOND);
    assert_eq!(acquire(t, &rate, 1).await, granted(1));
    t.advance(4 * SECOND);
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
    t.advance(6 * SECOND - micro);
    assert_eq!(acquire(t, &rate, 1).await, refused(0, micro));
    t.advance(micro);
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
    assert_eq!(acquire(t, &rate, 2).await, refused(0, ten));
    t.advance(4 * SECOND);
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
}

async fn a_refusal_says_when_to_come_back_and_that_is_true(t: &mut Scene) {
    let rate = Rate::sliding(4, MINUTE);
    for _ in 0..4 {
        assert!(acquire(t, &rate, 1).await.granted);
        t.advance(7 * SECOND);
    }
    for permits in 1..=4 {
        let wait = peek(t, &rate, permits).await.retry_after.expect("a refusal");
        assert_eq!(wait, (32 + 7 * (permits - 1)) * SECOND);
    }
    t.advance(46 * SECOND);
    assert_eq!(acquire(t, &rate, 3).await, granted(0));
}

async fn a_question_that_makes_no_sense_is_refused(t: &mut Scene) {
    let cases = [
        (Rate::per_minute(0), 1, "let nothing start"),
        (Rate::sliding(1, Duration::from_micros(10)), 1, "too short"),
        (Rate::per_minute(5), 0, "0 permits"),
        (Rate::per_minute(5), 6, "its limit is 5"),
    ];
    for (rate, permits, why) in cases {
        let error = t.storage().acquire(asking(&rate, permits)).await.expect_err(why);
        assert_eq!((error.code(), error.effect()), (ErrorCode::Invalid, Effect::None));
        assert!(error.to_string().contains(why), "{error}");
        let error = t.storage().peek(&limiter("limiter"), &rate, permits).await.expect_err(why);
        assert!(error.code() == ErrorCode::Invalid && error.to_string().contains(why), "{error}");
    }
    assert_eq!(peek(t, &Rate::per_minute(5), 1).await, granted(5), "nothing was taken");
}

async fn limiters_know_nothing_of_each_other(t: &mut Scene) {
    let rate = Rate::per_minute(1);
    for name in ["a", "b:", "signup:203.0.113.7", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "a b"] {
        let request = AcquireRequest { limiter: limiter(name), ..asking(&rate, 1) };
        assert_eq!(t.storage().acquire(request.clone()).await.expect("acquire"), granted(0));
        assert!(!t.storage().acquire(request).await.expect("acquire").granted);
    }
    assert_eq!(t.storage().queues().await.expect("queues"), [], "a limiter makes no queue");
}

async fn a_peek_takes_nothing(t: &mut Scene) {
    let rate = Rate::per_minute(3);
    for _ in 0..5 {
        assert_eq!(peek(t, &rate, 3).await, granted(3));
    }
    acquire(t, &rate, 2).await;
    assert_eq!(peek(t, &rate, 1).await, granted(1));
    assert_eq!(peek(t, &rate, 2).await, refused(1, MINUTE));
}

async fn a_reset_forgets_all(t: &mut Scene) {
    let rate = Rate::per_minute(1);
    t.storage().reset(&limiter("limiter")).await.expect("a reset of one that is not there");
    acquire(t, &rate, 1).await;
    t.storage().reset(&limiter("limiter")).await.expect("reset");
    t.storage().reset(&limiter("limiter")).await.expect("reset again");
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
}

async fn permits_given_are_given_once(t: &mut Scene) {
    let rate = Rate::per_minute(5);
    let call = t.call();
    let first = acquire_as(t, call, &rate, 2).await;
    assert_eq!(first, granted(3));
    let between = t.call();
    assert_eq!(acquire_as(t, CallId { acknowledged_below: 0, ..between }, &rate, 1).await, granted(2));
    t.advance(SECOND);
    for _ in 0..3 {
        assert_eq!(acquire_as(t, call, &rate, 2).await, first, "as it was answered then");
    }
    assert_eq!(peek(t, &rate, 1).await, granted(2));
}

async fn a_refusal_is_decided_anew(t: &mut Scene) {
    let rate = Rate::per_minute(1);
    acquire(t, &rate, 1).await;
    let call = t.call();
    assert_eq!(acquire_as(t, call, &rate, 1).await, refused(0, MINUTE));
    t.advance(SECOND);
    assert_eq!(acquire_as(t, call, &rate, 1).await, refused(0, MINUTE - SECOND));
    t.advance(MINUTE);
    assert_eq!(acquire_as(t, call, &rate, 1).await, granted(0));
    assert_eq!(acquire_as(t, call, &rate, 1).await, granted(0), "that was a repeat");
    assert!(!peek(t, &rate, 1).await.granted);
}

async fn a_call_of_another_number_takes_more(t: &mut Scene) {
    let rate = Rate::per_minute(3);
    for remaining in [2, 1, 0] {
        let call = t.call();
        assert_eq!(acquire_as(t, call, &rate, 1).await, granted(remaining));
    }
}

/// Limits above 100 are remembered in groups, which must neither let too many through nor leave much unused.
async fn a_limit_of_thousands_is_kept_and_used(t: &mut Scene) {
    let rate = Rate::sliding(2_000, 10 * SECOND);
    let mut given = Vec::new();
    for step in 0..600_u32 {
        let many = (1 + step % 37).min(peek(t, &rate, 1).await.remaining);
        if many > 0 {
            let answer = acquire(t, &rate, many).await;
            assert!(answer.granted, "{answer:?} for {many}");
            let now = t.clock();
            given.extend((0..many).map(|_| now));
        }
        t.advance(Duration::from_millis(u64::from(40 + step % 20)));
    }
    assert_eq!(check_rate(&rate, given.iter().copied()), Ok(()));
    let wait = peek(t, &rate, 2_000).await.retry_after.expect("it is in use");
    t.advance(wait);
    assert_eq!(acquire(t, &rate, 2_000).await, granted(0));
}

async fn a_changed_rate_applies_to_what_was_given(t: &mut Scene) {
    assert_eq!(acquire(t, &Rate::per_minute(10), 6).await, granted(4));
    t.advance(30 * SECOND);
    assert_eq!(acquire(t, &Rate::per_minute(10), 2).await, granted(2));
    assert_eq!(acquire(t, &Rate::per_minute(9), 1).await, granted(0));
    assert_eq!(acquire(t, &Rate::per_minute(5), 1).await, refused(0, 30 * SECOND));
    assert_eq!(acquire(t, &Rate::sliding(5, 20 * SECOND), 1).await, granted(1), "three are of the last 20 s");
    let daily = Rate::per_day(20).in_zone("UTC").expect("a zone");
    assert_eq!(peek(t, &daily, 1).await, granted(16), "what a shorter window forgot does not come back");
}

async fn a_day_begins_at_midnight_in_its_zone(t: &mut Scene) {
    let rate = Rate::per_day(2).in_zone("America/New_York").expect("a zone");
    set_clock(t, "2026-11-21T04:59:58Z");
    assert_eq!(acquire(t, &rate, 2).await, granted(0));
    assert_eq!(acquire(t, &rate, 1).await, refused(0, 2 * SECOND));
    t.advance(2 * SECOND);
    assert_eq!(acquire(t, &rate, 2).await, granted(0));
    assert_eq!(acquire(t, &rate, 1).await, refused(0, DAY));
}

async fn a_day_of_23_hours_ends_on_time(t: &mut Scene) {
    let rate = Rate::per_day(1).in_zone("America/New_York").expect("a zone");
    set_clock(t, "2026-03-08T05:00:00Z");
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
    assert_eq!(acquire(t, &rate, 1).await, refused(0, 23 * HOUR));
    t.advance(23 * HOUR);
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
    assert_eq!(acquire(t, &rate, 1).await, refused(0, DAY));
}

async fn an_hour_that_comes_twice_is_two_windows(t: &mut Scene) {
    let rate = Rate::per_hour(1).in_zone("America/New_York").expect("a zone");
    set_clock(t, "2026-11-01T05:30:00Z");
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
    assert_eq!(acquire(t, &rate, 1).await, refused(0, 30 * MINUTE));
    t.advance(30 * MINUTE);
    assert_eq!(acquire(t, &rate, 1).await, granted(0), "01:00 for the second time");
    assert_eq!(acquire(t, &rate, 1).await, refused(0, HOUR));
}

async fn a_minute_of_the_calendar_begins_on_the_minute(t: &mut Scene) {
    let rate = Rate::per_minute(1).in_zone("Asia/Kathmandu").expect("a zone");
    set_clock(t, "2026-05-01T12:34:59.5Z");
    for _ in 0..2 {
        assert_eq!(acquire(t, &rate, 1).await, granted(0));
        t.advance(Duration::from_millis(500));
    }
}

async fn callers_in_different_zones_share_what_was_given(t: &mut Scene) {
    set_clock(t, "2026-07-01T12:00:00Z");
    let zones = ["UTC", "America/New_York", "Asia/Tokyo"];
    for (taken, zone) in (1..).zip(zones) {
        let rate = Rate::per_day(4).in_zone(zone).expect("a zone");
        assert_eq!(acquire(t, &rate, 1).await, granted(4 - taken));
    }
}

async fn a_small_lag_of_the_clock_gives_nothing_back(t: &mut Scene) {
    let rate = Rate::sliding(1, 10 * SECOND);
    acquire(t, &rate, 1).await;
    t.fixture.clock.step_back(59 * SECOND);
    assert_eq!(acquire(t, &rate, 1).await, refused(0, 10 * SECOND));
    t.advance(10 * SECOND);
    assert!(!acquire(t, &rate, 1).await.granted, "time stands until the clock has caught up");
    t.advance(59 * SECOND);
    assert_eq!(acquire(t, &rate, 1).await, granted(0));
}

async fn a_step_back_counts_what_came_later_as_of_now(t: &mut Scene) {
    let rate = Rate::per_minute(3);
    t.advance(TEN_YEARS);
    acquire(t, &rate, 2).await;
    t.fixture.clock.step_back(TEN_YEARS);
    assert_eq!(acquire(t, &rate, 2).await, refused(1, MINUTE));
    t.advance(30 * SECOND);
    assert_eq!(acquire(t, &rate, 2).await, refused(1, 30 * SECOND), "as of the first look after the step");
    t.advance(30 * SECOND);
    assert_eq!(acquire(t, &rate, 3).await, granted(0));
}

async fn a_long_idle_limiter_is_as_new(t: &mut Scene) {
    let second = Rate::per_second(5);
    let day = Rate::per_day(5);
    acquire(t, &second, 3).await;
    t.advance(LAG_MAX);
    assert_eq!(peek(t, &day, 1).await, granted(2), "it is still remembered");
    t.advance(SECOND);
    assert_eq!(peek(t, &day, 1).await, granted(5));
}

async fn a_limiter_outlives_the_handle_where_the_store_does(t: &mut Scene) {
    let rate = Rate::per_minute(3);
    acquire(t, &rate, 2).await;
    if t.fixture.reopen().await {
        assert_eq!(acquire(t, &rate, 2).await, refused(1, MINUTE));
    }
}

async fn a_second_handle_shares_the_limiters(t: &mut Scene) {
    let rate = Rate::per_minute(2);
    let second = t.storage().second_handle().await.expect("a second handle");
    assert_eq!(acquire(t, &rate, 1).await, granted(1));
    assert_eq!(second.acquire(asking(&rate, 1)).await.expect("acquire"), granted(0));
    assert!(!acquire(t, &rate, 1).await.granted);
    second.close().await;
}

async fn callers_at_once_get_no_more_than_the_limit(t: &mut Scene) {
    let rate = Rate::per_minute(20);
    let calls = (0..50).map(|_| t.storage().acquire(asking(&rate, 1)));
    let answers = futures::future::join_all(calls).await;
    let given = answers.into_iter().filter(|answer| answer.as_ref().is_ok_and(|answer| answer.granted)).count();
    assert_eq!(given, 20);
    assert_eq!(peek(t, &rate, 1).await.remaining, 0);
    t.advance(MINUTE);
    assert_eq!(acquire(t, &rate, 20).await, granted(0));
}

async fn a_closed_handle_gives_nothing(t: &mut Scene) {
    let second = t.storage().second_handle().await.expect("a second handle");
    second.close().await;
    let error = second.acquire(asking(&Rate::per_minute(1), 1)).await.expect_err("it is closed");
    assert_eq!(error.code(), ErrorCode::Closed);
    assert_eq!(peek(t, &Rate::per_minute(1), 1).await, granted(1));
}
