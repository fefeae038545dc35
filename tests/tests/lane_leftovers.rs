//! Lanes come and go by the thousand (a lane for each user, say), so an emptied one must leave nothing behind but what its
//! limiter remembers, and that no longer than it counts. Looked at where it would pile up: in the file, and on the server.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{JobSpec, JobState, LaneClass, LaneKey};
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, Say, StartLimits};
use ferroq_core::policy::rate::Rate;
use ferroq_core::policy::retention::KeepFor;
use ferroq_core::storage::Act;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::{Fixture, Scene, SpecExt, TERM, completed, fail, settled};
use ferroq_tests::redis::server::{namespace, shared};
use ferroq_tests::store;
use sqlx::{ConnectOptions, Row, SqliteConnection};

const LANES: usize = 300;
const MINUTE: Duration = Duration::from_secs(60);

async fn configure(t: &Scene) {
    let each =
        LanePolicy { concurrency: Say::Limit(1), rate: Say::Limit(Rate::per_minute(3)), ..LanePolicy::default() };
    let total = StartLimits { concurrency: Some(1_000), rate: Some(Rate::per_minute(10_000)) };
    t.configure(|config| {
        config.lanes.classes.insert(LaneClass::new("user").expect("a class"), ClassPolicy { each, total });
    })
    .await;
}

fn job(t: &Scene, lane: usize) -> JobSpec {
    let job = t.spec().lane(&format!("user/{lane}")).crashes(1);
    job.options(|options| {
        options.keep.completed = KeepFor::Remove;
        options.keep.failed = KeepFor::Remove;
        options.keep.cancelled = KeepFor::Remove;
    })
}

/// Fills lanes and empties them, in every way.
async fn come_and_go(t: &Scene) {
    for lane in 0..LANES {
        let mut job = job(t, lane);
        if lane % 10 != 4 {
            // Only those that are to lose a lease run alone.
            job = job.crashes(3);
        }
        let id = t.put_one(job).await;
        match lane % 10 {
            0 => drop(t.act(id, Act::Cancel).await),
            1 => drop(t.act(id, Act::Remove).await),
            _ => {}
        }
    }
    loop {
        let answer = t.claim_as(t.asking(50)).await;
        for claim in &answer.claims {
            let lane: usize = claim.spec.lane.name().and_then(|name| name[5..].parse().ok()).expect("a number");
            match lane % 10 {
                2 => drop(t.settle(claim.lease, fail(MINUTE)).await),
                4 => {}
                _ => assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed)),
            }
        }
        if answer.claims.is_empty() && !answer.more {
            break;
        }
    }
    t.attend_for(TERM).await;
    assert_eq!(t.sweep(1_000).await.stalled, LANES / 10);
    t.attend_for(2 * MINUTE).await;
    loop {
        let claims = t.claim(50).await;
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
        }
    }
    assert_eq!(t.counts().await.live(), 0);
}

async fn forget(t: &Scene) {
    t.attend_for(2 * MINUTE).await;
    for _ in 0..LANES.div_ceil(50) + 1 {
        t.sweep(50).await;
    }
}

async fn rows(db: &mut SqliteConnection) -> Vec<(String, i64)> {
    let names = "SELECT name FROM sqlite_schema WHERE type='table' AND name LIKE 'ferroq!_%' ESCAPE '!' ORDER BY name";
    let mut counts = Vec::new();
    for row in sqlx::query(names).fetch_all(&mut *db).await.expect("the tables") {
        let name: String = row.get(0);
        // The log of events is capped by itself.
        if name != "ferroq_events" {
            let count = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {name}")));
            let count = count.fetch_one(&mut *db).await.expect("a count").get(0);
            counts.push((name, count));
        }
    }
    counts
}

#[tokio::test]
async fn emptied_lanes_leave_no_row_behind() {
    let directory = store::directory();
    let (db, clock) = (store::db_in(&directory), ManualClock::default());
    let storage = SqliteStorage::open(SqliteOptions::new(&db).clock(Arc::new(clock.clone()))).await.expect("open");
    let t = Scene::new(Fixture::new(Arc::new(storage), clock, directory));
    let mut app = sqlx::sqlite::SqliteConnectOptions::new().filename(&db).connect().await.expect("connect");
    configure(&t).await;
    t.run(job(&t, 0).crashes(3), completed()).await;
    forget(&t).await;
    let before = rows(&mut app).await;
    assert!(before.contains(&("ferroq_lanes".to_owned(), 0)), "{before:?}");
    come_and_go(&t).await;
    let remembered = rows(&mut app).await;
    let lanes = remembered.iter().find(|(name, _)| name == "ferroq_lanes").map(|(_, rows)| *rows);
    assert!(lanes.is_some_and(|rows| rows <= LANES as i64), "{remembered:?}");
    forget(&t).await;
    assert_eq!(rows(&mut app).await, before);
    come_and_go_under_changes(&t).await;
    forget(&t).await;
    assert_eq!(rows(&mut app).await, before);
}

/// Policies come and go, and limits are taken away while jobs run.
async fn come_and_go_under_changes(t: &Scene) {
    let lane = |n: usize| LaneKey::new(format!("user/{n}")).expect("a lane");
    let own = LanePolicy { weight: Some(2), concurrency: Say::Limit(2), ..LanePolicy::default() };
    for n in 0..40 {
        // With jobs and without, before they come and after.
        if n % 4 < 2 {
            t.storage().configure_lane(&t.queue, &lane(n), Some(own.clone())).await.expect("configure_lane");
        }
        if n % 4 > 0 {
            t.put([job(t, n).crashes(3), job(t, n).crashes(3)]).await;
        }
    }
    let first = t.claim(30).await;
    for n in (0..40).step_by(4) {
        t.storage().configure_lane(&t.queue, &lane(n), None).await.expect("configure_lane");
    }
    t.configure(|config| config.lanes.classes.clear()).await;
    for claim in first {
        assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
    }
    let second = t.claim(30).await;
    configure(t).await;
    let third = t.claim(30).await;
    for n in 0..40 {
        t.storage().configure_lane(&t.queue, &lane(n), None).await.expect("configure_lane");
    }
    for claim in second.into_iter().chain(third) {
        assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
    }
    while let [claim] = &t.claim(1).await[..] {
        assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
    }
    assert_eq!(t.counts().await.live(), 0);
}

/// Each key of the namespace with how much it holds, and the fields of `usage`.
fn sizes(namespace: &str) -> Vec<(String, String)> {
    let keys = shared().cli(&["KEYS", &format!("*{{{namespace}:*")]);
    let mut keys: Vec<&str> = keys.lines().collect();
    keys.sort_unstable();
    let size = |key: &str| {
        let command = match shared().cli(&["TYPE", key]).trim() {
            "hash" => "HLEN",
            "zset" => "ZCARD",
            "set" => "SCARD",
            "list" => "LLEN",
            "string" => "STRLEN",
            _ => return None,
        };
        Some((key.to_owned(), shared().cli(&[command, key]).trim().to_owned()))
    };
    // The log of events, a stream, is capped by itself; and answers go by their own time.
    keys.into_iter().filter(|key| !key.ends_with(":answers")).filter_map(size).collect()
}

#[tokio::test]
async fn emptied_lanes_leave_no_key_and_no_field_behind() {
    let (clock, namespace) = (ManualClock::default(), namespace());
    let options = RedisOptions::from_url(&shared().url()).expect("the server's URL").namespace(&namespace);
    let storage = RedisStorage::open(options.clock(Arc::new(clock.clone()))).await.expect("open");
    let t = Scene::new(Fixture::new(Arc::new(storage), clock, ()));
    configure(&t).await;
    t.run(job(&t, 0).crashes(3), completed()).await;
    forget(&t).await;
    let before = sizes(&namespace);
    assert!(!before.is_empty());
    come_and_go(&t).await;
    forget(&t).await;
    assert_eq!(sizes(&namespace), before);
    come_and_go_under_changes(&t).await;
    forget(&t).await;
    assert_eq!(sizes(&namespace), before);
}
