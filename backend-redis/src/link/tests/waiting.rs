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

/// A new connection has written nothing, so a server asked over one says at once that all replicas have it.
#[tokio::test]
async fn a_connection_lost_before_its_wait_is_not_replaced_by_one_that_wrote_nothing() {
    let server = Server::start(ServerOptions::new().set("repl-diskless-sync-delay", "0"));
    let replica = replica_of(&server);
    until_so("the replica is in step", || replica.info("master_link_status").as_deref() == Some("up")).await;
    replica.stop();
    let proxy = Proxy::start(server.port());
    let link = Link::open(&RedisOptions::new("127.0.0.1", proxy.port())).await.expect("open");
    let wait = WaitFor { replicas: 1, fsync: false, timeout: Duration::from_secs(3600) };
    // The reply to SET gets through, and nothing after it.
    link.call_and_wait("a", &set("a", "1"), &WaitFor { timeout: SHORT, ..wait })
        .await
        .expect("written")
        .1
        .expect("asked");
    proxy.set(Mode::CutAfterReplyBytes("+OK\r\n".len() as u64));
    let write = set("a", "2");
    let call = link.call_and_wait("a", &write, &wait);
    let (answer, ()) = tokio::join!(call, async {
        until_so("the write is acknowledged", || proxy.counters().reply_bytes == 5).await;
        proxy.cut_all();
    });
    let (_, reached) = answer.expect("written");
    let error = StorageError::from(reached.expect_err("nobody knows"));
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::Unknown));
    replica.cont();
}
#[tokio::test]
async fn in_a_cluster_the_node_that_wrote_is_asked() {
    use ferroq_tests::redis::cluster::Cluster as Servers;

    let cluster = Servers::start(true).await;
    let link = Link::open(&RedisOptions::from_url(&cluster.url()).expect("a good URL")).await.expect("open");
    let wait = WaitFor { replicas: 1, fsync: false, timeout: Duration::from_secs(10) };
    for key in ["a", "b", "c", "d"] {
        let (_, reached) = link.call_and_wait(key, &set(key, "1"), &wait).await.expect("written");
        assert!(reached.expect("asked").is_enough(&wait));
        let replica = cluster.replica_of(cluster.node_of(key)).expect("a replica");
        assert!(replica.cli(&["INFO", "keyspace"]).contains("keys="));
    }
    // A slot that is moving: the node that is asked instead is the one that wrote.
    let slot = cluster.slot_of("new");
    let from = cluster.node_of_slot(slot).port();
    let to = cluster.masters().into_iter().find(|node| node.port() != from).expect("another master");
    let moving = cluster.begin_move(slot, to);
    let (_, reached) = link.call_and_wait("new", &set("new", "1"), &wait).await.expect("written by asking");
    assert!(reached.expect("asked").is_enough(&wait));
    moving.finish();
    let (_, reached) = link.call_and_wait("new", &set("new", "2"), &wait).await.expect("written");
    assert!(reached.expect("asked").is_enough(&wait));
}
