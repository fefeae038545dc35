//! Every way out of Active gives the slot back, to the queue, the class and the lane, and nothing else does; so no slot is
//! lost for ever and none is given twice.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) slots_freed, __conformance_slots_freed:
    every_way_out_of_active_gives_the_slot_back,
    a_settled_slot_is_taken_in_the_same_call,
    a_request_to_cancel_keeps_the_slot_until_the_job_ends,
    an_expired_lease_keeps_its_slot_until_it_is_swept,
    a_renewed_lease_keeps_its_slot,
    a_stale_settlement_gives_no_slot_back,
    an_operators_retry_takes_a_slot_anew,
    slots_come_back_after_a_clock_that_stepped_back,
    an_obliterated_queue_leaves_no_slot_taken,
    parked_lanes_come_back_as_the_class_has_room,
}

/// How a job leaves Active.
#[derive(Clone, Debug)]
enum Way {
    Settle(Outcome),
    Cancelled,
    Lost,
    LostForGood,
    Kept(bool),
}

const WAYS: usize = 11;

fn way(n: usize) -> Way {
    match n {
        0 => Way::Settle(completed()),
        1 => Way::Settle(abort()),
        2 => Way::Settle(fail(HOUR)),
        3 => Way::Settle(fail(Duration::ZERO)),
        4 => Way::Settle(snoozed(HOUR)),
        5 => Way::Settle(released()),
        6 => Way::Cancelled,
        7 => Way::Lost,
        8 => Way::LostForGood,
        n => Way::Kept(n == 9),
    }
}

async fn leave(t: &Scene, way: &Way, claim: &Claim) {
    let answer = match way {
        Way::Settle(outcome) => t.settle(claim.lease, outcome.clone()).await,
        Way::Cancelled => {
            assert_eq!(t.act(claim.lease.id, Act::Cancel).await, ActAnswer::Requested);
            t.settle(claim.lease, Outcome::Cancelled).await
        }
        Way::Lost | Way::LostForGood => {
            assert_eq!(t.let_leases_expire().await.stalled, 1);
            return;
        }
        Way::Kept(true) => t.settle_with(claim.lease, completed(), [t.spec().delay(DAY)]).await,
        Way::Kept(false) => t.settle(claim.lease, completed()).await,
    };
    assert!(matches!(answer, SettleAnswer::Settled { .. }), "{answer:?}");
}

async fn every_way_out_of_active_gives_the_slot_back(t: &mut Scene) {
    for n in 0..WAYS {
        let way = way(n);
        for whose in ["queue", "class", "lane", "every lane"] {
            t.queue = queue_name(&format!("{whose} {n}"));
            match whose {
                "queue" => set_limits(t, at_once(1)).await,
                "class" => set_total(t, "c", at_once(1)).await,
                "lane" => set_lane(t, "c/a", slots(1)).await,
                _ => t.configure(|config| config.lanes.every = slots(1)).await,
            }
            let crashes = if matches!(way, Way::LostForGood) { 2 } else { 3 };
            let keep = if matches!(way, Way::Kept(_)) { KeepFor::Remove } else { KeepFor::QueueDefault };
            let job = t.spec().lane("c/a").crashes(crashes).options(|options| options.keep.completed = keep);
            let put = t.put([job, t.spec().lane("c/a")]).await;
            if matches!(way, Way::LostForGood) {
                t.claim_one().await;
                assert_eq!(t.let_leases_expire().await.stalled, 1);
            }
            let claim = t.claim_one().await;
            assert_eq!(claim.lease.id, put[0], "{whose}, {way:?}");
            assert_eq!(t.claim(10).await, [], "{whose}, {way:?}");
            leave(t, &way, &claim).await;
            let next = t.claim(10).await;
            assert_eq!(next.len(), 1, "{whose} after {way:?}");
            assert_eq!(t.claim(10).await, [], "{whose} after {way:?}");
            complete(t, &next).await;
        }
    }
}

async fn a_settled_slot_is_taken_in_the_same_call(t: &mut Scene) {
    t.configure(|config| {
        config.limits = at_once(1);
        let policy = config.lanes.classes.entry(class("c")).or_default();
        (policy.each, policy.total) = (slots(1), at_once(1));
    })
    .await;
    let put = put_in(t, "c/a", 3).await;
    let mut claim = t.claim_one().await;
    for next in &put[1..] {
        assert_eq!(t.claim(1).await, [], "the lane is set aside");
        let settlements = vec![settlement(claim.lease, completed())];
        let answer = t.exchange(None, settlements, Some(t.asking(10))).await.claimed.expect("an answer");
        assert_eq!(ids(&answer.claims), [*next]);
        claim = answer.claims[0].clone();
    }
}

async fn a_request_to_cancel_keeps_the_slot_until_the_job_ends(t: &mut Scene) {
    set_limits(t, at_once(1)).await;
    let put = t.put_many(2).await;
    let claim = t.claim_one().await;
    assert_eq!(t.act(put[0], Act::Cancel).await, ActAnswer::Requested);
    assert_eq!(t.claim(10).await, [], "its handler may still run");
    t.settle(claim.lease, Outcome::Cancelled).await;
    assert_eq!(ids(&t.claim(10).await), put[1..]);
}

async fn an_expired_lease_keeps_its_slot_until_it_is_swept(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    let put = put_in(t, "a", 2).await;
    t.claim_one().await;
    t.attend_for(TERM + SECOND).await;
    assert_eq!(t.claim(10).await, [], "the record still says Active");
    assert_eq!(t.sweep(10).await.stalled, 1);
    assert_eq!(ids(&t.claim(1).await), put[..1], "it keeps its place");
}

async fn a_renewed_lease_keeps_its_slot(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    put_in(t, "a", 2).await;
    let claim = t.claim_one().await;
    for _ in 0..4 {
        t.advance(TERM / 2);
        t.renew(claim.lease).await;
        assert_eq!(t.sweep(10).await.stalled, 0);
        assert_eq!(t.claim(10).await, []);
    }
}

async fn a_stale_settlement_gives_no_slot_back(t: &mut Scene) {
    t.configure(|config| config.limits = at_once(1)).await;
    set_lane(t, "a", slots(1)).await;
    put_in(t, "a", 3).await;
    let stale = t.claim_one().await.lease;
    t.let_leases_expire().await;
    let current = t.claim_one().await;
    assert_eq!(t.settle(stale, completed()).await, SettleAnswer::LeaseLost);
    assert_eq!(t.claim(10).await, []);
    complete(t, std::slice::from_ref(&current)).await;
    assert_eq!(t.settle(current.lease, completed()).await, SettleAnswer::AlreadyDone);
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn an_operators_retry_takes_a_slot_anew(t: &mut Scene) {
    set_limits(t, at_once(1)).await;
    let id = t.run(t.spec(), abort()).await;
    put_in(t, "a", 1).await;
    let other = t.claim_one().await;
    assert_eq!(t.act(id, Act::Retry { reset: true }).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(t.claim(10).await, []);
    complete(t, &[other]).await;
    assert_eq!(ids(&t.claim(10).await), [id]);
}

async fn slots_come_back_after_a_clock_that_stepped_back(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    t.advance(TEN_YEARS);
    put_in(t, "a", 3).await;
    let claim = t.claim_one().await;
    assert_eq!(t.claim(10).await, []);
    t.fixture.clock.step_back(TEN_YEARS);
    assert_eq!(t.claim(10).await, [], "its lease has its full term again");
    complete(t, &[claim]).await;
    t.claim_one().await;
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn an_obliterated_queue_leaves_no_slot_taken(t: &mut Scene) {
    for _ in 0..2 {
        t.configure(|config| {
            config.limits = at_once(1);
            config.lanes.classes.entry(class("c")).or_default().total = at_once(1);
        })
        .await;
        set_lane(t, "c/a", slots(1)).await;
        put_in(t, "c/a", 2).await;
        assert_eq!(t.claim(10).await.len(), 1);
        assert_eq!(t.claim(10).await.len(), 0);
        obliterate(t).await;
    }
}

async fn parked_lanes_come_back_as_the_class_has_room(t: &mut Scene) {
    set_total(t, "c", at_once(3)).await;
    for n in 0..8 {
        put_in(t, &format!("c/{n}"), 1).await;
    }
    let mut order = Vec::new();
    let mut claims = t.claim(100).await;
    while !claims.is_empty() {
        assert!(claims.len() <= 3);
        order.extend(lanes_of(&claims).iter().map(|name| (*name).to_owned()));
        complete(t, &claims).await;
        claims = t.claim(100).await;
    }
    assert_eq!(order, (0..8).map(|n| format!("c/{n}")).collect::<Vec<_>>(), "in the order of their turns");
}
