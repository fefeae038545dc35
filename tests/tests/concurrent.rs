//! Clients and workers that work on one store at the same time, on every backend: what each job went through must be
//! explainable one call after another. `FERROQ_CASES` and `FERROQ_SEED` say how many rounds and which.

use ferroq_testkit::harness::StorageBuilder;
use ferroq_testkit::history::{Config, run};
use ferroq_tests::fixtures::{memory, redis, sqlite};

fn check(name: &str, builder: &dyn StorageBuilder) {
    let config = Config::from_env(name, "cargo test -p ferroq-tests --test concurrent");
    match run(builder, &config) {
        Ok(report) => assert!(
            report.rounds < 10 || (report.claims > 0 && report.losses > 0),
            "the rounds reached too little to prove anything: {report:?}"
        ),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn what_happened_to_a_job_in_memory_is_explainable() {
    check("what_happened_to_a_job_in_memory_is_explainable", &memory);
}

#[test]
fn what_happened_to_a_job_on_sqlite_is_explainable() {
    check("what_happened_to_a_job_on_sqlite_is_explainable", &sqlite);
}

#[test]
fn what_happened_to_a_job_on_redis_is_explainable() {
    check("what_happened_to_a_job_on_redis_is_explainable", &redis);
}
