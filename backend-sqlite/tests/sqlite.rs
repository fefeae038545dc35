//! What is particular to SQLite: which files are refused, what else is in them, the app's own transactions, group commit
//! and damaged rows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{
    DedupKey, FailReason, JobKind, JobSpec, JobState, LaneKey, Payload, Priority, QueueName, WorkerId,
};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::storage::{
    Act, ActRequest, ClaimAnswer, ClaimSpec, Control, EnqueueAnswer, EnqueueRequest, ErrorCode, EventLog, Inspect,
    JobFilter, Jobs, Outcome, Selection, SettleAnswer, Settlement, Storage, StorageError, StorageExt, SweepRequest,
    Transfer,
};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use tempfile::TempDir;

fn queue() -> QueueName {
    QueueName::new("emails").expect("a name")
}

fn job() -> Arc<JobSpec> {
    Arc::new(JobSpec::new(queue(), JobKind::new("welcome").expect("a name"), Payload::json("{}")))
}

fn request(jobs: Vec<Arc<JobSpec>>) -> EnqueueRequest {
    EnqueueRequest { call: None, queue: queue(), jobs }
}

async fn store() -> (TempDir, SqliteStorage) {
    let directory = tempfile::tempdir().expect("a directory");
    let options = SqliteOptions::new(directory.path().join("app.db")).clock(Arc::new(ManualClock::default()));
    let storage = SqliteStorage::open(options).await.expect("it opens");
    (directory, storage)
}

async fn app(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(directory.join("app.db")).create_if_missing(true);
    options.connect().await.expect("the app's connection")
}

async fn sql(conn: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(conn).await.expect(sql);
}

async fn claim(storage: &SqliteStorage, max_items: usize) -> ClaimAnswer {
    let claim = ClaimSpec {
        kinds: Arc::from([JobKind::new("welcome").expect("a name")]),
        max_items,
        max_bytes: 1 << 20,
        term: Duration::from_secs(30),
        worker: WorkerId::new("w").expect("a name"),
        alone: false,
    };
    storage.claim(None, &queue(), claim).await.expect("a claim")
}

async fn refusal(options: SqliteOptions) -> StorageError {
    SqliteStorage::open(options).await.expect_err("it must be refused")
}

#[tokio::test]
async fn a_database_of_a_newer_schema_is_refused_untouched() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut conn = app(directory.path()).await;
    sql(&mut conn, "CREATE TABLE ferroq_meta (name TEXT PRIMARY KEY, value INTEGER)").await;
    sql(&mut conn, "INSERT INTO ferroq_meta VALUES ('schema', 99)").await;
    conn.close().await.expect("closed");
    let before = std::fs::read(directory.path().join("app.db")).expect("the file");
    let error = refusal(SqliteOptions::new(directory.path().join("app.db"))).await;
    assert_eq!(error.code(), ErrorCode::SchemaTooNew);
    assert_eq!(std::fs::read(directory.path().join("app.db")).expect("the file"), before);
}

#[tokio::test]
async fn what_is_no_database_file_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| SqliteOptions::new(directory.path().join(name));
    assert_eq!(refusal(SqliteOptions::new(directory.path())).await.code(), ErrorCode::Unavailable);
    assert_eq!(refusal(SqliteOptions::new(":memory:")).await.code(), ErrorCode::Invalid);
    assert_eq!(refusal(at("missing/app.db")).await.code(), ErrorCode::Unavailable);
    assert_eq!(refusal(at("app.db").create_if_missing(false)).await.code(), ErrorCode::Unavailable);
    std::fs::write(directory.path().join("text.db"), "this is a text and no database ".repeat(100)).expect("written");
    assert_eq!(refusal(at("text.db")).await.code(), ErrorCode::Corrupt);
    std::fs::write(directory.path().join("locked.db"), "").expect("written");
    let mut permissions = std::fs::metadata(directory.path().join("locked.db")).expect("the file").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(directory.path().join("locked.db"), permissions).expect("set");
    assert_eq!(refusal(at("locked.db")).await.code(), ErrorCode::ReadOnly);
}

#[tokio::test]
async fn the_apps_tables_are_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut conn = app(directory.path()).await;
    sql(&mut conn, "CREATE TABLE _sqlx_migrations (version INTEGER)").await;
    sql(&mut conn, "CREATE TABLE jobs (x INTEGER)").await;
    let storage = SqliteStorage::open(SqliteOptions::new(directory.path().join("app.db"))).await.expect("it opens");
    storage.enqueue(request(vec![job()])).await.expect("enqueued");
    let names =
        "SELECT name FROM sqlite_master WHERE name NOT LIKE 'ferroq_%' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let rows = sqlx::query(names).fetch_all(&mut conn).await.expect("the tables");
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["_sqlx_migrations", "jobs"]);
    storage.close().await;
}

#[tokio::test]
async fn what_the_app_rolls_back_never_was_and_what_it_commits_is() {
    let (directory, storage) = store().await;
    let mut conn = app(directory.path()).await;
    // The first time, so that the queue's and the kind's numbers are rolled back as well.
    sql(&mut conn, "BEGIN IMMEDIATE").await;
    assert_eq!(storage.enqueue_in(&mut conn, &[job()]).await.expect("enqueued"), [EnqueueAnswer::Inserted]);
    sql(&mut conn, "ROLLBACK").await;
    assert_eq!(storage.counts(&queue()).await.expect("counts").waiting, 0);

    sql(&mut conn, "BEGIN IMMEDIATE").await;
    storage.enqueue_in(&mut conn, &[job()]).await.expect("enqueued");
    sql(&mut conn, "COMMIT").await;
    let lease = claim(&storage, 10).await.claims[0].lease;

    let settlement = || Settlement { lease, outcome: Outcome::Completed { result: None }, follow_ups: vec![] };
    sql(&mut conn, "BEGIN IMMEDIATE").await;
    storage.settle_in(&mut conn, &queue(), vec![settlement()]).await.expect("settled");
    sql(&mut conn, "ROLLBACK").await;
    assert_eq!(storage.counts(&queue()).await.expect("counts").active, 1);
    sql(&mut conn, "BEGIN IMMEDIATE").await;
    let answers = storage.settle_in(&mut conn, &queue(), vec![settlement()]).await.expect("settled");
    sql(&mut conn, "COMMIT").await;
    assert!(matches!(answers[0], SettleAnswer::Settled { state: JobState::Completed, .. }));
    let again = storage.settle(None, &queue(), vec![settlement()]).await.expect("settled");
    assert_eq!(again, [SettleAnswer::AlreadyDone]);
}

#[tokio::test]
async fn a_locked_database_answers_busy_and_the_next_call_succeeds() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = SqliteOptions::new(directory.path().join("app.db")).busy_timeout(Duration::from_millis(1));
    let storage = SqliteStorage::open(options).await.expect("it opens");
    let mut conn = app(directory.path()).await;
    sql(&mut conn, "BEGIN IMMEDIATE").await;
    let error = storage.enqueue(request(vec![job()])).await.expect_err("it is locked");
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::Busy, true));
    sql(&mut conn, "ROLLBACK").await;
    assert_eq!(storage.enqueue(request(vec![job()])).await.expect("enqueued"), [EnqueueAnswer::Inserted]);
}

#[tokio::test]
async fn calls_that_share_a_transaction_keep_their_own_answers() {
    let (_directory, storage) = store().await;
    let storage = Arc::new(storage);
    let first = job();
    let mut calls = Vec::new();
    for i in 0..200 {
        let (storage, first) = (storage.clone(), first.clone());
        calls.push(tokio::spawn(async move {
            let jobs = if i % 10 == 0 { vec![first] } else { vec![job(), job()] };
            storage.enqueue(request(jobs)).await.expect("enqueued")
        }));
    }
    let mut inserted = 0;
    for call in calls {
        inserted += call.await.expect("no panic").iter().filter(|a| **a == EnqueueAnswer::Inserted).count();
    }
    assert_eq!(inserted, 361);
    assert_eq!(storage.counts(&queue()).await.expect("counts").waiting, 361);
}

#[tokio::test]
async fn damaged_rows_are_quarantined_and_their_neighbours_are_not() {
    let (directory, storage) = store().await;
    let jobs: Vec<_> = (0..6).map(|_| job()).collect();
    let mut config = ferroq_core::storage::QueueConfig::default();
    config.dead_letter = Some(QueueName::new("dead").expect("a name"));
    storage.configure(&queue(), config).await.expect("configured");
    storage.enqueue(request(jobs.clone())).await.expect("enqueued");
    let mut conn = app(directory.path()).await;
    sql(&mut conn, "UPDATE ferroq_jobs SET extra=CAST('{bad' AS BLOB) WHERE key&255=1").await;
    sql(&mut conn, "UPDATE ferroq_jobs SET notes=x'ff' WHERE key&255=2").await;
    sql(&mut conn, "UPDATE ferroq_jobs SET format=77 WHERE key&255=3").await;
    sql(&mut conn, "UPDATE ferroq_jobs SET kind=999 WHERE key&255=4").await;
    sql(&mut conn, "UPDATE ferroq_jobs SET id=x'00' WHERE key&255=5").await;
    let answer = claim(&storage, 10).await;
    assert_eq!(answer.claims.iter().map(|claim| claim.lease.id).collect::<Vec<_>>(), [jobs[5].id]);
    let counts = storage.counts(&queue()).await.expect("counts");
    assert_eq!((counts.waiting, counts.active, counts.failed), (0, 1, 5));
    let record = storage.job(Some(&queue()), jobs[0].id).await.expect("a look").expect("the record");
    assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::Quarantined)));
    assert!(storage.events(&queue(), Default::default(), 100).await.expect("events").events.len() >= 12);
    // What can't be read can't be carried.
    assert_eq!(storage.queues().await.expect("queues"), [queue()]);
}

#[tokio::test]
async fn payloads_and_notes_of_any_length_come_back() {
    let (_directory, storage) = store().await;
    let mut jobs = Vec::new();
    for length in [0usize, 1, 16 * 1024, 16 * 1024 + 1, 1 << 20] {
        let payload = Payload::json(vec![b';'; length]);
        jobs.push(Arc::new(JobSpec::new(queue(), JobKind::new("welcome").expect("a name"), payload)));
    }
    storage.enqueue(request(jobs.clone())).await.expect("enqueued");
    let mut seen = Vec::new();
    for _ in &jobs {
        seen.extend(claim(&storage, 10).await.claims);
    }
    assert_eq!(seen.iter().map(|claim| claim.spec.clone()).collect::<Vec<_>>(), jobs);
    let result = Some(Payload::json(vec![b','; 100_000]));
    let outcome = Outcome::Completed { result: result.clone() };
    let settlement = Settlement { lease: seen[0].lease, outcome, follow_ups: vec![] };
    storage.settle(None, &queue(), vec![settlement]).await.expect("settled");
    let record = storage.job(None, jobs[0].id).await.expect("a look").expect("the record");
    assert_eq!(record.notes.result, result);
}

#[tokio::test]
async fn a_second_handle_outlives_the_first() {
    let (_directory, storage) = store().await;
    let second = storage.second_handle().await.expect("a second handle");
    storage.close().await;
    storage.close().await;
    assert_eq!(storage.enqueue(request(vec![job()])).await.expect_err("closed").code(), ErrorCode::Closed);
    assert_eq!(storage.counts(&queue()).await.expect_err("closed").code(), ErrorCode::Closed);
    assert_eq!(second.enqueue(request(vec![job()])).await.expect("enqueued"), [EnqueueAnswer::Inserted]);
}

#[tokio::test]
async fn another_process_is_heard() {
    let (directory, storage) = store().await;
    let other = SqliteStorage::open(SqliteOptions::new(directory.path().join("app.db"))).await.expect("it opens");
    storage.enqueue(request(vec![job()])).await.expect("enqueued");
    let mut signals = storage.signals(&queue());
    let listen = tokio::spawn(async move { signals.changed().await });
    while !listen.is_finished() {
        other.enqueue(request(vec![job()])).await.expect("enqueued");
        tokio::task::yield_now().await;
    }
    assert!(listen.await.expect("no panic").0);
}

fn held(key: usize) -> Arc<JobSpec> {
    let mut job = JobSpec::clone(&job());
    let key = DedupKey::new(format!("key {key}")).expect("a key");
    job.dedup = Some(Dedup { key, mode: DedupMode::For(Duration::from_secs(10)) });
    Arc::new(job)
}

/// Nothing removed holds that ran out, so a queue whose keys are hashes of payloads grew by a row for each, for ever.
#[tokio::test]
async fn a_sweep_removes_holds_that_ran_out_in_bounded_steps() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::default();
    let options = SqliteOptions::new(directory.path().join("app.db")).clock(Arc::new(clock.clone()));
    let storage = SqliteStorage::open(options).await.expect("it opens");
    storage.enqueue(request((0..3000).map(held).collect())).await.expect("enqueued");
    let keys = async || storage.dump(&queue(), None, 1).await.expect("a page").dedup.len();
    let sweep = async || storage.sweep(SweepRequest { queue: queue(), max_items: 500 }).await.expect("a sweep");
    clock.advance(Duration::from_secs(9));
    sweep().await;
    assert_eq!(keys().await, 3000, "they still hold");
    clock.advance(Duration::from_secs(1));
    assert!(!sweep().await.more, "no answer speaks of them");
    assert_eq!(keys().await, 2000);
    for _ in 0..2 {
        sweep().await;
        assert_eq!(keys().await, 1024, "a few are kept, in case the clock steps back");
    }
}

#[tokio::test]
async fn holds_that_ran_out_do_not_pile_up_where_nobody_sweeps() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::default();
    let options = SqliteOptions::new(directory.path().join("app.db")).clock(Arc::new(clock.clone()));
    let storage = SqliteStorage::open(options).await.expect("it opens");
    for call in 0..500 {
        storage.enqueue(request((8 * call..8 * call + 8).map(held).collect())).await.expect("enqueued");
        clock.advance(Duration::from_secs(1));
    }
    let left = storage.dump(&queue(), None, 1).await.expect("a page").dedup;
    assert!((80..=1024 + 80 + 256).contains(&left.len()), "{} of 4000", left.len());
}

/// A call that failed half way once left jobs without their counts in the app's transaction, for the app to commit.
#[tokio::test]
async fn after_an_error_the_apps_transaction_is_as_it_was_and_goes_on() {
    let (directory, storage) = store().await;
    storage.enqueue(request(vec![job()])).await.expect("enqueued");
    let lease = claim(&storage, 1).await.claims[0].lease;
    let mut conn = app(directory.path()).await;
    sql(&mut conn, "CREATE TABLE orders (number INTEGER)").await;
    // Enqueues and settlements fail at the queue's row, which is written after the jobs.
    sql(&mut conn, "CREATE TRIGGER fail BEFORE UPDATE ON ferroq_queues BEGIN SELECT abs(-9223372036854775808); END")
        .await;
    sql(&mut conn, "BEGIN IMMEDIATE").await;
    sql(&mut conn, "INSERT INTO orders VALUES (1)").await;
    storage.enqueue_in(&mut conn, &[job(), job()]).await.expect_err("it fails");
    let settlement = || Settlement { lease, outcome: Outcome::Completed { result: None }, follow_ups: vec![job()] };
    storage.settle_in(&mut conn, &queue(), vec![settlement()]).await.expect_err("it fails");
    sql(&mut conn, "DROP TRIGGER fail").await;
    storage.enqueue_in(&mut conn, &[job()]).await.expect("the transaction goes on");
    sql(&mut conn, "INSERT INTO orders VALUES (2)").await;
    sql(&mut conn, "COMMIT").await;
    let orders: i64 = sqlx::query("SELECT count(*) FROM orders").fetch_one(&mut conn).await.expect("the orders").get(0);
    assert_eq!(orders, 2);
    let counts = storage.counts(&queue()).await.expect("counts");
    assert_eq!((counts.waiting, counts.active, counts.completed), (1, 1, 0));
    let page = storage.dump(&queue(), None, 10).await.expect("a page");
    assert_eq!(page.jobs.len(), 2, "as many jobs as are counted: {page:#?}");
}

/// One call's own error once failed all calls that happened to share its transaction.
#[tokio::test]
async fn a_call_that_sqlite_refuses_fails_alone() {
    let (directory, storage) = store().await;
    let mut conn = app(directory.path()).await;
    sql(
        &mut conn,
        "CREATE TRIGGER fail BEFORE INSERT ON ferroq_jobs WHEN NEW.priority=7 BEGIN \
         SELECT abs(-9223372036854775808); END",
    )
    .await;
    let storage = Arc::new(storage);
    let mut calls = Vec::new();
    for i in 0..5 {
        let storage = storage.clone();
        let mut job = JobSpec::clone(&job());
        job.priority = Priority(if i == 2 { 7 } else { 0 });
        // Nothing runs before the first await below, so all of them are there when the writer looks.
        calls.push(tokio::spawn(async move { storage.enqueue(request(vec![Arc::new(job)])).await }));
    }
    for (i, call) in calls.into_iter().enumerate() {
        let answer = call.await.expect("no panic");
        assert_eq!(answer.is_ok(), i != 2, "{i}: {answer:?}");
    }
    assert_eq!(storage.counts(&queue()).await.expect("counts").waiting, 4);
}

/// The first job of a queue that was not there when the watcher looked was found by polling only.
#[tokio::test]
async fn the_first_job_of_a_new_queue_from_another_process_is_heard() {
    let (directory, storage) = store().await;
    let other = SqliteStorage::open(SqliteOptions::new(directory.path().join("app.db"))).await.expect("it opens");
    let new = QueueName::new("new").expect("a name");
    let (mut signals, mut signals_of_new) = (storage.signals(&queue()), storage.signals(&new));
    other.enqueue(request(vec![job()])).await.expect("enqueued");
    let heard = tokio::time::timeout(Duration::from_secs(20), signals.changed()).await.expect("a hint");
    assert!(heard.0, "whether or not the watcher looked before");
    // By now the watcher has seen that the other queue is not there.
    let mut first = JobSpec::clone(&job());
    first.queue = new.clone();
    let request = EnqueueRequest { call: None, queue: new, jobs: vec![Arc::new(first)] };
    other.enqueue(request).await.expect("enqueued");
    let heard = tokio::time::timeout(Duration::from_secs(20), signals_of_new.changed()).await.expect("a hint");
    assert!(heard.0);
}

/// An act by filter read every payload that it walked over, inside of the write transaction. Here they can't be read.
#[tokio::test]
async fn an_act_by_filter_reads_no_payloads() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.db");
    let storage = SqliteStorage::open(SqliteOptions::new(&path)).await.expect("it opens");
    let mut large = JobSpec::clone(&job());
    large.payload = Payload::json(vec![b'x'; 100_000]);
    storage.enqueue(request(vec![Arc::new(large.clone())])).await.expect("enqueued");
    storage.close().await;
    // A payload of this length stands in a chain of pages; the chain is cut by a link to a page that is not there.
    let mut bytes = std::fs::read(&path).expect("the file");
    let mut cut = 0;
    for page in bytes.chunks_mut(4096).filter(|page| page[4..].iter().all(|byte| *byte == b'x')) {
        page[..4].copy_from_slice(&[0x7f; 4]);
        cut += 1;
    }
    assert!(cut > 10);
    std::fs::write(&path, bytes).expect("written");

    let storage = SqliteStorage::open(SqliteOptions::new(&path)).await.expect("it opens");
    storage.job(None, large.id).await.expect_err("the payload can't be read");
    let filter = JobFilter { lane: Some(LaneKey::new("other").expect("a name")), ..JobFilter::default() };
    let on = Selection::Filter { filter, after: None, max_items: 10 };
    let report = storage.act(ActRequest { call: None, queue: queue(), on, act: Act::Cancel }).await.expect("a report");
    assert!(report.answers.is_empty());
}
