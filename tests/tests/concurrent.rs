//! Clients and workers that work on one store at the same time, on every backend: what each job went through must be
//! explainable one call after another. `FERROQ_CASES` and `FERROQ_SEED` say how many rounds and which.

use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_core::storage::Storage;
use ferroq_memory::MemoryStorage;
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::{Fixture, StorageBuilder};
use ferroq_testkit::history::{Config, run};

async fn memory() -> Fixture {
    let clock = ManualClock::default();
    Fixture::new(Arc::new(MemoryStorage::builder().clock(Arc::new(clock.clone())).build()), clock, ())
}

async fn sqlite() -> Fixture {
    let clock = ManualClock::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = SqliteOptions::new(directory.path().join("q.db")).clock(Arc::new(clock.clone()));
    let storage = SqliteStorage::open(options).await.expect("the database opens");
    Fixture::new(Arc::new(storage) as Arc<dyn Storage>, clock, directory)
}

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
