//! Opening: everything that speaks against using a file is found before anything is written to it. The file itself is
//! only ever touched through SQLite, because closing another handle on it would drop SQLite's locks.

use std::path::{Path, PathBuf};

use ferroq_core::storage::{ErrorCode, StorageError};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row as _, SqliteConnection};

use crate::error::storage_error;
use crate::options::{Durability, SqliteOptions, check_path};
use crate::schema::{CREATE, SCHEMA_VERSION};

/// More than the rows of any answer in a batch: each row beyond the buffer would wake a thread.
const ROW_BUFFER: usize = 4096;
const STATEMENTS_CACHED: usize = 256;

fn connect_options(options: &SqliteOptions) -> SqliteConnectOptions {
    let synchronous = match options.durability {
        Durability::Normal => SqliteSynchronous::Normal,
        Durability::Full => SqliteSynchronous::Full,
    };
    SqliteConnectOptions::new()
        .filename(&options.path)
        .busy_timeout(options.busy_timeout.min(std::time::Duration::from_secs(86_400)))
        .synchronous(synchronous)
        .row_buffer_size(ROW_BUFFER)
        .statement_cache_capacity(STATEMENTS_CACHED)
        .disable_statement_logging()
}

/// Opens a connection that writes.
pub(crate) async fn writer(options: &SqliteOptions) -> Result<SqliteConnection, StorageError> {
    let connect = connect_options(options)
        .create_if_missing(options.create_if_missing)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("cache_size", "-32768")
        .pragma("temp_store", "memory")
        .pragma("wal_autocheckpoint", "4000");
    connect.connect().await.map_err(storage_error)
}

/// Opens a connection that only reads.
pub(crate) async fn reader(options: &SqliteOptions) -> Result<SqliteConnection, StorageError> {
    let connect = connect_options(options).pragma("query_only", "1").pragma("temp_store", "memory");
    connect.connect().await.map_err(storage_error)
}

/// Checks the file, and makes the tables if they are not there.
pub(crate) async fn prepare(options: &SqliteOptions) -> Result<(), StorageError> {
    let path = &options.path;
    check_path(&path.to_string_lossy())?;
    if path.is_dir() {
        return Err(StorageError::new(
            ErrorCode::Unavailable,
            format!("{} is a directory; name a file in it", path.display()),
        ));
    }
    if let Some(kind) = network_mount(path) {
        return Err(StorageError::new(
            ErrorCode::Unsupported,
            format!(
                "{} is on a network file system ({kind}), where SQLite's locks can't be trusted; put it on a local disk",
                path.display()
            ),
        ));
    }
    if is_read_only_mount(path) {
        return Err(StorageError::new(
            ErrorCode::ReadOnly,
            format!(
                "{} is on a file system that is mounted read-only; mount it writable, or use another one",
                path.display()
            ),
        ));
    }
    let length = match std::fs::metadata(path) {
        Ok(found) if found.permissions().readonly() => {
            return Err(StorageError::new(
                ErrorCode::ReadOnly,
                format!("{} is read-only; make it and its directory writable for this user", path.display()),
            ));
        }
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            check_missing(options)?;
            0
        }
        Err(error) => {
            let message = format!("{} can't be looked at; check the permissions of its directories", path.display());
            return Err(StorageError::new(ErrorCode::Unavailable, message).because(error));
        }
    };
    let mut known = None;
    if length > 0 {
        let connect = connect_options(options).read_only(true);
        let mut conn = connect.connect().await.map_err(storage_error)?;
        known = inspect(&mut conn).await?;
        // Nothing was written, so a failure to close loses nothing.
        drop(conn.close().await);
    }
    let mut conn = writer(options).await?;
    check_version(&mut conn).await?;
    if known.is_none() {
        let script = format!("BEGIN IMMEDIATE;{CREATE}COMMIT;");
        let created = sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut conn).await;
        created.map_err(storage_error)?;
        inspect(&mut conn).await?;
    }
    drop(conn.close().await);
    Ok(())
}

fn check_missing(options: &SqliteOptions) -> Result<(), StorageError> {
    let path = &options.path;
    if !options.create_if_missing {
        return Err(StorageError::new(
            ErrorCode::Unavailable,
            format!("{} does not exist, and create_if_missing is off", path.display()),
        ));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::metadata(directory) {
        Err(_) => Err(StorageError::new(
            ErrorCode::Unavailable,
            format!("the directory {} does not exist; create it first", directory.display()),
        )),
        Ok(found) if found.permissions().readonly() => Err(StorageError::new(
            ErrorCode::ReadOnly,
            format!("the directory {} is read-only; make it writable for this user", directory.display()),
        )),
        Ok(_) => Ok(()),
    }
}

/// Reads the schema's version, `None` if there is none, and refuses what can't be used.
async fn inspect(conn: &mut SqliteConnection) -> Result<Option<i64>, StorageError> {
    check_version(conn).await?;
    let encoding: String = one(conn, "PRAGMA encoding").await?.unwrap_or_default();
    if encoding != "UTF-8" {
        let message =
            format!("the database stores text as {encoding}, and ferroq needs UTF-8; use another file for it");
        return Err(StorageError::new(ErrorCode::Unsupported, message));
    }
    let table = "SELECT name FROM sqlite_master WHERE type='table' AND name='ferroq_meta'";
    if one::<String>(conn, table).await?.is_none() {
        return Ok(None);
    }
    let version: Option<i64> = one(conn, "SELECT value FROM ferroq_meta WHERE name='schema'").await?;
    match version {
        Some(found) if found > SCHEMA_VERSION => Err(StorageError::new(
            ErrorCode::SchemaTooNew,
            format!(
                "the ferroq tables have version {found}, and this program knows up to {SCHEMA_VERSION}; deploy the newer \
                 program"
            ),
        )),
        version => Ok(version),
    }
}

async fn check_version(conn: &mut SqliteConnection) -> Result<(), StorageError> {
    let version: String = one(conn, "SELECT sqlite_version()").await?.unwrap_or_default();
    if has_wal_reset_bug(&version) {
        let message = format!(
            "SQLite {version} may corrupt a database in WAL mode (fixed in 3.51.3); link a newer one, or the bundled one"
        );
        return Err(StorageError::new(ErrorCode::Unsupported, message));
    }
    Ok(())
}

async fn one<T>(conn: &mut SqliteConnection, sql: &'static str) -> Result<Option<T>, StorageError>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    let row = sqlx::query(sql).fetch_optional(conn).await.map_err(storage_error)?;
    row.map(|row| row.try_get(0)).transpose().map_err(storage_error)
}

/// Whether this version has the bug by which a WAL reset may lose a commit: 3.7.0 to 3.51.2. What is no version is
/// not trusted.
pub(crate) fn has_wal_reset_bug(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>());
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => (major, minor, patch) < (3, 51, 3),
        _ => true,
    }
}

/// What is mounted where, and where in that a path really is, if the host can tell.
fn mounts_and(path: &Path) -> Option<(String, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let absolute = std::path::absolute(path).ok()?;
    // The file may not exist yet; its directory most likely does, and may be a link.
    let real = absolute.canonicalize().or_else(|_| absolute.parent().unwrap_or(&absolute).canonicalize()).ok()?;
    Some((mounts, real))
}

/// The network file system that a path is on, where the host can tell.
fn network_mount(path: &Path) -> Option<String> {
    let (mounts, real) = mounts_and(path)?;
    network_mount_in(&mounts, &real)
}

/// Whether a path is on a file system that is mounted read-only, where the host can tell. SQLite would say that it
/// can't open the file, because it can't make the log beside it.
fn is_read_only_mount(path: &Path) -> bool {
    mounts_and(path).is_some_and(|(mounts, real)| is_read_only_in(&mounts, &real))
}

/// The same, by the text of `/proc/mounts`.
pub(crate) fn is_read_only_in(mounts: &str, path: &Path) -> bool {
    innermost(mounts, path).is_some_and(|mount| mount.options.split(',').any(|option| option == "ro"))
}

/// The network file system that a path is on, by the text of `/proc/mounts`.
pub(crate) fn network_mount_in(mounts: &str, path: &Path) -> Option<String> {
    const NETWORK: [&str; 13] = [
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.rclone",
    ];
    innermost(mounts, path).map(|mount| mount.kind).filter(|kind| NETWORK.contains(kind)).map(str::to_owned)
}

/// A line of `/proc/mounts`.
struct Mount<'a> {
    kind: &'a str,
    options: &'a str,
}

/// The mount that a path is on.
fn innermost<'a>(mounts: &'a str, path: &Path) -> Option<Mount<'a>> {
    let mut best: Option<(usize, Mount<'_>)> = None;
    for line in mounts.lines() {
        let mut parts = line.split(' ');
        let (Some(_), Some(point), Some(kind)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let options = parts.next().unwrap_or_default();
        let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        if path.starts_with(&point) && best.as_ref().is_none_or(|(length, _)| point.len() >= *length) {
            best = Some((point.len(), Mount { kind, options }));
        }
    }
    best.map(|(_, mount)| mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_wal_reset_bug_are_told_apart() {
        for (version, bad) in [("3.51.2", true), ("3.51.3", false), ("3.7.0", true), ("3.52.0", false), ("x", true)] {
            assert_eq!(has_wal_reset_bug(version), bad, "{version}");
        }
    }

    #[test]
    fn a_path_is_on_the_innermost_mount_and_a_network_one_is_named() {
        let mounts =
            "/dev/sda1 / ext4 rw 0 0\nhost:/x /mnt/share\\040d nfs4 rw 0 0\n/dev/sdb /mnt/share\\040d/in ext4 rw 0 0\n";
        let on = |path: &str| network_mount_in(mounts, Path::new(path));
        assert_eq!(on("/mnt/share d/app.db").as_deref(), Some("nfs4"));
        assert_eq!(on("/mnt/share d/in/app.db"), None);
        assert_eq!(on("/mnt/share dx/app.db"), None);
        assert_eq!(on("/var/app.db"), None);
    }

    #[test]
    fn a_read_only_mount_is_told_from_one_that_is_only_like_it() {
        let mounts = "/dev/sda1 / ext4 rw,errors=remount-ro 0 0\n/dev/sdb /mnt ext4 ro,noatime 0 0\n\
                      /dev/sdc /mnt/in ext4 rw 0 0\n";
        let on = |path: &str| is_read_only_in(mounts, Path::new(path));
        assert!(!on("/var/app.db"));
        assert!(on("/mnt/app.db"));
        assert!(!on("/mnt/in/app.db"));
    }
}
