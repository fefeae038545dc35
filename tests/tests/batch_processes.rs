//! Processes that work on lanes with gates, and are killed with SIGKILL at random moments, or lose their leases: no batch is
//! larger than its gate lets it be, a batch that lost its process runs again as it was, each kill costs it one crash at most,
//! which all of its jobs bear, nothing is settled by a lease that was lost, and every job ends, once.
#![cfg(unix)]

use std::collections::{BTreeMap, HashMap, HashSet};

use ferroq_core::clock::{Clock, ManualClock, Timestamp};
use ferroq_core::event::{Event, EventKind};
use ferroq_core::job::{ErrorKind, FailReason, JobId, JobRecord, JobState};
use ferroq_core::storage::{
    JobFilter, Lease, ListRequest, Outcome, RunError, SettleAnswer, Settlement, Storage, StorageExt,
};
use ferroq_testkit::harness::{QueueDump, audit};
use ferroq_tests::crowd::{Crowd, Order, STEP, Work, end_all, every_job_ended, log};
use ferroq_tests::dedup::Place;
use ferroq_tests::gates::{BUDGETS, Counters, LANES, Line, Run, configure, counters_of, put, queue};
use ferroq_tests::redis::server::{namespace, shared};
use ferroq_tests::store;
use ferroq_tests::wait::seed;
use rand::SeedableRng;
use rand::rngs::StdRng;

const CHILD: &str = env!("CARGO_BIN_EXE_crowd_child");
const STEPS: u32 = 150;
/// In so many of the first steps there are new jobs.
const STEPS_WITH_WORK: u32 = 120;
/// So many claims are in one answer at most.
const CLAIMS_MAX: usize = 7;

/// What was seen of batches while everybody was idle.
#[derive(Default)]
struct Seen {
    batches: HashSet<i64>,
    /// The own counters of members, which don't change.
    own: HashMap<(i64, JobId), Counters>,
}

impl Seen {
    /// Looks at every batch that there is.
    async fn look(&mut self, storage: &dyn Storage) {
        let live = [JobState::Waiting, JobState::Delayed, JobState::Active, JobState::Blocked];
        let request = ListRequest { queue: queue(), filter: JobFilter::states(live), after: None, max_items: 10_000 };
        let page = storage.list(request).await.expect("list");
        assert!(page.next.is_none(), "all of them");
        let mut batches: BTreeMap<i64, (Option<&JobRecord>, Vec<&JobRecord>)> = BTreeMap::new();
        for job in &page.jobs {
            let Some(number) = job.batch else {
                assert_ne!(job.state, JobState::Blocked, "{} waits for nobody", job.id());
                continue;
            };
            let (leader, members) = batches.entry(number.0).or_default();
            if job.state == JobState::Blocked {
                members.push(job);
            } else if let Some(other) = leader.replace(job) {
                panic!("{} and {} lead batch {}", job.id(), other.id(), number.0);
            }
        }
        for (number, (leader, members)) in batches {
            let leader = leader.unwrap_or_else(|| panic!("nobody leads batch {number}: {members:?}"));
            let size = size_of(leader);
            assert!(members.len() < size, "batch {number} has {} members and a gate for {size}", members.len());
            let is_new = self.batches.insert(number);
            for member in members {
                assert_eq!(member.spec.lane, leader.spec.lane, "batch {number} is of one lane");
                assert!(member.epoch <= leader.epoch, "batch {number} has a member that is ahead of its leader");
                assert!(!is_new || member.epoch == leader.epoch, "a member of batch {number} has an epoch of its own");
                let own = counters_of(member);
                let before = self.own.insert((number, member.id()), own).unwrap_or(own);
                assert_eq!(before, own, "a member bears nothing while it is one");
            }
        }
    }
}

fn size_of(job: &JobRecord) -> usize {
    let lane = job.spec.lane.name().unwrap_or_default();
    LANES.iter().find(|(name, _)| *name == lane).expect("one of the lanes").1 as usize
}

/// What the processes wrote down.
#[derive(Default)]
struct Trace {
    runs: Vec<Run>,
    forgotten: HashSet<(JobId, i64)>,
    /// The processes to which answers were lost, once for each.
    lost: Vec<u32>,
    refused: usize,
}

impl Trace {
    fn read(text: &str) -> Self {
        let mut trace = Trace::default();
        for line in text.lines() {
            match serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")) {
                Line::Has(run) => trace.runs.push(run),
                Line::Forgets(id, epoch) => drop(trace.forgotten.insert((id, epoch))),
                Line::Lost(pid) => trace.lost.push(pid),
                Line::Refused(leases) => trace.refused += leases,
            }
        }
        trace
    }
}

/// A log, and where in it runs began.
struct History<'a> {
    log: &'a [Event],
    starts: HashMap<(JobId, Timestamp), Vec<usize>>,
}

/// What happened to a batch between two of its runs.
struct Between {
    left: Vec<JobId>,
    grown: Counters,
}

impl<'a> History<'a> {
    fn new(log: &'a [Event]) -> Self {
        let mut starts: HashMap<(JobId, Timestamp), Vec<usize>> = HashMap::new();
        for (at, event) in log.iter().enumerate().filter(|(_, event)| event.kind == EventKind::Started) {
            starts.entry((event.job.expect("a start is a job's"), event.at)).or_default().push(at);
        }
        History { log, starts }
    }

    /// Where a run began; none if the log can't tell it from another at the same time.
    fn start(&self, run: &Run) -> Option<usize> {
        match self.starts.get(&(run.leader(), run.at)).map(Vec::as_slice) {
            Some([at]) => Some(*at),
            Some(_) => None,
            None => panic!("the log does not know of {run:?}"),
        }
    }

    /// Who of a run's batch is left at another's beginning, in order, and by what its leaders' counters grew.
    fn between(&self, from: &Run, to: &Run) -> Option<Between> {
        let (first, last) = (self.start(from)?, self.start(to)?);
        let mut left: Vec<JobId> = from.jobs.iter().map(|(id, _)| *id).collect();
        let (mut leader, mut grown) = (from.leader(), (0, 0, 0));
        for event in &self.log[first + 1..=last] {
            let Some(id) = event.job.filter(|id| left.contains(id)) else { continue };
            match event.kind {
                EventKind::Completed | EventKind::Failed => left.retain(|one| *one != id),
                EventKind::Retrying if id == leader => grown.0 += 1,
                EventKind::Released | EventKind::Snoozed if id == leader => {}
                EventKind::Retrying | EventKind::Released | EventKind::Snoozed => left.retain(|one| *one != id),
                EventKind::Promoted if !left.contains(&leader) => leader = id,
                EventKind::Started if id == leader => grown.2 += 1,
                EventKind::Stalled => {
                    assert_eq!(id, leader, "only a leader has a lease to lose: {from:?}");
                    grown.1 += 1;
                }
                _ => {}
            }
        }
        Some(Between { left, grown })
    }
}

/// Checks that each batch ran again as it was, less who left it, and that all of its jobs bear what its leaders' counters grew
/// by. Answers how many runs came after a crash.
fn check_runs(runs: &[Run], history: &History<'_>) -> usize {
    let mut batches: BTreeMap<i64, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        if let Some(number) = run.batch {
            batches.entry(number).or_default().push(run);
        }
    }
    let mut again = 0;
    for (number, mut runs) in batches {
        runs.sort_by_key(|run| run.epoch);
        for pair in runs.windows(2) {
            let [from, to] = pair else { continue };
            assert!(from.epoch < to.epoch, "two runs under one epoch: {from:?}, {to:?}");
            let Some(Between { left, grown }) = history.between(from, to) else { continue };
            let ids: Vec<JobId> = to.jobs.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, left, "batch {number} runs again as it was: {from:?}, {to:?}");
            again += usize::from(grown.1 > 0);
            for (id, now) in &to.jobs {
                let then = from.jobs.iter().find(|(one, _)| one == id).expect("it was in the batch").1;
                bears(then, *now, grown).unwrap_or_else(|what| panic!("{what} of {id}, {grown:?}: {from:?}, {to:?}"));
            }
        }
    }
    again
}

/// Whether a job bears all that was spent; none of its budgets is quite used up by what others spent.
fn bears(then: Counters, now: Counters, grown: Counters) -> Result<(), &'static str> {
    let bears = |then: u32, now: u32, grown: u32, budget: u32| {
        now == then + grown || (now + 1 == budget && now <= then + grown)
    };
    match () {
        () if !bears(then.0, now.0, grown.0, BUDGETS.0) => Err("the attempts"),
        () if !bears(then.1, now.1, grown.1, BUDGETS.1) => Err("the crashes"),
        () if now.2 != then.2 + grown.2 => Err("the runs"),
        () => Ok(()),
    }
}

/// Checks that no lease was lost but by a process that was killed, or that forgot it, and none twice.
fn check_crashes(trace: &Trace, history: &History<'_>, killed: &HashSet<u32>, until: Timestamp) -> usize {
    let mut runs: HashMap<(JobId, Timestamp), Vec<&Run>> = HashMap::new();
    for run in &trace.runs {
        runs.entry((run.leader(), run.at)).or_default().push(run);
    }
    let (mut started, mut stalled, mut unknown) = (HashMap::new(), 0, 0);
    for event in history.log {
        let Some(id) = event.job else { continue };
        match event.kind {
            EventKind::Started => drop(started.insert(id, event.at)),
            EventKind::Stalled => {
                stalled += 1;
                let at = started.remove(&id).unwrap_or_else(|| panic!("{id} lost a lease twice"));
                let known = runs.get(&(id, at)).map_or(&[][..], Vec::as_slice);
                let is_lost = |run: &&Run| {
                    killed.contains(&run.pid)
                        || trace.forgotten.contains(&(id, run.epoch))
                        || trace.lost.contains(&run.pid)
                };
                if !known.iter().any(is_lost) {
                    let all = history.starts[&(id, at)].len();
                    assert!(known.len() < all, "{id} lost the lease of {at}, and its process lives: {known:?}");
                    assert!(at <= until, "the test itself keeps its leases");
                    unknown += 1;
                }
            }
            _ => {}
        }
    }
    let answers = killed.len() + trace.lost.len();
    assert!(unknown <= answers * CLAIMS_MAX, "{unknown} lost leases were nobody's, and {answers} answers were lost");
    stalled
}

/// Checks that a job that completed in a run has what it was told to bear in that run.
fn check_records(trace: &Trace, dump: &QueueDump) {
    let mut told: HashMap<(JobId, i64), Counters> = HashMap::new();
    for run in &trace.runs {
        told.extend(run.jobs.iter().map(|(id, counters)| ((*id, run.epoch), *counters)));
    }
    let mut checked = 0;
    for job in dump.jobs.iter().filter(|job| job.state == JobState::Completed) {
        if let Some(counters) = told.get(&(job.id(), job.epoch)) {
            assert_eq!(counters_of(job), *counters, "{} completed with other counters than it had", job.id());
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked} completed in runs that were written down; the test shows little");
}

/// Checks that no lease there ever was settles anything now.
async fn every_lease_is_over(storage: &dyn Storage, trace: &Trace, dump: &QueueDump) {
    let abort = |lease: Lease| {
        let outcome = Outcome::Abort { error: RunError::new(ErrorKind::Error, "too late") };
        Settlement { lease, outcome, follow_ups: Vec::new() }
    };
    let settlements: Vec<Settlement> = trace.runs.iter().flat_map(Run::leases).map(abort).collect();
    for group in settlements.chunks(1000) {
        for (settlement, answer) in
            group.iter().zip(storage.settle(None, &queue(), group.to_vec()).await.expect("settle"))
        {
            assert!(!matches!(answer, SettleAnswer::Settled { .. }), "{answer:?} to {:?}", settlement.lease);
        }
    }
    assert_eq!(audit(storage, &queue()).await.jobs, dump.jobs, "nothing changed");
}

async fn race(place: Place, test: &str) {
    let seed = seed("batch_processes", test);
    let mut random = StdRng::seed_from_u64(seed);
    let (directory, begin) = (store::directory(), ManualClock::default().now());
    let (order, clock) = Order::in_directory(Work::Gates, place, directory.path(), begin);
    let storage = order.open().await;
    let storage = storage.as_ref();
    configure(storage).await;
    let (mut jobs, mut seen) = (HashSet::new(), Seen::default());
    let mut crowd = Crowd::start(CHILD, &order, seed, STEPS);
    for step in 0..STEPS {
        if step < STEPS_WITH_WORK {
            jobs.extend(put(storage, &mut random).await);
        }
        clock.set(begin.after(STEP * step));
        crowd.step(step).await;
        seen.look(storage).await;
        if step % 25 == 0 {
            audit(storage, &queue()).await;
        }
    }
    let until = clock.now();
    let killed = crowd.end().await;
    end_all(storage, &clock, &queue()).await;
    let (trace, log) = (Trace::read(&order.trace()), log(storage, &queue()).await);
    every_job_ended(jobs.iter(), &log);
    let dump = audit(storage, &queue()).await;
    let ended = |job: &JobRecord| matches!(job.state, JobState::Completed | JobState::Failed);
    assert!(dump.jobs.iter().all(ended) && dump.jobs.len() == jobs.len(), "what was enqueued, completed or failed");
    let largest = trace.runs.iter().filter(|run| run.batch.is_some()).map(|run| run.jobs.len()).max();
    assert_eq!(largest, LANES.iter().map(|(_, size)| *size as usize).max(), "no larger than the largest gate");
    let history = History::new(&log);
    let again = check_runs(&trace.runs, &history);
    let stalled = check_crashes(&trace, &history, &killed, until);
    check_records(&trace, &dump);
    every_lease_is_over(storage, &trace, &dump).await;
    let with_batch = dump.jobs.iter().filter(|job| job.failure == Some(FailReason::WithBatch)).count();
    let shown = (seen.batches.len() > 100, again > 0, stalled > 0, with_batch > 0, trace.refused > 0);
    assert_eq!(shown, (true, true, true, true, true), "the test shows little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_killed_processes_run_again_as_they_were_on_sqlite() {
    let directory = store::directory();
    race(Place::Sqlite(store::db_in(&directory)), "sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_killed_processes_run_again_as_they_were_on_redis() {
    race(Place::Redis(shared().url(), namespace()), "redis").await;
}
