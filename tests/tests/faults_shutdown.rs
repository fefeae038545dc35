//! Shutdown in the middle of a batch: what runs may end, what does not end is given back unharmed, and nothing new is
//! begun. A second signal, which ends a process at once, is in `crash_process.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::{Context, StopReason};
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobState, QueueName};
use ferroq_core::worker::Worker;
use ferroq_testkit::harness::audit;
use ferroq_tests::store::each;
use ferroq_tests::wait::{until, within};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

const QUEUE: &str = "work";
const BATCH: usize = 6;

/// What the handlers and the test tell each other.
#[derive(Default)]
struct Stage {
    started: AtomicUsize,
    told: AtomicUsize,
    /// Lets [`Manner::Waits`] end.
    curtain: Notify,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Manner {
    /// Ends when the test says so.
    Waits,
    /// Ends with an error when it is told to stop.
    GivesUp,
    /// Completes when it is told to stop.
    Hurries,
    /// Does not care.
    Ignores,
}

#[derive(Serialize, Deserialize)]
struct Part {
    manner: Manner,
}

impl Job for Part {
    const NAME: &'static str = "test.part";
    const QUEUE: &'static str = QUEUE;
    type Output = ();
}

async fn play(job: Part, cx: Context<Arc<Stage>>) -> JobResult {
    let stage = cx.state().clone();
    stage.started.fetch_add(1, Ordering::SeqCst);
    match job.manner {
        Manner::Waits => stage.curtain.notified().await,
        Manner::Ignores => std::future::pending().await,
        Manner::GivesUp | Manner::Hurries => cx.cancelled().await,
    }
    if cx.stop_reason() == Some(StopReason::Shutdown) {
        stage.told.fetch_add(1, Ordering::SeqCst);
    }
    if matches!(job.manner, Manner::GivesUp) { Err("told to stop".into()) } else { Ok(()) }
}

async fn all_started(stage: &Stage, parts: usize) {
    until("all parts run", async || (stage.started.load(Ordering::SeqCst) == parts).then_some(())).await;
}

fn parts(manner: Manner, count: usize) -> Vec<Part> {
    (0..count).map(|_| Part { manner }).collect()
}

#[tokio::test]
async fn running_jobs_end_within_the_grace_period_and_no_new_ones_begin() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let stage = Arc::new(Stage::default());
        client.enqueue_all(parts(Manner::Waits, BATCH * 2)).await.expect("enqueue");
        let worker = Worker::new(&client).concurrency(BATCH).state(stage.clone()).handle(play);
        let worker = worker.start().await.expect("start");
        all_started(&stage, BATCH).await;
        let shutdown = tokio::spawn(worker.shutdown());
        // As the parts end, room comes free, and must not be filled.
        for _ in 0..BATCH {
            stage.curtain.notify_one();
        }
        let report = within("the worker ends", shutdown).await.expect("no panic");
        assert_eq!((report.completed, report.released), (BATCH as u64, 0), "{}", store.name);
        assert_eq!(stage.started.load(Ordering::SeqCst), BATCH, "{}: nothing new began", store.name);
        let counts = client.queue(QUEUE).expect("a name").counts().await.expect("counts");
        assert_eq!(
            (counts.completed, counts.waiting, counts.active),
            (BATCH as u64, BATCH as u64, 0),
            "{}",
            store.name
        );
        audit(store.storage.as_ref(), &QueueName::new(QUEUE).expect("a name")).await;
    }
}

#[tokio::test]
async fn past_the_grace_period_handlers_are_told_and_what_is_left_is_given_back() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let stage = Arc::new(Stage::default());
        let gives_up = client.enqueue_all(parts(Manner::GivesUp, 2)).await.expect("enqueue");
        let hurries = client.enqueue_all(parts(Manner::Hurries, 2)).await.expect("enqueue");
        let ignores = client.enqueue_all(parts(Manner::Ignores, 2)).await.expect("enqueue");
        let worker = Worker::new(&client).grace(Duration::from_millis(1)).state(stage.clone()).handle(play);
        let worker = worker.start().await.expect("start");
        all_started(&stage, 6).await;
        let report = within("the worker ends", worker.shutdown()).await;
        assert_eq!((report.completed, report.released, report.lost), (2, 4, 0), "{}", store.name);
        assert_eq!(stage.told.load(Ordering::SeqCst), 4, "{}: those that listen were told", store.name);
        for handle in &hurries {
            assert_eq!(handle.record().await.expect("record").expect("kept").state, JobState::Completed);
        }
        for handle in gives_up.iter().chain(&ignores) {
            let record = handle.record().await.expect("record").expect("it is there");
            assert_eq!((record.state, record.attempts, record.crashes), (JobState::Waiting, 0, 0), "{}", store.name);
            assert_eq!(record.notes.errors, [], "{}: a shutdown is nobody's failure", store.name);
        }
        audit(store.storage.as_ref(), &QueueName::new(QUEUE).expect("a name")).await;
    }
}

#[tokio::test]
async fn an_abort_gives_everything_back_at_once() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let stage = Arc::new(Stage::default());
        client.enqueue_all(parts(Manner::Ignores, BATCH)).await.expect("enqueue");
        let worker = Worker::new(&client).state(stage.clone()).handle(play).start().await.expect("start");
        all_started(&stage, BATCH).await;
        let report = within("the worker ends", worker.abort()).await;
        assert_eq!((report.completed, report.released, report.lost), (0, BATCH as u64, 0), "{}", store.name);
        let dump = audit(store.storage.as_ref(), &QueueName::new(QUEUE).expect("a name")).await;
        assert!(dump.jobs.iter().all(|r| (r.state, r.attempts, r.crashes) == (JobState::Waiting, 0, 0)));
    }
}
