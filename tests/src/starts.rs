//! What a [crowd](crate::crowd) does on queues with limits, and what must be so about the starts in their logs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::Timestamp;
use ferroq_core::event::Event;
use ferroq_core::job::{ErrorKind, JobId, JobSpec, LaneClass, LaneKey, QueueName};
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, Say, StartLimits};
use ferroq_core::policy::rate::Rate;
use ferroq_core::policy::retention::KeepFor;
use ferroq_core::storage::{
    EnqueueRequest, ExchangeRequest, Lease, Outcome, QueueConfig, RunError, Settlement, Storage, SweepRequest,
};
use ferroq_testkit::harness::{SpecExt, queue_name, spec};
use ferroq_testkit::invariants::limits::{check_concurrency, check_rate, check_used, most_active};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::crowd::{Failure, Order, STEP, claim};

/// The window of every rate.
pub const WINDOW: Duration = Duration::from_secs(1);

/// One thing that a rate or a concurrency is for.
#[derive(Clone, Debug)]
pub enum Whose {
    /// All jobs.
    Queue,
    /// Those in lanes of a class.
    Class(&'static str),
    /// Those in one lane.
    Lane(String),
}

/// How often the concurrencies are others.
pub const PHASES: usize = 4;
/// The phases in which each concurrency must be reached; in the others the limits stand in each other's way.
const REACHED: [usize; 2] = [0, 3];

/// What the queue, the class, each of its lanes and a lane with a policy of its own may do at once, phase by phase. In the
/// second phase a lane is paused too.
const QUEUE: [u32; PHASES] = [7, 7, 3, 14];
const CLASS: [u32; PHASES] = [4, 2, 4, 6];
const EACH: [u32; PHASES] = [2, 1, 2, 2];
const OWN: [u32; PHASES] = [1, 3, 1, 2];
const PAUSED: usize = 1;

/// A queue with limits, and which lanes have work.
#[derive(Debug)]
pub struct Limited {
    /// The queue.
    pub queue: QueueName,
    /// Its settings.
    pub config: QueueConfig,
    /// Lanes' own policies.
    pub own: Vec<(LaneKey, LanePolicy)>,
    /// The lanes with work; the default lane is the empty text.
    pub lanes: Vec<String>,
    /// The rates that must hold, and whether there is so much work that each must be used.
    pub rates: Vec<(Whose, Rate, bool)>,
    /// The concurrencies that must hold, in one phase after another.
    pub slots: Vec<(Whose, [u32; PHASES])>,
    /// For how many steps of the clock a run goes on at most.
    run_steps_max: u32,
}

fn lane(name: &str) -> LaneKey {
    LaneKey::new(name).expect("a lane")
}

fn class(name: &str) -> LaneClass {
    LaneClass::new(name).expect("a class")
}

fn config() -> QueueConfig {
    let mut config = QueueConfig::default();
    config.event_entries_kept = 10_000_000;
    config.lanes.quantum = 2;
    config
}

fn rated(limit: u32) -> LanePolicy {
    LanePolicy { rate: Say::Limit(Rate::sliding(limit, WINDOW)), ..LanePolicy::default() }
}

fn slotted(concurrency: u32) -> LanePolicy {
    LanePolicy { concurrency: Say::Limit(concurrency), ..LanePolicy::default() }
}

impl Limited {
    /// A queue whose rate as a whole is all that limits it: more than a hundred, so that starts are remembered in groups.
    pub fn whole() -> Self {
        let rate = Rate::sliding(150, WINDOW);
        let mut config = config();
        config.limits = StartLimits { concurrency: None, rate: Some(rate.clone()) };
        Limited {
            queue: queue_name("whole"),
            config,
            own: Vec::new(),
            lanes: ["", "a", "b/1", "b/2"].map(str::to_owned).into(),
            rates: vec![(Whose::Queue, rate, true)],
            slots: Vec::new(),
            run_steps_max: 0,
        }
    }

    /// A queue with rates of a class as a whole, of each lane of another, and of one lane.
    pub fn laned() -> Self {
        let rate = |limit| Rate::sliding(limit, WINDOW);
        let mut config = config();
        let total = StartLimits { concurrency: None, rate: Some(rate(40)) };
        config.lanes.classes.insert(class("total"), ClassPolicy { each: rated(25), total });
        let each = ClassPolicy { each: rated(10), ..ClassPolicy::default() };
        config.lanes.classes.insert(class("each"), each);
        let lanes = ["total/1", "total/2", "total/3", "each/1", "each/2", "own"].map(str::to_owned);
        let mut rates = vec![
            (Whose::Class("total"), rate(40), true),
            (Whose::Lane("each/1".to_owned()), rate(10), true),
            (Whose::Lane("each/2".to_owned()), rate(10), true),
            (Whose::Lane("own".to_owned()), rate(15), true),
        ];
        rates.extend([1, 2, 3].map(|n| (Whose::Lane(format!("total/{n}")), rate(25), false)));
        Limited {
            queue: queue_name("laned"),
            config,
            own: vec![(lane("own"), rated(15))],
            lanes: lanes.into(),
            rates,
            slots: Vec::new(),
            run_steps_max: 0,
        }
    }

    /// A queue with a concurrency of its own, of a class, of each of its lanes, and of one lane, and a rate beside them.
    pub fn slotted(phase: usize) -> Self {
        let rate = Rate::sliding(120, WINDOW);
        let mut config = config();
        config.limits = StartLimits { concurrency: Some(QUEUE[phase]), rate: Some(rate.clone()) };
        let total = StartLimits { concurrency: Some(CLASS[phase]), rate: None };
        config.lanes.classes.insert(class("c"), ClassPolicy { each: slotted(EACH[phase]), total });
        let one = |name: &str| Whose::Lane(name.to_owned());
        let mut slots = vec![(Whose::Queue, QUEUE), (Whose::Class("c"), CLASS), (one("own"), OWN)];
        slots.extend(["c/1", "c/2", "c/3"].map(|name| (one(name), EACH)));
        let pause = LanePolicy { paused: phase == PAUSED, ..LanePolicy::default() };
        Limited {
            queue: queue_name("slotted"),
            config,
            own: vec![(lane("own"), slotted(OWN[phase])), (lane("d"), pause)],
            lanes: ["c/1", "c/2", "c/3", "own", "d", ""].map(str::to_owned).into(),
            rates: vec![(Whose::Queue, rate, false)],
            slots,
            run_steps_max: 6,
        }
    }

    /// All of them.
    pub fn all() -> Vec<Limited> {
        vec![Limited::whole(), Limited::laned(), Limited::slotted(0)]
    }

    /// Stores the settings.
    ///
    /// # Panics
    /// If they are refused.
    pub async fn configure(&self, storage: &dyn Storage) {
        storage.configure(&self.queue, self.config.clone()).await.expect("configure");
        for (lane, policy) in &self.own {
            storage.configure_lane(&self.queue, lane, Some(policy.clone())).await.expect("configure_lane");
        }
    }

    /// Enqueues a job in each lane, and adds them to the jobs' lanes.
    ///
    /// # Panics
    /// If they are not taken.
    pub async fn put(&self, storage: &dyn Storage, lanes: &mut HashMap<JobId, LaneKey>) {
        let job = |name: &String| {
            let job = spec(&self.queue).attempts(50).crashes(3);
            let job = job.options(|options| options.keep.completed = KeepFor::Remove);
            let job: JobSpec = if name.is_empty() { job } else { job.lane(name) };
            Arc::new(job)
        };
        let jobs: Vec<Arc<JobSpec>> = self.lanes.iter().map(job).collect();
        lanes.extend(jobs.iter().map(|job| (job.id, job.lane.clone())));
        let request = EnqueueRequest { call: None, queue: self.queue.clone(), jobs };
        storage.enqueue(request).await.expect("enqueue");
    }

    /// How many rounds of [`put`](Self::put) make more work than may start in a window.
    pub fn rounds_a_window(&self) -> usize {
        if self.own.is_empty() { 50 } else { 25 }
    }

    /// Checks the log against every limit: none was exceeded, the concurrencies were reached, and from the second of `phases` to
    /// the end the rates with enough work were used. `phases` are the beginning of each phase, and the end.
    ///
    /// # Errors
    /// What did not hold.
    pub fn check(
        &self,
        log: &[Event],
        lanes: &HashMap<JobId, LaneKey>,
        phases: &[Timestamp; PHASES + 1],
    ) -> Result<(), String> {
        let of = |whose: &Whose| {
            let counts = |event: &&Event| {
                let lane = event.job.and_then(|job| lanes.get(&job));
                lane.is_some_and(|lane| match whose {
                    Whose::Queue => true,
                    Whose::Class(class) => lane.class().is_some_and(|of| of.as_str() == *class),
                    Whose::Lane(name) => lane.name() == Some(name),
                })
            };
            log.iter().filter(counts).copied().collect::<Vec<Event>>()
        };
        let phase = |at: Timestamp| phases[1..PHASES].iter().filter(|begin| **begin <= at).count();
        for (whose, most) in &self.slots {
            let held = check_concurrency(|at| most[phase(at)], of(whose));
            held.map_err(|what| format!("{} {whose:?}: {what}", self.queue))?;
            // A class that is full has lanes that are.
            let looked_at = if matches!(whose, Whose::Lane(lane) if lane != "own") { &[][..] } else { &REACHED };
            for phase in looked_at.iter().copied() {
                let active = most_active(of(whose), phases[phase], phases[phase + 1]);
                if active < most[phase] as usize {
                    let queue = &self.queue;
                    return Err(format!(
                        "{queue} {whose:?}: {active} of {} were Active, which shows little",
                        most[phase]
                    ));
                }
            }
        }
        if !self.slots.is_empty() {
            let paused = phases[PAUSED]..phases[PAUSED + 1];
            let started = starts(&of(&Whose::Lane("d".to_owned())));
            if let Some(at) = started.into_iter().find(|at| paused.contains(at)) {
                return Err(format!("{}: a job of a paused lane started at {at}", self.queue));
            }
        }
        let (from, to) = (phases[1], phases[PHASES]);
        for (whose, rate, is_saturated) in &self.rates {
            let starts = starts(&of(whose));
            let held = check_rate(rate, starts.iter().copied());
            held.map_err(|what| format!("{} {whose:?}: {what}", self.queue))?;
            if *is_saturated {
                let used = check_used(rate, starts, from, to, 0.98);
                used.map_err(|what| format!("{} {whose:?}: {what}", self.queue))?;
            }
        }
        Ok(())
    }
}

/// When something started.
pub fn starts(log: &[Event]) -> Vec<Timestamp> {
    let started = |event: &&Event| event.kind == ferroq_core::event::EventKind::Started;
    log.iter().filter(started).map(|event| event.at).collect()
}

/// A run, and when the process settles it.
struct Held {
    lease: Lease,
    until: Timestamp,
}

/// Works on every queue, for as long as nobody kills this process.
///
/// # Errors
/// What a call answered that can't be tried again; the trace's.
pub async fn toil(order: &Order, storage: &dyn Storage, mut random: StdRng) -> Result<(), Failure> {
    let mut queues: Vec<(Limited, Vec<Held>)> = Limited::all().into_iter().map(|one| (one, Vec::new())).collect();
    order
        .at_each_time(async |now| {
            for (limited, held) in &mut queues {
                while turn(order, storage, limited, held, now, &mut random).await? {}
            }
            Ok(false)
        })
        .await
}

/// Settles what is due, claims, sweeps; and answers whether there may be more to do.
async fn turn(
    order: &Order,
    storage: &dyn Storage,
    limited: &Limited,
    held: &mut Vec<Held>,
    now: Timestamp,
    random: &mut StdRng,
) -> Result<bool, Failure> {
    let queue = &limited.queue;
    let settlements: Vec<_> =
        held.extract_if(.., |one| one.until <= now).map(|one| settlement(one.lease, random)).collect();
    let settles = !settlements.is_empty();
    let claim = Some(claim(random.random_range(1..8)));
    let request = ExchangeRequest { call: None, queue: queue.clone(), settlements, claim };
    let answer = match storage.exchange(request).await {
        // What is lost with the answer is taken from a process that was killed too.
        Err(error) if error.is_retryable() => {
            order.write("lost")?;
            return Ok(true);
        }
        answer => answer?.claimed.unwrap_or_default(),
    };
    for claim in &answer.claims {
        let (id, at) = (claim.lease.id, claim.started_at.as_micros());
        order.write(&format!("{queue} {id} {at}"))?;
        // Some runs go on until their lease is lost.
        let forgets = limited.run_steps_max > 0 && random.random_bool(0.05);
        let steps = if forgets { 30 } else { random.random_range(0..=limited.run_steps_max) };
        held.push(Held { lease: claim.lease, until: now.after(STEP * steps) });
    }
    let swept = match storage.sweep(SweepRequest { queue: queue.clone(), max_items: 100 }).await {
        Err(error) if error.is_retryable() => return Ok(true),
        answer => answer?,
    };
    let is_due = held.iter().any(|one| one.until <= now) || answer.look_again == Some(Duration::ZERO);
    Ok(settles || !answer.claims.is_empty() || answer.more || is_due || swept.stalled > 0 || swept.more)
}

fn settlement(lease: Lease, random: &mut StdRng) -> Settlement {
    let error = RunError::new(ErrorKind::Error, "it failed");
    let outcome = match random.random_range(0..20) {
        0..15 => Outcome::Completed { result: None },
        15 => Outcome::Retry { error, delay: Duration::ZERO },
        16 => Outcome::Retry { error, delay: STEP },
        17 => Outcome::Release,
        18 => Outcome::Snooze { delay: STEP },
        _ => Outcome::Abort { error },
    };
    Settlement { lease, outcome, follow_ups: Vec::new() }
}
