//! Every future of the client and the worker, dropped at every await: `select!`, a timeout or a closed connection may do
//! it at any moment. Each call must have happened whole or not at all, and the store must be fit for use after it.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{Job, JobId, JobKind, JobOptions, JobState, QueueName, WorkerId};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{ActAnswer, ClaimSpec, Outcome, SettleAnswer, Settlement, Storage, StorageExt};
use ferroq_core::worker::Worker;
use ferroq_testkit::faults::{Polled, polled};
use ferroq_testkit::harness::{QueueDump, audit};
use ferroq_tests::store::each;
use ferroq_tests::wait::within;
use serde::{Deserialize, Serialize};

const QUEUE: &str = "work";
/// No call takes so many polls.
const POLLS_MAX: usize = 300;

#[derive(Clone, Serialize, Deserialize)]
struct Small {
    n: usize,
}

impl Job for Small {
    const NAME: &'static str = "test.small";
    const QUEUE: &'static str = QUEUE;
    type Output = usize;

    fn options() -> JobOptions {
        // Dropped workers lose leases; how many is not the subject.
        JobOptions { max_crashes: 1000, ..JobOptions::default() }
    }
}

async fn small(job: Small, cx: Context) -> JobResult<usize> {
    cx.progress(1, 2).await?;
    tokio::task::yield_now().await;
    cx.enqueue(After { n: job.n }).await?;
    Ok(job.n)
}

#[derive(Serialize, Deserialize)]
struct After {
    n: usize,
}

impl Job for After {
    const NAME: &'static str = "test.after";
    const QUEUE: &'static str = QUEUE;
    type Output = ();

    fn options() -> JobOptions {
        Small::options()
    }
}

async fn after(_job: After, _cx: Context) -> JobResult {
    Ok(())
}

fn queue() -> QueueName {
    QueueName::new(QUEUE).expect("a name")
}

/// Waits for calls whose callers are gone, by making one that comes after them, and checks the store.
async fn settled_down(storage: &Arc<dyn Storage>) -> QueueDump {
    storage.set_paused(&QueueName::new("other").expect("a name"), true).await.expect("usable");
    audit(storage.as_ref(), &queue()).await
}

async fn work_off(client: &Client) {
    let worker = Worker::new(client).lease(Duration::from_millis(60)).poll_interval(Duration::from_millis(20));
    within("everything is worked off", worker.handle(small).handle(after).run_until_idle()).await.expect("run");
}

#[tokio::test]
async fn an_enqueue_dropped_at_any_await_happened_whole_or_not_at_all() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "{}: it never ends", store.name);
            let ids = [JobId::new(), JobId::new(), JobId::new()];
            let specs: Vec<_> = ids
                .iter()
                .map(|id| {
                    let enqueue = client.enqueue(Small { n: polls }).id(*id);
                    enqueue.dedup(format!("key-{id}"), DedupMode::UntilFinished).into_spec().expect("a spec").1
                })
                .collect();
            let ended = polled(polls, client.enqueue_batch(specs.clone())).await;
            let dump = settled_down(&store.storage).await;
            let there = ids.iter().filter(|id| dump.jobs.iter().any(|record| record.id() == **id)).count();
            match &ended {
                Polled::Ready(answers) => assert_eq!((answers.is_ok(), there), (true, 3), "{}", store.name),
                Polled::Dropped => assert!(there == 0 || there == 3, "{}: {there} of 3 after {polls}", store.name),
            }
            client.enqueue_batch(specs).await.expect("a repeat by id");
            let dump = settled_down(&store.storage).await;
            assert_eq!(dump.jobs.len(), 3 * (polls + 1), "{}: each is there once", store.name);
            if matches!(ended, Polled::Ready(_)) {
                break;
            }
        }
        work_off(&client).await;
        let dump = settled_down(&store.storage).await;
        assert!(dump.jobs.iter().all(|record| record.state == JobState::Completed), "{}", store.name);
        assert_eq!(dump.dedup, [], "{}", store.name);
    }
}

#[tokio::test]
async fn a_question_to_a_limiter_dropped_at_any_await_took_all_its_permits_or_none() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let limiter = client.limiter("limiter", Rate::per_day(10_000));
        let mut remaining = 10_000;
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "{}: it never ends", store.name);
            let ended = polled(polls, limiter.acquire(3)).await;
            settled_down(&store.storage).await;
            let now = limiter.peek(1).await.expect("peek").remaining;
            match &ended {
                Polled::Ready(answer) => {
                    assert!(answer.as_ref().is_ok_and(|answer| answer.granted && answer.remaining == now));
                    assert_eq!(now, remaining - 3, "{}", store.name);
                    break;
                }
                Polled::Dropped => assert!(now == remaining || now == remaining - 3, "{}", store.name),
            }
            remaining = now;
        }
    }
}

#[tokio::test]
async fn an_act_dropped_at_any_await_happened_whole_or_not_at_all() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "{}: it never ends", store.name);
            let handle = client.enqueue(Small { n: polls }).await.expect("enqueue");
            let ended = polled(polls, handle.cancel()).await;
            let dump = settled_down(&store.storage).await;
            let record = dump.jobs.iter().find(|record| record.id() == handle.id()).expect("it is there");
            assert!(matches!(record.state, JobState::Waiting | JobState::Cancelled), "{}", store.name);
            let again = handle.cancel().await.expect("cancel");
            let expected = match record.state {
                JobState::Cancelled => ActAnswer::Unchanged(JobState::Cancelled),
                _ => ActAnswer::Done(JobState::Cancelled),
            };
            assert_eq!(again, expected, "{}", store.name);
            if matches!(ended, Polled::Ready(_)) {
                break;
            }
        }
    }
}

fn claim_spec() -> ClaimSpec {
    ClaimSpec {
        kinds: Arc::new([JobKind::new(Small::NAME).expect("a kind")]),
        max_items: 2,
        max_bytes: usize::MAX,
        term: Duration::from_millis(50),
        worker: WorkerId::new("dropped").expect("a name"),
        alone: false,
    }
}

#[tokio::test]
async fn a_claim_dropped_at_any_await_happened_whole_or_not_at_all() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "{}: it never ends", store.name);
            let ids: Vec<_> = [1, 2].map(|n| client.enqueue(Small { n })).into();
            let mut handles = Vec::new();
            for enqueue in ids {
                handles.push(enqueue.await.expect("enqueue"));
            }
            let ended = polled(polls, store.storage.claim(None, &queue(), claim_spec())).await;
            let dump = settled_down(&store.storage).await;
            let is_active = |record: &&ferroq_core::JobRecord| record.state == JobState::Active;
            let active = dump.jobs.iter().filter(is_active).count();
            assert!(active == 0 || active == 2, "{}: {active} of 2 after {polls} polls", store.name);
            work_off(&client).await;
            let dump = settled_down(&store.storage).await;
            let left = dump.jobs.iter().filter(|record| record.state != JobState::Completed).count();
            assert_eq!(left, 0, "{}: what a dropped claim took comes back", store.name);
            if matches!(ended, Polled::Ready(_)) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_settlement_dropped_at_any_await_happened_whole_or_not_at_all() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "{}: it never ends", store.name);
            let handle = client.enqueue(Small { n: polls }).await.expect("enqueue");
            let spec = ClaimSpec { term: Duration::from_secs(30), ..claim_spec() };
            let claimed = store.storage.claim(None, &queue(), spec).await.expect("claim").claims;
            let (_, follow_up) = client.enqueue(After { n: polls }).into_spec().expect("a spec");
            let settlement = Settlement {
                lease: claimed[0].lease,
                outcome: Outcome::Completed { result: None },
                follow_ups: vec![follow_up.clone()],
            };
            let ended = polled(polls, store.storage.settle(None, &queue(), vec![settlement.clone()])).await;
            let dump = settled_down(&store.storage).await;
            let record = dump.jobs.iter().find(|record| record.id() == handle.id()).expect("it is there");
            let has_follow_up = dump.jobs.iter().any(|record| record.id() == follow_up.id);
            let is_settled = record.state == JobState::Completed;
            assert_eq!(is_settled, has_follow_up, "{}: together or not at all", store.name);
            let again = store.storage.settle(None, &queue(), vec![settlement]).await.expect("settle").remove(0);
            assert_eq!(again == SettleAnswer::AlreadyDone, is_settled, "{}: {again:?}", store.name);
            client.remove(follow_up.id).await.expect("remove");
            if matches!(ended, Polled::Ready(_)) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_wait_dropped_at_any_await_leaves_the_job_and_later_waiters_alone() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        for polls in 0..20 {
            let handle = client.enqueue(Small { n: polls }).await.expect("enqueue");
            let waiting = tokio::spawn({
                let handle = handle.clone();
                async move { handle.wait().await }
            });
            // While the work goes on, so that the one who gives up is woken as often as it may be.
            let given_up = polled(polls, handle.wait_record());
            let (_dropped, ()) = tokio::join!(given_up, work_off(&client));
            assert_eq!(within("the other waiter", waiting).await.expect("no panic").expect("completed"), polls);
        }
        settled_down(&store.storage).await;
    }
}

#[tokio::test]
async fn a_worker_dropped_at_any_await_leaves_its_jobs_to_the_next() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "{}: it never ends", store.name);
            client.enqueue_all([Small { n: polls }, Small { n: polls }]).await.expect("enqueue");
            let worker = Worker::new(&client).lease(Duration::from_millis(60)).concurrency(3);
            let dropped = polled(polls, worker.handle(small).handle(after).run_until_idle()).await;
            work_off(&client).await;
            let dump = settled_down(&store.storage).await;
            let left = dump.jobs.iter().filter(|record| record.state != JobState::Completed).count();
            assert_eq!(left, 0, "{} after {polls} polls", store.name);
            let follow_ups = dump.jobs.iter().filter(|record| &*record.spec.kind == After::NAME).count();
            assert_eq!(follow_ups, 2 * (polls + 1), "{}: one follow-up for each job", store.name);
            if matches!(dropped, Polled::Ready(_)) {
                break;
            }
        }
    }
}
