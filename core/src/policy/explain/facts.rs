//! What a storage has to read to explain a job, and what follows from it.

use std::cmp::Reverse;

use super::{COUNTED_MAX, Count, Explanation, PausedBy, Place, Reason};
use crate::clock::{TimeStep, Timestamp, advance};
use crate::job::{JobId, JobRecord, JobState, LaneKey, Slot};
use crate::policy::batch::BatchGate;
use crate::policy::enqueue::{is_expired, line};
use crate::policy::lanes::{LanePolicy, LaneTerms, Limited, Room, StartLimits, Starts};
use crate::storage::{PROMOTE_ITEMS_MAX, QueueConfig};

/// What a storage knows of a job and of all that may hold it back, read at one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The job's record.
    pub record: JobRecord,
    /// The storage time of the queue's last write.
    pub last: Option<Timestamp>,
    /// What the clock shows.
    pub clock: Timestamp,
    /// The queue's settings.
    pub config: QueueConfig,
    /// The own policy of the job's lane.
    pub policy: Option<LanePolicy>,
    /// Who holds the job's dedup key.
    pub holder: Option<JobId>,
    /// How many jobs are Active.
    pub active: ActiveJobs,
    /// The starts that are remembered.
    pub starts: RememberedStarts,
    /// How many jobs are not Active.
    pub waiting: WaitingJobs,
    /// If the job is Waiting: how many jobs are ahead of it in its line, counted up to [`COUNTED_MAX`].
    pub ahead: u64,
    /// If the job is Waiting in its lane: how many lanes of the ring come before its lane, counted up to [`COUNTED_MAX`]; all
    /// of the ring if its lane is set aside.
    pub lanes_before: u64,
    /// What its batch, or the gate of its lane, goes by.
    pub at_gate: AtGate,
}

/// What the batch of a job, or the gate of its lane, goes by. Of a gate it need only be known where the lane has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtGate {
    /// Who leads the job's batch, if it is in one.
    pub leader: Option<JobId>,
    /// How many jobs are in the lane's line.
    pub waiting: u64,
    /// When the first of them came due, as the gate takes it once it has read the clock.
    pub since: Option<Timestamp>,
    /// Whether the job at the head of the line has a batch, which needs no gate.
    pub is_led: bool,
}

/// How many jobs are Active of the job's queue, class and lane. Of class and lane they need only be known where there are
/// limits on that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActiveJobs {
    /// Of the queue.
    pub queue: u64,
    /// Of all lanes of the class.
    pub class: u64,
    /// Of the lane.
    pub lane: u64,
}

/// The starts that the limits of the job's queue, class and lane remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RememberedStarts {
    /// Of the queue.
    pub queue: Option<Starts>,
    /// Of all lanes of the class.
    pub class: Option<Starts>,
    /// Of the lane.
    pub lane: Option<Starts>,
}

/// How many jobs of the queue may come to be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingJobs {
    /// In the lines of all lanes.
    pub in_lanes: u64,
    /// On shelves.
    pub shelved: u64,
    /// Delayed.
    pub delayed: u64,
}

/// One limit that the job is under.
struct Limit<'f> {
    of: Limited,
    limits: &'f StartLimits,
    active: u64,
    starts: Option<Starts>,
}

impl Limit<'_> {
    fn room(&self, now: Timestamp) -> Room {
        Room::new(self.limits, self.active, self.starts.as_ref(), now)
    }

    /// How many it lets start; none if it does not say.
    fn free(&self, now: Timestamp) -> Option<u32> {
        (!self.limits.is_none()).then(|| self.room(now).free)
    }
}

/// What the facts come to. Nothing is written, so a clock that stepped back is followed here as the next write will.
pub fn explain(facts: &Facts) -> Explanation {
    let (now, step) = advance(facts.last, facts.clock);
    let Facts { record, config, policy, active, .. } = facts;
    let mut starts = facts.starts.clone();
    let mut lease_until = record.lease_until;
    if let TimeStep::SteppedBack { from } = step {
        lease_until = record.lease_term.map(|term| now.after(term));
        let all = [&mut starts.queue, &mut starts.class, &mut starts.lane];
        all.into_iter().flatten().for_each(|starts| starts.anchor(from, now));
    }
    let lane = &record.spec.lane;
    let terms = config.lanes.terms(lane, policy.as_ref());
    let mut limits =
        vec![Limit { of: Limited::Queue, limits: &config.limits, active: active.queue, starts: starts.queue }];
    if let Some((class, total)) = config.lanes.class_total(lane) {
        limits.push(Limit { of: Limited::Class(class), limits: total, active: active.class, starts: starts.class });
    }
    let of_lane = Limited::Lane(lane.clone());
    limits.push(Limit { of: of_lane, limits: &terms.limits, active: active.lane, starts: starts.lane });

    let room = limits.iter().filter_map(|limit| limit.free(now)).min();
    let place = (record.state == JobState::Waiting).then(|| Place {
        line: record.slot,
        lane: lane.clone(),
        ahead: Count::new(facts.ahead),
        lanes_before: Count::new(if record.slot == Slot::Lane { facts.lanes_before } else { 0 }),
        room,
    });
    let mut explanation = Explanation {
        id: record.id(),
        at: Some(now),
        state: Some(record.state),
        reasons: if may_start(record.state) {
            reasons(facts, &terms, &limits, now)
        } else {
            vec![beyond_start(record, lease_until)]
        },
        place,
        expires_at: record.expires_at.filter(|_| may_start(record.state)),
        is_ready: false,
    };
    explanation.is_ready = explanation.reasons.is_empty() && is_ready(facts, &terms, &limits, now);
    explanation
}

/// Whether a job in this state is still to be started.
fn may_start(state: JobState) -> bool {
    matches!(state, JobState::Waiting | JobState::Delayed | JobState::Blocked)
}

fn reasons(facts: &Facts, terms: &LaneTerms, limits: &[Limit<'_>], now: Timestamp) -> Vec<Reason> {
    let record = &facts.record;
    let mut reasons = Vec::new();
    if let Some(at) = record.expires_at.filter(|_| is_expired(record.expires_at, now)) {
        reasons.push(Reason::Expired { at });
    }
    if record.state == JobState::Blocked {
        let key = record.spec.dedup.as_ref().map(|dedup| dedup.key.clone());
        let holder = facts.holder.filter(|holder| *holder != record.id());
        reasons.push(match (record.batch, key.zip(holder)) {
            (Some(batch), _) => Reason::InBatch { batch, leader: facts.at_gate.leader },
            (None, Some((key, holder))) => Reason::Pending { key, holder },
            (None, None) => Reason::Blocked,
        });
    }
    reasons.extend(pauses(facts, terms).into_iter().map(|by| Reason::Paused { by }));
    if record.state == JobState::Waiting && record.slot == Slot::Shelf {
        reasons.push(Reason::Shelved { kind: record.spec.kind.clone() });
    }
    for limit in limits {
        if let Some(most) = limit.limits.concurrency.filter(|most| limit.active >= u64::from(*most)) {
            reasons.push(Reason::AtConcurrency { of: limit.of.clone(), active: limit.active, most });
        }
    }
    let timed = reasons.len();
    if record.state == JobState::Delayed && record.due_at > now {
        reasons.push(Reason::Delayed { until: record.due_at });
    }
    for limit in limits {
        let Some(rate) = &limit.limits.rate else { continue };
        let alone = StartLimits { concurrency: None, rate: Some(rate.clone()) };
        if let Some(until) = Room::new(&alone, 0, limit.starts.as_ref(), now).opens_at {
            reasons.push(Reason::AtRate { of: limit.of.clone(), rate: rate.clone(), until });
        }
    }
    let AtGate { waiting, since, is_led, .. } = facts.at_gate;
    if let (Some(gate), Some(since)) = (behind_gate(record, terms).filter(|_| !is_led), since)
        && !gate.is_open(waiting, since, now)
    {
        reasons.push(Reason::AtGate { waiting, size: gate.size, until: gate.opens_at(since) });
    }
    reasons[timed..].sort_by_key(|reason| Reverse(reason.until()));
    reasons
}

/// The gate that the job waits at, if it stands in line in a lane that has one.
fn behind_gate(record: &JobRecord, terms: &LaneTerms) -> Option<BatchGate> {
    terms.batch.filter(|_| record.state == JobState::Waiting && record.slot == Slot::Lane)
}

/// What there is to say of a job that is Active or has ended.
fn beyond_start(record: &JobRecord, lease_until: Option<Timestamp>) -> Reason {
    if record.state == JobState::Active {
        return Reason::Active {
            since: record.started_at.unwrap_or_default(),
            worker: record.worker.clone(),
            lease_until: lease_until.unwrap_or_default(),
            cancel_requested: record.cancel_requested,
        };
    }
    Reason::Ended { state: record.state, at: record.finished_at.unwrap_or_default(), failure: record.failure }
}

/// Everything that is paused above the job, the widest first.
fn pauses(facts: &Facts, terms: &LaneTerms) -> Vec<PausedBy> {
    let lane: &LaneKey = &facts.record.spec.lane;
    let mut pauses = Vec::new();
    if facts.config.paused {
        pauses.push(PausedBy::Queue);
    }
    if !terms.paused {
        return pauses;
    }
    if facts.config.lanes.every.paused {
        pauses.push(PausedBy::EveryLane);
    }
    let class = lane.class().filter(|class| facts.config.lanes.classes.get(class).is_some_and(|c| c.each.paused));
    pauses.extend(class.map(PausedBy::Class));
    if facts.policy.as_ref().is_some_and(|policy| policy.paused) {
        pauses.push(PausedBy::Lane(lane.clone()));
    }
    pauses
}

/// Whether a claim that asks for enough jobs hands this one out for certain, given that nothing stands in its way: no limit
/// could be used up by others before.
fn is_ready(facts: &Facts, terms: &LaneTerms, limits: &[Limit<'_>], now: Timestamp) -> bool {
    let WaitingJobs { in_lanes, shelved, delayed } = facts.waiting;
    // What else a claim may bring into line before it looks at this job.
    let others = in_lanes.saturating_add(shelved).saturating_add(delayed).saturating_sub(1);
    let record = &facts.record;
    // Through a gate only the first is handed out; the others go with it, or wait for another batch.
    if terms.batch.is_some() && record.slot == Slot::Lane && (facts.ahead > 0 || shelved > 0 || delayed > 0) {
        return false;
    }
    let ahead = match (record.state, record.slot) {
        (JobState::Waiting, Slot::Lane) if facts.ahead < u64::from(COUNTED_MAX) => {
            facts.ahead.saturating_add(shelved).saturating_add(delayed)
        }
        (JobState::Waiting, Slot::Lane) => others,
        // One job of the solo line is claimed at a time.
        (JobState::Waiting, Slot::Solo) => return facts.ahead == 0 && shelved == 0 && delayed == 0,
        (JobState::Delayed, _) => {
            let comes_now = delayed <= PROMOTE_ITEMS_MAX as u64;
            if !comes_now || line(record.crashes, record.spec.options.max_crashes) != Slot::Lane {
                return false;
            }
            others
        }
        _ => return false,
    };
    limits.iter().all(|limit| {
        let before = if matches!(limit.of, Limited::Lane(_)) { ahead } else { others };
        limit.free(now).is_none_or(|free| u64::from(free) > before)
    })
}
