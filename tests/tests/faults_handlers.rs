//! What handlers and payloads may do to a worker: throw, hang, block, expire, and be unreadable. Each costs its own job
//! what the contract says and no other job anything. The same tests run on every backend; blocking the runtime is shown
//! on SQLite, where the heartbeat has a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferroq_core::client::{Client, JobHandle, WaitError};
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{
    ErrorKind, FailReason, Job, JobKind, JobOptions, JobSpec, JobState, Payload, QueueName, UpcastError,
};
use ferroq_core::policy::backoff::Backoff;
use ferroq_core::storage::{JobFilter, Storage};
use ferroq_core::worker::Worker;
use ferroq_testkit::harness::audit;
use ferroq_tests::store::{self, each};
use ferroq_tests::wait::{DEADLINE, until, within};
use serde::{Deserialize, Serialize};

const QUEUE: &str = "work";
const SOON: Duration = Duration::from_millis(1);

/// Does as it is told.
#[derive(Serialize, Deserialize)]
struct Do {
    what: String,
}

impl Job for Do {
    const NAME: &'static str = "test.do";
    const QUEUE: &'static str = QUEUE;
    type Output = String;

    fn options() -> JobOptions {
        JobOptions { max_attempts: 2, backoff: Backoff::fixed(SOON), ..JobOptions::default() }
    }
}

impl Do {
    fn new(what: &str) -> Self {
        Do { what: what.to_owned() }
    }
}

async fn do_it(job: Do, _cx: Context) -> JobResult<String> {
    match job.what.as_str() {
        "panic with a str" => panic!("thrown"),
        "panic with a String" => panic!("thrown {}", 7),
        "panic with neither" => std::panic::panic_any(7),
        "hang" => std::future::pending().await,
        _ => Ok(job.what),
    }
}

/// A handler that throws before there is a future to poll.
fn throws_at_once(_job: Do, _cx: Context) -> std::future::Ready<JobResult<String>> {
    panic!("thrown before the first await")
}

fn queue() -> QueueName {
    QueueName::new(QUEUE).expect("a queue name")
}

async fn check(storage: &Arc<dyn Storage>) {
    audit(storage.as_ref(), &queue()).await;
}

async fn failed<J: Job>(handle: &JobHandle<J>) -> (FailReason, Vec<(ErrorKind, String)>)
where
    J::Output: std::fmt::Debug,
{
    match within("the job ends", handle.wait()).await {
        Err(WaitError::Failed { reason, errors }) => {
            (reason, errors.into_iter().map(|error| (error.kind, error.message)).collect())
        }
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test]
async fn a_panic_of_any_kind_is_a_failed_run_and_its_text_is_kept() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let texts = [
            ("panic with a str", "the handler panicked: thrown"),
            ("panic with a String", "the handler panicked: thrown 7"),
            ("panic with neither", "the handler panicked: (a value that is no text)"),
        ];
        let mut handles = Vec::new();
        for (what, _) in texts {
            handles.push(client.enqueue(Do::new(what)).await.expect("enqueue"));
        }
        let good = client.enqueue(Do::new("good")).await.expect("enqueue");
        let worker = Worker::new(&client).handle(do_it).start().await.expect("start");
        for (handle, (what, text)) in handles.iter().zip(texts) {
            let (reason, errors) = failed(handle).await;
            assert_eq!(reason, FailReason::AttemptsExhausted, "{}: {what}", store.name);
            assert_eq!(errors, vec![(ErrorKind::Panic, text.to_owned()); 2], "{}: {what}", store.name);
        }
        assert_eq!(within("the good job", good.wait()).await.expect("it completes"), "good");
        let report = worker.shutdown().await;
        assert_eq!((report.completed, report.retried, report.failed), (1, 3, 3), "{}", store.name);
        check(&store.storage).await;
    }
}

#[tokio::test]
async fn a_panic_before_the_first_await_is_a_failed_run_too() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let handle = client.enqueue(Do::new("anything")).max_attempts(1).await.expect("enqueue");
        Worker::new(&client).handle(throws_at_once).run_until_idle().await.expect("run");
        let (_, errors) = failed(&handle).await;
        assert_eq!(errors, [(ErrorKind::Panic, "the handler panicked: thrown before the first await".to_owned())]);
        check(&store.storage).await;
    }
}

#[tokio::test]
async fn a_run_beyond_its_timeout_fails_and_uses_up_an_attempt() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let handle = client.enqueue(Do::new("hang")).timeout(Duration::from_millis(20)).await.expect("enqueue");
        let worker = Worker::new(&client).handle(do_it).start().await.expect("start");
        let (reason, errors) = failed(&handle).await;
        assert_eq!(reason, FailReason::AttemptsExhausted, "{}", store.name);
        assert_eq!(errors.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [ErrorKind::Timeout; 2], "{}", store.name);
        assert!(errors[0].1.contains("20ms"), "it says which timeout: {}", errors[0].1);
        worker.shutdown().await;
        check(&store.storage).await;
    }
}

#[tokio::test]
async fn an_expired_job_is_failed_and_never_started() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let late = client.enqueue(Do::new("too late")).expires_in(SOON).await.expect("enqueue");
        let record = late.record().await.expect("record").expect("it is there");
        let expires_at = record.expires_at.expect("it expires");
        until("the job is too old", async || {
            let now = store.storage.now(&queue()).await.expect("now");
            (now > expires_at).then_some(())
        })
        .await;
        let good = client.enqueue(Do::new("in time")).expires_in(Duration::from_secs(3600)).await.expect("enqueue");
        Worker::new(&client).handle(do_it).run_until_idle().await.expect("run");
        let (reason, errors) = failed(&late).await;
        assert_eq!(reason, FailReason::Expired, "{}", store.name);
        assert_eq!(errors[0].0, ErrorKind::Expired);
        let record = late.record().await.expect("record").expect("kept");
        assert_eq!((record.runs, record.attempts, record.started_at), (0, 0, None), "{}", store.name);
        assert_eq!(good.wait().await.expect("it completes"), "in time");
        check(&store.storage).await;
    }
}

fn raw(kind: &str, payload: Payload) -> Arc<JobSpec> {
    let mut spec = JobSpec::new(queue(), JobKind::new(kind).expect("a kind"), payload);
    spec.options = Arc::new(JobOptions { backoff: Backoff::fixed(SOON), ..JobOptions::default() });
    Arc::new(spec)
}

#[tokio::test]
async fn an_undecodable_payload_fails_its_job_at_once_and_no_other() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let specs: Vec<_> = ["not json", "", "{\"what\":7}", &deep, "{\"what\":\"good\"}"]
            .map(|bytes| raw(Do::NAME, Payload::json(bytes.as_bytes().to_vec())))
            .into();
        client.enqueue_batch(specs.clone()).await.expect("enqueue");
        let report = Worker::new(&client).handle(do_it).run_until_idle().await.expect("run");
        assert_eq!((report.completed, report.failed, report.retried), (1, 4, 0), "{}", store.name);
        for spec in &specs[..4] {
            let (reason, errors) = failed(&JobHandle::<Do>::of(&client, queue(), spec.id)).await;
            assert_eq!((reason, errors[0].0), (FailReason::Aborted, ErrorKind::Payload), "{}", store.name);
        }
        let good = JobHandle::<Do>::of(&client, queue(), specs[4].id);
        assert_eq!(good.wait().await.expect("it completes"), "good");
        check(&store.storage).await;
    }
}

/// What [`Do`] became.
#[derive(Serialize, Deserialize)]
struct DoMore {
    tasks: Vec<String>,
}

impl Job for DoMore {
    const NAME: &'static str = Do::NAME;
    const QUEUE: &'static str = QUEUE;
    const VERSION: u16 = 3;
    type Output = String;

    fn upcast(from: u16, payload: serde_json::Value) -> Result<Self, UpcastError> {
        match payload.get("what").and_then(|what| what.as_str()) {
            Some(what) if from == 1 => Ok(DoMore { tasks: vec![what.to_owned()] }),
            _ => Err(UpcastError { from, why: "only version 1 with a task is known".to_owned() }),
        }
    }
}

async fn do_more(job: DoMore, _cx: Context) -> JobResult<String> {
    Ok(job.tasks.join(" and "))
}

#[tokio::test]
async fn an_old_payload_is_read_through_upcast_and_one_that_cannot_be_fails() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let old = client.enqueue(Do::new("sweep")).await.expect("enqueue");
        let bad = raw(Do::NAME, Payload { version: 2, ..Payload::json(&b"{\"what\":\"sweep\"}"[..]) });
        client.enqueue_batch(vec![bad.clone()]).await.expect("enqueue");
        let new = client.enqueue(DoMore { tasks: vec!["mop".into(), "dust".into()] }).await.expect("enqueue");
        Worker::new(&client).handle(do_more).run_until_idle().await.expect("run");
        assert_eq!(old.wait().await.expect("it completes"), "sweep", "{}", store.name);
        assert_eq!(new.wait().await.expect("it completes"), "mop and dust", "{}", store.name);
        let (reason, errors) = failed(&JobHandle::<DoMore>::of(&client, queue(), bad.id)).await;
        assert_eq!((reason, errors[0].0), (FailReason::Aborted, ErrorKind::Payload), "{}", store.name);
        assert!(errors[0].1.contains("version 2"), "{}", errors[0].1);
        check(&store.storage).await;
    }
}

#[tokio::test]
async fn a_payload_of_a_newer_version_waits_for_the_newer_program() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let handle =
            client.enqueue(DoMore { tasks: vec!["mop".into()] }).backoff(Backoff::fixed(SOON)).await.expect("enqueue");
        let old_program = Worker::new(&client).handle(do_it).start().await.expect("start");
        let record = until("the old program looked at it", async || {
            let record = handle.record().await.expect("record").expect("it is there");
            (!record.notes.log.is_empty()).then_some(record)
        })
        .await;
        old_program.shutdown().await;
        assert!(record.notes.log[0].text.contains("version 3"), "{}: {:?}", store.name, record.notes.log);
        assert_eq!((record.attempts, record.notes.errors.len()), (0, 0), "{}: it is nobody's failure", store.name);
        let new_program = Worker::new(&client).handle(do_more).start().await.expect("start");
        assert_eq!(within("the new program", handle.wait()).await.expect("it completes"), "mop", "{}", store.name);
        new_program.shutdown().await;
        check(&store.storage).await;
    }
}

#[derive(Serialize, Deserialize)]
struct Unknown {}

impl Job for Unknown {
    const NAME: &'static str = "test.unknown";
    const QUEUE: &'static str = QUEUE;
    type Output = ();
}

async fn unknown(_job: Unknown, _cx: Context) -> JobResult {
    Ok(())
}

#[tokio::test]
async fn a_job_that_nobody_handles_waits_on_its_shelf_for_a_worker_that_does() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let mut shelved = Vec::new();
        for _ in 0..3 {
            shelved.push(client.enqueue(Unknown {}).await.expect("enqueue"));
            client.enqueue(Do::new("good")).await.expect("enqueue");
        }
        let report = Worker::new(&client).handle(do_it).run_until_idle().await.expect("run");
        assert_eq!((report.completed, report.released), (3, 0), "{}", store.name);
        let counts = client.queue(QUEUE).expect("a name").counts().await.expect("counts");
        let kind = JobKind::new(Unknown::NAME).expect("a kind");
        assert_eq!((counts.waiting, counts.shelved), (3, vec![(kind, 3)]), "{}: health can tell", store.name);
        let record = shelved[0].record().await.expect("record").expect("it is there");
        assert_eq!((record.state, record.attempts, record.crashes, record.runs), (JobState::Waiting, 0, 0, 0));
        let report = Worker::new(&client).handle(unknown).run_until_idle().await.expect("run");
        assert_eq!(report.completed, 3, "{}", store.name);
        check(&store.storage).await;
    }
}

/// Blocks its thread, not only its task.
#[derive(Serialize, Deserialize)]
struct Block {
    past_its_timeout: bool,
}

impl Job for Block {
    const NAME: &'static str = "test.block";
    const QUEUE: &'static str = QUEUE;
    type Output = String;
}

const LEASE: Duration = Duration::from_millis(600);

/// Runs of [`Block`], in whatever process (here: thread) they happen.
#[derive(Default)]
struct Runs {
    started: AtomicUsize,
    taken_over: AtomicBool,
}

async fn block(job: Block, cx: Context<Arc<Runs>>) -> JobResult<String> {
    let run = cx.state().started.fetch_add(1, Ordering::SeqCst) + 1;
    if run > 1 {
        cx.state().taken_over.store(true, Ordering::SeqCst);
        return Ok("taken over".to_owned());
    }
    let start = Instant::now();
    if job.past_its_timeout {
        while !cx.state().taken_over.load(Ordering::SeqCst) {
            assert!(start.elapsed() < DEADLINE, "nobody took over");
            std::thread::sleep(Duration::from_millis(5));
        }
    } else {
        // The length of the block is the subject, so it is slept for.
        std::thread::sleep(LEASE * 3);
    }
    Ok("by the one who blocked".to_owned())
}

/// Lets a worker on a single-threaded runtime block it, beside a rival on a runtime and a handle of its own.
async fn blocked_beside_a_rival(timeout: Option<Duration>) -> (ferroq_core::JobRecord, usize, u64) {
    let directory = store::directory();
    let db = store::db_in(&directory);
    let client = Client::new(Arc::new(store::sqlite(&db).await));
    let runs = Arc::new(Runs::default());
    let mut job = client.enqueue(Block { past_its_timeout: timeout.is_some() });
    if let Some(timeout) = timeout {
        job = job.timeout(timeout);
    }
    let handle = job.await.expect("enqueue");
    let worker = |client: &Client| Worker::new(client).lease(LEASE).state(runs.clone()).handle(block);
    let blocking = worker(&client).start().await.expect("start");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let rival = std::thread::spawn({
        let (runs, db) = (runs.clone(), db.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                until("the first run", async || (runs.started.load(Ordering::SeqCst) > 0).then_some(())).await;
                let client = Client::new(Arc::new(store::sqlite(&db).await));
                let worker = Worker::new(&client).lease(LEASE).state(runs.clone()).handle(block);
                worker.run_until(async { drop(stopped.await) }).await.expect("run");
                client.close().await;
            });
        }
    });
    let record = within("the job ends", handle.wait_record()).await.expect("a record");
    let lost = blocking.shutdown().await.lost;
    drop(stop);
    rival.join().expect("the rival's thread");
    (record, runs.started.load(Ordering::SeqCst), lost)
}

#[tokio::test]
async fn a_handler_that_blocks_the_runtime_for_three_leases_keeps_its_job() {
    let (record, runs, lost) = blocked_beside_a_rival(None).await;
    assert_eq!((record.state, record.crashes, runs, lost), (JobState::Completed, 0, 1, 0));
}

#[tokio::test]
async fn a_handler_that_blocks_past_its_timeout_loses_its_job() {
    let (record, runs, lost) = blocked_beside_a_rival(Some(LEASE)).await;
    assert_eq!((record.state, record.crashes, runs), (JobState::Completed, 1, 2));
    assert_eq!(lost, 1, "the outcome of the one who blocked is refused");
    let result = record.notes.result.expect("a result");
    assert_eq!(&result.bytes[..], b"\"taken over\"");
}

#[tokio::test]
async fn failed_jobs_are_listed_with_their_reasons() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        client.enqueue(Do::new("panic with a str")).max_attempts(1).await.expect("enqueue");
        Worker::new(&client).handle(do_it).run_until_idle().await.expect("run");
        let queue = client.queue(QUEUE).expect("a name");
        let failed = queue.all(JobFilter::states([JobState::Failed])).await.expect("list");
        assert_eq!(failed.len(), 1, "{}", store.name);
        assert_eq!(failed[0].failure, Some(FailReason::AttemptsExhausted));
    }
}
