//! A database file that others hold, damage, or made with another version: what ferroq does to it, and what it leaves
//! alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::{Client, ClientError};
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{ErrorKind, FailReason, Job, JobId, JobState, QueueName};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{Effect, ErrorCode, JobFilter, Storage};
use ferroq_core::worker::Worker;
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::audit;
use ferroq_tests::store;
use ferroq_tests::wait::{until, within};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, SqliteConnection, SqlitePool};

const QUEUE: &str = "work";

#[derive(Serialize, Deserialize)]
struct Plain {
    n: usize,
}

impl Job for Plain {
    const NAME: &'static str = "test.plain";
    const QUEUE: &'static str = QUEUE;
    type Output = usize;
}

async fn plain(job: Plain, _cx: Context) -> JobResult<usize> {
    Ok(job.n)
}

fn queue() -> QueueName {
    QueueName::new(QUEUE).expect("a name")
}

async fn outside_lock(how: &'static str) {
    let directory = store::directory();
    let db = store::db_in(&directory);
    let options = SqliteOptions::new(&db).busy_timeout(Duration::from_millis(30));
    let storage: Arc<dyn Storage> = Arc::new(SqliteStorage::open(options).await.expect("open"));
    let client = Client::new(storage.clone());
    let handles = client.enqueue_all((0..10).map(|n| Plain { n })).await.expect("enqueue");
    let mut outside = SqliteConnection::connect(&format!("sqlite:{}", db.display())).await.expect("connect");
    sqlx::raw_sql(how).execute(&mut outside).await.expect("the outside lock");

    let error = client.enqueue(Plain { n: 99 }).await.expect_err("it is locked");
    let ClientError::Storage(error) = error else { panic!("{error}") };
    assert_eq!((error.code(), error.effect(), error.is_retryable()), (ErrorCode::Busy, Effect::None, true), "{error}");
    assert!(error.to_string().contains("busy_timeout"), "it says what to do: {error}");
    // Reading goes on beside the lock, and shows that nothing came of it.
    assert_eq!(client.queue(QUEUE).expect("a name").counts().await.expect("counts").waiting, 10);

    let worker =
        Worker::new(&client).poll_interval(Duration::from_millis(20)).handle(plain).start().await.expect("start");
    // The worker meets the lock as well: several of our own calls time out meanwhile.
    for _ in 0..5 {
        client.enqueue(Plain { n: 99 }).await.expect_err("it is still locked");
    }
    let counts = client.queue(QUEUE).expect("a name").counts().await.expect("counts");
    assert_eq!((counts.waiting, counts.active), (10, 0), "nothing was claimed beside the lock");
    sqlx::raw_sql("ROLLBACK").execute(&mut outside).await.expect("the lock ends");
    for handle in &handles {
        within("the worker goes on", handle.wait()).await.expect("it completes");
    }
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.lost), (10, 0));
    let dump = audit(storage.as_ref(), &queue()).await;
    assert_eq!(dump.jobs.len(), 10, "no refused job is there after all");
    client.close().await;
}

#[tokio::test]
async fn an_immediate_lock_longer_than_the_busy_timeout_is_sat_out() {
    outside_lock("BEGIN IMMEDIATE").await;
}

#[tokio::test]
async fn an_exclusive_lock_longer_than_the_busy_timeout_is_sat_out() {
    outside_lock("BEGIN EXCLUSIVE").await;
}

async fn damage(app: &SqlitePool, id: JobId, what: &str) {
    let sql = format!("UPDATE ferroq_jobs SET {what} WHERE id = ?");
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.as_bytes().to_vec());
    assert_eq!(query.execute(app).await.expect(what).rows_affected(), 1, "{what}");
}

/// What may be wrong with a Waiting row so that it can't be run.
const DAMAGES: [&str; 9] = [
    "extra = x'7b22'",
    "extra = CAST('{\"options\":{\"max_attempts\":\"many\"}}' AS BLOB)",
    "extra = CAST('{\"lane\":\"{\"}' AS BLOB)",
    "format = 256 + 99",
    "format = -1",
    "priority = 1000",
    "kind = 999999",
    "id = x'0102'",
    // The notes may hold a checkpoint; to run without it could repeat what it guards.
    "notes = x'ff00'",
];

#[tokio::test]
async fn a_damaged_row_is_quarantined_and_the_worker_goes_on_with_the_others() {
    let directory = store::directory();
    let db = store::db_in(&directory);
    let client = Client::new(Arc::new(store::sqlite(&db).await));
    let app = store::app(&db).await;
    let mut good = Vec::new();
    for (n, what) in DAMAGES.iter().enumerate() {
        let bad = client.enqueue(Plain { n: 1000 + n }).tag("bad").await.expect("enqueue");
        damage(&app, bad.id(), what).await;
        good.push(client.enqueue(Plain { n }).await.expect("enqueue"));
    }
    let report = within("the worker goes on", Worker::new(&client).handle(plain).run_until_idle()).await.expect("run");
    assert_eq!((report.completed, report.failed), (DAMAGES.len() as u64, 0), "what is unreadable is not run");
    for (n, handle) in good.iter().enumerate() {
        assert_eq!(handle.wait().await.expect("it completes"), n);
    }
    let failed = client.queue(QUEUE).expect("a name").all(JobFilter::states([JobState::Failed])).await.expect("list");
    assert_eq!(failed.len(), DAMAGES.len(), "{failed:#?}");
    for record in &failed {
        assert_eq!(record.failure, Some(FailReason::Quarantined), "{record:#?}");
        assert_eq!(record.runs, 0);
        assert!(record.notes.errors.iter().any(|error| error.kind == ErrorKind::Quarantine), "{record:#?}");
        assert!(!record.spec.payload.is_empty(), "kept for whoever looks into it");
    }
    let counts = client.queue(QUEUE).expect("a name").counts().await.expect("counts");
    assert_eq!((counts.live(), counts.failed, counts.completed), (0, DAMAGES.len() as u64, DAMAGES.len() as u64));
    // An operator can get rid of them.
    let removed = client.queue(QUEUE).expect("a name").clean(JobState::Failed, Duration::ZERO).await.expect("clean");
    assert_eq!(removed, DAMAGES.len());
    client.close().await;
}

/// A job whose settings can't be read does not say which dedup key it holds, and once kept it for ever: each later job
/// under that key was dropped as its duplicate.
#[tokio::test]
async fn a_quarantined_job_frees_its_dedup_key_whatever_is_damaged() {
    let directory = store::directory();
    let db = store::db_in(&directory);
    let client = Client::new(Arc::new(store::sqlite(&db).await));
    let app = store::app(&db).await;
    for (key, what) in DAMAGES.iter().enumerate().filter(|(_, what)| !what.starts_with("id =")) {
        let job = |n| client.enqueue(Plain { n }).dedup(format!("key {key}"), DedupMode::UntilFinished);
        let bad = job(0).await.expect("enqueue");
        assert!(job(1).await.expect("enqueue").is_duplicate());
        damage(&app, bad.id(), what).await;
        within("the worker goes on", Worker::new(&client).handle(plain).run_until_idle()).await.expect("run");
        let again = job(2).await.expect("enqueue");
        assert!(!again.is_duplicate(), "{what}");
        within("the worker goes on", Worker::new(&client).handle(plain).run_until_idle()).await.expect("run");
        assert_eq!(again.wait().await.expect("it completes"), 2);
    }
    client.close().await;
}

#[tokio::test]
async fn a_row_in_no_state_at_all_holds_nobody_up() {
    let directory = store::directory();
    let db = store::db_in(&directory);
    let client = Client::new(Arc::new(store::sqlite(&db).await));
    let lost = client.enqueue(Plain { n: 0 }).await.expect("enqueue");
    // The three bits of the state in a place hold 7, which is none.
    damage(&store::app(&db).await, lost.id(), "place = place | (7 << 37)").await;
    let good = client.enqueue_all((1..4).map(|n| Plain { n })).await.expect("enqueue");
    let worker = Worker::new(&client).handle(plain).start().await.expect("start");
    for handle in &good {
        within("the worker goes on", handle.wait()).await.expect("it completes");
    }
    let record = lost.record().await.expect("record").expect("it can be looked at");
    assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::Quarantined)));
    worker.shutdown().await;
}

/// The names and bytes of all files in a directory.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).expect("the directory");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("the file"))
        })
        .collect()
}

#[tokio::test]
async fn a_database_of_a_newer_schema_is_refused_and_left_byte_for_byte() {
    let directory = store::directory();
    let db = store::db_in(&directory);
    let client = Client::new(Arc::new(store::sqlite(&db).await));
    client.enqueue(Plain { n: 1 }).await.expect("enqueue");
    client.close().await;
    let mut newer = SqliteConnection::connect(&format!("sqlite:{}", db.display())).await.expect("connect");
    let script = "UPDATE ferroq_meta SET value = 1000000 WHERE name = 'schema'";
    sqlx::raw_sql(script).execute(&mut newer).await.expect("a newer version");
    newer.close().await.expect("close");
    until("the log is gone", async || (contents(directory.path()).len() == 1).then_some(())).await;
    let before = contents(directory.path());
    let error = SqliteStorage::open(SqliteOptions::new(&db)).await.expect_err("a newer schema");
    assert_eq!((error.code(), error.effect(), error.is_retryable()), (ErrorCode::SchemaTooNew, Effect::None, false));
    assert!(error.to_string().contains("1000000") && error.to_string().contains("deploy"), "{error}");
    // A reader of a database in WAL mode leaves an empty log and an index of it; there is nothing in them.
    let after = contents(directory.path());
    let beside: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert!(beside.iter().all(|name| name.ends_with("-shm") || after[*name].is_empty()), "{beside:?}");
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "not a byte has changed");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_byte_for_byte() {
    let directory = store::directory();
    let db = store::db_in(&directory);
    for bytes in [b"this is a letter to my aunt\n".repeat(200), vec![0xff; 5], vec![b'x'; 4096]] {
        std::fs::write(&db, &bytes).expect("write");
        let error = SqliteStorage::open(SqliteOptions::new(&db)).await.expect_err("no database");
        assert_eq!((error.code(), error.effect()), (ErrorCode::Corrupt, Effect::None), "{error:?}");
        assert!(error.to_string().contains("not a SQLite database"), "{error}");
        assert_eq!(std::fs::read(&db).expect("the file"), bytes, "not a byte has changed");
    }
}

#[tokio::test]
async fn the_apps_own_tables_are_left_alone() {
    let directory = store::directory();
    let db = store::db_in(&directory);
    let script = "CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('Ada'); PRAGMA user_version = 42;
        CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY); INSERT INTO _sqlx_migrations VALUES (7);";
    let mut app = SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", db.display())).await.expect("connect");
    sqlx::raw_sql(script).execute(&mut app).await.expect("the app's tables");
    let client = Client::new(Arc::new(store::sqlite(&db).await));
    let handle = client.enqueue(Plain { n: 1 }).await.expect("enqueue");
    Worker::new(&client).handle(plain).run_until_idle().await.expect("run");
    handle.wait().await.expect("it completes");
    client.queue(QUEUE).expect("a name").obliterate(true).await.expect("obliterate");
    client.close().await;
    let (user,): (String,) = sqlx::query_as("SELECT name FROM users").fetch_one(&mut app).await.expect("the user");
    let (version,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(&mut app).await.expect("the version");
    let sql = "SELECT version FROM _sqlx_migrations";
    let (migration,): (i64,) = sqlx::query_as(sql).fetch_one(&mut app).await.expect("the migration");
    assert_eq!((user.as_str(), version, migration), ("Ada", 42, 7));
}
