//! The stores that are measured, each made anew for each run: the memory backend, and SQLite with both durabilities, on
//! the disk that the temporary directory is on.

use std::path::PathBuf;
use std::sync::Arc;

use ferroq::Client;
use ferroq::memory::MemoryStorage;
use ferroq::sqlite::{Durability, SqliteOptions, SqliteStorage};
use tempfile::TempDir;

use crate::BenchError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Memory,
    SqliteNormal,
    SqliteFull,
}

impl Backend {
    pub(crate) const ALL: [Backend; 3] = [Backend::Memory, Backend::SqliteNormal, Backend::SqliteFull];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Memory => "memory",
            Backend::SqliteNormal => "sqlite-normal",
            Backend::SqliteFull => "sqlite-full",
        }
    }

    /// A new, empty store.
    pub(crate) async fn store(self) -> Result<Store, BenchError> {
        match self {
            Backend::Memory => Ok(Store { client: Client::new(Arc::new(MemoryStorage::new())), directory: None }),
            Backend::SqliteNormal => sqlite(Durability::Normal).await,
            Backend::SqliteFull => sqlite(Durability::Full).await,
        }
    }
}

pub(crate) struct Store {
    pub(crate) client: Client,
    directory: Option<TempDir>,
}

impl Store {
    /// The database file, if there is one.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.path().join("bench.db"))
    }
}

async fn sqlite(durability: Durability) -> Result<Store, BenchError> {
    let directory = tempfile::tempdir()?;
    let options = SqliteOptions::new(directory.path().join("bench.db")).durability(durability);
    let storage = SqliteStorage::open(options).await?;
    Ok(Store { client: Client::new(Arc::new(storage)), directory: Some(directory) })
}
