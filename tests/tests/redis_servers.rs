//! The tools of the Redis tests do what they say. A fault test that passes because its fault never came proves nothing;
//! so each fault is looked at here by itself, with plain commands and plain sockets.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use ferroq_tests::redis::cluster::Cluster;
use ferroq_tests::redis::guard;
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::proxy::{Mode, Proxy};
use ferroq_tests::redis::sentinel::SentinelGroup;
use ferroq_tests::redis::server::{self, Server};
use ferroq_tests::wait::until_so;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const PONG: &[u8] = b"+PONG\r\n";

fn start() -> Server {
    Server::start(ServerOptions::new())
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a bound");
    stream
}

/// Writes until the other side wants no more, and reads to the end.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).expect("write");
    read_to_end(stream)
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("an end, and no reset");
    reply
}

fn pings(stream: &mut TcpStream) {
    stream.write_all(PING).expect("write");
    let mut reply = [0; PONG.len()];
    stream.read_exact(&mut reply).expect("an answer");
    assert_eq!(reply, PONG);
}

#[test]
fn a_server_keeps_its_port_and_its_aof_over_a_kill() {
    let server = Server::start(ServerOptions::new().aof("always"));
    let (port, pid) = (server.port(), server.pid());
    server.cli(&["SET", "a", "1"]);
    server.kill();
    assert!(!server.is_running());
    assert!(server.ask(&["PING"]).is_err(), "it is dead");
    server.restart();
    assert_eq!((server.port(), server.cli(&["GET", "a"])), (port, "1".to_owned()));
    assert_ne!(server.pid(), pid);
}

#[test]
fn a_server_without_files_forgets() {
    let server = start();
    server.cli(&["SET", "a", "1"]);
    server.restart();
    assert_eq!(server.cli(&["GET", "a"]), "");
}

#[test]
fn an_aof_is_cut_at_the_byte() {
    let server = Server::start(ServerOptions::new().aof("always"));
    server.cli(&["SET", "a", "1"]);
    let first = server.aof_len_bytes();
    server.cli(&["SET", "b", "2"]);
    let second = server.aof_len_bytes();
    assert!(first < second);
    server.kill();
    server.truncate_aof(second - 1);
    server.restart();
    assert_eq!((server.cli(&["GET", "a"]).as_str(), server.cli(&["EXISTS", "b"]).as_str()), ("1", "0"));
    server.kill();
    server.truncate_aof(first);
    server.restart();
    assert_eq!(server.cli(&["DBSIZE"]), "1");
}

#[test]
fn options_reach_the_server() {
    let options = ServerOptions::new()
        .aof("everysec")
        .save("3600 1")
        .max_memory("50mb")
        .eviction("allkeys-lru")
        .password("open")
        .user("app on >secret ~app:* +get");
    let server = Server::start(options);
    let of = |directive: &str| server.cli(&["CONFIG", "GET", directive]).replace('\n', " ");
    assert_eq!(of("appendfsync"), "appendfsync everysec");
    assert_eq!(of("save"), "save 3600 1");
    assert_eq!(of("maxmemory"), format!("maxmemory {}", 50 << 20));
    assert_eq!(of("maxmemory-policy"), "maxmemory-policy allkeys-lru");
    let ask = |url: String, command: &str| {
        let mut connection = redis::Client::open(url).expect("a URL").get_connection()?;
        redis::cmd(command).arg("app:1").query::<Option<String>>(&mut connection)
    };
    assert_eq!(ask(server.url(), "GET").expect("the default user"), None);
    assert_eq!(ask(server.url_as("app", "secret"), "GET").expect("a user"), None);
    assert!(ask(server.url_as("app", "secret"), "DEL").is_err(), "a right that it lacks");
    assert!(ask(server.url_as("app", "wrong"), "GET").is_err(), "a wrong password");
    server.config_set("maxmemory", "0");
    assert_eq!(of("maxmemory"), "maxmemory 0");
    assert!(server.memory_bytes() > 0);
}

#[test]
fn a_stopped_server_answers_when_it_goes_on() {
    let server = start();
    let mut stream = connect(server.port());
    pings(&mut stream);
    server.stop();
    stream.write_all(PING).expect("write");
    stream.set_nonblocking(true).expect("don't wait");
    let nothing = stream.read(&mut [0; 16]).expect_err("it is stopped");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("wait");
    server.cont();
    let mut reply = [0; PONG.len()];
    stream.read_exact(&mut reply).expect("an answer");
}

#[test]
fn client_kill_all_closes_every_connection() {
    let server = start();
    let mut streams: Vec<TcpStream> = (0..3).map(|_| connect(server.port())).collect();
    streams.iter_mut().for_each(pings);
    streams[2].write_all(b"BLPOP nothing 0\r\n").expect("write");
    assert_eq!(server.client_kill_all(), 3);
    for stream in &mut streams {
        assert_eq!(read_to_end(stream), b"");
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_sleep_sleeps() {
    let server = start();
    server.config_set("slowlog-log-slower-than", "100000");
    server.debug_sleep(Duration::from_millis(200));
    let slept = |log: String| log.contains("DEBUG") && log.contains("SLEEP");
    until_so("the server has slept", || slept(server.cli(&["SLOWLOG", "GET"]))).await;
}

#[test]
fn the_shared_server_is_one_and_namespaces_are_many() {
    assert_eq!(server::shared().pid(), server::shared().pid());
    assert_ne!(server::namespace(), server::namespace());
}

const LEAVES_BEHIND: &str = "FERROQ_TEST_LEAVES_A_SERVER_BEHIND";

/// The process of the next test: it ends without any destructor having run.
#[test]
#[ignore = "run by servers_die_with_the_test_process"]
#[expect(clippy::print_stdout, reason = "its parent listens")]
fn a_process_that_leaves_its_server_behind() {
    if std::env::var_os(LEAVES_BEHIND).is_none() {
        return;
    }
    let server = start();
    println!("\nserver {} {}", server.port(), guard::base().display());
    server::shared();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("wait to be killed");
}

#[tokio::test]
async fn servers_die_with_the_test_process() {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_process_that_leaves_its_server_behind", "--ignored", "--nocapture"])
        .env(LEAVES_BEHIND, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program again");
    let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let line = lines
        .map(|line| line.expect("a line"))
        .find_map(|line| line.strip_prefix("server ").map(str::to_owned))
        .expect("it starts a server");
    let (port, base) = line.split_once(' ').expect("a port and a directory");
    let port: u16 = port.parse().expect("a port");
    pings(&mut connect(port));
    child.kill().expect("SIGKILL");
    child.wait().expect("it is dead");
    until_so("its server is dead", || TcpStream::connect(("127.0.0.1", port)).is_err()).await;
    until_so("its files are gone", || !std::path::Path::new(base).exists()).await;
}

#[test]
fn a_proxy_passes_and_counts() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let mut stream = connect(proxy.port());
    for _ in 0..3 {
        pings(&mut stream);
    }
    let seen = proxy.counters();
    assert_eq!(seen.request_bytes, 3 * PING.len() as u64);
    assert_eq!(seen.reply_bytes, 3 * PONG.len() as u64);
    assert_eq!((seen.connections, seen.cuts, proxy.open_connections()), (1, 0, 1));
    assert_eq!(proxy.url(&server.url()), format!("redis://{}", proxy.address()));
}

#[test]
fn exactly_so_many_bytes_of_replies_reach_the_client() {
    let server = start();
    let proxy = Proxy::start(server.port());
    for bytes in 0..=3 * PONG.len() {
        let mut idle = connect(proxy.port());
        pings(&mut idle);
        let mut stream = connect(proxy.port());
        pings(&mut stream);
        proxy.set(Mode::CutAfterReplyBytes(bytes as u64));
        assert_eq!(exchange(&mut stream, &PING.repeat(3)), &PONG.repeat(3)[..bytes]);
        assert_eq!(proxy.counters().cuts, 1);
        assert_eq!(read_to_end(&mut idle), b"", "the cut is for all that are open");
        pings(&mut connect(proxy.port()));
        assert_eq!(proxy.mode(), Mode::Pass, "once");
    }
}

#[test]
fn replies_are_counted_over_connections() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let (mut first, mut second) = (connect(proxy.port()), connect(proxy.port()));
    proxy.set(Mode::CutAfterReplyBytes(PONG.len() as u64 + 2));
    pings(&mut first);
    assert_eq!(exchange(&mut second, PING), &PONG[..2]);
    assert_eq!(read_to_end(&mut first), b"");
}

#[test]
fn exactly_so_many_bytes_of_requests_reach_the_server() {
    // A listener of our own, since it is the server's side that is looked at.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = Proxy::start(listener.local_addr().expect("its address").port());
    for bytes in 0..10 {
        let mut client = connect(proxy.port());
        let (mut server, _) = listener.accept().expect("the proxy connects");
        proxy.set(Mode::CutAfterRequestBytes(bytes));
        client.write_all(b"0123456789").expect("write");
        let mut request = Vec::new();
        server.read_to_end(&mut request).expect("an end, and no reset");
        assert_eq!(request, &b"0123456789"[..bytes as usize]);
        // Even if the server answers what it got.
        drop(server.write_all(b"late"));
        assert_eq!(read_to_end(&mut client), b"");
    }
}

#[tokio::test]
async fn what_was_requested_before_the_cut_is_done_and_not_answered() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let set = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n";
    for (bytes, exists) in [(set.len() - 1, "0"), (set.len(), "1")] {
        server.cli(&["DEL", "a"]);
        let mut stream = connect(proxy.port());
        proxy.set(Mode::CutAfterRequestBytes(bytes as u64));
        assert_eq!(exchange(&mut stream, set), b"");
        // The tool's own command comes after what the server has had before its connection was closed.
        let alone = || server.info("connected_clients").as_deref() == Some("1");
        until_so("the server has seen the end", alone).await;
        assert_eq!(server.cli(&["EXISTS", "a"]), exists);
    }
}

#[test]
fn silence_holds_everything_back_until_it_ends() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let mut open = connect(proxy.port());
    pings(&mut open);
    proxy.set(Mode::Silent);
    let mut new = connect(proxy.port());
    for stream in [&mut open, &mut new] {
        stream.write_all(PING).expect("write");
    }
    assert_eq!(proxy.counters().request_bytes, 0);
    proxy.set(Mode::Pass);
    for stream in [&mut open, &mut new] {
        let mut reply = [0; PONG.len()];
        stream.read_exact(&mut reply).expect("an answer");
    }
}

#[tokio::test]
async fn what_is_cut_in_silence_never_comes() {
    let server = start();
    let proxy = Proxy::start(server.port());
    proxy.set(Mode::Silent);
    let mut stream = connect(proxy.port());
    stream.write_all(PING).expect("write");
    until_open(&proxy, 1).await;
    assert_eq!(proxy.cut_all(), 1);
    assert_eq!(read_to_end(&mut stream), b"");
    proxy.set(Mode::Pass);
    drop(stream);
    assert_eq!(server.info("connected_clients").as_deref(), Some("1"), "the server never heard of it");
}

async fn until_open(proxy: &Proxy, connections: usize) {
    until_so("connections through the proxy", || proxy.open_connections() == connections).await;
}

#[test]
fn a_refusing_proxy_is_as_one_that_is_not_there() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let mut open = connect(proxy.port());
    pings(&mut open);
    for _ in 0..3 {
        proxy.set(Mode::Refuse);
        let refused = TcpStream::connect(("127.0.0.1", proxy.port())).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        pings(&mut open);
        proxy.set(Mode::Pass);
        pings(&mut connect(proxy.port()));
    }
}

#[tokio::test]
async fn a_delay_is_for_each_piece_and_ends_with_its_mode() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let mut cut = connect(proxy.port());
    pings(&mut cut);
    proxy.set(Mode::Delay(Duration::from_secs(3600)));
    cut.write_all(PING).expect("write");
    assert_eq!(proxy.cut_all(), 1);
    assert_eq!(read_to_end(&mut cut), b"", "it was on its way");
    let mut stream = connect(proxy.port());
    stream.write_all(PING).expect("write");
    until_open(&proxy, 1).await;
    proxy.set(Mode::Delay(Duration::from_millis(5)));
    let mut reply = [0; PONG.len()];
    stream.read_exact(&mut reply).expect("an answer");
}

#[tokio::test]
async fn a_proxy_passes_on_that_an_end_hung_up() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let mut left = connect(proxy.port());
    pings(&mut left);
    server.kill();
    assert_eq!(read_to_end(&mut left), b"", "the server is gone");
    drop(left);
    server.restart();
    let mut leaving = connect(proxy.port());
    leaving.write_all(PING).expect("write");
    leaving.shutdown(Shutdown::Write).expect("hang up");
    assert_eq!(read_to_end(&mut leaving), PONG, "what was on its way is answered");
    drop(leaving);
    until_open(&proxy, 0).await;
}

fn keys(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("key:{number}"))
}

fn fill(cluster: &Cluster, count: usize) {
    for key in keys(count) {
        cluster.node_of(&key).cli(&["SET", &key, &key]);
    }
}

fn all_are_there(cluster: &Cluster, count: usize) {
    for key in keys(count) {
        assert_eq!(cluster.node_of(&key).cli(&["GET", &key]), key);
    }
    assert_eq!(cluster.key_count(), count as u64);
}

#[tokio::test]
async fn a_reshard_keeps_keys_and_moves_them() {
    let cluster = Cluster::start(false).await;
    assert_eq!((cluster.masters().len(), cluster.nodes().len()), (3, 3));
    fill(&cluster, 50);
    let before: Vec<u16> = keys(50).map(|key| cluster.node_of(&key).port()).collect();
    let slots: BTreeSet<u16> = keys(50).map(|key| cluster.slot_of(&key)).collect();
    let moved = cluster.reshard(slots.len() + 2).await;
    assert_eq!(moved.len(), slots.len() + 2);
    assert!(slots.iter().all(|slot| moved.contains(slot)), "those with keys first");
    cluster.is_ok().await;
    all_are_there(&cluster, 50);
    assert!(keys(50).zip(before).all(|(key, before)| cluster.node_of(&key).port() != before), "all have moved");
}

#[tokio::test]
async fn a_slot_can_be_left_half_moved() {
    let cluster = Cluster::start(false).await;
    let keys: Vec<String> = (0..4).map(|number| format!("{{a}}{number}")).collect();
    let from = cluster.node_of("{a}");
    for key in &keys {
        from.cli(&["SET", key, "1"]);
    }
    let to = cluster.masters().into_iter().find(|node| node.port() != from.port()).expect("another master");
    let moving = cluster.begin_move(cluster.slot_of("{a}"), to);
    assert_eq!(moving.move_keys(2), 2);
    let asked: Vec<String> =
        keys.iter().filter_map(|key| Some(from.ask(&["GET", key]).err()?.code()?.to_owned())).collect();
    assert_eq!(asked, ["ASK", "ASK"], "half of them are gone");
    let split = keys.iter().map(String::as_str).fold(vec!["MGET"], |command, key| [command, vec![key]].concat());
    assert_eq!(from.ask(&split).expect_err("it has only some of them").code(), Some("TRYAGAIN"));
    moving.finish();
    cluster.is_ok().await;
    assert_eq!(from.ask(&["GET", &keys[0]]).expect_err("it is elsewhere").code(), Some("MOVED"));
    assert_eq!(to.cli(&["EXISTS", &keys[0], &keys[1], &keys[2], &keys[3]]), "4");
}

/// Sets `a` to 1 on a master and its replica.
fn set_on_both(master: &Server) {
    let mut connection = master.connection();
    redis::cmd("SET").arg("a").arg(1).query::<()>(&mut connection).expect("set");
    let reached: u64 = redis::cmd("WAIT").arg(1).arg(30_000).query(&mut connection).expect("wait");
    assert_eq!(reached, 1, "the replica has it");
}

#[tokio::test]
async fn replicas_of_a_cluster_take_over_and_back() {
    let cluster = Cluster::start_with(ServerOptions::new().password("open"), true).await;
    assert_eq!((cluster.masters().len(), cluster.nodes().len()), (3, 6));
    assert!(cluster.url().starts_with("redis+cluster://:open@127.0.0.1:"));
    let master = cluster.node_of("a");
    set_on_both(master);
    let replica = cluster.switch_over(master).await;
    assert_eq!((cluster.node_of("a").port(), replica.cli(&["GET", "a"]).as_str()), (replica.port(), "1"));
    assert_eq!(cluster.replica_of(replica).map(Server::port), Some(master.port()));
    let back = cluster.fail_over(replica).await;
    assert_eq!((back.port(), back.cli(&["GET", "a"]).as_str()), (master.port(), "1"));
    cluster.heal().await;
    assert_eq!(cluster.replica_of(master).map(Server::port), Some(replica.port()));
}

#[tokio::test]
async fn sentinels_make_the_replica_the_master_and_back() {
    let group = SentinelGroup::start_with(ServerOptions::new().password("open")).await;
    let first = group.master().expect("a master");
    assert!(group.url().starts_with("redis+sentinel://:open@127.0.0.1:") && group.url().ends_with("/mymaster"));
    set_on_both(first);
    let second = group.switch_over().await;
    assert_eq!(second.cli(&["GET", "a"]), "1");
    let third = group.fail_over().await;
    assert_eq!((third.port(), third.cli(&["GET", "a"]).as_str()), (first.port(), "1"));
    assert!(!second.is_running());
    group.heal().await;
    assert_eq!((second.info("role").as_deref(), second.cli(&["GET", "a"]).as_str()), (Some("slave"), "1"));
}
