//! Concurrency: of a queue, of a class, of each of its lanes and of one lane. Never more are Active than may be.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) start_slots, __conformance_start_slots:
    a_queue_runs_no_more_than_its_concurrency,
    a_lane_runs_no_more_than_its_concurrency,
    each_lane_of_a_class_has_the_slots_of_its_own,
    a_class_shares_its_total,
    the_least_of_all_limits_counts,
    a_full_lane_blocks_no_other,
    a_parked_class_blocks_no_other,
    parked_classes_come_back_in_the_order_of_their_names,
    a_full_queue_says_that_asking_again_is_of_no_use,
    what_is_active_when_the_limit_comes_counts,
    a_raised_limit_applies_at_the_next_claim,
    a_lowered_limit_stops_nobody_and_starts_nobody,
    a_limit_taken_away_holds_nobody_back,
    a_limit_that_comes_again_knows_who_ended_without_it,
    a_waiting_job_is_left_as_it_was,
    a_full_lanes_solo_job_waits_and_is_passed_over,
    a_claim_repeated_takes_no_second_slot,
    handles_at_once_take_no_more_than_there_is,
}

async fn a_queue_runs_no_more_than_its_concurrency(t: &mut Scene) {
    set_limits(t, at_once(3)).await;
    let put = t.put_many(5).await;
    put_in(t, "a", 5).await;
    let claims = t.claim(10).await;
    assert_eq!(ids(&claims), put[..3]);
    assert_eq!(t.claim(10).await, []);
    complete(t, &claims[..2]).await;
    assert_eq!(t.claim(10).await.len(), 2);
    assert_eq!(t.counts().await.active, 3);
}

async fn a_lane_runs_no_more_than_its_concurrency(t: &mut Scene) {
    set_lane(t, "a", slots(2)).await;
    let put = put_in(t, "a", 4).await;
    let claims = t.claim(10).await;
    assert_eq!(ids(&claims), put[..2]);
    assert_eq!(t.claim(10).await, []);
    complete(t, &claims[1..]).await;
    assert_eq!(ids(&t.claim(10).await), put[2..3]);
}

async fn each_lane_of_a_class_has_the_slots_of_its_own(t: &mut Scene) {
    set_each(t, "org", slots(1)).await;
    for name in ["org/1", "org/2", "org/3", "other"] {
        put_in(t, name, 2).await;
    }
    assert_eq!(lanes_of(&t.claim(100).await), ["org/1", "org/2", "org/3", "other", "other"]);
    assert_eq!(t.claim(100).await, []);
}

async fn a_class_shares_its_total(t: &mut Scene) {
    t.configure(|config| config.lanes.quantum = 1).await;
    set_total(t, "org", at_once(3)).await;
    for name in ["org/1", "org/2", "other/1"] {
        put_in(t, name, 3).await;
    }
    let claims = t.claim(100).await;
    let expected = [("org/1", 2), ("org/2", 1), ("other/1", 3)];
    assert_eq!(by_lane(&claims), counts(expected));
    let of_org: Vec<_> =
        claims.into_iter().filter(|claim| claim.spec.lane.class() == Some(class("org"))).take(1).collect();
    complete(t, &of_org).await;
    assert_eq!(t.claim(100).await.len(), 1);
}

async fn the_least_of_all_limits_counts(t: &mut Scene) {
    t.configure(|config| {
        config.limits = at_once(5);
        let policy = config.lanes.classes.entry(class("c")).or_default();
        (policy.each, policy.total) = (slots(2), at_once(3));
    })
    .await;
    for name in ["c/1", "c/2", "c/3", "x", "y"] {
        put_in(t, name, 4).await;
    }
    let expected = [("c/1", 2), ("c/2", 1), ("x", 2)];
    assert_eq!(by_lane(&t.claim(100).await), counts(expected));
}

async fn a_full_lane_blocks_no_other(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    put_in(t, "a", 20).await;
    put_in(t, "b", 2).await;
    for expected in [vec!["a"], vec!["b"], vec!["b"], vec![]] {
        assert_eq!(lanes_of(&t.claim(1).await), expected);
    }
}

async fn a_parked_class_blocks_no_other(t: &mut Scene) {
    set_total(t, "c", at_once(1)).await;
    for name in ["c/1", "c/2", "c/3", "b"] {
        put_in(t, name, 2).await;
    }
    assert_eq!(lanes_of(&t.claim(100).await), ["c/1", "b", "b"]);
    put_in(t, "late", 1).await;
    let answer = t.claim_as(t.asking(100)).await;
    assert_eq!((lanes_of(&answer.claims), answer.more, answer.look_again), (vec!["late"], false, None));
}

/// Of names such as these one begins like the other, and goes on with what comes before the slash behind a class.
async fn parked_classes_come_back_in_the_order_of_their_names(t: &mut Scene) {
    const CLASSES: [&str; 5] = ["ab", "a-b", "a.b", "a", "a!"];
    for class in CLASSES {
        set_total(t, class, at_once(1)).await;
        put_in(t, &format!("{class}/1"), 1).await;
    }
    for class in CLASSES {
        put_in(t, &format!("{class}/2"), 1).await;
    }
    let claims = t.claim(100).await;
    assert_eq!(lanes_of(&claims), CLASSES.map(|class| format!("{class}/1")));
    complete(t, &claims).await;
    assert_eq!(lanes_of(&t.claim(100).await), ["a/2", "a!/2", "a-b/2", "a.b/2", "ab/2"]);
}

async fn a_full_queue_says_that_asking_again_is_of_no_use(t: &mut Scene) {
    set_limits(t, at_once(2)).await;
    t.put_many(5).await;
    let answer = t.claim_as(t.asking(2)).await;
    assert_eq!((answer.claims.len(), answer.more, answer.look_again), (2, false, None));
    assert_eq!(t.claim_as(t.asking(2)).await, ClaimAnswer::default());
    complete(t, &answer.claims[..1]).await;
    assert_eq!(t.claim_as(t.asking(1)).await.claims.len(), 1);
}

async fn what_is_active_when_the_limit_comes_counts(t: &mut Scene) {
    for whose in ["queue", "class", "lane", "every lane"] {
        t.queue = queue_name(whose);
        put_in(t, "c/a", 6).await;
        let claims = t.claim(3).await;
        match whose {
            "queue" => set_limits(t, at_once(2)).await,
            "class" => set_total(t, "c", at_once(2)).await,
            "lane" => set_lane(t, "c/a", slots(2)).await,
            _ => t.configure(|config| config.lanes.every = slots(2)).await,
        }
        for claim in &claims[..2] {
            assert_eq!(t.claim(10).await, [], "{whose}");
            complete(t, std::slice::from_ref(claim)).await;
        }
        assert_eq!(t.claim(10).await.len(), 1, "{whose}");
        assert_eq!(t.claim(10).await, [], "{whose}");
    }
}

async fn a_raised_limit_applies_at_the_next_claim(t: &mut Scene) {
    put_in(t, "c/a", 8).await;
    set_limits(t, at_once(1)).await;
    set_total(t, "c", at_once(2)).await;
    set_each(t, "c", slots(3)).await;
    set_lane(t, "c/a", slots(4)).await;
    // Whoever held the lane back last, it is looked at anew.
    for change in 0..5 {
        assert_eq!(t.claim(10).await.len(), 1, "after change {change}");
        assert_eq!(t.claim(10).await, [], "after change {change}");
        match change {
            0 => set_limits(t, at_once(100)).await,
            1 => set_total(t, "c", at_once(3)).await,
            2 => set_total(t, "c", at_once(100)).await,
            3 => set_lane(t, "c/a", slots(5)).await,
            _ => set_lane(t, "c/a", slots(7)).await,
        }
    }
    assert_eq!(t.claim(10).await.len(), 2);
}

async fn a_lowered_limit_stops_nobody_and_starts_nobody(t: &mut Scene) {
    set_lane(t, "a", slots(5)).await;
    put_in(t, "a", 8).await;
    let claims = t.claim(10).await;
    set_lane(t, "a", slots(2)).await;
    assert_eq!(t.counts().await.active, 5);
    complete(t, &claims[..3]).await;
    assert_eq!(t.claim(10).await, []);
    complete(t, &claims[3..]).await;
    assert_eq!(t.claim(10).await.len(), 2);
}

async fn a_limit_taken_away_holds_nobody_back(t: &mut Scene) {
    set_limits(t, at_once(1)).await;
    set_total(t, "c", at_once(1)).await;
    set_lane(t, "c/a", slots(1)).await;
    put_in(t, "c/a", 4).await;
    put_in(t, "c/b", 4).await;
    assert_eq!(t.claim(10).await.len(), 1);
    assert_eq!(t.claim(10).await.len(), 0);
    set_limits(t, StartLimits::default()).await;
    assert_eq!(t.claim(10).await.len(), 0, "the class is full");
    set_total(t, "c", StartLimits::default()).await;
    assert_eq!(lanes_of(&t.claim(10).await), ["c/b"; 4], "the lane is full");
    clear_lane(t, "c/a").await;
    assert_eq!(lanes_of(&t.claim(10).await), ["c/a"; 3]);
}

/// Redis counts per lane as long as some limit asks for it, and went on with the old counts where one came again.
async fn a_limit_that_comes_again_knows_who_ended_without_it(t: &mut Scene) {
    for whose in ["class", "lane"] {
        t.queue = queue_name(whose);
        let limit = async |t: &mut Scene| match whose {
            "class" => set_total(t, "c", at_once(2)).await,
            _ => set_lane(t, "c/a", slots(2)).await,
        };
        limit(t).await;
        put_in(t, "c/a", 2).await;
        let claims = t.claim(10).await;
        match whose {
            "class" => t.configure(|config| config.lanes = LaneRules::default()).await,
            _ => clear_lane(t, "c/a").await,
        }
        complete(t, &claims[..1]).await;
        t.put_many(1).await;
        let other = t.claim(10).await;
        put_in(t, "c/a", 3).await;
        limit(t).await;
        assert_eq!(t.claim(10).await.len(), 1, "{whose}: one of two is still Active");
        complete(t, &claims[1..]).await;
        complete(t, &other).await;
        assert_eq!(t.claim(10).await.len(), 1, "{whose}");
        assert_eq!(t.claim(10).await, [], "{whose}");
    }
}

async fn a_waiting_job_is_left_as_it_was(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    let put = put_in(t, "a", 2).await;
    t.claim_one().await;
    let (before, seen) = (t.record(put[1]).await, t.last_event().await);
    for _ in 0..3 {
        t.advance(SECOND);
        assert_eq!(t.claim(10).await, []);
    }
    assert_eq!(t.record(put[1]).await, before, "no run, no attempt, no move");
    assert_eq!(t.happened_after(seen).await, []);
}

async fn a_full_lanes_solo_job_waits_and_is_passed_over(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    put_in(t, "a", 1).await;
    let running = t.claim_one().await;
    let held = t.put_one(t.spec().lane("a").crashes(1)).await;
    let other = t.put_one(t.spec().lane("b").crashes(1).priority(200)).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.claims[0].solo), (vec![other], true));
    complete(t, &[running]).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.claims[0].solo), (vec![held], true));
    put_in(t, "a", 1).await;
    assert_eq!(t.claim(10).await, [], "a solo job takes a slot like any other");
    complete(t, &answer.claims).await;
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_claim_repeated_takes_no_second_slot(t: &mut Scene) {
    set_limits(t, at_once(2)).await;
    let put = t.put_many(5).await;
    let call = t.call();
    for _ in 0..3 {
        let answer = t.exchange(Some(call), vec![], Some(t.asking(1))).await.claimed.expect("an answer");
        assert_eq!(ids(&answer.claims), put[..1]);
    }
    assert_eq!(ids(&t.claim(10).await), put[1..2]);
}

async fn handles_at_once_take_no_more_than_there_is(t: &mut Scene) {
    t.configure(|config| {
        config.limits = at_once(10);
        config.lanes.every = slots(3);
    })
    .await;
    for name in ["a", "b", "c", "d", "e"] {
        put_in(t, name, 10).await;
    }
    let second = t.storage().second_handle().await.expect("a second handle");
    let handles = [t.storage(), second.as_ref()];
    let claims = (0..20).map(|n| handles[n % 2].claim(None, &t.queue, t.asking(2)));
    let claims = futures::future::join_all(claims).await.into_iter();
    let claims: Vec<Claim> = claims.flat_map(|answer| answer.expect("claim").claims).collect();
    assert_eq!(claims.len(), 10);
    assert!(by_lane(&claims).values().all(|count| *count <= 3), "{:?}", by_lane(&claims));
    second.close().await;
}
