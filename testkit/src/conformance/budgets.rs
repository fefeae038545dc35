//! The two budgets: failed runs use up the attempts, lost leases the crashes, nothing else uses up either, and a job
//! on its last crash runs alone.

use super::prelude::*;

topic! {
    ($) budgets, __conformance_budgets:
    the_last_attempt_fails_the_job,
    one_attempt_means_one_run,
    releases_and_snoozes_never_fail_a_job,
    the_last_crash_fails_the_job,
    a_lost_lease_leaves_an_error_and_uses_up_a_crash,
    attempts_and_crashes_are_counted_apart,
    a_lost_lease_of_a_cancelled_run_ends_cancelled,
    a_job_on_its_last_crash_goes_to_nobody_who_is_not_alone,
    a_job_on_its_last_crash_is_the_only_one_of_its_answer,
    a_job_with_one_crash_is_solo_from_the_start,
    solo_jobs_are_served_by_priority_then_seq,
    a_solo_job_that_ends_well_is_like_any_other,
    a_failed_run_of_a_solo_job_leaves_it_solo,
    a_solo_job_that_comes_due_stays_solo,
}

async fn the_last_attempt_fails_the_job(t: &mut Scene) {
    let id = t.put_one(t.spec().attempts(3)).await;
    for run in 1..=2 {
        let claim = t.claim_one().await;
        assert_eq!((claim.run, claim.attempts), (run, run - 1));
        assert_eq!(t.settle(claim.lease, fail(Duration::ZERO)).await, settled(JobState::Waiting));
    }
    let claim = t.claim_one().await;
    assert_eq!(t.settle(claim.lease, fail(Duration::ZERO)).await, settled(JobState::Failed));
    let record = t.record(id).await;
    assert_eq!((record.attempts, record.failure), (3, Some(FailReason::AttemptsExhausted)));
    assert_eq!(record.notes.errors.len(), 3);
    assert_eq!(t.claim(1).await, []);
}

async fn one_attempt_means_one_run(t: &mut Scene) {
    let id = t.run(t.spec().attempts(1), fail(HOUR)).await;
    assert_eq!(t.record(id).await.failure, Some(FailReason::AttemptsExhausted));
}

async fn releases_and_snoozes_never_fail_a_job(t: &mut Scene) {
    t.put_one(t.spec().attempts(1).crashes(2)).await;
    for run in 1..=10 {
        let claim = t.claim_one().await;
        assert_eq!((claim.run, claim.attempts, claim.crashes, claim.solo), (run, 0, 0, false));
        let outcome = if run % 2 == 0 { released() } else { snoozed(Duration::ZERO) };
        assert_eq!(t.settle(claim.lease, outcome).await, settled(JobState::Waiting));
    }
}

async fn the_last_crash_fails_the_job(t: &mut Scene) {
    let id = t.put_one(t.spec().crashes(3)).await;
    for crash in 1..=3 {
        let claim = t.claim_one().await;
        assert_eq!((claim.crashes, claim.solo), (crash - 1, crash == 3));
        assert_eq!(t.let_leases_expire().await.stalled, 1);
    }
    let record = t.record(id).await;
    assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::CrashesExhausted)));
    assert_eq!((record.crashes, record.attempts, record.runs), (3, 0, 3));
    assert_eq!(record.finished_at, Some(t.clock()));
    assert_eq!(t.claim(1).await, []);
}

async fn a_lost_lease_leaves_an_error_and_uses_up_a_crash(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    t.let_leases_expire().await;
    let record = t.record(id).await;
    assert_eq!((record.state, record.slot), (JobState::Waiting, Slot::Lane));
    assert_eq!((record.crashes, record.attempts, record.runs), (1, 0, 1));
    assert!(record.epoch > lease.epoch);
    let errors = &record.notes.errors;
    assert_eq!((errors.len(), errors[0].kind, errors[0].run, errors[0].at), (1, ErrorKind::Crash, 1, t.clock()));
}

async fn attempts_and_crashes_are_counted_apart(t: &mut Scene) {
    let id = t.put_one(t.spec().attempts(2).crashes(3)).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, fail(Duration::ZERO)).await;
    let record = t.record(id).await;
    assert_eq!((record.attempts, record.crashes, record.state), (1, 1, JobState::Waiting));
    let claim = t.claim_one().await;
    assert_eq!((claim.attempts, claim.crashes, claim.run), (1, 1, 3));
    t.settle(claim.lease, fail(Duration::ZERO)).await;
    assert_eq!(t.record(id).await.failure, Some(FailReason::AttemptsExhausted));
}

async fn a_lost_lease_of_a_cancelled_run_ends_cancelled(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    t.claim_one().await;
    assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Requested);
    let seen = t.last_event().await;
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    assert_eq!(t.state(id).await, JobState::Cancelled);
    let expected = [(EventKind::Stalled, Some(id)), (EventKind::Cancelled, Some(id))];
    assert_eq!(t.happened_after(seen).await, expected);
}

/// A job that lost all leases but the last.
async fn solo(t: &Scene) -> JobId {
    let id = t.put_one(t.spec().crashes(2)).await;
    let claim = t.claim_one().await;
    assert_eq!((claim.lease.id, claim.solo), (id, false));
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    assert_eq!(t.record(id).await.slot, Slot::Solo);
    id
}

async fn a_job_on_its_last_crash_goes_to_nobody_who_is_not_alone(t: &mut Scene) {
    let id = solo(t).await;
    let together = ClaimSpec { alone: false, ..t.asking(10) };
    let answer = t.claim_as(together.clone()).await;
    assert_eq!(answer.claims, []);
    assert!(answer.solo_waiting && !answer.more);
    let other = t.put_one(t.spec()).await;
    let answer = t.claim_as(together).await;
    assert_eq!((ids(&answer.claims), answer.solo_waiting), (vec![other], true));
    assert_eq!(t.counts().await.waiting, 1, "the solo line counts as waiting");
    assert_eq!(t.claim_one().await.lease.id, id);
}

async fn a_job_on_its_last_crash_is_the_only_one_of_its_answer(t: &mut Scene) {
    let id = solo(t).await;
    let urgent = t.put([t.spec().priority(0), t.spec()]).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!(ids(&answer.claims), [id], "the solo line comes before the line");
    assert!(answer.claims[0].solo && answer.more && !answer.solo_waiting);
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!(ids(&answer.claims), urgent);
    assert!(answer.claims.iter().all(|claim| !claim.solo));
}

async fn a_job_with_one_crash_is_solo_from_the_start(t: &mut Scene) {
    let id = t.put_one(t.spec().crashes(1)).await;
    assert_eq!(t.record(id).await.slot, Slot::Solo);
    assert_eq!(t.claim_as(ClaimSpec { alone: false, ..t.asking(1) }).await.claims, []);
    assert!(t.claim_one().await.solo);
    t.let_leases_expire().await;
    assert_eq!(t.record(id).await.failure, Some(FailReason::CrashesExhausted));
}

async fn solo_jobs_are_served_by_priority_then_seq(t: &mut Scene) {
    let put = t.put([5, 1, 5].map(|priority| t.spec().crashes(1).priority(priority))).await;
    let mut served = Vec::new();
    for _ in 0..3 {
        let answer = t.claim_as(t.asking(10)).await;
        assert_eq!(answer.solo_waiting, served.len() < 2);
        served.extend(ids(&answer.claims));
    }
    assert_eq!(served, [put[1], put[0], put[2]]);
}

async fn a_solo_job_that_ends_well_is_like_any_other(t: &mut Scene) {
    let id = solo(t).await;
    let claim = t.claim_one().await;
    assert_eq!(t.record(id).await.slot, Slot::Lane, "only a waiting job stands in a line");
    assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
}

async fn a_failed_run_of_a_solo_job_leaves_it_solo(t: &mut Scene) {
    let id = solo(t).await;
    for outcome in [fail(Duration::ZERO), released(), snoozed(Duration::ZERO)] {
        let claim = t.claim_one().await;
        assert!(claim.solo);
        assert_eq!(t.settle(claim.lease, outcome).await, settled(JobState::Waiting));
        assert_eq!(t.record(id).await.slot, Slot::Solo);
    }
}

async fn a_solo_job_that_comes_due_stays_solo(t: &mut Scene) {
    let id = solo(t).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, fail(MINUTE)).await;
    assert_eq!(t.record(id).await.slot, Slot::Lane);
    t.advance(MINUTE);
    assert_eq!(t.sweep(10).await.promoted, 1);
    assert_eq!(t.record(id).await.slot, Slot::Solo);
    let due = t.put_one(t.spec().crashes(1).delay(MINUTE)).await;
    t.advance(MINUTE);
    assert_eq!(t.claim_one().await.lease.id, id);
    assert_eq!(t.record(due).await.slot, Slot::Solo, "also where a claim promoted it");
}
