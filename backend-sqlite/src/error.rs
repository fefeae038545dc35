//! What SQLite's and the driver's errors mean to a caller: what happened to the data, and what to do about it.

use ferroq_core::storage::{ErrorCode, StorageError};
use sqlx::error::DatabaseError;

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>), as far as they are told apart here.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const PROTOCOL: i32 = 15;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const AUTH: i32 = 23;
    pub(super) const NOTADB: i32 = 26;
}

/// The primary result code of an error that SQLite gave.
pub(crate) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let sqlx::Error::Database(error) = error else { return None };
    DatabaseError::code(error.as_ref()).and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff)
}

/// Whether the cause lies in the request's own data, so that the other calls of a group may still succeed.
pub(crate) fn is_about_the_request(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(code::TOOBIG | code::CONSTRAINT | code::NOMEM))
}

/// Whether this is how a guard fails a transaction: `json()` of what is no JSON.
pub(crate) fn is_guard(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(found) => primary_code(error) == Some(1) && found.message().contains("malformed JSON"),
        _ => false,
    }
}

/// What a failed statement means. The transaction it was part of was rolled back.
pub(crate) fn storage_error(error: sqlx::Error) -> StorageError {
    let (code, message) = match primary_code(&error) {
        Some(code::BUSY | code::LOCKED | code::PROTOCOL) => (
            ErrorCode::Busy,
            "the database is locked by another connection for longer than busy_timeout; find the long write \
             transaction, or raise busy_timeout",
        ),
        Some(code::FULL) => (ErrorCode::Full, "there is no room for the database; free disk space"),
        Some(code::READONLY | code::PERM | code::AUTH) => (
            ErrorCode::ReadOnly,
            "the database can't be written to; make the file and its directory writable for this user",
        ),
        Some(code::CANTOPEN) => (
            ErrorCode::Unavailable,
            "the database file can't be opened; check that its directory exists and that this user may use it",
        ),
        Some(code::IOERR) => {
            (ErrorCode::Unavailable, "the database could not be read or written; check the disk and its file system")
        }
        Some(code::CORRUPT | code::NOTADB) => (
            ErrorCode::Corrupt,
            "the file is damaged or not a SQLite database; restore it from a backup, or try `.recover` of the sqlite3 \
             shell",
        ),
        Some(code::TOOBIG) => {
            (ErrorCode::Invalid, "the request is larger than SQLite can hold; store large data elsewhere")
        }
        Some(code::NOMEM) => (ErrorCode::Unavailable, "SQLite ran out of memory"),
        Some(_) => (ErrorCode::Other, "SQLite refused a statement"),
        None => match &error {
            sqlx::Error::WorkerCrashed | sqlx::Error::PoolClosed | sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => {
                (ErrorCode::Unavailable, "the connection to the database was lost")
            }
            _ => (ErrorCode::Other, "the driver failed"),
        },
    };
    StorageError::new(code, message).because(error)
}

/// The handle was closed.
pub(crate) fn closed() -> StorageError {
    StorageError::new(ErrorCode::Closed, "this handle was closed; open another one")
}

/// The request makes no sense.
pub(crate) fn invalid(message: impl Into<String>) -> StorageError {
    StorageError::new(ErrorCode::Invalid, message)
}

/// What SQLite answered can't be what this crate wrote.
pub(crate) fn unexpected(what: &str) -> StorageError {
    StorageError::new(
        ErrorCode::Corrupt,
        format!("{what} in the ferroq tables can't be read; they were changed by something else"),
    )
}
