//! Lanes come and go by the thousand (a lane for each user, say), so an emptied one must leave nothing behind but what its
//! limiter remembers, and that no longer than it counts; and so do their batches, however they end. Looked at where it
//! would pile up: in the file, and on the server.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{JobSpec, JobState, LaneClass, LaneKey};
use ferroq_core::policy::batch::BatchGate;
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, Say, StartLimits};
use ferroq_core::policy::rate::Rate;
use ferroq_core::policy::retention::KeepFor;
use ferroq_core::storage::{Act, Claim, MembersAnswer, MembersRequest, Outcome};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::{Fixture, Scene, SpecExt, TERM, abort, completed, fail, released, settled};
use ferroq_tests::redis::server::{namespace, shared};
use ferroq_tests::store;
use sqlx::{ConnectOptions, Row, SqliteConnection};

const LANES: usize = 300;
/// Of lanes whose jobs run in batches.
const GATED: usize = 40;
/// Jobs in each of those: a batch of three and one of two.
const GATED_JOBS: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

async fn configure(t: &Scene) {
    let each =
        LanePolicy { concurrency: Say::Limit(1), rate: Say::Limit(Rate::per_minute(3)), ..LanePolicy::default() };
    let gated = LanePolicy { batch: Say::Limit(BatchGate::new(3, MINUTE)), ..each.clone() };
    let total = StartLimits { concurrency: Some(1_000), rate: Some(Rate::per_minute(10_000)) };
    t.configure(|config| {
        for (class, each) in [("user", each), ("gated", gated)] {
            let policy = ClassPolicy { each, total: total.clone() };
            config.lanes.classes.insert(LaneClass::new(class).expect("a class"), policy);
        }
    })
    .await;
}

fn job(t: &Scene, lane: usize) -> JobSpec {
    leaving_nothing(t.spec().lane(&format!("user/{lane}")).crashes(1))
}

/// A job whose record goes with its end.
fn leaving_nothing(job: JobSpec) -> JobSpec {
    job.options(|options| {
        options.keep.completed = KeepFor::Remove;
        options.keep.failed = KeepFor::Remove;
        options.keep.cancelled = KeepFor::Remove;
    })
}

/// Makes a queue note, once, what it keeps for good: its last numbers, and how far sweeps have looked through many batches.
/// The lanes are none of those that come later.
async fn begin(t: &Scene) {
    t.run(job(t, LANES).crashes(3), completed()).await;
    t.put((0..3 * GATED).map(|n| gated(t, GATED + n % GATED))).await;
    drain(t).await;
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
    begin(&t).await;
    forget(&t).await;
    let before = rows(&mut app).await;
    for table in ["ferroq_lanes", "ferroq_batches"] {
        assert!(before.contains(&(table.to_owned(), 0)), "{before:?}");
    }
    come_and_go(&t).await;
    let remembered = rows(&mut app).await;
    let lanes = remembered.iter().find(|(name, _)| name == "ferroq_lanes").map(|(_, rows)| *rows);
    assert!(lanes.is_some_and(|rows| rows <= LANES as i64), "{remembered:?}");
    forget(&t).await;
    assert_eq!(rows(&mut app).await, before);
    come_and_go_under_changes(&t).await;
    forget(&t).await;
    assert_eq!(rows(&mut app).await, before);
    for changes in [false, true] {
        batches_come_and_go(&t, changes).await;
        forget(&t).await;
        assert_eq!(rows(&mut app).await, before);
    }
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

fn gated(t: &Scene, lane: usize) -> JobSpec {
    leaving_nothing(t.spec().lane(&format!("gated/{lane}")).crashes(3))
}

async fn members(t: &Scene, leader: &Claim) -> Vec<Claim> {
    let (queue, lease) = (t.queue.clone(), leader.lease);
    let request = MembersRequest { queue, lease, after: None, max_items: 100, max_bytes: usize::MAX };
    match t.storage().members(request).await.expect("members") {
        MembersAnswer::Page(page) => page.members,
        lost => panic!("{lost:?}"),
    }
}

/// Opens batches and ends them, in every way; changes the gates while they run and wait, if it is to.
async fn batches_come_and_go(t: &Scene, changes: bool) {
    for lane in 0..GATED {
        t.put((0..GATED_JOBS).map(|_| gated(t, lane))).await;
    }
    let leaders = t.claim(GATED).await;
    assert_eq!(leaders.len(), GATED, "one place a lane");
    if changes {
        t.configure(|config| config.lanes.classes.clear()).await;
    }
    for (way, leader) in leaders.iter().enumerate() {
        let batch = members(t, leader).await;
        assert_eq!(batch.len(), 2);
        end(t, way % 10, leader, &batch).await;
    }
    t.attend_for(TERM).await;
    assert_eq!(t.sweep(1_000).await.stalled, GATED / 10);
    if changes {
        let alone = t.claim(GATED).await;
        assert!(alone.iter().any(|claim| claim.batch.is_none()), "no gate");
        configure(t).await;
        for claim in alone {
            assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
        }
    }
    drain(t).await;
}

/// One of ten ways in which a batch ends, or goes on.
async fn end(t: &Scene, way: usize, leader: &Claim, batch: &[Claim]) {
    let [first, second] = [0, 1].map(|place| batch[place].lease);
    let leader = leader.lease;
    let (members, its): (&[Outcome], Option<Outcome>) = match way {
        0 => (&[completed(), completed()], Some(completed())),
        1 => (&[fail(MINUTE), released()], Some(completed())),
        // The others go on under one of them.
        2 => (&[], Some(completed())),
        3 => (&[completed()], Some(abort())),
        4 => (&[], Some(fail(MINUTE))),
        5 | 6 => (&[], Some(released())),
        7 => (&[abort(), Outcome::Cancelled], Some(fail(MINUTE))),
        // Its lease runs out.
        8 => (&[], None),
        // Its members leave it.
        _ => (&[], Some(completed())),
    };
    if way == 9 {
        t.act(first.id, Act::Cancel).await;
        t.act(second.id, Act::Remove).await;
    }
    for (lease, outcome) in [first, second].into_iter().zip(members) {
        t.settle(lease, outcome.clone()).await;
    }
    if let Some(outcome) = its {
        t.settle(leader, outcome).await;
    }
    match way {
        5 => drop(t.act(leader.id, Act::Cancel).await),
        6 => drop(t.act(leader.id, Act::Remove).await),
        _ => {}
    }
}

/// Runs what is left, batch by batch, until nothing is.
async fn drain(t: &Scene) {
    for _ in 0..20 {
        t.attend_for(MINUTE).await;
        t.sweep(1_000).await;
        let leaders = t.claim(GATED).await;
        t.sweep(1_000).await;
        for leader in leaders {
            if leader.batch.is_some() {
                for member in members(t, &leader).await {
                    assert_eq!(t.settle(member.lease, completed()).await, settled(JobState::Completed));
                }
            }
            assert_eq!(t.settle(leader.lease, completed()).await, settled(JobState::Completed));
        }
        if t.counts().await.live() == 0 {
            return;
        }
    }
    panic!("{:?} are left", t.counts().await);
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
    begin(&t).await;
    forget(&t).await;
    let before = sizes(&namespace);
    assert!(!before.is_empty());
    assert!(!before.iter().any(|(key, _)| key.ends_with(":batches")), "{before:?}");
    come_and_go(&t).await;
    forget(&t).await;
    assert_eq!(sizes(&namespace), before);
    come_and_go_under_changes(&t).await;
    forget(&t).await;
    assert_eq!(sizes(&namespace), before);
    for changes in [false, true] {
        batches_come_and_go(&t, changes).await;
        forget(&t).await;
        assert_eq!(sizes(&namespace), before);
    }
}
