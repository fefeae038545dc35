//! The worker and the client together, on the memory backend under a paused clock: what handlers can end in, what they
//! can leave behind, and what becomes of their jobs. Days pass in milliseconds here.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ferroq::prelude::*;
use ferroq::testing::{self, Performed};
use ferroq::{
    ActAnswer, EnqueueAnswer, ErrorKind, FailReason, JobFilter, JobState, Priority, QueueConfig, Retention, StopReason,
    WaitError,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Serialize, Deserialize, Job)]
#[job(name = "sum", queue = "work", output = "u64")]
struct Sum {
    numbers: Vec<u64>,
}

async fn sum(job: Sum, _cx: Context) -> JobResult<u64> {
    Ok(job.numbers.iter().sum())
}

/// A job whose handler does what the test tells it to.
#[derive(Debug, Serialize, Deserialize, Job)]
#[job(name = "act", queue = "work", max_attempts = 3, backoff = "fixed(1s)")]
struct Play {
    part: String,
}

impl Play {
    fn new(part: &str) -> Self {
        Play { part: part.to_owned() }
    }
}

#[derive(Default)]
struct Stage {
    runs: AtomicU32,
    started: Notify,
    go_on: Notify,
}

#[derive(Debug)]
struct OwnError;

impl std::fmt::Display for OwnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an error of the app's own")
    }
}

impl std::error::Error for OwnError {}

fn by_anyhow() -> anyhow::Result<()> {
    anyhow::bail!("by anyhow")
}

async fn play(job: Play, cx: Context<Arc<Stage>>) -> JobResult {
    let stage = cx.state().clone();
    let run = stage.runs.fetch_add(1, Ordering::SeqCst) + 1;
    stage.started.notify_one();
    match job.part.as_str() {
        "own error" => Err(OwnError)?,
        "anyhow" => by_anyhow()?,
        "boxed" => {
            let boxed: Box<dyn std::error::Error + Send + Sync> = "boxed".into();
            Err(boxed)?;
        }
        "panic" => panic!("out of character"),
        "abort" => return Err(JobError::abort("of no use")),
        "retry after a day" if run == 1 => return Err(JobError::retry_after(DAY, "not today")),
        "snooze twice" if run <= 2 => return Err(JobError::snooze(SECOND * 60)),
        "sleep" => tokio::time::sleep(DAY).await,
        "wait" => stage.go_on.notified().await,
        "until told" => {
            cx.cancelled().await;
            return Err(JobError::retry("told to stop"));
        }
        "checkpoint" => {
            let at: u32 = cx.last_checkpoint()?.unwrap_or(0);
            cx.checkpoint(&(at + 1)).await?;
            cx.progress(u64::from(at) + 1, 3).await?;
            cx.log(format!("at {at}")).await?;
            if at < 2 {
                return Err(JobError::retry("more to do"));
            }
        }
        "follow up" => {
            cx.enqueue(Sum { numbers: vec![1, 2] }).priority(7).await?;
        }
        "follow up and fail" => {
            cx.enqueue(Sum { numbers: vec![3] }).await?;
            return Err(JobError::abort("no"));
        }
        _ => {}
    }
    Ok(())
}

async fn client() -> Client {
    ferroq::connect("memory://").await.expect("memory needs nothing")
}

fn worker(client: &Client, stage: &Arc<Stage>) -> ferroq::WorkerBuilder<Arc<Stage>> {
    Worker::new(client).state(stage.clone()).queue("work").seed(7).handle(play)
}

#[tokio::test(start_paused = true)]
async fn a_completed_jobs_output_reaches_the_one_who_waits() {
    let jobs = client().await;
    let handle = jobs.enqueue(Sum { numbers: vec![20, 22] }).await.unwrap();
    let worker = Worker::new(&jobs).handle(sum).start().await.unwrap();
    assert_eq!(handle.wait().await.unwrap(), 42);
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.failed), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn thousands_enqueued_at_once_all_run() {
    let jobs = client().await;
    let handles = jobs.enqueue_all((0..5_000).map(|n| Sum { numbers: vec![n] })).await.unwrap();
    assert_eq!(handles.len(), 5_000);
    let report = testing::run_all(Worker::new(&jobs).concurrency(64).handle(sum)).await.unwrap();
    assert_eq!(report.completed, 5_000);
    assert_eq!(handles[4_999].wait().await.unwrap(), 4_999);
}

#[tokio::test(start_paused = true)]
async fn a_failing_job_is_retried_with_backoff_until_its_attempts_are_used_up() {
    for part in ["own error", "anyhow", "boxed", "panic"] {
        let (jobs, stage) = (client().await, Arc::new(Stage::default()));
        let handle = jobs.enqueue(Play::new(part)).await.unwrap();
        let worker = worker(&jobs, &stage).start().await.unwrap();
        let started = tokio::time::Instant::now();
        let Err(WaitError::Failed { reason, errors }) = handle.wait().await else { panic!("{part} must fail") };
        assert_eq!(reason, FailReason::AttemptsExhausted);
        assert_eq!(errors.len(), 3);
        assert!(started.elapsed() >= SECOND * 2, "two pauses of a second");
        let kind = if part == "panic" { ErrorKind::Panic } else { ErrorKind::Error };
        assert!(errors.iter().all(|error| error.kind == kind), "{errors:?}");
        worker.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn thirty_days_of_retries_pass_in_virtual_time() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("own error")).max_attempts(31).backoff(Backoff::fixed(DAY)).await.unwrap();
    let worker = worker(&jobs, &stage).start().await.unwrap();
    let started = tokio::time::Instant::now();
    assert!(handle.wait().await.is_err());
    assert!(started.elapsed() >= DAY * 30);
    assert_eq!(stage.runs.load(Ordering::SeqCst), 31);
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn abort_fails_the_job_at_once() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("abort")).await.unwrap();
    worker(&jobs, &stage).run_until_idle().await.unwrap();
    let record = handle.record().await.unwrap().unwrap();
    assert_eq!((record.state, record.failure, record.attempts), (JobState::Failed, Some(FailReason::Aborted), 1));
    assert_eq!(record.notes.errors[0].message, "of no use");
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_name_its_own_delay() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("retry after a day")).await.unwrap();
    let started = tokio::time::Instant::now();
    let worker = worker(&jobs, &stage).start().await.unwrap();
    handle.wait().await.unwrap();
    assert!((DAY..DAY + SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn snooze_uses_up_no_attempt() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("snooze twice")).max_attempts(1).await.unwrap();
    let worker = worker(&jobs, &stage).start().await.unwrap();
    handle.wait().await.unwrap();
    let record = handle.record().await.unwrap().unwrap();
    assert_eq!((record.attempts, record.runs), (0, 3));
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_beyond_its_timeout_counts_as_failed() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("sleep")).timeout(SECOND * 5).max_attempts(1).await.unwrap();
    let worker = worker(&jobs, &stage).start().await.unwrap();
    let Err(WaitError::Failed { errors, .. }) = handle.wait().await else { panic!("must fail") };
    assert_eq!(errors[0].kind, ErrorKind::Timeout);
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_run_keeps_its_lease() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("sleep")).await.unwrap();
    let worker = worker(&jobs, &stage).lease(SECOND * 30).start().await.unwrap();
    handle.wait().await.unwrap();
    assert_eq!(stage.runs.load(Ordering::SeqCst), 1, "a day is 2,880 leases, and none was lost");
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn progress_log_and_checkpoint_survive_into_the_next_attempt() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("checkpoint")).await.unwrap();
    let worker = worker(&jobs, &stage).start().await.unwrap();
    handle.wait().await.unwrap();
    let notes = handle.record().await.unwrap().unwrap().notes;
    assert_eq!(testing::read::<u32>(&notes.checkpoint.unwrap()).unwrap(), 3);
    assert_eq!(notes.progress.map(|p| (p.done, p.total)), Some((3, 3)));
    assert_eq!(notes.log.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["at 0", "at 1", "at 2"]);
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_comes_into_being_with_the_completion_and_not_without() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    jobs.enqueue(Play::new("follow up")).correlation_id("req-1").await.unwrap();
    jobs.enqueue(Play::new("follow up and fail")).await.unwrap();
    worker(&jobs, &stage).run_until_idle().await.unwrap();
    let found = testing::enqueued::<Sum>(&jobs, json!({})).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].job.numbers, [1, 2]);
    assert_eq!(found[0].record.priority, Priority(7));
    assert_eq!(found[0].record.spec.options.correlation_id.as_deref(), Some("req-1"));
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_running_job_tells_its_handler() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("until told")).await.unwrap();
    let worker = worker(&jobs, &stage).start().await.unwrap();
    stage.started.notified().await;
    assert_eq!(handle.cancel().await.unwrap(), ActAnswer::Requested);
    assert!(matches!(handle.wait().await, Err(WaitError::Cancelled)));
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_a_run_end_within_the_grace_period() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("wait")).await.unwrap();
    let worker = worker(&jobs, &stage).grace(SECOND * 30).start().await.unwrap();
    stage.started.notified().await;
    let stage_2 = stage.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND * 20).await;
        stage_2.go_on.notify_one();
    });
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.released), (1, 0));
    handle.wait().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_period_jobs_are_given_back_without_using_an_attempt() {
    for part in ["sleep", "until told"] {
        let (jobs, stage) = (client().await, Arc::new(Stage::default()));
        let handle = jobs.enqueue(Play::new(part)).await.unwrap();
        let running = worker(&jobs, &stage).grace(SECOND * 30).start().await.unwrap();
        stage.started.notified().await;
        let report = running.shutdown().await;
        assert_eq!(report.released, 1, "{part}: {report:?}");
        let record = handle.record().await.unwrap().unwrap();
        assert_eq!((record.state, record.attempts, record.crashes), (JobState::Waiting, 0, 0), "{part}");
    }
}

#[tokio::test(start_paused = true)]
async fn aborting_a_worker_gives_its_jobs_back_at_once() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("sleep")).await.unwrap();
    let running = worker(&jobs, &stage).start().await.unwrap();
    stage.started.notified().await;
    let began = tokio::time::Instant::now();
    assert_eq!(running.abort().await.released, 1);
    assert!(began.elapsed() < SECOND, "in virtual time, which no busy machine stretches");
    assert_eq!(handle.record().await.unwrap().unwrap().state, JobState::Waiting);
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_hands_out_nothing_until_it_is_resumed() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let queue = jobs.queue("work").unwrap();
    assert!(queue.pause().await.unwrap());
    let handle = jobs.enqueue(Play::new("fine")).await.unwrap();
    let running = worker(&jobs, &stage).start().await.unwrap();
    tokio::time::sleep(DAY).await;
    assert_eq!(stage.runs.load(Ordering::SeqCst), 0);
    assert!(queue.resume().await.unwrap());
    handle.wait().await.unwrap();
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_a_handler_waits_on_its_shelf_for_a_worker_that_has_one() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Sum { numbers: vec![1] }).await.unwrap();
    jobs.enqueue(Play::new("fine")).await.unwrap();
    let report = worker(&jobs, &stage).run_until_idle().await.unwrap();
    assert_eq!(report.completed, 1);
    let counts = jobs.queue("work").unwrap().counts().await.unwrap();
    assert_eq!(counts.shelved.iter().map(|(kind, n)| (kind.as_str(), *n)).collect::<Vec<_>>(), [("sum", 1)]);
    Worker::new(&jobs).handle(sum).run_until_idle().await.unwrap();
    assert_eq!(handle.wait().await.unwrap(), 1);
    assert_eq!(handle.record().await.unwrap().unwrap().attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_record_with_a_waiter_outlives_its_end_although_nothing_is_kept() {
    let jobs = client().await;
    let queue = jobs.queue("work").unwrap();
    let mut config = QueueConfig::default();
    config.retention = Retention { completed: ferroq::KeepRule::REMOVE, ..Retention::default() };
    queue.configure(config).await.unwrap();
    let waited = jobs.enqueue(Sum { numbers: vec![5] }).await.unwrap();
    let not_waited = jobs.enqueue(Sum { numbers: vec![6] }).await.unwrap();
    let waiter = tokio::spawn({
        let waited = waited.clone();
        async move { waited.wait().await }
    });
    tokio::task::yield_now().await;
    Worker::new(&jobs).handle(sum).run_until_idle().await.unwrap();
    assert_eq!(waiter.await.unwrap().unwrap(), 5);
    assert!(matches!(not_waited.wait().await, Err(WaitError::Gone)));
}

#[tokio::test(start_paused = true)]
async fn bulk_acts_answer_for_every_job() {
    let jobs = client().await;
    let queue = jobs.queue("work").unwrap();
    jobs.enqueue_all((0..1_200).map(|n| Sum { numbers: vec![n] })).delay(DAY).tag("bulk").await.unwrap();
    let tagged = JobFilter { tag: Some("bulk".parse().unwrap()), ..JobFilter::default() };
    let promoted = queue.promote(tagged.clone()).await.unwrap();
    assert_eq!(promoted.len(), 1_200);
    assert!(promoted.iter().all(|(_, answer)| *answer == ActAnswer::Done(JobState::Waiting)));
    assert_eq!(queue.cancel(tagged.clone()).await.unwrap().len(), 1_200);
    assert_eq!(queue.counts().await.unwrap().cancelled, 1_200);
    assert_eq!(queue.retry(tagged, true).await.unwrap().len(), 1_200);
    assert_eq!(queue.drain().await.unwrap(), 1_200);
    assert_eq!(queue.counts().await.unwrap().live(), 0);
    queue.obliterate(false).await.unwrap();
    assert!(jobs.queues().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_builder_says_everything_that_is_wrong() {
    let jobs = client().await;
    let refused = jobs.enqueue(Play::new("x")).queue("a{b").tag("").max_attempts(0).await.unwrap_err().to_string();
    for part in ["queue name", "the tag", "max_attempts is 0"] {
        assert!(refused.contains(part), "{refused}");
    }
    let refused = Worker::new(&jobs).concurrency(0).queue("\n").run_until_idle().await.unwrap_err().to_string();
    for part in ["no handler", "concurrency is 0", "queue name"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[tokio::test]
async fn a_handler_can_be_performed_without_a_queue() {
    let jobs = client().await;
    let stage = Arc::new(Stage::default());
    let done = testing::perform(&jobs, Play::new("follow up")).state(stage.clone()).run(play).await.unwrap();
    assert_eq!(done.follow_ups_of::<Sum>().unwrap()[0].numbers, [1, 2]);
    done.completed();
    let again = testing::perform(&jobs, Play::new("checkpoint"))
        .state(stage.clone())
        .attempt(2)
        .checkpoint(&1u32)
        .unwrap()
        .run(play)
        .await
        .unwrap();
    assert!(matches!(again.ended, Performed::Retry { .. }));
    assert_eq!(again.log, ["at 1"]);
    let told =
        testing::perform(&jobs, Play::new("until told")).state(stage).stopped(StopReason::Shutdown).run(play).await;
    assert!(matches!(told.unwrap().ended, Performed::Retry { .. }));
    assert!(jobs.queues().await.unwrap().is_empty(), "nothing was enqueued");
}

#[tokio::test(start_paused = true)]
async fn a_job_on_its_last_crash_runs_alone() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let fragile = jobs.enqueue(Play::new("wait")).max_crashes(1).await.unwrap();
    jobs.enqueue_all((0..5).map(|_| Play::new("fine"))).await.unwrap();
    let running = worker(&jobs, &stage).concurrency(10).start().await.unwrap();
    // The five run together first; then the fragile one, alone: what comes now waits for it.
    while fragile.record().await.unwrap().unwrap().state != JobState::Active {
        tokio::time::sleep(SECOND).await;
    }
    let late = jobs.enqueue(Play::new("fine")).await.unwrap();
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(late.record().await.unwrap().unwrap().state, JobState::Waiting);
    stage.go_on.notify_one();
    late.wait().await.unwrap();
    fragile.wait().await.unwrap();
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn events_tell_a_jobs_life_in_order() {
    use ferroq::{EventCursor, EventItem, EventKind};
    use futures::StreamExt;
    let jobs = client().await;
    let handle = jobs.enqueue(Sum { numbers: vec![1] }).delay(SECOND).await.unwrap();
    let running = Worker::new(&jobs).handle(sum).start().await.unwrap();
    handle.wait().await.unwrap();
    let mut events = std::pin::pin!(jobs.events("work", EventCursor::default()).unwrap());
    let mut kinds = Vec::new();
    while let Some(Ok(EventItem::Event(event))) = events.next().await {
        assert_eq!(event.job, Some(handle.id()));
        kinds.push(event.kind);
        if event.kind == EventKind::Completed {
            break;
        }
    }
    assert_eq!(kinds, [EventKind::Enqueued, EventKind::Promoted, EventKind::Started, EventKind::Completed]);
    running.shutdown().await;
}

#[derive(Debug, Serialize, Deserialize, Job)]
#[job(name = "mark", queue = "left")]
struct Mark {
    side: String,
}

async fn mark(job: Mark, cx: Context<std::sync::Mutex<Vec<String>>>) -> JobResult {
    cx.state().lock().unwrap().push(job.side);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_worker_on_two_queues_serves_them_in_turn() {
    let jobs = client().await;
    jobs.enqueue_all((0..20).map(|_| Mark { side: "left".into() })).await.unwrap();
    jobs.enqueue_all((0..20).map(|_| Mark { side: "right".into() })).queue("right").await.unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let worker = Worker::new(&jobs).shared_state(seen.clone()).queue("left").queue("right").concurrency(1);
    assert_eq!(worker.handle(mark).run_until_idle().await.unwrap().completed, 40);
    let first: Vec<String> = seen.lock().unwrap()[..10].to_vec();
    assert!(first.iter().any(|side| side == "left") && first.iter().any(|side| side == "right"), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_run_until_a_future_ends_with_it() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    jobs.enqueue(Play::new("fine")).await.unwrap();
    let report = worker(&jobs, &stage).run_until(tokio::time::sleep(SECOND)).await.unwrap();
    assert_eq!(report.completed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dedup_key_is_held_as_long_as_its_mode_says() {
    let jobs = client().await;
    let job = || Sum { numbers: vec![1] };
    let until_finished = jobs.enqueue(job()).dedup("a", DedupMode::UntilFinished).await.unwrap();
    let for_a_day = jobs.enqueue(job()).dedup("b", DedupMode::For(DAY)).await.unwrap();
    let while_kept = jobs.enqueue(job()).dedup("c", DedupMode::WhileKept).await.unwrap();
    for (key, mode, holder) in [
        ("a", DedupMode::UntilFinished, &until_finished),
        ("b", DedupMode::For(DAY), &for_a_day),
        ("c", DedupMode::WhileKept, &while_kept),
    ] {
        let again = jobs.enqueue(job()).dedup(key, mode).await.unwrap();
        assert!(again.is_duplicate());
        assert_eq!(again.id(), holder.id(), "a duplicate's handle is the holder's");
    }
    Worker::new(&jobs).handle(sum).run_until_idle().await.unwrap();
    assert!(!jobs.enqueue(job()).dedup("a", DedupMode::UntilFinished).await.unwrap().is_duplicate());
    assert!(jobs.enqueue(job()).dedup("b", DedupMode::For(DAY)).await.unwrap().is_duplicate());
    assert!(jobs.enqueue(job()).dedup("c", DedupMode::WhileKept).await.unwrap().is_duplicate());
    tokio::time::sleep(DAY).await;
    assert!(!jobs.enqueue(job()).dedup("b", DedupMode::For(DAY)).await.unwrap().is_duplicate());
    jobs.queue("work").unwrap().clean(JobState::Completed, Duration::ZERO).await.unwrap();
    assert!(!jobs.enqueue(job()).dedup("c", DedupMode::WhileKept).await.unwrap().is_duplicate());
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_mixed_jobs_answers_in_its_own_order() {
    let jobs = client().await;
    let (_, left) = jobs.enqueue(Mark { side: "left".into() }).into_spec().unwrap();
    let (_, sum) = jobs.enqueue(Sum { numbers: vec![] }).into_spec().unwrap();
    let answers = jobs.enqueue_batch(vec![left.clone(), sum.clone(), left.clone()]).await.unwrap();
    use EnqueueAnswer::{Duplicate, Inserted};
    assert_eq!(answers, [Inserted, Inserted, Duplicate(left.id)]);
    assert_eq!(jobs.queues().await.unwrap().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["left", "work"]);
}

#[tokio::test(start_paused = true)]
async fn a_job_too_old_to_start_fails_as_expired() {
    let (jobs, stage) = (client().await, Arc::new(Stage::default()));
    let handle = jobs.enqueue(Play::new("fine")).expires_in(SECOND).await.unwrap();
    tokio::time::sleep(SECOND * 2).await;
    worker(&jobs, &stage).run_until_idle().await.unwrap();
    let Err(WaitError::Failed { reason, .. }) = handle.wait().await else { panic!("it must fail") };
    assert_eq!((reason, stage.runs.load(Ordering::SeqCst)), (FailReason::Expired, 0));
}

#[tokio::test(start_paused = true)]
async fn a_debounced_job_runs_once_with_the_last_payload() {
    let jobs = client().await;
    let enqueue = |n| jobs.enqueue(Sum { numbers: vec![n] }).dedup("page", DedupMode::Debounce(SECOND));
    let first = enqueue(1).await.unwrap();
    let worker = Worker::new(&jobs).handle(sum);
    let later = async {
        for n in 2..=5 {
            tokio::time::sleep(SECOND / 2).await;
            let again = enqueue(n).await.unwrap();
            assert_eq!((again.answer(), again.id()), (EnqueueAnswer::Replaced(first.id()), first.id()));
        }
        first.wait().await.unwrap()
    };
    let sum_of_last = Arc::new(AtomicU32::new(0));
    let seen = sum_of_last.clone();
    worker.run_until(async move { seen.store(later.await as u32, Ordering::SeqCst) }).await.unwrap();
    assert_eq!(sum_of_last.load(Ordering::SeqCst), 5);
    assert_eq!(jobs.queue("work").unwrap().counts().await.unwrap().completed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_by_payload_is_that_of_the_value() {
    let jobs = client().await;
    let enqueue =
        |numbers: &[u64]| jobs.enqueue(Sum { numbers: numbers.to_vec() }).dedup_by_payload(DedupMode::UntilFinished);
    let first = enqueue(&[1, 2]).await.unwrap();
    assert_eq!(enqueue(&[1, 2]).await.unwrap().answer(), EnqueueAnswer::Duplicate(first.id()));
    assert_eq!(enqueue(&[2, 1]).await.unwrap().answer(), EnqueueAnswer::Inserted);
    let bulk = jobs.enqueue_all([vec![3], vec![1, 2], vec![3]].map(|numbers| Sum { numbers }));
    let bulk = bulk.dedup_by_payload(DedupMode::UntilFinished).await.unwrap();
    assert_eq!(bulk.iter().map(|handle| handle.is_duplicate()).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!((bulk[1].id(), bulk[2].id()), (first.id(), bulk[0].id()));
}

#[tokio::test(start_paused = true)]
async fn a_mode_that_gives_the_start_refuses_another() {
    let jobs = client().await;
    let coalesce = DedupMode::Coalesce { count: 3, max_wait: SECOND };
    for (mode, name) in [(DedupMode::Debounce(SECOND), "Debounce"), (coalesce, "Coalesce")] {
        let enqueue = || jobs.enqueue(Sum { numbers: vec![] });
        let all = || jobs.enqueue_all([Sum { numbers: vec![] }]).delay(SECOND);
        let refusals = [
            enqueue().dedup("a", mode).delay(SECOND).await.unwrap_err(),
            enqueue().dedup("a", mode).run_at(std::time::SystemTime::now() + DAY).await.unwrap_err(),
            enqueue().dedup_by_payload(mode).delay(SECOND).await.unwrap_err(),
            all().dedup_by(|_| "a", mode).await.unwrap_err(),
            all().dedup_by_payload(mode).await.unwrap_err(),
        ];
        for refusal in refusals {
            assert!(refusal.to_string().contains(name), "{refusal}");
        }
        let (_, mut spec) = enqueue().dedup("a", mode).into_spec().unwrap();
        Arc::make_mut(&mut spec).start = ferroq::Start::After(SECOND);
        assert!(jobs.enqueue_batch(vec![spec]).await.is_err());
    }
    assert_eq!(jobs.queues().await.unwrap(), []);
}
