//! What is said of real servers of each kind, and of such as are not at hand.

use std::time::Duration;

use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::Server;
use ferroq_tests::wait::until_so;

use super::*;
use crate::options::WaitFor;

fn options(server: &Server) -> RedisOptions {
    RedisOptions::new("127.0.0.1", server.port())
}

async fn probed(options: &RedisOptions) -> Result<RedisReport, StorageError> {
    let link = Link::open(options).await.expect("open");
    probe(&link, options).await.map(|probe| probe.report)
}

async fn report(options: &RedisOptions) -> RedisReport {
    probed(options).await.expect("a server that can be used")
}

fn info(text: &str) -> HashMap<String, String> {
    read_info(&Value::BulkString(text.replace(' ', "\r\n").into_bytes()))
}

#[tokio::test]
async fn what_may_be_lost_is_what_the_server_is_set_to() {
    use Loss::{Everything, LastCommits, Nothing};
    for (set, persistence, power_loss, warns) in [
        (ServerOptions::new().aof("always"), Persistence::Always, Nothing, ""),
        (ServerOptions::new().aof("everysec"), Persistence::EverySecond, LastCommits, ""),
        (ServerOptions::new().aof("no"), Persistence::AppendOnly, LastCommits, "appendfsync is no"),
        (
            ServerOptions::new().aof("always").set("no-appendfsync-on-rewrite", "yes"),
            Persistence::AppendOnly,
            LastCommits,
            "no-appendfsync-on-rewrite",
        ),
        (ServerOptions::new().save("3600 1"), Persistence::Snapshots, LastCommits, "save 3600 1"),
        (ServerOptions::new(), Persistence::None, Everything, "nothing on disk"),
    ] {
        let server = Server::start(set);
        let report = report(&options(&server)).await;
        assert_eq!((report.persistence, report.durability.power_loss), (persistence, power_loss));
        assert_eq!((report.durability.process_crash, report.durability.failover), (Nothing, Loss::NotApplicable));
        assert_eq!(report.warnings.len(), usize::from(!warns.is_empty()), "{:?}", report.warnings);
        assert!(report.warnings.concat().contains(warns), "{:?}", report.warnings);
        assert!(!report.cluster && report.replicas == 0 && report.server == server.address());
        assert!(version(&report.version) >= OLDEST);
    }
}

#[tokio::test]
async fn a_user_who_may_not_read_the_configuration_gets_the_weaker_answer() {
    let rule = "app on >pw ~* &* +@all -config";
    for (set, power_loss, warns) in [
        (ServerOptions::new().aof("always"), Loss::LastCommits, "the weakest is assumed"),
        (ServerOptions::new(), Loss::Everything, "nothing on disk is assumed"),
    ] {
        let server = Server::start(set.user(rule));
        let report = report(&options(&server).user("app").password("pw")).await;
        assert_eq!(report.durability.power_loss, power_loss);
        assert!(report.warnings.concat().contains(warns), "{:?}", report.warnings);
    }
}

#[tokio::test]
async fn a_user_who_may_not_look_at_all_is_told_which_right_is_missing() {
    let server = Server::start(ServerOptions::new().user("app on >pw ~* &* +@all -info"));
    let error = probed(&options(&server).user("app").password("pw")).await.expect_err("no right");
    assert_eq!(error.code(), ErrorCode::Denied);
    assert!(
        error.to_string().contains("lacks a right: +info;") && error.to_string().contains("docs/redis-acl.md"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_removes_keys_is_refused_unless_that_is_accepted() {
    let server = Server::start(ServerOptions::new().aof("always").eviction("allkeys-lru"));
    let error = probed(&options(&server)).await.expect_err("evicts");
    assert_eq!(error.code(), ErrorCode::Unsupported);
    for says in ["allkeys-lru", "CONFIG SET maxmemory-policy noeviction", "accept_eviction=true"] {
        assert!(error.to_string().contains(says), "{error}");
    }
    let report = report(&options(&server).accept_eviction(true)).await;
    assert!(report.warnings.concat().contains("allkeys-lru"), "{:?}", report.warnings);
}

#[tokio::test]
async fn replicas_mean_that_a_failover_may_lose_the_last_writes() {
    let server = Server::start(ServerOptions::new().aof("always").set("repl-diskless-sync-delay", "0"));
    let wait = WaitFor { replicas: 1, fsync: false, timeout: Duration::from_millis(700) };
    let alone = report(&options(&server).replicas_wait(wait)).await;
    assert!(alone.warnings.concat().contains("700ms"), "{:?}", alone.warnings);

    let replica = Server::start(ServerOptions::new());
    replica.cli(&["REPLICAOF", "127.0.0.1", &server.port().to_string()]);
    until_so("the replica is in step", || replica.info("master_link_status").as_deref() == Some("up")).await;
    let report = report(&options(&server).replicas_wait(wait)).await;
    assert_eq!((report.replicas, report.durability.failover), (1, Loss::LastCommits));
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);

    let error = probed(&options(&replica)).await.expect_err("a replica");
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.to_string().contains(&server.address()), "{error}");
}

#[tokio::test]
async fn waiting_for_fsync_is_refused_where_nothing_syncs() {
    let server = Server::start(ServerOptions::new());
    let wait = WaitFor { replicas: 0, fsync: true, timeout: Duration::from_secs(1) };
    let error = probed(&options(&server).replicas_wait(wait)).await.expect_err("no file to sync");
    assert_eq!(error.code(), ErrorCode::Unsupported);
}
#[tokio::test]
async fn a_cluster_is_reported_as_one_and_its_nodes_are_not_taken_for_servers() {
    let cluster = ferroq_tests::redis::cluster::Cluster::start_with(ServerOptions::new().aof("always"), false).await;
    let report = report(&RedisOptions::from_url(&cluster.url()).expect("a good URL")).await;
    assert!(report.cluster && report.server.split(',').count() == 3, "{report:?}");
    assert_eq!((report.durability.power_loss, report.durability.failover), (Loss::Nothing, Loss::LastCommits));
    let error = probed(&options(&cluster.nodes()[0])).await.expect_err("a node");
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.to_string().contains("redis+cluster://"), "{error}");
}

#[test]
fn versions_and_kinds_are_told_apart() {
    let look = |text| look("here", &info(text), None, false);
    let valkey = look("redis_version:7.2.4 server_name:valkey valkey_version:8.0.1").expect("a server");
    assert_eq!((valkey.kind, valkey.version, valkey.version_text.as_str()), (ServerKind::Valkey, (7, 2), "8.0.1"));
    let first_valkey = look("redis_version:7.2.4 server_name:valkey").expect("a server");
    assert_eq!((first_valkey.kind, first_valkey.version_text.as_str()), (ServerKind::Valkey, "7.2.4"));
    let any = RedisOptions::new("here", 1);
    for (text, refused) in [
        ("redis_version:6.2.14 maxmemory_policy:noeviction", Some("7.0 or later")),
        ("redis_version:7.0.0 maxmemory_policy:noeviction", None),
        ("redis_version:8.2.1 maxmemory_policy:noeviction", None),
        ("redis_version:10.0.0 maxmemory_policy:noeviction", None),
        ("redis_version:7.0.0 maxmemory_policy:volatile-lru", Some("noeviction")),
        ("redis_version:7.0.0", Some("noeviction")),
    ] {
        let checked = check(&look(text).expect("a server"), &any);
        match refused {
            None => checked.expect(text),
            Some(says) => assert!(checked.expect_err(text).to_string().contains(says), "{text}"),
        }
    }
    let fsync = any.replicas_wait(WaitFor { replicas: 1, fsync: true, timeout: Duration::from_secs(1) });
    for (text, refused) in [
        ("redis_version:7.0.15 maxmemory_policy:noeviction aof_enabled:1", Some("7.2")),
        ("redis_version:7.2.0 maxmemory_policy:noeviction aof_enabled:0", Some("append-only")),
        ("redis_version:7.2.0 maxmemory_policy:noeviction aof_enabled:1", None),
    ] {
        let checked = check(&look(text).expect("a server"), &fsync);
        match refused {
            None => checked.expect(text),
            Some(says) => assert!(checked.expect_err(text).to_string().contains(says), "{text}"),
        }
    }
    let error = super::look("here:1", &info("redis_mode:sentinel"), None, false).expect_err("a sentinel");
    assert!(error.to_string().contains("redis+sentinel://here:1/"), "{error}");
}
