//! Rates of a queue, of a class and of lanes, held by claims: never a start too many, none later than it may be, and what a
//! limited job goes through meanwhile, which is nothing.

use std::collections::BTreeMap;

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) start_rates, __conformance_start_rates:
    twenty_a_minute_for_one_queue,
    a_start_is_possible_again_exactly_when_its_window_has_passed,
    ten_a_minute_for_each_user_and_operation,
    fifty_a_hundred_fifty_and_twenty_five_a_day_for_each_user_of_four_platforms,
    a_class_shares_its_rate,
    the_tightest_of_all_rates_counts,
    the_claim_tells_when_to_look_again,
    the_soonest_of_all_held_lanes_is_told,
    a_held_lane_blocks_no_other,
    a_held_job_is_left_as_it_was,
    every_run_is_a_start,
    what_is_looked_at_and_not_claimed_is_no_start,
    a_claim_repeated_takes_no_second_start,
    a_held_solo_job_says_when_to_look_again,
    a_day_of_23_hours_and_one_of_25_begin_at_midnight,
    an_hour_that_is_shown_twice_is_two_windows,
    a_calendar_limit_by_lane_opens_all_of_them_at_midnight,
    a_rate_and_a_concurrency_hold_together,
}

async fn twenty_a_minute_for_one_queue(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(20))).await;
    t.put_many(30).await;
    put_in(t, "a", 31).await;
    for _ in 0..3 {
        assert_eq!(start_all(t).await, (20, Some(MINUTE)));
        assert_eq!(start_all(t).await, (0, Some(MINUTE)));
        t.advance(MINUTE - MICRO);
        assert_eq!(start_all(t).await, (0, Some(MICRO)));
        t.advance(MICRO);
    }
    assert_eq!(start_all(t).await, (1, None), "and when all is done there is nothing to look for");
}

async fn a_start_is_possible_again_exactly_when_its_window_has_passed(t: &mut Scene) {
    for whose in ["queue", "class", "lane"] {
        t.queue = queue_name(whose);
        let rate = Rate::sliding(2, 10 * SECOND);
        match whose {
            "queue" => set_limits(t, per(&rate)).await,
            "class" => set_total(t, "c", per(&rate)).await,
            _ => set_lane(t, "c/a", starts(&rate)).await,
        }
        put_in(t, "c/a", 6).await;
        complete(t, &t.claim(1).await).await;
        t.advance(4 * SECOND);
        assert_eq!(start_all(t).await, (1, Some(6 * SECOND)), "{whose}");
        t.advance(6 * SECOND - MICRO);
        assert_eq!(start_all(t).await, (0, Some(MICRO)), "{whose}");
        t.advance(MICRO);
        assert_eq!(start_all(t).await, (1, Some(4 * SECOND)), "{whose}");
        t.advance(4 * SECOND);
        assert_eq!(start_all(t).await, (1, Some(6 * SECOND)), "{whose}");
        t.advance(HOUR);
        assert_eq!(start_all(t).await, (2, None), "{whose}: an hour is not saved up");
    }
}

async fn ten_a_minute_for_each_user_and_operation(t: &mut Scene) {
    t.configure(|config| config.lanes.every = starts(&Rate::per_minute(10))).await;
    let lanes = ["create/ada", "create/bob", "delete/ada"];
    for name in lanes {
        put_in(t, name, 15).await;
    }
    put_in(t, "delete/bob", 3).await;
    let claims = t.claim(1000).await;
    let expected = [("create/ada", 10), ("create/bob", 10), ("delete/ada", 10), ("delete/bob", 3)];
    assert_eq!(by_lane(&claims), counts(expected));
    t.advance(30 * SECOND);
    assert_eq!(start_all(t).await, (0, Some(30 * SECOND)));
    put_in(t, "delete/bob", 10).await;
    assert_eq!(start_all(t).await.0, 7);
    t.advance(30 * SECOND);
    let expected = [("create/ada", 5), ("create/bob", 5), ("delete/ada", 5), ("delete/bob", 3)];
    assert_eq!(by_lane(&t.claim(1000).await), counts(expected));
}

async fn fifty_a_hundred_fifty_and_twenty_five_a_day_for_each_user_of_four_platforms(t: &mut Scene) {
    const LIMITS: [(&str, u32); 4] = [("facebook", 50), ("linkedin", 100), ("threads", 50), ("x", 25)];
    // Eight hours before a day of 25.
    set_clock(t, "2026-10-31T20:00:00Z");
    t.configure(|config| {
        for (platform, limit) in LIMITS {
            let each = starts(&Rate::per_day(limit).in_zone("America/New_York").expect("a zone"));
            config.lanes.classes.insert(class(platform), ClassPolicy { each, ..ClassPolicy::default() });
        }
    })
    .await;
    for (platform, _) in LIMITS {
        for user in ["ada", "bob"] {
            put_in(t, &format!("{platform}/{user}"), 220).await;
        }
    }
    let a_day: BTreeMap<String, usize> = LIMITS
        .iter()
        .flat_map(|(platform, limit)| ["ada", "bob"].map(|user| (format!("{platform}/{user}"), *limit as usize)))
        .collect();
    for until_midnight in [8 * HOUR, 25 * HOUR] {
        let answer = t.claim_as(t.asking(1000)).await;
        assert_eq!(by_lane(&answer.claims), a_day);
        complete(t, &answer.claims).await;
        assert_eq!(start_all(t).await, (0, Some(until_midnight)));
        t.advance(until_midnight);
    }
    // A post that is put off costs its neighbours nothing.
    put_in(t, "mastodon/ada", 1).await;
    assert_eq!(by_lane(&t.claim(1000).await).get("mastodon/ada"), Some(&1));
}

async fn a_class_shares_its_rate(t: &mut Scene) {
    set_total(t, "c", per(&Rate::per_minute(5))).await;
    for name in ["c/1", "c/2", "c/3", "d"] {
        put_in(t, name, 3).await;
    }
    let answer = t.claim_as(t.asking(100)).await;
    assert_eq!(by_lane(&answer.claims), counts([("c/1", 3), ("c/2", 2), ("d", 3)]));
    assert_eq!((answer.more, answer.look_again), (false, Some(MINUTE)));
    t.advance(MINUTE);
    assert_eq!(by_lane(&t.claim(100).await), counts([("c/2", 1), ("c/3", 3)]));
}

async fn the_tightest_of_all_rates_counts(t: &mut Scene) {
    t.configure(|config| {
        config.limits = per(&Rate::per_minute(9));
        let policy = config.lanes.classes.entry(class("c")).or_default();
        (policy.each, policy.total) = (starts(&Rate::per_minute(2)), per(&Rate::per_minute(5)));
    })
    .await;
    for name in ["c/1", "c/2", "c/3", "d"] {
        put_in(t, name, 8).await;
    }
    let claims = t.claim(100).await;
    assert_eq!(by_lane(&claims), counts([("c/1", 2), ("c/2", 2), ("c/3", 1), ("d", 4)]));
    // Each start counted for all three: a minute later all of it is free again, and nothing more.
    t.advance(MINUTE);
    assert_eq!(t.claim(100).await.len(), 9);
}

async fn the_claim_tells_when_to_look_again(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(1))).await;
    t.put_many(2).await;
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!((answer.claims.len(), answer.more, answer.look_again), (1, false, Some(MINUTE)));
    t.put_one(t.spec().delay(10 * SECOND)).await;
    assert_eq!(t.claim_as(t.asking(1)).await.look_again, Some(10 * SECOND), "a due job must be promoted all the same");
    t.advance(20 * SECOND);
    assert_eq!(t.claim_as(t.asking(1)).await.look_again, Some(40 * SECOND));
    t.advance(40 * SECOND);
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (1, Some(MINUTE)));
}

async fn the_soonest_of_all_held_lanes_is_told(t: &mut Scene) {
    for (name, window) in [("a", MINUTE), ("b", HOUR), ("c", 10 * SECOND)] {
        set_lane(t, name, starts(&Rate::sliding(1, window))).await;
        put_in(t, name, 3).await;
    }
    assert_eq!(start_all(t).await, (3, Some(10 * SECOND)));
    t.advance(10 * SECOND);
    assert_eq!(start_all(t).await, (1, Some(10 * SECOND)));
    t.advance(10 * SECOND);
    assert_eq!(start_all(t).await, (1, Some(40 * SECOND)));
    t.advance(40 * SECOND);
    assert_eq!(start_all(t).await, (1, Some(MINUTE)));
}

async fn a_held_lane_blocks_no_other(t: &mut Scene) {
    set_lane(t, "a", starts(&Rate::per_hour(1))).await;
    put_in(t, "a", 500).await;
    put_in(t, "b", 3).await;
    t.put_many(2).await;
    assert_eq!(lanes_of(&t.claim(100).await), ["a", "b", "b", "b", "", ""]);
    put_in(t, "b", 1).await;
    assert_eq!(lanes_of(&t.claim(1).await), ["b"]);
}

async fn a_held_job_is_left_as_it_was(t: &mut Scene) {
    for whose in ["queue", "class", "lane"] {
        t.queue = queue_name(whose);
        let rate = Rate::per_minute(1);
        match whose {
            "queue" => set_limits(t, per(&rate)).await,
            "class" => set_total(t, "c", per(&rate)).await,
            _ => set_lane(t, "c/a", starts(&rate)).await,
        }
        let put = t.put([t.spec().lane("c/a"), t.spec().lane("c/a").attempts(1).crashes(2)]).await;
        start_all(t).await;
        let (before, seen) = (t.record(put[1]).await, t.last_event().await);
        for _ in 0..5 {
            t.advance(10 * SECOND);
            assert_eq!(t.claim(10).await, []);
            t.sweep(100).await;
        }
        assert_eq!(t.record(put[1]).await, before, "no run, no attempt, no move");
        assert_eq!(t.happened_after(seen).await, []);
        t.advance(10 * SECOND);
        let claim = t.claim_one().await;
        assert_eq!((claim.run, claim.attempts, claim.crashes), (1, 0, 0));
    }
}

async fn every_run_is_a_start(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(5))).await;
    t.put_many(2).await;
    for outcome in [released(), fail(Duration::ZERO), snoozed(Duration::ZERO)] {
        let claim = t.claim_one().await;
        t.settle(claim.lease, outcome).await;
    }
    t.claim_one().await;
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    assert_eq!(t.claim(10).await.len(), 1, "four were started in the last minute");
    t.advance(30 * SECOND);
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn what_is_looked_at_and_not_claimed_is_no_start(t: &mut Scene) {
    set_limits(t, per(&Rate::per_hour(2))).await;
    let put = t
        .put([
            t.spec().of_kind("other"),
            t.spec().expires_in(SECOND),
            t.spec(),
            t.spec(),
            t.spec().of_kind("other"),
            t.spec(),
        ])
        .await;
    t.advance(MINUTE);
    assert_eq!(ids(&t.claim(10).await), put[2..4]);
    assert_eq!(t.record(put[4]).await.slot, Slot::Lane, "nothing more is looked at");
}

async fn a_claim_repeated_takes_no_second_start(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(3))).await;
    let put = t.put_many(5).await;
    let call = t.call();
    for _ in 0..3 {
        let answer = t.exchange(Some(call), vec![], Some(t.asking(1))).await.claimed.expect("an answer");
        assert_eq!(ids(&answer.claims), put[..1]);
    }
    assert_eq!(ids(&t.claim(10).await), put[1..3]);
}

async fn a_held_solo_job_says_when_to_look_again(t: &mut Scene) {
    set_lane(t, "a", starts(&Rate::per_minute(1))).await;
    put_in(t, "a", 1).await;
    start_all(t).await;
    let held = t.put_one(t.spec().lane("a").crashes(1)).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.more, answer.look_again), (vec![], false, Some(MINUTE)));
    assert!(answer.solo_held && !answer.solo_waiting, "asking again is of no use before");
    t.advance(MINUTE);
    assert_eq!(ids(&t.claim(10).await), [held]);
    put_in(t, "a", 1).await;
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MINUTE), "it was a start like any other");
}

async fn a_day_of_23_hours_and_one_of_25_begin_at_midnight(t: &mut Scene) {
    set_clock(t, "2026-03-01T00:00:00Z");
    let rate = Rate::per_day(3).in_zone("America/New_York").expect("a zone");
    for whose in ["queue", "class", "lane"] {
        t.queue = queue_name(whose);
        match whose {
            "queue" => set_limits(t, per(&rate)).await,
            "class" => set_total(t, "c", per(&rate)).await,
            _ => set_lane(t, "c/a", starts(&rate)).await,
        }
    }
    for (midnight, day) in [("2026-03-08T05:00:00Z", 23 * HOUR), ("2026-11-01T04:00:00Z", 25 * HOUR)] {
        set_clock(t, midnight);
        for whose in ["queue", "class", "lane"] {
            t.queue = queue_name(whose);
            put_in(t, "c/a", 7).await;
            assert_eq!(start_all(t).await, (3, Some(day)), "{whose}");
        }
        t.advance(day - MICRO);
        for whose in ["queue", "class", "lane"] {
            t.queue = queue_name(whose);
            assert_eq!(start_all(t).await, (0, Some(MICRO)), "{whose}");
        }
        t.advance(MICRO);
        for whose in ["queue", "class", "lane"] {
            t.queue = queue_name(whose);
            assert_eq!(start_all(t).await, (3, Some(DAY)), "{whose}");
        }
        t.advance(DAY);
        for whose in ["queue", "class", "lane"] {
            t.queue = queue_name(whose);
            assert_eq!(start_all(t).await, (1, None), "{whose}");
        }
    }
}

async fn an_hour_that_is_shown_twice_is_two_windows(t: &mut Scene) {
    let rate = Rate::per_hour(3).in_zone("America/New_York").expect("a zone");
    set_clock(t, "2026-03-01T00:00:00Z");
    // From 00:30 to 03:00, with the hour from one o'clock twice, and without the one from two.
    let autumn = ("2026-11-01T04:30:00Z", [30 * MINUTE, HOUR, HOUR, HOUR]);
    let spring = ("2026-03-08T05:30:00Z", [30 * MINUTE, HOUR, HOUR, HOUR]);
    for (begin, hours) in [spring, autumn] {
        set_clock(t, begin);
        for hour in hours {
            for whose in ["queue", "class", "lane"] {
                t.queue = queue_name(whose);
                match whose {
                    "queue" => set_limits(t, per(&rate)).await,
                    "class" => set_total(t, "c", per(&rate)).await,
                    _ => set_lane(t, "c/a", starts(&rate)).await,
                }
                put_in(t, "c/a", 4).await;
                assert_eq!(start_all(t).await, (3, Some(hour)), "{whose}");
            }
            t.advance(hour - MICRO);
            for whose in ["queue", "class", "lane"] {
                t.queue = queue_name(whose);
                assert_eq!(start_all(t).await, (0, Some(MICRO)), "{whose}");
            }
            t.advance(MICRO);
        }
    }
}

async fn a_calendar_limit_by_lane_opens_all_of_them_at_midnight(t: &mut Scene) {
    set_clock(t, "2026-06-30T12:00:00Z");
    let rate = Rate::per_day(1).in_zone("Asia/Tokyo").expect("a zone");
    t.configure(|config| config.lanes.every = starts(&rate)).await;
    for n in 0..20 {
        put_in(t, &format!("user/{n}"), 2).await;
        assert_eq!(start_all(t).await.0, 1);
        t.advance(MINUTE);
    }
    assert_eq!(start_all(t).await, (0, Some(3 * HOUR - 20 * MINUTE)));
    t.advance(3 * HOUR - 20 * MINUTE);
    assert_eq!(start_all(t).await, (20, None));
}

async fn a_rate_and_a_concurrency_hold_together(t: &mut Scene) {
    set_lane(t, "a", LanePolicy { rate: Say::Limit(Rate::per_minute(3)), ..slots(2) }).await;
    put_in(t, "a", 9).await;
    let claims = t.claim(10).await;
    assert_eq!(claims.len(), 2);
    complete(t, &claims[..1]).await;
    let third = t.claim_as(t.asking(10)).await;
    assert_eq!((third.claims.len(), third.look_again), (1, None), "only a release helps");
    complete(t, &claims[1..]).await;
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MINUTE), "only time helps");
    t.advance(MINUTE);
    assert_eq!(t.claim(10).await.len(), 1, "one is Active still");
    complete(t, &third.claims).await;
    assert_eq!(t.claim(10).await.len(), 1);
}
