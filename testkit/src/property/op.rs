//! What a generated case is made of: operations that name jobs, leases and calls by their place among those seen so
//! far, so that a case stays meaningful while proptest takes operations out of it, and can be stored as text.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// One operation of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Enqueue new jobs.
    Enqueue {
        /// Which queue.
        queue: u8,
        /// The jobs.
        jobs: Vec<JobDraft>,
    },
    /// Enqueue jobs that are all alike, for a batch to hold.
    EnqueueAlike {
        /// Which queue.
        queue: u8,
        /// What they are like.
        job: JobDraft,
        /// How many.
        number: u8,
    },
    /// Enqueue jobs of earlier calls again, under their ids and without a call id.
    EnqueueAgain {
        /// Which jobs, among those made so far.
        jobs: Vec<u16>,
    },
    /// Settle and claim.
    Exchange {
        /// Which queue; settlements go to the queue of the first lease.
        queue: u8,
        /// The settlements.
        settle: Vec<SettleDraft>,
        /// The claim.
        claim: Option<ClaimDraft>,
    },
    /// Renew leases.
    Renew {
        /// Which leases.
        leases: Vec<LeasePick>,
        /// For so many seconds.
        term: u8,
    },
    /// Leave notes.
    Annotate {
        /// Under which leases, and what.
        notes: Vec<(LeasePick, NoteDraft)>,
    },
    /// Gather more members into a batch.
    Gather {
        /// Under which lease.
        lease: LeasePick,
        /// How many jobs to look at.
        max_items: u8,
    },
    /// Read members of a batch.
    Members {
        /// Under which lease.
        lease: LeasePick,
        /// After the member with this seq.
        after: Option<u8>,
        /// How many at most.
        max_items: u8,
        /// How many payload bytes at most.
        max_bytes: u16,
    },
    /// Sweep.
    Sweep {
        /// Which queue.
        queue: u8,
        /// How many jobs at most.
        max_items: u8,
    },
    /// Act on jobs by id.
    Act {
        /// Which jobs, among those made so far.
        jobs: Vec<u16>,
        /// What to do.
        act: ActDraft,
    },
    /// Act on jobs by filter.
    ActFilter {
        /// Which queue.
        queue: u8,
        /// Which states, as bits by the state's number; 0 for all.
        states: u8,
        /// Of which kind.
        kind: Option<u8>,
        /// With which tag.
        tag: Option<u8>,
        /// Ended more than so many seconds ago.
        ended_before: Option<u16>,
        /// How many to look at.
        max_items: u8,
        /// Go on where the last such step on this queue ended.
        go_on: bool,
        /// What to do.
        act: ActDraft,
    },
    /// Pause or resume.
    Pause {
        /// Which queue.
        queue: u8,
        /// Whether to pause.
        paused: bool,
    },
    /// Change the retention rules: for each ended state seconds and a count.
    Configure {
        /// Which queue.
        queue: u8,
        /// The rules.
        rules: [(u16, u8); 3],
    },
    /// The same, if the settings still are what they were made from.
    Reconfigure {
        /// Which queue.
        queue: u8,
        /// The rules.
        rules: [(u16, u8); 3],
        /// Whether they are not.
        stale: bool,
    },
    /// Let the other queue be this one's dead-letter queue, or none.
    DeadLetter {
        /// Which queue.
        queue: u8,
        /// Whether it has one.
        on: bool,
    },
    /// Redrive jobs that have an origin, by id.
    Redrive {
        /// Which, among those that there are.
        jobs: Vec<u16>,
    },
    /// Change what may start, of the queue and of its lanes.
    Limit {
        /// Which queue.
        queue: u8,
        /// Of the queue as a whole.
        whole: LimitDraft,
        /// The quantum.
        quantum: u8,
        /// Of every lane.
        every: LaneDraft,
        /// Of each lane of a class.
        each: LaneDraft,
        /// Of the class as a whole.
        class: LimitDraft,
        /// Of another class and each of its lanes.
        #[serde(default)]
        other: (LimitDraft, LaneDraft),
    },
    /// Change the gate of every lane.
    Gate {
        /// Which queue.
        queue: u8,
        /// For batches of up to so many, or after so many seconds; none for no gate.
        batch: Option<(u8, u8)>,
    },
    /// Change one lane's own policy.
    LanePolicy {
        /// Which queue.
        queue: u8,
        /// Which lane.
        lane: u8,
        /// The policy, if it is to have one.
        policy: Option<LaneDraft>,
    },
    /// The same, if the policy still is what it was made from.
    LanePolicyFrom {
        /// Which queue.
        queue: u8,
        /// Which lane.
        lane: u8,
        /// The policy, if it is to have one.
        policy: Option<LaneDraft>,
        /// Whether it is not.
        stale: bool,
    },
    /// Watch a job.
    Watch {
        /// Which, among those made so far.
        job: u16,
    },
    /// Ask why a job is not running.
    Explain {
        /// Which, among those made so far.
        job: u16,
        /// Whether to claim then whatever can be claimed, to see whether that was true.
        claim: bool,
    },
    /// Obliterate a queue, one step.
    Obliterate {
        /// Which queue.
        queue: u8,
        /// With its Active jobs.
        force: bool,
        /// How many jobs at most.
        max_items: u8,
    },
    /// Ask a limiter for permits, and look at it before and after.
    Acquire {
        /// Which limiter.
        limiter: u8,
        /// Under which rate.
        rate: RateDraft,
        /// How many.
        permits: u16,
    },
    /// Ask for the permits of one of the last such calls again, under its call id.
    AcquireAgain {
        /// How many calls ago.
        back: u8,
    },
    /// A limiter forgets all.
    ResetLimiter {
        /// Which limiter.
        limiter: u8,
    },
    /// Let time pass.
    Advance(Pass),
    /// Sweep often enough, and long enough, that unattended leases are lost.
    Lapse {
        /// In which queue.
        queue: u8,
    },
    /// The clock goes back by an hour.
    StepBack,
    /// Close the store and open it again, where it persists.
    Reopen,
    /// Make one of the last calls again, under its call id.
    Repeat {
        /// How many calls ago.
        back: u8,
    },
}

/// A rate to ask a limiter with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RateDraft {
    /// So many in so many seconds.
    Sliding(u16, u8),
    /// So many per minute of UTC.
    Minute(u16),
    /// So many per hour of UTC.
    Hour(u16),
    /// So many per day of UTC.
    Day(u16),
}

/// Limits of a queue or class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitDraft {
    /// How many at once; 0 for no limit.
    pub concurrency: u8,
    /// How many in how many seconds; with 0 in a minute of the clock, and with the last four numbers in an hour or a day of it
    /// in UTC, and in New York; none for no limit.
    pub rate: Option<(u16, u8)>,
}

/// What a lane may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneDraft {
    /// Its weight; 0 for what the policy above says.
    pub weight: u8,
    /// Its limits; where there are none, the policy above may have some.
    pub limits: LimitDraft,
    /// No limits, whatever the policy above says.
    pub unlimited: bool,
    /// Paused.
    pub paused: bool,
    /// Its jobs run in batches of up to so many, or after so many seconds.
    #[serde(default)]
    pub batch: Option<(u8, u8)>,
}

/// How time passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pass {
    /// So many seconds.
    Seconds(u8),
    /// To the next instant at which something of a queue is due, and so many microseconds beyond (or short of) it.
    ToNext(u8, i8),
    /// So many hours.
    Hours(u8),
}

/// A job to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDraft {
    /// Which kind; the last of them nobody handles.
    pub kind: u8,
    /// The priority.
    pub priority: u8,
    /// First in its priority.
    pub lifo: bool,
    /// The delay in seconds; 0 for none.
    pub delay: u16,
    /// Which dedup key, and the mode: 0 until finished, 1 while kept, to 7 for so many seconds, to 13 debounced by the
    /// seconds beyond 7, 14 keep latest, else coalesced up to the number beyond 14.
    pub dedup: Option<(u8, u8)>,
    /// The attempts budget.
    pub max_attempts: u8,
    /// The crash budget.
    pub max_crashes: u8,
    /// Expires in so many seconds.
    pub expires_in: Option<u16>,
    /// What to keep if it completed, failed, was cancelled: 0 what the queue says, 1 nothing, else so many seconds.
    pub keep: [u8; 3],
    /// The payload's size.
    pub bytes: u8,
    /// A tag.
    pub tag: Option<u8>,
    /// The lane; 0 for the default one.
    #[serde(default)]
    pub lane: u8,
}

/// Which lease.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeasePick {
    /// Its place.
    pub place: u16,
    /// Among those known to be over, instead of those that may be current.
    pub stale: bool,
}

/// A settlement to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettleDraft {
    /// Under which lease.
    pub lease: LeasePick,
    /// What the run ended in.
    pub outcome: OutcomeDraft,
    /// Jobs to insert with it: on the other queue or the same, and which.
    pub follow_ups: Vec<(bool, JobDraft)>,
}

/// An outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OutcomeDraft {
    /// Completed, with a result or without.
    Completed(bool),
    /// Failed, to be retried after so many seconds.
    Retry(u8),
    /// Aborted.
    Abort,
    /// Snoozed for so many seconds.
    Snooze(u8),
    /// Released.
    Release,
    /// Cancelled.
    Cancelled,
}

/// What a run leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoteDraft {
    /// Progress.
    pub progress: Option<u8>,
    /// So many log lines.
    pub lines: u8,
    /// A checkpoint of so many bytes.
    pub checkpoint: Option<u8>,
}

/// A claim to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimDraft {
    /// Which kinds, as bits.
    pub kinds: u8,
    /// How many jobs at most.
    pub max_items: u8,
    /// How many payload bytes at most.
    pub max_bytes: u16,
    /// The term in seconds.
    pub term: u8,
    /// Whether nothing else runs in the worker's process.
    pub alone: bool,
    /// Which worker.
    pub worker: u8,
}

/// What an operator does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ActDraft {
    /// Cancel.
    Cancel,
    /// Retry, resetting the counters or not.
    Retry(bool),
    /// Promote.
    Promote,
    /// Reschedule to so many seconds from now.
    Reschedule(u16),
    /// Set the priority.
    SetPriority(u8),
    /// Remove.
    Remove,
    /// Redrive.
    Redrive,
}

/// How many kinds of jobs there are; workers handle all but the last one.
pub(super) const KINDS: u8 = 4;

fn seconds() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(0u16), 4 => 1u16..20, 1 => 20u16..4000]
}

fn job() -> impl Strategy<Value = JobDraft> {
    let what = (
        prop_oneof![8 => 0..KINDS - 1, 1 => Just(KINDS - 1)],
        prop_oneof![3 => Just(128u8), 1 => Just(1u8), 1 => Just(200u8)],
        prop::bool::weighted(0.2),
        prop_oneof![5 => Just(0u16), 3 => seconds()],
        option::weighted(
            0.35,
            (
                0u8..2,
                prop_oneof![3 => Just(0u8), 2 => Just(1u8), 2 => 2u8..8, 3 => 8u8..14, 4 => Just(14u8), 3 => 15u8..19],
            ),
        ),
        0u8..60,
    );
    let how = (
        prop_oneof![1 => Just(1u8), 2 => 2u8..4],
        prop_oneof![1 => Just(1u8), 1 => Just(2u8), 4 => Just(3u8)],
        option::weighted(0.15, 0u16..30),
        prop_oneof![
            5 => Just([0u8; 3]),
            2 => Just([1u8; 3]),
            2 => [0u8..12, 0u8..12, 0u8..12],
        ],
        option::weighted(0.3, 0u8..2),
        prop_oneof![2 => Just(0u8), 3 => 1u8..LANES],
    );
    (what, how).prop_map(
        |((kind, priority, lifo, delay, dedup, bytes), (max_attempts, max_crashes, expires_in, keep, tag, lane))| {
            JobDraft {
                kind,
                priority,
                lifo,
                delay,
                dedup,
                max_attempts,
                max_crashes,
                expires_in,
                keep,
                bytes,
                tag,
                lane,
            }
        },
    )
}

fn limits() -> impl Strategy<Value = LimitDraft> {
    // Starts are counted in groups where the limit is beyond 100.
    let limit = prop_oneof![5 => 1u16..6, 1 => 101u16..400];
    let rate = option::weighted(0.4, (limit, prop_oneof![2 => Just(0u8), 8 => 1u8..30, 3 => HOUR_OF_UTC..]));
    (prop_oneof![2 => Just(0u8), 1 => 1u8..5], rate).prop_map(|(concurrency, rate)| LimitDraft { concurrency, rate })
}

fn lane_policy() -> impl Strategy<Value = LaneDraft> {
    let weight = prop_oneof![2 => Just(0u8), 1 => 1u8..4];
    let batch = option::weighted(0.3, (1u8..5, 0u8..20));
    (weight, limits(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), batch)
        .prop_map(|(weight, limits, unlimited, paused, batch)| LaneDraft { weight, limits, unlimited, paused, batch })
}

fn limit() -> impl Strategy<Value = Op> {
    let none = || prop_oneof![1 => Just(LimitDraft::default()).boxed(), 1 => limits().boxed()];
    let lanes = || prop_oneof![2 => Just(LaneDraft::default()).boxed(), 1 => lane_policy().boxed()];
    (queue(), none(), 1u8..4, lanes(), lanes(), none(), (none(), lanes())).prop_map(
        |(queue, whole, quantum, every, each, class, other)| Op::Limit {
            queue,
            whole,
            quantum,
            every,
            each,
            class,
            other,
        },
    )
}

fn lease(stale: bool) -> impl Strategy<Value = LeasePick> {
    any::<u16>().prop_map(move |place| LeasePick { place, stale })
}

fn outcome() -> impl Strategy<Value = OutcomeDraft> {
    prop_oneof![
        4 => any::<bool>().prop_map(OutcomeDraft::Completed),
        4 => (0u8..15).prop_map(OutcomeDraft::Retry),
        1 => Just(OutcomeDraft::Abort),
        2 => (0u8..15).prop_map(OutcomeDraft::Snooze),
        2 => Just(OutcomeDraft::Release),
        1 => Just(OutcomeDraft::Cancelled),
    ]
}

fn settlements(stale: bool) -> impl Strategy<Value = Vec<SettleDraft>> {
    let follow_ups = prop_oneof![4 => Just(Vec::new()).boxed(), 1 => vec((any::<bool>(), job()), 1..3).boxed()];
    let one = (lease(stale), outcome(), follow_ups).prop_map(|(lease, outcome, follow_ups)| SettleDraft {
        lease,
        outcome,
        follow_ups,
    });
    vec(one, 1..4)
}

fn claim() -> impl Strategy<Value = ClaimDraft> {
    (
        prop_oneof![4 => Just(0b111u8), 1 => 1u8..8],
        1u8..7,
        prop_oneof![3 => Just(u16::MAX), 1 => 0u16..150],
        prop_oneof![2 => Just(10u8), 1 => Just(30u8)],
        prop::bool::weighted(0.7),
        0u8..3,
    )
        .prop_map(|(kinds, max_items, max_bytes, term, alone, worker)| ClaimDraft {
            kinds,
            max_items,
            max_bytes,
            term,
            alone,
            worker,
        })
}

fn note() -> impl Strategy<Value = NoteDraft> {
    (option::of(0u8..100), prop_oneof![3 => 0u8..3, 1 => Just(60u8)], option::of(0u8..20))
        .prop_map(|(progress, lines, checkpoint)| NoteDraft { progress, lines, checkpoint })
}

fn act() -> impl Strategy<Value = ActDraft> {
    prop_oneof![
        3 => Just(ActDraft::Cancel),
        3 => any::<bool>().prop_map(ActDraft::Retry),
        1 => Just(ActDraft::Promote),
        2 => seconds().prop_map(ActDraft::Reschedule),
        1 => prop_oneof![Just(1u8), Just(128), Just(200)].prop_map(ActDraft::SetPriority),
        2 => Just(ActDraft::Remove),
        1 => Just(ActDraft::Redrive),
    ]
}

/// Mostly the same few, so that one is asked again while it remembers.
fn rate() -> impl Strategy<Value = RateDraft> {
    prop_oneof![
        4 => Just(RateDraft::Sliding(3, 10)),
        2 => Just(RateDraft::Sliding(350, 4)),
        2 => Just(RateDraft::Minute(4)),
        1 => (1u16..10).prop_map(RateDraft::Hour),
        1 => (1u16..400).prop_map(RateDraft::Day),
        1 => (1u16..1000, 1u8..100).prop_map(|(limit, seconds)| RateDraft::Sliding(limit, seconds)),
    ]
}

fn queue() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 1 => Just(1u8)]
}

fn few() -> impl Strategy<Value = u8> {
    prop_oneof![1 => Just(1u8), 1 => Just(3u8), 3 => Just(200u8)]
}

fn filtered() -> impl Strategy<Value = Op> {
    let which = (
        queue(),
        prop_oneof![1 => Just(0u8), 2 => 0u8..128],
        option::weighted(0.3, 0..KINDS),
        option::weighted(0.2, 0u8..2),
        option::weighted(0.2, 0u16..30),
    );
    (which, few(), any::<bool>(), act()).prop_map(
        |((queue, states, kind, tag, ended_before), max_items, go_on, act)| Op::ActFilter {
            queue,
            states,
            kind,
            tag,
            ended_before,
            max_items,
            go_on,
            act,
        },
    )
}

/// One operation. Repeats and acts under stale leases together have about a third of the weight.
pub(super) fn op() -> impl Strategy<Value = Op> {
    let renew = |stale| {
        (vec(lease(stale), 1..4), prop_oneof![Just(10u8), Just(30u8)])
            .prop_map(|(leases, term)| Op::Renew { leases, term })
    };
    let annotate = |stale| vec((lease(stale), note()), 1..3).prop_map(|notes| Op::Annotate { notes });
    let exchange = |stale, claims: f64| {
        (queue(), settlements(stale), option::weighted(claims, claim()))
            .prop_map(|(queue, settle, claim)| Op::Exchange { queue, settle, claim })
    };
    let rule = || (prop_oneof![Just(0u16), 1u16..60, Just(3600u16)], prop_oneof![Just(0u8), 1u8..4, Just(100u8)]);
    prop_oneof![
        14 => (queue(), vec(job(), 1..6)).prop_map(|(queue, jobs)| Op::Enqueue { queue, jobs }),
        5 => (queue(), job(), 2u8..6).prop_map(|(queue, job, number)| Op::EnqueueAlike { queue, job, number }),
        14 => (queue(), claim()).prop_map(|(queue, claim)| Op::Exchange { queue, settle: Vec::new(), claim: Some(claim) }),
        14 => exchange(false, 0.5),
        4 => renew(false),
        3 => (lease(false), few()).prop_map(|(lease, max_items)| Op::Gather { lease, max_items }),
        4 => (lease(false), option::weighted(0.2, 0u8..30), few(), prop_oneof![3 => Just(u16::MAX), 1 => 0u16..150])
            .prop_map(|(lease, after, max_items, max_bytes)| Op::Members { lease, after, max_items, max_bytes }),
        4 => annotate(false),
        5 => (queue(), few()).prop_map(|(queue, max_items)| Op::Sweep { queue, max_items }),
        10 => (vec(any::<u16>(), 1..4), act()).prop_map(|(jobs, act)| Op::Act { jobs, act }),
        4 => filtered(),
        3 => (queue(), prop::bool::weighted(0.3)).prop_map(|(queue, paused)| Op::Pause { queue, paused }),
        2 => (queue(), [rule(), rule(), rule()]).prop_map(|(queue, rules)| Op::Configure { queue, rules }),
        3 => (queue(), prop::bool::weighted(0.7)).prop_map(|(queue, on)| Op::DeadLetter { queue, on }),
        3 => vec(any::<u16>(), 1..4).prop_map(|jobs| Op::Redrive { jobs }),
        3 => limit(),
        4 => (queue(), option::weighted(0.8, (2u8..6, 0u8..20))).prop_map(|(queue, batch)| Op::Gate { queue, batch }),
        2 => (queue(), 0..LANES, option::weighted(0.7, lane_policy()))
            .prop_map(|(queue, lane, policy)| Op::LanePolicy { queue, lane, policy }),
        1 => (queue(), [rule(), rule(), rule()], option::weighted(0.3, Just(())))
            .prop_map(|(queue, rules, stale)| Op::Reconfigure { queue, rules, stale: stale.is_some() }),
        1 => (queue(), 0..LANES, option::weighted(0.7, lane_policy()), option::weighted(0.3, Just(()))).prop_map(
            |(queue, lane, policy, stale)| Op::LanePolicyFrom { queue, lane, policy, stale: stale.is_some() },
        ),
        2 => any::<u16>().prop_map(|job| Op::Watch { job }),
        4 => (any::<u16>(), any::<bool>()).prop_map(|(job, claim)| Op::Explain { job, claim }),
        1 => (queue(), any::<bool>(), few()).prop_map(|(queue, force, max_items)| Op::Obliterate { queue, force, max_items }),
        8 => prop_oneof![
            3 => (1u8..6).prop_map(Pass::Seconds),
            4 => (queue(), -1i8..2).prop_map(|(queue, by)| Pass::ToNext(queue, by)),
            1 => (1u8..50).prop_map(Pass::Hours),
        ]
        .prop_map(Op::Advance),
        4 => queue().prop_map(|queue| Op::Lapse { queue }),
        6 => (0u8..2, rate(), prop_oneof![3 => 1u16..3, 1 => 1u16..200])
            .prop_map(|(limiter, rate, permits)| Op::Acquire { limiter, rate, permits }),
        1 => (0u8..2).prop_map(|limiter| Op::ResetLimiter { limiter }),
        1 => Just(Op::StepBack),
        1 => Just(Op::Reopen),
        // From here on: repeats and stale leases.
        4 => vec(any::<u16>(), 1..4).prop_map(|jobs| Op::EnqueueAgain { jobs }),
        11 => exchange(true, 0.2),
        6 => renew(true),
        6 => annotate(true),
        24 => (0u8..4).prop_map(|back| Op::Repeat { back }),
        4 => (0u8..4).prop_map(|back| Op::AcquireAgain { back }),
    ]
}

/// How many lanes there are, the default one among them.
pub(super) const LANES: u8 = 7;

/// What in place of seconds stands for hours and days of a calendar.
pub(super) const HOUR_OF_UTC: u8 = 252;
pub(super) const DAY_OF_UTC: u8 = 253;
pub(super) const HOUR_OF_NEW_YORK: u8 = 254;
pub(super) const DAY_OF_NEW_YORK: u8 = 255;

/// So many seconds.
pub(super) fn secs(seconds: impl Into<u64>) -> Duration {
    Duration::from_secs(seconds.into())
}
