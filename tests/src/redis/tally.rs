//! Jobs that keep a tally of their runs: some fail at first, some enqueue others on their own queue and on another, some
//! write notes. How often each must run is known beforehand, so a run too many shows as well as one that is missing, and
//! so do two runs of one job at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobOptions, JobState};
use ferroq_core::policy::backoff::Backoff;
use ferroq_core::worker::{Worker, WorkerBuilder};
use ferroq_testkit::model::Snapshot;
use serde::{Deserialize, Serialize};

/// The queue of [`Step`]s.
pub const WORK: &str = "work";
/// The queue of [`Echo`]es.
pub const ECHOES: &str = "echoes";

/// Steps from here on are follow-ups of other steps.
const FOLLOW_UP: u32 = 1_000_000;

/// A job with a number. Every third one fails once; every fifth has an [`Echo`], every seventh another step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Its number.
    pub n: u32,
}

/// What follows a step on another queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Echo {
    /// The step's number.
    pub n: u32,
}

impl Job for Step {
    const NAME: &'static str = "test.step";
    const QUEUE: &'static str = WORK;
    type Output = u32;

    fn options() -> JobOptions {
        JobOptions { backoff: Backoff::fixed(Duration::from_millis(1)), ..JobOptions::default() }
    }
}

impl Job for Echo {
    const NAME: &'static str = "test.echo";
    const QUEUE: &'static str = ECHOES;
    type Output = ();
}

/// How often each job ran.
pub type Runs = BTreeMap<(&'static str, u32), u32>;

/// The tally of all workers that share it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    runs: Runs,
    running: BTreeSet<(&'static str, u32)>,
    overlaps: Vec<(&'static str, u32)>,
}

/// A run, for as long as it lasts.
struct Running<'a> {
    tally: &'a Tally,
    job: (&'static str, u32),
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.tally.kept().running.remove(&self.job);
    }
}

impl Tally {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panicked with the tally")
    }

    fn begin(&self, name: &'static str, n: u32) -> (Running<'_>, u32) {
        let job = (name, n);
        let mut kept = self.kept();
        if !kept.running.insert(job) {
            kept.overlaps.push(job);
        }
        let runs = kept.runs.entry(job).or_default();
        *runs += 1;
        (Running { tally: self, job }, *runs)
    }

    /// A worker with the handlers, whose settings may be changed.
    pub fn worker(&self, client: &Client) -> WorkerBuilder<Tally> {
        Worker::new(client).poll_interval(Duration::from_millis(50)).state(self.clone()).handle(step).handle(echo)
    }

    /// How many runs there were.
    pub fn runs(&self) -> usize {
        self.kept().runs.values().map(|runs| *runs as usize).sum()
    }

    /// How many different jobs ran.
    pub fn jobs(&self) -> usize {
        self.kept().runs.len()
    }

    /// Each of the steps 0..`steps`, and all that follows from them, ran as often as it must, never twice at a time, and is
    /// there as completed by its last run.
    ///
    /// # Panics
    /// If not.
    pub fn is_right(&self, steps: u32, snapshot: &Snapshot) {
        let kept = self.kept();
        assert_eq!(kept.overlaps, [], "jobs that ran twice at the same time");
        let expected = expected(steps);
        let wrong = |job: &&(&'static str, u32)| expected.get(*job) != kept.runs.get(*job);
        let all: BTreeSet<_> = expected.keys().chain(kept.runs.keys()).collect();
        let wrong: Vec<_> = all.into_iter().filter(wrong).map(|job| (job, kept.runs.get(job))).collect();
        assert!(wrong.is_empty(), "jobs that ran too often or too seldom: {wrong:?}");
        assert_eq!(snapshot.records().count(), expected.len(), "records");
        for (_, record) in snapshot.records() {
            let payload: Step = serde_json::from_slice(&record.spec.payload.bytes).expect("a number");
            let name = if &*record.spec.kind == Step::NAME { Step::NAME } else { Echo::NAME };
            let runs = expected.get(&(name, payload.n)).copied().unwrap_or_default();
            assert_eq!((record.state, record.runs), (JobState::Completed, runs), "{record:#?}");
            assert_eq!((record.crashes, record.attempts), (0, runs - 1), "{record:#?}");
        }
    }
}

/// How often each job must run.
pub fn expected(steps: u32) -> Runs {
    let mut runs = Runs::new();
    for n in 0..steps {
        add_expected(n, &mut runs);
    }
    runs
}

fn add_expected(n: u32, runs: &mut Runs) {
    runs.insert((Step::NAME, n), if fails_first(n) { 2 } else { 1 });
    if has_echo(n) {
        runs.insert((Echo::NAME, n), 1);
    }
    if has_follow_up(n) {
        add_expected(n + FOLLOW_UP, runs);
    }
}

fn fails_first(n: u32) -> bool {
    n.is_multiple_of(3)
}

fn has_echo(n: u32) -> bool {
    n.is_multiple_of(5)
}

fn has_follow_up(n: u32) -> bool {
    n < FOLLOW_UP && n.is_multiple_of(7)
}

async fn step(job: Step, cx: Context<Tally>) -> JobResult<u32> {
    let (_running, run) = cx.state().begin(Step::NAME, job.n);
    if has_echo(job.n) {
        cx.enqueue(Echo { n: job.n }).await?;
    }
    if has_follow_up(job.n) {
        cx.enqueue(Step { n: job.n + FOLLOW_UP }).await?;
    }
    if job.n.is_multiple_of(4) {
        // A note that can't be written is no reason to fail.
        let _noted = cx.progress(1, 2).await.is_ok();
    }
    // So that a fault meets runs in all stages.
    tokio::time::sleep(Duration::from_micros(u64::from(job.n % 7) * 300)).await;
    if fails_first(job.n) && run == 1 {
        return Err("as every third one at first".into());
    }
    Ok(job.n)
}

async fn echo(job: Echo, cx: Context<Tally>) -> JobResult {
    let (_running, _) = cx.state().begin(Echo::NAME, job.n);
    Ok(())
}
