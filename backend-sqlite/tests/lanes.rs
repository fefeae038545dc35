//! Lanes as SQLite keeps them: what rows they leave behind, and credits across claims.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{JobKind, JobSpec, LaneKey, Payload, QueueName, WorkerId};
use ferroq_core::policy::lanes::{LanePolicy, LaneRules, Say};
use ferroq_core::storage::{
    Claim, ClaimAnswer, ClaimSpec, Control, EnqueueRequest, ExchangeRequest, Jobs, Outcome, QueueConfig, Settlement,
};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Row};
use tempfile::TempDir;

fn queue() -> QueueName {
    QueueName::new("emails").expect("a name")
}

fn lane(name: &str) -> LaneKey {
    LaneKey::new(name).expect("a name")
}

fn job(lane: LaneKey) -> Arc<JobSpec> {
    let mut spec = JobSpec::new(queue(), JobKind::new("welcome").expect("a name"), Payload::json("{}"));
    spec.lane = lane;
    Arc::new(spec)
}

async fn store() -> (TempDir, SqliteStorage) {
    let directory = tempfile::tempdir().expect("a directory");
    let options = SqliteOptions::new(directory.path().join("q.db")).clock(Arc::new(ManualClock::default()));
    let storage = SqliteStorage::open(options).await.expect("it opens");
    (directory, storage)
}

async fn put(storage: &SqliteStorage, jobs: Vec<Arc<JobSpec>>) {
    storage.enqueue(EnqueueRequest { call: None, queue: queue(), jobs }).await.expect("an enqueue");
}

/// Completes these jobs and claims as many more.
async fn exchange(storage: &SqliteStorage, done: Vec<Claim>, max_items: usize) -> Vec<Claim> {
    exchange_as(storage, done, max_items, false).await.claims
}

/// The same, alone or not; the whole answer.
async fn exchange_as(storage: &SqliteStorage, done: Vec<Claim>, max_items: usize, alone: bool) -> ClaimAnswer {
    let settle = |claim: Claim| Settlement {
        lease: claim.lease,
        outcome: Outcome::Completed { result: None },
        follow_ups: Vec::new(),
    };
    let claim = ClaimSpec {
        kinds: Arc::from([JobKind::new("welcome").expect("a name")]),
        max_items,
        max_bytes: 1 << 20,
        term: Duration::from_secs(30),
        worker: WorkerId::new("w").expect("a name"),
        alone,
    };
    let settlements = done.into_iter().map(settle).collect();
    let request = ExchangeRequest { call: None, queue: queue(), settlements, claim: Some(claim) };
    storage.exchange(request).await.expect("an exchange").claimed.expect("a claim")
}

async fn rows(directory: &TempDir) -> i64 {
    let options = SqliteConnectOptions::new().filename(directory.path().join("q.db"));
    let mut conn = options.connect().await.expect("a connection");
    sqlx::query("SELECT count(*) FROM ferroq_lanes").fetch_one(&mut conn).await.expect("a count").get(0)
}

#[tokio::test]
async fn a_thousand_lanes_take_turns_and_leave_no_row_behind() {
    let (directory, storage) = store().await;
    let jobs = (0..4000).map(|i| job(lane(&format!("user/{}", i / 4)))).collect();
    put(&storage, jobs).await;
    assert_eq!(rows(&directory).await, 1000);
    let rules = LaneRules { quantum: 1, ..LaneRules::default() };
    let mut config = QueueConfig::default();
    config.lanes = rules;
    storage.configure(&queue(), config).await.expect("it is configured");
    let (mut held, mut order) = (Vec::new(), Vec::new());
    loop {
        held = exchange(&storage, std::mem::take(&mut held), 100).await;
        if held.is_empty() {
            break;
        }
        order.extend(held.iter().map(|claim| claim.spec.lane.clone()));
    }
    let round: Vec<LaneKey> = (0..1000).map(|i| lane(&format!("user/{i}"))).collect();
    assert!(order.chunks(1000).all(|served| served == round), "every round serves every lane once, in their turn");
    assert_eq!((order.len(), rows(&directory).await), (4000, 0));
}

/// The default lane's first turn may be 0, as may be the turn below which credits are full again because their lane was
/// alone: a default lane that had begun its turn was once taken for one that had been alone, and got a new credit.
#[tokio::test]
async fn the_first_turn_of_all_keeps_its_credit() {
    let (_directory, storage) = store().await;
    let default = || job(LaneKey::DEFAULT);
    put(&storage, vec![default(), default(), default(), job(lane("a"))]).await;
    let first = exchange(&storage, Vec::new(), 1).await;
    assert!(first[0].spec.lane.is_default());
    let rules = LaneRules { quantum: 1, ..LaneRules::default() };
    let mut config = QueueConfig::default();
    config.lanes = rules;
    storage.configure(&queue(), config).await.expect("it is configured");
    let next = exchange(&storage, Vec::new(), 3).await;
    let lanes: Vec<LaneKey> = next.into_iter().map(|claim| claim.spec.lane.clone()).collect();
    assert_eq!(lanes, [LaneKey::DEFAULT, LaneKey::DEFAULT, lane("a")], "seven of eight were left of its turn");
}

#[tokio::test]
async fn policies_of_lanes_are_listed_in_the_order_of_keys_and_leave_with_the_last_thing_said() {
    let (directory, storage) = store().await;
    let paused = || Some(LanePolicy { paused: true, ..LanePolicy::default() });
    for key in [lane("b"), LaneKey::DEFAULT, lane("a")] {
        storage.configure_lane(&queue(), &key, paused()).await.expect("it is stored");
    }
    let keys = async |after: Option<&LaneKey>, max_items| {
        let found = storage.lane_policies(&queue(), after, max_items).await.expect("policies");
        found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys(None, 2).await, [LaneKey::DEFAULT, lane("a")]);
    assert_eq!(keys(Some(&lane("a")), 2).await, [lane("b")]);
    assert_eq!(keys(Some(&LaneKey::DEFAULT), 9).await, [lane("a"), lane("b")]);
    storage.configure_lane(&queue(), &lane("a"), None).await.expect("it is removed");
    assert_eq!((keys(None, 9).await.len(), rows(&directory).await), (2, 1));
}

fn in_each(concurrency: u32) -> QueueConfig {
    let each = LanePolicy { concurrency: Say::Limit(concurrency), ..LanePolicy::default() };
    let mut config = QueueConfig::default();
    config.lanes = LaneRules { every: each, ..LaneRules::default() };
    config
}

async fn damage(directory: &TempDir, extra: &str) {
    let options = SqliteConnectOptions::new().filename(directory.path().join("q.db"));
    let mut conn = options.connect().await.expect("a connection");
    let sql = "UPDATE ferroq_jobs SET extra=CAST(? AS BLOB) WHERE started_at IS NOT NULL AND finished_at IS NULL";
    let done = sqlx::query(sql).bind(extra).execute(&mut conn).await.expect("it is damaged");
    assert_eq!(done.rows_affected(), 1, "one job is Active");
}

/// The lane of a job whose rare parts can't be read, or say another lane by now, was once taken for one that still had that
/// job at work, and with a limit of one nothing of it ever started again.
#[tokio::test]
async fn a_running_job_whose_lane_is_damaged_gives_its_slot_back() {
    for extra in ["{bad", "{\"lane\":\"b\"}", "{}"] {
        let (directory, storage) = store().await;
        storage.configure(&queue(), in_each(1)).await.expect("it is configured");
        put(&storage, vec![job(lane("a")), job(lane("a"))]).await;
        let first = exchange(&storage, Vec::new(), 9).await;
        assert_eq!(first.len(), 1, "the lane has one slot");
        damage(&directory, extra).await;
        // A handle that remembers nothing of the job.
        let other = SqliteStorage::open(SqliteOptions::new(directory.path().join("q.db"))).await.expect("it opens");
        let next = exchange(&other, first, 9).await;
        let next = if next.is_empty() { exchange(&other, Vec::new(), 9).await } else { next };
        assert_eq!(next.len(), 1, "after {extra}");
        assert!(exchange(&other, next, 9).await.is_empty());
        assert_eq!(rows(&directory).await, 0, "after {extra}");
    }
}

#[tokio::test]
async fn jobs_at_work_before_their_lanes_had_a_limit_count_under_it() {
    let (directory, storage) = store().await;
    put(&storage, (0..4).map(|_| job(lane("a"))).collect()).await;
    let mut held = exchange(&storage, Vec::new(), 2).await;
    storage.configure(&queue(), in_each(2)).await.expect("it is configured");
    assert!(exchange(&storage, Vec::new(), 2).await.is_empty(), "two of the lane are at work");
    let last = held.pop().expect("two");
    assert_eq!(exchange(&storage, vec![last], 2).await.len(), 1);
    storage.configure(&queue(), QueueConfig::default()).await.expect("it is configured");
    assert_eq!(exchange(&storage, held, 2).await.len(), 1);
    assert_eq!(rows(&directory).await, 1, "the limit's counts last while jobs are at work");
}

#[tokio::test]
async fn a_poll_of_lanes_that_are_all_set_aside_waits_for_no_writer() {
    let (directory, storage) = store().await;
    let paused = LanePolicy { paused: true, ..LanePolicy::default() };
    storage.configure_lane(&queue(), &lane("a"), Some(paused)).await.expect("it is stored");
    put(&storage, vec![job(lane("a"))]).await;
    assert!(exchange(&storage, Vec::new(), 1).await.is_empty(), "the lane is set aside");
    let options = SqliteConnectOptions::new().filename(directory.path().join("q.db"));
    let mut conn = options.connect().await.expect("a connection");
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await.expect("a writer's lock");
    assert!(exchange(&storage, Vec::new(), 1).await.is_empty());
    sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.expect("the lock's end");
}

/// A worker that is alone asks for solo jobs at every poll. As long as they are all held back, that takes nothing from others.
#[tokio::test]
async fn a_poll_of_solo_jobs_that_are_all_held_back_waits_for_no_writer() {
    let (directory, storage) = store().await;
    let paused = LanePolicy { paused: true, ..LanePolicy::default() };
    storage.configure_lane(&queue(), &lane("a"), Some(paused)).await.expect("it is stored");
    let mut solo = JobSpec::clone(&job(lane("a")));
    Arc::make_mut(&mut solo.options).max_crashes = 1;
    put(&storage, vec![Arc::new(solo), job(lane("a"))]).await;
    assert!(exchange(&storage, Vec::new(), 1).await.is_empty(), "the lane is set aside");
    let options = SqliteConnectOptions::new().filename(directory.path().join("q.db"));
    let mut conn = options.connect().await.expect("a connection");
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await.expect("a writer's lock");
    for alone in [false, true] {
        let answer = exchange_as(&storage, Vec::new(), 1, alone).await;
        assert_eq!(answer, ClaimAnswer { solo_held: true, ..ClaimAnswer::default() });
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.expect("the lock's end");
    storage.configure_lane(&queue(), &lane("a"), None).await.expect("it is stored");
    assert!(exchange_as(&storage, Vec::new(), 1, true).await.claims[0].solo);
}
