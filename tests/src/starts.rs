//! Many processes that work on queues with limits, on a clock that only the test moves: a file, which every process reads.
//! So storage time stands still until every process has found nothing more to do in it, however slow the machine is, and
//! what was started when is told by the queues' event logs. The processes also write down what they were handed, which
//! the logs must confirm.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::{Clock, Timestamp};
use ferroq_core::event::{Event, EventCursor};
use ferroq_core::job::{ErrorKind, JobId, JobSpec, LaneClass, LaneKey, QueueName, WorkerId};
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, Say, StartLimits};
use ferroq_core::policy::rate::Rate;
use ferroq_core::policy::retention::KeepFor;
use ferroq_core::storage::{
    ClaimSpec, EnqueueRequest, ExchangeRequest, Lease, Outcome, QueueConfig, RunError, Settlement, Storage,
    StorageError, SweepRequest,
};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::{KIND, SpecExt, kind, queue_name, spec};
use ferroq_testkit::invariants::limits::{check_concurrency, check_rate, check_used, most_active};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::dedup::Place;
use crate::jobs::say;

/// By how much the test moves the clock at a time.
pub const STEP: Duration = Duration::from_millis(20);
/// The lease of every claim.
pub const TERM: Duration = Duration::from_millis(200);
/// The window of every rate.
pub const WINDOW: Duration = Duration::from_secs(1);

/// A clock in a file.
#[derive(Clone, Debug)]
pub struct FileClock {
    path: PathBuf,
}

impl FileClock {
    /// The clock in this file; [`set`](Self::set) makes it.
    pub fn new(path: &Path) -> Self {
        FileClock { path: path.to_owned() }
    }

    /// Sets the clock, for every process at once.
    ///
    /// # Panics
    /// If the file can't be written.
    pub fn set(&self, to: Timestamp) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, to.as_micros().to_string()).expect("write the clock");
        std::fs::rename(new, &self.path).expect("set the clock");
    }
}

impl Clock for FileClock {
    fn now(&self) -> Timestamp {
        let text = std::fs::read_to_string(&self.path).expect("read the clock");
        Timestamp::from_micros(text.parse().expect("a clock shows a number"))
    }
}

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where.
    pub place: Place,
    /// The clock's file.
    pub clock: PathBuf,
    /// The file in which all processes write down what they were handed.
    pub trace: PathBuf,
    /// What it draws its calls from.
    pub seed: u64,
}

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

/// All that happened in a queue.
///
/// # Panics
/// If some of it is not known any more.
pub async fn log(storage: &dyn Storage, queue: &QueueName) -> Vec<Event> {
    let (mut events, mut after) = (Vec::new(), EventCursor::default());
    loop {
        let page = storage.events(queue, after, 1000).await.expect("events");
        assert!(!page.missed, "the log keeps everything");
        if page.events.is_empty() {
            return events;
        }
        after = page.next;
        events.extend(page.events);
    }
}

/// What is asked for in every claim.
pub fn claim(max_items: usize) -> ClaimSpec {
    ClaimSpec {
        kinds: Arc::new([kind(KIND)]),
        max_items,
        max_bytes: usize::MAX,
        term: TERM,
        worker: WorkerId::new("toiler").expect("a name"),
        alone: true,
    }
}

/// A run, and when the process settles it.
struct Held {
    lease: Lease,
    until: Timestamp,
}

impl Order {
    /// Opens the store, on the shared clock.
    ///
    /// # Panics
    /// If it can't be opened.
    pub async fn open(&self) -> Arc<dyn Storage> {
        let clock = Arc::new(FileClock::new(&self.clock));
        match &self.place {
            Place::Sqlite(db) => {
                Arc::new(SqliteStorage::open(SqliteOptions::new(db).clock(clock)).await.expect("the file opens"))
            }
            Place::Redis(url, namespace) => {
                let options = RedisOptions::from_url(url).expect("a URL").namespace(namespace);
                Arc::new(RedisStorage::open(options.clock(clock)).await.expect("the server answers"))
            }
        }
    }

    /// Works on every queue, and says so whenever there is nothing more to do at the time that the clock shows; for as long
    /// as nobody kills it.
    ///
    /// # Errors
    /// What a call answered that can't be tried again; the trace's.
    pub async fn toil(&self, storage: &dyn Storage) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let clock = FileClock::new(&self.clock);
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut queues: Vec<(Limited, Vec<Held>)> = Limited::all().into_iter().map(|one| (one, Vec::new())).collect();
        loop {
            let now = clock.now();
            for (limited, held) in &mut queues {
                while self.turn(storage, limited, held, now, &mut random).await? {}
            }
            say(&format!("idle {}", now.as_micros()));
            while clock.now() == now {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
    }

    /// Settles what is due, claims, sweeps; and answers whether there may be more to do.
    async fn turn(
        &self,
        storage: &dyn Storage,
        limited: &Limited,
        held: &mut Vec<Held>,
        now: Timestamp,
        random: &mut StdRng,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let queue = &limited.queue;
        let settlements: Vec<_> =
            held.extract_if(.., |one| one.until <= now).map(|one| settlement(one.lease, random)).collect();
        let settles = !settlements.is_empty();
        let claim = Some(claim(random.random_range(1..8)));
        let request = ExchangeRequest { call: None, queue: queue.clone(), settlements, claim };
        let answer = match storage.exchange(request).await {
            // What is lost with the answer is taken from a process that was killed too.
            Err(error) if error.is_retryable() => {
                self.write("lost\n")?;
                return Ok(true);
            }
            answer => answer?.claimed.unwrap_or_default(),
        };
        for claim in &answer.claims {
            let (id, at) = (claim.lease.id, claim.started_at.as_micros());
            self.write(&format!("{queue} {id} {at}\n"))?;
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

    /// One line in one write, so that lines of several processes don't mix.
    fn write(&self, line: &str) -> std::io::Result<()> {
        let mut trace = OpenOptions::new().create(true).append(true).open(&self.trace)?;
        trace.write_all(line.as_bytes())
    }
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

/// Completes all that can be claimed now, and answers whether anything is left alive and when to look again.
///
/// # Errors
/// The storage's.
pub async fn work_off(storage: &dyn Storage, queue: &QueueName) -> Result<bool, StorageError> {
    let mut settlements = Vec::new();
    loop {
        let request = ExchangeRequest { call: None, queue: queue.clone(), settlements, claim: Some(claim(100)) };
        let answer = storage.exchange(request).await?.claimed.unwrap_or_default();
        let complete =
            |lease| Settlement { lease, outcome: Outcome::Completed { result: None }, follow_ups: Vec::new() };
        settlements = answer.claims.iter().map(|claim| complete(claim.lease)).collect();
        if settlements.is_empty() && !answer.more {
            break;
        }
    }
    while storage.sweep(SweepRequest { queue: queue.clone(), max_items: 1000 }).await?.more {}
    Ok(storage.counts(queue).await?.live() > 0)
}
