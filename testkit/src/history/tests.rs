//! Histories that no store may produce are refused, and those that overlap harmlessly are not.

use std::sync::Arc;

use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, JobSpec, JobState, Payload};
use ferroq_core::storage::{Act, ActAnswer, Claim, Lease, Outcome, RenewAnswer, SettleAnswer};
use uuid::Uuid;

use super::{JobCall, JobHistory, What, explain};

fn spec() -> Arc<JobSpec> {
    let (queue, kind) = ("q".parse().expect("legal"), "kind".parse().expect("legal"));
    let mut spec = JobSpec { id: JobId::from(Uuid::from_u128(1)), ..JobSpec::new(queue, kind, Payload::default()) };
    let options = Arc::make_mut(&mut spec.options);
    // Nothing is kept, so that a history may end with no record.
    options.keep.completed = ferroq_core::policy::retention::KeepFor::Remove;
    Arc::new(spec)
}

fn claimed(epoch: i64, run: u32, crashes: u32) -> What {
    let at = Timestamp::default();
    What::Claimed(Claim {
        lease: Lease { id: spec().id, epoch },
        spec: spec(),
        attempts: 0,
        crashes,
        run,
        coalesced: 1,
        created_at: at,
        started_at: at,
        checkpoint: None,
        solo: false,
        batch: None,
    })
}

fn completed(epoch: i64) -> What {
    let answer = SettleAnswer::Settled { state: JobState::Completed, follow_ups: Vec::new() };
    What::Settled { epoch, outcome: Outcome::Completed { result: None }, answer }
}

fn refused(epoch: i64, answer: SettleAnswer) -> What {
    What::Settled { epoch, outcome: Outcome::Completed { result: None }, answer }
}

/// Calls with the moments at which they were made and answered; sweeps that took a lease apart from the others.
fn history(calls: Vec<(u64, u64, What)>) -> JobHistory {
    let calls = calls.into_iter().map(|(made, answered, what)| JobCall { task: 0, made, answered, part: 0, what });
    let (sweeps, calls) = calls.partition(|call| matches!(call.what, What::Lost));
    JobHistory { spec: spec(), calls, sweeps, end: None }
}

#[test]
fn a_plain_life_is_explained() {
    let calls = vec![(1, 2, What::Inserted), (3, 4, claimed(10, 1, 0)), (5, 6, completed(10))];
    assert!(explain(&history(calls)).is_ok());
}

#[test]
fn overlapping_calls_may_have_taken_effect_in_either_order() {
    let renewed = What::Renewed { epoch: 10, answer: RenewAnswer::Gone };
    let calls = vec![(1, 2, What::Inserted), (3, 4, claimed(10, 1, 0)), (5, 9, renewed), (6, 8, completed(10))];
    assert!(explain(&history(calls)).is_ok(), "the renewal came after the settlement");
}

#[test]
fn a_renewal_answered_before_the_settlement_was_made_can_not_find_the_job_gone() {
    let renewed = What::Renewed { epoch: 10, answer: RenewAnswer::Gone };
    let calls = vec![(1, 2, What::Inserted), (3, 4, claimed(10, 1, 0)), (5, 6, renewed), (7, 8, completed(10))];
    assert!(explain(&history(calls)).is_err());
}

#[test]
fn a_job_claimed_twice_without_a_loss_is_refused() {
    let calls = |lost: bool| {
        let mut calls = vec![
            (1, 2, What::Inserted),
            (3, 4, claimed(10, 1, 0)),
            (7, 8, claimed(11, 2, u32::from(lost))),
            (9, 10, completed(11)),
        ];
        if lost {
            calls.push((5, 6, What::Lost));
        }
        calls
    };
    assert!(explain(&history(calls(false))).is_err());
    assert!(explain(&history(calls(true))).is_ok());
}

#[test]
fn a_stale_lease_that_settles_is_refused() {
    let stale = |answer| {
        vec![
            (1, 2, What::Inserted),
            (3, 4, claimed(10, 1, 0)),
            (5, 6, What::Lost),
            (7, 8, claimed(11, 2, 1)),
            (9, 10, answer),
            (11, 12, completed(11)),
        ]
    };
    assert!(explain(&history(stale(completed(10)))).is_err());
    assert!(explain(&history(stale(refused(10, SettleAnswer::LeaseLost)))).is_ok());
}

#[test]
fn a_job_that_vanished_is_refused_and_the_calls_are_shown() {
    let unexplained = explain(&history(vec![(1, 2, What::Inserted)])).expect_err("it is gone, and nothing removed it");
    let text = unexplained.to_string();
    assert!(text.contains("Inserted") && text.contains("at the end: gone"), "{text}");
}

#[test]
fn a_cancel_that_forgets_its_answer_is_refused() {
    let acted = |answer| What::Acted { act: Act::Cancel, answer };
    let calls =
        |answer| vec![(1, 2, What::Inserted), (3, 4, claimed(10, 1, 0)), (5, 6, acted(answer)), (7, 8, completed(10))];
    assert!(explain(&history(calls(ActAnswer::Requested))).is_ok());
    assert!(explain(&history(calls(ActAnswer::Done(JobState::Cancelled)))).is_err());
}
