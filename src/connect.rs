//! The one URL that says where jobs are kept. Changing it is all that it takes to move from tests to one machine, and from
//! there to a server that many share.

#[cfg(any(feature = "memory", feature = "sqlite", feature = "redis"))]
use std::sync::Arc;

use ferroq_core::client::Client;
use ferroq_core::storage::StorageError;

/// A URL could not be connected to. Nothing was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL's scheme is not one that ferroq knows.
    UnknownScheme {
        /// The scheme; empty if what was given has none.
        scheme: String,
    },
    /// The backend is known, but not built into this program.
    NotBuiltIn {
        /// The feature to enable.
        feature: &'static str,
    },
    /// The storage could not be opened.
    Storage(StorageError),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConnectError::UnknownScheme { scheme } if scheme.is_empty() => {
                f.write_str("that is not a URL: it has no scheme; give sqlite://path/to/app.db, redis://host, or memory:// for tests")
            }
            ConnectError::UnknownScheme { scheme } => write!(
                f,
                "{scheme:?} is not a URL that ferroq knows; give redis://host:6379, sqlite://path/to/app.db, or memory:// \
                 for tests"
            ),
            ConnectError::NotBuiltIn { feature } => {
                write!(f, "this program was built without that backend; enable ferroq's `{feature}` feature")
            }
            ConnectError::Storage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConnectError::Storage(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

impl From<StorageError> for ConnectError {
    fn from(error: StorageError) -> Self {
        ConnectError::Storage(error)
    }
}

/// Connects to the store that a URL names:
///
/// - `sqlite://app.db`: a SQLite file, made if it is missing; the app's own database file is fine. The parameters that it
///   takes are those of `SqliteOptions::from_url`.
/// - `redis://host:6379`: a Redis or Valkey server. `rediss://` is the same by TLS, `redis+sentinel://a,b,c/mymaster` and
///   `redis+cluster://a,b,c` are several servers. User, password, database and all settings are as
///   `RedisOptions::from_url` says.
/// - `memory://`: a new store in this process, gone with it.
///
/// # Errors
/// [`ConnectError`] says what is wrong with the URL or the store, and what to do about it.
pub async fn connect(url: &str) -> Result<Client, ConnectError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("memory") => memory(url).await,
        Some("sqlite") => sqlite(url).await,
        Some(scheme) if matches!(scheme.split('+').next(), Some("redis" | "rediss")) => redis(url).await,
        // A URL may hold a password, so no more than its scheme is repeated; and only before `://`, because what stands
        // before another colon may be a user, a host, or the password itself.
        _ => {
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
            let scheme = if scheme.chars().all(is_scheme) { scheme.to_owned() } else { String::new() };
            Err(ConnectError::UnknownScheme { scheme })
        }
    }
}

#[cfg(feature = "memory")]
async fn memory(url: &str) -> Result<Client, ConnectError> {
    if url != "memory://" && url != "memory:" {
        let wrong = "a memory URL takes neither a path nor parameters: every memory:// is a new store";
        return Err(StorageError::new(ferroq_core::storage::ErrorCode::Invalid, wrong).into());
    }
    Ok(Client::new(Arc::new(ferroq_memory::MemoryStorage::new())))
}

#[cfg(not(feature = "memory"))]
async fn memory(_url: &str) -> Result<Client, ConnectError> {
    Err(ConnectError::NotBuiltIn { feature: "memory" })
}

#[cfg(feature = "sqlite")]
async fn sqlite(url: &str) -> Result<Client, ConnectError> {
    let options = ferroq_sqlite::SqliteOptions::from_url(url)?;
    Ok(Client::new(Arc::new(ferroq_sqlite::SqliteStorage::open(options).await?)))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite(_url: &str) -> Result<Client, ConnectError> {
    Err(ConnectError::NotBuiltIn { feature: "sqlite" })
}

#[cfg(feature = "redis")]
async fn redis(url: &str) -> Result<Client, ConnectError> {
    let options = ferroq_redis::RedisOptions::from_url(url)?;
    Ok(Client::new(Arc::new(ferroq_redis::RedisStorage::open(options).await?)))
}

#[cfg(not(feature = "redis"))]
async fn redis(url: &str) -> Result<Client, ConnectError> {
    let feature = match url.split_once(':').map(|(scheme, _)| scheme) {
        Some(scheme) if scheme.starts_with("rediss") => "redis-tls",
        _ => "redis",
    };
    Err(ConnectError::NotBuiltIn { feature })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_that_is_none_is_refused_without_repeating_what_may_be_a_password() {
        for url in ["", "s3cret@host", "user:s3cret@host", "s3cret:6379", "us er:s3cret://host", "@s3cret://host"] {
            let error = connect(url).await.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("no scheme") && !error.contains("s3cret"), "{url}: {error}");
        }
        let error = connect("postgres://u:s3cret@h").await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("postgres") && !error.contains("s3cret"), "{error}");
    }
}
