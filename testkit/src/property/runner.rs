//! Draws cases, runs them one after another on a runtime of their own, and shrinks the one that fails: proptest makes
//! the values and takes them apart, and everything else is done here, because the backends are asynchronous and the
//! stored counterexamples are operations and not seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::Runtime;

use super::case::{Case, Side};
use super::op::op;
use super::regressions::{self, Stored};
use super::{Config, Counterexample, Op, Report};
use crate::harness::StorageBuilder;
use crate::invariants::{History, Step};

/// How long a failing case is shrunk at most; what is smallest by then is shown.
const SHRINK_MAX: Duration = Duration::from_secs(30);

/// How long a case may take before it is taken to hang. Cases take milliseconds.
const CASE_MAX: Duration = Duration::from_secs(120);

/// Runs a backend against the reference model.
///
/// It may be called from anywhere, a runtime included: the cases run on a thread with a runtime of its own.
///
/// # Errors
/// The first [`Counterexample`], shrunk.
pub fn run(builder: &dyn StorageBuilder, config: &Config) -> Result<Report, Box<Counterexample>> {
    run_side_by_side(&[("the backend", builder)], config)
}

/// Runs several backends side by side on the same operations and compares them with each other; with a single one,
/// compares it with the reference model.
///
/// # Errors
/// The first [`Counterexample`], shrunk.
pub fn run_side_by_side(
    builders: &[(&str, &dyn StorageBuilder)],
    config: &Config,
) -> Result<Report, Box<Counterexample>> {
    let work = || Runner { builders, config, report: Report::default() }.run();
    let joined = std::thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Looks for a counterexample in so many cases: what a test of the kit itself runs on a broken backend.
pub fn find_counterexample(builder: &dyn StorageBuilder, cases: u32, seed: u64) -> Option<Counterexample> {
    let config = Config {
        name: "find_counterexample".to_owned(),
        command: "cargo test".to_owned(),
        cases,
        seed,
        ops_max: Config::OPS_MAX_DEFAULT,
        regressions: None,
    };
    run(builder, &config).err().map(|found| *found)
}

struct Runner<'a> {
    builders: &'a [(&'a str, &'a dyn StorageBuilder)],
    config: &'a Config,
    report: Report,
}

/// How a case went wrong.
struct Failed {
    failure: String,
    steps: Vec<String>,
}

impl Runner<'_> {
    fn run(mut self) -> Result<Report, Box<Counterexample>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.broken(format!("no runtime could be started: {error}")))?;
        let stored = match &self.config.regressions {
            Some(directory) => regressions::load(directory).map_err(|error| self.broken(error.to_string()))?,
            None => Vec::new(),
        };
        for (path, Stored { ops, .. }) in stored {
            self.report.regressions += 1;
            if let Err(failed) = self.case(&runtime, &ops) {
                return Err(Box::new(Counterexample { ops, stored: Some(path), ..self.found(failed) }));
            }
        }
        for number in 0..self.config.cases {
            let seed = self.config.seed.wrapping_add(u64::from(number));
            let mut random = TestRunner::new_with_rng(ProptestConfig::default(), rng(seed));
            let drawn = vec(op(), 1..=self.config.ops_max.max(1)).new_tree(&mut random);
            let mut tree = drawn.map_err(|reason| self.broken(format!("no case could be drawn: {reason}")))?;
            let ops = tree.current();
            self.report.cases += 1;
            if let Err(failed) = self.case(&runtime, &ops) {
                let (ops, failed) = self.shrink(&runtime, &mut tree, ops, failed);
                return Err(Box::new(self.store(seed, ops, failed)));
            }
        }
        Ok(self.report)
    }

    /// Runs one case. A backend that panics failed it.
    fn case(&mut self, runtime: &Runtime, ops: &[Op]) -> Result<(), Failed> {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let mut sides = Vec::new();
                for (name, builder) in self.builders {
                    sides.push(Side { name: (*name).to_owned(), fixture: builder.build().await });
                }
                let mut case = match Case::new(sides) {
                    Ok(case) => case,
                    Err(failure) => return (Err(Failed { failure, steps: Vec::new() }), History::default()),
                };
                // The steps up to a panic are worth as much as those up to a difference.
                let ran = futures::FutureExt::catch_unwind(AssertUnwindSafe(case.run(ops)));
                let ran = match tokio::time::timeout(CASE_MAX, ran).await {
                    Ok(ran) => ran.unwrap_or_else(|panic| Err(format!("the backend panicked: {}", text_of(&*panic)))),
                    Err(_) => Err(format!("the last call did not answer, or the case was not done after {CASE_MAX:?}")),
                };
                let ran = ran.map_err(|failure| Failed { failure, steps: std::mem::take(&mut case.told) });
                (ran, case.close().await)
            })
        }));
        let (result, history) = ran.unwrap_or_else(|panic| {
            let failure = format!("the backend panicked: {}", text_of(&*panic));
            (Err(Failed { failure, steps: Vec::new() }), History::default())
        });
        for step in &history.steps {
            if let Step::Call { repeat, .. } = step {
                self.report.calls += 1;
                self.report.repeats += u64::from(*repeat);
            }
        }
        if let Some(Step::Seen(snapshot)) = history.steps.last() {
            for (kind, _) in snapshot.queues.values().flat_map(|queue| &queue.events) {
                *self.report.reached.entry(*kind).or_default() += 1;
            }
        }
        result
    }

    /// Takes operations out and makes the others simpler for as long as the case fails.
    fn shrink(
        &mut self,
        runtime: &Runtime,
        tree: &mut impl ValueTree<Value = Vec<Op>>,
        mut smallest: Vec<Op>,
        mut failed: Failed,
    ) -> (Vec<Op>, Failed) {
        let until = Instant::now() + SHRINK_MAX;
        let mut fails = true;
        while Instant::now() < until {
            if !(if fails { tree.simplify() } else { tree.complicate() }) {
                break;
            }
            let ops = tree.current();
            match self.case(runtime, &ops) {
                Err(again) => {
                    fails = true;
                    smallest = ops;
                    failed = again;
                }
                Ok(()) => fails = false,
            }
        }
        (smallest, failed)
    }

    fn store(&self, seed: u64, ops: Vec<Op>, failed: Failed) -> Counterexample {
        let stored = Stored { failure: failed.failure.clone(), ops };
        let mut found = Counterexample { seed: Some(seed), ..self.found(failed) };
        if let Some(directory) = &self.config.regressions {
            match regressions::store(directory, &self.config.name, seed, &stored) {
                Ok(path) => found.stored = Some(path),
                Err(error) => found.failure.push_str(&format!("\n(it could not be stored: {error})")),
            }
        }
        let Config { name, command, .. } = self.config;
        found.replay = format!("FERROQ_SEED={seed} FERROQ_CASES=1 {command} {name}");
        found.ops = stored.ops;
        found
    }

    fn found(&self, failed: Failed) -> Counterexample {
        Counterexample {
            name: self.config.name.clone(),
            seed: None,
            failure: failed.failure,
            ops: Vec::new(),
            steps: failed.steps,
            replay: format!("FERROQ_CASES=0 {} {}", self.config.command, self.config.name),
            stored: None,
        }
    }

    fn broken(&self, failure: String) -> Box<Counterexample> {
        Box::new(self.found(Failed { failure, steps: Vec::new() }))
    }
}

pub(super) fn rng(seed: u64) -> TestRng {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}
