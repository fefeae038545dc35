//! Every case of the public conformance suite on this backend, and random operations against the reference model.

use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_core::storage::Storage;
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::Fixture;
use ferroq_testkit::property::{Config, run_side_by_side};

async fn sqlite() -> Fixture {
    let clock = ManualClock::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = SqliteOptions::new(directory.path().join("q.db")).clock(Arc::new(clock.clone()));
    let open = move || {
        let options = options.clone();
        async move { Arc::new(SqliteStorage::open(options).await.expect("the database opens")) as Arc<dyn Storage> }
    };
    Fixture::new(open().await, clock, directory).with_reopen(open)
}

ferroq_testkit::conformance!(sqlite);

#[test]
fn sqlite_follows_the_model() {
    let name = "sqlite_follows_the_model";
    let config = Config::from_env(name, "cargo test -p ferroq-sqlite --test conformance").cases_by_default(100);
    if let Err(counterexample) = run_side_by_side(&[("sqlite", &sqlite)], &config) {
        panic!("{counterexample}");
    }
}
