//! The backends as the testkit wants them: each store new, on a clock that moves when told to, and the persistent one able
//! to be closed and opened again. One piece of code, so that every suite proves the same stores.

use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_core::storage::Storage;
use ferroq_memory::MemoryStorage;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::Fixture;

use crate::redis::server;

/// A store in memory.
pub async fn memory() -> Fixture {
    let clock = ManualClock::default();
    Fixture::new(Arc::new(MemoryStorage::builder().clock(Arc::new(clock.clone())).build()), clock, ())
}

/// A store in a SQLite file of its own, removed with the fixture.
pub async fn sqlite() -> Fixture {
    let clock = ManualClock::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = SqliteOptions::new(directory.path().join("queue.db")).clock(Arc::new(clock.clone()));
    let open = move || {
        let options = options.clone();
        async move { Arc::new(SqliteStorage::open(options).await.expect("the database opens")) as Arc<dyn Storage> }
    };
    Fixture::new(open().await, clock, directory).with_reopen(open)
}

/// A store in a namespace of its own on the Redis server that the tests of this process share.
pub async fn redis() -> Fixture {
    let clock = ManualClock::default();
    let url = server::shared().url();
    let options = RedisOptions::from_url(&url).expect("the server's URL").namespace(server::namespace());
    let options = options.clock(Arc::new(clock.clone()));
    let open = move || {
        let options = options.clone();
        async move { Arc::new(RedisStorage::open(options).await.expect("the server answers")) as Arc<dyn Storage> }
    };
    Fixture::new(open().await, clock, ()).with_reopen(open)
}
