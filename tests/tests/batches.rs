//! Batches as an app meets them: jobs that are collected and run together. Under a paused clock, where eight hours pass in
//! milliseconds, and on each backend.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferroq::prelude::*;
use ferroq::testing::{self, Performed, perform_batch};
use ferroq::{BatchGate, BatchJob, FailReason, JobId, JobState, StopReason};
use ferroq_testkit::harness::Fixture;
use ferroq_tests::fixtures;
use ferroq_tests::wait::until;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, Serialize, Deserialize, Job)]
#[job(name = "chat.item", queue = "collector", max_attempts = 3, backoff = "exponential(1m, 2.0, 1h)")]
struct Item {
    org: u32,
    number: u32,
}

/// What the handler was given, and when.
#[derive(Default)]
struct Seen {
    batches: Mutex<Vec<(Instant, Vec<JobId>, u32)>>,
    running: AtomicU32,
    runs: AtomicU32,
    go_on: Notify,
    /// How many runs fail, from the first on.
    fail: AtomicU32,
    /// Whether runs wait to be told.
    hold: std::sync::atomic::AtomicBool,
}

impl Seen {
    fn sizes(&self) -> Vec<usize> {
        self.batches.lock().unwrap().iter().map(|(_, ids, _)| ids.len()).collect()
    }
}

async fn analyse(batch: Vec<BatchJob<Item>>, cx: Context<Arc<Seen>>) -> JobResult {
    let seen = cx.state().clone();
    let attempt = batch[0].attempt();
    let ids = batch.iter().map(BatchJob::id).collect();
    assert!(batch.iter().all(|item| item.org == batch[0].org), "of one organisation");
    seen.batches.lock().unwrap().push((Instant::now(), ids, attempt));
    let run = seen.runs.fetch_add(1, Ordering::SeqCst) + 1;
    seen.running.fetch_add(1, Ordering::SeqCst);
    if seen.hold.load(Ordering::SeqCst) {
        seen.go_on.notified().await;
    }
    seen.running.fetch_sub(1, Ordering::SeqCst);
    if run <= seen.fail.load(Ordering::SeqCst) { Err("the analysis is down")? } else { Ok(()) }
}

async fn client() -> Client {
    ferroq::connect("memory://").await.expect("memory needs nothing")
}

/// Items are collected by organisation: analysed once there are so many, or eight hours after the first; one analysis of each
/// at a time.
async fn collect(client: &Client, size: u32) {
    let gate = BatchGate::new(size, 8 * HOUR);
    let lanes = client.queue("collector").unwrap().lanes();
    lanes.every(|lane| lane.batch(gate).concurrency(1)).set().await.unwrap();
}

async fn put(client: &Client, org: u32, count: u32) {
    let items: Vec<Item> = (0..count).map(|number| Item { org, number }).collect();
    for group in items.chunks(10_000) {
        client.enqueue_all(group.to_vec()).lane_by(|item| format!("org/{}", item.org)).await.unwrap();
    }
}

fn worker(client: &Client, seen: &Arc<Seen>) -> ferroq::WorkerBuilder<Arc<Seen>> {
    Worker::new(client).state(seen.clone()).seed(7).handle_batch(analyse)
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_items_are_analysed_at_once() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    collect(&jobs, 100_000).await;
    let worker = worker(&jobs, &seen).start().await.unwrap();
    put(&jobs, 1, 99_999).await;
    tokio::time::sleep(HOUR).await;
    assert!(seen.sizes().is_empty());
    let last_at = Instant::now();
    put(&jobs, 1, 1).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(seen.sizes(), [100_000]);
    assert!(seen.batches.lock().unwrap()[0].0 - last_at < SECOND, "as soon as the last one came");
    tokio::time::sleep(24 * HOUR).await;
    let report = worker.shutdown().await;
    assert_eq!((seen.sizes(), report.completed), (vec![100_000], 100_000));
    assert_eq!(jobs.queue("collector").unwrap().counts().await.unwrap().live(), 0);
}

#[tokio::test(start_paused = true)]
async fn few_items_are_analysed_eight_hours_after_the_first_once() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    collect(&jobs, 100_000).await;
    let worker = worker(&jobs, &seen).start().await.unwrap();
    let first_at = Instant::now();
    put(&jobs, 1, 1).await;
    for _ in 0..7 {
        tokio::time::sleep(HOUR).await;
        put(&jobs, 1, 10).await;
    }
    put(&jobs, 2, 5).await;
    assert!(seen.sizes().is_empty());
    tokio::time::sleep(HOUR + SECOND).await;
    assert_eq!(seen.sizes(), [71], "those of the other organisation came seven hours later");
    let waited = seen.batches.lock().unwrap()[0].0 - first_at;
    assert!((8 * HOUR..8 * HOUR + Duration::from_millis(20)).contains(&waited), "{waited:?}");
    tokio::time::sleep(24 * HOUR).await;
    assert_eq!(seen.sizes(), [71, 5]);
    assert_eq!(worker.shutdown().await.completed, 76);
}

#[tokio::test(start_paused = true)]
async fn one_analysis_of_an_organisation_runs_at_a_time() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    seen.hold.store(true, Ordering::SeqCst);
    collect(&jobs, 10).await;
    let worker = worker(&jobs, &seen).start().await.unwrap();
    put(&jobs, 1, 30).await;
    put(&jobs, 2, 10).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(seen.running.load(Ordering::SeqCst), 2, "one of each");
    for _ in 0..4 {
        seen.go_on.notify_one();
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(seen.sizes(), [10, 10, 10, 10]);
    assert_eq!(worker.shutdown().await.completed, 40);
}

#[tokio::test(start_paused = true)]
async fn a_failed_analysis_is_retried_as_a_whole_with_backoff() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    seen.fail.store(2, Ordering::SeqCst);
    collect(&jobs, 1000).await;
    let worker = worker(&jobs, &seen).start().await.unwrap();
    put(&jobs, 1, 1000).await;
    tokio::time::sleep(SECOND).await;
    // These came too late for it.
    put(&jobs, 1, 5).await;
    tokio::time::sleep(HOUR).await;
    let batches = seen.batches.lock().unwrap().clone();
    let [(first_at, first, 1), (second_at, second, 2), (third_at, third, 3)] = &batches[..] else {
        panic!("three runs: {:?}", seen.sizes())
    };
    assert!(first == second && second == third && first.len() == 1000, "the same jobs");
    assert!((*second_at - *first_at).as_secs() >= 30 && (*third_at - *second_at).as_secs() >= 60, "backoff");
    let report = worker.shutdown().await;
    assert_eq!((report.completed, report.retried), (1000, 2));
}

#[tokio::test(start_paused = true)]
async fn an_analysis_that_fails_for_good_fails_all_of_it() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    seen.fail.store(u32::MAX, Ordering::SeqCst);
    collect(&jobs, 50).await;
    let worker = worker(&jobs, &seen).start().await.unwrap();
    put(&jobs, 1, 50).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(seen.sizes(), [50, 50, 50]);
    let counts = jobs.queue("collector").unwrap().counts().await.unwrap();
    assert_eq!((counts.failed, counts.live()), (50, 0));
    let id = seen.batches.lock().unwrap()[0].1[49];
    let last = jobs.job(id).await.unwrap().unwrap();
    assert_eq!((last.failure, last.attempts), (Some(FailReason::WithBatch), 3));
    assert_eq!(last.notes.errors[0].message, "the analysis is down");
    worker.shutdown().await;
}

#[derive(Clone, Debug, Serialize, Deserialize, Job)]
#[job(name = "mail", queue = "mails", max_attempts = 2, backoff = "fixed(1ms)")]
struct Mail {
    to: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, Job)]
#[job(name = "bill", queue = "bills")]
struct Bill {
    mails: usize,
}

/// Sends what it can, and says of each mail what became of it.
async fn send(batch: Vec<BatchJob<Mail>>, cx: Context<Arc<Mutex<Vec<Vec<String>>>>>) -> JobResult<Vec<JobResult>> {
    cx.state().lock().unwrap().push(batch.iter().map(|mail| mail.to.clone()).collect());
    cx.enqueue(Bill { mails: batch.len() }).await?;
    let result = |mail: &BatchJob<Mail>| match mail.to.as_str() {
        "nobody" => Err(JobError::abort("there is no such address")),
        "busy" if mail.attempt() == 1 => Err(JobError::retry("busy")),
        "panic" => panic!("out of stamps"),
        "short" => Ok(()),
        _ => Ok(()),
    };
    let mut results: Vec<JobResult> = batch.iter().map(result).collect();
    if batch.iter().any(|mail| mail.to == "short") {
        results.pop();
    }
    Ok(results)
}

async fn each() -> [(&'static str, Fixture); 3] {
    [("memory", fixtures::memory().await), ("sqlite", fixtures::sqlite().await), ("redis", fixtures::redis().await)]
}

/// The mails to these, sent in batches of so many.
async fn mails(fixture: &Fixture, size: u32, to: &[&str]) -> (Client, Vec<JobId>) {
    let client = Client::new(fixture.storage.clone());
    let mails = client.queue("mails").unwrap();
    mails.default_lane().batch(BatchGate::new(size, Duration::ZERO)).set().await.unwrap();
    let handles = client.enqueue_all(to.iter().map(|to| Mail { to: (*to).to_owned() })).await.unwrap();
    (client, handles.iter().map(|handle| handle.id()).collect())
}

#[tokio::test]
async fn each_job_of_a_batch_ends_as_its_own_result_says() {
    for (name, fixture) in each().await {
        let (client, ids) = mails(&fixture, 10, &["ada", "nobody", "busy", "bob"]).await;
        let sent: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let worker = Worker::new(&client).state(Arc::clone(&sent)).handle_batch(send);
        let worker = worker.poll_interval(Duration::from_millis(5)).start().await.unwrap();
        let done = async || {
            // The one that is retried waits for its time on the fixture's clock.
            fixture.clock.advance(Duration::from_millis(10));
            (client.queue("mails").unwrap().counts().await.unwrap().live() == 0).then_some(())
        };
        until("all mails are settled", done).await;
        let report = worker.shutdown().await;
        assert_eq!((report.completed, report.failed, report.retried), (3, 1, 1), "{name}");
        let expected: [&[&str]; 2] = [&["ada", "nobody", "busy", "bob"], &["busy"]];
        assert_eq!(*sent.lock().unwrap(), expected, "{name}");
        let states = [JobState::Completed, JobState::Failed, JobState::Completed, JobState::Completed];
        for (id, state) in ids.iter().zip(states) {
            let record = client.job(*id).await.unwrap().unwrap();
            assert_eq!((record.state, record.batch), (state, None), "{name}");
        }
        let bills = client.queue("bills").unwrap().counts().await.unwrap();
        assert_eq!(bills.waiting, 2, "{name}: one follow-up of each run");
        client.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_a_wrong_number_of_results_fail_the_run_and_settle_nothing() {
    for (to, message) in [("panic", "the handler panicked: out of stamps"), ("short", "gave 1 results for 2 jobs")] {
        let fixture = fixtures::memory().await;
        let (client, ids) = mails(&fixture, 2, &["ada", to]).await;
        let sent: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let worker = Worker::new(&client).state(sent.clone()).handle_batch(send).start().await.unwrap();
        let failed = async || {
            fixture.clock.advance(Duration::from_millis(2));
            let counts = client.queue("mails").unwrap().counts().await.unwrap();
            client.storage().sweep(sweep()).await.unwrap();
            (counts.failed == 2).then_some(())
        };
        until("both failed", failed).await;
        assert_eq!(sent.lock().unwrap().len(), 2, "as often as the first one may be tried");
        for (id, failure) in ids.iter().zip([FailReason::AttemptsExhausted, FailReason::WithBatch]) {
            let record = client.job(*id).await.unwrap().unwrap();
            assert_eq!(record.failure, Some(failure));
            let error = record.notes.errors.last().unwrap();
            assert!(error.message.contains(message), "{}", error.message);
        }
        worker.shutdown().await;
    }
}

fn sweep() -> ferroq::storage::SweepRequest {
    ferroq::storage::SweepRequest { queue: "mails".parse().unwrap(), max_items: 100 }
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_cannot_be_read_fails_its_job_and_no_other() {
    let fixture = fixtures::memory().await;
    let (client, _) = mails(&fixture, 3, &["ada", "bob"]).await;
    let mut broken = ferroq::JobSpec::new(
        "mails".parse().unwrap(),
        "mail".parse().unwrap(),
        ferroq::Payload::json(&b"{\"to\":7}"[..]),
    );
    broken.priority = ferroq::Priority(1);
    let broken_id = broken.id;
    let request =
        ferroq::storage::EnqueueRequest { call: None, queue: "mails".parse().unwrap(), jobs: vec![Arc::new(broken)] };
    client.storage().enqueue(request).await.unwrap();
    let sent: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let report = Worker::new(&client).state(sent.clone()).handle_batch(send).run_until_idle().await.unwrap();
    assert_eq!((report.completed, report.failed), (2, 1));
    assert_eq!(*sent.lock().unwrap(), [["ada", "bob"]], "the first of the batch was the broken one");
    let record = client.job(broken_id).await.unwrap().unwrap();
    assert_eq!(record.notes.errors[0].kind, ferroq::ErrorKind::Payload);
    assert_eq!(client.queue("bills").unwrap().counts().await.unwrap().waiting, 1, "it follows from one that completed");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_given_back_at_shutdown_and_costs_no_attempt() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    seen.hold.store(true, Ordering::SeqCst);
    collect(&jobs, 20).await;
    let first = worker(&jobs, &seen).grace(SECOND).start().await.unwrap();
    put(&jobs, 1, 20).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(first.shutdown().await.released, 1);
    seen.hold.store(false, Ordering::SeqCst);
    let report = worker(&jobs, &seen).run_until_idle().await.unwrap();
    assert_eq!((seen.sizes(), report.completed), (vec![20, 20], 20));
    assert_eq!(seen.batches.lock().unwrap()[1].2, 1, "the first attempt still");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_works_until_idle_leaves_what_waits_for_a_batch() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    collect(&jobs, 10).await;
    put(&jobs, 1, 25).await;
    let report = worker(&jobs, &seen).run_until_idle().await.unwrap();
    assert_eq!((report.completed, seen.sizes()), (20, vec![10, 10]));
    let counts = jobs.queue("collector").unwrap().counts().await.unwrap();
    assert_eq!(counts.waiting, 5);
}

#[tokio::test(start_paused = true)]
async fn a_plain_handler_gets_the_jobs_of_a_batch_one_after_another() {
    let jobs = client().await;
    collect(&jobs, 5).await;
    put(&jobs, 1, 5).await;
    let ran = Arc::new(Mutex::new(Vec::new()));
    async fn plain(item: Item, cx: Context<Arc<Mutex<Vec<u32>>>>) -> JobResult {
        cx.state().lock().unwrap().push(item.number);
        Ok(())
    }
    let report = Worker::new(&jobs).state(ran.clone()).handle(plain).run_until_idle().await.unwrap();
    assert_eq!((report.completed, ran.lock().unwrap().clone()), (5, vec![0, 1, 2, 3, 4]));
}

#[tokio::test(start_paused = true)]
async fn jobs_that_no_gate_holds_are_batches_of_one() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    put(&jobs, 1, 3).await;
    let report = worker(&jobs, &seen).run_until_idle().await.unwrap();
    assert_eq!((report.completed, seen.sizes()), (3, vec![1, 1, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_cancelled_during_the_run_leaves_the_others_results_as_they_are() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    seen.hold.store(true, Ordering::SeqCst);
    collect(&jobs, 2).await;
    let worker = worker(&jobs, &seen).start().await.unwrap();
    put(&jobs, 1, 2).await;
    tokio::time::sleep(SECOND).await;
    let ids = seen.batches.lock().unwrap()[0].1.clone();
    jobs.cancel(ids[1]).await.unwrap();
    seen.go_on.notify_one();
    tokio::time::sleep(HOUR).await;
    let report = worker.shutdown().await;
    assert_eq!((seen.sizes(), report.completed, report.lost), (vec![2], 1, 1), "it does not run again");
    for (id, state) in ids.iter().zip([JobState::Completed, JobState::Cancelled]) {
        assert_eq!(jobs.job(*id).await.unwrap().map(|record| record.state), Some(state));
    }
}

/// What is asked of a run by the numbers of its jobs.
async fn play(batch: Vec<BatchJob<Item>>, cx: Context<Arc<Seen>>) -> JobResult<Vec<JobResult>> {
    cx.state().runs.fetch_add(1, Ordering::SeqCst);
    cx.log(format!("attempt {}, {:?}", cx.attempt(), cx.last_checkpoint::<u32>()?)).await?;
    cx.checkpoint(&batch.len()).await?;
    cx.enqueue(Item { org: 7, number: 7 }).await?;
    assert!(batch.iter().all(|item| item.attempt() == cx.attempt()), "each is told what the batch is");
    assert_eq!((batch[0].id(), cx.queue().as_str()), (cx.id(), "collector"), "the context is the first one's");
    if let Some(reason) = cx.stop_reason() {
        Err(format!("told to stop: {reason:?}"))?;
    }
    let each = |item: &BatchJob<Item>| match item.number {
        0 => Ok(()),
        1 => Err(JobError::retry_after(SECOND, "not yet")),
        2 => Err(JobError::snooze(HOUR)),
        _ => Err(JobError::abort("never")),
    };
    Ok(batch.iter().filter(|item| item.number < 9).map(each).collect())
}

#[tokio::test]
async fn a_batch_handler_can_be_performed_without_a_queue() {
    let jobs = client().await;
    let seen = Arc::new(Seen::default());
    let perform = |numbers: &[u32]| {
        let items: Vec<Item> = numbers.iter().map(|number| Item { org: 1, number: *number }).collect();
        perform_batch(&jobs, items).state(seen.clone())
    };
    let done = perform(&[0, 1, 2, 3]).run(play).await.unwrap();
    assert_eq!(done.log, ["attempt 1, None"]);
    assert_eq!(done.follow_ups_of::<Item>().unwrap()[0].number, 7);
    assert_eq!(testing::read::<usize>(done.checkpoint.as_ref().unwrap()).unwrap(), 4);
    let each = done.completed();
    let [Performed::Completed(()), retry, Performed::Snoozed { delay: HOUR }, abort] = &each[..] else {
        panic!("{each:?}")
    };
    assert!(matches!(retry, Performed::Retry { error, delay: Some(SECOND) } if error == "not yet"), "{retry:?}");
    assert!(matches!(abort, Performed::Aborted { error } if error == "never"), "{abort:?}");

    let again = perform(&[0]).attempt(3).checkpoint(&5).unwrap().run(play).await.unwrap();
    assert_eq!(again.log, ["attempt 3, Some(5)"]);
    let stopped = perform(&[0, 0]).stopped(StopReason::Shutdown).run(play).await.unwrap();
    assert!(matches!(stopped.ended, Performed::Retry { error, .. } if error == "told to stop: Shutdown"));
    let wrong = perform(&[0, 9]).run(play).await.unwrap();
    assert!(matches!(wrong.ended, Performed::Retry { error, .. } if error == "the handler gave 1 results for 2 jobs"));
    assert_eq!(seen.runs.load(Ordering::SeqCst), 4);
    assert_eq!(perform(&[]).run(play).await.unwrap().completed().len(), 0);
    assert_eq!(seen.runs.load(Ordering::SeqCst), 4, "there is no batch of nothing");

    let all = perform(&[0, 1]).run(analyse).await.unwrap().completed();
    assert!(matches!(all[..], [Performed::Completed(()), Performed::Completed(())]), "one answer for all of them");
    assert!(jobs.queues().await.unwrap().is_empty(), "nothing was enqueued");
}
