//! Jobs on their last crash, which run alone, where a limit or a pause holds them back. Once, such a job kept a worker asking
//! for it without pause, for as long as it was held; and after ten seconds kept a busy worker from claiming anything until all
//! of its runs had ended, again and again. What it should do is wait as others do, and be first when it may start.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferroq::{Client, Context, Job, JobResult, QueueHandle, Rate, Worker, WorkerBuilder};
use ferroq_core::job::{JobKind, QueueName, WorkerId};
use ferroq_core::storage::{ClaimSpec, ExchangeRequest, Storage, StorageError};
use ferroq_memory::MemoryStorage;
use ferroq_testkit::faults::{Faults, Faulty, Stage, Visit};
use ferroq_testkit::harness::Fixture;
use ferroq_tests::fixtures;
use ferroq_tests::wait::within;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// More exchanges than any of these tests needs. A worker that asks without pause comes to them in no time, and may otherwise
/// never let a virtual clock go on.
const EXCHANGES_MAX: usize = 1000;

/// What holds the lane `c/a`, or its queue, back.
const PAUSES: [&str; 4] = ["lane-paused", "class-paused", "lanes-paused", "queue-paused"];
const RATES: [&str; 3] = ["lane-rate", "class-rate", "queue-rate"];
const SLOTS: [&str; 3] = ["lane-slots", "class-slots", "queue-slots"];

async fn hold(queue: &QueueHandle, how: &str) {
    let rate = || Rate::sliding(1, DAY);
    let (lane, class) = (queue.lane("c/a"), queue.lane_class("c"));
    let held = match how {
        "lane-paused" => lane.pause().await.map(drop),
        "class-paused" => class.pause().await.map(drop),
        "lanes-paused" => queue.lanes().every(|lane| lane.paused(true)).set().await.map(drop),
        "queue-paused" => queue.pause().await.map(drop),
        "lane-rate" => lane.rate(rate()).set().await.map(drop),
        "class-rate" => class.total(|all| all.rate(rate())).set().await.map(drop),
        "queue-rate" => queue.limits().rate(rate()).set().await.map(drop),
        "lane-slots" => lane.concurrency(1).set().await.map(drop),
        "class-slots" => class.total(|all| all.concurrency(1)).set().await.map(drop),
        _ => queue.limits().concurrency(1).set().await.map(drop),
    };
    held.expect("it is held back");
}

async fn let_go(queue: &QueueHandle, how: &str) {
    let resumed = match how {
        "lane-paused" => queue.lane("c/a").resume().await.map(drop),
        "class-paused" => queue.lane_class("c").resume().await.map(drop),
        "lanes-paused" => queue.lanes().every(|lane| lane.paused(false)).set().await.map(drop),
        _ => queue.resume().await.map(drop),
    };
    resumed.expect("it may go on");
}

#[derive(Clone, Serialize, Deserialize, Job)]
#[job(name = "step", queue = "steps")]
struct Step {
    name: String,
    takes: Duration,
}

fn step(name: &str) -> Step {
    Step { name: name.into(), takes: Duration::ZERO }
}

/// What was done, in its order.
type Done = Arc<Mutex<Vec<String>>>;

async fn run(job: Step, cx: Context<Done>) -> JobResult {
    tokio::time::sleep(job.takes).await;
    cx.state().lock().expect("no handler panics").push(job.name);
    Ok(())
}

fn done(done: &Done) -> Vec<String> {
    done.lock().expect("no handler panics").clone()
}

fn worker(client: &Client, queue: &str, done: &Done) -> WorkerBuilder<Done> {
    Worker::new(client).state(done.clone()).queue(queue).handle(run)
}

/// Counts the exchanges with a storage.
#[derive(Clone, Default)]
struct Exchanges(Arc<AtomicUsize>);

impl Exchanges {
    fn client(&self, storage: Arc<dyn Storage>) -> Client {
        Client::new(Arc::new(Faulty::new(storage, self.clone())))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Faults for Exchanges {
    fn visit(&self, visit: Visit) -> Result<(), StorageError> {
        if visit.method == "exchange" && visit.stage == Stage::Before {
            let before = self.0.fetch_add(1, Ordering::SeqCst);
            assert!(before < EXCHANGES_MAX, "a worker asks without pause");
        }
        Ok(())
    }
}

async fn each() -> [(&'static str, Fixture); 3] {
    [("memory", fixtures::memory().await), ("sqlite", fixtures::sqlite().await), ("redis", fixtures::redis().await)]
}

/// An ordinary job, and after it one that must run alone, in the lane that is held.
async fn put_pair(client: &Client, queue: &str) {
    client.enqueue(step("plain")).queue(queue).lane("c/a").await.expect("enqueue");
    client.enqueue(step("alone")).queue(queue).lane("c/a").max_crashes(1).await.expect("enqueue");
}

#[tokio::test]
async fn a_worker_that_works_until_idle_leaves_a_solo_job_that_is_held_back() {
    for (name, fixture) in each().await {
        let exchanges = Exchanges::default();
        let client = exchanges.client(fixture.storage.clone());
        for how in PAUSES.into_iter().chain(RATES) {
            let (queue, told) = (client.queue(how).expect("a name"), Done::default());
            hold(&queue, how).await;
            put_pair(&client, how).await;
            let work = async || {
                let worker = worker(&client, how, &told).run_until_idle();
                within(&format!("the worker ends on {name}: {how}"), worker).await.expect("run");
            };
            work().await;
            let at_first = if RATES.contains(&how) { vec!["plain"] } else { vec![] };
            assert_eq!(done(&told), at_first, "{name}: {how}");
            if at_first.is_empty() {
                let_go(&queue, how).await
            } else {
                fixture.clock.advance(DAY)
            }
            work().await;
            let mut all = done(&told);
            all.sort();
            assert_eq!(all, ["alone", "plain"], "{name}: {how}");
        }
        client.close().await;
    }
}

/// The clock is virtual, so a day is over once nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_worker_with_a_solo_job_that_is_held_back_sleeps() {
    for how in PAUSES.into_iter().chain(RATES).chain(SLOTS) {
        let (exchanges, told) = (Exchanges::default(), Done::default());
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let client = exchanges.client(storage.clone());
        let queue = client.queue(how).expect("a name");
        hold(&queue, how).await;
        put_pair(&client, how).await;
        if SLOTS.contains(&how) {
            // Somebody else has the place for an hour.
            let claim = ClaimSpec {
                kinds: vec![JobKind::new(Step::NAME).expect("a name")].into(),
                max_items: 1,
                max_bytes: usize::MAX,
                term: HOUR * 2,
                worker: WorkerId::new("elsewhere").expect("a name"),
                alone: false,
            };
            let queue = QueueName::new(how).expect("a name");
            let request = ExchangeRequest { call: None, queue, settlements: Vec::new(), claim: Some(claim) };
            storage.exchange(request).await.expect("exchange");
        }
        let running = worker(&client, how, &told).start().await.expect("start");
        let beside = worker(&client, "beside", &told).start().await.expect("start");
        tokio::time::sleep(HOUR).await;
        let asked = exchanges.count();
        assert!(asked < 20, "{how}: {asked} exchanges");
        client.enqueue(step("beside")).queue("beside").await.expect("enqueue").wait().await.expect("it runs");
        assert!(!done(&told).contains(&"alone".to_owned()), "{how}");
        running.shutdown().await;
        beside.shutdown().await;
        client.close().await;
    }
}

/// Here time is real. That nothing is asked for in a while is true of a good worker however long the while is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_on_a_real_store_sleeps_too() {
    for (name, fixture) in [("sqlite", fixtures::sqlite().await), ("redis", fixtures::redis().await)] {
        for how in PAUSES.into_iter().chain(RATES) {
            let (exchanges, told) = (Exchanges::default(), Done::default());
            let client = exchanges.client(fixture.storage.clone());
            let queue = client.queue(how).expect("a name");
            hold(&queue, how).await;
            put_pair(&client, how).await;
            let running = worker(&client, how, &told).poll_interval(HOUR).start().await.expect("start");
            tokio::time::sleep(Duration::from_millis(200)).await;
            let asked = exchanges.count();
            assert!(asked < 20, "{name}: {how}: {asked} exchanges");
            running.shutdown().await;
        }
        fixture.storage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_ends_starts_the_solo_job() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        for how in PAUSES {
            let (queue, told) = (client.queue(how).expect("a name"), Done::default());
            hold(&queue, how).await;
            put_pair(&client, how).await;
            let running = worker(&client, how, &told).poll_interval(HOUR).start().await.expect("start");
            let alone = client.enqueue(step("last")).queue(how).lane("c/a").max_crashes(1).await.expect("enqueue");
            let_go(&queue, how).await;
            within(&format!("it runs on {name}: {how}"), alone.wait()).await.expect("it runs");
            running.shutdown().await;
        }
        client.close().await;
    }
}

/// Its lane has a backlog that takes every start that the rate allows. A worker that is not alone can't take the solo job, and
/// one that is must not forget that it could.
#[tokio::test(start_paused = true)]
async fn a_rate_that_opens_starts_the_solo_job_before_its_lanes_backlog() {
    for how in RATES {
        let (exchanges, told) = (Exchanges::default(), Done::default());
        let client = exchanges.client(Arc::new(MemoryStorage::new()));
        let queue = client.queue(how).expect("a name");
        hold(&queue, how).await;
        client.enqueue_all((0..50).map(|_| step("plain"))).queue(how).lane("c/a").await.expect("enqueue");
        let begun = Instant::now();
        let running = worker(&client, how, &told).start().await.expect("start");
        tokio::time::sleep(HOUR).await;
        let alone = client.enqueue(step("alone")).queue(how).lane("c/a").max_crashes(1).await.expect("enqueue");
        tokio::time::timeout(DAY * 2, alone.wait()).await.expect("it has a turn").expect("it runs");
        assert_eq!(done(&told), ["plain", "alone"], "{how}");
        assert_eq!(begun.elapsed().as_secs() / 60, 24 * 60, "{how}: when the rate opens, not later");
        assert!(exchanges.count() < 40, "{how}: {} exchanges", exchanges.count());
        running.shutdown().await;
        client.close().await;
    }
}

/// Here the backlog takes each place that comes free, and the worker is never alone by itself.
#[tokio::test(start_paused = true)]
async fn a_busy_worker_makes_room_for_a_solo_job_whose_places_are_always_taken() {
    for how in SLOTS {
        let (client, told) = (Client::new(Arc::new(MemoryStorage::new())), Done::default());
        let queue = client.queue(how).expect("a name");
        hold(&queue, how).await;
        let slow = |name: &str, takes| Step { name: name.into(), takes };
        client.enqueue_all((0..1000).map(|_| slow("plain", SECOND))).queue(how).lane("c/a").await.expect("enqueue");
        // These keep it busy: one is always in the middle of its run when another ends.
        let others = (0..2000).map(|_| slow("other", SECOND * 3 / 2));
        client.enqueue_all(others).queue("others").await.expect("enqueue");
        let running = worker(&client, how, &told).queue("others").concurrency(3).start().await.expect("start");
        tokio::time::sleep(MINUTE).await;
        let alone = client.enqueue(step("alone")).queue(how).lane("c/a").max_crashes(1).await.expect("enqueue");
        let asked = Instant::now();
        tokio::time::timeout(DAY, alone.wait()).await.expect("it has a turn").expect("it runs");
        assert!(asked.elapsed() < SECOND * 20, "{how}: after ten seconds' patience, {:?}", asked.elapsed());
        running.shutdown().await;
        client.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_worker_goes_on_beside_a_solo_job_that_is_held_back() {
    for how in PAUSES.into_iter().chain(RATES) {
        let (exchanges, told) = (Exchanges::default(), Done::default());
        let client = exchanges.client(Arc::new(MemoryStorage::new()));
        let queue = client.queue(how).expect("a name");
        hold(&queue, how).await;
        put_pair(&client, how).await;
        let running = worker(&client, how, &told).queue("others").concurrency(2).start().await.expect("start");
        let long = Step { name: "long".into(), takes: HOUR };
        client.enqueue(long).queue("others").await.expect("enqueue");
        for _ in 0..60 {
            tokio::time::sleep(SECOND).await;
            let short = client.enqueue(step("short")).queue("others").await.expect("enqueue");
            let asked = Instant::now();
            tokio::time::timeout(DAY, short.wait()).await.expect("it has a turn").expect("it runs");
            assert!(asked.elapsed() < MINUTE, "{how}: it waited for the long one");
        }
        running.abort().await;
        client.close().await;
    }
}

#[tokio::test]
async fn solo_jobs_that_are_held_back_keep_no_other_solo_job_from_its_turn() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let (queue, told) = (client.queue("steps").expect("a name"), Done::default());
        queue.lane("a").pause().await.expect("pause");
        client.enqueue_all((0..50).map(|_| step("held"))).lane("a").max_crashes(1).await.expect("enqueue");
        let free = client.enqueue(step("free")).lane("b").max_crashes(1).await.expect("enqueue");
        assert_eq!(free.explain().await.expect("explain").reasons, [], "{name}: nothing stands in its way");
        let worker = worker(&client, "steps", &told).concurrency(1).run_until_idle();
        within(&format!("the worker ends on {name}"), worker).await.expect("run");
        assert_eq!(done(&told), ["free"], "{name}");
        client.close().await;
    }
}
