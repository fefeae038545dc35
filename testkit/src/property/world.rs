//! What a running case has seen: the jobs it made, the leases it was handed, the calls it may repeat. Operations name
//! these by place, and drafts become specifications here. Nothing depends on time or chance, so the same operations
//! always make the same calls.

use std::sync::Arc;

use ferroq_core::Timestamp;
use ferroq_core::job::{
    DedupKey, JobId, JobKind, JobOptions, JobSpec, JobState, LaneClass, LaneKey, Payload, Priority, QueueName, Start,
    Tag, WorkerId,
};
use ferroq_core::policy::batch::BatchGate;
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::policy::lanes::{LanePolicy, Say, StartLimits};
use ferroq_core::policy::rate::{CalendarUnit, Rate, RateError, TimeZoneName};
use ferroq_core::policy::retention::{Keep, KeepFor};
use ferroq_core::storage::{AcquireRequest, CallId, ClaimSpec, Lease, ListCursor, MembersAnswer, Outcome, RunError};
use uuid::Uuid;

use super::op::{
    ClaimDraft, DAY_OF_NEW_YORK, DAY_OF_UTC, HOUR_OF_NEW_YORK, HOUR_OF_UTC, JobDraft, KINDS, LaneDraft, LeasePick,
    LimitDraft, OutcomeDraft, secs,
};
use crate::invariants::History;
use crate::model::{Answer, Call};
use ferroq_core::job::ErrorKind;
use ferroq_core::storage::SettleAnswer;

/// How many calls stay open, so that each of them can be repeated.
const OPEN_CALLS: u64 = 3;

/// The names that cases use, checked once.
#[derive(Debug)]
pub(super) struct Names {
    queues: Vec<QueueName>,
    kinds: Vec<JobKind>,
    keys: Vec<DedupKey>,
    tags: Vec<Tag>,
    workers: Vec<WorkerId>,
    lanes: Vec<LaneKey>,
    classes: [LaneClass; 2],
}

impl Names {
    /// # Errors
    /// None in practice: the names are fixed and legal.
    pub(super) fn new() -> Result<Names, ferroq_core::job::NameError> {
        Ok(Names {
            queues: vec!["alpha".parse()?, "beta:2".parse()?],
            kinds: vec!["one".parse()?, "two".parse()?, "three".parse()?, "nobody's".parse()?],
            keys: vec!["k0".parse()?, "k1".parse()?, "k2".parse()?],
            tags: vec!["red".parse()?, "blue".parse()?],
            workers: vec!["w0".parse()?, "w1".parse()?, "w2".parse()?],
            lanes: vec![
                LaneKey::DEFAULT,
                LaneKey::new("a")?,
                LaneKey::new("b/1")?,
                LaneKey::new("b/2")?,
                LaneKey::new("b/3")?,
                LaneKey::new("b-c/1")?,
                LaneKey::new("b-c/2")?,
            ],
            classes: ["b".parse()?, "b-c".parse()?],
        })
    }

    pub(super) fn queue(&self, number: u8) -> QueueName {
        pick(&self.queues, number)
    }

    pub(super) fn queues(&self) -> &[QueueName] {
        &self.queues
    }

    pub(super) fn kind(&self, number: u8) -> JobKind {
        pick(&self.kinds, number)
    }

    pub(super) fn lane(&self, number: u8) -> LaneKey {
        pick(&self.lanes, number)
    }

    /// The classes that some of the lanes are in. The name of one begins as that of the other does.
    pub(super) fn classes(&self) -> [LaneClass; 2] {
        self.classes.clone()
    }

    pub(super) fn tag(&self, number: u8) -> Tag {
        pick(&self.tags, number)
    }

    pub(super) fn other(&self, queue: &QueueName) -> QueueName {
        self.queues.iter().find(|name| *name != queue).unwrap_or(queue).clone()
    }
}

fn pick<T: Clone>(all: &[T], number: u8) -> T {
    all[usize::from(number) % all.len()].clone()
}

/// What a running case has seen.
#[derive(Debug)]
pub(super) struct World {
    pub(super) names: Names,
    pub(super) jobs: Vec<Arc<JobSpec>>,
    /// Leases that were handed out and, for all the case knows, are current.
    open: Vec<(QueueName, Lease)>,
    /// Leases that are over.
    over: Vec<(QueueName, Lease)>,
    /// Calls that may be made again, and when they were made: a client gives up after a while, and so may stores.
    pub(super) repeatable: Vec<(Timestamp, Call)>,
    /// The last questions to limiters, which may be asked again.
    pub(super) acquires: Vec<AcquireRequest>,
    pub(super) cursors: Vec<(QueueName, Vec<JobState>, ListCursor)>,
    pub(super) history: History,
    session: u128,
    next_call: u64,
}

impl World {
    pub(super) fn new(names: Names) -> World {
        World {
            names,
            jobs: Vec::new(),
            open: Vec::new(),
            over: Vec::new(),
            repeatable: Vec::new(),
            acquires: Vec::new(),
            cursors: Vec::new(),
            history: History::default(),
            session: 1,
            next_call: 0,
        }
    }

    /// The next call's id. It leaves the last few calls unacknowledged.
    pub(super) fn call_id(&mut self) -> Option<CallId> {
        let number = self.next_call;
        self.next_call += 1;
        let acknowledged_below = number.saturating_sub(OPEN_CALLS);
        Some(CallId { session: Uuid::from_u128(self.session), number, acknowledged_below })
    }

    /// Takes note of a question to a limiter.
    pub(super) fn note_acquire(&mut self, request: AcquireRequest) {
        self.acquires.push(request);
        self.forget_acknowledged();
    }

    /// What the last call acknowledged is not repeated any more.
    fn forget_acknowledged(&mut self) {
        let acknowledged_below = self.next_call.saturating_sub(1 + OPEN_CALLS);
        let open = |call: Option<CallId>| call.is_some_and(|call| call.number >= acknowledged_below);
        self.repeatable.retain(|(_, call)| open(call.id()));
        self.acquires.retain(|request| open(request.call));
    }

    /// The store was opened anew, and a session belongs to a handle.
    pub(super) fn new_session(&mut self) {
        self.session += 1;
        self.next_call = 0;
        self.repeatable.clear();
        self.acquires.clear();
    }

    /// The next job to insert: its id follows from how many were made before, its payload from its size.
    pub(super) fn make(&mut self, queue: &QueueName, draft: &JobDraft) -> Arc<JobSpec> {
        let keep = |number: u8| match number {
            0 => KeepFor::QueueDefault,
            1 => KeepFor::Remove,
            seconds => KeepFor::Age(secs(seconds)),
        };
        let options = JobOptions {
            max_attempts: u32::from(draft.max_attempts),
            max_crashes: u32::from(draft.max_crashes),
            expires_in: draft.expires_in.map(secs),
            keep: Keep { completed: keep(draft.keep[0]), failed: keep(draft.keep[1]), cancelled: keep(draft.keep[2]) },
            tags: draft.tag.map(|tag| self.names.tag(tag)).into_iter().collect(),
            ..JobOptions::default()
        };
        // Spread out, so that the order of ids says nothing about the order of jobs.
        let id = (self.jobs.len() as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let job = Arc::new(JobSpec {
            id: JobId::from(Uuid::from_u128(id)),
            queue: queue.clone(),
            lane: self.names.lane(draft.lane),
            kind: self.names.kind(draft.kind),
            payload: Payload::json(vec![b'1'; usize::from(draft.bytes)]),
            priority: Priority(draft.priority),
            lifo: draft.lifo,
            start: if draft.delay == 0 { Start::Now } else { Start::After(secs(draft.delay)) },
            dedup: draft.dedup.map(|(key, mode)| Dedup {
                key: pick(&self.names.keys, key),
                mode: match mode {
                    0 => DedupMode::UntilFinished,
                    1 => DedupMode::WhileKept,
                    seconds @ 2..=7 => DedupMode::For(secs(seconds)),
                    seconds @ 8..=13 => DedupMode::Debounce(secs(seconds - 7)),
                    14 => DedupMode::KeepLatest,
                    count => DedupMode::Coalesce { count: u32::from(count - 14), max_wait: secs(5u8) },
                },
            }),
            options: Arc::new(options),
            origin: None,
        });
        self.jobs.push(job.clone());
        job
    }

    /// The jobs that follow from a run on `queue`.
    pub(super) fn follow_ups(&mut self, queue: &QueueName, drafts: &[(bool, JobDraft)]) -> Vec<Arc<JobSpec>> {
        let mut jobs = Vec::new();
        for (elsewhere, draft) in drafts {
            let queue = if *elsewhere { self.names.other(queue) } else { queue.clone() };
            jobs.push(self.make(&queue, draft));
        }
        jobs
    }

    pub(super) fn claim(&self, draft: &ClaimDraft) -> ClaimSpec {
        ClaimSpec {
            kinds: (0..KINDS).filter(|kind| draft.kinds & (1 << kind) != 0).map(|kind| self.names.kind(kind)).collect(),
            max_items: usize::from(draft.max_items.max(1)),
            max_bytes: if draft.max_bytes == u16::MAX { usize::MAX } else { usize::from(draft.max_bytes) },
            term: secs(draft.term.max(1)),
            worker: pick(&self.names.workers, draft.worker),
            alone: draft.alone,
        }
    }

    /// A claim of everything, for the end of a case.
    pub(super) fn claim_all(&self) -> ClaimSpec {
        self.claim(&ClaimDraft { kinds: u8::MAX, max_items: 50, max_bytes: u16::MAX, term: 10, alone: true, worker: 0 })
    }

    pub(super) fn lease(&self, pick: LeasePick) -> Option<(QueueName, Lease)> {
        let leases = if pick.stale { &self.over } else { &self.open };
        let place = usize::from(pick.place).checked_rem(leases.len())?;
        Some(leases[place].clone())
    }

    pub(super) fn job(&self, place: u16) -> Option<Arc<JobSpec>> {
        let place = usize::from(place).checked_rem(self.jobs.len())?;
        Some(self.jobs[place].clone())
    }

    /// Takes note of what an answer says about leases.
    pub(super) fn note(&mut self, at: Timestamp, call: &Call, answer: &Answer) {
        if let (Call::Exchange(request), Answer::Exchange(answer)) = (call, answer) {
            for (settlement, answer) in request.settlements.iter().zip(&answer.settled) {
                if matches!(answer, SettleAnswer::Settled { .. } | SettleAnswer::LeaseLost | SettleAnswer::Gone) {
                    self.give_up(|(_, lease)| *lease == settlement.lease);
                }
            }
            for claim in answer.claimed.iter().flat_map(|claimed| &claimed.claims) {
                self.take(&request.queue, claim.lease);
            }
        }
        if let (Call::Members(request), Answer::Members(MembersAnswer::Page(page))) = (call, answer) {
            for member in &page.members {
                self.take(&request.queue, member.lease);
            }
        }
        if call.id().is_some() {
            self.repeatable.push((at, call.clone()));
            self.forget_acknowledged();
        }
    }

    fn take(&mut self, queue: &QueueName, new: Lease) {
        self.give_up(|(of, lease)| lease.id == new.id && of == queue);
        self.open.push((queue.clone(), new));
    }

    fn give_up(&mut self, which: impl Fn(&(QueueName, Lease)) -> bool) {
        let over = self.open.extract_if(.., |entry| which(entry));
        self.over.extend(over);
    }
}

pub(super) fn outcome(draft: &OutcomeDraft) -> Outcome {
    match draft {
        OutcomeDraft::Completed(with_result) => {
            Outcome::Completed { result: with_result.then(|| Payload::json(&b"42"[..])) }
        }
        OutcomeDraft::Retry(seconds) => {
            Outcome::Retry { error: RunError::new(ErrorKind::Error, "it failed"), delay: secs(*seconds) }
        }
        OutcomeDraft::Abort => Outcome::Abort { error: RunError::new(ErrorKind::Abort, "of no use") },
        OutcomeDraft::Snooze(seconds) => Outcome::Snooze { delay: secs(*seconds) },
        OutcomeDraft::Release => Outcome::Release,
        OutcomeDraft::Cancelled => Outcome::Cancelled,
    }
}

fn rate(limit: u16, seconds: u8) -> Result<Rate, RateError> {
    let limit = u32::from(limit.max(1));
    let calendar = |unit, zone| Ok(Rate::calendar(limit, unit, TimeZoneName::new(zone)?));
    match seconds {
        0 => calendar(CalendarUnit::Minute, "UTC"),
        HOUR_OF_UTC => calendar(CalendarUnit::Hour, "UTC"),
        DAY_OF_UTC => calendar(CalendarUnit::Day, "UTC"),
        HOUR_OF_NEW_YORK => calendar(CalendarUnit::Hour, "America/New_York"),
        DAY_OF_NEW_YORK => calendar(CalendarUnit::Day, "America/New_York"),
        seconds => Ok(Rate::sliding(limit, secs(seconds))),
    }
}

/// # Errors
/// None in practice: the rates are legal, and there are such zones.
pub(super) fn limits(draft: LimitDraft) -> Result<StartLimits, RateError> {
    let concurrency = (draft.concurrency > 0).then_some(u32::from(draft.concurrency));
    Ok(StartLimits { concurrency, rate: draft.rate.map(|(limit, seconds)| rate(limit, seconds)).transpose()? })
}

/// # Errors
/// As [`limits`].
pub(super) fn lane_policy(draft: LaneDraft) -> Result<LanePolicy, RateError> {
    let StartLimits { concurrency, rate } = limits(draft.limits)?;
    fn say<T>(limit: Option<T>, unlimited: bool) -> Say<T> {
        match limit {
            _ if unlimited => Say::Unlimited,
            None => Say::Inherit,
            Some(limit) => Say::Limit(limit),
        }
    }
    Ok(LanePolicy {
        weight: (draft.weight > 0).then_some(u32::from(draft.weight)),
        concurrency: say(concurrency, draft.unlimited),
        rate: say(rate, draft.unlimited),
        paused: draft.paused,
        batch: gate(draft.batch, draft.unlimited),
    })
}

/// What a policy says of batches: of up to so many, or after so many seconds.
pub(super) fn gate(draft: Option<(u8, u8)>, unlimited: bool) -> Say<BatchGate> {
    match draft {
        _ if unlimited => Say::Unlimited,
        None => Say::Inherit,
        Some((size, seconds)) => Say::Limit(BatchGate::new(u32::from(size.max(1)), secs(seconds))),
    }
}
