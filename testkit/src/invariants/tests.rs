//! A checker that can't fail is worth nothing: each of them is shown a history that breaks its invariant, beside the
//! one that does not.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::job::{
    DedupKey, ErrorKind, FailReason, JobId, JobRecord, JobSpec, JobState, Notes, Payload, QueueName, Slot, WorkerId,
};
use ferroq_core::policy::dedup::{Dedup, DedupMode, Holder};
use ferroq_core::storage::{
    CallId, Claim, ClaimAnswer, ClaimSpec, DedupEntry, EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest,
    Lease, Outcome, RenewAnswer, RenewRequest, RunError, SettleAnswer, Settlement, SweepAnswer, SweepRequest,
};
use uuid::Uuid;

use super::*;
use crate::model::QueueSnapshot;

const AT: Timestamp = Timestamp::from_micros(1_000_000);

fn queue() -> QueueName {
    QueueName::new("q").expect("legal")
}

fn spec(number: u128) -> JobSpec {
    let kind = "kind".parse().expect("legal");
    JobSpec { id: JobId::from(Uuid::from_u128(number)), ..JobSpec::new(queue(), kind, Payload::default()) }
}

fn record(spec: &JobSpec, state: JobState) -> JobRecord {
    let active = state == JobState::Active;
    let ended = state.is_terminal();
    JobRecord {
        spec: Arc::new(spec.clone()),
        seq: spec.id.as_bytes()[15].into(),
        state,
        slot: Slot::Lane,
        priority: spec.priority,
        epoch: if active { 10 } else { 0 },
        attempts: 0,
        crashes: 0,
        runs: u32::from(active),
        coalesced: 1,
        batch: None,
        cancel_requested: false,
        created_at: AT,
        due_at: AT,
        expires_at: None,
        started_at: None,
        finished_at: ended.then_some(AT),
        prune_at: ended.then_some(AT),
        lease_until: active.then_some(AT),
        lease_term: active.then_some(Duration::from_secs(1)),
        worker: active.then(|| WorkerId::new("w").expect("legal")),
        failure: (state == JobState::Failed).then_some(FailReason::Aborted),
        waited_on: false,
        notes: Notes::default(),
    }
}

fn snapshot(jobs: Vec<JobRecord>) -> Snapshot {
    let mut seen = QueueSnapshot::default();
    for state in JobState::ALL {
        let ids: Vec<JobId> = jobs.iter().filter(|job| job.state == state).map(JobRecord::id).collect();
        *seen.counts.of_mut(state) = ids.len() as u64;
        seen.lists.push((state, ids));
    }
    seen.jobs = jobs;
    Snapshot { queues: [(queue(), seen)].into() }
}

fn edit(mut snapshot: Snapshot, change: impl FnOnce(&mut QueueSnapshot)) -> Snapshot {
    snapshot.queues.get_mut(&queue()).map(change);
    snapshot
}

fn step(call: Call, answer: Answer) -> Step {
    Step::Call { at: AT, call, answer, repeat: false }
}

fn enqueue(jobs: &[&JobSpec]) -> Step {
    let specs = jobs.iter().map(|job| Arc::new((*job).clone())).collect();
    let request = EnqueueRequest { call: None, queue: queue(), jobs: specs };
    step(Call::Enqueue(request), Answer::Enqueue(vec![EnqueueAnswer::Inserted; jobs.len()]))
}

fn claim(jobs: &[(&JobSpec, i64)]) -> Step {
    let claims = jobs.iter().map(|(spec, epoch)| Claim {
        lease: Lease { id: spec.id, epoch: *epoch },
        spec: Arc::new((*spec).clone()),
        attempts: 0,
        crashes: 0,
        run: 1,
        coalesced: 1,
        created_at: AT,
        started_at: AT,
        checkpoint: None,
        solo: false,
        batch: None,
    });
    let claimed = Some(ClaimAnswer { claims: claims.collect(), ..ClaimAnswer::default() });
    let spec = ClaimSpec {
        kinds: ["kind".parse().expect("legal")].into(),
        max_items: 10,
        max_bytes: 1000,
        term: Duration::from_secs(1),
        worker: WorkerId::new("w").expect("legal"),
        alone: false,
    };
    let request = ExchangeRequest { call: None, queue: queue(), settlements: Vec::new(), claim: Some(spec) };
    step(Call::Exchange(request), Answer::Exchange(ExchangeAnswer { settled: Vec::new(), claimed }))
}

fn settle(job: &JobSpec, epoch: i64, outcome: Outcome, state: JobState) -> Step {
    let settlement = Settlement { lease: Lease { id: job.id, epoch }, outcome, follow_ups: Vec::new() };
    let request = ExchangeRequest { call: None, queue: queue(), settlements: vec![settlement], claim: None };
    let settled = vec![SettleAnswer::Settled { state, follow_ups: Vec::new() }];
    step(Call::Exchange(request), Answer::Exchange(ExchangeAnswer { settled, claimed: None }))
}

fn completed(job: &JobSpec, epoch: i64) -> Step {
    settle(job, epoch, Outcome::Completed { result: None }, JobState::Completed)
}

fn sweep(stalled: usize) -> Step {
    let request = SweepRequest { queue: queue(), max_items: 10 };
    step(Call::Sweep(request), Answer::Sweep(SweepAnswer { stalled, ..SweepAnswer::default() }))
}

fn refuses(checker: Checker, steps: Vec<Step>) -> String {
    let history = History { steps };
    checker(&history).expect_err("the history breaks the invariant").1
}

fn accepts(checker: Checker, steps: Vec<Step>) {
    assert_eq!(checker(&History { steps }), Ok(()));
}

#[test]
fn a_lost_job_breaks_conservation_and_a_removed_one_does_not() {
    let (a, b) = (spec(1), spec(2));
    let both = snapshot(vec![record(&a, JobState::Waiting), record(&b, JobState::Completed)]);
    let none = snapshot(Vec::new());
    let lost = vec![enqueue(&[&a, &b]), Step::Seen(both.clone()), sweep(0), Step::Seen(none.clone())];
    assert!(refuses(conservation::check, lost).contains("lost"));
    let only_b_went =
        vec![enqueue(&[&a, &b]), Step::Seen(both), sweep(0), Step::Seen(snapshot(vec![record(&a, JobState::Waiting)]))];
    accepts(conservation::check, only_b_went);
    let from_nowhere = vec![enqueue(&[&a]), Step::Seen(snapshot(vec![record(&b, JobState::Waiting)]))];
    assert!(refuses(conservation::check, from_nowhere).contains("came from nowhere"));
}

#[test]
fn a_job_handed_out_twice_breaks_the_single_lease() {
    let a = spec(1);
    refuses(leases::check, vec![enqueue(&[&a]), claim(&[(&a, 10)]), claim(&[(&a, 11)])]);
    accepts(leases::check, vec![enqueue(&[&a]), claim(&[(&a, 10)]), sweep(1), claim(&[(&a, 11)])]);
    let released = settle(&a, 10, Outcome::Release, JobState::Waiting);
    accepts(leases::check, vec![enqueue(&[&a]), claim(&[(&a, 10)]), released, claim(&[(&a, 11)])]);
}

#[test]
fn an_epoch_that_falls_or_stays_is_refused() {
    let a = spec(1);
    refuses(epochs::check, vec![enqueue(&[&a]), claim(&[(&a, 10)]), sweep(1), claim(&[(&a, 10)])]);
    let fallen = snapshot(vec![record(&a, JobState::Waiting)]);
    refuses(epochs::check, vec![enqueue(&[&a]), claim(&[(&a, 10)]), Step::Seen(fallen)]);
    accepts(epochs::check, vec![enqueue(&[&a]), claim(&[(&a, 10)]), sweep(1), claim(&[(&a, 11)])]);
}

#[test]
fn a_write_under_an_old_epoch_is_refused() {
    let a = spec(1);
    let begin = || vec![enqueue(&[&a]), claim(&[(&a, 10)]), sweep(1), claim(&[(&a, 11)])];
    let mut stale = begin();
    stale.push(completed(&a, 10));
    assert!(refuses(fencing::check, stale).contains("stale"));
    let mut renewed = begin();
    let request =
        RenewRequest { queue: queue(), leases: vec![Lease { id: a.id, epoch: 10 }], term: Duration::from_secs(1) };
    renewed.push(step(Call::Renew(request), Answer::Renew(vec![RenewAnswer::Renewed { cancel_requested: false }])));
    assert!(refuses(fencing::check, renewed).contains("was renewed"));
    let mut current = begin();
    current.push(completed(&a, 11));
    accepts(fencing::check, current);
}

#[test]
fn a_job_beyond_its_budget_is_refused() {
    let mut a = spec(1);
    Arc::make_mut(&mut a.options).max_attempts = 1;
    let failed = |state| {
        let error = RunError::new(ErrorKind::Error, "x");
        let outcome = Outcome::Retry { error, delay: Duration::ZERO };
        vec![enqueue(&[&a]), claim(&[(&a, 10)]), settle(&a, 10, outcome, state)]
    };
    refuses(budgets::check, failed(JobState::Waiting));
    accepts(budgets::check, failed(JobState::Failed));
    let used = |attempts| {
        let job = record(&a, JobState::Active);
        vec![Step::Seen(snapshot(vec![JobRecord { attempts, ..job }]))]
    };
    refuses(budgets::check, used(2));
    accepts(budgets::check, used(1));
}

#[test]
fn a_move_that_no_call_can_have_made_is_refused() {
    let a = spec(1);
    let path = |to| {
        let (before, after) = (record(&a, JobState::Completed), record(&a, to));
        vec![enqueue(&[&a]), Step::Seen(snapshot(vec![before])), sweep(0), Step::Seen(snapshot(vec![after]))]
    };
    refuses(transitions::check, path(JobState::Waiting));
    accepts(transitions::check, path(JobState::Completed));
}

#[test]
fn a_job_that_was_passed_over_is_refused() {
    let (a, b) = (spec(1), spec(2));
    let after = snapshot(vec![record(&a, JobState::Waiting), record(&b, JobState::Active)]);
    refuses(order::check, vec![enqueue(&[&a, &b]), claim(&[(&b, 10)]), Step::Seen(after)]);
    let after = snapshot(vec![record(&b, JobState::Waiting), record(&a, JobState::Active)]);
    accepts(order::check, vec![enqueue(&[&a, &b]), claim(&[(&a, 10)]), Step::Seen(after)]);
    let both = snapshot(vec![record(&a, JobState::Active), record(&b, JobState::Active)]);
    refuses(order::check, vec![claim(&[(&b, 10), (&a, 10)]), Step::Seen(both)]);
}

#[test]
fn a_key_with_two_holders_or_none_is_refused() {
    let key = DedupKey::new("k").expect("legal");
    let dedup = Some(Dedup { key: key.clone(), mode: DedupMode::UntilFinished });
    let (a, b) = (JobSpec { dedup: dedup.clone(), ..spec(1) }, JobSpec { dedup, ..spec(2) });
    let entry = |id| DedupEntry { key: key.clone(), holder: Holder { id, until: None, pending: None } };
    let held = |jobs: &[(&JobSpec, JobState)], entries: Vec<DedupEntry>| {
        let jobs = jobs.iter().map(|(spec, state)| record(spec, *state)).collect();
        vec![Step::Seen(edit(snapshot(jobs), |queue| queue.dedup = entries))]
    };
    refuses(dedup::check, held(&[(&a, JobState::Waiting), (&b, JobState::Waiting)], vec![entry(a.id)]));
    refuses(dedup::check, held(&[(&a, JobState::Waiting)], vec![]));
    refuses(dedup::check, held(&[(&a, JobState::Completed)], vec![entry(a.id)]));
    refuses(dedup::check, held(&[(&a, JobState::Waiting)], vec![entry(a.id), entry(a.id)]));
    refuses(dedup::check, held(&[], vec![entry(a.id)]));
    accepts(dedup::check, held(&[(&a, JobState::Waiting), (&b, JobState::Completed)], vec![entry(a.id)]));
}

#[test]
fn starts_beyond_what_was_said_of_their_lane_are_refused() {
    use crate::harness::SpecExt;
    use ferroq_core::job::{LaneClass, LaneKey};
    use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, Say, StartLimits};
    use ferroq_core::policy::rate::Rate;
    use ferroq_core::storage::QueueConfig;

    let (a, b, other) = (spec(1).lane("c/x"), spec(2).lane("c/x"), spec(3).lane("d/x"));
    let all = |jobs: &[&JobSpec]| Step::Seen(snapshot(jobs.iter().map(|job| record(job, JobState::Active)).collect()));
    let configured = |change: &dyn Fn(&mut QueueConfig)| {
        let mut config = QueueConfig::default();
        change(&mut config);
        step(Call::Configure { queue: queue(), config }, Answer::Configure)
    };
    let own = |policy: LanePolicy| {
        let lane = LaneKey::new("c/x").expect("legal");
        step(Call::ConfigureLane { queue: queue(), lane, policy: Some(policy) }, Answer::Configure)
    };
    let in_class = |policy: ClassPolicy| {
        configured(&|config| {
            config.lanes.classes.insert(LaneClass::new("c").expect("legal"), policy.clone());
        })
    };
    let one = StartLimits { concurrency: Some(1), rate: Some(Rate::per_minute(1)) };
    let each =
        LanePolicy { concurrency: Say::Limit(1), rate: Say::Limit(Rate::per_minute(1)), ..LanePolicy::default() };
    let ways = [
        configured(&|config| config.limits = one.clone()),
        configured(&|config| config.lanes.every = each.clone()),
        in_class(ClassPolicy { each: each.clone(), ..ClassPolicy::default() }),
        in_class(ClassPolicy { total: one.clone(), ..ClassPolicy::default() }),
        own(each.clone()),
    ];
    for (place, way) in ways.into_iter().enumerate() {
        let both = claim(&[(&a, 10), (&b, 10)]);
        let what = refuses(starts::check, vec![way.clone(), both]);
        assert!(what.contains("2 starts"), "{what}");
        let later = |job| vec![way.clone(), claim(&[(&a, 10)]), sweep(1), claim(&[(job, 11)])];
        refuses(starts::check, later(&b));
        if place > 0 {
            accepts(starts::check, later(&other));
        }
        accepts(starts::check, vec![way, claim(&[(&a, 10)]), all(&[&a])]);
    }
    let slots = [
        configured(&|config| config.limits.concurrency = Some(1)),
        own(LanePolicy { concurrency: Say::Limit(1), ..LanePolicy::default() }),
        in_class(ClassPolicy { total: StartLimits { concurrency: Some(1), rate: None }, ..ClassPolicy::default() }),
    ];
    for way in slots {
        refuses(starts::check, vec![way.clone(), claim(&[(&b, 10)]), all(&[&a, &b])]);
        accepts(starts::check, vec![claim(&[(&b, 10)]), way.clone(), all(&[&a, &b])]);
        accepts(starts::check, vec![way, claim(&[]), all(&[&a, &b])]);
    }
    let paused = LanePolicy { paused: true, ..LanePolicy::default() };
    let pauses = [
        configured(&|config| config.paused = true),
        configured(&|config| config.lanes.every = paused.clone()),
        in_class(ClassPolicy { each: paused.clone(), ..ClassPolicy::default() }),
        own(paused.clone()),
    ];
    for pause in pauses {
        refuses(starts::check, vec![pause.clone(), claim(&[(&a, 10)])]);
        accepts(starts::check, vec![claim(&[(&a, 10)]), pause]);
    }
    let free = own(LanePolicy { rate: Say::Unlimited, concurrency: Say::Unlimited, ..LanePolicy::default() });
    let every = configured(&|config| config.lanes.every = each.clone());
    accepts(starts::check, vec![every, free, claim(&[(&a, 10), (&b, 10)]), all(&[&a, &b])]);
}

#[test]
fn a_job_missing_from_its_index_is_refused() {
    let a = spec(1);
    let seen = || snapshot(vec![record(&a, JobState::Waiting)]);
    refuses(index::check, vec![Step::Seen(edit(seen(), |queue| queue.lists[0].1.clear()))]);
    refuses(index::check, vec![Step::Seen(edit(seen(), |queue| queue.lists[3].1.push(a.id)))]);
    refuses(index::check, vec![Step::Seen(edit(seen(), |queue| queue.jobs[0].lease_until = Some(AT)))]);
    accepts(index::check, vec![Step::Seen(seen())]);
}

#[test]
fn counts_that_differ_from_the_rows_are_refused() {
    let seen = || snapshot(vec![record(&spec(1), JobState::Waiting)]);
    refuses(counts::check, vec![Step::Seen(edit(seen(), |queue| queue.counts.waiting = 2))]);
    refuses(counts::check, vec![Step::Seen(edit(seen(), |queue| queue.jobs[0].slot = Slot::Shelf))]);
    accepts(counts::check, vec![Step::Seen(seen())]);
}

#[test]
fn a_lease_settled_twice_or_a_repeat_that_answers_anew_is_refused() {
    let a = spec(1);
    refuses(idempotence::check, vec![enqueue(&[&a]), completed(&a, 10), completed(&a, 10)]);
    let id = CallId { session: Uuid::nil(), number: 1, acknowledged_below: 0 };
    let asked = |repeat, answer| {
        let request = EnqueueRequest { call: Some(id), queue: queue(), jobs: vec![Arc::new(spec(1))] };
        Step::Call { at: AT, call: Call::Enqueue(request), answer: Answer::Enqueue(vec![answer]), repeat }
    };
    let duplicate = EnqueueAnswer::Duplicate(a.id);
    refuses(idempotence::check, vec![asked(false, EnqueueAnswer::Inserted), asked(true, duplicate)]);
    let twice = vec![asked(false, EnqueueAnswer::Inserted), asked(true, EnqueueAnswer::Inserted)];
    accepts(idempotence::check, twice);
}

#[test]
fn a_job_left_over_breaks_liveness() {
    let end = |state| vec![Step::Drained, Step::Seen(snapshot(vec![record(&spec(1), state)]))];
    refuses(liveness::check, end(JobState::Delayed));
    accepts(liveness::check, end(JobState::Failed));
}
