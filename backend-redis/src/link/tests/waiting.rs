//! Waiting for copies.

use super::*;
use crate::options::WaitFor;

const SHORT: Duration = Duration::from_millis(50);

fn replica_of(master: &Server) -> Server {
    let replica = start();
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    replica
}

#[tokio::test]
async fn what_was_reached_is_said_and_never_undoes_the_write() {
    let server = Server::start(ServerOptions::new().set("repl-diskless-sync-delay", "0"));
    let link = Link::open(&options(&server)).await.expect("open");
    let mut wait = WaitFor { replicas: 1, fsync: false, timeout: SHORT };
    let (_, reached) = link.call_and_wait("a", &set("a", "1"), &wait).await.expect("written");
    let reached = reached.expect("asked");
    assert_eq!(reached, Reached { replicas: 0, fsynced_local: false });
    assert!(!reached.is_enough(&wait));
    assert_eq!(text(link.call(&get("a")).await.expect("get")), "1");

    let replica = replica_of(&server);
    until_so("the replica is in step", || replica.info("master_link_status").as_deref() == Some("up")).await;
    wait.timeout = Duration::from_secs(10);
    let (_, reached) = link.call_and_wait("a", &set("a", "2"), &wait).await.expect("written");
    assert!(reached.expect("asked").is_enough(&wait));
    assert_eq!(replica.cli(&["GET", "a"]), "2");
}

#[tokio::test]
async fn a_call_that_waits_holds_up_no_other() {
    let server = start();
    let link = Link::open(&options(&server)).await.expect("open");
    let wait = WaitFor { replicas: 1, fsync: false, timeout: Duration::from_secs(3600) };
    let write = set("a", "1");
    let mut waiting = Box::pin(link.call_and_wait("a", &write, &wait));
    let get = get("a");
    // The write arrives while its caller is left waiting, and others read it.
    until("it is written", async || {
        assert!(futures::poll!(&mut waiting).is_pending());
        (link.call(&get).await.expect("served") != Value::Nil).then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_are_kept_for_the_next_who_waits() {
    let server = start();
    let proxy = Proxy::start(server.port());
    let link = Link::open(&RedisOptions::new("127.0.0.1", proxy.port())).await.expect("open");
    let wait = WaitFor { replicas: 1, fsync: false, timeout: Duration::from_millis(1) };
    proxy.set(Mode::Pass);
    for _ in 0..5 {
        link.call_and_wait("a", &set("a", "1"), &wait).await.expect("written").1.expect("asked");
    }
    assert_eq!(proxy.counters().connections, 1);
    proxy.cut_all();
    let again = until("it is served again", async || link.call_and_wait("a", &set("a", "1"), &wait).await.ok()).await;
    again.1.expect("asked");
}

#[tokio::test]
async fn a_server_without_waitaof_says_so_after_the_write() {
    let server = Server::start(ServerOptions::new().aof("everysec"));
    let link = Link::open(&options(&server)).await.expect("open");
    let wait = WaitFor { replicas: 0, fsync: true, timeout: Duration::from_secs(10) };
    let (_, reached) = link.call_and_wait("a", &set("a", "1"), &wait).await.expect("written");
    match reached {
        Ok(reached) => assert!(reached.is_enough(&wait)),
        Err(error) => assert_eq!(StorageError::from(error).code(), ErrorCode::Unsupported),
    }
}
