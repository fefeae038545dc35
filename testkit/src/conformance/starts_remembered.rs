//! What is remembered of starts: by every handle, over a close, while the clock steps back, and for as long as it counts.

use super::lane_words::*;
use super::prelude::*;
use crate::invariants::limits::check_rate;
use ferroq_core::policy::lanes::Limited;

topic! {
    ($) starts_remembered, __conformance_starts_remembered:
    a_rate_of_thousands_is_kept_and_used,
    handles_at_once_start_no_more_than_the_rate_allows,
    starts_are_remembered_where_the_store_outlives_its_handle,
    a_small_lag_of_the_clock_gives_no_start_back,
    a_step_back_counts_what_came_later_as_of_now,
    a_step_back_counts_them_where_no_rule_is_left_too,
    a_step_back_within_a_day_starts_nothing_that_the_day_has_had,
    what_a_step_back_left_is_forgotten_two_days_later,
    a_sweep_forgets_nothing_that_counts,
    sweeps_forget_the_starts_of_classes_and_lanes_that_count_no_more,
    an_obliterated_queue_forgets_its_starts,
}

async fn a_rate_of_thousands_is_kept_and_used(t: &mut Scene) {
    const LIMIT: u32 = 1000;
    let rate = Rate::per_second(LIMIT);
    set_limits(t, per(&rate)).await;
    let job = t.spec().options(|options| options.keep.completed = KeepFor::Remove);
    for _ in 0..7 {
        t.put((0..LIMIT).map(|_| JobSpec { id: JobId::new(), ..job.clone() })).await;
    }
    let (mut at, begin) = (Vec::new(), t.clock());
    // The first second's starts are spread, so that they are remembered in groups.
    for _ in 0..100 {
        at.extend(t.claim(7).await.iter().map(|claim| claim.started_at));
        t.advance(Duration::from_micros(9_999));
    }
    while t.clock() < begin.after(6 * SECOND) {
        let answer = t.claim_as(t.asking(1000)).await;
        at.extend(answer.claims.iter().map(|claim| claim.started_at));
        complete(t, &answer.claims).await;
        t.advance(answer.look_again.expect("a backlog that waits").max(MICRO));
    }
    assert_eq!(check_rate(&rate, at.iter().copied()), Ok(()));
    let saturated = begin.after(2 * SECOND)..begin.after(6 * SECOND);
    let used = at.iter().filter(|at| saturated.contains(at)).count();
    assert!(used >= 4 * LIMIT as usize * 98 / 100, "{used} of {} starts", 4 * LIMIT);
}

async fn handles_at_once_start_no_more_than_the_rate_allows(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(20))).await;
    t.configure(|config| config.lanes.every = starts(&Rate::per_minute(7))).await;
    for name in ["a", "b", "c", "d"] {
        put_in(t, name, 20).await;
    }
    let second = t.storage().second_handle().await.expect("a second handle");
    let handles = [t.storage(), second.as_ref()];
    let claims = (0..20).map(|n| handles[n % 2].claim(None, &t.queue, t.asking(3)));
    let claims = futures::future::join_all(claims).await.into_iter();
    let claims: Vec<Claim> = claims.flat_map(|answer| answer.expect("claim").claims).collect();
    assert_eq!(claims.len(), 20);
    assert!(by_lane(&claims).values().all(|count| *count <= 7), "{:?}", by_lane(&claims));
    second.close().await;
}

async fn starts_are_remembered_where_the_store_outlives_its_handle(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(5))).await;
    set_total(t, "c", per(&Rate::per_minute(3))).await;
    set_lane(t, "c/a", starts(&Rate::per_minute(2))).await;
    for name in ["c/a", "c/b", "d"] {
        put_in(t, name, 6).await;
    }
    assert_eq!(t.claim(3).await.len(), 3);
    t.advance(30 * SECOND);
    if t.fixture.reopen().await {
        let answer = t.claim_as(t.asking(100)).await;
        assert_eq!((by_lane(&answer.claims), answer.look_again), (counts([("d", 2)]), Some(30 * SECOND)));
    }
}

async fn a_small_lag_of_the_clock_gives_no_start_back(t: &mut Scene) {
    set_limits(t, per(&Rate::sliding(1, 10 * SECOND))).await;
    t.put_many(3).await;
    start_all(t).await;
    t.fixture.clock.step_back(59 * SECOND);
    assert_eq!(start_all(t).await, (0, Some(10 * SECOND)));
    t.advance(10 * SECOND);
    assert_eq!(start_all(t).await.0, 0, "time stands until the clock has caught up");
    t.advance(59 * SECOND);
    assert_eq!(start_all(t).await.0, 1);
}

async fn a_step_back_counts_what_came_later_as_of_now(t: &mut Scene) {
    for whose in ["queue", "class", "lane"] {
        t.queue = queue_name(whose);
        let rate = Rate::per_minute(3);
        match whose {
            "queue" => set_limits(t, per(&rate)).await,
            "class" => set_total(t, "c", per(&rate)).await,
            _ => set_lane(t, "c/a", starts(&rate)).await,
        }
        put_in(t, "c/a", 9).await;
        t.advance(TEN_YEARS);
        assert_eq!(start_all(t).await, (3, Some(MINUTE)), "{whose}");
        t.fixture.clock.step_back(TEN_YEARS);
        assert_eq!(start_all(t).await, (0, Some(MINUTE)), "{whose}");
        t.advance(MINUTE - MICRO);
        assert_eq!(start_all(t).await, (0, Some(MICRO)), "{whose}");
        t.advance(MICRO);
        assert_eq!(start_all(t).await, (3, Some(MINUTE)), "{whose}");
    }
}

async fn a_sweep_forgets_nothing_that_counts(t: &mut Scene) {
    t.configure(|config| config.lanes.every = starts(&Rate::per_minute(1))).await;
    set_limits(t, per(&Rate::per_hour(6))).await;
    for n in 0..5 {
        put_in(t, &format!("c/{n}"), 1).await;
        start_all(t).await;
        t.advance(20 * SECOND);
        assert!(!t.sweep(1).await.more, "what may be forgotten is no work that waits");
    }
    for n in 0..5 {
        put_in(t, &format!("c/{n}"), 1).await;
    }
    // The last two started less than a minute ago; of the others, of which sweeps may have dropped some, the hour lets
    // one start.
    let answer = t.claim_as(t.asking(100)).await;
    assert_eq!(lanes_of(&answer.claims), ["c/0"]);
    t.advance(HOUR - 100 * SECOND);
    t.sweep(100).await;
    assert_eq!(t.claim(100).await.len(), 1);
}

async fn sweeps_forget_the_starts_of_classes_and_lanes_that_count_no_more(t: &mut Scene) {
    for n in 0..5 {
        set_total(t, &format!("c{n}"), per(&Rate::per_minute(1))).await;
        set_lane(t, &format!("c{n}/a"), starts(&Rate::per_minute(1))).await;
        put_in(t, &format!("c{n}/a"), 1).await;
    }
    set_total(t, "c9", per(&Rate::per_hour(1))).await;
    put_in(t, "c9/a", 1).await;
    assert_eq!(start_all(t).await.0, 6);
    t.configure(|config| config.lanes = LaneRules::default()).await;
    for n in 0..5 {
        clear_lane(t, &format!("c{n}/a")).await;
    }
    t.advance(MINUTE - MICRO);
    t.sweep(100).await;
    assert_eq!(t.dump().await.starts.len(), 11);
    t.advance(MICRO);
    for _ in 0..5 {
        let before = t.dump().await.starts.len();
        t.sweep(1).await;
        let dropped = before - t.dump().await.starts.len();
        assert!(dropped <= 2, "{dropped} at once, and there may be many");
    }
    t.sweep(100).await;
    let left: Vec<_> = t.dump().await.starts.into_iter().map(|entry| entry.of).collect();
    assert_eq!(left, [Limited::Class(class("c9"))], "only what still counts");
}

async fn an_obliterated_queue_forgets_its_starts(t: &mut Scene) {
    for _ in 0..2 {
        t.configure(|config| {
            config.limits = per(&Rate::per_hour(2));
            config.lanes.classes.entry(class("c")).or_default().total = per(&Rate::per_hour(2));
        })
        .await;
        set_lane(t, "c/a", starts(&Rate::per_hour(2))).await;
        put_in(t, "c/a", 4).await;
        assert_eq!(start_all(t).await, (2, Some(HOUR)));
        obliterate(t).await;
    }
}

async fn a_step_back_counts_them_where_no_rule_is_left_too(t: &mut Scene) {
    let rate = Rate::per_minute(1);
    set_limits(t, per(&rate)).await;
    t.put_many(2).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    set_limits(t, StartLimits::default()).await;
    t.fixture.clock.step_back(HOUR);
    t.put_one(t.spec()).await;
    t.advance(SECOND);
    set_limits(t, per(&rate)).await;
    assert_eq!(t.claim_as(t.asking(1)).await.look_again, Some(MINUTE - SECOND));
}

/// The day's starts were counted as of the present, but forgotten as long after that as they would have been without the step,
/// a minute: so the day had five.
async fn a_step_back_within_a_day_starts_nothing_that_the_day_has_had(t: &mut Scene) {
    let daily = Rate::per_day(3).in_zone("UTC").expect("a zone");
    for whose in ["queue", "class", "lane"] {
        t.queue = queue_name(whose);
        set_clock(t, "2026-06-10T23:59:00Z");
        match whose {
            "queue" => set_limits(t, per(&daily)).await,
            "class" => set_total(t, "c", per(&daily)).await,
            _ => set_lane(t, "c/a", starts(&daily)).await,
        }
        put_in(t, "c/a", 5).await;
        assert_eq!(start_all(t).await, (3, Some(MINUTE)), "{whose}");
        set_clock(t, "2026-06-10T21:59:00Z");
        put_in(t, "c/a", 1).await;
        t.advance(MINUTE);
        assert_eq!(start_all(t).await, (0, Some(2 * HOUR)), "{whose}");
        t.advance(2 * HOUR - MICRO);
        t.sweep(100).await;
        assert_eq!(start_all(t).await, (0, Some(MICRO)), "{whose}");
        t.advance(MICRO);
        assert_eq!(start_all(t).await.0, 3, "{whose}");
    }
}

async fn what_a_step_back_left_is_forgotten_two_days_later(t: &mut Scene) {
    for rate in [Rate::per_minute(1), Rate::per_day(1).in_zone("UTC").expect("a zone")] {
        t.queue = queue_name(&rate.to_string());
        set_limits(t, per(&rate)).await;
        t.put_many(2).await;
        t.advance(TEN_YEARS);
        assert_eq!(start_all(t).await.0, 1, "{rate}");
        t.fixture.clock.step_back(TEN_YEARS);
        set_limits(t, per(&Rate::sliding(1, TEN_YEARS))).await;
        t.advance(2 * DAY - MICRO);
        assert_eq!(start_all(t).await.0, 0, "{rate}: a longer rate counts what is remembered");
        t.advance(MICRO);
        assert_eq!(start_all(t).await.0, 1, "{rate}: and that is not until a time that only a wrong clock showed");
    }
}
