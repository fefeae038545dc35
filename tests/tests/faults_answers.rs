//! A storage that loses answers, fails at a point of a call, or can't be reached for a while: what the client and the
//! worker make of it. Jobs run exactly once here, because no lease is lost: a repeated call finds what it did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobState, QueueName};
use ferroq_core::storage::{Effect, ErrorCode, Storage};
use ferroq_core::worker::{Worker, WorkerBuilder};
use ferroq_testkit::faults::{FaultPoint, FaultPoints, Faults, Faulty, LostAnswers, Outage};
use ferroq_testkit::harness::audit;
use ferroq_tests::store::each;
use ferroq_tests::wait::{until, within};
use serde::{Deserialize, Serialize};

const QUEUE: &str = "work";

#[derive(Serialize, Deserialize)]
struct Count {
    n: u32,
}

impl Job for Count {
    const NAME: &'static str = "test.count";
    const QUEUE: &'static str = QUEUE;
    type Output = u32;
}

/// How often each job ran.
type Runs = Arc<Mutex<BTreeMap<u32, u32>>>;

async fn count(job: Count, cx: Context<Runs>) -> JobResult<u32> {
    *cx.state().lock().expect("the runs").entry(job.n).or_default() += 1;
    if job.n < 1000 && job.n.is_multiple_of(4) {
        cx.enqueue(Count { n: job.n + 1000 }).await?;
    }
    Ok(job.n)
}

fn worker(client: &Client, runs: &Runs) -> WorkerBuilder<Runs> {
    Worker::new(client).concurrency(7).poll_interval(Duration::from_millis(20)).state(runs.clone()).handle(count)
}

fn client<P: Faults>(storage: &Arc<dyn Storage>, plan: P) -> Client {
    Client::new(Arc::new(Faulty::new(storage.clone(), plan)))
}

/// Each of the jobs 0..`jobs` and their follow-ups ran once and completed.
async fn each_ran_once(storage: &Arc<dyn Storage>, runs: &Runs, jobs: u32, what: &str) {
    let expected: BTreeMap<u32, u32> =
        (0..jobs).chain((0..jobs).step_by(4).map(|n| n + 1000)).map(|n| (n, 1)).collect();
    assert_eq!(*runs.lock().expect("the runs"), expected, "{what}");
    let dump = audit(storage.as_ref(), &QueueName::new(QUEUE).expect("a name")).await;
    assert_eq!(dump.jobs.len(), expected.len(), "{what}");
    assert!(dump.jobs.iter().all(|r| (r.state, r.runs) == (JobState::Completed, 1)), "{what}: {:#?}", dump.jobs);
}

#[tokio::test]
async fn lost_answers_lose_and_double_nothing() {
    for store in each().await {
        let lost = LostAnswers::new(2);
        let client = client(&store.storage, lost.clone());
        let runs = Runs::default();
        for n in 0..10 {
            let handle = client.enqueue(Count { n }).await.expect("the client repeats it");
            assert!(!handle.is_duplicate(), "{}: the first answer is found again", store.name);
        }
        client.enqueue_all((10..40).map(|n| Count { n })).await.expect("the client repeats it");
        let work = worker(&client, &runs).run_until_idle();
        let report = within("everything is worked off", work).await.expect("run");
        assert_eq!((report.completed, report.lost), (50, 0), "{}", store.name);
        assert!(lost.count() >= 24, "{}: {} answers were lost", store.name, lost.count());
        each_ran_once(&store.storage, &runs, 40, store.name).await;
    }
}

#[tokio::test]
async fn an_error_at_any_point_loses_and_doubles_nothing() {
    for point in FaultPoint::ALL {
        for nth in 1..=3 {
            for store in each().await {
                let what = format!("{}: {point} for the time {nth}", store.name);
                let client = client(&store.storage, FaultPoints::error_at(point, nth));
                let runs = Runs::default();
                for n in 0..12 {
                    // An error without effect is the caller's to repeat; any other the client has repeated.
                    if let Err(error) = client.enqueue(Count { n }).await {
                        assert_eq!((point, error.effect()), (FaultPoint::BeforeEnqueue, Effect::None), "{what}");
                        client.enqueue(Count { n }).await.expect("the fault is over");
                    }
                }
                within(&what, worker(&client, &runs).run_until_idle()).await.expect("run");
                each_ran_once(&store.storage, &runs, 12, &what).await;
            }
        }
    }
}

#[tokio::test]
async fn a_worker_goes_on_after_an_outage_and_nothing_is_lost_or_doubled() {
    for store in each().await {
        let outage = Outage::new();
        let client = client(&store.storage, outage.clone());
        let runs = Runs::default();
        client.enqueue_all((0..10).map(|n| Count { n })).await.expect("enqueue");
        let worker = worker(&client, &runs).start().await.expect("start");
        for round in 1..=3u32 {
            outage.begin();
            let refused = client.enqueue(Count { n: 5000 }).await.expect_err("nothing is answered");
            assert_eq!(refused.effect(), Effect::None);
            assert!(refused.is_retryable(), "{refused}");
            // A job that comes past the outage: the hint arrives, the call does not.
            let others = Client::new(store.storage.clone());
            let more = (round * 10..round * 10 + 10).map(|n| Count { n });
            others.enqueue_all(more).await.expect("enqueue");
            within("the worker tries", outage.until_refused(outage.refused() + 3)).await;
            outage.end();
            let all = (round + 1) * 10;
            until("the worker goes on", async || {
                let done = runs.lock().expect("the runs").keys().filter(|n| **n < 1000).count();
                (done as u32 == all).then_some(())
            })
            .await;
        }
        let report = worker.shutdown().await;
        assert_eq!(report.lost, 0, "{}", store.name);
        within("the rest", Worker::new(&client).state(runs.clone()).handle(count).run_until_idle()).await.expect("run");
        each_ran_once(&store.storage, &runs, 40, store.name).await;
    }
}

#[tokio::test]
async fn outcomes_are_kept_through_an_outage_until_the_storage_takes_them() {
    for store in each().await {
        let outage = Outage::new();
        let client = client(&store.storage, outage.clone());
        let runs = Runs::default();
        let handle = client.enqueue(Count { n: 1 }).await.expect("enqueue");
        // The outage begins while the handler runs.
        let begins = outage.clone();
        let worker = Worker::new(&client)
            .state(runs.clone())
            .handle(move |job: Count, cx: Context<Runs>| {
                let begins = begins.clone();
                async move {
                    begins.begin();
                    count(job, cx).await
                }
            })
            .start()
            .await
            .expect("start");
        within("the worker tries to settle", outage.until_refused(3)).await;
        let error = handle.record().await.expect_err("nothing is answered");
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        outage.end();
        assert_eq!(within("it completes", handle.wait()).await.expect("it completes"), 1, "{}", store.name);
        worker.shutdown().await;
        assert_eq!(runs.lock().expect("the runs").get(&1), Some(&1), "{}: it ran once", store.name);
    }
}

#[tokio::test]
async fn a_worker_that_cannot_open_its_storage_says_so_and_touches_nothing() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let handle = client.enqueue(Count { n: 1 }).await.expect("enqueue");
        store.storage.close().await;
        let closed = client.enqueue(Count { n: 2 }).await.expect_err("closed");
        let ferroq_core::client::ClientError::Storage(closed) = closed else { panic!("{closed}") };
        assert_eq!((closed.code(), closed.effect()), (ErrorCode::Closed, Effect::None), "{}", store.name);
        assert!(handle.record().await.is_err(), "{}", store.name);
    }
}
