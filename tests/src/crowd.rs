//! Many processes that work at one time, on a clock that only the test moves: a file, which every process reads. Storage time
//! stands still until every process has found nothing more to do in it, however slow the machine is; and some of them are killed
//! with SIGKILL at moments that nobody chose. What was done when is told by the queues' event logs, and the processes write
//! down what they were handed, which the logs must confirm.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::{Clock, Timestamp};
use ferroq_core::event::{Event, EventCursor, EventKind};
use ferroq_core::job::{JobId, QueueName, WorkerId};
use ferroq_core::storage::{ClaimSpec, ExchangeRequest, Outcome, Settlement, Storage, StorageError, SweepRequest};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::{KIND, audit, kind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::child::Child;
use crate::dedup::Place;
use crate::jobs::say;
use crate::{gates, starts};

/// By how much the test moves the clock at a time.
pub const STEP: Duration = Duration::from_millis(20);
/// The lease of every claim.
pub const TERM: Duration = Duration::from_millis(200);
/// How many processes there are.
pub const PROCESSES: usize = 3;
/// How many of them are killed before the end, unless `FERROQ_KILLS` says otherwise.
const KILLS: u32 = 20;

/// What a process ends with that can't go on.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

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

/// What there is to work on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Queues with limits.
    Starts,
    /// A queue whose lanes have gates.
    Gates,
}

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What it works on.
    pub work: Work,
    /// Where.
    pub place: Place,
    /// The clock's file.
    pub clock: PathBuf,
    /// The file in which all processes write down what they were handed.
    pub trace: PathBuf,
    /// What it draws its calls from.
    pub seed: u64,
}

impl Order {
    /// An order whose files are in this directory, and its clock, which shows a time.
    pub fn in_directory(work: Work, place: Place, directory: &Path, begin: Timestamp) -> (Self, FileClock) {
        let order = Order { work, place, clock: directory.join("clock"), trace: directory.join("trace"), seed: 0 };
        let clock = order.clock();
        clock.set(begin);
        (order, clock)
    }

    /// The shared clock.
    pub fn clock(&self) -> FileClock {
        FileClock::new(&self.clock)
    }

    /// Opens the store, on the shared clock.
    ///
    /// # Panics
    /// If it can't be opened.
    pub async fn open(&self) -> Arc<dyn Storage> {
        let clock = Arc::new(self.clock());
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

    /// Does the work, for as long as nobody kills this process.
    ///
    /// # Errors
    /// What a call answered that can't be tried again; the trace's.
    pub async fn obey(&self) -> Result<(), Failure> {
        let (storage, random) = (self.open().await, StdRng::seed_from_u64(self.seed));
        match self.work {
            Work::Starts => starts::toil(self, storage.as_ref(), random).await,
            Work::Gates => gates::toil(self, storage.as_ref(), random).await,
        }
    }

    /// Takes turns while these answer that there may be more to do, and says so when there is nothing more at the time that
    /// the clock shows; then waits for another time.
    ///
    /// # Errors
    /// The turns'.
    pub async fn at_each_time(
        &self,
        mut turn: impl AsyncFnMut(Timestamp) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let clock = self.clock();
        loop {
            let now = clock.now();
            while turn(now).await? {}
            say(&format!("idle {}", now.as_micros()));
            while clock.now() == now {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
    }

    /// Writes down a line in one write, so that lines of several processes don't mix.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, line: &str) -> std::io::Result<()> {
        let mut trace = OpenOptions::new().create(true).append(true).open(&self.trace)?;
        trace.write_all(format!("{line}\n").as_bytes())
    }

    /// What the processes wrote down.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn trace(&self) -> String {
        std::fs::read_to_string(&self.trace).expect("the trace")
    }
}

/// Processes under one order.
#[derive(Debug)]
pub struct Crowd {
    program: &'static str,
    order: Order,
    random: StdRng,
    children: Vec<Child>,
    steps: u32,
    kills: u32,
    killed: HashSet<u32>,
}

impl Crowd {
    /// Starts processes of this program; some are to be killed in so many steps.
    ///
    /// # Panics
    /// If they can't be started; if `FERROQ_KILLS` is no number.
    pub fn start(program: &'static str, order: &Order, seed: u64, steps: u32) -> Self {
        let kills = std::env::var("FERROQ_KILLS").map_or(KILLS, |text| text.parse().expect("FERROQ_KILLS is a number"));
        let (order, random) = (order.clone(), StdRng::seed_from_u64(seed));
        let mut crowd = Crowd { program, order, random, children: Vec::new(), steps, kills, killed: HashSet::new() };
        for _ in 0..PROCESSES {
            let child = crowd.another();
            crowd.children.push(child);
        }
        crowd
    }

    fn another(&mut self) -> Child {
        Child::spawn(self.program, &Order { seed: self.random.random(), ..self.order.clone() })
    }

    /// Once the clock shows another time: kills a process, if it is the turn of one in this step, and starts another in its
    /// place; and waits until none has anything more to do.
    ///
    /// # Panics
    /// If one of them ends by itself.
    pub async fn step(&mut self, step: u32) {
        if (self.killed.len() as u32) * self.steps < self.kills * step {
            // The moment of a kill is the subject of the test; any time is as good as another.
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..5_000))).await;
            let victim = self.random.random_range(0..self.children.len());
            self.kill(victim).await;
            self.children[victim] = self.another();
        }
        let idle = format!("idle {}", self.order.clock().now().as_micros());
        for child in &mut self.children {
            child.says(&idle).await;
        }
    }

    async fn kill(&mut self, victim: usize) {
        self.children[victim].kill().await;
        self.killed.insert(self.children[victim].pid());
    }

    /// Kills all of them, and answers the ids of all processes that there ever were.
    ///
    /// # Panics
    /// If they don't die.
    pub async fn end(mut self) -> HashSet<u32> {
        for victim in 0..self.children.len() {
            self.kill(victim).await;
        }
        self.killed
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

/// Lets time pass until everything of a queue has ended, which it must.
///
/// # Panics
/// If it does not, or the store does not agree with itself.
pub async fn end_all(storage: &dyn Storage, clock: &FileClock, queue: &QueueName) {
    audit(storage, queue).await;
    let mut steps = 0;
    while work_off(storage, queue).await.expect("work off") {
        clock.set(clock.now().after(TERM / 4));
        steps += 1;
        assert!(steps < 10_000, "{queue} does not end: {:?}", storage.counts(queue).await);
    }
    audit(storage, queue).await;
}

/// Checks that each of these jobs ended, and once, and that no other did.
///
/// # Panics
/// If that is not so.
pub fn every_job_ended<'a>(
    jobs: impl ExactSizeIterator<Item = &'a JobId>,
    events: impl IntoIterator<Item = &'a Event>,
) {
    let ends = [EventKind::Completed, EventKind::Failed, EventKind::Cancelled];
    let mut ended: HashMap<JobId, u32> = HashMap::new();
    for event in events.into_iter().filter(|event| ends.contains(&event.kind)) {
        *ended.entry(event.job.expect("an end is a job's")).or_default() += 1;
    }
    assert_eq!(ended.len(), jobs.len());
    for job in jobs {
        assert_eq!(ended.get(job), Some(&1), "{job} ends, and ends once");
    }
}
