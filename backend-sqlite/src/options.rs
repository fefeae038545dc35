//! How a database is opened: options by builder or by URL. A URL that can't be meant as it stands is an error that says
//! what would be right, because a misspelt durability that is silently ignored loses data.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::storage::StorageError;
use ferroq_core::{Clock, SystemClock};

use crate::error::invalid;

/// What an acknowledged write has survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It survives the crash of any process; power loss may drop the last commits (`PRAGMA synchronous = NORMAL`).
    #[default]
    Normal,
    /// It survives power loss as well, at the price of an fsync per commit (`PRAGMA synchronous = FULL`).
    Full,
}

/// How to open a database.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub(crate) path: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) busy_timeout: Duration,
    pub(crate) create_if_missing: bool,
    pub(crate) clock: Arc<dyn Clock>,
}

impl SqliteOptions {
    /// The database in this file, created if it is missing, with normal durability.
    pub fn new(path: impl AsRef<Path>) -> Self {
        SqliteOptions {
            path: path.as_ref().to_owned(),
            durability: Durability::Normal,
            busy_timeout: Duration::from_secs(5),
            create_if_missing: true,
            clock: Arc::new(SystemClock),
        }
    }

    /// Reads `sqlite://path?durability=normal|full&busy_timeout=5s&create=true|false`. The path is relative, or absolute
    /// with a third slash (`sqlite:///var/lib/app.db`); `%20` and the like stand for the bytes that they name. Opening
    /// puts the file into WAL mode; see [`SqliteStorage::open`](crate::SqliteStorage::open).
    ///
    /// # Errors
    /// `Invalid` for another scheme, an empty path, an in-memory database, or a parameter that is not one of these.
    pub fn from_url(url: &str) -> Result<Self, StorageError> {
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| {
            invalid("the URL is not one of a SQLite database; it begins with `sqlite://`, as in sqlite://app.db")
        })?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path)?;
        check_path(&path)?;
        let mut options = SqliteOptions::new(path);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match (name, value) {
                ("durability", "normal") => options.durability = Durability::Normal,
                ("durability", "full") => options.durability = Durability::Full,
                ("durability", other) => {
                    return Err(invalid(format!("durability={other} is not known; use `normal` or `full`")));
                }
                ("create", "true") => options.create_if_missing = true,
                ("create", "false") => options.create_if_missing = false,
                ("create", other) => {
                    return Err(invalid(format!("create={other} is not known; use `true` or `false`")));
                }
                ("busy_timeout", value) => options.busy_timeout = span(value)?,
                (other, _) => {
                    return Err(invalid(format!(
                        "the parameter {other:?} of the SQLite URL is not known; there are durability, busy_timeout and \
                         create"
                    )));
                }
            }
        }
        Ok(options)
    }

    /// What an acknowledged write is to survive.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long to wait for another connection's lock before a call answers `Busy`: 5 seconds by default.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Whether to create the file if it is missing: yes by default.
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.create_if_missing = create;
        self
    }

    /// Where the time comes from: the host's clock by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

/// Refuses what is no file.
pub(crate) fn check_path(path: &str) -> Result<(), StorageError> {
    if path.is_empty() {
        return Err(invalid("the SQLite path is empty; name a file, as in sqlite://app.db"));
    }
    if path.starts_with(":memory:") || path.starts_with("file:") {
        return Err(invalid(
            "an in-memory SQLite database can't be shared by connections; use the memory backend (`memory://`), or a file",
        ));
    }
    if path.contains('\0') {
        return Err(invalid("the SQLite path holds a NUL byte"));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, StorageError> {
    let bad = || invalid("the SQLite URL holds a % that no two hexadecimal digits follow; write % itself as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = tail.split_first_chunk::<2>().ok_or_else(bad)?;
        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| invalid("the SQLite path is not UTF-8"))
}

fn span(text: &str) -> Result<Duration, StorageError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.parse::<u32>().ok();
    match (number, &text[digits.len()..]) {
        (Some(number), "ms") => Ok(Duration::from_millis(number.into())),
        (Some(number), "s") => Ok(Duration::from_secs(number.into())),
        _ => Err(invalid(format!("busy_timeout={text} is not a time; write `500ms` or `5s`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_path_and_settings() {
        let options =
            SqliteOptions::from_url("sqlite:///var/my%20app.db?durability=full&busy_timeout=250ms&create=false")
                .expect("a good URL");
        assert_eq!(options.path, Path::new("/var/my app.db"));
        assert_eq!(options.durability, Durability::Full);
        assert_eq!(options.busy_timeout, Duration::from_millis(250));
        assert!(!options.create_if_missing);
        assert_eq!(SqliteOptions::from_url("sqlite:app.db").expect("short form").path, Path::new("app.db"));
    }

    #[test]
    fn a_bad_url_is_refused_with_what_would_be_right() {
        for (url, says) in [
            ("redis://x", "sqlite://"),
            ("sqlite://", "empty"),
            ("sqlite://:memory:", "memory backend"),
            ("sqlite://a.db?durabilty=full", "durabilty"),
            ("sqlite://a.db?durability=high", "`normal` or `full`"),
            ("sqlite://a.db?busy_timeout=5", "`500ms`"),
            ("sqlite://a.db?create=yes", "`true`"),
            ("sqlite://a%2.db", "%25"),
        ] {
            let error = SqliteOptions::from_url(url).expect_err(url).to_string();
            assert!(error.contains(says), "{url}: {error}");
        }
    }
}
