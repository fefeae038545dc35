//! What is said of lanes: where it is kept, who sees it, what is refused, and what a pause stops.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) lane_policies, __conformance_lane_policies:
    rules_are_kept_as_they_were_given,
    a_lanes_own_policy_is_kept_and_can_be_taken_away,
    lane_policies_are_listed_in_the_order_of_keys,
    a_lane_policy_makes_its_queue,
    a_lane_policy_outlives_the_lanes_jobs,
    a_lane_policy_stored_again_changes_nothing,
    policies_outlive_the_handle_where_the_store_does,
    rules_under_which_nothing_could_start_are_refused,
    a_lane_policy_under_which_nothing_could_start_is_refused,
    a_page_of_nothing_is_refused,
    an_obliterated_queue_leaves_no_policy,
    policies_of_one_queue_say_nothing_of_another,
    the_own_policy_goes_over_the_class_and_that_over_every,
    unlimited_lifts_what_the_policy_above_says,
    a_lane_without_a_class_follows_no_class,
    a_paused_lane_starts_nothing_and_blocks_nobody,
    a_paused_class_starts_nothing_and_blocks_nobody,
    a_pause_of_every_lane_starts_nothing,
    a_pause_above_a_lane_is_not_lifted_by_its_own_policy,
    a_pause_stops_claims_and_nothing_else,
    a_resumed_lane_goes_on_at_the_next_claim,
    a_paused_lanes_solo_job_waits_too,
    every_handle_follows_a_policy_at_its_next_claim,
}

async fn policies(t: &Scene) -> Vec<(LaneKey, LanePolicy)> {
    t.storage().lane_policies(&t.queue, None, 1000).await.expect("lane_policies")
}

/// Rules that say something of everything.
fn full_rules() -> LaneRules {
    let new_york = Rate::per_day(25).in_zone("America/New_York").expect("a zone");
    let each = LanePolicy {
        weight: Some(3),
        concurrency: Say::Limit(2),
        rate: Say::Limit(new_york),
        batch: Say::Limit(BatchGate::new(u32::MAX, TEN_YEARS)),
        paused: false,
    };
    let mut rules = LaneRules { quantum: 5, every: slots(7), ..LaneRules::default() };
    rules.classes.insert(class("a b: \"c\""), ClassPolicy { each, total: per(&Rate::per_second(9)) });
    rules.classes.insert(class("日本"), ClassPolicy { each: paused(), total: at_once(u32::MAX) });
    rules
}

async fn rules_are_kept_as_they_were_given(t: &mut Scene) {
    t.configure(|config| {
        config.limits = StartLimits { concurrency: Some(3), rate: Some(Rate::sliding(u32::MAX, TEN_YEARS)) };
        config.lanes = full_rules();
    })
    .await;
    let config = t.storage().config(&t.queue).await.expect("config");
    assert_eq!(config.lanes, full_rules());
    assert_eq!(config.limits, StartLimits { concurrency: Some(3), rate: Some(Rate::sliding(u32::MAX, TEN_YEARS)) });
}

async fn a_lanes_own_policy_is_kept_and_can_be_taken_away(t: &mut Scene) {
    let rate = Rate::per_hour(4).in_zone("Asia/Kathmandu").expect("a zone");
    let full = LanePolicy {
        weight: Some(u32::MAX),
        concurrency: Say::Unlimited,
        rate: Say::Limit(rate),
        batch: Say::Limit(BatchGate::new(1, Duration::ZERO)),
        paused: true,
    };
    set_lane(t, "c/a", full.clone()).await;
    assert_eq!(policies(t).await, [(lane("c/a"), full)]);
    set_lane(t, "c/a", slots(3)).await;
    assert_eq!(policies(t).await, [(lane("c/a"), slots(3))], "as a whole");
    set_lane(t, "c/a", LanePolicy::default()).await;
    assert_eq!(policies(t).await, [(lane("c/a"), LanePolicy::default())], "saying nothing is a policy too");
    for _ in 0..2 {
        clear_lane(t, "c/a").await;
        assert_eq!(policies(t).await, []);
    }
}

async fn lane_policies_are_listed_in_the_order_of_keys(t: &mut Scene) {
    let mut names = ["b", "a/2", "a/10", "ä", "a", "B", "日本/東京", "a b"];
    for name in names {
        set_lane(t, name, slots(1)).await;
    }
    t.storage().configure_lane(&t.queue, &LaneKey::DEFAULT, Some(slots(2))).await.expect("configure_lane");
    names.sort_unstable();
    let mut expected = vec![(LaneKey::DEFAULT, slots(2))];
    expected.extend(names.map(|name| (lane(name), slots(1))));
    assert!(expected.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(policies(t).await, expected);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = t.storage().lane_policies(&t.queue, after.as_ref(), 2).await.expect("lane_policies");
        assert!(page.len() <= 2);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        paged.extend(page);
    }
    assert_eq!(paged, expected);
    let rest = t.storage().lane_policies(&t.queue, Some(&lane("a/15")), 1000).await.expect("lane_policies");
    assert_eq!(rest[0].0, lane("a/2"), "it need not be one of them");
}

async fn a_lane_policy_makes_its_queue(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    assert_eq!(t.storage().queues().await.expect("queues"), std::slice::from_ref(&t.queue));
    put_in(t, "a", 2).await;
    assert_eq!(t.claim(10).await.len(), 1, "a lane may have its policy before its first job");
}

async fn a_lane_policy_outlives_the_lanes_jobs(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    for _ in 0..2 {
        put_in(t, "a", 1).await;
        assert_eq!(work_off(t).await, ["a"]);
        t.advance(DAY);
        t.sweep(1000).await;
    }
    put_in(t, "a", 2).await;
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_lane_policy_stored_again_changes_nothing(t: &mut Scene) {
    let rate = Rate::per_minute(2);
    set_lane(t, "a", starts(&rate)).await;
    put_in(t, "a", 5).await;
    assert_eq!(t.claim(10).await.len(), 2);
    for _ in 0..2 {
        set_lane(t, "a", starts(&rate)).await;
        t.configure(|_| {}).await;
        let answer = t.claim_as(t.asking(10)).await;
        assert_eq!((answer.claims.len(), answer.look_again), (0, Some(MINUTE)));
    }
}

async fn policies_outlive_the_handle_where_the_store_does(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    t.configure(|config| config.lanes.every = slots(2)).await;
    put_in(t, "a", 3).await;
    put_in(t, "b", 3).await;
    if t.fixture.reopen().await {
        assert_eq!(policies(t).await, [(lane("a"), slots(1))]);
        assert_eq!(lanes_of(&t.claim(10).await), ["a", "b", "b"]);
        t.fixture.reopen().await;
        assert_eq!(t.claim(10).await, [], "who is Active is known too");
    }
}

async fn rules_under_which_nothing_could_start_are_refused(t: &mut Scene) {
    t.configure(|config| config.lanes = full_rules()).await;
    let before = t.storage().config(&t.queue).await.expect("config");
    type Change = fn(&mut QueueConfig);
    let cases: [(Change, &str); 9] = [
        (|config| config.limits.concurrency = Some(0), "a concurrency of 0 for the queue"),
        (|config| config.limits.rate = Some(Rate::per_second(0)), "the rate for the queue"),
        (|config| config.limits.rate = Some(Rate::sliding(1, MICRO)), "too short"),
        (|config| config.lanes.quantum = 0, "a quantum of 0"),
        (|config| config.lanes.every.weight = Some(0), "a weight of 0 for every lane"),
        (|config| config.lanes.every.concurrency = Say::Limit(0), "a concurrency of 0 for every lane"),
        (|config| config.lanes.every.rate = Say::Limit(Rate::per_hour(0)), "the rate for every lane"),
        (
            |config| {
                config.lanes.classes.insert(class("a/b"), ClassPolicy::default());
            },
            "no lane is in the class \"a/b\"",
        ),
        (|config| config.lanes.classes.entry(class("c")).or_default().total = at_once(0), "for the class \"c\""),
    ];
    for (change, why) in cases {
        let mut config = before.clone();
        change(&mut config);
        let error = t.storage().configure(&t.queue, config).await.expect_err(why);
        assert_eq!((error.code(), error.effect()), (ErrorCode::Invalid, Effect::None));
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(t.storage().config(&t.queue).await.expect("config"), before);
    }
    let mut config = before.clone();
    (config.limits.concurrency, config.lanes.quantum, config.lanes.every.weight) = (Some(0), 0, Some(0));
    let error = t.storage().configure(&t.queue, config).await.expect_err("it is all wrong").to_string();
    let all = ["a concurrency of 0", "a quantum of 0", "a weight of 0"];
    assert!(all.iter().all(|why| error.contains(why)), "all is named at once: {error}");
}

async fn a_lane_policy_under_which_nothing_could_start_is_refused(t: &mut Scene) {
    let cases = [
        (weight(0), "a weight of 0"),
        (slots(0), "a concurrency of 0"),
        (starts(&Rate::per_day(0)), "let nothing start"),
        (starts(&Rate::sliding(5, MICRO)), "too short"),
    ];
    for (policy, why) in cases {
        let error = t.storage().configure_lane(&t.queue, &lane("c/a"), Some(policy)).await.expect_err(why);
        assert_eq!((error.code(), error.effect()), (ErrorCode::Invalid, Effect::None));
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(t.storage().queues().await.expect("queues"), [], "nothing was stored");
}

async fn a_page_of_nothing_is_refused(t: &mut Scene) {
    let error = t.storage().lane_policies(&t.queue, None, 0).await.expect_err("no items");
    assert_eq!(error.code(), ErrorCode::Invalid);
    assert_eq!(policies(t).await, []);
}

async fn an_obliterated_queue_leaves_no_policy(t: &mut Scene) {
    t.configure(|config| config.lanes.every = slots(1)).await;
    set_lane(t, "a", paused()).await;
    put_in(t, "b", 2).await;
    assert_eq!(t.claim(10).await.len(), 1);
    obliterate(t).await;
    assert_eq!(policies(t).await, []);
    assert_eq!(t.storage().queues().await.expect("queues"), []);
    put_in(t, "a", 2).await;
    put_in(t, "b", 2).await;
    assert_eq!(t.claim(10).await.len(), 4);
}

async fn policies_of_one_queue_say_nothing_of_another(t: &mut Scene) {
    t.configure(|config| config.lanes.every = slots(1)).await;
    set_lane(t, "a", paused()).await;
    t.queue = queue_name("another");
    assert_eq!(policies(t).await, []);
    put_in(t, "a", 3).await;
    assert_eq!(t.claim(10).await.len(), 3);
}

async fn the_own_policy_goes_over_the_class_and_that_over_every(t: &mut Scene) {
    t.configure(|config| {
        config.lanes.every = slots(1);
        config.lanes.classes.entry(class("c")).or_default().each = slots(2);
    })
    .await;
    set_lane(t, "c/own", slots(3)).await;
    // A rate is said; the concurrency is left to the class.
    set_lane(t, "c/rate", starts(&Rate::per_minute(50))).await;
    for name in ["plain", "c/none", "c/own", "c/rate"] {
        put_in(t, name, 5).await;
    }
    t.put_many(5).await;
    let expected = [("", 1), ("c/none", 2), ("c/own", 3), ("c/rate", 2), ("plain", 1)];
    assert_eq!(by_lane(&t.claim(100).await), counts(expected));
}

async fn unlimited_lifts_what_the_policy_above_says(t: &mut Scene) {
    let free = LanePolicy { concurrency: Say::Unlimited, rate: Say::Unlimited, ..LanePolicy::default() };
    t.configure(|config| {
        config.lanes.every = LanePolicy { rate: Say::Limit(Rate::per_minute(2)), ..slots(1) };
        let each = LanePolicy { concurrency: Say::Unlimited, ..LanePolicy::default() };
        config.lanes.classes.entry(class("c")).or_default().each = each;
    })
    .await;
    set_lane(t, "free", free).await;
    for name in ["plain", "c/a", "free"] {
        put_in(t, name, 5).await;
    }
    let expected = [("c/a", 2), ("free", 5), ("plain", 1)];
    assert_eq!(by_lane(&t.claim(100).await), counts(expected));
}

async fn a_lane_without_a_class_follows_no_class(t: &mut Scene) {
    set_each(t, "c", slots(1)).await;
    set_total(t, "c", at_once(1)).await;
    for name in ["c", "/c", "cc/a", "C/a"] {
        put_in(t, name, 2).await;
    }
    assert_eq!(t.claim(100).await.len(), 8);
    put_in(t, "c/a/b", 2).await;
    assert_eq!(t.claim(100).await.len(), 1, "a class ends before the first '/'");
}

async fn a_paused_lane_starts_nothing_and_blocks_nobody(t: &mut Scene) {
    set_lane(t, "a", paused()).await;
    put_in(t, "a", 3).await;
    let b = put_in(t, "b", 3).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.more, answer.look_again), (b, false, None));
    assert_eq!(t.counts().await.waiting, 3);
}

async fn a_paused_class_starts_nothing_and_blocks_nobody(t: &mut Scene) {
    set_each(t, "c", paused()).await;
    for name in ["c/a", "c/b", "d/a"] {
        put_in(t, name, 2).await;
    }
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((lanes_of(&answer.claims), answer.more, answer.look_again), (vec!["d/a", "d/a"], false, None));
}

async fn a_pause_of_every_lane_starts_nothing(t: &mut Scene) {
    t.configure(|config| config.lanes.every = paused()).await;
    put_in(t, "a", 2).await;
    t.put_many(2).await;
    assert_eq!(t.claim_as(t.asking(10)).await, ClaimAnswer::default());
    t.configure(|config| config.lanes.every = LanePolicy::default()).await;
    assert_eq!(t.claim(10).await.len(), 4);
}

async fn a_pause_above_a_lane_is_not_lifted_by_its_own_policy(t: &mut Scene) {
    set_each(t, "c", paused()).await;
    set_lane(t, "c/a", LanePolicy::default()).await;
    put_in(t, "c/a", 2).await;
    assert_eq!(t.claim(10).await, []);
    set_each(t, "c", LanePolicy::default()).await;
    assert_eq!(t.claim(10).await.len(), 2);
}

async fn a_pause_stops_claims_and_nothing_else(t: &mut Scene) {
    let put = put_in(t, "a", 2).await;
    let claims = t.claim(2).await;
    set_lane(t, "a", paused()).await;
    let late = t.put_one(t.spec().lane("a").delay(SECOND)).await;
    assert_eq!(t.renew(claims[0].lease).await, RenewAnswer::Renewed { cancel_requested: false });
    assert_eq!(t.annotate(claims[0].lease, Note::default()).await, NoteAnswer::Noted);
    assert_eq!(t.settle(claims[0].lease, completed()).await, settled(JobState::Completed));
    t.advance(SECOND);
    assert_eq!(t.sweep(10).await.promoted, 1);
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    assert_eq!(t.state(put[1]).await, JobState::Waiting);
    assert_eq!(t.claim(10).await, []);
    assert_eq!(t.act(late, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    clear_lane(t, "a").await;
    assert_eq!(ids(&t.claim(10).await), put[1..]);
}

async fn a_resumed_lane_goes_on_at_the_next_claim(t: &mut Scene) {
    let put = put_in(t, "c/a", 4).await;
    for (place, id) in put.iter().enumerate() {
        // Set aside by the first claim; resumed in another way each time.
        if place % 2 == 0 { set_lane(t, "c/a", paused()).await } else { set_each(t, "c", paused()).await }
        assert_eq!(t.claim(10).await, []);
        match place {
            0 => clear_lane(t, "c/a").await,
            2 => set_lane(t, "c/a", LanePolicy::default()).await,
            _ => set_each(t, "c", LanePolicy::default()).await,
        }
        assert_eq!(ids(&t.claim(1).await), [*id]);
    }
}

async fn a_paused_lanes_solo_job_waits_too(t: &mut Scene) {
    set_lane(t, "a", paused()).await;
    let held = t.put_one(t.spec().lane("a").crashes(1)).await;
    let other = t.put_one(t.spec().lane("b").crashes(1)).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.solo_waiting, answer.solo_held), (vec![other], false, true));
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.more, answer.look_again), (vec![], false, None));
    clear_lane(t, "a").await;
    assert_eq!(ids(&t.claim(10).await), [held]);
}

async fn every_handle_follows_a_policy_at_its_next_claim(t: &mut Scene) {
    let second = t.storage().second_handle().await.expect("a second handle");
    put_in(t, "a", 6).await;
    let claim = async |handle: &dyn Storage| handle.claim(None, &t.queue, t.asking(1)).await.expect("claim").claims.len();
    assert_eq!((claim(t.storage()).await, claim(second.as_ref()).await), (1, 1));
    set_lane(t, "a", slots(3)).await;
    assert_eq!((claim(second.as_ref()).await, claim(t.storage()).await), (1, 0));
    assert_eq!(claim(second.as_ref()).await, 0);
    second.configure_lane(&t.queue, &lane("a"), Some(slots(4))).await.expect("configure_lane");
    assert_eq!((claim(t.storage()).await, claim(second.as_ref()).await), (1, 0));
    second.configure_lane(&t.queue, &lane("a"), None).await.expect("configure_lane");
    assert_eq!((claim(t.storage()).await, claim(second.as_ref()).await), (1, 1));
    second.close().await;
}
