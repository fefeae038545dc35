//! Limiters under several processes, of which some are killed; under answers that are lost; and what is left of them when
//! nobody asks any more.
#![cfg(unix)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferroq_core::client::{Client, ClientError};
use ferroq_core::clock::{Clock, ManualClock, Timestamp};
use ferroq_core::job::LimiterName;
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{AcquireRequest, ErrorCode, Limits};
use ferroq_memory::MemoryStorage;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use ferroq_tests::child::Child;
use ferroq_tests::limits::{Given, Order, Place, check, read};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::proxy::{Mode, Proxy};
use ferroq_tests::redis::server::{Server, namespace, shared};
use ferroq_tests::store;
use ferroq_tests::wait::{until_so, within};
use sqlx::{ConnectOptions, Row};

const CHILD: &str = env!("CARGO_BIN_EXE_limit_child");
/// How many processes are killed, each after so many answers that gave permits.
const KILLS: usize = 12;
const ANSWERS_A_KILL: usize = 15;

fn permits_of(trace: &Path) -> usize {
    read(trace).len()
}

/// Three processes at a time ask one limiter; one after another is killed, and another takes its place.
async fn killed_callers_get_no_more_than_the_limit(place: Place, trace: &Path) {
    let order = Order { place, limiter: "shared".into(), limit: 10, window_ms: 100, trace: trace.to_owned() };
    let client = order.client().await;
    let mut children = Vec::new();
    for _ in 0..3 {
        children.push(Child::spawn(CHILD, &order));
    }
    for kill in 0..KILLS {
        let target = (kill + 1) * ANSWERS_A_KILL;
        until_so("permits are given", || permits_of(trace) >= target).await;
        children.remove(0).kill().await;
        children.push(Child::spawn(CHILD, &order));
    }
    for mut child in children {
        child.kill().await;
    }
    let given = read(trace);
    assert_eq!(check(order.limit, order.window(), &given), Ok(()));
    // Nobody who was killed keeps anything: once a window has passed, all of it can be had again.
    let limiter = client.limiter(&order.limiter, order.rate());
    let answer = within("the limiter is free", limiter.until_granted(10, Duration::from_secs(30))).await;
    assert!(answer.expect("acquire").granted);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_killed_on_sqlite_leave_no_permit_taken_and_none_doubled() {
    let directory = store::directory();
    let place = Place::Sqlite(store::db_in(&directory));
    killed_callers_get_no_more_than_the_limit(place, &directory.path().join("given")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_killed_on_redis_leave_no_permit_taken_and_none_doubled() {
    let directory = store::directory();
    let place = Place::Redis(shared().url(), namespace());
    killed_callers_get_no_more_than_the_limit(place, &directory.path().join("given")).await;
}

#[test]
fn the_check_of_what_processes_were_given_sees_one_too_many() {
    let given = |asked, answered| Given {
        asked: Timestamp::from_micros(asked),
        answered: Timestamp::from_micros(answered),
        permits: 2,
    };
    let window = Duration::from_micros(100);
    assert!(check(4, window, &[given(0, 5), given(50, 60), given(95, 101)]).is_ok(), "the last may be of the next");
    assert!(check(4, window, &[given(0, 5), given(50, 60), given(90, 99)]).is_err());
}

#[tokio::test]
async fn a_lost_answer_takes_no_permits_twice() {
    let (server, namespace) = (shared(), namespace());
    let proxy = Proxy::start(server.port());
    let open = async |url: String| {
        let options = RedisOptions::from_url(&url).expect("the server's URL").namespace(&namespace);
        Client::new(Arc::new(RedisStorage::open(options).await.expect("the server answers")))
    };
    let (client, beside) = (open(proxy.url(&server.url())).await, open(server.url()).await);
    let rate = || Rate::per_hour(1_000);
    assert_eq!(client.limiter("l", rate()).acquire(1).await.expect("acquire").remaining, 999);
    for turn in 1..=20 {
        // Before the server takes it, or after it answered.
        proxy.set(if turn % 4 == 0 { Mode::CutAfterRequestBytes(0) } else { Mode::CutAfterReplyBytes(0) });
        let answer = match client.limiter("l", rate()).acquire(1).await {
            Ok(answer) => answer,
            // What certainly was not taken is the caller's to ask for again.
            Err(error) => {
                assert_eq!(error.effect(), ferroq_core::storage::Effect::None, "{error}");
                client.limiter("l", rate()).acquire(1).await.expect("acquire")
            }
        };
        within("the answer is lost", proxy.cut_happens()).await;
        assert!(answer.granted);
        assert_eq!(answer.remaining, 999 - turn);
        assert_eq!(beside.limiter("l", rate()).peek(1).await.expect("peek").remaining, 999 - turn);
    }
}

/// A clock whose every second reading is years ahead: a host that is wrong about the server's time.
#[derive(Debug, Default)]
struct TwoFaced {
    readings: AtomicU64,
}

impl Clock for TwoFaced {
    fn now(&self) -> Timestamp {
        let time = ManualClock::default().now();
        let ahead = self.readings.fetch_add(1, Ordering::SeqCst) % 2 == 1;
        if ahead { time.after(Duration::from_secs(3600 * 24 * 400)) } else { time }
    }
}

#[tokio::test]
async fn a_host_that_is_wrong_about_the_time_gets_the_windows_of_the_servers_time() {
    let limiter = LimiterName::new("l").expect("a name");
    let options = RedisOptions::from_url(&shared().url()).expect("the server's URL").namespace(namespace());
    let storage = RedisStorage::open(options.clock(Arc::new(TwoFaced::default()))).await.expect("open");
    let rate = Rate::per_day(2).in_zone("America/New_York").expect("a zone");
    for remaining in [1, 0] {
        // The first reading goes to the script, the second makes the windows.
        let request = AcquireRequest { call: None, limiter: limiter.clone(), rate: rate.clone(), permits: 1 };
        let answer = storage.acquire(request).await.expect("acquire");
        assert_eq!((answer.granted, answer.remaining), (true, remaining));
    }
    let answer = storage.peek(&limiter, &rate, 1).await.expect("peek");
    // It is midnight in UTC, and 19:00 in New York.
    assert_eq!((answer.granted, answer.retry_after), (false, Some(Duration::from_secs(5 * 3600))));
}

#[tokio::test]
async fn a_limiter_on_redis_goes_by_itself() {
    let server = Server::start(ServerOptions::new());
    let options = RedisOptions::from_url(&server.url()).expect("the server's URL");
    let client = Client::new(Arc::new(RedisStorage::open(options).await.expect("open")));
    client.limiter("signup:203.0.113.7", Rate::per_second(5)).acquire(1).await.expect("acquire");
    let keys = server.cli(&["KEYS", "*"]);
    assert_eq!(keys.lines().count(), 2, "its state and its answers: {keys}");
    for key in keys.lines() {
        let left_ms: i64 = server.cli(&["PTTL", key]).trim().parse().expect("a number");
        let most = if key.ends_with(":limiter") { 61_000 } else { 600_000 };
        assert!(left_ms > 0 && left_ms <= most, "{key} is there for another {left_ms} ms");
    }
}

#[tokio::test]
async fn limiters_in_a_file_are_dropped_by_later_calls() {
    let directory = store::directory();
    let (db, clock) = (store::db_in(&directory), ManualClock::default());
    let storage = SqliteStorage::open(SqliteOptions::new(&db).clock(Arc::new(clock.clone()))).await.expect("open");
    let acquire = async |n: usize| {
        let limiter = LimiterName::new(format!("address {n}")).expect("a name");
        let request = AcquireRequest { call: None, limiter, rate: Rate::per_second(1), permits: 1 };
        assert!(storage.acquire(request).await.expect("acquire").granted);
    };
    for n in 0..40 {
        acquire(n).await;
    }
    clock.advance(Duration::from_secs(61));
    for n in 40..52 {
        acquire(n).await;
    }
    let mut app = sqlx::sqlite::SqliteConnectOptions::new().filename(&db).connect().await.expect("connect");
    let count = sqlx::query("SELECT count(*) FROM ferroq_limiters").fetch_one(&mut app).await.expect("a count");
    assert_eq!(count.get::<i64, _>(0), 12, "those of the last second");
}

#[tokio::test]
async fn a_damaged_limiter_is_named_and_can_be_reset() {
    let (server, namespace) = (shared(), namespace());
    let options = RedisOptions::from_url(&server.url()).expect("the server's URL").namespace(&namespace);
    let client = Client::new(Arc::new(RedisStorage::open(options).await.expect("open")));
    let key = format!("ferroq:{{{namespace}:limiter:l}}:limiter");
    let limiter = client.limiter("l", Rate::per_minute(3));
    for (set, code) in [
        (["SET", &key, "short"].as_slice(), ErrorCode::Corrupt),
        (&["SET", &key, "\u{7f}2345678 and no groups"], ErrorCode::Corrupt),
        (&["HSET", &key, "a", "b"], ErrorCode::Invalid),
    ] {
        server.cli(&["DEL", &key]);
        server.cli(set);
        for error in [limiter.acquire(1).await.err(), limiter.peek(1).await.err()] {
            let Some(ClientError::Storage(error)) = error else { panic!("{set:?} is taken for a limiter: {error:?}") };
            if code == ErrorCode::Corrupt {
                assert_eq!(error.code(), code, "{error}");
            } else {
                assert!(error.to_string().contains(&key), "{error}");
            }
        }
        limiter.reset().await.expect("reset");
        assert!(limiter.acquire(1).await.expect("acquire").granted);
        limiter.reset().await.expect("reset");
    }
}

#[tokio::test]
async fn a_question_to_a_limiter_says_all_that_is_wrong_with_it() {
    let client = Client::new(Arc::new(MemoryStorage::new()));
    let error = client.limiter("", Rate::per_minute(0)).acquire(0).await.expect_err("it is all wrong");
    let ClientError::Invalid { problems } = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 3, "{error}");
    let error = client.limiter("l", Rate::per_minute(3)).acquire(4).await.expect_err("more than the limit");
    assert!(error.to_string().contains("4 permits") && error.to_string().contains('3'), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_served_when_told_and_whoever_can_not_wait_is_told_at_once() {
    let client = Client::new(Arc::new(MemoryStorage::new()));
    let limiter = client.limiter("l", Rate::per_minute(2));
    let start = tokio::time::Instant::now();
    assert!(limiter.until_granted(2, Duration::ZERO).await.expect("acquire").granted);
    let refused = limiter.until_granted(1, Duration::from_secs(59)).await.expect("acquire");
    assert!(!refused.granted && refused.retry_after.is_some_and(|wait| wait <= Duration::from_secs(60)));
    assert_eq!(start.elapsed(), Duration::ZERO, "it did not wait in vain");
    assert!(limiter.until_granted(2, Duration::from_secs(61)).await.expect("acquire").granted);
    assert_eq!(start.elapsed().as_secs(), 60);
}
