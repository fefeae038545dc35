//! The link against real servers that are killed, stopped, cut off and restarted.
mod cluster;
mod sentinel;
#[cfg(feature = "tls")]
mod tls;
mod waiting;

use std::time::Duration;

use ferroq_core::storage::{Effect, ErrorCode, StorageError};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::proxy::{Mode, Proxy};
use ferroq_tests::redis::server::Server;
use ferroq_tests::wait::{until, until_so};
use redis::cmd;

use super::*;

fn start() -> Server {
    Server::start(ServerOptions::new())
}

fn options(server: &Server) -> RedisOptions {
    RedisOptions::new("127.0.0.1", server.port())
}

fn line(link: &Link) -> &Arc<Line> {
    match &link.way {
        Way::One(line) => line,
        Way::Cluster(_) => panic!("one server"),
    }
}

fn text(value: Value) -> String {
    redis::from_redis_value(value).expect("text")
}

fn get(key: &str) -> Cmd {
    let mut get = cmd("GET");
    get.arg(key);
    get
}

fn set(key: &str, value: &str) -> Cmd {
    let mut set = cmd("SET");
    set.arg(key).arg(value);
    set
}

/// Calls until it is served.
async fn until_served(link: &Link, cmd: &Cmd) -> Value {
    until("the call is served", async || link.call(cmd).await.ok()).await
}

#[tokio::test]
async fn calls_are_served_and_errors_are_errors() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    assert_eq!(text(link.call(&get("a")).await.expect("get")), "1");
    let mut push = cmd("LPUSH");
    push.arg("a").arg("1");
    let error = link.call(&push).await.expect_err("a wrong type");
    assert_eq!(error.server_code(), Some("WRONGTYPE"));
    let mut evalsha = cmd("EVALSHA");
    evalsha.arg("0000000000000000000000000000000000000000").arg(0);
    assert!(link.call(&evalsha).await.expect_err("no script").is_noscript());
    assert_eq!(link.call_everywhere(&cmd("DBSIZE")).await.expect("everywhere").len(), 1);
}

#[tokio::test]
async fn a_script_names_its_own_errors() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    for body in [
        "return redis.error_reply('FERROQ_SCHEMA layout 9 is newer')",
        "error(redis.error_reply('FERROQ_SCHEMA layout 9 is newer'))",
    ] {
        let mut eval = cmd("EVAL");
        eval.arg(body).arg(0);
        let error = StorageError::from(link.call(&eval).await.expect_err(body));
        assert_eq!((error.code(), error.effect()), (ErrorCode::SchemaTooNew, Effect::None));
        assert_eq!(error.to_string(), "layout 9 is newer (nothing was changed)");
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable_with_nothing_changed() {
    let port = ferroq_tests::redis::port::free();
    let error = Link::open(&RedisOptions::new("127.0.0.1", port)).await.expect_err("nobody there");
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::None));
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_not_shown() {
    let server = Server::start(ServerOptions::new().password("right"));
    let error = Link::open(&options(&server).password("hunter2")).await.expect_err("wrong password");
    assert_eq!(error.code(), ErrorCode::Denied);
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    let error = Link::open(&options(&server)).await.expect_err("no password");
    assert_eq!(error.code(), ErrorCode::Denied);
    Link::open(&options(&server).password("right")).await.expect("right password");
    Link::open(&options(&server).user("default").password("right")).await.expect("with user");
}

#[tokio::test]
async fn databases_are_apart() {
    let server = start();
    let two = Link::open(&options(&server).database(2)).await.expect("open");
    two.call(&set("a", "1")).await.expect("set");
    let zero = Link::open(&options(&server)).await.expect("open");
    assert_eq!(zero.call(&get("a")).await.expect("get"), Value::Nil);
    let error = Link::open(&options(&server).database(99)).await.expect_err("no such database");
    assert_eq!((error.code(), error.effect()), (ErrorCode::Invalid, Effect::None));
    assert!(error.to_string().contains("database 99"), "{error}");
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_calls_before_that_changed_nothing() {
    let server = Server::start(ServerOptions::new().aof("always"));
    let link = Link::open(&options(&server)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    server.kill();
    let first = link.call(&set("a", "2")).await.expect_err("killed");
    let second = StorageError::from(link.call(&set("a", "2")).await.expect_err("killed"));
    assert_eq!(StorageError::from(first).code(), ErrorCode::Unavailable);
    assert_eq!((second.code(), second.effect()), (ErrorCode::Unavailable, Effect::None));
    server.restart();
    assert_eq!(text(until_served(&link, &get("a")).await), "1");
}

#[tokio::test]
async fn a_connection_killed_between_calls_costs_no_call() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    let live = line(&link).live().await.expect("live");
    server.client_kill_all();
    until_so("the cut is noticed", || !live.is_good()).await;
    assert_eq!(text(link.call(&get("a")).await.expect("over a new connection")), "1");
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_found_again() {
    let server = start();
    let timeout = Duration::from_millis(200);
    let link = Link::open(&options(&server).call_timeout(timeout).connect_timeout(timeout)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    server.stop();
    let get = get("a");
    let (first, second) = tokio::join!(link.call(&get), link.call(&get));
    for error in [first, second] {
        let error = StorageError::from(error.expect_err("silence"));
        assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::Unknown));
    }
    let next = StorageError::from(link.call(&get).await.expect_err("still silent"));
    assert_eq!((next.code(), next.effect()), (ErrorCode::Unavailable, Effect::None));
    server.cont();
    assert_eq!(text(until_served(&link, &get).await), "1");
}

#[tokio::test]
async fn callers_that_go_away_leave_a_silent_connection_to_be_found_out() {
    let server = start();
    let link = Link::open(&options(&server).call_timeout(Duration::from_millis(200))).await.expect("open");
    let live = line(&link).live().await.expect("live");
    server.stop();
    tokio::time::timeout(Duration::from_millis(20), link.call(&get("a"))).await.expect_err("impatient");
    until_so("the silence is noticed", || !live.is_good()).await;
    server.cont();
    until_served(&link, &cmd("PING")).await;
}

#[tokio::test]
async fn callers_share_one_attempt_and_one_that_goes_away_takes_nothing_from_the_others() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let link = Link::open(&RedisOptions::new("127.0.0.1", proxy.port())).await.expect("open");
    let ping = cmd("PING");
    link.call(&ping).await.expect("served");
    proxy.set(Mode::Pass);
    line(&link).live().await.expect("live").end();
    let mut gone = Box::pin(link.call(&ping));
    assert!(futures::poll!(&mut gone).is_pending());
    let others = futures::future::join_all((0..50).map(|_| link.call(&ping)));
    drop(gone);
    for answer in others.await {
        answer.expect("served");
    }
    assert_eq!(proxy.counters().connections, 1);
}

#[tokio::test]
async fn a_blocking_call_holds_up_nobody_else_and_outlives_its_server() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    let mut blocking = link.blocking("q").await.expect("blocking");
    let mut pop = cmd("BLPOP");
    pop.arg("q").arg(30);
    let (popped, _) = tokio::join!(blocking.call(&pop, Duration::from_secs(35)), async {
        let mut push = cmd("RPUSH");
        push.arg("q").arg("x");
        link.call(&push).await.expect("push");
    });
    assert_eq!(redis::from_redis_value::<Vec<String>>(popped.expect("popped")).expect("pair"), ["q", "x"]);
    server.kill();
    let error = blocking.call(&pop, Duration::from_secs(35)).await.expect_err("killed");
    assert_eq!(StorageError::from(error).code(), ErrorCode::Unavailable);
    server.restart();
    until_served(&link, &cmd("PING")).await;
    blocking.call(&cmd("PING"), Duration::from_secs(5)).await.expect("a new connection");
}

#[tokio::test]
async fn a_blocking_call_that_was_dropped_takes_nothing_afterwards() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    let mut blocking = link.blocking("q").await.expect("blocking");
    let mut pop = cmd("BLPOP");
    pop.arg("q").arg(30);
    tokio::time::timeout(Duration::from_millis(50), blocking.call(&pop, Duration::from_secs(35)))
        .await
        .expect_err("nothing there");
    until_so("the server hears of it", || server.info("blocked_clients").as_deref() == Some("0")).await;
    let mut push = cmd("RPUSH");
    push.arg("q").arg("x");
    link.call(&push).await.expect("push");
    let popped = blocking.call(&pop, Duration::from_secs(35)).await.expect("popped");
    assert_eq!(redis::from_redis_value::<Vec<String>>(popped).expect("pair"), ["q", "x"]);
}

#[tokio::test]
async fn messages_arrive_while_channels_change_and_the_stream_ends_with_its_connection() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    let (mut sink, mut stream) = link.subscriber().await.expect("subscriber");
    sink.subscribe("a").await.expect("subscribe");
    let publish = |channel: &str| {
        let mut publish = cmd("PUBLISH");
        publish.arg(channel).arg("x");
        publish
    };
    link.call(&publish("a")).await.expect("publish");
    let message = stream.next().await.expect("a message");
    assert_eq!(message, Message { channel: "a".into(), payload: b"x".to_vec() });
    let (next, _) = tokio::join!(stream.next(), async {
        sink.subscribe("b").await.expect("subscribe");
        link.call(&publish("b")).await.expect("publish");
    });
    assert_eq!(next.expect("a message").channel, "b");
    server.kill();
    assert_eq!(stream.next().await, None);
    assert_eq!(stream.next().await, None);
    sink.subscribe("c").await.expect_err("ended");
}

#[tokio::test]
async fn a_subscriber_notices_silence() {
    let server = start();
    let link = Link::open(&options(&server).call_timeout(Duration::from_millis(100))).await.expect("open");
    let (_sink, mut stream) = link.subscriber().await.expect("subscriber");
    server.stop();
    assert_eq!(stream.next().await, None);
    server.cont();
}

#[tokio::test]
async fn a_closed_link_answers_so() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    let mut blocking = link.blocking("q").await.expect("blocking");
    link.close();
    for error in [
        link.call(&cmd("PING")).await.expect_err("closed"),
        blocking.call(&cmd("PING"), Duration::from_secs(1)).await.expect_err("closed"),
        link.subscriber().await.err().expect("closed"),
    ] {
        assert_eq!(StorageError::from(error).code(), ErrorCode::Closed);
    }
}

#[tokio::test]
async fn a_cut_at_any_byte_is_lost_or_never_sent_and_the_next_call_is_served() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let link = Link::open(&RedisOptions::new("127.0.0.1", proxy.port())).await.expect("open");
    let ping = cmd("PING");
    // A request of 14 bytes, a reply of 7.
    let cuts = (0..14).map(Mode::CutAfterRequestBytes).chain((0..7).map(Mode::CutAfterReplyBytes));
    for cut in cuts {
        until_served(&link, &ping).await;
        proxy.set(cut);
        let error = StorageError::from(link.call(&ping).await.expect_err("cut"));
        assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::Unknown));
        link.call(&ping).await.expect("over a new connection");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_on_everybody_is_not_hammered() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let link = Link::open(&RedisOptions::new("127.0.0.1", proxy.port())).await.expect("open");
    link.call(&cmd("PING")).await.expect("served");
    server.kill();
    proxy.set(Mode::Pass);
    for _ in 0..20 {
        let calls = futures::future::join_all((0..50).map(|_| async { link.call(&cmd("PING")).await.is_err() }));
        assert!(calls.await.into_iter().all(|failed| failed));
    }
    // Even if these thousand calls took ten seconds, the pauses leave room for fifty attempts.
    let connections = proxy.counters().connections;
    assert!(connections < 100, "{connections} connections for 1000 calls");
    server.restart();
    until_served(&link, &cmd("PING")).await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_fails_the_attempt_and_nothing_was_sent() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let silent = RedisOptions::new("127.0.0.1", proxy.port()).connect_timeout(Duration::from_millis(50));
    let link = Link::open(&silent).await.expect("open");
    proxy.set(Mode::Silent);
    for options in [silent.clone(), silent.clone().password("x")] {
        let error = Link::open(&options).await.expect_err("silence");
        assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::None));
        assert!(error.to_string().contains("no answer within 50ms"), "{error}");
    }
    let error = link.subscriber().await.err().map(StorageError::from);
    assert!(error.is_none_or(|error| error.effect() == Effect::None));
    proxy.cut_all();
    proxy.set(Mode::Pass);
    until_served(&link, &cmd("PING")).await;
}
