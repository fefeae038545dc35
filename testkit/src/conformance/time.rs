//! Time as storages must keep it: never back for a small lag, anchored anew after a large one, and patient with leases
//! after an outage, once.

use super::prelude::*;

topic! {
    ($) time, __conformance_time:
    a_small_lag_stops_time,
    a_small_lag_delays_and_forgets_nothing,
    a_step_back_of_a_minute_anchors_time_anew,
    a_step_back_by_an_hour_keeps_every_lease_for_its_full_term,
    a_step_back_by_ten_years_keeps_the_queue_working,
    a_step_back_is_told_once,
    any_writing_call_notices_a_step_back,
    epochs_rise_across_a_step_back,
    a_jump_by_an_hour_extends_leases_once,
    a_jump_by_ten_years_extends_leases_once,
    an_outage_is_noticed_by_a_claim_too,
    an_outage_is_noticed_by_a_renewal_too,
    half_a_term_is_no_outage,
    an_outage_extends_only_leases_it_was_long_for,
    an_idle_queue_has_no_outage,
    a_second_outage_extends_again,
    each_queue_keeps_its_own_time,
    time_is_read_without_being_moved,
}

async fn now(t: &Scene) -> Timestamp {
    t.storage().now(&t.queue).await.expect("now")
}

async fn a_small_lag_stops_time(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let before = t.clock();
    t.fixture.clock.step_back(59 * SECOND);
    assert_eq!(now(t).await, before);
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.record(id).await.created_at, before);
    t.advance(58 * SECOND);
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.record(id).await.created_at, before);
    t.advance(2 * SECOND);
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.record(id).await.created_at, before.after(SECOND));
}

async fn a_small_lag_delays_and_forgets_nothing(t: &mut Scene) {
    t.put([t.spec(), t.spec().delay(MINUTE)]).await;
    let claim = t.claim_one().await;
    t.fixture.clock.step_back(30 * SECOND);
    let seen = t.last_event().await;
    assert_eq!(t.sweep(10).await, SweepAnswer { next: Some(TERM), ..SweepAnswer::default() });
    assert_eq!(t.record(claim.lease.id).await.lease_until, Some(claim.started_at.after(TERM)));
    assert_eq!(t.claim_as(t.asking(1)).await.look_again, Some(MINUTE));
    assert_eq!(t.happened_after(seen).await, []);
}

async fn a_step_back_of_a_minute_anchors_time_anew(t: &mut Scene) {
    t.put_one(t.spec()).await;
    t.fixture.clock.step_back(MINUTE);
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.record(id).await.created_at, t.clock());
    assert_eq!(now(t).await, t.clock());
}

async fn a_step_back_by_an_hour_keeps_every_lease_for_its_full_term(t: &mut Scene) {
    t.put_many(2).await;
    let short = t.claim_one().await;
    let long = t.claim_as(ClaimSpec { term: 10 * TERM, ..t.asking(1) }).await.claims.remove(0);
    t.advance(10 * SECOND);
    t.attend().await;
    t.fixture.clock.step_back(HOUR);
    assert_eq!(t.sweep(10).await.stalled, 0);
    assert_eq!(t.record(short.lease.id).await.lease_until, Some(t.clock().after(TERM)));
    assert_eq!(t.record(long.lease.id).await.lease_until, Some(t.clock().after(10 * TERM)));
    assert_eq!(t.let_leases_expire().await.stalled, 1, "and then they run out as ever");
    assert_eq!(t.settle(long.lease, completed()).await, settled(JobState::Completed));
}

async fn a_step_back_by_ten_years_keeps_the_queue_working(t: &mut Scene) {
    let put = t.put([t.spec(), t.spec().delay(MINUTE), t.spec()]).await;
    let claim = t.claim_one().await;
    t.fixture.clock.step_back(TEN_YEARS);
    assert_eq!(t.renew(claim.lease).await, RenewAnswer::Renewed { cancel_requested: false });
    assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
    assert_eq!(t.record(put[0]).await.finished_at, Some(t.clock()));
    let next = t.claim_one().await;
    assert_eq!((next.lease.id, next.started_at), (put[2], t.clock()));
    let look_again = t.claim_as(t.asking(1)).await.look_again;
    assert_eq!(look_again, Some(TEN_YEARS + MINUTE), "a delay by instants waits for its instant");
    assert_eq!(t.act(put[1], Act::Promote).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(ids(&t.claim(1).await), [put[1]]);
}

async fn a_step_back_is_told_once(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let seen = t.last_event().await;
    t.fixture.clock.step_back(HOUR);
    let id = t.put_one(t.spec()).await;
    t.put_one(t.spec().delay(DAY)).await;
    t.sweep(10).await;
    let told = t.events_after(seen).await;
    assert_eq!((told[0].kind, told[0].job, told[0].at), (EventKind::ClockSteppedBack, None, t.clock()));
    assert_eq!((told[1].kind, told[1].job), (EventKind::Enqueued, Some(id)));
    let steps = told.iter().filter(|event| event.kind == EventKind::ClockSteppedBack).count();
    assert_eq!(steps, 1);
}

async fn any_writing_call_notices_a_step_back(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    for call in 0..6 {
        let seen = t.last_event().await;
        t.fixture.clock.step_back(HOUR);
        match call {
            0 => assert_eq!(t.renew(lease).await, RenewAnswer::Renewed { cancel_requested: false }),
            1 => {
                let note = Note { log: vec!["x".to_owned()], ..Note::default() };
                assert_eq!(t.annotate(lease, note).await, NoteAnswer::Noted);
            }
            2 => assert_eq!(t.act(id, Act::SetPriority(Priority(1))).await, ActAnswer::Done(JobState::Active)),
            3 => assert_eq!(t.sweep(10).await.stalled, 0),
            4 => assert_eq!(t.claim(1).await, []),
            _ => assert!(t.storage().set_paused(&t.queue, true).await.expect("set_paused")),
        }
        let told = t.happened_after(seen).await;
        assert_eq!(told.first(), Some(&(EventKind::ClockSteppedBack, None)), "call {call}: {told:?}");
        assert_eq!(t.record(id).await.lease_until, Some(t.clock().after(TERM)), "call {call}");
    }
}

async fn epochs_rise_across_a_step_back(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let first = t.claim_one().await.lease;
    t.settle(first, released()).await;
    t.fixture.clock.step_back(TEN_YEARS);
    let second = t.claim_one().await.lease;
    assert_eq!(second.epoch, first.epoch + 1);
    assert_eq!(t.settle(first, completed()).await, SettleAnswer::LeaseLost);
}

async fn jump(t: &Scene, span: Duration) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let seen = t.last_event().await;
    t.advance(span);
    let answer = t.sweep(10).await;
    assert_eq!((answer.stalled, answer.next), (0, Some(TERM)), "it was the store that stood still, not the worker");
    assert_eq!(t.record(claim.lease.id).await.lease_until, Some(t.clock().after(TERM)));
    assert_eq!(t.happened_after(seen).await, [(EventKind::LeasesExtended, None)]);
    assert_eq!(t.let_leases_expire().await.stalled, 1, "once");
    assert_eq!(t.settle(claim.lease, completed()).await, SettleAnswer::LeaseLost);
}

async fn a_jump_by_an_hour_extends_leases_once(t: &mut Scene) {
    jump(t, HOUR).await;
}

async fn a_jump_by_ten_years_extends_leases_once(t: &mut Scene) {
    jump(t, TEN_YEARS).await;
}

async fn an_outage_is_noticed_by_a_claim_too(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    t.advance(HOUR);
    assert_eq!(t.claim(10).await, []);
    assert_eq!(t.record(claim.lease.id).await.lease_until, Some(t.clock().after(TERM)));
    assert_eq!(t.sweep(10).await.stalled, 0);
}

async fn an_outage_is_noticed_by_a_renewal_too(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    t.advance(HOUR);
    assert_eq!(t.renew(claims[0].lease).await, RenewAnswer::Renewed { cancel_requested: false });
    assert_eq!(t.record(claims[1].lease.id).await.lease_until, Some(t.clock().after(TERM)), "the other one as well");
    assert_eq!(t.sweep(10).await.stalled, 0);
}

async fn half_a_term_is_no_outage(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let seen = t.last_event().await;
    let until = Some(t.clock().after(TERM));
    t.advance(TERM / 2);
    t.attend().await;
    assert_eq!(t.record(claim.lease.id).await.lease_until, until);
    t.advance(TERM / 2);
    assert_eq!(t.sweep(10).await.stalled, 1);
    assert!(!t.happened_after(seen).await.contains(&(EventKind::LeasesExtended, None)));
}

async fn an_outage_extends_only_leases_it_was_long_for(t: &mut Scene) {
    t.put_many(2).await;
    let short = t.claim_one().await;
    let long = t.claim_as(ClaimSpec { term: HOUR, ..t.asking(1) }).await.claims.remove(0);
    let claimed_at = t.clock();
    t.advance(20 * SECOND);
    t.sweep(10).await;
    assert_eq!(t.record(short.lease.id).await.lease_until, Some(t.clock().after(TERM)));
    assert_eq!(t.record(long.lease.id).await.lease_until, Some(claimed_at.after(HOUR)));
}

async fn an_idle_queue_has_no_outage(t: &mut Scene) {
    t.run(t.spec(), completed()).await;
    t.advance(DAY);
    t.put_one(t.spec()).await;
    t.advance(DAY);
    let seen = t.last_event().await;
    let claim = t.claim_one().await;
    assert_eq!(t.let_leases_expire().await.stalled, 1, "idle time counts for nothing");
    assert_eq!(t.happened_after(seen).await.len(), 2);
    assert_eq!(t.state(claim.lease.id).await, JobState::Waiting);
}

async fn a_second_outage_extends_again(t: &mut Scene) {
    t.put_one(t.spec()).await;
    t.claim_one().await;
    for _ in 0..3 {
        t.advance(HOUR);
        assert_eq!(t.sweep(10).await.stalled, 0);
    }
}

async fn each_queue_keeps_its_own_time(t: &mut Scene) {
    let other = queue_name("another");
    t.put_one(t.spec()).await;
    t.advance(DAY);
    t.put_one(spec(&other)).await;
    t.fixture.clock.step_back(DAY);
    let seen = t.last_event().await;
    t.put_one(t.spec()).await;
    assert!(!t.happened_after(seen).await.contains(&(EventKind::ClockSteppedBack, None)));
    t.put_one(spec(&other)).await;
    let events = t.storage().events(&other, EventCursor::default(), 10).await.expect("events").events;
    assert_eq!(events[1].kind, EventKind::ClockSteppedBack);
}

async fn time_is_read_without_being_moved(t: &mut Scene) {
    assert_eq!(now(t).await, t.clock(), "a queue that does not exist has the clock's time");
    let start = t.clock();
    t.put_one(t.spec()).await;
    t.advance(HOUR);
    assert_eq!(now(t).await, t.clock());
    // Had the look moved it, this would be a step back by an hour.
    t.fixture.clock.set(start);
    let seen = t.last_event().await;
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.happened_after(seen).await, [(EventKind::Enqueued, Some(id))]);
}
