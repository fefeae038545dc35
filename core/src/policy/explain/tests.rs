//! What facts come to, and how it is said.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::job::{JobRecord, JobSpec, Payload, QueueName};
use std::time::Duration;

use crate::policy::batch::BatchGate;
use crate::policy::lanes::{ClassPolicy, LanePolicy, Say, StartLimits, Starts};
use crate::storage::QueueConfig;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn facts() -> Facts {
    let (Ok(queue), Ok(kind), Ok(lane)) = (QueueName::new("q"), JobKind::new("k"), LaneKey::new("x/1")) else {
        panic!("good names")
    };
    let spec = JobSpec { lane, ..JobSpec::new(queue, kind, Payload::json("1")) };
    let record = JobRecord {
        spec: Arc::new(spec),
        seq: 1,
        state: JobState::Waiting,
        slot: Slot::Lane,
        priority: Default::default(),
        epoch: 0,
        attempts: 0,
        crashes: 0,
        runs: 0,
        coalesced: 1,
        batch: None,
        cancel_requested: false,
        created_at: at(0),
        due_at: at(0),
        expires_at: None,
        started_at: None,
        finished_at: None,
        prune_at: None,
        lease_until: None,
        lease_term: None,
        worker: None,
        failure: None,
        waited_on: false,
        notes: Default::default(),
    };
    Facts {
        record,
        last: Some(at(100)),
        clock: at(100),
        config: QueueConfig::default(),
        policy: None,
        holder: None,
        active: ActiveJobs::default(),
        starts: RememberedStarts::default(),
        waiting: WaitingJobs { in_lanes: 1, ..WaitingJobs::default() },
        ahead: 0,
        lanes_before: 0,
        at_gate: AtGate::default(),
    }
}

fn class(policy: ClassPolicy) -> BTreeMap<LaneClass, ClassPolicy> {
    LaneClass::new("x").map(|class| BTreeMap::from([(class, policy)])).unwrap_or_default()
}

#[test]
fn all_reasons_are_named_the_most_binding_first() {
    let mut facts = facts();
    let mut starts = Starts::default();
    starts.take(&Rate::per_minute(1), at(90), 1);
    facts.record.state = JobState::Delayed;
    facts.record.due_at = at(120);
    facts.record.expires_at = Some(at(99));
    facts.config.paused = true;
    facts.config.limits = StartLimits { concurrency: Some(2), rate: Some(Rate::per_minute(1)) };
    facts.config.lanes.classes = class(ClassPolicy {
        each: LanePolicy { paused: true, ..LanePolicy::default() },
        total: StartLimits { concurrency: Some(1), rate: None },
    });
    facts.active = ActiveJobs { queue: 2, class: 1, lane: 0 };
    facts.starts.queue = Some(starts);
    let lines: Vec<String> = explain(&facts).reasons.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "it was to be started by 1970-01-01T00:01:39.000000Z, so it fails as expired as soon as a worker comes to it",
            "the queue is paused",
            "the lanes of the class x are paused",
            "the queue is limited to 2 at once, and 2 are running",
            "the class x is limited to 1 at once, and 1 are running",
            &format!(
                "the queue is limited to {}, and the next may start at 1970-01-01T00:02:30.000000Z",
                Rate::per_minute(1)
            ),
            "it is delayed until 1970-01-01T00:02:00.000000Z",
        ]
    );
}

#[test]
fn a_job_in_line_says_how_far_it_is_and_whether_it_is_ready() {
    let mut facts = facts();
    let first = explain(&facts);
    assert!(first.is_ready);
    assert_eq!(
        first.to_string(),
        "It is in line in the lane x/1, with no job ahead of it and no lane before its turn. Nothing stands in its way: a \
         worker that asks for enough jobs gets it."
    );
    (facts.ahead, facts.lanes_before) = (2_000_000, 1);
    facts.waiting.in_lanes = 2_000_001;
    assert!(explain(&facts).is_ready, "without limits all of them may start");
    facts.policy = Some(LanePolicy { concurrency: Say::Limit(5), ..LanePolicy::default() });
    let behind = explain(&facts);
    assert!(!behind.is_ready && behind.reasons.is_empty());
    assert_eq!(
        behind.to_string(),
        "It is in line in the lane x/1, with 1,000 or more jobs ahead of it and 1 lane before its turn. Nothing stands in its \
         way but jobs that may come before it, while its limits let 5 jobs start now."
    );
}

#[test]
fn room_for_all_who_may_come_before_makes_a_job_ready() {
    let mut facts = facts();
    facts.policy = Some(LanePolicy { concurrency: Say::Limit(2), ..LanePolicy::default() });
    facts.waiting.in_lanes = 9;
    facts.ahead = 1;
    assert!(explain(&facts).is_ready);
    facts.waiting.shelved = 1;
    assert!(!explain(&facts).is_ready, "a claim may take that one off its shelf");
    facts.waiting.shelved = 0;
    facts.config.limits.concurrency = Some(8);
    assert!(!explain(&facts).is_ready, "eight others may come first");
    facts.config.limits.concurrency = Some(9);
    assert!(explain(&facts).is_ready);
}

#[test]
fn a_clock_that_stepped_back_is_followed_as_a_write_would() {
    let mut facts = facts();
    let mut starts = Starts::default();
    starts.take(&Rate::per_minute(1), at(10), 1);
    facts.config.limits.rate = Some(Rate::per_minute(1));
    facts.starts.queue = Some(starts.clone());
    facts.clock = at(0);
    assert_eq!(explain(&facts).reasons, [], "it was forgotten before the clock stepped back");
    starts.take(&Rate::per_minute(1), at(95), 1);
    facts.starts.queue = Some(starts);
    let until = at(60);
    assert_eq!(explain(&facts).reasons[0].until(), Some(until), "it counts as of now");
}

#[test]
fn a_job_that_is_running_or_has_ended_has_that_one_reason() {
    let mut facts = facts();
    facts.config.paused = true;
    facts.record.state = JobState::Active;
    facts.record.cancel_requested = true;
    facts.record.started_at = Some(at(90));
    facts.record.lease_until = Some(at(120));
    facts.record.worker = WorkerId::new("w").ok();
    assert_eq!(
        explain(&facts).to_string(),
        "It is running since 1970-01-01T00:01:30.000000Z on the worker w, under a lease until 1970-01-01T00:02:00.000000Z, \
         and was asked to cancel."
    );
    facts.record.state = JobState::Failed;
    facts.record.finished_at = Some(at(95));
    facts.record.failure = Some(FailReason::Aborted);
    let told = explain(&facts).to_string();
    assert_eq!(told, "It failed at 1970-01-01T00:01:35.000000Z: its handler gave it up.");
    assert_eq!(Explanation::unknown(facts.record.id()).to_string(), "There is no such job in the queue.");
}

#[test]
fn explanations_travel_as_json() {
    let mut facts = facts();
    facts.record.expires_at = Some(at(500));
    let explanation = explain(&facts);
    let json = serde_json::to_string(&explanation).unwrap_or_default();
    assert_eq!(serde_json::from_str::<Explanation>(&json).ok(), Some(explanation));
}

#[test]
fn a_lane_that_collects_a_batch_says_how_far_it_is() {
    let mut facts = facts();
    let gate = BatchGate::new(10, Duration::from_secs(60));
    facts.config.lanes.every = LanePolicy { batch: Say::Limit(gate), ..LanePolicy::default() };
    facts.at_gate = AtGate { waiting: 3, since: Some(at(70)), ..AtGate::default() };
    let reason = Reason::AtGate { waiting: 3, size: 10, until: at(130) };
    assert_eq!(explain(&facts).reasons, [reason]);
    facts.at_gate.waiting = 10;
    assert!(explain(&facts).is_ready);
    facts.ahead = 1;
    assert!(explain(&facts).reasons.is_empty() && !explain(&facts).is_ready, "it goes with the one ahead");
    facts.at_gate = AtGate { waiting: 3, since: Some(at(70)), is_led: true, ..AtGate::default() };
    assert!(explain(&facts).reasons.is_empty(), "a batch that runs again needs no gate");
}

#[test]
fn a_member_names_the_job_that_it_runs_with() {
    let mut facts = facts();
    let leader = facts.record.id();
    facts.record.state = JobState::Blocked;
    facts.record.batch = Some(BatchNumber(7));
    facts.at_gate.leader = Some(leader);
    assert_eq!(explain(&facts).reasons, [Reason::InBatch { batch: BatchNumber(7), leader: Some(leader) }]);
}
