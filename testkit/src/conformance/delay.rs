//! Jobs that wait for their time, and how they come forward: by their due time, bounded, by a claim or a sweep alike.

use super::prelude::*;

topic! {
    ($) delay, __conformance_delay:
    a_delayed_job_is_not_claimed_before_its_time,
    a_job_is_due_at_the_very_instant,
    an_instant_in_the_past_is_now,
    an_instant_to_come_is_waited_for,
    no_delay_at_all_is_waiting,
    a_claim_promotes_what_is_due,
    a_sweep_promotes_what_is_due,
    a_sweep_promotes_by_due_time_then_seq,
    a_claim_promotes_a_bounded_number_by_due_time,
    promoted_jobs_are_served_by_priority,
    a_delay_beyond_all_time_is_never_due,
}

async fn a_delayed_job_is_not_claimed_before_its_time(t: &mut Scene) {
    let id = t.put_one(t.spec().delay(MINUTE)).await;
    let record = t.record(id).await;
    assert_eq!((record.state, record.due_at), (JobState::Delayed, t.clock().after(MINUTE)));
    t.advance(MINUTE - Duration::from_micros(1));
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!((answer.claims, answer.more), (vec![], false));
    assert_eq!(answer.look_again, Some(Duration::from_micros(1)));
    assert_eq!(t.state(id).await, JobState::Delayed);
}

async fn a_job_is_due_at_the_very_instant(t: &mut Scene) {
    let id = t.put_one(t.spec().delay(MINUTE)).await;
    t.advance(MINUTE);
    let claim = t.claim_one().await;
    assert_eq!((claim.lease.id, claim.started_at), (id, t.clock()));
}

async fn an_instant_in_the_past_is_now(t: &mut Scene) {
    let ids =
        t.put([t.spec().at(t.clock().before(DAY)), t.spec().at(t.clock()), t.spec().at(Timestamp::default())]).await;
    for id in ids {
        let record = t.record(id).await;
        assert_eq!((record.state, record.due_at), (JobState::Waiting, t.clock()));
    }
}

async fn an_instant_to_come_is_waited_for(t: &mut Scene) {
    let at = t.clock().after(DAY);
    let id = t.put_one(t.spec().at(at)).await;
    t.advance(HOUR);
    assert_eq!(t.record(id).await.due_at, at);
    assert_eq!(t.claim_as(t.asking(1)).await.look_again, Some(DAY - HOUR));
}

async fn no_delay_at_all_is_waiting(t: &mut Scene) {
    let id = t.put_one(t.spec().delay(Duration::ZERO)).await;
    assert_eq!(t.state(id).await, JobState::Waiting);
}

async fn a_claim_promotes_what_is_due(t: &mut Scene) {
    let put = t.put([t.spec().delay(SECOND), t.spec().delay(SECOND), t.spec().delay(HOUR)]).await;
    t.advance(SECOND);
    let seen = t.last_event().await;
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!((ids(&answer.claims), answer.more), (vec![put[0]], true));
    assert_eq!(t.state(put[1]).await, JobState::Waiting);
    assert_eq!(t.state(put[2]).await, JobState::Delayed);
    let expected =
        [(EventKind::Promoted, Some(put[0])), (EventKind::Promoted, Some(put[1])), (EventKind::Started, Some(put[0]))];
    assert_eq!(t.happened_after(seen).await, expected);
}

async fn a_sweep_promotes_what_is_due(t: &mut Scene) {
    let put = t.put([t.spec().delay(SECOND), t.spec().delay(HOUR)]).await;
    t.advance(SECOND);
    let seen = t.last_event().await;
    let answer = t.sweep(10).await;
    assert_eq!((answer.stalled, answer.promoted, answer.pruned, answer.more), (0, 1, 0, false));
    assert_eq!(answer.next, Some(HOUR - SECOND));
    let record = t.record(put[0]).await;
    assert_eq!((record.state, record.slot, record.due_at), (JobState::Waiting, Slot::Lane, t.clock()));
    assert_eq!(t.happened_after(seen).await, [(EventKind::Promoted, Some(put[0]))]);
}

async fn a_sweep_promotes_by_due_time_then_seq(t: &mut Scene) {
    let put = t.put([3, 1, 2, 1].map(|seconds| t.spec().delay(seconds * SECOND))).await;
    t.advance(MINUTE);
    for id in [put[1], put[3], put[2], put[0]] {
        let seen = t.last_event().await;
        let answer = t.sweep(1).await;
        assert_eq!((answer.promoted, answer.more), (1, id != put[0]));
        assert_eq!(t.happened_after(seen).await, [(EventKind::Promoted, Some(id))]);
    }
}

async fn a_claim_promotes_a_bounded_number_by_due_time(t: &mut Scene) {
    // The last ones put are due first, so that due time and seq disagree.
    let count = PROMOTE_ITEMS_MAX + 3;
    let put = t.put((0..count).map(|i| t.spec().delay(SECOND * (count - i) as u32))).await;
    t.advance(SECOND * count as u32);
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!(ids(&answer.claims), [put[3]], "the first by seq of those promoted");
    assert_eq!((answer.more, answer.look_again), (true, Some(Duration::ZERO)));
    let counts = t.counts().await;
    assert_eq!((counts.delayed, counts.waiting, counts.active), (3, PROMOTE_ITEMS_MAX as u64 - 1, 1));
    for id in &put[..3] {
        assert_eq!(t.state(*id).await, JobState::Delayed);
    }
    assert_eq!(ids(&t.claim(3).await), put[..3]);
}

async fn promoted_jobs_are_served_by_priority(t: &mut Scene) {
    let put = t.put([(1, 9), (2, 5), (3, 1)].map(|(s, priority)| t.spec().delay(s * SECOND).priority(priority))).await;
    t.advance(MINUTE);
    assert_eq!(ids(&t.claim(10).await), [put[2], put[1], put[0]]);
}

async fn a_delay_beyond_all_time_is_never_due(t: &mut Scene) {
    let put = t.put([t.spec().delay(Duration::MAX), t.spec().at(Timestamp::MAX)]).await;
    for id in put {
        let record = t.record(id).await;
        assert_eq!((record.state, record.due_at), (JobState::Delayed, Timestamp::MAX));
    }
    t.advance(TEN_YEARS);
    assert_eq!(t.claim(10).await, []);
}
