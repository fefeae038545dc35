//! The model refuses what a store must not do: a wrong answer, a wrong record, a walk out of order.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, JobSpec, JobState, Payload, Priority, QueueName, Slot, Start};
use ferroq_core::storage::{
    CallId, ClaimSpec, EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest, Lease, Outcome, SettleAnswer,
    Settlement, SweepRequest,
};
use uuid::Uuid;

use super::*;

const T: Timestamp = Timestamp::from_micros(1_000_000_000);
const TERM: Duration = Duration::from_secs(10);

fn name() -> QueueName {
    "q".parse().expect("legal")
}

fn job(number: u128) -> JobSpec {
    let kind = "kind".parse().expect("legal");
    JobSpec { id: JobId::from(Uuid::from_u128(number)), ..JobSpec::new(name(), kind, Payload::default()) }
}

fn enqueue(jobs: Vec<JobSpec>) -> Call {
    Call::Enqueue(EnqueueRequest { call: None, queue: name(), jobs: jobs.into_iter().map(Arc::new).collect() })
}

fn exchange(call: Option<CallId>, settlements: Vec<Settlement>, max_items: usize) -> Call {
    let claim = ClaimSpec {
        kinds: ["kind".parse().expect("legal")].into(),
        max_items,
        max_bytes: usize::MAX,
        term: TERM,
        worker: "w".parse().expect("legal"),
        alone: true,
    };
    let claim = (max_items > 0).then_some(claim);
    Call::Exchange(ExchangeRequest { call, queue: name(), settlements, claim })
}

fn completed(lease: Lease) -> Settlement {
    Settlement { lease, outcome: Outcome::Completed { result: None }, follow_ups: Vec::new() }
}

fn claimed(answer: Answer) -> Vec<Lease> {
    let Answer::Exchange(ExchangeAnswer { claimed: Some(claimed), .. }) = answer else { return Vec::new() };
    claimed.claims.iter().map(|claim| claim.lease).collect()
}

#[test]
fn a_duplicate_that_is_called_inserted_is_refused() {
    let mut model = Model::new();
    model.check(T, &enqueue(vec![job(1)]), &Answer::Enqueue(vec![EnqueueAnswer::Inserted])).expect("it is new");
    let again = model.check(T, &enqueue(vec![job(1)]), &Answer::Enqueue(vec![EnqueueAnswer::Inserted]));
    assert!(again.expect_err("it is there already").to_string().contains("Duplicate"));
}

#[test]
fn a_claim_out_of_order_is_refused() {
    let mut model = Model::new();
    let urgent = JobSpec { priority: Priority(1), ..job(2) };
    model.predict(T, &enqueue(vec![job(1), urgent.clone()]));
    let mut right = model.clone();
    let Answer::Exchange(mut answer) = right.predict(T, &exchange(None, Vec::new(), 2)) else { panic!("an exchange") };
    if let Some(claimed) = &mut answer.claimed {
        assert_eq!(claimed.claims[0].lease.id, urgent.id);
        claimed.claims.reverse();
    }
    assert!(model.check(T, &exchange(None, Vec::new(), 2), &Answer::Exchange(answer)).is_err());
}

#[test]
fn a_stale_lease_does_not_settle() {
    let mut model = Model::new();
    model.predict(T, &enqueue(vec![job(1)]));
    let stale = claimed(model.predict(T, &exchange(None, Vec::new(), 1)))[0];
    let sweep = Call::Sweep(SweepRequest { queue: name(), max_items: 10 });
    for step in 1..=2 {
        model.predict(T.after(TERM / 2 * step), &sweep);
    }
    let seen = SettleAnswer::Settled { state: JobState::Completed, follow_ups: Vec::new() };
    let seen = Answer::Exchange(ExchangeAnswer { settled: vec![seen], claimed: None });
    let refusal = model.check(T.after(TERM), &exchange(None, vec![completed(stale)], 0), &seen);
    assert!(refusal.expect_err("the lease was lost").to_string().contains("LeaseLost"));
}

#[test]
fn an_unattended_lease_is_extended_once_and_then_lost() {
    let mut model = Model::new();
    model.predict(T, &enqueue(vec![job(1)]));
    claimed(model.predict(T, &exchange(None, Vec::new(), 1)));
    let sweep = Call::Sweep(SweepRequest { queue: name(), max_items: 10 });
    let stalled = |answer| if let Answer::Sweep(answer) = answer { answer.stalled } else { 9 };
    let late = T.after(TERM * 3);
    assert_eq!(stalled(model.predict(late, &sweep)), 0, "nobody attended: the store may have stood still");
    assert_eq!(stalled(model.predict(late.after(TERM / 2), &sweep)), 0);
    assert_eq!(stalled(model.predict(late.after(TERM), &sweep)), 1);
}

#[test]
fn a_repeated_claim_hands_over_the_same_jobs_without_those_that_are_over() {
    let mut model = Model::new();
    model.predict(T, &enqueue(vec![job(1), job(2)]));
    let id = CallId { session: Uuid::nil(), number: 0, acknowledged_below: 0 };
    let leases = claimed(model.predict(T, &exchange(Some(id), Vec::new(), 5)));
    assert_eq!(claimed(model.predict(T, &exchange(Some(id), Vec::new(), 5))), leases);
    model.predict(T, &exchange(None, vec![completed(leases[0])], 0));
    assert_eq!(claimed(model.predict(T, &exchange(Some(id), Vec::new(), 5))), leases[1..]);
}

/// What a store that does as the model does would show.
fn shown(model: &Model) -> Snapshot {
    let queues = model.queues.iter().map(|(name, queue)| {
        let mut jobs = queue.jobs.clone();
        jobs.sort_by_key(walks::place_of);
        let config = queue.config.clone();
        let seen = QueueSnapshot {
            jobs,
            dedup: queue.dedup.clone(),
            config,
            events: queue.events.clone(),
            ..Default::default()
        };
        (name.clone(), seen)
    });
    Snapshot { queues: queues.collect() }
}

fn two_waiting_and_one_delayed() -> Model {
    let mut model = Model::new();
    let delayed = JobSpec { start: Start::After(TERM), ..job(3) };
    model.predict(T, &enqueue(vec![job(1), job(2), delayed]));
    model
}

#[test]
fn contents_are_accepted_as_they_should_be_and_refused_with_any_field_changed() {
    let model = two_waiting_and_one_delayed();
    let right = shown(&model);
    model.check_snapshot(&right).expect("the same");
    let changes: [fn(&mut QueueSnapshot); 6] = [
        |queue| queue.jobs[0].attempts = 1,
        |queue| queue.jobs[2].slot = Slot::Solo,
        |queue| queue.jobs.swap(0, 1),
        |queue| queue.jobs.truncate(2),
        |queue| queue.config.paused = true,
        |queue| queue.events.truncate(1),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut wrong = right.clone();
        wrong.queues.values_mut().for_each(change);
        assert!(model.check_snapshot(&wrong).is_err(), "change {place}");
    }
}

#[test]
fn a_walk_that_leaves_out_or_doubles_a_job_is_refused() {
    let model = two_waiting_and_one_delayed();
    let ids: Vec<JobId> = (1..=3).map(|number| job(number).id).collect();
    let walk = |seen: &[JobId]| model.check_walk(&name(), &[], None, seen);
    assert_eq!(walk(&ids), Ok(()));
    assert!(walk(&ids[1..]).is_err());
    assert!(walk(&[ids[0], ids[0], ids[1], ids[2]]).is_err());
    assert!(walk(&[ids[2], ids[0], ids[1]]).is_err());
    let waiting = model.check_walk(&name(), &[JobState::Waiting], None, &ids);
    assert!(waiting.expect_err("one of them is delayed").to_string().contains("is delayed"));
}
