//! The way to the server breaks in every manner but the one at the byte (see `redis_wire.rs`): connections are killed,
//! the server stands still, forgets its scripts, dies and comes back. No job may run a time too often or too seldom for
//! it, no worker may end, and one that is idle must hear of work again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferroq_core::client::{Client, ClientError};
use ferroq_core::context::Context;
use ferroq_core::event::EventKind;
use ferroq_core::job::{Job, JobState, Start};
use ferroq_core::storage::{ActAnswer, Effect, JobFilter};
use ferroq_core::worker::{RunningWorker, Worker, WorkerBuilder};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_tests::logs;
use ferroq_tests::redis::after::{Site, Witness};
use ferroq_tests::redis::holding::{Held, Holding};
use ferroq_tests::redis::monitor::Overheard;
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::proxy::{Mode, Proxy};
use ferroq_tests::redis::server::{Server, namespace};
use ferroq_tests::redis::tally::{Step, Tally, WORK, expected};
use ferroq_tests::wait::{until, until_so, within};
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);

fn options(url: &str, namespace: &str) -> RedisOptions {
    RedisOptions::from_url(url).expect("the server's URL").namespace(namespace)
}

async fn open(options: RedisOptions) -> Arc<RedisStorage> {
    Arc::new(RedisStorage::open(options).await.expect("the server answers"))
}

/// Makes a call until it is taken. One that failed without effect is the caller's to make again; of any other the client
/// has found out what became of it.
async fn surely<T>(mut call: impl AsyncFnMut() -> Result<T, ClientError>) -> T {
    let taken = async || match call().await {
        Ok(answer) => Some(answer),
        Err(error) => {
            assert_eq!((error.effect(), error.is_retryable()), (Effect::None, true), "{error}");
            None
        }
    };
    until("the call is taken", taken).await
}

fn steps(from: u32, count: u32) -> impl Iterator<Item = Step> + Clone {
    (from..from + count).map(|n| Step { n })
}

/// Three workers with a handle each drain `jobs` steps and what follows from them, while `fault` happens again and again on
/// a thread of its own, at least once for every 50 steps. Then everything is checked. Answers who saw it.
async fn drained_under(
    server: &Arc<Server>,
    jobs: u32,
    mut fault: impl FnMut(&Server) + Send + 'static,
) -> Arc<Witness> {
    let namespace = namespace();
    let witness = Witness::new(open(options(&server.url(), &namespace)).await);
    let client = Client::new(witness.clone());
    let tally = Tally::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let client = Client::new(witness.beside(open(options(&server.url(), &namespace)).await));
        workers.push(tally.worker(&client).concurrency(20).start().await.expect("start"));
    }
    let (over, times) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let faults = std::thread::spawn({
        let (server, over, times) = (server.clone(), over.clone(), times.clone());
        move || {
            while !over.load(Ordering::SeqCst) {
                fault(&server);
                times.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let mut acknowledged = BTreeSet::new();
    for n in (0..jobs).step_by(50) {
        let before = times.load(Ordering::SeqCst);
        let handles = surely(async || client.enqueue_all(steps(n, 50)).await).await;
        assert!(handles.iter().all(|handle| !handle.is_duplicate()), "each was inserted by its own call");
        acknowledged.extend(handles.iter().map(|handle| handle.id()));
        until_so("the fault happens", || times.load(Ordering::SeqCst) > before).await;
    }
    let all = expected(jobs).len();
    until_so("every job has run", || tally.jobs() == all).await;
    over.store(true, Ordering::SeqCst);
    faults.join().expect("the faults");
    for worker in workers {
        let report = worker.shutdown().await;
        assert_eq!((report.lost, report.failed), (0, 0), "{report:?}");
    }
    let site = Site::open(server, &namespace).await.witnessed_by(&witness);
    acknowledged.extend(witness.acknowledged());
    let snapshot = site.drain_and_check(acknowledged, |client| tally.worker(client)).await;
    tally.is_right(jobs, &snapshot);
    witness.explain(&snapshot);
    witness
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_every_50_ms_lose_and_double_nothing() {
    let server = Arc::new(Server::start(ServerOptions::new()));
    let killed = Arc::new(AtomicU64::new(0));
    let count = killed.clone();
    let witness = drained_under(&server, 3_000, move |server| {
        count.fetch_add(server.client_kill_all(), Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(50));
    })
    .await;
    // Of three workers each has four: for calls, for its heartbeat, for tokens and for messages.
    let killed = killed.load(Ordering::SeqCst);
    assert!(killed > 60 * 4, "only {killed} connections were killed");
    assert!(witness.unknown() > 0, "no kill met a call on its way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_flushed_all_the_time_are_sent_again_and_no_call_fails() {
    let server = Arc::new(Server::start(ServerOptions::new()));
    let mut sync = false;
    let witness = drained_under(&server, 1_000, move |server| {
        sync = !sync;
        server.cli(&["SCRIPT", "FLUSH", if sync { "SYNC" } else { "ASYNC" }]);
    })
    .await;
    assert_eq!((witness.unknown(), witness.refused()), (0, 0), "nobody noticed");
    let sent = server.info("cmdstat_eval").unwrap_or_default();
    assert!(sent.contains("calls="), "scripts were never sent whole: {sent}");
    let missed = server.info("errorstat_NOSCRIPT").unwrap_or_default();
    assert!(missed.contains("count="), "no call ever met an empty cache: {missed}");
}

const LEASE: Duration = Duration::from_secs(2);

/// Two workers hold jobs while the server stands still for longer than their leases. Nobody may take a job from either.
async fn standing_still(call_timeout: Duration, stand_still: impl FnOnce(&Server, Duration)) {
    let server = Arc::new(Server::start(ServerOptions::new()));
    let namespace = namespace();
    let witness = Witness::new(open(options(&server.url(), &namespace)).await);
    let holding = Holding::new();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let storage = open(options(&server.url(), &namespace).call_timeout(call_timeout)).await;
        let client = Client::new(witness.beside(storage));
        workers.push(holding.worker(&client).concurrency(10).lease(LEASE).start().await.expect("start"));
    }
    let client = Client::new(witness.clone());
    let handles = client.enqueue_all((0..12).map(|n| Held { n })).await.expect("enqueue");
    until_so("all run", || holding.started() == 12).await;

    stand_still(&server, LEASE * 3 / 2);
    let asked = server.clone();
    tokio::task::spawn_blocking(move || asked.cli(&["PING"])).await.expect("the server goes on");
    // By the server's clock: what was lost would be seen as lost by then.
    let site = Site::open(&server, &namespace).await.witnessed_by(&witness);
    let queue = handles[0].queue().clone();
    let storage = site.storage();
    let back = storage.now(&queue).await.expect("now");
    until("another lease goes by", async || {
        let now = storage.now(&queue).await.expect("now");
        (now.since(back) > LEASE * 5 / 4).then_some(())
    })
    .await;
    assert_eq!(holding.started(), 12, "no job was started a second time");
    assert_eq!(witness.unknown() > 0, call_timeout < LEASE, "whether calls were given up");
    let active = client.queue(&queue).expect("a name").all(JobFilter::states([JobState::Active])).await.expect("list");
    assert_eq!(active.len(), 12, "each is still held by its worker: {active:#?}");
    holding.let_go();
    for handle in &handles {
        within("it completes", handle.wait()).await.expect("it completes");
    }
    for worker in workers {
        let report = worker.shutdown().await;
        assert_eq!(report.lost, 0, "{report:?}");
    }
    let snapshot = site.drain_and_check(witness.acknowledged(), |client| holding.worker(client)).await;
    for (_, job) in snapshot.records() {
        assert_eq!((job.state, job.runs, job.crashes), (JobState::Completed, 1, 0), "{job:#?}");
    }
    let events = &snapshot.queues[&queue].events;
    assert!(events.iter().any(|(kind, _)| *kind == EventKind::LeasesExtended), "the log tells of the outage");
    witness.explain(&snapshot);
}

const PATIENT: Duration = Duration::from_secs(20);
const IMPATIENT: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_longer_than_the_lease_takes_no_job_from_workers_who_wait() {
    standing_still(PATIENT, |server, time| server.client_pause(time)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_longer_than_the_lease_takes_no_job_from_workers_who_hang_up() {
    standing_still(IMPATIENT, |server, time| server.client_pause(time)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleep_longer_than_the_lease_takes_no_job_from_workers_who_wait() {
    standing_still(PATIENT, |server, time| server.debug_sleep(time)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleep_longer_than_the_lease_takes_no_job_from_workers_who_hang_up() {
    standing_still(IMPATIENT, |server, time| server.debug_sleep(time)).await;
}

/// How often the worker has logged that the storage fails for this queue of this server, and that it answers again.
fn state_changes(address: &str, queue: &str) -> (usize, usize) {
    let queue = format!("queue={queue}");
    (logs::with(&["the storage fails", &queue, address]).len(), logs::with(&["answers again", &queue]).len())
}

#[derive(Clone, Serialize, Deserialize)]
struct Restarted {
    n: u32,
}

impl Job for Restarted {
    const NAME: &'static str = "test.restarted";
    const QUEUE: &'static str = "restarted";
    type Output = ();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_outlives_its_server_and_logs_each_change_once() {
    logs::keep();
    let server = Server::start(ServerOptions::new().aof("always"));
    let namespace = namespace();
    let witness = Witness::new(open(options(&server.url(), &namespace)).await);
    let ran = Arc::new(AtomicU64::new(0));
    let worker = |client: &Client| {
        let ran = ran.clone();
        Worker::new(client).poll_interval(SECOND / 10).lease(SECOND * 3).handle(move |_job: Restarted, _cx: Context| {
            let ran = ran.clone();
            async move {
                ran.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        })
    };
    let client = Client::new(witness.clone());
    let running = worker(&client).start().await.expect("start");
    for round in 1..=4 {
        let jobs = |n| (0..n).map(|n| Restarted { n });
        let before = ran.load(Ordering::SeqCst);
        client.enqueue_all(jobs(100)).await.expect("enqueue");
        if round % 2 == 0 {
            // It dies under the worker's hands, or while it idles.
            until_so("jobs run", || ran.load(Ordering::SeqCst) > before + 10).await;
        } else {
            until_so("jobs run", || ran.load(Ordering::SeqCst) == before + 100).await;
        }
        server.kill();
        until_so("the worker says so", || state_changes(&server.address(), "restarted").0 >= round).await;
        let refused = witness.refused();
        until_so("the worker tries on", || witness.refused() > refused + 5).await;
        server.restart();
        until_so("the worker says so", || state_changes(&server.address(), "restarted").1 >= round).await;
        until_so("jobs run", || ran.load(Ordering::SeqCst) == round as u64 * 100).await;
    }
    let report = running.shutdown().await;
    assert_eq!((report.completed, report.lost), (400, 0), "{report:?}");
    assert_eq!(state_changes(&server.address(), "restarted"), (4, 4), "{:#?}", logs::with(&["queue=restarted"]));
    // Its helpers may not have met each outage, and say so once as well.
    for helper in ["the queues can't be swept", "leases can't be renewed"] {
        let lines = logs::with(&[helper, &server.address()]);
        assert!(lines.len() <= 4, "{lines:#?}");
    }
    let site = Site::open(&server, &namespace).await.witnessed_by(&witness);
    let snapshot = site.drain_and_check(witness.acknowledged(), worker).await;
    assert!(snapshot.records().all(|(_, job)| (job.runs, job.crashes) == (1, 0)), "{snapshot:#?}");
    witness.explain(&snapshot);
}

/// Longer than any test: whoever hears of work within this time has been told.
const NO_POLL: Duration = Duration::from_secs(3600);

/// The worker waits for a token, and listens for messages.
async fn is_listening(server: &Server) {
    let is = |field: &str, at_least: u64| {
        server.info(field).and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count >= at_least)
    };
    until_so("the worker waits for a token", || is("blocked_clients", 1)).await;
    until_so("the worker listens for messages", || is("pubsub_channels", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_is_woken_and_told_again_after_its_connections_were_lost() {
    let server = Server::start(ServerOptions::new().aof("always"));
    let proxy = Proxy::start(server.port());
    let namespace = namespace();
    let ways = options(&proxy.url(&server.url()), &namespace).connect_timeout(IMPATIENT).call_timeout(SECOND / 2);
    let witness = Witness::new(open(ways).await);
    let holding = Holding::new();
    let worker = holding.worker(&Client::new(witness.clone())).poll_interval(NO_POLL).lease(NO_POLL).concurrency(1000);
    let worker = worker.start().await.expect("start");
    let outside = witness.beside(open(options(&server.url(), &namespace)).await);
    let outside = Client::new(outside);
    let mut handles = Vec::new();
    for round in 0..8 {
        match round {
            0 => {}
            1 | 2 => assert!(server.client_kill_all() > 0),
            3 => assert!(proxy.cut_all() > 0),
            4 => {
                proxy.set(Mode::Refuse);
                proxy.cut_all();
                let before = witness.refused();
                // The cut itself makes the worker look.
                until_so("the worker tries", || witness.refused() > before).await;
                proxy.set(Mode::Pass);
            }
            5 | 6 => {
                server.kill();
                let before = witness.refused();
                until_so("the worker tries", || witness.refused() > before).await;
                server.restart();
            }
            _ => {
                proxy.set(Mode::Silent);
                until_so("somebody knocks again", || proxy.counters().connections > 0).await;
                proxy.cut_all();
                proxy.set(Mode::Pass);
            }
        }
        is_listening(&server).await;
        let started = holding.started();
        let handle = surely(async || outside.enqueue(Held { n: round }).await).await;
        until_so(&format!("the job starts in round {round}"), || holding.started() > started).await;
        handles.push(handle);
    }
    // Its leases are not renewed before the hour is half over, so only a message can tell it to stop a run.
    for (place, handle) in handles.iter().enumerate() {
        if place.is_multiple_of(2) {
            assert!(server.client_kill_all() > 0);
        }
        is_listening(&server).await;
        assert_eq!(surely(async || handle.cancel().await).await, ActAnswer::Requested);
        let record = within("the run is told to stop", handle.wait_record()).await.expect("a record");
        assert_eq!((record.state, record.runs), (JobState::Cancelled, 1), "{record:#?}");
    }
    worker.shutdown().await;
    let site = Site::open(&server, &namespace).await.witnessed_by(&witness);
    let snapshot = site.drain_and_check(witness.acknowledged(), |client| holding.worker(client)).await;
    witness.explain(&snapshot);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_lost_with_its_connection_is_made_up_for_at_once() {
    let server = Server::start(ServerOptions::new());
    let proxy = Proxy::start(server.port());
    let namespace = namespace();
    let witness = Witness::new(open(options(&proxy.url(&server.url()), &namespace)).await);
    let outside = Client::new(witness.beside(open(options(&server.url(), &namespace)).await));
    let holding = Holding::new();
    let worker = holding.worker(&Client::new(witness.clone())).poll_interval(NO_POLL).concurrency(100);
    let worker = worker.start().await.expect("start");
    for round in 0..10 {
        is_listening(&server).await;
        // The token is taken out of the list for a worker that never gets to see it.
        proxy.set(Mode::CutAfterReplyBytes(0));
        outside.enqueue(Held { n: round }).await.expect("enqueue");
        within("the token is lost", proxy.cut_happens()).await;
        until_so(&format!("the job starts in round {round}"), || holding.started() == round as u64 + 1).await;
    }
    holding.let_go();
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.lost), (10, 0), "{report:?}");
    let site = Site::open(&server, &namespace).await.witnessed_by(&witness);
    let snapshot = site.drain_and_check(witness.acknowledged(), |client| holding.worker(client)).await;
    witness.explain(&snapshot);
}

/// Idle workers with a handle each, as so many processes would have.
async fn idle_workers(
    server: &Server,
    witness: &Witness,
    namespace: &str,
    count: usize,
    worker: impl Fn(&Client) -> WorkerBuilder<Holding>,
) -> Vec<RunningWorker> {
    let mut workers = Vec::new();
    for _ in 0..count {
        let client = Client::new(witness.beside(open(options(&server.url(), namespace)).await));
        workers.push(worker(&client).start().await.expect("start"));
    }
    all_idle(server, count).await;
    workers
}

async fn all_idle(server: &Server, count: usize) {
    let waiting = || server.info("blocked_clients").and_then(|waiting| waiting.parse().ok());
    until_so("all workers wait for a token", || waiting() == Some(count)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_idle_workers_do_not_all_come_for_one_job() {
    const WORKERS: usize = 50;
    const JOBS: u64 = 10;
    let server = Server::start(ServerOptions::new());
    let namespace = namespace();
    let witness = Witness::new(open(options(&server.url(), &namespace)).await);
    let client = Client::new(witness.clone());
    let holding = Holding::new();
    holding.let_go();
    let worker = |client: &Client| holding.worker(client).poll_interval(NO_POLL);
    let workers = idle_workers(&server, &witness, &namespace, WORKERS, worker).await;
    let before = witness.answered("exchange");
    for n in 0..JOBS {
        let handle = client.enqueue(Held { n: n as usize }).await.expect("enqueue");
        within("it completes", handle.wait()).await.expect("it completes");
        all_idle(&server, WORKERS).await;
    }
    // One claims it and one call settles it. Now and then a token is given to another because a worker was slow.
    let exchanges = witness.answered("exchange") - before;
    assert!((2 * JOBS..=6 * JOBS).contains(&exchanges), "{exchanges} exchanges for {JOBS} jobs");
    for worker in workers {
        worker.shutdown().await;
    }
    let site = Site::open(&server, &namespace).await.witnessed_by(&witness);
    let snapshot = site.drain_and_check(witness.acknowledged(), |client| holding.worker(client)).await;
    witness.explain(&snapshot);
}

/// How often the server was sent a command.
fn calls(server: &Server, command: &str) -> u64 {
    // `calls=12,usec=345,...`
    let stat = server.info(&format!("cmdstat_{command}")).unwrap_or_default();
    stat.strip_prefix("calls=").and_then(|stat| stat.split(',').next()?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_sends_fewer_than_ten_commands_a_second() {
    const WORKERS: usize = 5;
    let server = Server::start(ServerOptions::new());
    let namespace = namespace();
    let witness = Witness::new(open(options(&server.url(), &namespace)).await);
    let client = Client::new(witness.clone());
    let holding = Holding::new();
    holding.let_go();
    let first = client.enqueue(Held { n: 0 }).await.expect("enqueue");
    // As they come, with a poll each second.
    let worker = |client: &Client| holding.worker(client).poll_interval(SECOND);
    let workers = idle_workers(&server, &witness, &namespace, WORKERS, worker).await;
    within("it completes", first.wait()).await.expect("it completes");
    all_idle(&server, WORKERS).await;
    // What workers send: the commands that scripts run are no round trips, and no script runs any of these.
    let sent =
        || ["evalsha", "eval", "blpop", "subscribe", "ping", "auth"].map(|name| calls(&server, name)).iter().sum();
    let (before, since): (u64, _) = (sent(), Instant::now());
    let polls = witness.answered("exchange");
    until_so("each has polled", || witness.answered("exchange") >= polls + 4 * WORKERS as u64).await;
    let (commands, seconds) = (sent() - before, since.elapsed().as_secs_f64());
    let each = commands as f64 / seconds / WORKERS as f64;
    assert!(each < 10.0, "each of {WORKERS} workers sent {each:.1} commands a second");
    for worker in workers {
        worker.shutdown().await;
    }
}

/// Hosts need not agree on the time: nothing that a client sends is a reading of its own clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_carries_the_time_of_its_clients_host() {
    let server = Server::start(ServerOptions::new());
    let overheard = Overheard::on(&server);
    let namespace = namespace();
    let witness = Witness::new(open(options(&server.url(), &namespace)).await);
    let client = Client::new(witness.clone());
    let tally = Tally::default();
    let worker = tally.worker(&client).lease(SECOND / 2).start().await.expect("start");
    client.enqueue_all(steps(0, 40)).await.expect("enqueue");
    let later = client.enqueue(Step { n: 41 }).delay(SECOND * 3600).await.expect("enqueue");
    until_so("the jobs run", || tally.jobs() >= expected(40).len()).await;
    // Each call of the contract, and each act on a job.
    let queue = client.queue(WORK).expect("a name");
    queue.pause().await.expect("pause");
    queue.resume().await.expect("resume");
    // The place in a list of Active jobs would be the end of a lease, as the server has set it.
    until("the runs are settled", async || (queue.counts().await.expect("counts").active == 0).then_some(())).await;
    queue.all(JobFilter::default()).await.expect("list");
    client.reschedule(later.id(), Start::After(SECOND * 7200)).await.expect("reschedule");
    client.set_priority(later.id(), 3).await.expect("set the priority");
    client.promote(later.id()).await.expect("promote");
    until_so("the last job runs", || tally.jobs() > expected(40).len()).await;
    later.wait().await.expect("it completes");
    client.retry(later.id(), true).await.expect("retry");
    queue.clean(JobState::Failed, Duration::ZERO).await.expect("clean");
    worker.shutdown().await;
    let site = Site::open(&server, &namespace).await.witnessed_by(&witness);
    site.drain_and_check(witness.acknowledged(), |client| tally.worker(client)).await;
    queue.obliterate(true).await.expect("obliterate");

    let scripts = overheard.scripts();
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64;
    // What the server said itself: the epochs of leases, and the numbers of what goes from queue to queue, which rise from
    // its own clock.
    let mut from_server = witness.epochs();
    from_server.extend(overheard.outbox_numbers());
    let is_reading = |at: i64| now_us.abs_diff(at) < 600_000_000 && !from_server.contains(&at);
    assert!(scripts.len() > 50, "only {} scripts were overheard", scripts.len());
    for words in &scripts {
        let keys: usize = std::str::from_utf8(&words[2]).expect("text").parse().expect("the number of keys");
        let Some((clock, arguments)) = words[3 + keys..].split_first() else { continue };
        // The probe's question has no keys, and no clock either.
        if keys == 0 {
            continue;
        }
        assert_eq!(clock, b"", "the clock's place is empty: {:?}", String::from_utf8_lossy(&words[3]));
        for argument in arguments {
            let text = std::str::from_utf8(argument).ok().and_then(|text| text.parse::<i64>().ok());
            let wide = argument.windows(8).map(|bytes| i64::from_be_bytes(bytes.try_into().expect("eight bytes")));
            let reading = text.into_iter().chain(wide).find(|at| is_reading(*at));
            assert_eq!(reading, None, "in {argument:02x?}");
        }
    }
}
