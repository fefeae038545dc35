//! A server whose memory is full, or that somebody empties under those who work on it. What can't be stored is refused with
//! a reason and leaves nothing; everything that may make room again goes on; and what is gone is told, to whoever asks
//! for it and in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferroq_core::client::{Client, ClientError};
use ferroq_core::context::Context;
use ferroq_core::job::{Job, JobId, JobState, Payload, Priority, Progress, Start};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{
    Act, ActAnswer, Effect, EnqueueAnswer, EnqueueRequest, ErrorCode, Note, NoteAnswer, ObliterateAnswer, Outcome,
    QueueConfig, RenewAnswer, SettleAnswer, Storage, StorageError,
};
use ferroq_core::worker::Worker;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{Fixture, Scene, SpecExt, abort, completed, fail, queue_name, spec};
use ferroq_tests::logs;
use ferroq_tests::redis::after::{Site, conserved};
use ferroq_tests::redis::contents::{changes, contents};
use ferroq_tests::redis::load;
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::{Server, namespace};
use ferroq_tests::wait::{seed, until, until_so, within};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

const HOUR: Duration = Duration::from_secs(3600);

/// A job of some weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Load {
    n: usize,
    ballast: String,
}

impl Load {
    fn of(n: usize, bytes: usize) -> Self {
        Load { n, ballast: "x".repeat(bytes) }
    }
}

impl Job for Load {
    const NAME: &'static str = "test.load";
    const QUEUE: &'static str = "heavy";
    type Output = usize;
}

async fn open(server: &Server, namespace: &str) -> Arc<dyn Storage> {
    let options = RedisOptions::from_url(&server.url()).expect("the server's URL").namespace(namespace);
    Arc::new(RedisStorage::open(options).await.expect("the server answers"))
}

/// A scene on a handle that knows nothing yet, as that of a process that has just begun.
async fn fresh(server: &Server, namespace: &str) -> Scene {
    Scene::new(Fixture::new(open(server, namespace).await, Default::default(), ()))
}

/// Any write is one too many.
fn fill(server: &Server) {
    server.config_set("maxmemory", "1");
}

fn free(server: &Server) {
    server.config_set("maxmemory", "0");
}

fn is_full(error: &StorageError) -> bool {
    let told = (error.code(), error.effect(), error.is_retryable()) == (ErrorCode::Full, Effect::None, true);
    told && error.to_string().contains("maxmemory")
}

#[tokio::test]
async fn a_full_server_refuses_jobs_without_a_trace() {
    let server = Server::start(ServerOptions::new());
    let namespace = namespace();
    let scene = fresh(&server, &namespace).await;
    let before = scene.put_many(3).await;
    scene.put_one(scene.spec().dedup("held", DedupMode::UntilFinished)).await;
    let mut newcomer = fresh(&server, &namespace).await;
    fill(&server);
    let found = contents(&server, 0);
    let job = || scene.spec();
    let kinds_of_job = [
        vec![job()],
        vec![job(), job(), job()],
        vec![job().delay(HOUR)],
        vec![job().lifo(), job().priority(1)],
        vec![job().dedup("new", DedupMode::UntilFinished), job().dedup("held", DedupMode::UntilFinished)],
        vec![job().dedup("for", DedupMode::For(HOUR))],
        vec![job().payload(vec![b'x'; 100_000])],
        vec![spec(&queue_name("a new queue"))],
    ];
    for jobs in kinds_of_job {
        let jobs: Vec<_> = jobs.into_iter().map(Arc::new).collect();
        let call = Some(newcomer.call());
        for (storage, call) in [(scene.storage(), None), (newcomer.storage(), None), (newcomer.storage(), call)] {
            let request = EnqueueRequest { call, queue: jobs[0].queue.clone(), jobs: jobs.clone() };
            let error = storage.enqueue(request).await.expect_err("no room");
            assert!(is_full(&error), "{error:?}");
        }
    }
    let restored = scene.dump().await;
    let mut page = scene.storage().dump(&scene.queue, None, 100).await.expect("dump");
    page.jobs.iter_mut().for_each(|job| job.seq += 100);
    let error = scene.storage().restore(&queue_name("restored"), page.clone()).await;
    // A page of another queue is refused for what it is.
    assert_eq!(error.expect_err("a stray page").code(), ErrorCode::Invalid);
    let error = scene.storage().restore(&scene.queue, page).await.expect_err("no room");
    assert!(is_full(&error), "{error:?}");
    let client = Client::new(newcomer.fixture.storage.clone());
    let error = within("the answer", async { client.enqueue(Load::of(0, 10)).await }).await.expect_err("no room");
    assert!(matches!(&error, ClientError::Storage(error) if is_full(error)), "{error:?}");
    assert_eq!(changes(&found, &contents(&server, 0)), Vec::<String>::new(), "no trace");
    free(&server);
    assert_eq!(scene.dump().await, restored);
    // No seq was used up either.
    let next = scene.put_one(scene.spec()).await;
    assert_eq!(scene.record(next).await.seq, 5);
    let site = Site::open(&server, &namespace).await;
    site.drain_and_check(before.into_iter().chain([next]), load::worker).await;
}

/// Everything but new jobs goes on when nothing more fits, also for a process that has just been started: an operator who
/// comes to look, or a worker that comes to help.
#[tokio::test]
async fn a_full_server_takes_everything_but_new_jobs() {
    let server = Server::start(ServerOptions::new());
    let namespace = namespace();
    let scene = fresh(&server, &namespace).await;
    let followers = queue_name("followers");
    scene.put_one(spec(&followers)).await;
    let delayed = scene.put([scene.spec().delay(HOUR), scene.spec().delay(HOUR)]).await;
    scene.run(scene.spec(), abort()).await;
    let failed = scene.run(scene.spec(), abort()).await;
    let ids = scene.put_many(7).await;
    let claims = scene.claim(4).await;
    let doomed = queue_name("doomed");
    scene.put_one(spec(&doomed)).await;
    fill(&server);
    let newcomer = || fresh(&server, &namespace);

    let lease = claims[0].lease;
    assert_eq!(newcomer().await.renew(lease).await, RenewAnswer::Renewed { cancel_requested: false });
    let note = Note {
        progress: Some(Progress { done: 1, total: 2, note: None }),
        log: vec!["a line".into()],
        checkpoint: Some(Payload::json("[1]")),
    };
    assert_eq!(newcomer().await.annotate(lease, note).await, NoteAnswer::Noted);
    assert_eq!(
        newcomer().await.settle(lease, fail(HOUR)).await,
        SettleAnswer::Settled { state: JobState::Delayed, follow_ups: vec![] }
    );
    let result = Outcome::Completed { result: Some(Payload::json(vec![b'1'; 10_000])) };
    let follow_ups = [scene.spec(), spec(&followers), spec(&followers)];
    let answer = newcomer().await.settle_with(claims[1].lease, result, follow_ups.clone()).await;
    let state = JobState::Completed;
    assert_eq!(answer, SettleAnswer::Settled { state, follow_ups: vec![EnqueueAnswer::Inserted; 3] });
    // What is for a queue that does not exist yet has been accepted with the settlement, and waits for room.
    let elsewhere = spec(&queue_name("elsewhere"));
    let answer = newcomer().await.settle_with(claims[2].lease, completed(), [elsewhere.clone()]).await;
    let deferred = SettleAnswer::Settled { state, follow_ups: vec![EnqueueAnswer::Deferred] };
    let inserted = SettleAnswer::Settled { state, follow_ups: vec![EnqueueAnswer::Inserted] };
    assert!(answer == deferred || answer == inserted, "{answer:?}");
    newcomer().await.sweep(100).await;
    assert_eq!(newcomer().await.act(ids[5], Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    assert_eq!(newcomer().await.act(ids[5], Act::Retry { reset: true }).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(newcomer().await.act(failed, Act::Retry { reset: false }).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(newcomer().await.act(delayed[0], Act::Promote).await, ActAnswer::Done(JobState::Waiting));
    let start = Act::Reschedule(Start::After(2 * HOUR));
    assert_eq!(newcomer().await.act(delayed[1], start).await, ActAnswer::Done(JobState::Delayed));
    let priority = Act::SetPriority(Priority(3));
    assert_eq!(newcomer().await.act(delayed[1], priority).await, ActAnswer::Done(JobState::Delayed));
    assert_eq!(newcomer().await.act(ids[6], Act::Remove).await, ActAnswer::Done(JobState::Waiting));
    newcomer().await.storage().watch(&scene.queue, ids[4]).await.expect("watch");
    assert!(newcomer().await.storage().set_paused(&scene.queue, true).await.expect("pause"));
    assert!(newcomer().await.claim(1).await.is_empty());
    newcomer().await.configure(|config| config.event_entries_kept = 20_000).await;
    assert!(newcomer().await.storage().set_paused(&scene.queue, false).await.expect("resume"));
    let obliterated = newcomer().await.storage().obliterate(&doomed, false, 10).await.expect("obliterate");
    assert_eq!(obliterated, ObliterateAnswer::Done);
    let more = newcomer().await.claim(100).await;
    assert_eq!(more.len(), 5, "work is handed out");
    let site = Site::open(&server, &namespace).await;
    site.check().await;
    for claim in claims[3..].iter().chain(&more) {
        let answer = newcomer().await.settle(claim.lease, completed()).await;
        assert_eq!(answer, SettleAnswer::Settled { state, follow_ups: vec![] });
    }
    free(&server);
    let all = ids[..6].iter().copied().chain(delayed).chain(follow_ups.iter().map(|job| job.id)).chain([elsewhere.id]);
    site.drain_and_check(all, load::worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_once_there_is_room() {
    const JOBS: usize = 300;
    const BYTES: usize = 20_000;
    let server = Server::start(ServerOptions::new());
    let namespace = namespace();
    let client = Client::new(open(&server, &namespace).await);
    let mut keep_none = QueueConfig::default();
    keep_none.retention.completed.count = 0;
    client.queue(Load::QUEUE).expect("a name").configure(keep_none).await.expect("configure");
    let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let weigh = {
        let (runs, gate) = (runs.clone(), gate.clone());
        move |job: Load, _cx: Context| {
            let (runs, gate) = (runs.clone(), gate.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await?.forget();
                Ok(job.ballast.len())
            }
        }
    };
    let worker = Worker::new(&client).concurrency(4).poll_interval(Duration::from_millis(20)).handle(weigh);
    let worker = worker.start().await.expect("start");
    // Room for some fifty of them, what the server needs for itself not counted.
    server.config_set("maxmemory", &(server.memory_bytes() + 50 * BYTES as u64).to_string());
    let (mut refused, mut acknowledged) = (0, Vec::new());
    for n in 0..JOBS {
        let handle = until("there is room", async || match client.enqueue(Load::of(n, BYTES)).await {
            Ok(handle) => Some(handle),
            Err(ClientError::Storage(error)) if is_full(&error) => {
                refused += 1;
                // From now on the worker makes room.
                gate.add_permits(1);
                None
            }
            Err(other) => panic!("{other:?}"),
        });
        acknowledged.push(handle.await.id());
    }
    assert!(refused > 0, "the memory was never full; the test shows nothing");
    gate.add_permits(JOBS);
    until_so("all have run", || runs.load(Ordering::SeqCst) == JOBS).await;
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.failed, report.lost), (JOBS as u64, 0, 0));
    client.close().await;
    let site = Site::open(&server, &namespace).await;
    site.drain_and_check(acknowledged, |client| Worker::new(client).handle(async |_: Load, _: Context| Ok(0))).await;
}

/// One run that waits for a word.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Patient {
    n: usize,
}

impl Job for Patient {
    const NAME: &'static str = "test.patient";
    const QUEUE: &'static str = "patients";
    type Output = ();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_server_is_told_of_and_workers_go_on() {
    logs::keep();
    let server = Server::start(ServerOptions::new());
    let namespace = namespace();
    let client = Client::new(open(&server, &namespace).await);
    let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let patient = {
        let (runs, gate) = (runs.clone(), gate.clone());
        move |_: Patient, _: Context| {
            let (runs, gate) = (runs.clone(), gate.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await?.forget();
                Ok(())
            }
        }
    };
    // An hour between polls: that it takes up what comes later is the hints' doing.
    let worker = Worker::new(&client).queue(Patient::QUEUE).concurrency(3).poll_interval(HOUR).handle(patient);
    let worker = worker.start().await.expect("start");
    let lost = client.enqueue_all((0..5).map(|n| Patient { n })).await.expect("enqueue");
    until_so("three run", || runs.load(Ordering::SeqCst) == 3).await;
    let queue = queue_name(Patient::QUEUE);
    let before = client.storage().now(&queue).await.expect("now");

    server.cli(&["FLUSHALL"]);
    let after = client.enqueue_all((5..9).map(|n| Patient { n })).await.expect("the queue is made anew");
    gate.add_permits(100);
    for handle in &after {
        within("a new job completes", handle.wait()).await.expect("it completes");
    }
    for handle in &lost {
        assert!(handle.record().await.expect("record").is_none(), "it is gone");
    }
    // Whoever comes for the outcome of a run learns that its job is gone, and so does the log.
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.failed, report.lost), (4, 0, 3), "{report:?}");
    for handle in &lost[..3] {
        let told = logs::with(&["WARN", "gone", &handle.id().to_string()]);
        assert_eq!(told.len(), 1, "{told:?}");
    }
    assert!(client.queues().await.expect("queues").contains(&queue), "the new queue is listed");
    client.close().await;
    let site = Site::open(&server, &namespace).await;
    let snapshot = site
        .drain_and_check(after.iter().map(|handle| handle.id()), |client| {
            Worker::new(client).handle(async |_: Patient, _: Context| Ok(()))
        })
        .await;
    let lowest = snapshot.records().map(|(_, job)| job.epoch).min();
    assert!(lowest > Some(before.as_micros()), "epochs are beyond any that was handed out before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_emptied_again_and_again_under_load_keeps_what_came_after() {
    let mut random = StdRng::seed_from_u64(seed("redis_full", "a_server_emptied_again_and_again"));
    let server = Server::start(ServerOptions::new());
    let namespace = namespace();
    let storages = [open(&server, &namespace).await, open(&server, &namespace).await];
    let site = Site::open(&server, &namespace).await;
    let mut kept: Vec<JobId> = Vec::new();
    for _ in 0..4 {
        let load = load::Load::start(&storages, random.random());
        tokio::time::sleep(Duration::from_micros(random.random_range(0..100_000))).await;
        server.cli(&["FLUSHALL"]);
        let flushed = std::time::Instant::now();
        let ended = load.book().ended.len();
        until_so("the load goes on", || load.book().ended.len() > ended + 100).await;
        let book = load.stop().await;
        let snapshot = site.check().await;
        // What was under way at the flush may have been taken before it and told after.
        kept = book.inserted_after(flushed).into_iter().collect();
        conserved(&snapshot, kept.iter().copied());
    }
    site.drain_and_check(kept, load::worker).await;
}
