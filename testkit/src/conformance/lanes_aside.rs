//! Lanes that nothing may start of: set aside in bounded steps, brought back in bounded steps, in the order of their turns,
//! and forgotten by nobody.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) lanes_aside, __conformance_lanes_aside:
    one_claim_sets_aside_a_bounded_number_of_lanes,
    a_claim_that_only_sets_lanes_aside_says_that_asking_again_helps,
    changed_rules_bring_lanes_back_in_bounded_steps,
    lanes_whose_time_has_come_are_brought_back_in_bounded_steps,
    parked_lanes_are_brought_back_in_bounded_steps,
    as_many_parked_lanes_come_back_as_the_class_has_room_for,
    lanes_set_aside_come_back_in_the_order_of_their_turns,
    held_lanes_come_back_in_the_order_of_their_time,
    parked_lanes_of_several_classes_come_back_class_by_class,
    a_held_lane_that_was_released_and_paused_stays_away,
    a_lane_set_aside_that_empties_is_forgotten,
    a_job_that_joins_a_lane_set_aside_waits_with_it,
    a_closed_lane_of_a_full_class_waits_for_both,
    a_lane_moves_from_one_hold_to_the_next,
    lanes_still_to_come_back_wait_for_the_queues_rate,
}

/// Enqueues one job in each of many lanes, in the order of their numbers.
async fn put_lanes(t: &Scene, prefix: &str, count: usize) {
    for first in (0..count).step_by(1000) {
        let lanes = first..count.min(first + 1000);
        t.put(lanes.map(|n| t.spec().lane(&format!("{prefix}{n}")))).await;
    }
}

async fn set_every(t: &Scene, policy: LanePolicy) {
    t.configure(|config| config.lanes.every = policy).await;
}

async fn one_claim_sets_aside_a_bounded_number_of_lanes(t: &mut Scene) {
    set_each(t, "c", paused()).await;
    put_lanes(t, "c/", 2 * LANES_SET_ASIDE_MAX + 50).await;
    let open = put_in(t, "open", 1).await;
    for _ in 0..2 {
        let answer = t.claim_as(t.asking(1)).await;
        assert_eq!((answer.claims.len(), answer.more), (0, true));
    }
    // Each took max_items more than that.
    assert_eq!(ids(&t.claim(1).await), open);
}

async fn a_claim_that_only_sets_lanes_aside_says_that_asking_again_helps(t: &mut Scene) {
    set_each(t, "c", paused()).await;
    put_lanes(t, "c/", 7 * LANES_SET_ASIDE_MAX).await;
    for _ in 0..6 {
        assert_eq!(t.claim_as(t.asking(1)).await, ClaimAnswer { more: true, ..ClaimAnswer::default() });
    }
    assert_eq!(t.claim_as(t.asking(1)).await, ClaimAnswer::default());
}

async fn changed_rules_bring_lanes_back_in_bounded_steps(t: &mut Scene) {
    const LANES: usize = LANES_BACK_MAX + 300;
    set_every(t, paused()).await;
    put_lanes(t, "", LANES).await;
    while t.claim_as(t.asking(1000)).await.more {}
    set_every(t, LanePolicy::default()).await;
    let answer = t.claim_as(t.asking(2 * LANES)).await;
    assert_eq!(answer.claims.len(), LANES_BACK_MAX);
    assert!(answer.more, "more lanes wait to be brought back");
    complete(t, &answer.claims).await;
    let answer = t.claim_as(t.asking(2 * LANES)).await;
    assert_eq!((answer.claims.len(), answer.more), (300, false));
    complete(t, &answer.claims).await;
}

async fn lanes_whose_time_has_come_are_brought_back_in_bounded_steps(t: &mut Scene) {
    const LANES: usize = LANES_BACK_MAX + 200;
    set_every(t, starts(&Rate::per_minute(1))).await;
    for _ in 0..2 {
        put_lanes(t, "", LANES).await;
    }
    let mut started = 0;
    for _ in 0..5 {
        started += start_all(t).await.0;
    }
    assert_eq!(started, LANES);
    t.advance(MINUTE);
    let answer = t.claim_as(t.asking(2 * LANES)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (LANES_BACK_MAX, Some(Duration::ZERO)));
    complete(t, &answer.claims).await;
    let answer = t.claim_as(t.asking(2 * LANES)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (200, None));
    complete(t, &answer.claims).await;
}

async fn parked_lanes_are_brought_back_in_bounded_steps(t: &mut Scene) {
    const LANES: usize = LANES_BACK_MAX + 200;
    set_total(t, "c", per(&Rate::per_minute(LANES as u32))).await;
    put_in(t, "c/first", LANES).await;
    assert_eq!(start_all(t).await.0 + start_all(t).await.0, LANES);
    put_lanes(t, "c/", LANES).await;
    while t.claim_as(t.asking(1000)).await.more {}
    t.advance(MINUTE);
    let answer = t.claim_as(t.asking(2 * LANES)).await;
    assert_eq!((answer.claims.len(), answer.more), (LANES_BACK_MAX, true), "the class has room for the others");
    complete(t, &answer.claims).await;
    let answer = t.claim_as(t.asking(2 * LANES)).await;
    assert_eq!((answer.claims.len(), answer.more), (200, false));
    complete(t, &answer.claims).await;
}

async fn as_many_parked_lanes_come_back_as_the_class_has_room_for(t: &mut Scene) {
    set_total(t, "c", at_once(2)).await;
    put_lanes(t, "c/", 6).await;
    let first = t.claim_as(t.asking(1)).await;
    assert_eq!((lanes_of(&first.claims), first.more), (vec!["c/0"], true));
    let second = t.claim_as(t.asking(10)).await;
    assert_eq!((lanes_of(&second.claims), second.more), (vec!["c/1"], false));
    complete(t, &[first.claims, second.claims].concat()).await;
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!((lanes_of(&answer.claims), answer.more), (vec!["c/2"], true), "the class has room for one more");
    assert_eq!(lanes_of(&t.claim(10).await), ["c/3"]);
}

async fn lanes_set_aside_come_back_in_the_order_of_their_turns(t: &mut Scene) {
    t.configure(|config| config.lanes.quantum = 1).await;
    set_each(t, "c", paused()).await;
    for name in ["c/3", "b", "c/1", "c/2"] {
        put_in(t, name, 2).await;
    }
    assert_eq!(lanes_of(&t.claim(1).await), ["b"]);
    set_each(t, "c", LanePolicy::default()).await;
    // What is set aside rejoins; what stands in the ring keeps its turn.
    assert_eq!(lanes_of(&t.claim(100).await), ["c/1", "c/2", "b", "c/3", "c/1", "c/2", "c/3"]);
}

async fn held_lanes_come_back_in_the_order_of_their_time(t: &mut Scene) {
    t.configure(|config| config.lanes.quantum = 1).await;
    for (name, window) in [("a", 30), ("b", 10), ("c", 20), ("d", 10)] {
        set_lane(t, name, starts(&Rate::sliding(1, window * SECOND))).await;
        put_in(t, name, 2).await;
    }
    assert_eq!(start_all(t).await, (4, Some(10 * SECOND)));
    t.advance(MINUTE);
    assert_eq!(lanes_of(&t.claim(100).await), ["b", "d", "c", "a"]);
}

async fn parked_lanes_of_several_classes_come_back_class_by_class(t: &mut Scene) {
    for name in ["b", "a"] {
        set_total(t, name, at_once(1)).await;
    }
    for name in ["b/1", "a/1", "b/2", "a/2", "b/3", "a/3"] {
        put_in(t, name, 1).await;
    }
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), ["b/1", "a/1"]);
    complete(t, &claims).await;
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), ["a/2", "b/2"], "in the order of names");
    complete(t, &claims).await;
    assert_eq!(lanes_of(&t.claim(100).await), ["a/3", "b/3"]);
}

async fn a_held_lane_that_was_released_and_paused_stays_away(t: &mut Scene) {
    set_lane(t, "a", starts(&Rate::per_minute(1))).await;
    put_in(t, "a", 3).await;
    let claims = t.claim(10).await;
    complete(t, &claims).await;
    set_lane(t, "a", LanePolicy { paused: true, ..starts(&Rate::per_minute(1)) }).await;
    t.advance(HOUR);
    assert_eq!(t.claim_as(t.asking(10)).await, ClaimAnswer::default());
    set_lane(t, "a", starts(&Rate::per_minute(1))).await;
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_lane_set_aside_that_empties_is_forgotten(t: &mut Scene) {
    set_total(t, "c", at_once(1)).await;
    set_lane(t, "held", starts(&Rate::per_minute(1))).await;
    set_lane(t, "closed", slots(1)).await;
    let mut left = Vec::new();
    for name in ["c/0", "c/1", "held", "closed"] {
        left.extend(put_in(t, name, 1).await);
    }
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), ["c/0", "held", "closed"]);
    left.truncate(2);
    left.remove(0);
    for name in ["held", "closed"] {
        left.extend(put_in(t, name, 1).await);
    }
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MINUTE));
    for id in left {
        assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    }
    assert_eq!(t.claim_as(t.asking(10)).await, ClaimAnswer::default(), "nothing is left to look for");
    complete(t, &claims).await;
    assert_eq!(t.claim_as(t.asking(10)).await, ClaimAnswer::default());
    for name in ["held", "closed", "c/1"] {
        put_in(t, name, 1).await;
    }
    assert_eq!(lanes_of(&t.claim(100).await), ["closed", "c/1"], "the limiter remembers; the lanes are new");
}

async fn a_job_that_joins_a_lane_set_aside_waits_with_it(t: &mut Scene) {
    set_lane(t, "a", starts(&Rate::per_minute(1))).await;
    put_in(t, "a", 2).await;
    start_all(t).await;
    let urgent = t.put_one(t.spec().lane("a").priority(0)).await;
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MINUTE));
    t.advance(MINUTE);
    assert_eq!(ids(&t.claim(10).await), [urgent], "and goes by its priority then");
}

async fn a_closed_lane_of_a_full_class_waits_for_both(t: &mut Scene) {
    t.configure(|config| {
        let policy = config.lanes.classes.entry(class("c")).or_default();
        (policy.each, policy.total) = (slots(1), at_once(2));
    })
    .await;
    put_in(t, "c/a", 3).await;
    put_in(t, "c/b", 3).await;
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), ["c/a", "c/b"]);
    put_in(t, "c/c", 1).await;
    assert_eq!(t.claim(100).await, []);
    complete(t, &claims[..1]).await;
    let next = t.claim(100).await;
    assert_eq!(next.len(), 1);
    assert_ne!(lanes_of(&next), ["c/b"], "that one is full");
    complete(t, &claims[1..]).await;
    assert_eq!(t.claim(100).await.len(), 1);
}

async fn a_lane_moves_from_one_hold_to_the_next(t: &mut Scene) {
    set_limits(t, per(&Rate::sliding(4, MINUTE))).await;
    set_total(t, "c", at_once(2)).await;
    set_lane(t, "c/a", starts(&Rate::sliding(1, 10 * SECOND))).await;
    put_in(t, "c/a", 4).await;
    put_in(t, "c/b", 2).await;
    let first = t.claim_as(t.asking(10)).await;
    assert_eq!((lanes_of(&first.claims), first.look_again), (vec!["c/a", "c/b"], Some(10 * SECOND)));
    t.advance(10 * SECOND);
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (0, None), "the class is full");
    complete(t, &first.claims).await;
    let second = t.claim_as(t.asking(10)).await;
    assert_eq!(lanes_of(&second.claims), ["c/b", "c/a"]);
    assert_eq!(second.look_again, Some(50 * SECOND), "the queue has had its four; the lane may be held or in the ring");
    complete(t, &second.claims).await;
    t.advance(50 * SECOND);
    assert_eq!(lanes_of(&t.claim(10).await), ["c/a"]);
}

async fn lanes_still_to_come_back_wait_for_the_queues_rate(t: &mut Scene) {
    set_every(t, paused()).await;
    put_lanes(t, "", LANES_BACK_MAX + 1).await;
    while t.claim_as(t.asking(1000)).await.more {}
    set_every(t, LanePolicy::default()).await;
    set_limits(t, per(&Rate::per_minute(LANES_BACK_MAX as u32))).await;
    let answer = t.claim_as(t.asking(2 * LANES_BACK_MAX)).await;
    assert_eq!((answer.claims.len(), answer.more, answer.look_again), (LANES_BACK_MAX, false, Some(MINUTE)));
    complete(t, &answer.claims).await;
    t.advance(MINUTE);
    assert_eq!(start_all(t).await, (1, None));
}
