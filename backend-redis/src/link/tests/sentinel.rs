//! Behind Sentinels.

use ferroq_tests::redis::sentinel::SentinelGroup;

use super::*;

fn options(group: &SentinelGroup) -> RedisOptions {
    RedisOptions::from_url(&group.url_with("connect_timeout=1s&call_timeout=2s")).expect("a good URL")
}

#[tokio::test]
async fn the_master_is_found_and_found_again_after_a_failover() {
    let group = SentinelGroup::start().await;
    let link = Link::open(&options(&group)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    let mut blocking = link.blocking("q").await.expect("blocking");
    group.is_ok().await;
    let master = group.fail_over().await;
    until_served(&link, &set("a", "2")).await;
    assert_eq!(master.cli(&["GET", "a"]), "2");
    until("the blocking connection moves", async || blocking.call(&set("b", "1"), Duration::from_secs(2)).await.ok())
        .await;
    assert_eq!(master.cli(&["GET", "b"]), "1");
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left() {
    let group = SentinelGroup::start().await;
    let link = Link::open(&options(&group)).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    let master = group.switch_over().await;
    until_served(&link, &set("a", "2")).await;
    assert_eq!(master.cli(&["GET", "a"]), "2");
}

#[tokio::test]
async fn a_sentinel_that_is_gone_or_a_name_that_nobody_knows_is_said() {
    let group = SentinelGroup::start().await;
    group.sentinels()[0].kill();
    let link = Link::open(&options(&group)).await.expect("by the other sentinels");
    link.call(&set("a", "1")).await.expect("set");
    let ports = group.sentinels().iter().map(|sentinel| ("127.0.0.1", sentinel.port()));
    let error = Link::open(&RedisOptions::sentinel(ports, "nobody")).await.expect_err("no such master");
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::None));
    assert!(error.to_string().contains("knows no master \"nobody\""), "{error}");
}

#[tokio::test]
async fn passwords_of_servers_and_of_sentinels_are_their_own() {
    let group = SentinelGroup::start_with(ServerOptions::new().password("right")).await;
    for sentinel in group.sentinels() {
        sentinel.cli(&["ACL", "SETUSER", "default", ">watch"]);
    }
    let good = options(&group).password("right").sentinel_password("watch");
    let link = Link::open(&good).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    let error = Link::open(&good.clone().password("wrong")).await.expect_err("a wrong password");
    assert_eq!(error.code(), ErrorCode::Denied);
    Link::open(&good.sentinel_password("wrong")).await.expect_err("a wrong password");
}
