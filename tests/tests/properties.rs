//! Every backend against the reference model, and the backends against each other, on random sequences of operations.
//! `FERROQ_CASES` and `FERROQ_SEED` say how many and which; a failure prints the command that replays it, and leaves its
//! shrunk operations in `proptest-regressions/`, which every later run begins with.

use std::path::Path;

use ferroq_core::event::EventKind;
use ferroq_testkit::harness::StorageBuilder;
use ferroq_testkit::property::{Config, Report, run_side_by_side};
use ferroq_tests::fixtures::{memory, redis, sqlite};

fn check(name: &str, builders: &[(&str, &dyn StorageBuilder)], cases: u32) -> Report {
    let regressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("proptest-regressions");
    let config = Config::from_env(name, "cargo test -p ferroq-tests --test properties")
        .cases_by_default(cases)
        .regressions_in(regressions);
    match run_side_by_side(builders, &config) {
        Ok(report) => report,
        Err(counterexample) => panic!("{counterexample}"),
    }
}

#[test]
fn memory_follows_the_model() {
    let report = check("memory_follows_the_model", &[("memory", &memory)], 5000);
    // A generator that stops reaching something would prove less and less without anybody noticing.
    if report.cases >= 1000 {
        for kind in EventKind::ALL {
            assert!(report.reached.contains_key(&kind), "no case reached {kind:?}: {:?}", report.reached);
        }
    }
}

#[test]
fn sqlite_follows_the_model() {
    check("sqlite_follows_the_model", &[("sqlite", &sqlite)], 400);
}

#[test]
fn redis_follows_the_model() {
    check("redis_follows_the_model", &[("redis", &redis)], 400);
}

#[test]
fn all_backends_do_the_same() {
    check("all_backends_do_the_same", &[("memory", &memory), ("sqlite", &sqlite), ("redis", &redis)], 200);
}
