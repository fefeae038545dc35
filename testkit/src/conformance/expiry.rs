//! Jobs that are too old to start: Failed as expired when their turn comes, never handed out, and not a moment early.

use super::prelude::*;

topic! {
    ($) expiry, __conformance_expiry:
    an_expired_job_fails_when_its_turn_comes,
    a_job_may_start_at_the_instant_of_its_expiry,
    an_expired_job_uses_up_the_look,
    an_expired_job_stays_until_its_turn_comes,
    a_job_that_started_in_time_may_end_late,
    a_retried_run_is_too_late_like_a_first_one,
    a_delay_beyond_the_expiry_fails_the_job,
    an_operators_retry_starts_the_term_anew,
    an_expired_solo_job_gives_way_to_the_next,
    an_expired_job_of_an_unknown_kind_fails,
}

async fn an_expired_job_fails_when_its_turn_comes(t: &mut Scene) {
    let id = t.put_one(t.spec().expires_in(MINUTE)).await;
    let other = t.put_one(t.spec()).await;
    t.advance(MINUTE + Duration::from_micros(1));
    let seen = t.last_event().await;
    assert_eq!(ids(&t.claim(10).await), [other]);
    let record = t.record(id).await;
    assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::Expired)));
    assert_eq!((record.runs, record.attempts, record.epoch), (0, 0, 0));
    assert_eq!((record.finished_at, record.started_at), (Some(t.clock()), None));
    let errors = &record.notes.errors;
    assert_eq!((errors.len(), errors[0].kind, errors[0].run, errors[0].at), (1, ErrorKind::Expired, 0, t.clock()));
    let expected = [(EventKind::Failed, Some(id)), (EventKind::Started, Some(other))];
    assert_eq!(t.happened_after(seen).await, expected);
}

async fn a_job_may_start_at_the_instant_of_its_expiry(t: &mut Scene) {
    let id = t.put_one(t.spec().expires_in(MINUTE)).await;
    t.advance(MINUTE);
    assert_eq!(t.claim_one().await.lease.id, id);
}

async fn an_expired_job_uses_up_the_look(t: &mut Scene) {
    let put = t.put([t.spec().expires_in(SECOND), t.spec().expires_in(SECOND), t.spec()]).await;
    t.advance(MINUTE);
    let answer = t.claim_as(t.asking(2)).await;
    assert_eq!((answer.claims, answer.more), (vec![], true));
    assert_eq!(t.counts().await.failed, 2);
    assert_eq!(ids(&t.claim(2).await), put[2..]);
}

async fn an_expired_job_stays_until_its_turn_comes(t: &mut Scene) {
    let first = t.put_one(t.spec()).await;
    let id = t.put_one(t.spec().expires_in(SECOND)).await;
    t.advance(MINUTE);
    t.sweep(10).await;
    assert_eq!(ids(&t.claim(1).await), [first]);
    assert_eq!(t.state(id).await, JobState::Waiting);
}

async fn a_job_that_started_in_time_may_end_late(t: &mut Scene) {
    t.put_one(t.spec().expires_in(MINUTE)).await;
    let claim = t.claim_one().await;
    t.advance(HOUR);
    assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
}

async fn a_retried_run_is_too_late_like_a_first_one(t: &mut Scene) {
    let id = t.put_one(t.spec().expires_in(MINUTE)).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, fail(HOUR)).await;
    t.advance(HOUR);
    assert_eq!(t.claim(1).await, []);
    let record = t.record(id).await;
    assert_eq!((record.failure, record.runs, record.attempts), (Some(FailReason::Expired), 1, 1));
    assert_eq!(record.notes.errors[1].run, 1);
    assert_eq!(record.epoch, claim.lease.epoch);
}

async fn a_delay_beyond_the_expiry_fails_the_job(t: &mut Scene) {
    let id = t.put_one(t.spec().expires_in(MINUTE).delay(HOUR)).await;
    t.advance(HOUR);
    assert_eq!(t.claim(1).await, []);
    assert_eq!(t.record(id).await.failure, Some(FailReason::Expired));
}

async fn an_operators_retry_starts_the_term_anew(t: &mut Scene) {
    let id = t.put_one(t.spec().expires_in(MINUTE)).await;
    t.advance(HOUR);
    assert_eq!(t.claim(1).await, []);
    assert_eq!(t.act(id, Act::Retry { reset: false }).await, ActAnswer::Done(JobState::Waiting));
    let record = t.record(id).await;
    assert_eq!((record.expires_at, record.failure), (Some(t.clock().after(MINUTE)), None));
    t.advance(MINUTE);
    assert_eq!(t.claim_one().await.lease.id, id);
}

async fn an_expired_solo_job_gives_way_to_the_next(t: &mut Scene) {
    let put = t.put([t.spec().crashes(1).expires_in(SECOND), t.spec().crashes(1), t.spec()]).await;
    t.advance(MINUTE);
    assert_eq!(ids(&t.claim(10).await), [put[1]]);
    assert_eq!(t.record(put[0]).await.failure, Some(FailReason::Expired));
}

async fn an_expired_job_of_an_unknown_kind_fails(t: &mut Scene) {
    let id = t.put_one(t.spec().of_kind("unknown").expires_in(SECOND)).await;
    t.advance(MINUTE);
    assert_eq!(t.claim(1).await, []);
    assert_eq!(t.record(id).await.failure, Some(FailReason::Expired));
}
