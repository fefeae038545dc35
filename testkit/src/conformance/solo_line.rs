//! The solo line under limits and pauses: who is told that a job there may start, when one that is held back may, and that none
//! of those keeps another from its turn.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) solo_line, __conformance_solo_line:
    a_solo_job_that_is_held_back_is_told_apart_from_one_that_may_start,
    a_claim_tells_the_same_whoever_makes_it,
    what_the_lanes_take_in_a_claim_might_have_been_the_solo_jobs,
    a_solo_job_opens_when_the_last_of_its_rates_does,
    a_full_queue_opens_its_solo_line,
    the_soonest_of_all_held_solo_jobs_is_told,
    solo_jobs_that_are_held_back_are_gone_past,
    a_claim_goes_past_a_thousand_solo_jobs_and_no_more,
    a_claim_looks_at_no_more_solo_jobs_than_it_asks_for,
    a_paused_queue_tells_nothing_of_its_solo_line,
}

async fn put_solo(t: &Scene, name: &str) -> JobId {
    t.put_one(t.spec().lane(name).crashes(1)).await
}

/// What a claim says of the solo line, and when to look again.
async fn told(t: &Scene, alone: bool) -> (bool, bool, Option<Duration>) {
    let answer = t.claim_as(ClaimSpec { alone, ..t.asking(10) }).await;
    assert_eq!(answer.claims, []);
    assert!(!answer.more, "nothing is to be had by asking again");
    (answer.solo_waiting, answer.solo_held, answer.look_again)
}

const MAY_START: (bool, bool, Option<Duration>) = (true, false, None);
const HELD: (bool, bool, Option<Duration>) = (false, true, None);

async fn a_solo_job_that_is_held_back_is_told_apart_from_one_that_may_start(t: &mut Scene) {
    for how in ["lane slots", "class slots", "queue slots", "lane", "class", "every lane"] {
        t.queue = queue_name(&how.replace(' ', "-"));
        match how {
            "lane slots" => set_lane(t, "c/a", slots(1)).await,
            "class slots" => set_total(t, "c", at_once(1)).await,
            "queue slots" => set_limits(t, at_once(1)).await,
            _ => {}
        }
        let full = put_in(t, "c/a", 1).await;
        let claims = t.claim(1).await;
        assert_eq!(ids(&claims), full, "{how}");
        match how {
            "lane" => set_lane(t, "c/a", paused()).await,
            "class" => set_each(t, "c", paused()).await,
            "every lane" => t.configure(|config| config.lanes.every = paused()).await,
            _ => {}
        }
        let held = put_solo(t, "c/a").await;
        assert_eq!((told(t, false).await, told(t, true).await), (HELD, HELD), "{how}");
        complete(t, &claims).await;
        match how {
            "lane" => clear_lane(t, "c/a").await,
            "class" => set_each(t, "c", LanePolicy::default()).await,
            "every lane" => t.configure(|config| config.lanes.every = LanePolicy::default()).await,
            _ => {}
        }
        assert_eq!(told(t, false).await, MAY_START, "{how}");
        let answer = t.claim_as(t.asking(10)).await;
        assert_eq!((ids(&answer.claims), answer.solo_waiting, answer.solo_held), (vec![held], false, false), "{how}");
    }
}

async fn a_claim_tells_the_same_whoever_makes_it(t: &mut Scene) {
    set_lane(t, "a", paused()).await;
    put_solo(t, "a").await;
    let free = put_solo(t, "b").await;
    assert_eq!(told(t, false).await, MAY_START);
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.solo_waiting, answer.solo_held), (vec![free], false, true));
    put_in(t, "b", 1).await;
    let answer = t.claim_as(ClaimSpec { alone: false, ..t.asking(10) }).await;
    assert_eq!((answer.claims.len(), answer.solo_waiting, answer.solo_held), (1, false, true));
}

async fn what_the_lanes_take_in_a_claim_might_have_been_the_solo_jobs(t: &mut Scene) {
    set_lane(t, "a", slots(1)).await;
    let plain = put_in(t, "a", 2).await;
    let solo = put_solo(t, "a").await;
    let together = ClaimSpec { alone: false, ..t.asking(10) };
    for id in &plain {
        let answer = t.claim_as(together.clone()).await;
        assert_eq!((ids(&answer.claims), answer.solo_waiting, answer.solo_held), (vec![*id], true, false));
        assert_eq!(told(t, false).await, HELD);
        complete(t, &answer.claims).await;
    }
    assert_eq!(ids(&t.claim(10).await), [solo]);
}

async fn a_solo_job_opens_when_the_last_of_its_rates_does(t: &mut Scene) {
    set_lane(t, "c/a", starts(&Rate::per_minute(1))).await;
    set_total(t, "c", per(&Rate::per_hour(1))).await;
    put_in(t, "c/a", 1).await;
    assert_eq!(start_all(t).await.0, 1);
    let solo = put_solo(t, "c/a").await;
    let until = |span| (false, true, Some(span));
    assert_eq!((told(t, false).await, told(t, true).await), (until(HOUR), until(HOUR)));
    t.advance(MINUTE);
    assert_eq!(told(t, false).await, until(HOUR - MINUTE), "the lane's is open again");
    set_total(t, "c", at_once(1)).await;
    t.advance(HOUR);
    let claims = t.claim(10).await;
    assert_eq!(ids(&claims), [solo]);
    put_solo(t, "c/a").await;
    assert_eq!(told(t, true).await, HELD, "time alone does not help");
    complete(t, &claims).await;
    assert_eq!(told(t, true).await, until(MINUTE));
}

async fn a_full_queue_opens_its_solo_line(t: &mut Scene) {
    set_limits(t, per(&Rate::per_minute(1))).await;
    t.put_many(1).await;
    assert_eq!(start_all(t).await.0, 1);
    set_lane(t, "a", paused()).await;
    put_solo(t, "a").await;
    // Nobody looks at the lanes of jobs that can't start in any of them.
    assert_eq!(told(t, true).await, (false, true, Some(MINUTE)));
    t.advance(MINUTE);
    assert_eq!(told(t, true).await, HELD);
}

async fn the_soonest_of_all_held_solo_jobs_is_told(t: &mut Scene) {
    for (name, window) in [("a", MINUTE), ("b", 10 * SECOND), ("c", HOUR)] {
        set_lane(t, name, starts(&Rate::sliding(1, window))).await;
        put_in(t, name, 1).await;
    }
    assert_eq!(start_all(t).await.0, 3);
    for name in ["a", "b", "c"] {
        put_solo(t, name).await;
    }
    for (wait, name) in [(10 * SECOND, "b"), (50 * SECOND, "a"), (HOUR - MINUTE, "c")] {
        assert_eq!(told(t, true).await, (false, true, Some(wait)));
        t.advance(wait);
        let claims = t.claim(10).await;
        assert_eq!(lanes_of(&claims), [name]);
        complete(t, &claims).await;
    }
    assert_eq!(told(t, true).await, (false, false, None));
}

async fn solo_jobs_that_are_held_back_are_gone_past(t: &mut Scene) {
    set_lane(t, "a", paused()).await;
    let held = t.put((0..60).map(|_| t.spec().lane("a").crashes(1))).await;
    let free = t.put(["b", "c"].map(|name| t.spec().lane(name).crashes(1))).await;
    for id in free {
        assert_eq!(told(t, false).await, MAY_START);
        assert_eq!(ids(&t.claim(1).await), [id]);
    }
    assert_eq!(told(t, true).await, HELD);
    clear_lane(t, "a").await;
    assert_eq!(ids(&t.claim(1).await), held[..1]);
}

async fn a_claim_goes_past_a_thousand_solo_jobs_and_no_more(t: &mut Scene) {
    set_lane(t, "a", paused()).await;
    let held = t.put((0..SOLO_ITEMS_MAX).map(|_| t.spec().lane("a").crashes(1))).await;
    let free = put_solo(t, "b").await;
    assert_eq!((told(t, false).await, told(t, true).await), (HELD, HELD));
    t.act(held[500], Act::Cancel).await;
    assert_eq!(told(t, false).await, MAY_START);
    assert_eq!(ids(&t.claim(1).await), [free]);
}

async fn a_claim_looks_at_no_more_solo_jobs_than_it_asks_for(t: &mut Scene) {
    set_lane(t, "a", paused()).await;
    let held = put_solo(t, "a").await;
    let late = t.put((0..3).map(|_| t.spec().lane("b").crashes(1).expires_in(SECOND))).await;
    let last = put_solo(t, "b").await;
    t.advance(MINUTE);
    let answer = t.claim_as(t.asking(2)).await;
    assert_eq!((ids(&answer.claims), answer.solo_waiting), (vec![], true));
    let answer = t.claim_as(t.asking(2)).await;
    assert_eq!((ids(&answer.claims), answer.solo_waiting, answer.solo_held), (vec![last], false, true));
    for id in late {
        assert_eq!(t.record(id).await.failure, Some(FailReason::Expired));
    }
    assert_eq!(t.record(held).await.slot, Slot::Solo);
}

async fn a_paused_queue_tells_nothing_of_its_solo_line(t: &mut Scene) {
    let id = put_solo(t, "a").await;
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    assert_eq!((told(t, false).await, told(t, true).await), ((false, false, None), (false, false, None)));
    t.storage().set_paused(&t.queue, false).await.expect("set_paused");
    assert_eq!(ids(&t.claim(10).await), [id]);
}
