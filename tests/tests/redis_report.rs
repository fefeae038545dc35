//! What is said of a server when it is opened, and whether that is true: which server it is, what it may lose, that it
//! does not throw jobs away by itself, and how many copies an enqueue has got to. The probe's own tests
//! (`backend-redis/src/probe/tests.rs`) go through what servers say that are not at hand.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::{Client, ClientError};
use ferroq_core::job::{JobId, JobState};
use ferroq_core::storage::{Effect, EnqueueAnswer, EnqueueRequest, ErrorCode, Inspect, Loss, Storage, StorageError};
use ferroq_redis::{Persistence, Reached, RedisOptions, RedisReport, RedisStorage, ServerKind, WaitFor};
use ferroq_testkit::harness::{queue_name, spec};
use ferroq_tests::fixtures::as_user;
use ferroq_tests::logs;
use ferroq_tests::redis::after::{Site, conserved};
use ferroq_tests::redis::load;
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::{Server, namespace};
use ferroq_tests::wait::until_so;

fn options(server: &Server) -> RedisOptions {
    RedisOptions::from_url(&server.url()).expect("the server's URL")
}

async fn open(options: RedisOptions) -> RedisStorage {
    RedisStorage::open(options).await.expect("a server that can be used")
}

async fn refused(options: RedisOptions) -> StorageError {
    match RedisStorage::open(options).await {
        Ok(storage) => panic!("it was opened: {:?}", storage.report()),
        Err(error) => error,
    }
}

/// The server's version, as it says itself.
fn version(server: &Server) -> String {
    server.info("valkey_version").or_else(|| server.info("redis_version")).expect("a version")
}

/// Puts a job into the queue `load`.
async fn put(storage: &RedisStorage) -> JobId {
    let job = Arc::new(spec(&queue_name(load::QUEUE)));
    let request = EnqueueRequest { call: None, queue: job.queue.clone(), jobs: vec![job.clone()] };
    let (answers, _) = storage.enqueue_replicated(request).await.expect("enqueue");
    assert_eq!(answers, [EnqueueAnswer::Inserted]);
    job.id
}

#[tokio::test]
async fn the_report_is_of_this_server_and_its_warnings_are_logged() {
    logs::keep();
    let server = Server::start(ServerOptions::new());
    let storage = open(options(&server)).await;
    let RedisReport {
        server: place, kind, version: number, cluster, replicas, persistence, durability, warnings, ..
    } = storage.report().clone();
    let is_valkey = server.info("valkey_version").is_some();
    assert_eq!(kind, if is_valkey { ServerKind::Valkey } else { ServerKind::Redis });
    assert_eq!((place, number), (server.address(), version(&server)));
    assert_eq!((cluster, replicas, persistence), (false, 0, Persistence::None));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let place = format!("server={}", server.address());
    assert_eq!(logs::with(&["WARN", &warnings[0], &place]).len(), 1);

    let capabilities = storage.capabilities();
    assert_eq!((capabilities.backend, capabilities.durability), ("redis", durability));
    let second = storage.second_handle().await.expect("a second handle");
    assert_eq!(second.capabilities().durability, durability);
    assert_eq!(logs::with(&["WARN", &warnings[0], &place]).len(), 1, "said once, and not for each handle");
}

/// What a server is set to; what is reported of it; and which of two jobs is there after the server was killed: one that
/// a snapshot was taken after, and one that came last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_server_still_has_is_what_was_reported() {
    use Loss::{Everything, LastCommits, Nothing};
    let all = || ServerOptions::new();
    for (set, persistence, power_loss, kept) in [
        (all().aof("always"), Persistence::Always, Nothing, [true, true]),
        (all().aof("everysec"), Persistence::EverySecond, LastCommits, [true, true]),
        (all().aof("no"), Persistence::AppendOnly, LastCommits, [true, true]),
        (all().aof("everysec").save("3600 1"), Persistence::EverySecond, LastCommits, [true, true]),
        (all().save("3600 1000"), Persistence::Snapshots, LastCommits, [true, false]),
        (all(), Persistence::None, Everything, [false, false]),
    ] {
        let server = Server::start(set);
        let storage = open(options(&server)).await;
        let report = storage.report();
        assert_eq!((report.persistence, report.durability.power_loss), (persistence, power_loss), "{report:?}");
        assert_eq!((report.durability.process_crash, report.durability.failover), (Nothing, Loss::NotApplicable));
        let first = put(&storage).await;
        if persistence == Persistence::Snapshots {
            server.cli(&["SAVE"]);
        }
        let jobs = [first, put(&storage).await];
        server.kill();
        server.restart();
        let site = Site::open(&server, "ferroq").await;
        let snapshot = site.check().await;
        let is_there =
            jobs.map(|id| snapshot.records().any(|(_, job)| job.id() == id && job.state == JobState::Waiting));
        assert_eq!(is_there, kept, "{persistence}");
        let kept = jobs.into_iter().zip(kept).filter_map(|(id, kept)| kept.then_some(id));
        site.drain_and_check(kept, load::worker).await;
        // What was opened before goes on, whatever is left of it.
        let again = put(&storage).await;
        conserved(&site.check().await, [again]);
    }
}

#[tokio::test]
async fn a_server_that_would_throw_jobs_away_is_refused_until_that_is_accepted_or_mended() {
    let server = Server::start(ServerOptions::new().aof("always").max_memory("100mb"));
    for policy in [
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "volatile-lru",
        "volatile-lfu",
        "volatile-random",
        "volatile-ttl",
    ] {
        server.config_set("maxmemory-policy", policy);
        let error = refused(options(&server)).await;
        assert_eq!((error.code(), error.effect()), (ErrorCode::Unsupported, Effect::None));
        for says in [policy, "CONFIG SET maxmemory-policy noeviction", "accept_eviction=true"] {
            assert!(error.to_string().contains(says), "{error}");
        }
        let accepted = RedisOptions::from_url(&server.url_with("accept_eviction=true")).expect("a good URL");
        let report = open(accepted).await.report().clone();
        assert!(report.warnings.len() == 1 && report.warnings[0].contains(policy), "{report:?}");
    }
    assert_eq!(server.cli(&["DBSIZE"]), "0", "opening writes nothing");
    server.config_set("maxmemory-policy", "noeviction");
    assert!(open(options(&server)).await.report().warnings.is_empty());
}

#[tokio::test]
async fn whoever_may_not_read_the_settings_is_told_the_weaker_and_one_right_more_makes_it_exact() {
    let server = Server::start(ServerOptions::new().aof("always"));
    let name = namespace();
    let user = as_user([&server], &name, options(&server).namespace(&name));
    let report = open(user.clone()).await.report().clone();
    assert_eq!((report.persistence, report.durability.power_loss), (Persistence::AppendOnly, Loss::LastCommits));
    assert!(report.warnings.len() == 1 && report.warnings[0].contains("may not read"), "{report:?}");
    server.cli(&["ACL", "SETUSER", &name, "+config|get"]);
    let report = open(user).await.report().clone();
    assert_eq!((report.persistence, report.durability.power_loss), (Persistence::Always, Loss::Nothing));
    assert!(report.warnings.is_empty(), "{report:?}");
}

/// A server and its replica, in step.
async fn with_replica() -> [Server; 2] {
    let master = Server::start(ServerOptions::new().aof("always").set("repl-diskless-sync-delay", "0"));
    let replica = Server::start(ServerOptions::new());
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    // Only once it has asked for more does the master count it.
    let in_step = || master.info("slave0").is_some_and(|slave| slave.contains("state=online"));
    until_so("the replica is in step", || in_step() && replica.info("master_link_status").as_deref() == Some("up"))
        .await;
    [master, replica]
}

/// How many replicas have it, and whether the server has synced it.
fn said(reached: Reached) -> (u32, bool) {
    (reached.replicas, reached.fsynced_local)
}

fn wait_for(replicas: u32, fsync: bool, timeout: Duration) -> WaitFor {
    WaitFor { replicas, fsync, timeout }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enqueue_that_waits_for_replicas_says_what_was_reached() {
    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(50);
    let [master, replica] = with_replica().await;
    let name = namespace();
    let user = |wait: Option<WaitFor>| {
        let options = options(&master).namespace(&name);
        as_user([&master], &name, wait.into_iter().fold(options, RedisOptions::replicas_wait))
    };
    let enqueue = async |storage: &RedisStorage| {
        let job = Arc::new(spec(&queue_name(load::QUEUE)));
        let request = EnqueueRequest { call: None, queue: job.queue.clone(), jobs: vec![job.clone()] };
        let (answers, reached) = storage.enqueue_replicated(request).await.expect("enqueue");
        assert_eq!(answers, [EnqueueAnswer::Inserted]);
        (job.id, reached.map(said))
    };

    // By default nobody waits.
    let storage = open(user(None)).await;
    assert_eq!((storage.report().replicas, storage.report().durability.failover), (1, Loss::LastCommits));
    let (unsure, reached) = enqueue(&storage).await;
    assert_eq!(reached, None);

    let patient = open(user(Some(wait_for(1, false, LONG)))).await;
    assert!(patient.report().warnings.iter().all(|warning| warning.contains("may not read")), "{:?}", patient.report());
    let (id, reached) = enqueue(&patient).await;
    assert_eq!(reached, Some((1, false)));
    let holds = |server: &Server, id: JobId| {
        let key = format!("ferroq:{{{name}:{}}}:spec", load::QUEUE);
        redis::cmd("HEXISTS").arg(key).arg(id.as_bytes()).query::<bool>(&mut server.connection()).expect("HEXISTS")
    };
    assert!(holds(&replica, id) && holds(&replica, unsure), "a write is copied with all that came before it");

    // The client's way: many at once, each with its answer when it is copied.
    let patient = Client::new(Arc::new(patient));
    let all = futures::future::join_all((0..50).map(|_| patient.enqueue(load::Item {}).into_future())).await;
    let handles = all.into_iter().collect::<Result<Vec<_>, _>>().expect("enqueue");
    assert!(handles.iter().all(|handle| holds(&replica, handle.id())));

    let asks_too_much = open(user(Some(wait_for(2, false, SHORT)))).await;
    let warnings = &asks_too_much.report().warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("waits for 2 replicas and 1 are connected")),
        "{warnings:?}"
    );
    let (id, reached) = enqueue(&asks_too_much).await;
    assert_eq!(reached, Some((1, false)));
    assert!(asks_too_much.job(Some(&queue_name(load::QUEUE)), id).await.expect("job").is_some(), "it is stored");

    // A replica that hangs is still connected.
    let hurried = open(user(Some(wait_for(1, false, SHORT)))).await;
    replica.stop();
    let (first, reached) = enqueue(&hurried).await;
    assert_eq!(reached, Some((0, false)));
    let hurried = Client::new(Arc::new(hurried));
    let job = hurried.enqueue(load::Item {});
    let (client, job) = job.into_spec().expect("a job");
    let error = client.enqueue_batch(vec![job.clone()]).await.expect_err("it has no copy");
    let ClientError::Storage(error) = error else { panic!("{error}") };
    assert_eq!((error.code(), error.effect()), (ErrorCode::Other, Effect::Unknown), "{error}");
    assert!(error.to_string().contains("the jobs are stored") && error.to_string().contains("only 0 of 1"), "{error}");
    replica.cont();
    until_so("the replica catches up", || holds(&replica, first) && holds(&replica, job.id)).await;
    let answers = client.enqueue_batch(vec![job.clone()]).await.expect("a repeat, once it has its copy");
    assert_eq!(answers, [EnqueueAnswer::Duplicate(job.id)]);

    let site = Site::open(&master, &name).await;
    site.drain_and_check(handles.iter().map(|handle| handle.id()).chain([id, unsure, first, job.id]), load::worker)
        .await;
}

#[tokio::test]
async fn a_replica_is_no_place_to_work_and_names_its_master() {
    let [master, replica] = with_replica().await;
    let error = refused(options(&replica)).await;
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::None));
    assert!(error.to_string().contains(&master.address()), "{error}");
}

#[tokio::test]
async fn waiting_for_fsync_is_done_or_refused_with_what_it_takes() {
    let wait = wait_for(0, true, Duration::from_secs(30));
    let (with_file, without) =
        (Server::start(ServerOptions::new().aof("everysec")), Server::start(ServerOptions::new()));
    let compatible = with_file.info("redis_version").expect("a version");
    let mut numbers = compatible.split('.').map(|number| number.parse::<u32>().expect("a number"));
    if (numbers.next(), numbers.next()) < (Some(7), Some(2)) {
        let error = refused(options(&with_file).replicas_wait(wait)).await;
        assert_eq!((error.code(), error.effect()), (ErrorCode::Unsupported, Effect::None));
        for says in ["wait_fsync", "Redis 7.2", &version(&with_file)] {
            assert!(error.to_string().contains(says), "{error}");
        }
        return;
    }
    let error = refused(options(&without).replicas_wait(wait)).await;
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unsupported, Effect::None));
    assert!(error.to_string().contains("appendonly no"), "{error}");
    let name = namespace();
    let storage = open(as_user([&with_file], &name, options(&with_file).namespace(&name).replicas_wait(wait))).await;
    let job = Arc::new(spec(&queue_name("queue")));
    let request = EnqueueRequest { call: None, queue: job.queue.clone(), jobs: vec![job] };
    let (_, reached) = storage.enqueue_replicated(request).await.expect("enqueue");
    assert_eq!(reached.map(said), Some((0, true)));
}
