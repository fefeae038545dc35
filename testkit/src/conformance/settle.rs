//! How runs end: each outcome with the state, the counters and the traces on the record that it leaves.

use ferroq_core::job::{CodecTag, ERROR_TEXT_BYTES_MAX, ERRORS_KEPT_MAX, Payload};

use super::prelude::*;

topic! {
    ($) settle, __conformance_settle:
    completed_ends_with_its_result,
    retry_waits_for_its_delay_and_keeps_the_error,
    retry_without_delay_is_waiting_at_once,
    abort_fails_at_once,
    snooze_comes_back_later_and_uses_up_nothing,
    release_comes_back_at_once_and_uses_up_nothing,
    cancelled_ends_cancelled,
    a_cancel_request_wins_over_everything_but_success,
    an_ended_job_can_go_when_its_queue_says,
    the_last_errors_are_kept,
    an_error_text_is_cut_between_characters,
    an_aborted_job_with_a_cancel_request_keeps_its_error,
    a_run_of_a_paused_queue_can_end,
    many_runs_end_in_one_call,
}

async fn completed_ends_with_its_result(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    t.advance(SECOND);
    let result = Payload { codec: CodecTag::Bincode, version: 3, bytes: vec![0, 255, b'"'].into() };
    let answer = t.settle(claim.lease, Outcome::Completed { result: Some(result.clone()) }).await;
    assert_eq!(answer, settled(JobState::Completed));
    let record = t.record(id).await;
    assert_eq!(record.state, JobState::Completed);
    assert_eq!(record.notes.result, Some(result));
    assert_eq!((record.attempts, record.crashes, record.runs), (0, 0, 1));
    assert_eq!((record.finished_at, record.failure), (Some(t.clock()), None));
    assert_eq!((record.lease_until, record.lease_term), (None, None));
    assert_eq!(record.epoch, claim.lease.epoch, "the epoch stays");
    assert_eq!(record.started_at, Some(claim.started_at));
    assert_eq!(record.worker, Some(t.asking(1).worker), "who held it last stays known");
    assert_eq!(t.claim(10).await, []);
}

async fn retry_waits_for_its_delay_and_keeps_the_error(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    t.advance(SECOND);
    let failed_at = t.clock();
    let error = RunError::new(ErrorKind::Timeout, "it took too long: \"10 s\" 'x' \u{5e9}");
    let answer = t.settle(claim.lease, Outcome::Retry { error: error.clone(), delay: MINUTE }).await;
    assert_eq!(answer, settled(JobState::Delayed));
    let record = t.record(id).await;
    assert_eq!((record.state, record.due_at), (JobState::Delayed, failed_at.after(MINUTE)));
    assert_eq!((record.attempts, record.crashes, record.runs), (1, 0, 1));
    assert_eq!(record.finished_at, None);
    let entry = &record.notes.errors[0];
    assert_eq!((entry.at, entry.run, entry.kind, &entry.message), (failed_at, 1, error.kind, &error.message));
    t.advance(MINUTE - Duration::from_micros(1));
    assert_eq!(t.claim(1).await, []);
    t.advance(Duration::from_micros(1));
    assert_eq!(t.claim_one().await.lease.id, id);
}

async fn retry_without_delay_is_waiting_at_once(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    t.advance(SECOND);
    assert_eq!(t.settle(claim.lease, fail(Duration::ZERO)).await, settled(JobState::Waiting));
    let record = t.record(claim.lease.id).await;
    assert_eq!((record.state, record.slot, record.due_at), (JobState::Waiting, Slot::Lane, t.clock()));
    assert_eq!(t.claim_one().await.attempts, 1);
}

async fn abort_fails_at_once(t: &mut Scene) {
    let id = t.run(t.spec(), abort()).await;
    let record = t.record(id).await;
    assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::Aborted)));
    assert_eq!((record.attempts, record.crashes), (1, 0));
    assert_eq!(record.finished_at, Some(t.clock()));
    assert_eq!((record.notes.errors.len(), record.notes.errors[0].kind), (1, ErrorKind::Abort));
}

async fn snooze_comes_back_later_and_uses_up_nothing(t: &mut Scene) {
    let id = t.run(t.spec().attempts(1), snoozed(MINUTE)).await;
    let record = t.record(id).await;
    assert_eq!((record.state, record.due_at), (JobState::Delayed, t.clock().after(MINUTE)));
    assert_eq!((record.attempts, record.crashes, record.runs), (0, 0, 1));
    assert!(record.notes.errors.is_empty());
    t.advance(MINUTE);
    let claim = t.claim_one().await;
    assert_eq!(t.settle(claim.lease, snoozed(Duration::ZERO)).await, settled(JobState::Waiting));
    assert_eq!(t.claim_one().await.run, 3);
}

async fn release_comes_back_at_once_and_uses_up_nothing(t: &mut Scene) {
    let before = t.clock();
    let id = t.put_one(t.spec().attempts(1).crashes(2)).await;
    let claim = t.claim_one().await;
    t.advance(SECOND);
    assert_eq!(t.settle(claim.lease, released()).await, settled(JobState::Waiting));
    let record = t.record(id).await;
    assert_eq!((record.state, record.slot, record.due_at), (JobState::Waiting, Slot::Lane, before));
    assert_eq!((record.attempts, record.crashes, record.runs), (0, 0, 1));
    assert!(record.notes.errors.is_empty());
}

async fn cancelled_ends_cancelled(t: &mut Scene) {
    let id = t.run(t.spec(), Outcome::Cancelled).await;
    let record = t.record(id).await;
    assert_eq!((record.state, record.failure), (JobState::Cancelled, None));
    assert_eq!((record.attempts, record.finished_at), (0, Some(t.clock())));
}

async fn a_cancel_request_wins_over_everything_but_success(t: &mut Scene) {
    let ended = [
        (completed(), JobState::Completed),
        (fail(SECOND), JobState::Cancelled),
        (fail(Duration::ZERO), JobState::Cancelled),
        (abort(), JobState::Cancelled),
        (snoozed(SECOND), JobState::Cancelled),
        (released(), JobState::Cancelled),
        (Outcome::Cancelled, JobState::Cancelled),
    ];
    for (outcome, state) in ended {
        let id = t.put_one(t.spec()).await;
        let lease = t.claim_one().await.lease;
        assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Requested);
        assert_eq!(t.settle(lease, outcome.clone()).await, settled(state), "{outcome:?}");
        let record = t.record(id).await;
        assert_eq!((record.state, record.failure), (state, None), "{outcome:?}");
    }
}

async fn an_aborted_job_with_a_cancel_request_keeps_its_error(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    t.act(id, Act::Cancel).await;
    t.settle(lease, abort()).await;
    let record = t.record(id).await;
    assert_eq!((record.notes.errors.len(), record.attempts), (1, 1), "the error is noted, whatever the verdict");
}

async fn an_ended_job_can_go_when_its_queue_says(t: &mut Scene) {
    let rule = |seconds| KeepRule { age: seconds * SECOND, count: 100 };
    t.configure(|config| {
        config.retention.completed = rule(10);
        config.retention.failed = rule(20);
        config.retention.cancelled = rule(30);
    })
    .await;
    for (outcome, seconds) in [(completed(), 10), (abort(), 20), (Outcome::Cancelled, 30)] {
        let id = t.run(t.spec(), outcome).await;
        assert_eq!(t.record(id).await.prune_at, Some(t.clock().after(seconds * SECOND)));
    }
}

async fn the_last_errors_are_kept(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    for run in 1..=ERRORS_KEPT_MAX + 3 {
        let claim = t.claim_one().await;
        let error = RunError::new(ErrorKind::Error, format!("run {run}"));
        t.settle(claim.lease, Outcome::Retry { error, delay: Duration::ZERO }).await;
    }
    let errors = t.record(id).await.notes.errors;
    let kept: Vec<_> = errors.iter().map(|entry| (entry.run, entry.message.clone())).collect();
    let expected: Vec<_> = (4..=ERRORS_KEPT_MAX as u32 + 3).map(|run| (run, format!("run {run}"))).collect();
    assert_eq!(kept, expected);
}

async fn an_error_text_is_cut_between_characters(t: &mut Scene) {
    // Each character takes three bytes, and the limit is no multiple of three.
    let error = RunError::new(ErrorKind::Panic, "\u{65e5}".repeat(ERROR_TEXT_BYTES_MAX));
    let id = t.run(t.spec(), Outcome::Abort { error }).await;
    let kept = &t.record(id).await.notes.errors[0].message;
    assert_eq!(*kept, "\u{65e5}".repeat(ERROR_TEXT_BYTES_MAX / 3));
}

async fn a_run_of_a_paused_queue_can_end(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    assert_eq!(t.settle(claims[0].lease, completed()).await, settled(JobState::Completed));
    assert_eq!(t.settle(claims[1].lease, released()).await, settled(JobState::Waiting));
    assert_eq!(t.claim(1).await, []);
}

async fn many_runs_end_in_one_call(t: &mut Scene) {
    t.put_many(6).await;
    let outcomes = [completed(), fail(Duration::ZERO), fail(SECOND), abort(), Outcome::Cancelled, snoozed(SECOND)];
    let claims = t.claim(6).await;
    let settlements = claims.iter().zip(outcomes).map(|(claim, outcome)| settlement(claim.lease, outcome)).collect();
    let states = [
        JobState::Completed,
        JobState::Waiting,
        JobState::Delayed,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Delayed,
    ];
    assert_eq!(t.settle_all(settlements).await, states.map(settled));
    for (claim, state) in claims.iter().zip(states) {
        assert_eq!(t.state(claim.lease.id).await, state);
    }
}
