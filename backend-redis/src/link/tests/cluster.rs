//! In a Cluster.

use ferroq_tests::redis::cluster::Cluster as Servers;

use super::*;

fn options(cluster: &Servers) -> RedisOptions {
    RedisOptions::from_url(&cluster.url_with("connect_timeout=1s&call_timeout=2s")).expect("a good URL")
}

/// Keys on all nodes.
fn keys() -> Vec<String> {
    (0..60).map(|key| format!("{{{key}}}")).collect()
}

#[tokio::test]
async fn keys_go_to_their_nodes_even_if_only_one_node_was_named() {
    let cluster = Servers::start(false).await;
    let seed = RedisOptions::cluster([("127.0.0.1", cluster.nodes()[2].port())]);
    let link = Link::open(&seed).await.expect("open");
    for key in keys() {
        link.call(&set(&key, "1")).await.expect("set");
        let mut eval = cmd("EVAL");
        eval.arg("return redis.call('GET', KEYS[1])").arg(1).arg(&key);
        assert_eq!(text(link.call(&eval).await.expect("eval")), "1");
    }
    assert_eq!(cluster.key_count(), 60);
    let sizes = link.call_everywhere(&cmd("DBSIZE")).await.expect("everywhere");
    let sizes: Vec<u64> = sizes.into_iter().map(|(_, size)| redis::from_redis_value(size).expect("a size")).collect();
    assert_eq!((sizes.len(), sizes.iter().sum::<u64>()), (3, 60));
}

#[tokio::test]
async fn calls_follow_a_slot_while_and_after_it_moves() {
    let cluster = Servers::start(false).await;
    let link = Link::open(&options(&cluster)).await.expect("open");
    let mut blocking = link.blocking("{q}list").await.expect("blocking");
    link.call(&set("{q}old", "1")).await.expect("set");
    let slot = cluster.slot_of("{q}");
    let from = cluster.node_of_slot(slot).port();
    let to = cluster.nodes().iter().find(|node| node.port() != from).expect("another node");
    let moving = cluster.begin_move(slot, to);
    // A key that is there, and one that the new node is asked for.
    assert_eq!(text(link.call(&get("{q}old")).await.expect("get")), "1");
    link.call(&set("{q}new", "2")).await.expect("set by asking");
    assert_eq!(text(link.call(&get("{q}new")).await.expect("get by asking")), "2");
    let mut both = cmd("MGET");
    both.arg("{q}old").arg("{q}new");
    let error = link.call(&both).await.expect_err("one is here and one is there");
    let error = StorageError::from(error);
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::None));
    blocking.call(&set("{q}own", "3"), Duration::from_secs(2)).await.expect("by asking");
    moving.finish();
    let both = link.call(&both).await.expect("both are there");
    assert_eq!(redis::from_redis_value::<Vec<String>>(both).expect("values"), ["1", "2"]);
    blocking.call(&set("{q}own", "4"), Duration::from_secs(2)).await.expect("moved");
    assert_eq!(text(link.call(&get("{q}own")).await.expect("get")), "4");
}

#[tokio::test]
async fn a_failover_is_followed() {
    let cluster = Servers::start(true).await;
    let link = Link::open(&options(&cluster)).await.expect("open");
    for key in keys() {
        link.call(&set(&key, "1")).await.expect("set");
    }
    cluster.is_ok().await;
    let mut blocking = link.blocking("{q}").await.expect("blocking");
    cluster.fail_over(cluster.node_of("{q}")).await;
    for key in keys() {
        until_served(&link, &set(&key, "2")).await;
    }
    until("the blocking connection moves", async || blocking.call(&set("{q}", "3"), Duration::from_secs(2)).await.ok())
        .await;
    // In good order, no call is lost: the old master sends everybody on.
    cluster.heal().await;
    let master = cluster.node_of("{q}");
    cluster.switch_over(master).await;
    until_served(&link, &set("{q}", "4")).await;
}

#[tokio::test]
async fn all_nodes_gone_is_unavailable_and_their_return_is_noticed() {
    let cluster = Servers::start(false).await;
    let link = Link::open(&options(&cluster)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    for node in cluster.nodes() {
        node.kill();
    }
    let error = until("it is noticed", async || {
        link.call(&get("a")).await.err().map(StorageError::from).filter(|error| error.effect() == Effect::None)
    })
    .await;
    assert_eq!(error.code(), ErrorCode::Unavailable);
    cluster.heal().await;
    until_served(&link, &set("a", "2")).await;
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_refused_with_what_would_be_right() {
    let server = start();
    let error = Link::open(&RedisOptions::cluster([("127.0.0.1", server.port())])).await.expect_err("no cluster");
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.to_string().contains("redis://"), "{error}");
}

#[tokio::test]
async fn a_message_published_on_any_node_is_heard() {
    let cluster = Servers::start(false).await;
    let link = Link::open(&options(&cluster)).await.expect("open");
    let (mut sink, mut stream) = link.subscriber().await.expect("subscriber");
    sink.subscribe("news").await.expect("subscribe");
    for node in cluster.nodes() {
        node.cli(&["PUBLISH", "news", "x"]);
        assert_eq!(stream.next().await.expect("a message").channel, "news");
    }
    link.close();
    assert_eq!(StorageError::from(link.call(&get("a")).await.expect_err("closed")).code(), ErrorCode::Closed);
}
