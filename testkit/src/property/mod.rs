//! Random sequences of operations against a backend, each answer and each dump compared with the reference
//! [`Model`](crate::model::Model), all [`invariants`](crate::invariants) checked, and what fails shrunk to a few steps
//! that a person can follow. About a third of the operations repeat an earlier call or act under a lease that is over,
//! because that is where queues break.
//!
//! A backend's author writes one test:
//!
//! ```no_run
//! # use ferroq_testkit::harness::StorageBuilder;
//! use ferroq_testkit::property::{Config, run};
//!
//! # fn builder() -> impl StorageBuilder { || async { unimplemented!() } }
//! let config = Config::from_env("my_backend_follows_the_model", "cargo test -p my-backend --test properties");
//! if let Err(counterexample) = run(&builder(), &config) {
//!     panic!("{counterexample}");
//! }
//! ```
//!
//! `FERROQ_CASES` says how many cases are run and `FERROQ_SEED` where they start; a failure prints the command that
//! replays it.

mod case;
mod explain;
mod limits;
mod op;
mod regressions;
mod runner;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use ferroq_core::event::EventKind;
pub use op::{ActDraft, ClaimDraft, JobDraft, LeasePick, NoteDraft, Op, OutcomeDraft, Pass, RateDraft, SettleDraft};
pub use runner::{find_counterexample, run, run_side_by_side};

/// How a property is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The test's name: it names stored counterexamples, and the replay command runs it.
    pub name: String,
    /// The command that runs the test's binary, without the test's name.
    pub command: String,
    /// How many cases to run.
    pub cases: u32,
    /// The first case's seed; each further case has the next number.
    pub seed: u64,
    /// How many operations a case has at most.
    pub ops_max: usize,
    /// Where counterexamples are stored, to be run before all else the next time.
    pub regressions: Option<PathBuf>,
}

impl Config {
    /// How many cases are run unless somebody says otherwise.
    pub const CASES_DEFAULT: u32 = 64;
    /// How many operations a case has at most, unless somebody says otherwise.
    pub const OPS_MAX_DEFAULT: usize = 60;

    /// What the environment says: `FERROQ_CASES` and `FERROQ_SEED`; without a seed, every run takes another one.
    pub fn from_env(name: impl Into<String>, command: impl Into<String>) -> Config {
        let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let cases = number("FERROQ_CASES").and_then(|cases| u32::try_from(cases).ok());
        Config {
            name: name.into(),
            command: command.into(),
            cases: cases.unwrap_or(Self::CASES_DEFAULT),
            seed: number("FERROQ_SEED").unwrap_or_else(rand::random),
            ops_max: Self::OPS_MAX_DEFAULT,
            regressions: None,
        }
    }

    /// Runs so many cases, unless the environment says otherwise.
    pub fn cases_by_default(mut self, cases: u32) -> Config {
        if std::env::var_os("FERROQ_CASES").is_none() {
            self.cases = cases;
        }
        self
    }

    /// Stores counterexamples in this directory, and runs those in it first.
    pub fn regressions_in(mut self, directory: impl Into<PathBuf>) -> Config {
        self.regressions = Some(directory.into());
        self
    }
}

/// What was run, where nothing failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases.
    pub cases: u32,
    /// Stored counterexamples of earlier failures, run before them.
    pub regressions: u32,
    /// Calls to the backend that may change something, over all cases.
    pub calls: u64,
    /// Of these, repeats under the same call id.
    pub repeats: u64,
    /// What the cases reached: how often each kind of event was in a queue's log at a case's end.
    pub reached: BTreeMap<EventKind, u64>,
}

/// A sequence of operations after which a backend is not as it should be.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The test's name.
    pub name: String,
    /// The seed of the case; `None` if it was a stored one.
    pub seed: Option<u64>,
    /// What is wrong.
    pub failure: String,
    /// The operations, shrunk.
    pub ops: Vec<Op>,
    /// The calls that they came to, up to the one that failed.
    pub steps: Vec<String>,
    /// The command that runs this case again.
    pub replay: String,
    /// Where it was stored, if it was.
    pub stored: Option<PathBuf>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} fails after {} operations:", self.name, self.ops.len())?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        writeln!(f, "{}", self.failure)?;
        if let Some(stored) = &self.stored {
            writeln!(f, "stored as {}", stored.display())?;
        }
        write!(f, "replay with: {}", self.replay)
    }
}

impl std::error::Error for Counterexample {}
