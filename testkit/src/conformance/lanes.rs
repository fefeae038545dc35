//! Lanes take turns: how long a turn is, who comes after whom, and what is left of a lane that has emptied.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) lanes, __conformance_lanes:
    a_lane_of_many_jobs_delays_another_by_one_turn_at_most,
    a_newcomer_waits_for_one_turn_of_each_lane_before_it,
    a_turn_takes_the_quantum,
    a_turn_goes_on_from_claim_to_claim,
    a_weight_makes_turns_longer,
    the_nearest_weight_counts,
    priority_orders_within_a_lane_only,
    the_default_lane_takes_its_turn_like_any_other,
    an_emptied_lane_comes_back_behind_the_others,
    an_emptied_lane_keeps_nothing_of_its_turn,
    a_lane_alone_loses_nothing_of_its_turn,
    a_released_job_that_finds_its_lane_empty_joins_at_the_end,
    due_jobs_bring_their_lanes_in_the_order_in_which_they_were_due,
    what_is_looked_at_counts_for_the_turn,
    a_claim_that_ends_for_want_of_bytes_ends_no_turn,
    a_job_that_leaves_its_line_takes_its_lane_along,
    a_changed_quantum_applies_from_the_next_turn,
    a_changed_weight_applies_from_the_next_turn,
    a_clock_that_steps_back_disturbs_no_turn,
    a_hundred_thousand_lanes_are_served_in_their_turn,
}

async fn set_quantum(t: &Scene, quantum: u32) {
    t.configure(|config| config.lanes.quantum = quantum).await;
}

async fn a_lane_of_many_jobs_delays_another_by_one_turn_at_most(t: &mut Scene) {
    put_in(t, "large", 1000).await;
    let first = t.claim(20).await;
    assert_eq!(by_lane(&first), counts([("large", 20)]));
    let late = put_in(t, "small", 1).await;
    let next = t.claim(9).await;
    assert_eq!(ids(&next[8..]), late, "after the eight of one turn");
}

async fn a_newcomer_waits_for_one_turn_of_each_lane_before_it(t: &mut Scene) {
    set_quantum(t, 3).await;
    for name in ["a", "b/1", "b/2", "c"] {
        put_in(t, name, 20).await;
    }
    t.claim(7).await;
    put_in(t, "late", 1).await;
    let claims = t.claim(100).await;
    let place = lanes_of(&claims).iter().position(|name| *name == "late").expect("it is served");
    // The rest of the third lane's turn, the fourth's, and a new turn of the first two, which had theirs.
    assert_eq!(lanes_of(&claims[..place]), ["b/2", "b/2", "c", "c", "c", "a", "a", "a", "b/1", "b/1", "b/1"]);
}

async fn a_turn_takes_the_quantum(t: &mut Scene) {
    set_quantum(t, 2).await;
    let a = put_in(t, "a", 5).await;
    let b = put_in(t, "b", 1).await;
    let c = put_in(t, "c", 3).await;
    let served = [&a[..2], &b, &c[..2], &a[2..4], &c[2..], &a[4..]].concat();
    assert_eq!(ids(&t.claim(100).await), served);
}

async fn a_turn_goes_on_from_claim_to_claim(t: &mut Scene) {
    set_quantum(t, 3).await;
    let a = put_in(t, "a", 6).await;
    let b = put_in(t, "b", 4).await;
    let mut served = Vec::new();
    for max_items in [1, 1, 2, 1, 3, 2] {
        let claims = t.claim(max_items).await;
        served.extend(ids(&claims));
        complete(t, &claims).await;
    }
    assert_eq!(served, [&a[..3], &b[..3], &a[3..], &b[3..]].concat());
}

async fn a_weight_makes_turns_longer(t: &mut Scene) {
    set_quantum(t, 2).await;
    set_lane(t, "a", weight(3)).await;
    put_in(t, "a", 8).await;
    put_in(t, "b", 4).await;
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), ["a", "a", "a", "a", "a", "a", "b", "b", "a", "a", "b", "b"]);
}

async fn the_nearest_weight_counts(t: &mut Scene) {
    t.configure(|config| {
        config.lanes.quantum = 1;
        config.lanes.every = weight(2);
        config.lanes.classes.entry(class("c")).or_default().each = weight(3);
    })
    .await;
    set_lane(t, "c/own", weight(1)).await;
    // A policy that says nothing of the weight leaves it to the class.
    set_lane(t, "c/other", slots(100)).await;
    for name in ["c/own", "c/other", "c/none", "plain"] {
        put_in(t, name, 4).await;
    }
    t.put((0..4).map(|_| t.spec())).await;
    let claims = t.claim(11).await;
    let turns = ["c/own", "c/other", "c/other", "c/other", "c/none", "c/none", "c/none", "plain", "plain", "", ""];
    assert_eq!(lanes_of(&claims), turns);
}

async fn priority_orders_within_a_lane_only(t: &mut Scene) {
    set_quantum(t, 2).await;
    let a = t.put([9, 7, 8].map(|priority| t.spec().lane("a").priority(priority))).await;
    let b = t.put([2, 1].map(|priority| t.spec().lane("b").priority(priority))).await;
    let b_lifo = t.put_one(t.spec().lane("b").priority(2).lifo()).await;
    let claims = t.claim(100).await;
    assert_eq!(ids(&claims), [a[1], a[2], b[1], b_lifo, a[0], b[0]]);
}

async fn the_default_lane_takes_its_turn_like_any_other(t: &mut Scene) {
    set_quantum(t, 2).await;
    put_in(t, "a", 3).await;
    t.put_many(5).await;
    put_in(t, "b", 3).await;
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), ["a", "a", "", "", "b", "b", "a", "", "", "b", ""]);
}

async fn an_emptied_lane_comes_back_behind_the_others(t: &mut Scene) {
    put_in(t, "a", 1).await;
    put_in(t, "b", 9).await;
    assert_eq!(lanes_of(&t.claim(1).await), ["a"]);
    put_in(t, "a", 2).await;
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), ["b", "b", "b", "b", "b", "b", "b", "b", "a", "a", "b"]);
}

async fn an_emptied_lane_keeps_nothing_of_its_turn(t: &mut Scene) {
    set_quantum(t, 2).await;
    put_in(t, "a", 1).await;
    put_in(t, "b", 4).await;
    put_in(t, "c", 1).await;
    t.claim(2).await;
    put_in(t, "a", 3).await;
    // One of b's turn is left; then a has a whole turn.
    assert_eq!(lanes_of(&t.claim(100).await), ["b", "c", "a", "a", "b", "b", "a"]);
}

async fn a_lane_alone_loses_nothing_of_its_turn(t: &mut Scene) {
    set_quantum(t, 2).await;
    put_in(t, "a", 9).await;
    t.claim(5).await;
    put_in(t, "b", 1).await;
    assert_eq!(lanes_of(&t.claim(100).await), ["a", "a", "b", "a", "a"]);
}

async fn a_released_job_that_finds_its_lane_empty_joins_at_the_end(t: &mut Scene) {
    set_quantum(t, 1).await;
    put_in(t, "a", 1).await;
    put_in(t, "b", 2).await;
    put_in(t, "c", 2).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, released()).await;
    assert_eq!(lanes_of(&t.claim(100).await), ["b", "c", "a", "b", "c"]);
}

async fn due_jobs_bring_their_lanes_in_the_order_in_which_they_were_due(t: &mut Scene) {
    set_quantum(t, 1).await;
    t.put([("a", 3), ("b", 1), ("c", 2), ("b", 3)].map(|(name, s)| t.spec().lane(name).delay(s * SECOND))).await;
    t.advance(3 * SECOND);
    assert_eq!(lanes_of(&t.claim(100).await), ["b", "c", "a", "b"]);
}

async fn what_is_looked_at_counts_for_the_turn(t: &mut Scene) {
    set_quantum(t, 2).await;
    let a = [t.spec().of_kind("other"), t.spec().expires_in(SECOND), t.spec()].map(|job| job.lane("a"));
    let a = t.put(a).await;
    let b = put_in(t, "b", 1).await;
    t.advance(MINUTE);
    assert_eq!(ids(&t.claim(3).await), b, "two of a were looked at");
    assert_eq!(t.record(a[0]).await.slot, Slot::Shelf);
    assert_eq!(t.state(a[1]).await, JobState::Failed);
    assert_eq!(ids(&t.claim(3).await), a[2..]);
}

async fn a_claim_that_ends_for_want_of_bytes_ends_no_turn(t: &mut Scene) {
    set_quantum(t, 3).await;
    let a = t.put([60, 60, 60, 60].map(|bytes| t.spec().lane("a").payload(vec![b'1'; bytes]))).await;
    let b = put_in(t, "b", 1).await;
    let claims = t.claim_as(ClaimSpec { max_bytes: 100, ..t.asking(10) }).await;
    assert_eq!((ids(&claims.claims), claims.more), (a[..1].to_vec(), true), "nobody smaller is let past");
    assert_eq!(ids(&t.claim(100).await), [a[1], a[2], b[0], a[3]]);
}

async fn a_job_that_leaves_its_line_takes_its_lane_along(t: &mut Scene) {
    set_quantum(t, 1).await;
    for act in [Act::Cancel, Act::Remove, Act::Reschedule(Start::After(HOUR))] {
        let a = put_in(t, "a", 1).await;
        put_in(t, "b", 2).await;
        assert!(matches!(t.act(a[0], act.clone()).await, ActAnswer::Done(_)), "{act:?}");
        put_in(t, "a", 1).await;
        assert_eq!(lanes_of(&t.claim(100).await), ["b", "a", "b"], "after {act:?}");
    }
}

async fn a_changed_quantum_applies_from_the_next_turn(t: &mut Scene) {
    set_quantum(t, 2).await;
    put_in(t, "a", 6).await;
    put_in(t, "b", 6).await;
    t.claim(1).await;
    set_quantum(t, 3).await;
    let claims = t.claim(8).await;
    assert_eq!(lanes_of(&claims), ["a", "b", "b", "b", "a", "a", "a", "b"], "the turn that had begun keeps its length");
}

async fn a_changed_weight_applies_from_the_next_turn(t: &mut Scene) {
    set_quantum(t, 1).await;
    put_in(t, "a", 10).await;
    put_in(t, "b", 10).await;
    assert_eq!(lanes_of(&t.claim(2).await), ["a", "b"]);
    set_lane(t, "b", weight(3)).await;
    assert_eq!(lanes_of(&t.claim(6).await), ["a", "b", "b", "b", "a", "b"]);
    clear_lane(t, "b").await;
    assert_eq!(lanes_of(&t.claim(5).await), ["b", "b", "a", "b", "a"]);
}

async fn a_clock_that_steps_back_disturbs_no_turn(t: &mut Scene) {
    set_quantum(t, 2).await;
    t.advance(TEN_YEARS);
    put_in(t, "a", 4).await;
    put_in(t, "b", 4).await;
    assert_eq!(lanes_of(&t.claim(3).await), ["a", "a", "b"]);
    t.fixture.clock.step_back(TEN_YEARS);
    assert_eq!(lanes_of(&t.claim(5).await), ["b", "a", "a", "b", "b"]);
}

async fn a_hundred_thousand_lanes_are_served_in_their_turn(t: &mut Scene) {
    const LANES: usize = 100_000;
    const STEP: usize = 1000;
    let job = t.spec().options(|options| options.keep.completed = KeepFor::Remove);
    let mut put = Vec::with_capacity(LANES);
    for step in 0..LANES / STEP {
        let lanes = step * STEP..(step + 1) * STEP;
        put.extend(t.put(lanes.map(|n| JobSpec { id: JobId::new(), ..job.clone().lane(&format!("tenant/{n}")) })).await);
    }
    assert_eq!(t.counts().await.waiting, LANES as u64);
    let mut settlements = Vec::new();
    for expected in put.chunks(STEP) {
        let claimed = t.exchange(None, settlements, Some(t.asking(STEP))).await.claimed.expect("an answer");
        let served = ids(&claimed.claims);
        assert!(served == expected, "some lane was served out of its turn");
        settlements = claimed.claims.iter().map(|claim| settlement(claim.lease, completed())).collect();
    }
    let answer = t.exchange(None, settlements, Some(t.asking(STEP))).await.claimed.expect("an answer");
    assert_eq!(answer, ClaimAnswer::default(), "nothing is left of any lane");
    assert_eq!(t.counts().await, QueueCounts::default());
}
