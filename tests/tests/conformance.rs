//! Every case of the public conformance suite on every backend: what holds the backends together. A case that fails
//! here says which rule of `docs/contract.md` a backend broke.

use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_core::storage::Storage;
use ferroq_memory::MemoryStorage;
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::Fixture;

async fn memory_store() -> Fixture {
    let clock = ManualClock::default();
    let storage = MemoryStorage::builder().clock(Arc::new(clock.clone())).build();
    Fixture::new(Arc::new(storage), clock, ())
}

async fn sqlite_store() -> Fixture {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let clock = ManualClock::default();
    let options = SqliteOptions::new(directory.path().join("queue.db")).clock(Arc::new(clock.clone()));
    let open = move || {
        let options = options.clone();
        async move { Arc::new(SqliteStorage::open(options).await.expect("open")) as Arc<dyn Storage> }
    };
    Fixture::new(open().await, clock, directory).with_reopen(open)
}

mod memory {
    use super::memory_store;

    ferroq_testkit::conformance!(memory_store);
}

mod sqlite {
    use super::sqlite_store;

    ferroq_testkit::conformance!(sqlite_store);
}
