//! A million records whose time has come, on each backend: they go in bounded steps, and the queue goes on working in
//! between. Nothing here looks at a watch. That the queue does not pause is told by order: what is asked between two
//! steps is answered at once and in full, and jobs that come after a worker began to prune have ended before it is done.

use std::sync::Arc;
use std::time::Duration;

use ferroq::{Client, Context, Job, JobResult, Worker};
use ferroq_core::clock::{Clock, ManualClock};
use ferroq_core::job::{JobId, JobRecord, JobSpec, JobState};
use ferroq_core::policy::retention::KeepRule;
use ferroq_core::storage::{DumpPage, JobFilter, ListRequest, SettleAnswer};
use ferroq_testkit::harness::{Fixture, Scene, SpecExt, abort, completed, fail, queue_name, spec};
use ferroq_tests::fixtures;
use ferroq_tests::wait::{until, within};
use serde::{Deserialize, Serialize};

use uuid::Uuid;

const MILLION: u64 = 1_000_000;
/// How many records a step prunes at most, and how many are restored at a time.
const STEP: usize = 1000;
const HOUR: Duration = Duration::from_secs(3600);

/// What the running worker does while it prunes.
#[derive(Serialize, Deserialize, Job)]
#[job(name = "meanwhile", queue = "queue")]
struct Meanwhile;

async fn meanwhile(_job: Meanwhile, _cx: Context) -> JobResult {
    Ok(())
}

/// A record of each way to end.
async fn ended(scene: &Scene) -> Vec<JobRecord> {
    let failed = scene.spec().attempts(1).tag("red");
    let ids = [
        scene.run(scene.spec(), completed()).await,
        scene.run(failed, fail(HOUR)).await,
        scene.run(scene.spec(), ferroq_core::storage::Outcome::Cancelled).await,
        scene.run(scene.spec(), abort()).await,
    ];
    let mut records = Vec::new();
    for id in ids {
        records.push(scene.record(id).await);
    }
    records
}

/// Restores a million records that have ended, like those that ended honestly.
async fn fill(scene: &Scene) {
    let honest = ended(scene).await;
    let first = honest.iter().map(|record| record.seq).max().unwrap_or_default() as u64 + 1;
    let mut n = honest.len() as u64;
    while n < MILLION {
        let until = MILLION.min(n + STEP as u64);
        let jobs = (n..until).map(|n| {
            let model = &honest[n as usize % honest.len()];
            let id = JobId::from(Uuid::from_u128((1_u128 << 100) + u128::from(n)));
            JobRecord {
                spec: Arc::new(JobSpec { id, ..JobSpec::clone(&model.spec) }),
                seq: (first + n) as i64,
                ..model.clone()
            }
        });
        let page = DumpPage { jobs: jobs.collect(), ..DumpPage::default() };
        let answer = scene.storage().restore(&scene.queue, page).await.expect("restore");
        assert_eq!(answer.restored as u64, until - n);
        n = until;
    }
}

/// How many records there are of jobs that have ended.
async fn records(scene: &Scene) -> u64 {
    let counts = scene.counts().await;
    counts.completed + counts.failed + counts.cancelled
}

/// Jobs that come once a worker has begun to prune have ended before it has come to the end.
async fn a_worker_works_while_it_prunes(scene: &Scene) {
    const JOBS: usize = 100;
    let client = Client::new(scene.fixture.storage.clone());
    let running = Worker::new(&client).concurrency(10).handle(meanwhile).start().await.expect("start");
    until("pruning has begun", async || (records(scene).await < MILLION).then_some(())).await;
    let handles = client.enqueue_all((0..JOBS).map(|_| Meanwhile)).await.expect("enqueue");
    for handle in handles {
        within("a job ends", handle.wait()).await.expect("it completes");
    }
    let left = records(scene).await;
    assert!(left > JOBS as u64 * 2, "{left} records are left: pruning ended before the jobs did");
    running.shutdown().await;
}

/// What is asked for between two steps is answered in full.
async fn a_queue_works_between_steps(scene: &Scene) {
    let mut pruned = 0;
    loop {
        let ids = scene.put_many(3).await;
        let claims = scene.claim(3).await;
        assert_eq!(claims.iter().map(|claim| claim.lease.id).collect::<Vec<_>>(), ids, "they are claimed at once");
        for claim in claims {
            let answer = scene.settle(claim.lease, completed()).await;
            assert_eq!(answer, SettleAnswer::Settled { state: JobState::Completed, follow_ups: Vec::new() });
        }
        let answer = scene.sweep(STEP).await;
        assert!(answer.pruned <= STEP, "a step prunes {} records", answer.pruned);
        assert!(!answer.more || answer.pruned == STEP, "a step that leaves some has done all that it may");
        assert_eq!((answer.stalled, answer.promoted), (0, 0));
        pruned += answer.pruned as u64;
        if !answer.more {
            break;
        }
    }
    assert!(pruned > 10 * STEP as u64, "only {pruned} records were left to prune in steps");
}

async fn check(fixture: Fixture) {
    let clock: ManualClock = fixture.clock.clone();
    let scene = Scene::new(fixture);
    let keep = KeepRule { age: HOUR, count: u64::MAX / 4 };
    scene
        .configure(|config| {
            config.retention.completed = keep;
            config.retention.failed = keep;
            config.retention.cancelled = keep;
        })
        .await;
    fill(&scene).await;
    assert_eq!(records(&scene).await, MILLION);
    assert_eq!(scene.sweep(STEP).await.pruned, 0, "their time has not come");
    let (until, kept) = (clock.now().after(HOUR), scene.put_one(spec(&queue_name("queue")).delay(HOUR * 10)).await);
    clock.advance(HOUR + Duration::from_secs(1));
    assert!(clock.now() > until);

    a_worker_works_while_it_prunes(&scene).await;
    a_queue_works_between_steps(&scene).await;

    // Nothing is left but what ended since, and what has not ended.
    assert_eq!(scene.state(kept).await, JobState::Delayed);
    let filter = JobFilter { ended_before: Some(HOUR), ..JobFilter::default() };
    let request = ListRequest { queue: scene.queue.clone(), filter, after: None, max_items: 100_000 };
    let page = scene.storage().list(request).await.expect("list");
    assert_eq!((page.jobs.len(), page.next), (0, None));
    scene.storage().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_records_go_from_memory_without_a_pause() {
    check(fixtures::memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_records_go_from_sqlite_without_a_pause() {
    check(fixtures::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_records_go_from_redis_without_a_pause() {
    check(fixtures::redis().await).await;
}
