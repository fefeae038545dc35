//! The link against a real server that is killed, stopped and restarted.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ferroq_core::storage::{Effect, ErrorCode, StorageError};
use redis::cmd;

use super::*;

/// A server of a test's own, on loopback, gone with the test.
struct Server {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let dir = tempfile::tempdir().expect("a directory");
        let child = Server::run(port, &dir, &arguments);
        Server { child, port, dir, arguments }
    }

    fn run(port: u16, dir: &tempfile::TempDir, arguments: &[String]) -> Child {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(dir.path())
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        // Bounded: 500 tries of 10 ms at most.
        let ready = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(ready, "redis-server did not listen within five seconds");
        child
    }

    fn options(&self) -> RedisOptions {
        RedisOptions::new("127.0.0.1", self.port)
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("reap");
    }

    fn restart(&mut self) {
        self.child = Server::run(self.port, &self.dir, &self.arguments);
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// Calls until it is served; bounded by a count of tries.
async fn until_served(link: &Link, cmd: &Cmd) -> Value {
    for _ in 0..200 {
        match link.call(cmd).await {
            Ok(value) => return value,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("not served within 200 tries");
}

#[tokio::test]
async fn calls_are_served_and_errors_are_errors() {
    let server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
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
    let server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
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
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let error = Link::open(&RedisOptions::new("127.0.0.1", port)).await.expect_err("nobody there");
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::None));
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_not_shown() {
    let server = Server::start(&["--requirepass", "right"]);
    let error = Link::open(&server.options().password("hunter2")).await.expect_err("wrong password");
    assert_eq!(error.code(), ErrorCode::Denied);
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    let error = Link::open(&server.options()).await.expect_err("no password");
    assert_eq!(error.code(), ErrorCode::Denied);
    Link::open(&server.options().password("right")).await.expect("right password");
    Link::open(&server.options().user("default").password("right")).await.expect("with user");
}

#[tokio::test]
async fn databases_are_apart() {
    let server = Server::start(&[]);
    let two = Link::open(&server.options().database(2)).await.expect("open");
    two.call(&set("a", "1")).await.expect("set");
    let zero = Link::open(&server.options()).await.expect("open");
    assert_eq!(zero.call(&get("a")).await.expect("get"), Value::Nil);
    let error = Link::open(&server.options().database(99)).await.expect_err("no such database");
    assert_eq!(error.effect(), Effect::None);
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_calls_before_that_changed_nothing() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let link = Link::open(&server.options()).await.expect("open");
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
    let server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    let live = link.line.live().await.expect("live");
    let other = Link::open(&server.options()).await.expect("open");
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
    other.call(&kill).await.expect("kill");
    for _ in 0..500 {
        if !live.is_good() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!live.is_good(), "the cut was not noticed");
    assert_eq!(text(link.call(&get("a")).await.expect("over a new connection")), "1");
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_found_again() {
    let server = Server::start(&[]);
    let timeout = Duration::from_millis(200);
    let link = Link::open(&server.options().call_timeout(timeout).connect_timeout(timeout)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    server.signal("STOP");
    let get = get("a");
    let (first, second) = tokio::join!(link.call(&get), link.call(&get));
    for error in [first, second] {
        let error = StorageError::from(error.expect_err("silence"));
        assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::Unknown));
    }
    let next = StorageError::from(link.call(&get).await.expect_err("still silent"));
    assert_eq!((next.code(), next.effect()), (ErrorCode::Unavailable, Effect::None));
    server.signal("CONT");
    assert_eq!(text(until_served(&link, &get).await), "1");
}

#[tokio::test]
async fn callers_that_go_away_leave_a_silent_connection_to_be_found_out() {
    let server = Server::start(&[]);
    let link = Link::open(&server.options().call_timeout(Duration::from_millis(200))).await.expect("open");
    let live = link.line.live().await.expect("live");
    server.signal("STOP");
    tokio::time::timeout(Duration::from_millis(20), link.call(&get("a"))).await.expect_err("impatient");
    for _ in 0..500 {
        if !live.is_good() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.signal("CONT");
    assert!(!live.is_good(), "the silence was not noticed");
    until_served(&link, &cmd("PING")).await;
}

#[tokio::test]
async fn callers_share_one_attempt_and_one_that_goes_away_takes_nothing_from_the_others() {
    let server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
    let ping = cmd("PING");
    link.call(&ping).await.expect("served");
    link.line.live().await.expect("live").end();
    let mut gone = Box::pin(link.call(&ping));
    assert!(futures::poll!(&mut gone).is_pending());
    let others = futures::future::join_all((0..50).map(|_| link.call(&ping)));
    drop(gone);
    for answer in others.await {
        answer.expect("served");
    }
    let mut info = cmd("INFO");
    info.arg("stats");
    let info = text(link.call(&info).await.expect("info"));
    let connections = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).expect("stats");
    // The starter's look, the first connection, the second one.
    assert_eq!(connections.trim(), "3");
}

#[tokio::test]
async fn a_blocking_call_holds_up_nobody_else_and_outlives_its_server() {
    let mut server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
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
    let server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
    let mut blocking = link.blocking("q").await.expect("blocking");
    let mut pop = cmd("BLPOP");
    pop.arg("q").arg(30);
    tokio::time::timeout(Duration::from_millis(50), blocking.call(&pop, Duration::from_secs(35)))
        .await
        .expect_err("nothing there");
    // The server hears of the cut after a moment; bounded.
    for _ in 0..500 {
        let mut list = cmd("INFO");
        list.arg("clients");
        if text(link.call(&list).await.expect("info")).contains("blocked_clients:0") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut push = cmd("RPUSH");
    push.arg("q").arg("x");
    link.call(&push).await.expect("push");
    let popped = blocking.call(&pop, Duration::from_secs(35)).await.expect("popped");
    assert_eq!(redis::from_redis_value::<Vec<String>>(popped).expect("pair"), ["q", "x"]);
}

#[tokio::test]
async fn messages_arrive_while_channels_change_and_the_stream_ends_with_its_connection() {
    let mut server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
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
        sink.unsubscribe("a").await.expect("unsubscribe");
        link.call(&publish("a")).await.expect("publish");
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
    let server = Server::start(&[]);
    let link = Link::open(&server.options().call_timeout(Duration::from_millis(100))).await.expect("open");
    let (_sink, mut stream) = link.subscriber().await.expect("subscriber");
    server.signal("STOP");
    assert_eq!(stream.next().await, None);
    server.signal("CONT");
}

#[tokio::test]
async fn a_closed_link_answers_so() {
    let server = Server::start(&[]);
    let link = Link::open(&server.options()).await.expect("open");
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
