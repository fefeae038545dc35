//! The same queues in a Cluster: the whole conformance suite, queues on different nodes that hand jobs to each other, slots
//! that move and masters that change while workers work. Redis acknowledges a write before its replicas have it, so a
//! master that is killed may take the last writes with it; nothing else may be lost, and nothing at all where the master
//! changes in good order. Everybody here is a user with the rights of `docs/redis-acl.md` and no others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroq_core::client::Client;
use ferroq_core::clock::ManualClock;
use ferroq_core::job::{JobId, JobState, QueueName};
use ferroq_core::storage::{
    Act, ActAnswer, Claim, EnqueueAnswer, EnqueueRequest, ErrorCode, JobFilter, QueueCounts, Selection, SettleAnswer,
    Settlement, Storage,
};
use ferroq_redis::{RedisOptions, RedisStorage, WaitFor};
use ferroq_testkit::conformance;
use ferroq_testkit::harness::{Fixture, Scene, abort, completed, queue_name, spec};
use ferroq_tests::fixtures::as_user;
use ferroq_tests::redis::after::{Site, conserved};
use ferroq_tests::redis::cluster::Cluster;
use ferroq_tests::redis::load::{self, Load};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::{Server, namespace};
use ferroq_tests::redis::tally::{ECHOES, Step, Tally, WORK, expected};
use ferroq_tests::wait::{seed, until_so};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

static QUIET: OnceCell<Cluster> = OnceCell::const_new();

/// A Cluster without replicas whose slots stay where they are.
async fn quiet() -> &'static Cluster {
    QUIET.get_or_init(|| Cluster::start(false)).await
}

/// Options for a namespace, as a user of the same name.
fn options(cluster: &Cluster, namespace: &str) -> RedisOptions {
    let options = RedisOptions::from_url(&cluster.url()).expect("the Cluster's URL").namespace(namespace);
    as_user(cluster.nodes(), namespace, options)
}

async fn open(cluster: &Cluster, namespace: &str) -> Arc<dyn Storage> {
    Arc::new(RedisStorage::open(options(cluster, namespace)).await.expect("the Cluster answers"))
}

/// A key of a queue; the others are where it is.
fn meta(namespace: &str, queue: &str) -> String {
    format!("ferroq:{{{namespace}:{queue}}}:meta")
}

/// A namespace in which these two queues are on different nodes.
fn apart(cluster: &Cluster, queues: [&str; 2]) -> String {
    let place = |namespace: &str, queue| cluster.node_of(&meta(namespace, queue)).port();
    let are_apart = |namespace: &String| place(namespace, queues[0]) != place(namespace, queues[1]);
    std::iter::repeat_with(namespace).take(1000).find(are_apart).expect("hashes differ")
}

/// Looks at a namespace through a handle of its own.
async fn site<'a>(cluster: &'a Cluster, namespace: &str) -> Site<'a> {
    Site::of(cluster.masters(), namespace, open(cluster, namespace).await)
}

async fn fixture() -> Fixture {
    let clock = ManualClock::default();
    let options = options(QUIET.get().expect("a Cluster"), &namespace()).clock(Arc::new(clock.clone()));
    let open = move || {
        let options = options.clone();
        async move { Arc::new(RedisStorage::open(options).await.expect("the Cluster answers")) as Arc<dyn Storage> }
    };
    Fixture::new(open().await, clock, ()).with_reopen(open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_suite_holds_in_a_cluster() {
    const AT_ONCE: usize = 8;
    quiet().await;
    let (mut cases, mut failures) = (JoinSet::new(), Vec::new());
    let mut left = conformance::cases().iter();
    loop {
        while cases.len() < AT_ONCE
            && let Some(case) = left.next()
        {
            cases.spawn_blocking(|| Handle::current().block_on(case.run(&fixture)));
        }
        match cases.join_next().await {
            Some(case) => failures.extend(case.expect("a case that panics says so").err()),
            None => break,
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn a_cluster_takes_two_rights_more_and_says_which() {
    let cluster = quiet().await;
    let name = namespace();
    // One node that refuses to be asked is one too many; of the slots any node can tell.
    for (right, nodes, says) in [
        ("asking", &cluster.nodes()[1..2], "lacks a right: +asking;"),
        ("cluster|slots", cluster.nodes(), "'cluster|slots'"),
    ] {
        let options = options(cluster, &name);
        for node in nodes {
            node.cli(&["ACL", "SETUSER", &name, &format!("-{right}")]);
        }
        let error = RedisStorage::open(options).await.expect_err("a right is missing");
        assert_eq!(error.code(), ErrorCode::Denied, "{error}");
        assert!(error.to_string().contains(says) && error.to_string().contains("docs/redis-acl.md"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_on_different_nodes_hand_each_other_jobs() {
    const STEPS: u32 = 300;
    let cluster = quiet().await;
    let namespace = apart(cluster, [WORK, ECHOES]);
    let client = Client::new(open(cluster, &namespace).await);
    let ids: Vec<JobId> = enqueue(&client, 0..STEPS).await;
    let tally = Tally::default();
    tally.worker(&client).run_until_idle().await.expect("run");
    let snapshot = site(cluster, &namespace).await.drain_and_check(ids, |client| tally.worker(client)).await;
    tally.is_right(STEPS, &snapshot);
}

/// A queue on each node.
fn one_on_each_node(cluster: &Cluster, namespace: &str) -> Vec<QueueName> {
    let on = |node: &Server| {
        let is_there = |queue: &String| cluster.node_of(&meta(namespace, queue)).port() == node.port();
        queue_name(&(0..1000).map(|n| format!("queue-{n}")).find(is_there).expect("hashes differ"))
    };
    cluster.masters().into_iter().map(on).collect()
}

/// Jobs fail on one node, their copies on the second, and those leave copies on the third; then all are redriven.
#[tokio::test]
async fn dead_letters_go_from_node_to_node_and_back() {
    const JOBS: usize = 120;
    let cluster = quiet().await;
    let namespace = namespace();
    let queues = one_on_each_node(cluster, &namespace);
    let storage = open(cluster, &namespace).await;
    let mut scene = Scene::new(Fixture::new(storage, ManualClock::default(), ()));
    for pair in queues.windows(2) {
        scene.queue = pair[0].clone();
        scene.configure(|config| config.dead_letter = Some(pair[1].clone())).await;
    }
    scene.queue = queues[0].clone();
    let ids = scene.put_many(JOBS).await;
    for queue in &queues[..2] {
        scene.queue = queue.clone();
        let claims = scene.claim(JOBS).await;
        assert_eq!(claims.len(), JOBS, "the copies are here as soon as the failures are answered");
        let settle = |claim: Claim| Settlement { lease: claim.lease, outcome: abort(), follow_ups: Vec::new() };
        scene.settle_all(claims.into_iter().map(settle).collect()).await;
    }
    let redrive = async |scene: &Scene, state| {
        let on = Selection::Filter { filter: JobFilter::states([state]), after: None, max_items: 1000 };
        let report = scene.act_on(on, Act::Redrive).await;
        assert_eq!(report.answers.len(), JOBS);
        assert!(report.answers.iter().all(|(_, answer)| *answer == ActAnswer::Done(state)), "{report:?}");
    };
    // From the third node to the second, as new jobs; and the copies that failed on the second go home to the first.
    scene.queue = queues[2].clone();
    redrive(&scene, JobState::Waiting).await;
    assert_eq!(scene.counts().await, QueueCounts::default());
    scene.queue = queues[1].clone();
    redrive(&scene, JobState::Failed).await;
    assert_eq!(scene.counts().await.waiting as usize, JOBS, "those that came back are here");
    scene.queue = queues[0].clone();
    let home = scene.list(JobFilter::states([JobState::Waiting]), 1000).await;
    let from: Vec<_> = home.iter().filter_map(|job| job.spec.origin.as_ref()).map(|origin| origin.id).collect();
    assert_eq!(from, ids, "each failed once, and came home once, in order");
    let snapshot = site(cluster, &namespace).await.check().await;
    conserved(&snapshot, ids);
}

#[tokio::test]
async fn a_flow_goes_from_node_to_node() {
    let cluster = quiet().await;
    let namespace = namespace();
    let queues = one_on_each_node(cluster, &namespace);
    let storage = open(cluster, &namespace).await;
    let mut scene = Scene::new(Fixture::new(storage, ManualClock::default(), ()));
    scene.queue = queues[0].clone();
    let mut ids = vec![scene.put_one(scene.spec()).await];
    for hop in 0..30 {
        let (here, next) = (&queues[hop % 3], &queues[(hop + 1) % 3]);
        scene.queue = here.clone();
        let claim = scene.claim_one().await;
        assert_eq!(Some(&claim.lease.id), ids.last(), "the flow has come here, and nothing else");
        let outcome = if hop % 4 == 3 { abort() } else { completed() };
        let state = if hop % 4 == 3 { JobState::Failed } else { JobState::Completed };
        let follow_up = spec(next);
        ids.push(follow_up.id);
        let answer = scene.settle_with(claim.lease, outcome, [follow_up]).await;
        assert_eq!(answer, SettleAnswer::Settled { state, follow_ups: vec![EnqueueAnswer::Inserted] });
    }
    conserved(&site(cluster, &namespace).await.check().await, ids);
}

async fn enqueue(client: &Client, numbers: std::ops::Range<u32>) -> Vec<JobId> {
    let handles = client.enqueue_all(numbers.map(|n| Step { n })).await.expect("enqueue");
    handles.iter().map(|handle| handle.id()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_under_workers_lose_and_double_nothing() {
    const STEPS: u32 = 2000;
    let cluster = Cluster::start(false).await;
    let namespace = apart(&cluster, [WORK, ECHOES]);
    let tally = Tally::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let client = Client::new(open(&cluster, &namespace).await);
        workers.push(tally.worker(&client).concurrency(4).start().await.expect("start"));
    }
    let client = Client::new(open(&cluster, &namespace).await);
    let mut ids = Vec::new();
    let slots = [WORK, ECHOES].map(|queue| cluster.slot_of(&meta(&namespace, queue)));
    let mut moves = 0;
    while tally.jobs() < expected(STEPS).len() {
        let begun = ids.len() as u32;
        ids.extend(enqueue(&client, begun..STEPS.min(begun + 200)).await);
        let all = expected(ids.len() as u32).len();
        for slot in slots {
            let from = cluster.node_of_slot(slot).port();
            let to = cluster.masters().into_iter().find(|node| node.port() != from).expect("another");
            let moving = cluster.begin_move(slot, to);
            // Half of the keys here, half of them there, is what a client finds hardest; and for as long as some more work is done,
            // or refused.
            moving.move_keys(5);
            let (done, refused) = (tally.runs(), refusals(&cluster));
            until_so("workers meet the half-moved slot", || {
                tally.runs() > done || refusals(&cluster) > refused || tally.jobs() == all
            })
            .await;
            moving.finish();
            moves += 1;
        }
        let done = tally.runs();
        until_so("work goes on", || tally.runs() > done || tally.jobs() == all).await;
    }
    assert!(moves >= 10, "{moves} moves");
    for worker in workers {
        worker.shutdown().await;
    }
    cluster.is_ok().await;
    let site = site(&cluster, &namespace).await;
    let snapshot = site.drain_and_check(ids, |client| tally.worker(client)).await;
    tally.is_right(STEPS, &snapshot);
}

/// How often nodes have told somebody to try again, or to look elsewhere.
fn refusals(cluster: &Cluster) -> u64 {
    let count = |node: &Server, code: &str| -> u64 {
        let line = node.info(&format!("errorstat_{code}")).unwrap_or_default();
        line.strip_prefix("count=").and_then(|count| count.parse().ok()).unwrap_or_default()
    };
    cluster.masters().iter().map(|node| count(node, "TRYAGAIN") + count(node, "ASK") + count(node, "MOVED")).sum()
}

/// Two handles on queues that keep everything, under a load.
async fn under_load(cluster: &Cluster, namespace: &str, seed: u64) -> Load {
    let storages = [open(cluster, namespace).await, open(cluster, namespace).await];
    for queue in [load::QUEUE, load::FOLLOWERS] {
        let queue = QueueName::new(queue).expect("a name");
        storages[0].configure(&queue, load::keep_all()).await.expect("configure");
    }
    Load::start(&storages, seed)
}

/// Waits until some more jobs have ended.
async fn goes_on(load: &Load) {
    let ended = load.book().ended.len();
    until_so("the load goes on", || load.book().ended.len() > ended + 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_changes_in_good_order_loses_nothing() {
    let seed = seed("redis_cluster", "a_master_that_changes_in_good_order");
    let cluster = Cluster::start(true).await;
    let namespace = apart(&cluster, [load::QUEUE, load::FOLLOWERS]);
    let load = under_load(&cluster, &namespace, seed).await;
    for queue in [load::QUEUE, load::FOLLOWERS, load::QUEUE] {
        goes_on(&load).await;
        cluster.switch_over(cluster.node_of(&meta(&namespace, queue))).await;
        goes_on(&load).await;
        cluster.is_ok().await;
    }
    let book = load.stop().await;
    let site = site(&cluster, &namespace).await;
    conserved(&site.check().await, book.inserted.keys().copied());
    let snapshot = site.drain_and_check(book.inserted.keys().copied(), load::worker).await;
    book.nothing_ran_again(Instant::now());
    let ghost = snapshot.records().find(|(_, job)| book.refused.contains(&job.id()));
    assert!(ghost.is_none(), "refused with nothing changed, and there it is: {ghost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_takes_only_what_its_replica_had_not() {
    let seed = seed("redis_cluster", "a_master_that_is_killed");
    let cluster = Cluster::start_with(ServerOptions::new().aof("everysec"), true).await;
    let namespace = apart(&cluster, [load::QUEUE, load::FOLLOWERS]);
    for (round, queue) in [load::QUEUE, load::FOLLOWERS].into_iter().enumerate() {
        let load = under_load(&cluster, &namespace, seed.wrapping_add(round as u64)).await;
        goes_on(&load).await;
        let master = cluster.node_of(&meta(&namespace, queue));
        let acknowledged = Instant::now();
        // All that was acknowledged is in what the master has sent by now.
        let replica = cluster.replica_of(master).expect("a replica");
        has_all_of(replica, master).await;
        cluster.fail_over(master).await;
        let taken_over = Instant::now();
        goes_on(&load).await;
        let book = load.stop().await;
        cluster.heal().await;
        let site = site(&cluster, &namespace).await;
        let before = book.inserted_before(acknowledged);
        assert!(before.len() > 50, "{} jobs were acknowledged before the kill", before.len());
        conserved(&site.check().await, before.iter().copied());
        book.nothing_ran_again(acknowledged);
        // What the new master acknowledged is its own.
        conserved(&site.drain_and_check(before, load::worker).await, book.inserted_after(taken_over));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enqueue_waits_for_the_replica_of_the_node_that_has_its_queue() {
    let cluster = Cluster::start(true).await;
    let namespace = apart(&cluster, [load::QUEUE, load::FOLLOWERS]);
    let options = RedisOptions::from_url(&cluster.url()).expect("the Cluster's URL").namespace(&namespace);
    let wait = WaitFor { replicas: 1, fsync: false, timeout: Duration::from_millis(100) };
    let storage = RedisStorage::open(as_user(cluster.nodes(), &namespace, options.replicas_wait(wait))).await;
    let storage = storage.expect("the Cluster answers");
    assert_eq!((storage.report().cluster, storage.report().replicas), (true, 1), "{:?}", storage.report());
    let reached = async |queue: &str| {
        let job = Arc::new(spec(&queue_name(queue)));
        let request = EnqueueRequest { call: None, queue: job.queue.clone(), jobs: vec![job] };
        storage.enqueue_replicated(request).await.expect("enqueue").1.map(|reached| reached.replicas)
    };
    let replica = cluster.replica_of(cluster.node_of(&meta(&namespace, load::QUEUE))).expect("a replica");
    assert_eq!((reached(load::QUEUE).await, reached(load::FOLLOWERS).await), (Some(1), Some(1)));
    replica.stop();
    assert_eq!((reached(load::QUEUE).await, reached(load::FOLLOWERS).await), (Some(0), Some(1)));
    replica.cont();
    site(&cluster, &namespace).await.drain_and_check([], load::worker).await;
}

/// Waits until the replica has all that the master has written so far.
async fn has_all_of(replica: &Server, master: &Server) {
    let offset = |server: &Server, field| server.info(field).and_then(|offset| offset.parse::<u64>().ok());
    let written = offset(master, "master_repl_offset").expect("a master tells");
    until_so("the replica has what the master wrote", || offset(replica, "slave_repl_offset") >= Some(written)).await;
}
