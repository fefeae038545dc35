//! The stores that are measured, each made anew for each run: the memory backend, SQLite with both durabilities, on the
//! disk that the temporary directory is on, and Redis on a server of its own on this machine, without persistence.

use std::sync::Arc;

use ferroq::Client;
use ferroq::memory::MemoryStorage;
use ferroq::redis::{RedisOptions, RedisStorage};
use ferroq::sqlite::{Durability, SqliteOptions, SqliteStorage};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::Server;
use tempfile::TempDir;

use crate::BenchError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Memory,
    SqliteNormal,
    SqliteFull,
    Redis,
}

impl Backend {
    pub(crate) const ALL: [Backend; 4] = [Backend::Memory, Backend::SqliteNormal, Backend::SqliteFull, Backend::Redis];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Memory => "memory",
            Backend::SqliteNormal => "sqlite-normal",
            Backend::SqliteFull => "sqlite-full",
            Backend::Redis => "redis",
        }
    }

    /// A new, empty store.
    pub(crate) async fn store(self) -> Result<Store, BenchError> {
        match self {
            Backend::Memory => {
                Ok(Store { client: Client::new(Arc::new(MemoryStorage::new())), url: None, home: Home::Memory })
            }
            Backend::SqliteNormal => sqlite(Durability::Normal).await,
            Backend::SqliteFull => sqlite(Durability::Full).await,
            Backend::Redis => redis().await,
        }
    }
}

/// Where a store lives; it goes when this is dropped.
pub(crate) enum Home {
    Memory,
    File(#[allow(dead_code, reason = "held to be dropped")] TempDir),
    Server(Box<Server>),
}

pub(crate) struct Store {
    pub(crate) client: Client,
    /// Where another process finds the store, if it can.
    pub(crate) url: Option<String>,
    home: Home,
}

impl Store {
    /// The Redis server, if that is what the store is on.
    pub(crate) fn server(&self) -> Option<&Server> {
        match &self.home {
            Home::Server(server) => Some(server),
            Home::Memory | Home::File(_) => None,
        }
    }
}

async fn sqlite(durability: Durability) -> Result<Store, BenchError> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bench.db");
    let url = format!("sqlite://{}", path.display());
    let storage = SqliteStorage::open(SqliteOptions::new(path).durability(durability)).await?;
    Ok(Store { client: Client::new(Arc::new(storage)), url: Some(url), home: Home::File(directory) })
}

async fn redis() -> Result<Store, BenchError> {
    let server = Server::start(ServerOptions::new());
    let storage = RedisStorage::open(RedisOptions::from_url(&server.url())?).await?;
    Ok(Store { client: Client::new(Arc::new(storage)), url: Some(server.url()), home: Home::Server(Box::new(server)) })
}
