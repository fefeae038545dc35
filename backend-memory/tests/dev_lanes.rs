//! Every case of the public conformance suite on this backend, and random operations against the reference model.

use ferroq_core::clock::ManualClock;
use ferroq_memory::MemoryStorage;
use ferroq_testkit::harness::Fixture;
use ferroq_testkit::property::{Config, run_side_by_side};
use std::sync::Arc;
async fn memory() -> Fixture {
    let clock = ManualClock::default();
    let storage = MemoryStorage::builder().clock(Arc::new(clock.clone())).build();
    Fixture::new(Arc::new(storage), clock, ())
}
ferroq_testkit::conformance!(memory);
#[test]
fn follows() {
    let config = Config::from_env("dev", "x").cases_by_default(1000);
    if let Err(counterexample) = run_side_by_side(&[("memory", &memory)], &config) {
        panic!("{counterexample}");
    }
}
