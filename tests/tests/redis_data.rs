//! Data that is somebody else's: keys of another type where ferroq has its own, keys that it never made, other apps and
//! other databases beside it, and what a newer version of the library has left. Nothing of it is changed, a call that
//! can't do without says what is in its way, and work goes on when that is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::clock::ManualClock;
use ferroq_core::context::Context;
use ferroq_core::event::EventCursor;
use ferroq_core::job::{Job, JobId, JobRecord, JobSpec, JobState, LaneKey, Payload, Priority, Progress, Slot, Start};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::storage::{
    Act, ActRequest, CallId, ClaimSpec, DumpPage, Effect, EnqueueAnswer, EnqueueRequest, ErrorCode, ExchangeRequest,
    JobFilter, Lease, ListRequest, Note, ObliterateAnswer, QueueConfig, RenewRequest, Selection, SettleAnswer,
    Settlement, Storage, StorageError, SweepRequest,
};
use ferroq_core::worker::{Worker, WorkerBuilder};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{Fixture, Scene, SpecExt, TERM, abort, completed, kind, queue_name, released, spec};
use ferroq_tests::logs;
use ferroq_tests::redis::after::Site;
use ferroq_tests::redis::contents::{Contents, changes, contents, contents_of};
use ferroq_tests::redis::load;
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::{Server, namespace, shared};
use ferroq_tests::wait::{until_so, within};
use serde::{Deserialize, Serialize};

const HOUR: Duration = Duration::from_secs(3600);

/// What comes after the tag in the names of a queue's keys.
const PARTS: [&str; 20] = [
    "meta",
    "spec",
    "run",
    "notes",
    "waiting",
    "solo",
    "shelves",
    "kinds",
    "delayed",
    "blocked",
    "active",
    "completed",
    "failed",
    "cancelled",
    "dedup",
    "holds",
    "events",
    "wake",
    "outbox",
    "ledger",
];

/// A queue that has something in every one of its keys.
struct Full {
    server: Arc<Server>,
    namespace: String,
    scene: Scene,
    /// A session that has an answer kept.
    call: CallId,
    /// A lease that holds.
    lease: Lease,
    waiting: JobId,
    delayed: JobId,
    ended: JobId,
    blocked: JobRecord,
    restored: JobId,
}

fn options(server: &Server, namespace: &str) -> RedisOptions {
    RedisOptions::from_url(&server.url()).expect("the server's URL").namespace(namespace)
}

async fn open(server: &Server, namespace: &str) -> Arc<dyn Storage> {
    Arc::new(RedisStorage::open(options(server, namespace)).await.expect("the server answers"))
}

impl Full {
    async fn new(server: Arc<Server>) -> Self {
        let (namespace, clock) = (namespace(), ManualClock::default());
        let options = options(&server, &namespace).clock(Arc::new(clock.clone()));
        let storage = Arc::new(RedisStorage::open(options).await.expect("the server answers"));
        let mut scene = Scene::new(Fixture::new(storage, clock, ()));
        // Runs first, while the queue has nothing else.
        let ended = scene.run(scene.spec(), completed()).await;
        scene.run(scene.spec(), abort()).await;
        let cancelled = scene.put_one(scene.spec()).await;
        scene.act(cancelled, Act::Cancel).await;
        scene.put_one(scene.spec().of_kind("nobody.handles")).await;
        scene.put_one(scene.spec()).await;
        let lease = scene.claim(2).await[0].lease;
        let note = Note {
            progress: Some(Progress { done: 1, total: 2, note: None }),
            log: vec!["a line".into()],
            checkpoint: Some(Payload::json("[1]")),
        };
        scene.annotate(lease, note).await;
        // What is for a queue that can't be reached stays in the outbox, and what came from another is in the ledger.
        let elsewhere = queue_name("elsewhere");
        server.cli(&["SET", &format!("ferroq:{{{namespace}:elsewhere}}:meta"), "theirs"]);
        scene.put_one(scene.spec()).await;
        let sent = scene.claim_one().await;
        scene.settle_with(sent.lease, completed(), [spec(&elsewhere)]).await;
        let upstream = queue_name("upstream");
        let own = std::mem::replace(&mut scene.queue, upstream.clone());
        scene.put_one(spec(&upstream)).await;
        let sent = scene.claim_one().await;
        scene.settle_with(sent.lease, completed(), [spec(&own)]).await;
        scene.queue = own;
        let waiting = scene.put_one(scene.spec().dedup("key", DedupMode::UntilFinished)).await;
        scene.put_one(scene.spec().dedup("hold", DedupMode::For(HOUR))).await;
        scene.put_one(scene.spec().crashes(1)).await;
        let delayed = scene.put_one(scene.spec().delay(HOUR)).await;
        // A job that waits for others, as a flow will make them.
        let mut page = scene.storage().dump(&scene.queue, None, 1000).await.expect("dump");
        let mut blocked: JobRecord = page.jobs.iter().find(|job| job.id() == waiting).expect("the job").clone();
        let mut job = scene.spec();
        job.id = JobId::new();
        (blocked.spec, blocked.seq, blocked.state, blocked.slot) = (job.into(), 1000, JobState::Blocked, Slot::Lane);
        (page.jobs, page.dedup, page.config) = (vec![blocked.clone()], Vec::new(), None);
        scene.storage().restore(&scene.queue, page).await.expect("restore");
        let call = scene.call();
        let jobs = vec![Arc::new(scene.spec())];
        let request = EnqueueRequest { call: Some(call), queue: scene.queue.clone(), jobs };
        scene.storage().enqueue(request).await.expect("enqueue");
        Full { server, namespace, scene, call, lease, waiting, delayed, ended, blocked, restored: JobId::new() }
    }

    /// Gives back what is Active, and removes what no worker could work off.
    async fn tidy(&self) {
        self.server.cli(&["DEL", &format!("ferroq:{{{}:elsewhere}}:meta", self.namespace)]);
        for job in self.scene.list(JobFilter::states([JobState::Active]), 100).await {
            let answer = self.scene.settle(Lease { id: job.id(), epoch: job.epoch }, released()).await;
            assert!(matches!(answer, SettleAnswer::Settled { .. }), "{answer:?}");
        }
        // Nobody ever enqueued these, as far as the log knows.
        self.scene.act(self.blocked.id(), Act::Remove).await;
        self.scene.act(self.restored, Act::Remove).await;
    }

    fn key(&self, part: &str) -> String {
        format!("ferroq:{{{}:queue}}:{part}", self.namespace)
    }

    /// Every key that a call on the queue may touch.
    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = PARTS.iter().map(|part| self.key(part)).collect();
        keys.push(self.key(&format!("answers:{}", self.call.session)));
        keys.push(format!("ferroq:{{{}}}:queues", self.namespace));
        keys
    }

    fn contents(&self) -> Contents {
        contents_of(&self.server, 0, &format!("*{{{}[:}}]*", self.namespace))
    }

    /// Makes one call of the contract.
    async fn call(&self, name: &str) -> Result<(), StorageError> {
        let (storage, queue) = (self.scene.storage(), &self.scene.queue);
        let act = |id: JobId, act| ActRequest { call: None, queue: queue.clone(), on: Selection::Ids(vec![id]), act };
        let claim = || ClaimSpec { alone: true, ..self.scene.asking(100) };
        let exchange = |call, settlements, claim| ExchangeRequest { call, queue: queue.clone(), settlements, claim };
        let settlement = |outcome| Settlement { lease: self.lease, outcome, follow_ups: Vec::new() };
        let numbered = |number| Some(CallId { number, ..self.call });
        let enqueue = |call, job| EnqueueRequest { call, queue: queue.clone(), jobs: vec![Arc::new(job)] };
        let spec = || self.scene.spec();
        match name {
            "enqueue" => storage.enqueue(enqueue(None, spec())).await.map(drop),
            "enqueue with a number" => storage.enqueue(enqueue(numbered(10), spec())).await.map(drop),
            "enqueue again" => storage.enqueue(enqueue(Some(self.call), spec())).await.map(drop),
            "enqueue with a key" => {
                let job = spec().dedup("another", DedupMode::For(HOUR)).delay(HOUR);
                storage.enqueue(enqueue(None, job)).await.map(drop)
            }
            "settle" => storage.exchange(exchange(None, vec![settlement(released())], None)).await.map(drop),
            "claim" => storage.exchange(exchange(numbered(11), Vec::new(), Some(claim()))).await.map(drop),
            "renew" => {
                let request = RenewRequest { queue: queue.clone(), leases: vec![self.lease], term: TERM };
                storage.renew(request).await.map(drop)
            }
            "annotate" => {
                let note = Note { log: vec!["another line".into()], ..Note::default() };
                storage.annotate(queue, vec![(self.lease, note)]).await.map(drop)
            }
            "sweep" => storage.sweep(SweepRequest { queue: queue.clone(), max_items: 100 }).await.map(drop),
            "watch" => storage.watch(queue, self.waiting).await.map(drop),
            "cancel" => storage.act(act(self.waiting, Act::Cancel)).await.map(drop),
            "retry" => storage.act(act(self.ended, Act::Retry { reset: true })).await.map(drop),
            "promote" => storage.act(act(self.delayed, Act::Promote)).await.map(drop),
            "reschedule" => storage.act(act(self.delayed, Act::Reschedule(Start::After(HOUR * 2)))).await.map(drop),
            "set priority" => storage.act(act(self.delayed, Act::SetPriority(Priority(7)))).await.map(drop),
            "remove" => storage.act(act(self.ended, Act::Remove)).await.map(drop),
            "cancel by filter" => {
                let filter = JobFilter { kind: Some(kind(Shelved::NAME)), ..JobFilter::default() };
                let on = Selection::Filter { filter, after: None, max_items: 100 };
                let request = ActRequest { call: None, queue: queue.clone(), on, act: Act::Cancel };
                storage.act(request).await.map(drop)
            }
            "config" => storage.config(queue).await.map(drop),
            "configure" => storage.configure(queue, QueueConfig::default()).await,
            "reconfigure" => {
                let from = storage.config(queue).await?;
                let mut to = from.clone();
                to.event_entries_kept += 1;
                storage.reconfigure(queue, from, to).await.map(drop)
            }
            "configure lane" => storage.configure_lane(queue, &LaneKey::DEFAULT, None).await,
            "reconfigure lane" => {
                let weighty = Some(LanePolicy { weight: Some(2), ..LanePolicy::default() });
                storage.reconfigure_lane(queue, &LaneKey::DEFAULT, None, weighty).await.map(drop)
            }
            "lane policies" => storage.lane_policies(queue, None, 10).await.map(drop),
            "lane policy" => storage.lane_policy(queue, &LaneKey::DEFAULT).await.map(drop),
            "pause" => storage.set_paused(queue, true).await.map(drop),
            "resume" => storage.set_paused(queue, false).await.map(drop),
            "obliterate unless active" => storage.obliterate(queue, false, 100).await.map(drop),
            "obliterate" => storage.obliterate(queue, true, 100).await.map(drop),
            "job" => storage.job(Some(queue), self.waiting).await.map(drop),
            "job anywhere" => storage.job(None, self.waiting).await.map(drop),
            "list" => {
                let filter = JobFilter::default();
                let request = ListRequest { queue: queue.clone(), filter, after: None, max_items: 100 };
                storage.list(request).await.map(drop)
            }
            "counts" => storage.counts(queue).await.map(drop),
            "queues" => storage.queues().await.map(drop),
            "now" => storage.now(queue).await.map(drop),
            "events" => storage.events(queue, EventCursor::default(), 100).await.map(drop),
            "last event" => storage.last_event(queue).await.map(drop),
            "dump" => storage.dump(queue, None, 100).await.map(drop),
            "restore" => {
                let mut record = self.blocked.clone();
                let mut spec = self.scene.spec();
                spec.id = self.restored;
                (record.spec, record.seq) = (spec.into(), 5000);
                let page = DumpPage { jobs: vec![record], ..DumpPage::default() };
                storage.restore(queue, page).await.map(drop)
            }
            other => panic!("no call {other:?}"),
        }
    }
}

/// The calls that only look.
const READS: [&str; 13] = [
    "config",
    "lane policies",
    "lane policy",
    "job",
    "job anywhere",
    "list",
    "counts",
    "queues",
    "now",
    "events",
    "last event",
    "dump",
    "enqueue again",
];

/// The calls that write, those that leave least of the queue last.
const WRITES: [&str; 26] = [
    "enqueue",
    "enqueue with a number",
    "enqueue with a key",
    "claim",
    "renew",
    "annotate",
    "sweep",
    "watch",
    "cancel",
    "retry",
    "promote",
    "reschedule",
    "set priority",
    "remove",
    "settle",
    "reconfigure",
    "reconfigure lane",
    "configure",
    "configure lane",
    "pause",
    "resume",
    "restore",
    "obliterate unless active",
    "cancel by filter",
    "obliterate",
    "enqueue",
];

/// Jobs that the workers of a [`Full`] queue leave on their shelf.
#[derive(Serialize, Deserialize)]
struct Shelved {}

impl Job for Shelved {
    const NAME: &'static str = "nobody.handles";
    const QUEUE: &'static str = "queue";
    type Output = ();
}

fn worker(client: &Client) -> WorkerBuilder<()> {
    load::worker(client).handle(async |_: Shelved, _: Context| Ok(()))
}

/// Puts something of another type in a key's place: text, or what else ferroq has nothing of there.
fn put_foreign(server: &Server, key: &str, kind: usize) {
    match kind {
        0 => server.cli(&["SET", key, "theirs"]),
        _ if key.ends_with("}:queues") => server.cli(&["RPUSH", key, "theirs"]),
        _ => server.cli(&["SADD", key, "theirs"]),
    };
}

#[tokio::test]
async fn a_foreign_key_in_the_place_of_any_is_named_and_nothing_is_changed() {
    let server = Arc::new(Server::start(ServerOptions::new()));
    let is_registry = |key: &str| key.ends_with("}:queues");
    for place in 0..PARTS.len() + 2 {
        let full = Full::new(server.clone()).await;
        let key = full.keys().swap_remove(place);
        let own: BTreeSet<String> = contents_of(&server, 0, &full.key("*")).into_keys().collect();
        let known: BTreeSet<String> = full.keys().into_iter().filter(|key| !is_registry(key)).collect();
        let other: Vec<_> = own.symmetric_difference(&known).filter(|key| !key.contains(":answers:")).collect();
        assert!(other.is_empty(), "the queue has something in each of its keys, and no others: {other:?}");
        server.cli(&["RENAME", &key, "aside"]);
        for kind in 0..2 {
            put_foreign(&server, &key, kind);
            let mut refused = 0;
            // Answers kept for a session are only in the way of that session's calls; the others are done, and this would leave
            // nothing to call about.
            let calls = READS.iter().chain(&WRITES);
            for call in calls.filter(|call| !(key.contains(":answers:") && call.starts_with("obliterate"))) {
                let what = format!("{call}, with something foreign in {key}");
                let before = full.contents();
                let answer = within(&what, full.call(call)).await;
                let changed = changes(&before, &full.contents());
                match answer {
                    Ok(()) if READS.contains(call) => assert!(changed.is_empty(), "{what}: {changed:?}"),
                    // Calls on a queue that this handle knows to be listed don't ask the list; nor those of no session for what was
                    // answered to one.
                    Ok(()) => assert!(is_registry(&key) || key.contains(":answers:"), "{what}: it was done"),
                    Err(error) => {
                        refused += 1;
                        let told = (error.code(), error.effect());
                        assert_eq!(told, (ErrorCode::Corrupt, Effect::None), "{what}: {error}");
                        assert!(error.to_string().contains(&key), "{what}: the error names it: {error}");
                        assert!(changed.is_empty(), "{what}: it failed with nothing changed, and yet {changed:?}");
                    }
                }
            }
            assert!(refused >= 3, "{key}: only {refused} calls met it");
            server.cli(&["DEL", &key]);
        }
        server.cli(&["RENAME", "aside", &key]);
        full.tidy().await;
        let there: Vec<_> = full.scene.dump().await.jobs.iter().map(JobRecord::id).collect();
        let site = Site::open(&server, &full.namespace).await;
        site.drain_and_check(there, worker).await;
        site.storage().close().await;
        full.scene.storage().close().await;
    }
}

#[tokio::test]
async fn a_worker_sits_out_a_foreign_key_and_goes_on() {
    logs::keep();
    let (server, namespace) = (shared(), namespace());
    let storage = open(server, &namespace).await;
    let client = Client::new(storage.clone());
    let key = format!("ferroq:{{{namespace}:{}}}:active", load::QUEUE);
    let before = client.enqueue(load::Item {}).await.expect("enqueue");
    let worker = load::worker(&client).start().await.expect("start");
    within("it completes", before.wait()).await.expect("it completes");
    server.cli(&["SET", &key, "theirs"]);
    client.enqueue(load::Item {}).await.expect_err("a call that can't be sure changes nothing");
    until_so("the worker has met it", || !logs::with(&["WARN", "the storage fails", &key]).is_empty()).await;
    server.cli(&["DEL", &key]);
    let after = client.enqueue(load::Item {}).await.expect("enqueue");
    within("it completes", after.wait()).await.expect("it completes");
    assert_eq!(logs::with(&["WARN", "the storage fails", &key]).len(), 1, "it was logged once");
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.failed, report.lost), (2, 0, 0));
    client.close().await;
    let site = Site::open(server, &namespace).await;
    site.drain_and_check([before.id(), after.id()], load::worker).await;
}

#[tokio::test]
async fn keys_that_only_look_like_a_queues_are_left_alone() {
    let server = Arc::new(Server::start(ServerOptions::new()));
    let full = Full::new(server.clone()).await;
    let name = &full.namespace;
    let theirs = [
        full.key("mine"),
        full.key("specs"),
        full.key("run:1"),
        full.key(""),
        format!("ferroq:{{{name}:queue2}}:meta"),
        format!("ferroq:{{{name}:queue}}"),
        format!("ferroq:{{{name}:queue"),
        format!("ferroq:{{{name}}}:queues2"),
        format!("ferroq:{name}:queue:meta"),
        "ferroq".to_owned(),
    ];
    for key in &theirs {
        server.cli(&["HSET", key, "layout", "7"]);
    }
    let of_theirs = || {
        let mut contents = contents(&server, 0);
        contents.retain(|key, _| theirs.contains(key));
        contents
    };
    let before = of_theirs();
    assert_eq!(before.len(), theirs.len());
    for call in READS.iter().chain(&WRITES) {
        full.call(call).await.unwrap_or_else(|error| panic!("{call}: {error}"));
    }
    assert!(full.contents().contains_key(&full.key("meta")), "the last call made the queue anew");
    let storage = full.scene.storage();
    assert_eq!(storage.obliterate(&full.scene.queue, true, 1000).await.expect("obliterate"), ObliterateAnswer::Done);
    assert_eq!(changes(&before, &of_theirs()), Vec::<String>::new());
    assert!(!storage.queues().await.expect("queues").contains(&queue_name("queue2")), "it is not ferroq's");
    // Of the queue itself, only what is remembered of calls and of other queues is left, and that not for ever.
    for key in contents_of(&server, 0, &full.key("*")).into_keys().filter(|key| !theirs.contains(key)) {
        let ttl: i64 = server.cli(&["PTTL", &key]).parse().expect("a number");
        let stays = key == full.key("outbox");
        assert!(stays || ttl > 0, "{key} is left for ever");
    }
}

/// Runs one job through every state in a store, as an app would, and answers the ids that are there in the end.
async fn live(storage: &Arc<dyn Storage>) -> Vec<JobId> {
    let client = Client::new(storage.clone());
    let jobs = (0..20).map(|_| load::Item {});
    let mut ids: Vec<JobId> = client.enqueue_all(jobs).await.expect("enqueue").iter().map(|job| job.id()).collect();
    let held = client.enqueue(load::Item {}).dedup("the same key", DedupMode::WhileKept).await.expect("enqueue");
    assert!(!held.is_duplicate(), "the key is free here");
    let worker = load::worker(&client).start().await.expect("start");
    within("it completes", held.wait()).await.expect("it completes");
    let report = worker.shutdown().await;
    assert_eq!((report.failed, report.lost), (0, 0));
    ids.push(held.id());
    ids
}

/// Two apps that have the same queues, and ids and keys of jobs, one beside the other.
async fn live_apart(sites: [(Site<'_>, Arc<dyn Storage>); 2], contents: impl Fn(usize) -> Contents) {
    let contents = |which| {
        let mut contents = contents(which);
        // Workers that are on their way home may still hand on a wake-up.
        contents.retain(|key, _| !key.ends_with(":wake"));
        contents
    };
    let [(first_site, first), (second_site, second)] = &sites;
    let queue = queue_name(load::QUEUE);
    assert_eq!(first.queues().await.expect("queues"), []);
    let of_first = live(first).await;
    assert_eq!(second.queues().await.expect("queues"), [], "one app's queues are not the other's");
    assert!(second.job(None, of_first[0]).await.expect("job").is_none(), "nor are its jobs");
    let before = contents(0);
    let of_second = live(second).await;
    assert_eq!(changes(&before, &contents(0)), Vec::<String>::new(), "the first was not touched");
    // The same ids as well.
    let page = first.dump(&queue, None, 1000).await.expect("dump");
    let job = Arc::new(JobSpec { queue: queue_name("twins"), dedup: None, ..(*page.jobs[0].spec).clone() });
    let request = EnqueueRequest { call: None, queue: job.queue.clone(), jobs: vec![job] };
    for storage in [first, second] {
        let answers = storage.enqueue(request.clone()).await.expect("enqueue");
        assert_eq!(answers, [EnqueueAnswer::Inserted]);
    }
    // A worker of one app is not woken, nor held up, by what the other does; and both at once get what is theirs.
    let clients = [Client::new(first.clone()), Client::new(second.clone())];
    let mut workers = Vec::new();
    for client in &clients {
        workers.push(load::worker(client).poll_interval(HOUR).queue("twins").start().await.expect("start"));
    }
    for client in clients.iter().rev() {
        let handle = client.enqueue(load::Item {}).await.expect("enqueue");
        within("it completes", handle.wait()).await.expect("it completes");
    }
    for worker in workers {
        let report = worker.shutdown().await;
        assert_eq!((report.completed, report.failed, report.lost), (2, 0, 0), "each ran its own twin and one job more");
    }
    let before = contents(1);
    while first.obliterate(&queue, true, 10).await.expect("obliterate") != ObliterateAnswer::Done {}
    assert_eq!(changes(&before, &contents(1)), Vec::<String>::new(), "the second was not touched");
    first_site.drain_and_check([], load::worker).await;
    second_site.drain_and_check(of_second, load::worker).await;
    let (first, second) = (first.queues().await.expect("queues"), second.queues().await.expect("queues"));
    assert_eq!((first, second), (vec![queue_name("twins")], vec![queue, queue_name("twins")]));
}

#[tokio::test]
async fn apps_with_different_namespaces_share_a_database_and_nothing_else() {
    let server = Server::start(ServerOptions::new());
    // One is the beginning of the other.
    let names = ["app", "app-2"];
    let mut sites = Vec::new();
    for name in names {
        sites.push((Site::open(&server, name).await, open(&server, name).await));
    }
    let sites = sites.try_into().ok().expect("two");
    live_apart(sites, |which| contents_of(&server, 0, &format!("ferroq:{{{}[:}}]*", names[which]))).await;
}

#[tokio::test]
async fn one_app_in_two_databases_is_two_apps() {
    let server = Server::start(ServerOptions::new());
    let mut sites = Vec::new();
    for database in [0, 3] {
        let site = Site::in_database(&server, "app", database).await;
        let storage = RedisStorage::open(options(&server, "app").database(database)).await.expect("the server answers");
        sites.push((site, Arc::new(storage) as Arc<dyn Storage>));
    }
    let sites = sites.try_into().ok().expect("two");
    live_apart(sites, |which| contents(&server, [0, 3][which])).await;
}

/// The layout of a queue that a newer library has written is one that this one must keep its hands off.
#[tokio::test]
async fn a_queue_of_a_newer_layout_is_refused_and_not_touched() {
    logs::keep();
    let server = Arc::new(Server::start(ServerOptions::new()));
    let full = Full::new(server.clone()).await;
    let other = queue_name("upstream");
    server.cli(&["HSET", &full.key("meta"), "layout", "2"]);
    // Also for somebody who has just come, and a worker whose hints begin with a look.
    let newcomer = open(&server, &full.namespace).await;
    let fresh = Scene::new(Fixture::new(newcomer.clone(), ManualClock::default(), ()));
    let before = full.contents();
    for call in READS.iter().chain(&WRITES) {
        let answer = within(call, full.call(call)).await;
        // The list of queues holds their names only.
        let is_list = ["queues"].contains(call);
        match answer {
            Ok(()) => assert!(is_list, "{call} was done"),
            Err(error) => {
                let told = (error.code(), error.effect(), error.is_retryable());
                assert_eq!(told, (ErrorCode::SchemaTooNew, Effect::None, false), "{call}: {error}");
                assert!(
                    error.to_string().contains("layout 2") && error.to_string().contains("newer"),
                    "{call}: {error}"
                );
            }
        }
        assert_eq!(changes(&before, &full.contents()), Vec::<String>::new(), "{call}");
    }
    let request = EnqueueRequest { call: None, queue: fresh.queue.clone(), jobs: vec![Arc::new(fresh.spec())] };
    let error = newcomer.enqueue(request).await.expect_err("a newer layout");
    assert_eq!(error.code(), ErrorCode::SchemaTooNew);
    // A job of another queue is found all the same.
    let there = newcomer.dump(&other, None, 10).await.expect("dump").jobs[0].id();
    assert!(newcomer.job(None, there).await.expect("job").is_some());
    let client = Client::new(newcomer);
    let running = Worker::new(&client).queue("queue").handle(async |_: Shelved, _: Context| Ok(()));
    let running = running.start().await.expect("start");
    let told = ["WARN", "the storage fails", "layout 2", "queue=queue"];
    until_so("the worker has met it", || !logs::with(&told).is_empty()).await;
    running.shutdown().await;
    assert_eq!(changes(&before, &full.contents()), Vec::<String>::new(), "by a worker");
    client.close().await;

    server.cli(&["HSET", &full.key("meta"), "layout", "1"]);
    assert_eq!(changes(&before, &full.contents()), [format!("{} was changed", full.key("meta"))]);
    full.tidy().await;
    let site = Site::open(&server, &full.namespace).await;
    site.drain_and_check([full.waiting, full.delayed, full.ended], worker).await;
}

/// What a newer library with the same layout keeps beside what this one knows is still there after this one has done
/// everything that it can do.
#[tokio::test]
async fn what_a_newer_library_of_the_same_layout_keeps_is_not_lost() {
    let server = Arc::new(Server::start(ServerOptions::new()));
    let full = Full::new(server.clone()).await;
    full.scene.configure(|config| config.event_entries_kept = 7777).await;
    let meta = full.key("meta");
    let config = server.cli(&["HGET", &meta, "config"]);
    let newer = config.replacen('{', r#"{"tides":{"default":{"rate":[20,"1m"]}},"#, 1);
    server.cli(&["HSET", &meta, "config", &newer, "gauge", "what a newer one counts"]);
    let still_there = |after: &str| {
        assert_eq!(server.cli(&["HGET", &meta, "gauge"]), "what a newer one counts", "after {after}");
        let found = server.cli(&["HGET", &meta, "config"]);
        assert!(found.contains(r#""tides":{"default":{"rate":[20,"1m"]}}"#), "after {after}: {found}");
    };
    for call in READS.iter().chain(&WRITES).filter(|call| !call.starts_with("obliterate")) {
        full.call(call).await.unwrap_or_else(|error| panic!("{call}: {error}"));
        still_there(call);
    }
    assert_eq!(full.scene.storage().config(&full.scene.queue).await.expect("config"), QueueConfig::default());
    full.tidy().await;
    let site = Site::open(&server, &full.namespace).await;
    site.drain_and_check([full.waiting], worker).await;
    still_there("the drain");
}
