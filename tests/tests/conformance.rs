//! Every case of the public conformance suite on every backend: what holds the backends together. A case that fails
//! here says which rule of `docs/contract.md` a backend broke.

use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_memory::MemoryStorage;
use ferroq_testkit::harness::Fixture;

async fn memory_store() -> Fixture {
    let clock = ManualClock::default();
    let storage = MemoryStorage::builder().clock(Arc::new(clock.clone())).build();
    Fixture::new(Arc::new(storage), clock, ())
}

mod memory {
    use super::memory_store;

    ferroq_testkit::conformance!(memory_store);
}
