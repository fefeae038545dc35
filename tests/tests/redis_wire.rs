//! A proxy between the library and the server that cuts the connection after every single byte of an exchange, each way,
//! and that falls silent, is slow or refuses. What was sent may or may not have arrived, what was done may or may not
//! have been told: either way each thing happens once, because a call is repeated under its number.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::event::EventKind;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobId, JobSpec, JobState, Progress, WorkerId};
use ferroq_core::storage::{
    Act, ActRequest, ClaimSpec, Effect, EnqueueAnswer, EnqueueRequest, ErrorCode, ExchangeRequest, Note, RenewAnswer,
    RenewRequest, Selection, Session, SettleAnswer, Settlement, Storage, StorageError, SweepRequest,
};
use ferroq_core::worker::Worker;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{KIND, completed, kind, queue_name, spec};
use ferroq_testkit::model::Snapshot;
use ferroq_tests::redis::after::{Site, Witness};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::proxy::{Counters, Mode, Proxy};
use ferroq_tests::redis::server::{self, Server, namespace};
use ferroq_tests::redis::tally::{Step, Tally, expected};
use ferroq_tests::wait::{seed, until, until_so};
use serde::{Deserialize, Serialize};

const TERM: Duration = Duration::from_secs(30);

/// How many exchanges are under way at once. Each has a proxy and a database to itself.
const LANES: u32 = 8;

/// What the exchanges leave behind, for the worker that drains.
#[derive(Serialize, Deserialize)]
struct Left {}

impl Job for Left {
    const NAME: &'static str = KIND;
    const QUEUE: &'static str = "echoes";
    type Output = ();
}

async fn left(_job: Left, _cx: Context) -> JobResult {
    Ok(())
}

/// Makes a call until it is answered, as whoever depends on its answer would: a call without effect and one that may
/// be made twice are the caller's to repeat.
async fn surely<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, StorageError>) -> T {
    until(what, async || match call().await {
        Ok(answer) => Some(answer),
        Err(error) => {
            assert!(error.is_retryable(), "{what}: {error:?}");
            None
        }
    })
    .await
}

fn options(url: &str, namespace: &str, database: u32) -> RedisOptions {
    RedisOptions::from_url(url).expect("the server's URL").namespace(namespace).database(database)
}

async fn connected(options: &RedisOptions) -> RedisStorage {
    surely("a connection", async || RedisStorage::open(options.clone()).await).await
}

/// The jobs of one exchange.
struct Specs {
    first: JobSpec,
    follow_up: JobSpec,
    echo: JobSpec,
}

impl Specs {
    fn new() -> Self {
        let (queue, echoes) = (queue_name("work"), queue_name("echoes"));
        Specs { first: spec(&queue), follow_up: spec(&queue), echo: spec(&echoes) }
    }

    fn ids(&self) -> [JobId; 3] {
        [self.first.id, self.follow_up.id, self.echo.id]
    }
}

fn asking() -> ClaimSpec {
    ClaimSpec {
        kinds: Arc::new([kind(KIND)]),
        max_items: 10,
        max_bytes: usize::MAX,
        term: TERM,
        worker: WorkerId::new("worker-1").expect("a name"),
        alone: true,
    }
}

async fn enqueue(storage: &dyn Storage, session: &Session, job: &JobSpec) -> Vec<EnqueueAnswer> {
    let jobs = vec![Arc::new(job.clone())];
    let request = |call| EnqueueRequest { call: Some(call), queue: job.queue.clone(), jobs: jobs.clone() };
    surely("the enqueue", async || session.call(|call| storage.enqueue(request(call))).await).await
}

/// The whole life of a job: enqueue, claim, renewal, settlement with a follow-up on its own queue and one on another, and
/// the end of the first of these. Each answer is the one that an undisturbed call gets.
async fn exchange(storage: &dyn Storage, jobs: &Specs) {
    let session = Session::new();
    let queue = &jobs.first.queue;
    assert_eq!(enqueue(storage, &session, &jobs.first).await, [EnqueueAnswer::Inserted]);
    let exchange = async |settlements: Vec<Settlement>, claim: Option<ClaimSpec>| {
        let request = |call| ExchangeRequest {
            call: Some(call),
            queue: queue.clone(),
            settlements: settlements.clone(),
            claim: claim.clone(),
        };
        surely("the exchange", async || session.call(|call| storage.exchange(request(call))).await).await
    };
    let claims = exchange(Vec::new(), Some(asking())).await.claimed.unwrap_or_default().claims;
    assert_eq!(claims.iter().map(|claim| (claim.lease.id, claim.run)).collect::<Vec<_>>(), [(jobs.first.id, 1)]);
    let lease = claims[0].lease;
    let renew = RenewRequest { queue: queue.clone(), leases: vec![lease], term: TERM };
    let renewed = surely("the renewal", async || storage.renew(renew.clone()).await).await;
    assert_eq!(renewed, [RenewAnswer::Renewed { cancel_requested: false }]);
    let follow_ups = [&jobs.follow_up, &jobs.echo].map(|job| Arc::new(job.clone())).to_vec();
    let answer = exchange(vec![Settlement { lease, outcome: completed(), follow_ups }], Some(asking())).await;
    let [SettleAnswer::Settled { state: JobState::Completed, follow_ups }] = &answer.settled[..] else {
        panic!("{:?}", answer.settled)
    };
    assert_eq!(follow_ups[0], EnqueueAnswer::Inserted);
    // A relay that was cut is the next sweep's to finish.
    assert!(matches!(follow_ups[1], EnqueueAnswer::Inserted | EnqueueAnswer::Deferred), "{follow_ups:?}");
    let claims = answer.claimed.unwrap_or_default().claims;
    assert_eq!(claims.iter().map(|claim| (claim.lease.id, claim.run)).collect::<Vec<_>>(), [(jobs.follow_up.id, 1)]);
    let lease = claims[0].lease;
    let answer = exchange(vec![Settlement { lease, outcome: completed(), follow_ups: Vec::new() }], None).await;
    assert_eq!(answer.settled, [SettleAnswer::Settled { state: JobState::Completed, follow_ups: Vec::new() }]);
}

/// Nobody ran twice: each job has one record, one run and one of each event that it must have.
fn once_each(snapshot: &Snapshot, jobs: &BTreeSet<JobId>, what: &str) {
    let there: BTreeSet<JobId> = snapshot.records().map(|(_, job)| job.id()).collect();
    assert_eq!(there, *jobs, "{what}: the records");
    for (_, job) in snapshot.records() {
        assert_eq!((job.state, job.runs, job.crashes), (JobState::Completed, 1, 0), "{what}: {job:#?}");
    }
    for (name, queue) in &snapshot.queues {
        for kind in [EventKind::Enqueued, EventKind::Started, EventKind::Completed] {
            let events = queue.events.iter().filter(|(seen, _)| *seen == kind).count();
            assert_eq!(events, queue.jobs.len(), "{what}: {kind:?} in {name:?}");
        }
        // None is skipped: a call that was made twice would have used up one.
        let seqs: BTreeSet<i64> = queue.jobs.iter().map(|job| job.seq).collect();
        assert_eq!(seqs, (1..=queue.jobs.len() as i64).collect(), "{what}: the seqs in {name:?}");
    }
}

/// What is cut, and how.
#[derive(Clone, Copy, Debug)]
struct Cuts {
    /// Connecting and the enqueue that makes the queue, or an exchange over a connection that is there.
    is_set_up: bool,
    mode: fn(u64) -> Mode,
    bytes: fn(Counters) -> u64,
    /// So many exchanges share a namespace, before everything in it is checked. The first of them makes the queues.
    in_namespace: usize,
    /// After which byte to begin, and how many to go on from cut to cut.
    first: u64,
    step: u64,
}

const REQUEST: Cuts = Cuts {
    is_set_up: false,
    mode: Mode::CutAfterRequestBytes,
    bytes: |counters| counters.request_bytes,
    in_namespace: 20,
    first: 0,
    step: 1,
};

const REPLY: Cuts =
    Cuts { mode: Mode::CutAfterReplyBytes, bytes: |counters| counters.reply_bytes, in_namespace: 5, ..REQUEST };

impl Cuts {
    /// One exchange through the proxy. Answers its jobs.
    async fn make(self, proxy: &Proxy, options: &RedisOptions, mode: Mode) -> Vec<JobId> {
        let jobs = Specs::new();
        proxy.set(if self.is_set_up { mode } else { Mode::Pass });
        let storage = connected(options).await;
        if self.is_set_up {
            assert_eq!(enqueue(&storage, &Session::new(), &jobs.first).await, [EnqueueAnswer::Inserted]);
            return vec![jobs.first.id];
        }
        proxy.set(mode);
        exchange(&storage, &jobs).await;
        jobs.ids().to_vec()
    }
}

/// A walk over all bytes, shared by the lanes.
struct Walk {
    cuts: Cuts,
    server: Server,
    /// How long an undisturbed exchange is that makes its queue.
    bytes: u64,
    next: AtomicU64,
    /// The least number of bytes after which an exchange was over before it could be cut.
    uncut: AtomicU64,
}

/// Cuts after each byte in turn: as many as an exchange has, and on until one was over before the cut came.
fn cut_after_each_byte(cuts: Cuts) {
    let server = Server::start(ServerOptions::new());
    let bytes = block_on(async {
        let proxy = Proxy::start(server.port());
        // The first teaches the server the scripts, which no later one has to send.
        for _ in 0..2 {
            cuts.make(&proxy, &options(&proxy.url(&server.url()), &namespace(), 0), Mode::Pass).await;
        }
        (cuts.bytes)(proxy.counters())
    });
    let walk = Walk { cuts, server, bytes, next: AtomicU64::new(cuts.first), uncut: AtomicU64::new(u64::MAX) };
    std::thread::scope(|scope| {
        for lane in 1..=LANES {
            let walk = &walk;
            scope.spawn(move || block_on(walk.lane(lane)));
        }
    });
    // The queue's first exchange is a little longer than those that come after it.
    let uncut = walk.uncut.into_inner();
    assert!(uncut > bytes / 10 * 9, "an exchange of {bytes} bytes was not cut after {uncut}: {cuts:?}");
}

impl Walk {
    fn is_over(&self) -> bool {
        self.next.load(Ordering::SeqCst) >= self.uncut.load(Ordering::SeqCst).max(self.bytes)
    }

    async fn lane(&self, lane: u32) {
        let Walk { cuts, server, .. } = self;
        let proxy = Proxy::start(server.port());
        while !self.is_over() {
            let namespace = namespace();
            let options = options(&proxy.url(&server.url()), &namespace, lane);
            let (mut jobs, mut places) = (BTreeSet::new(), Vec::new());
            while places.len() < cuts.in_namespace && !self.is_over() {
                let k = self.next.fetch_add(cuts.step, Ordering::SeqCst);
                jobs.extend(cuts.make(&proxy, &options, (cuts.mode)(k)).await);
                if proxy.counters().cuts == 0 {
                    self.uncut.fetch_min(k, Ordering::SeqCst);
                }
                places.push(k);
            }
            let site = Site::in_database(server, &namespace, lane).await;
            let snapshot = site.drain_and_check(jobs.clone(), |client| Worker::new(client).handle(left)).await;
            once_each(&snapshot, &jobs, &format!("{cuts:?}, after bytes {places:?}"));
            let mut connection = server.connection();
            redis::pipe().cmd("SELECT").arg(lane).cmd("FLUSHDB").query::<()>(&mut connection).expect("FLUSHDB");
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

#[test]
fn a_cut_after_any_byte_of_a_request_loses_and_doubles_nothing() {
    cut_after_each_byte(REQUEST);
}

#[test]
fn a_cut_after_any_byte_of_a_reply_loses_and_doubles_nothing() {
    cut_after_each_byte(REPLY);
}

/// Most of these bytes are questions about the server and what it tells of itself, so not all of them have their turn in
/// every run: `FERROQ_CUT_STEP=1` gives it to them.
#[test]
fn a_connection_cut_after_any_byte_of_its_set_up_is_made_anew() {
    let step = std::env::var("FERROQ_CUT_STEP").map_or(4, |step| step.parse().expect("FERROQ_CUT_STEP is a number"));
    let first = seed("redis_wire", "a_connection_cut_after_any_byte_of_its_set_up_is_made_anew") % step;
    for cuts in [REQUEST, REPLY] {
        cut_after_each_byte(Cuts { is_set_up: true, in_namespace: 5, first, step, ..cuts });
    }
}

const WATCHDOG: Duration = Duration::from_millis(200);

fn impatient(proxy: &Proxy, server: &Server, namespace: &str) -> RedisOptions {
    options(&proxy.url(&server.url()), namespace, 0).call_timeout(WATCHDOG).connect_timeout(WATCHDOG)
}

/// What a call into silence must answer: not known, and worth another try.
fn is_given_up<T: std::fmt::Debug>(what: &str, answer: Result<T, StorageError>) {
    let error = answer.expect_err(what);
    assert_eq!((error.code(), error.effect()), (ErrorCode::Unavailable, Effect::Unknown), "{what}: {error}");
    assert!(error.to_string().contains("did not answer within 200ms"), "{what}: {error}");
}

#[tokio::test]
async fn a_call_on_a_silent_socket_fails_as_unknown_and_the_next_has_a_new_socket() {
    let server = server::shared();
    let proxy = Proxy::start(server.port());
    let namespace = namespace();
    let storage = connected(&impatient(&proxy, server, &namespace)).await;
    let (storage, session): (&dyn Storage, _) = (&storage, Session::new());
    let queue = queue_name("work");
    let job = spec(&queue);
    assert_eq!(enqueue(storage, &session, &job).await, [EnqueueAnswer::Inserted]);
    let claimed = ExchangeRequest { call: None, queue: queue.clone(), settlements: Vec::new(), claim: Some(asking()) };
    let claims = storage.exchange(claimed).await.expect("claim").claimed.unwrap_or_default().claims;
    let lease = claims[0].lease;
    let mut connections = 0;
    for what in ["enqueue", "exchange", "renew", "annotate", "sweep", "act", "counts", "pause"] {
        // The connection serves, and then it does not any more.
        surely(what, async || storage.now(&queue).await).await;
        proxy.set(Mode::Silent);
        match what {
            "enqueue" => {
                let request = EnqueueRequest { call: None, queue: queue.clone(), jobs: vec![Arc::new(spec(&queue))] };
                is_given_up(what, storage.enqueue(request).await);
            }
            "exchange" => {
                let settlement = Settlement { lease, outcome: completed(), follow_ups: Vec::new() };
                let settlements = vec![settlement];
                let request = ExchangeRequest { call: None, queue: queue.clone(), settlements, claim: None };
                is_given_up(what, storage.exchange(request).await);
            }
            "renew" => {
                let request = RenewRequest { queue: queue.clone(), leases: vec![lease], term: TERM };
                is_given_up(what, storage.renew(request).await);
            }
            "annotate" => {
                let progress = Some(Progress { done: 1, total: 2, note: None });
                let note = Note { progress, ..Note::default() };
                is_given_up(what, storage.annotate(&queue, vec![(lease, note)]).await);
            }
            "sweep" => {
                is_given_up(what, storage.sweep(SweepRequest { queue: queue.clone(), max_items: 10 }).await);
            }
            "act" => {
                let on = Selection::Ids(vec![job.id]);
                let request = ActRequest { call: None, queue: queue.clone(), on, act: Act::Retry { reset: false } };
                is_given_up(what, storage.act(request).await);
            }
            "counts" => is_given_up(what, storage.counts(&queue).await),
            _ => is_given_up(what, storage.set_paused(&queue, true).await),
        }
        // What is tried meanwhile is not even sent.
        let error = storage.now(&queue).await.expect_err("nobody answers");
        assert_eq!((error.effect(), error.is_retryable()), (Effect::None, true), "{what}: {error}");
        // Now the server gets what was sent into the silence, from a client that has hung up.
        connections += proxy.counters().connections;
        proxy.set(Mode::Pass);
    }
    surely("the next call", async || storage.now(&queue).await).await;
    assert!(connections + proxy.counters().connections >= 8, "a new connection each time: {connections}");
    // The job that was enqueued into the silence may have come into being; the first one must have.
    let site = Site::open(server, &namespace).await;
    let snapshot = site.drain_and_check([job.id], |client| Worker::new(client).handle(left)).await;
    let runs: Vec<u32> = snapshot.records().map(|(_, job)| job.runs).collect();
    assert!(runs.len() <= 2 && runs.iter().all(|runs| *runs <= 2), "{snapshot:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_after_silence_delays_and_refusals() {
    let server = server::shared();
    let proxy = Proxy::start(server.port());
    let namespace = namespace();
    let witness = Witness::new(Arc::new(connected(&impatient(&proxy, server, &namespace)).await));
    let direct = Site::open(server, &namespace).await.witnessed_by(&witness);
    let tally = Tally::default();
    let worker = tally.worker(&Client::new(witness.clone())).start().await.expect("start");
    let is_passable = |mode| matches!(mode, Mode::Delay(delay) if delay < WATCHDOG / 4);
    let modes =
        [Mode::Silent, Mode::Delay(WATCHDOG / 10), Mode::Refuse, Mode::Delay(WATCHDOG * 2), Mode::Silent, Mode::Refuse];
    let mut steps = 0;
    for (round, mode) in modes.into_iter().enumerate() {
        let failed = || witness.unknown() + witness.refused();
        let before = failed();
        let jobs = |from: u32| (from..from + 50).map(|n| Step { n });
        // Some are under way when it begins, and some come into it.
        direct.client().enqueue_all(jobs(steps)).await.expect("enqueue");
        until_so("some jobs run", || tally.jobs() > expected(steps).len()).await;
        proxy.set(mode);
        if mode == Mode::Refuse {
            proxy.cut_all();
        }
        direct.client().enqueue_all(jobs(steps + 50)).await.expect("enqueue");
        steps += 100;
        if !is_passable(mode) {
            until_so("the worker tries", || failed() >= before + 3).await;
            proxy.set(Mode::Pass);
        }
        let all = expected(steps).len();
        until_so(&format!("the worker goes on in round {round}, after {mode:?}"), || tally.jobs() == all).await;
        proxy.set(Mode::Pass);
    }
    let report = worker.shutdown().await;
    assert_eq!((report.lost, report.failed), (0, 0), "{report:?}");
    let snapshot = direct.drain_and_check(witness.acknowledged(), |client| tally.worker(client)).await;
    tally.is_right(steps, &snapshot);
    witness.explain(&snapshot);
}
