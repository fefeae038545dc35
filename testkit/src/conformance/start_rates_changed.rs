//! Rates that change while they hold jobs back: raised, lowered, of another window, taken away, given for the first time.
//! What was started before counts under the new rate as far as it is remembered.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) start_rates_changed, __conformance_start_rates_changed:
    a_raised_rate_lets_more_start_at_once,
    a_lowered_rate_lets_nothing_start_until_enough_has_passed,
    a_rate_taken_away_holds_nothing_back,
    a_rate_given_later_counts_from_then_on,
    a_shorter_window_forgets_sooner,
    a_longer_window_counts_what_is_still_remembered,
    what_a_rate_forgot_does_not_come_back,
    a_sliding_rate_made_a_calendars_keeps_its_count,
    the_own_rate_goes_over_the_class_and_that_over_every,
    a_lane_without_a_rate_counts_for_its_class_and_queue_all_the_same,
    a_class_that_gets_a_total_parks_its_lanes,
    every_handle_follows_a_rate_at_its_next_claim,
}

/// Whose rate it is.
const WHOSE: [&str; 4] = ["queue", "class", "lane", "every lane"];

async fn set_rate(t: &Scene, whose: &str, rate: Option<&Rate>) {
    let limits = rate.map(per).unwrap_or_default();
    let policy = rate.map(starts).unwrap_or_default();
    match whose {
        "queue" => set_limits(t, limits).await,
        "class" => set_total(t, "c", limits).await,
        "lane" => set_lane(t, "c/a", policy).await,
        _ => t.configure(|config| config.lanes.every = policy).await,
    }
}

async fn a_raised_rate_lets_more_start_at_once(t: &mut Scene) {
    for whose in WHOSE {
        t.queue = queue_name(whose);
        set_rate(t, whose, Some(&Rate::per_minute(2))).await;
        put_in(t, "c/a", 9).await;
        assert_eq!(start_all(t).await, (2, Some(MINUTE)), "{whose}");
        set_rate(t, whose, Some(&Rate::per_minute(5))).await;
        assert_eq!(start_all(t).await, (3, Some(MINUTE)), "{whose}");
    }
}

async fn a_lowered_rate_lets_nothing_start_until_enough_has_passed(t: &mut Scene) {
    for whose in WHOSE {
        t.queue = queue_name(whose);
        set_rate(t, whose, Some(&Rate::per_minute(3))).await;
        put_in(t, "c/a", 9).await;
        for _ in 0..3 {
            complete(t, &t.claim(1).await).await;
            t.advance(10 * SECOND);
        }
        set_rate(t, whose, Some(&Rate::per_minute(2))).await;
        assert_eq!(start_all(t).await, (0, Some(40 * SECOND)), "{whose}: two of the three must have passed");
        t.advance(30 * SECOND);
        assert_eq!(start_all(t).await, (0, Some(10 * SECOND)), "{whose}");
        t.advance(10 * SECOND);
        assert_eq!(start_all(t).await, (1, Some(10 * SECOND)), "{whose}");
    }
}

async fn a_rate_taken_away_holds_nothing_back(t: &mut Scene) {
    for whose in WHOSE {
        t.queue = queue_name(whose);
        set_rate(t, whose, Some(&Rate::per_day(1))).await;
        put_in(t, "c/a", 9).await;
        assert_eq!(start_all(t).await, (1, Some(DAY)), "{whose}");
        set_rate(t, whose, None).await;
        assert_eq!(start_all(t).await, (8, None), "{whose}");
    }
    t.queue = queue_name("own");
    set_lane(t, "c/a", starts(&Rate::per_day(1))).await;
    put_in(t, "c/a", 9).await;
    assert_eq!(start_all(t).await.0, 1);
    clear_lane(t, "c/a").await;
    assert_eq!(start_all(t).await.0, 8);
}

async fn a_rate_given_later_counts_from_then_on(t: &mut Scene) {
    for whose in WHOSE {
        t.queue = queue_name(whose);
        put_in(t, "c/a", 20).await;
        complete(t, &t.claim(10).await).await;
        set_rate(t, whose, Some(&Rate::per_minute(3))).await;
        assert_eq!(start_all(t).await, (3, Some(MINUTE)), "{whose}: nobody counted what came before");
    }
}

async fn a_shorter_window_forgets_sooner(t: &mut Scene) {
    for whose in WHOSE {
        t.queue = queue_name(whose);
        set_rate(t, whose, Some(&Rate::per_hour(3))).await;
        put_in(t, "c/a", 9).await;
        assert_eq!(start_all(t).await, (3, Some(HOUR)), "{whose}");
        t.advance(30 * SECOND);
        set_rate(t, whose, Some(&Rate::per_minute(3))).await;
        assert_eq!(start_all(t).await, (0, Some(30 * SECOND)), "{whose}");
        t.advance(30 * SECOND);
        assert_eq!(start_all(t).await, (3, Some(MINUTE)), "{whose}");
    }
}

async fn a_longer_window_counts_what_is_still_remembered(t: &mut Scene) {
    for whose in WHOSE {
        t.queue = queue_name(whose);
        set_rate(t, whose, Some(&Rate::per_minute(2))).await;
        put_in(t, "c/a", 9).await;
        assert_eq!(start_all(t).await, (2, Some(MINUTE)), "{whose}");
        t.advance(30 * SECOND);
        set_rate(t, whose, Some(&Rate::per_hour(3))).await;
        assert_eq!(start_all(t).await, (1, Some(HOUR - 30 * SECOND)), "{whose}");
    }
}

async fn what_a_rate_forgot_does_not_come_back(t: &mut Scene) {
    for whose in WHOSE {
        t.queue = queue_name(whose);
        set_rate(t, whose, Some(&Rate::per_minute(2))).await;
        put_in(t, "c/a", 9).await;
        assert_eq!(start_all(t).await, (2, Some(MINUTE)), "{whose}");
        t.advance(MINUTE);
        set_rate(t, whose, Some(&Rate::per_hour(3))).await;
        assert_eq!(start_all(t).await, (3, Some(HOUR)), "{whose}");
    }
}

async fn a_sliding_rate_made_a_calendars_keeps_its_count(t: &mut Scene) {
    set_clock(t, "2026-05-05T10:00:00Z");
    for whose in WHOSE {
        t.queue = queue_name(whose);
        set_rate(t, whose, Some(&Rate::per_day(5))).await;
        put_in(t, "c/a", 30).await;
        assert_eq!(start_all(t).await.0, 5, "{whose}");
        let daily = Rate::per_day(7).in_zone("UTC").expect("a zone");
        set_rate(t, whose, Some(&daily)).await;
        let (count, again) = start_all(t).await;
        assert_eq!(count, 2, "{whose}");
        t.advance(again.expect("midnight"));
        assert_eq!(start_all(t).await, (7, Some(DAY)), "{whose}");
        set_rate(t, whose, Some(&Rate::per_day(8))).await;
        assert_eq!(start_all(t).await, (1, Some(DAY)), "{whose}: those of the day before are forgotten");
        t.advance(10 * HOUR);
    }
}

async fn the_own_rate_goes_over_the_class_and_that_over_every(t: &mut Scene) {
    t.configure(|config| {
        config.lanes.every = starts(&Rate::per_minute(1));
        config.lanes.classes.entry(class("c")).or_default().each = starts(&Rate::per_minute(2));
    })
    .await;
    set_lane(t, "c/own", starts(&Rate::per_minute(3))).await;
    set_lane(t, "c/slots", slots(50)).await;
    set_lane(t, "c/free", LanePolicy { rate: Say::Unlimited, ..LanePolicy::default() }).await;
    for name in ["plain", "c/none", "c/own", "c/slots", "c/free"] {
        put_in(t, name, 5).await;
    }
    let expected = [("c/free", 5), ("c/none", 2), ("c/own", 3), ("c/slots", 2), ("plain", 1)];
    assert_eq!(by_lane(&t.claim(100).await), counts(expected));
}

async fn a_lane_without_a_rate_counts_for_its_class_and_queue_all_the_same(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(7))).await;
    set_total(t, "c", per(&Rate::per_minute(4))).await;
    set_lane(t, "c/free", LanePolicy { rate: Say::Unlimited, ..LanePolicy::default() }).await;
    for name in ["c/free", "c/other", "plain"] {
        put_in(t, name, 9).await;
    }
    assert_eq!(by_lane(&t.claim(100).await), counts([("c/free", 4), ("plain", 3)]));
}

async fn a_class_that_gets_a_total_parks_its_lanes(t: &mut Scene) {
    for n in 0..3 {
        put_in(t, &format!("c/{n}"), 4).await;
    }
    assert_eq!(t.claim(2).await.len(), 2);
    set_total(t, "c", per(&Rate::per_minute(5))).await;
    assert_eq!(start_all(t).await, (5, Some(MINUTE)));
    set_total(t, "c", per(&Rate::per_minute(6))).await;
    assert_eq!(start_all(t).await, (1, Some(MINUTE)));
    set_total(t, "c", StartLimits { concurrency: Some(3), rate: None }).await;
    assert_eq!(t.claim(100).await.len(), 1, "two are Active from the beginning");
}

async fn every_handle_follows_a_rate_at_its_next_claim(t: &mut Scene) {
    let second = t.storage().second_handle().await.expect("a second handle");
    put_in(t, "c/a", 12).await;
    let claim = async |handle: &dyn Storage| handle.claim(None, &t.queue, t.asking(2)).await.expect("claim").claims.len();
    assert_eq!((claim(t.storage()).await, claim(second.as_ref()).await), (2, 2));
    set_rate(t, "queue", Some(&Rate::per_minute(3))).await;
    assert_eq!((claim(second.as_ref()).await, claim(t.storage()).await), (2, 1));
    let mut config = second.config(&t.queue).await.expect("config");
    config.limits = per(&Rate::per_minute(5));
    second.configure(&t.queue, config).await.expect("configure");
    assert_eq!((claim(t.storage()).await, claim(second.as_ref()).await), (2, 0));
    set_rate(t, "queue", None).await;
    assert_eq!((claim(second.as_ref()).await, claim(t.storage()).await), (2, 1));
    second.close().await;
}
