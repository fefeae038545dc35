//! The stores that the fault tests run on: a memory store, and SQLite files that other processes open too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferroq_core::context::Context;
use ferroq_core::storage::{SettleAnswer, Storage};
use ferroq_memory::MemoryStorage;
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{SqliteConnection, SqlitePool};
use tempfile::TempDir;

/// A directory of its own for one test's files.
///
/// # Panics
/// If there is no room for one.
pub fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The database file in a directory.
pub fn db_in(directory: &TempDir) -> PathBuf {
    directory.path().join("app.db")
}

/// Opens a SQLite store, made if it is missing.
///
/// # Panics
/// If it can't be opened.
pub async fn sqlite(db: &Path) -> SqliteStorage {
    SqliteStorage::open(SqliteOptions::new(db))
        .await
        .unwrap_or_else(|error| panic!("{db:?} can't be opened: {error:?}"))
}

/// The app's own connections to a database.
///
/// # Panics
/// If it can't be opened.
pub async fn app(db: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(db).busy_timeout(std::time::Duration::from_secs(30));
    SqlitePoolOptions::new().max_connections(2).connect_with(options).await.expect("the app's connections")
}

/// A store and what it is called in messages.
pub struct Named {
    /// The backend.
    pub name: &'static str,
    /// The store.
    pub storage: Arc<dyn Storage>,
    // After the store, which it must outlive.
    _directory: Option<TempDir>,
}

/// An empty store of each kind.
pub async fn each() -> Vec<Named> {
    let directory = directory();
    let sqlite: Arc<dyn Storage> = Arc::new(sqlite(&db_in(&directory)).await);
    vec![
        Named { name: "memory", storage: Arc::new(MemoryStorage::new()), _directory: None },
        Named { name: "sqlite", storage: sqlite, _directory: Some(directory) },
    ]
}

/// Completes a job in the app's own transaction.
///
/// # Errors
/// The storage's.
pub async fn complete_in<S>(
    cx: &Context<S>,
    transaction: &mut SqliteConnection,
) -> Result<SettleAnswer, Box<dyn std::error::Error + Send + Sync>> {
    let storage: &dyn std::any::Any = cx.client().storage().as_ref();
    let sqlite = storage.downcast_ref::<SqliteStorage>().ok_or("this worker's storage is not SQLite")?;
    let mut answers = sqlite.settle_in(transaction, cx.queue(), vec![cx.completion(&())?]).await?;
    Ok(answers.remove(0))
}
