//! Hints across processes. While somebody listens, a connection of its own asks SQLite whether any other connection
//! committed (`PRAGMA data_version`), and only then looks at the queues listened to. A queue's row carries marks that
//! rise when jobs came into line or an operator changed something, so renewals and settlements of other processes wake
//! nobody. Asking means two hand-overs between threads, so most looks only read the log file's metadata: a commit
//! changes its size or its time. That opens no handle on a file of the database, which would drop SQLite's locks.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use ferroq_core::JobId;
use ferroq_core::storage::StorageError;
use sqlx::SqliteConnection;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::common::Common;
use crate::queue::{self, Queue};
use crate::script::Script;
use crate::unit::first_int;

/// How often to look while nothing happens, and for [`BUSY`] after something did: who works tends to work on.
const PERIOD: Duration = Duration::from_millis(8);
const PERIOD_BUSY: Duration = Duration::from_millis(2);
const BUSY: Duration = Duration::from_millis(50);
/// For how long after the log file changed to ask SQLite at every look. Its time is as coarse as the kernel's tick, at
/// most 10 ms, so within a tick a second commit may leave it as it is.
const COARSE: Duration = Duration::from_millis(12);
/// How often to ask at least, whatever the log file's metadata says: a file system may keep time worse than that.
const ASK: Duration = Duration::from_millis(100);
/// How long to wait before a lost connection is opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// Jobs that have not ended, of these ids, by `ferroq_jobs_by_id`; the state is in the place.
const LIVE: &str = "SELECT hex(id) FROM (SELECT unhex(value) AS wanted FROM json_each(?)) CROSS JOIN ferroq_jobs \
    INDEXED BY ferroq_jobs_by_id ON id=wanted WHERE (place>>37)&7<4";

/// Starts the watcher if none runs, as a task of the runtime that calls this.
pub(crate) fn ensure(common: &Arc<Common>) -> Option<Watcher> {
    common.listening.notify_one();
    if common.watched.swap(true, Ordering::AcqRel) {
        return None;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        common.watched.store(false, Ordering::Release);
        return None;
    };
    let task = runtime.spawn(run(Arc::downgrade(common))).abort_handle();
    Some(Watcher { task, common: Arc::downgrade(common) })
}

/// Ends the watcher when it is dropped, so that another handle may start one.
#[derive(Debug)]
pub(crate) struct Watcher {
    task: AbortHandle,
    common: Weak<Common>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(common) = self.common.upgrade() {
            common.watched.store(false, Ordering::Release);
        }
    }
}

async fn run(common: Weak<Common>) {
    let mut conn = None;
    let mut version = None;
    let mut log = Log::default();
    loop {
        let Some(common) = common.upgrade() else { return };
        if common.hub.listened().is_empty() && common.hub.watched().is_empty() {
            conn = None;
            common.listening.notified().await;
            continue;
        }
        let now = Instant::now();
        if conn.is_some() && !log.may_have_changed(&common, now) {
            drop(common);
            tokio::time::sleep(log.period(now)).await;
            continue;
        }
        match look(&common, &mut conn, &mut version).await {
            Ok(()) => {
                log.asked_at = Some(now);
                drop(common);
                tokio::time::sleep(log.period(now)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "changes by other processes can't be seen for now; polling goes on");
                conn = None;
                tokio::time::sleep(REOPEN).await;
            }
        }
    }
}

/// What the metadata of SQLite's log file (`-wal`) tells about commits.
#[derive(Debug, Default)]
struct Log {
    path: Option<PathBuf>,
    found: Option<(u64, SystemTime)>,
    changed_at: Option<Instant>,
    asked_at: Option<Instant>,
}

impl Log {
    /// Whether somebody may have committed since SQLite was last asked.
    fn may_have_changed(&mut self, common: &Common, now: Instant) -> bool {
        let path = self.path.get_or_insert_with(|| {
            // SQLite puts it beside the file itself, not beside a link to it.
            let file = common.options.path.canonicalize().unwrap_or_else(|_| common.options.path.clone());
            let mut path = file.into_os_string();
            path.push("-wal");
            path.into()
        });
        let found = std::fs::metadata(path).ok().and_then(|found| Some((found.len(), found.modified().ok()?)));
        if found != self.found {
            self.found = found;
            self.changed_at = Some(now);
        }
        let within = |at: Option<Instant>, span| at.is_some_and(|at| now.duration_since(at) < span);
        found.is_none() || within(self.changed_at, COARSE) || !within(self.asked_at, ASK)
    }

    fn period(&self, now: Instant) -> Duration {
        if self.changed_at.is_some_and(|at| now.duration_since(at) < BUSY) { PERIOD_BUSY } else { PERIOD }
    }
}

async fn look(
    common: &Common,
    conn: &mut Option<SqliteConnection>,
    version: &mut Option<i64>,
) -> Result<(), StorageError> {
    let fresh = conn.is_none();
    let conn = match conn {
        Some(conn) => conn,
        None => conn.insert(crate::open::reader(&common.options).await?),
    };
    let mut script = Script::default();
    script.add("PRAGMA data_version", []);
    let answers = script.run(conn, 0).await.map_err(crate::error::storage_error)?;
    let found = answers.first().and_then(|rows| first_int(rows));
    if !fresh && found == *version {
        return Ok(());
    }
    *version = found;
    let queues = common.hub.listened();
    let watched = common.hub.watched();
    let mut script = Script::default();
    for queue in &queues {
        script.add(queue::READ, [queue.as_str().into()]);
    }
    if !watched.is_empty() {
        script.add(LIVE, [crate::record::ids_json(&watched).into()]);
    }
    let answers = script.run(conn, 0).await.map_err(crate::error::storage_error)?;
    for (queue, rows) in queues.iter().zip(&answers) {
        // A queue that is not there yet has no marks, so that its first job is a rise.
        let marks = match rows.first() {
            Some(row) => Queue::read(queue, row, &common.names)?.marks(),
            None => (0, 0),
        };
        match common.see(queue, marks) {
            (_, true) => common.hub.control(queue),
            (true, false) => common.work(queue),
            (false, false) => {}
        }
    }
    if !watched.is_empty() {
        let live = answers.last().map(|rows| rows.iter().filter_map(live_id).collect::<Vec<_>>()).unwrap_or_default();
        common.hub.ended(watched.into_iter().filter(|id| !live.contains(id)));
    }
    Ok(())
}

fn live_id(row: &sqlx::sqlite::SqliteRow) -> Option<JobId> {
    sqlx::Row::try_get::<String, _>(row, 0).ok()?.parse().ok()
}
