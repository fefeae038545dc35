//! What a [crowd](crate::crowd) does on a queue whose lanes have gates: it gathers batches, holds them for a while, settles
//! some of their jobs one by one, gives others back as a whole, and forgets some until their lease is lost.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{ErrorKind, JobId, JobSpec, LaneClass, LaneKey, QueueName};
use ferroq_core::policy::batch::{BatchGate, Spent};
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, Say};
use ferroq_core::storage::{
    Claim, EnqueueRequest, ExchangeRequest, GatherAnswer, Lease, MembersAnswer, MembersRequest, Outcome, QueueConfig,
    RunError, SettleAnswer, Settlement, Storage, StorageError, SweepRequest,
};
use ferroq_testkit::harness::{SpecExt, queue_name, spec};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::crowd::{Failure, Order, STEP, TERM, claim};

/// The lanes with work, and the size of their gates; the default lane is the empty text.
pub const LANES: [(&str, u32); 5] = [("", 3), ("c/1", 4), ("c/2", 4), ("own", 7), ("none", 1)];
/// How often a job may fail, and lose its lease.
pub const BUDGETS: (u32, u32) = (5, 4);
/// For how many steps of the clock a process holds a batch that it forgets; by then its lease is lost.
const FORGOTTEN_STEPS: u32 = 3 * (TERM.as_millis() / STEP.as_millis()) as u32;
/// How many jobs are gathered, and members are read, at once: few, so that both take several calls.
const PAGE_ITEMS: usize = 2;

/// The queue.
///
/// # Panics
/// Never: the name is one.
pub fn queue() -> QueueName {
    queue_name("gated")
}

/// Its settings.
///
/// # Panics
/// Never: the names are some.
pub fn config() -> QueueConfig {
    let gate = |size, steps: u32| LanePolicy {
        batch: Say::Limit(BatchGate::new(size, STEP * steps)),
        ..LanePolicy::default()
    };
    let mut config = QueueConfig::default();
    config.event_entries_kept = 10_000_000;
    config.lanes.every = gate(LANES[0].1, 2);
    let each = LanePolicy { concurrency: Say::Limit(2), ..gate(LANES[1].1, 3) };
    let class = LaneClass::new("c").expect("a class");
    config.lanes.classes.insert(class, ClassPolicy { each, ..ClassPolicy::default() });
    config
}

/// Stores the settings, and the policies of the lanes that have their own.
///
/// # Panics
/// If they are refused.
pub async fn configure(storage: &dyn Storage) {
    storage.configure(&queue(), config()).await.expect("configure");
    let own = LanePolicy { batch: Say::Limit(BatchGate::new(LANES[3].1, STEP * 10)), ..LanePolicy::default() };
    let none = LanePolicy { batch: Say::Unlimited, ..LanePolicy::default() };
    for (lane, policy) in [(LANES[3].0, own), (LANES[4].0, none)] {
        let lane = LaneKey::new(lane).expect("a lane");
        storage.configure_lane(&queue(), &lane, Some(policy)).await.expect("configure_lane");
    }
}

/// Enqueues some jobs in each lane, and answers them.
///
/// # Panics
/// If they are not taken.
pub async fn put(storage: &dyn Storage, random: &mut StdRng) -> Vec<JobId> {
    let mut jobs = Vec::new();
    for (lane, _) in LANES {
        for _ in 0..random.random_range(0..4) {
            let job = spec(&queue()).attempts(BUDGETS.0).crashes(BUDGETS.1);
            let job: JobSpec = if lane.is_empty() { job } else { job.lane(lane) };
            jobs.push(Arc::new(job));
        }
    }
    let ids = jobs.iter().map(|job| job.id).collect();
    storage.enqueue(EnqueueRequest { call: None, queue: queue(), jobs }).await.expect("enqueue");
    ids
}

/// What a process writes down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Line {
    /// It has this batch, and all of its members.
    Has(Run),
    /// It will hold the batch of the job with this lease until that is lost.
    Forgets(JobId, i64),
    /// An answer did not come to this process.
    Lost(u32),
    /// So many stale leases were refused.
    Refused(usize),
}

/// A run of a batch, or of a job alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The process.
    pub pid: u32,
    /// The batch's number.
    pub batch: Option<i64>,
    /// The leader's epoch.
    pub epoch: i64,
    /// When it was claimed.
    pub at: Timestamp,
    /// The jobs, the leader first, with what they bear.
    pub jobs: Vec<(JobId, Counters)>,
}

impl Run {
    /// The leader.
    ///
    /// # Panics
    /// Never: there is one.
    pub fn leader(&self) -> JobId {
        self.jobs[0].0
    }

    /// The leases of all jobs.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.jobs.iter().map(|(id, _)| Lease { id: *id, epoch: self.epoch })
    }
}

/// Attempts, crashes and runs of a job.
pub type Counters = (u32, u32, u32);

fn counters(claim: &Claim) -> Counters {
    (claim.attempts, claim.crashes, claim.run)
}

/// The same of a record.
pub fn counters_of(record: &ferroq_core::job::JobRecord) -> Counters {
    let Spent { attempts, crashes, runs } = Spent::of(record);
    (attempts, crashes, runs)
}

/// A batch in a process's hands.
struct Held {
    run: Run,
    /// The members that are not settled.
    members: Vec<Lease>,
    until: Timestamp,
    is_forgotten: bool,
}

impl Held {
    fn leader(&self) -> Lease {
        Lease { id: self.run.leader(), epoch: self.run.epoch }
    }
}

/// Works on the queue, for as long as nobody kills this process.
///
/// # Errors
/// What a call answered that can't be tried again; the trace's; an answer that may not be given.
pub async fn toil(order: &Order, storage: &dyn Storage, random: StdRng) -> Result<(), Failure> {
    let mut toiler = Toiler { order, storage, random, held: Vec::new() };
    order.at_each_time(async |now| toiler.turn(now).await).await
}

struct Toiler<'a> {
    order: &'a Order,
    storage: &'a dyn Storage,
    random: StdRng,
    held: Vec<Held>,
}

impl Toiler<'_> {
    /// Settles what is due, claims, sweeps; and answers whether there may be more to do.
    async fn turn(&mut self, now: Timestamp) -> Result<bool, Failure> {
        let due: Vec<Held> = self.held.extract_if(.., |one| one.until <= now).collect();
        let settles = !due.is_empty();
        let mut leaders = Vec::new();
        for held in due {
            if held.is_forgotten {
                self.try_stale(&held.run).await?;
            } else {
                leaders.extend(self.end(held, now).await?);
            }
        }
        let claim = Some(claim(self.random.random_range(1..8)));
        let request = ExchangeRequest { call: None, queue: queue(), settlements: leaders, claim };
        let Some(answer) = self.heard(self.storage.exchange(request).await)? else { return Ok(true) };
        all_settled(&answer.settled)?;
        let claimed = answer.claimed.unwrap_or_default();
        for claim in &claimed.claims {
            let Some(run) = self.whole(claim).await? else { continue };
            self.write(&Line::Has(run.clone()))?;
            let is_forgotten = self.random.random_bool(0.05);
            if is_forgotten {
                self.write(&Line::Forgets(run.leader(), run.epoch))?;
            }
            // At least for a step, so that the test sees each batch while it runs.
            let steps = if is_forgotten { FORGOTTEN_STEPS } else { self.random.random_range(1..6) };
            let members = run.leases().skip(1).collect();
            self.held.push(Held { run, members, until: now.after(STEP * steps), is_forgotten });
        }
        let request = SweepRequest { queue: queue(), max_items: 100 };
        let Some(swept) = self.heard(self.storage.sweep(request).await)? else { return Ok(true) };
        let more = claimed.more || claimed.look_again == Some(Duration::ZERO) || swept.more;
        Ok(settles || !claimed.claims.is_empty() || more || swept.stalled > 0)
    }

    /// An answer; none if it is lost. What is lost with it is taken from a process that was killed too.
    fn heard<T>(&self, answer: Result<T, StorageError>) -> Result<Option<T>, Failure> {
        match answer {
            Err(error) if error.is_retryable() => {
                self.write(&Line::Lost(std::process::id()))?;
                Ok(None)
            }
            answer => Ok(Some(answer?)),
        }
    }

    fn write(&self, line: &Line) -> Result<(), Failure> {
        Ok(self.order.write(&serde_json::to_string(line)?)?)
    }

    /// All of a batch; none if an answer is lost.
    async fn whole(&mut self, claim: &Claim) -> Result<Option<Run>, Failure> {
        let batch = claim.batch.map(|number| number.0);
        let (epoch, at) = (claim.lease.epoch, claim.started_at);
        let jobs = vec![(claim.lease.id, counters(claim))];
        let mut run = Run { pid: std::process::id(), batch, epoch, at, jobs };
        if batch.is_none() {
            return Ok(Some(run));
        }
        loop {
            let gathered = self.storage.gather(&queue(), claim.lease, PAGE_ITEMS).await;
            match self.heard(gathered)? {
                None => return Ok(None),
                Some(GatherAnswer::Gathered { formed: true, .. }) => break,
                Some(GatherAnswer::Gathered { .. }) => {}
                Some(other) => Err(format!("{other:?} to the lease of {}", run.leader()))?,
            }
        }
        let mut after = None;
        loop {
            let lease = claim.lease;
            let request = MembersRequest { queue: queue(), lease, after, max_items: PAGE_ITEMS, max_bytes: usize::MAX };
            let page = match self.heard(self.storage.members(request).await)? {
                None => return Ok(None),
                Some(MembersAnswer::Page(page)) if page.formed => page,
                Some(other) => Err(format!("{other:?} to the lease of {}", run.leader()))?,
            };
            for member in &page.members {
                if member.lease.epoch != epoch {
                    Err(format!("{} has another epoch than its leader {}", member.lease.id, run.leader()))?;
                }
                run.jobs.push((member.lease.id, counters(member)));
            }
            after = page.next;
            if after.is_none() {
                return Ok(Some(run));
            }
        }
    }

    /// Tries leases that were lost.
    async fn try_stale(&mut self, run: &Run) -> Result<(), Failure> {
        let settlements: Vec<Settlement> = run.leases().map(|lease| self.settlement(lease)).collect();
        let Some(answers) = self.settle(settlements).await? else { return Ok(()) };
        let is_refused = |answer: &SettleAnswer| matches!(answer, SettleAnswer::LeaseLost | SettleAnswer::Gone);
        if !answers.iter().all(is_refused) {
            Err(format!("{answers:?} to stale leases of {run:?}"))?;
        }
        self.write(&Line::Refused(answers.len()))
    }

    /// Ends a run; answers the settlement of its leader, unless it goes on.
    async fn end(&mut self, mut held: Held, now: Timestamp) -> Result<Option<Settlement>, Failure> {
        let members = std::mem::take(&mut held.members);
        let leader = held.leader();
        // Of how many members it says what became of them, and whether the rest is the batch's affair or waits.
        let count = members.len();
        let (some, goes_on) = match self.random.random_range(0..10) {
            0..4 => (count, false),
            4 | 5 => (count / 2, true),
            6 | 7 => (count / 2, false),
            _ => (0, false),
        };
        for group in members[..some].chunks(3) {
            let settlements = group.iter().map(|lease| self.settlement(*lease)).collect();
            let Some(answers) = self.settle(settlements).await? else { return Ok(None) };
            all_settled(&answers)?;
        }
        if goes_on && some < count && held.run.at.after(TERM / 2) > now {
            held.members = members[some..].to_vec();
            held.until = now.after(STEP);
            self.held.push(held);
            return Ok(None);
        }
        Ok(Some(self.settlement(leader)))
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Option<Vec<SettleAnswer>>, Failure> {
        if settlements.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let request = ExchangeRequest { call: None, queue: queue(), settlements, claim: None };
        Ok(self.heard(self.storage.exchange(request).await)?.map(|answer| answer.settled))
    }

    fn settlement(&mut self, lease: Lease) -> Settlement {
        let error = RunError::new(ErrorKind::Error, "it failed");
        let outcome = match self.random.random_range(0..20) {
            0..12 => Outcome::Completed { result: None },
            12 => Outcome::Retry { error, delay: Duration::ZERO },
            13..17 => Outcome::Retry { error, delay: STEP },
            17 => Outcome::Release,
            18 => Outcome::Snooze { delay: STEP },
            _ => Outcome::Abort { error },
        };
        Settlement { lease, outcome, follow_ups: Vec::new() }
    }
}

/// An error unless all of these were settled: the leases are current.
fn all_settled(answers: &[SettleAnswer]) -> Result<(), Failure> {
    let is_settled = |answer: &SettleAnswer| matches!(answer, SettleAnswer::Settled { .. });
    if answers.iter().all(is_settled) { Ok(()) } else { Err(format!("{answers:?} to current leases"))? }
}
