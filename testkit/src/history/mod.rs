//! Several tasks at once against one store: clients that enqueue, cancel, retry and remove, workers that claim, renew and
//! settle (and now and then die or come back too late), and one that lets time pass and sweeps. Every call is recorded
//! with the moments at which it was made and answered. Afterwards each job's calls must be explainable one after
//! another by the state machine, in an order that no answered-before-made pair contradicts; the store's contents must
//! keep the [`crate::invariants`]; every other round has limits, which must have been kept; and workers without faults must be able to work off what is left.
//!
//! A seed fixes what each task tries, and not how the tasks interleave: a replay is likely, but not certain, to fail at
//! the same place.

mod limits;
mod linear;
mod record;
mod tasks;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::job::QueueName;
use ferroq_core::storage::{ClaimSpec, Outcome, Settlement, Storage, StorageExt, SweepRequest};

pub use linear::{JobCall, JobHistory, What, explain};
pub use record::{Recorded, Recorder, job_histories};

use crate::harness::{Fixture, StorageBuilder};
use crate::invariants::{self, History, Step};
use crate::model::Snapshot;

/// How a concurrent check is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The test's name, for the replay command.
    pub name: String,
    /// The command that runs the test's binary, without the test's name.
    pub command: String,
    /// How many stores are worked on, one after another.
    pub rounds: u32,
    /// The first round's seed; each further round has the next number.
    pub seed: u64,
    /// How many tasks play clients, and how many workers.
    pub tasks: usize,
    /// How many calls each task makes.
    pub calls: usize,
}

impl Config {
    /// How many rounds are run unless `FERROQ_CASES` says otherwise.
    pub const ROUNDS_DEFAULT: u32 = 20;

    /// What the environment says: `FERROQ_CASES` and `FERROQ_SEED`; without a seed, every run takes another one.
    pub fn from_env(name: impl Into<String>, command: impl Into<String>) -> Config {
        let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let rounds = number("FERROQ_CASES").and_then(|rounds| u32::try_from(rounds).ok());
        Config {
            name: name.into(),
            command: command.into(),
            rounds: rounds.unwrap_or(Self::ROUNDS_DEFAULT),
            seed: number("FERROQ_SEED").unwrap_or_else(rand::random),
            tasks: 3,
            calls: 60,
        }
    }
}

/// What was run, where nothing failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rounds.
    pub rounds: u32,
    /// Calls recorded.
    pub calls: u64,
    /// Jobs whose calls were explained.
    pub jobs: u64,
    /// Claims handed out.
    pub claims: u64,
    /// Leases lost.
    pub losses: u64,
}

/// A round whose history can't be explained.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The test's name.
    pub name: String,
    /// The round's seed.
    pub seed: u64,
    /// What is wrong, with the calls that show it.
    pub what: String,
    /// The command that runs this round again.
    pub replay: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\nreplay with: {}", self.name, self.what, self.replay)
    }
}

impl std::error::Error for Failure {}

/// Runs the check. It may be called from anywhere: the tasks run on a runtime of their own with four threads.
///
/// # Errors
/// The first round that fails.
pub fn run(builder: &dyn StorageBuilder, config: &Config) -> Result<Report, Box<Failure>> {
    let work = || {
        let mut report = Report::default();
        for number in 0..config.rounds {
            let seed = config.seed.wrapping_add(u64::from(number));
            round(builder, config, seed, &mut report).map_err(|what| {
                let replay = format!("FERROQ_SEED={seed} FERROQ_CASES=1 {} {}", config.command, config.name);
                Box::new(Failure { name: config.name.clone(), seed, what, replay })
            })?;
        }
        Ok(report)
    };
    let joined = std::thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn round(builder: &dyn StorageBuilder, config: &Config, seed: u64, report: &mut Report) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime could be started: {error}"))?;
    runtime.block_on(async {
        let fixture = builder.build().await;
        let recorder = Arc::new(Recorder::default());
        let queue = tasks::queue()?;
        if limits::has_limits(seed) {
            limits::configure(&*fixture.storage, &queue).await?;
        }
        let lanes = tasks::run(&fixture, &recorder, &queue, config, seed).await?;
        let taken = Snapshot::take(&*fixture.storage).await;
        let snapshot = taken.map_err(|error| format!("reading the store: {error}"))?;
        let calls = recorder.calls();
        report.calls += calls.len() as u64;
        for history in job_histories(&calls, &snapshot)? {
            report.jobs += 1;
            report.claims += history.claims();
            explain(&history).map_err(|unexplained| unexplained.to_string())?;
        }
        report.losses += record::losses(&calls);
        let mut after = History::default();
        drain(&fixture, &queue).await?;
        let taken = Snapshot::take(&*fixture.storage).await;
        let drained = taken.map_err(|error| format!("reading the store: {error}"))?;
        if limits::has_limits(seed) {
            limits::check(&*fixture.storage, &queue, &lanes).await?;
        }
        fixture.storage.close().await;
        after.steps.push(Step::Drained);
        after.seen(drained);
        at_rest(&snapshot)?;
        check(&after, |name| name.starts_with("liveness"))?;
        report.rounds += 1;
        Ok(())
    })
}

/// Checks what must hold of a store that nobody works on, without knowing how it came about.
fn at_rest(snapshot: &Snapshot) -> Result<(), String> {
    let mut history = History::default();
    history.seen(snapshot.clone());
    // Conservation needs the calls, and is part of what explaining each job's calls shows.
    check(&history, |name| !name.starts_with("conservation"))
}

fn check(history: &History, which: impl Fn(&str) -> bool) -> Result<(), String> {
    for (name, checker) in invariants::ALL.iter().filter(|(name, _)| which(name)) {
        checker(history).map_err(|(_, what)| format!("invariant broken: {name}: {what}"))?;
    }
    Ok(())
}

/// Works off what is left.
async fn drain(fixture: &Fixture, queue: &QueueName) -> Result<(), String> {
    let storage: &dyn Storage = &*fixture.storage;
    let failed = |error: ferroq_core::storage::StorageError| format!("working off what is left: {error}");
    for _ in 0..2000 {
        let claim = ClaimSpec {
            kinds: tasks::kinds()?,
            max_items: 50,
            max_bytes: usize::MAX,
            term: tasks::TERM,
            worker: tasks::worker(0)?,
            alone: true,
        };
        let claimed = storage.claim(None, queue, claim).await.map_err(failed)?;
        let settle = |claim: &ferroq_core::storage::Claim| Settlement {
            lease: claim.lease,
            outcome: Outcome::Completed { result: None },
            follow_ups: Vec::new(),
        };
        let settlements: Vec<Settlement> = claimed.claims.iter().map(settle).collect();
        let idle = settlements.is_empty() && !claimed.more;
        storage.settle(None, queue, settlements).await.map_err(failed)?;
        if !idle {
            continue;
        }
        storage.sweep(SweepRequest { queue: queue.clone(), max_items: 100 }).await.map_err(failed)?;
        if storage.counts(queue).await.map_err(failed)?.live() == 0 {
            return Ok(());
        }
        fixture.clock.advance(tasks::TERM / 4 + Duration::from_micros(1));
    }
    Ok(())
}
