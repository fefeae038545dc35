//! The backends as the testkit wants them: each store new, on a clock that moves when told to, and the persistent one able
//! to be closed and opened again. One piece of code, so that every suite proves the same stores.

use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_core::storage::Storage;
use ferroq_memory::MemoryStorage;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::Fixture;

use crate::redis::server::{self, Server};

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

/// A store in a namespace of its own on the Redis server that the tests of this process share, as a user who has the
/// rights that `docs/redis-acl.md` lists for this namespace and no others.
pub async fn redis() -> Fixture {
    let clock = ManualClock::default();
    let (url, namespace) = (server::shared().url(), server::namespace());
    let options = RedisOptions::from_url(&url).expect("the server's URL").namespace(&namespace);
    let options = as_user([server::shared()], &namespace, options);
    let options = options.clock(Arc::new(clock.clone()));
    let open = move || {
        let options = options.clone();
        async move { Arc::new(RedisStorage::open(options).await.expect("the server answers")) as Arc<dyn Storage> }
    };
    Fixture::new(open().await, clock, ()).with_reopen(open)
}

/// Makes these servers know a user with exactly the rights that the options need, and has the options use it.
///
/// # Panics
/// If a server does not take the rule.
pub fn as_user<'a>(servers: impl IntoIterator<Item = &'a Server>, user: &str, options: RedisOptions) -> RedisOptions {
    let rule = options.acl_rule();
    let set: Vec<&str> =
        ["ACL", "SETUSER", user, "reset", "on", ">secret"].into_iter().chain(rule.split(' ')).collect();
    for server in servers {
        server.cli(&set);
    }
    options.user(user).password("secret")
}
