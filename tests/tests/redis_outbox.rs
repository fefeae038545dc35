//! Follow-ups for other queues go through the outbox, in four steps: they are written with the settlement, read, delivered,
//! and cleared away. Whoever dies between two of them, however many relay at once, and whatever becomes of the queues on
//! either side meanwhile: each follow-up is there once, in its order.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

#[cfg(unix)]
use std::os::unix::process::ExitStatusExt;

use ferroq_core::client::Client;
use ferroq_core::clock::ManualClock;
use ferroq_core::job::JobState;
use ferroq_core::storage::{EnqueueAnswer, ObliterateAnswer, QueueConfig, SettleAnswer, Storage, SweepRequest};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::queue_name;
use ferroq_tests::child::Child;
use ferroq_tests::logs;
use ferroq_tests::redis::after::Site;
use ferroq_tests::redis::load;
use ferroq_tests::redis::relay::{DESTINATIONS, Order, SOURCE, Series, open_with};
use ferroq_tests::redis::server::{Server, namespace, shared};
use ferroq_tests::wait::DEADLINE;

const CHILD: &str = env!("CARGO_BIN_EXE_relay_child");
const SIGABRT: i32 = 6;

const STEPS: [&str; 4] = ["settled", "read", "delivered", "cleared"];

/// A site whose jobs are ready to be settled.
async fn prepared() -> (&'static Server, String, Site<'static>) {
    let (server, namespace) = (shared(), namespace());
    let site = Site::open(server, &namespace).await;
    Series(0).prepare(site.storage().as_ref()).await;
    (server, namespace, site)
}

fn key(namespace: &str, queue: &str, part: &str) -> String {
    format!("ferroq:{{{namespace}:{queue}}}:{part}")
}

fn in_outbox(server: &Server, namespace: &str) -> usize {
    server.cli(&["ZCARD", &key(namespace, SOURCE, "outbox")]).parse().expect("a number")
}

/// Sweeps the source, as every worker on it does, until its outbox is empty or as short as it gets.
async fn sweep(storage: &dyn Storage) {
    while storage.sweep(SweepRequest { queue: queue_name(SOURCE), max_items: 10 }).await.expect("sweep").more {}
}

/// Everything arrived, and is worked off.
async fn all_well(site: &Site<'_>, server: &Server, namespace: &str) {
    assert_eq!(in_outbox(server, namespace), 0, "nothing is left on its way");
    let snapshot = site.check().await;
    Series(0).all_arrived(&snapshot);
    let there = snapshot.records().map(|(_, job)| job.id());
    let snapshot = site.drain_and_check(there, load::worker).await;
    let odd = snapshot.records().find(|(_, job)| (job.state, job.runs) != (JobState::Completed, 1));
    assert!(odd.is_none(), "each ran once: {odd:?}");
}

#[cfg(unix)]
async fn die_at(step: &str, visit: u64) {
    let (server, namespace, site) = prepared().await;
    let order = Order { url: server.url(), namespace: namespace.clone(), step: step.to_owned(), visit, deed: None };
    let status = Child::spawn(CHILD, &order).exit().await;
    assert_eq!(status.signal(), Some(SIGABRT), "the child died at its visit {visit} to {step:?}");
    let before = in_outbox(server, &namespace);
    sweep(site.storage().as_ref()).await;
    assert!(before > 0 || (step, visit) == ("cleared", 3), "{step} {visit}: there was something left to relay");
    all_well(&site, server, &namespace).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_that_dies_before_its_relay_begins_loses_and_doubles_nothing() {
    die_at("settled", 1).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_that_dies_once_it_has_read_the_outbox_loses_and_doubles_nothing() {
    for visit in 1..=3 {
        die_at("read", visit).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_that_dies_once_it_has_delivered_loses_and_doubles_nothing() {
    for visit in 1..=3 {
        die_at("delivered", visit).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_that_dies_once_it_has_cleared_loses_and_doubles_nothing() {
    for visit in 1..=3 {
        die_at("cleared", visit).await;
    }
}

/// Two who wait for each other.
#[derive(Debug, Default)]
struct Meeting {
    there: Mutex<u32>,
    both: Condvar,
}

impl Meeting {
    fn meet(&self) {
        let mut there = self.there.lock().expect("nobody panicked at the meeting");
        *there += 1;
        self.both.notify_all();
        let (_there, late) =
            self.both.wait_timeout_while(there, DEADLINE, |there| *there < 2).expect("nobody panicked at the meeting");
        assert!(!late.timed_out(), "waited {DEADLINE:?} in vain for the other relay");
    }
}

/// Runs something on a thread and a runtime of its own, as another process would, and waits for it; also from within
/// a hook.
fn elsewhere(act: impl AsyncFnOnce() + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(act());
    };
    std::thread::spawn(run).join().expect("what was done elsewhere");
}

/// What another process does with a handle of its own, to be called from within a hook.
fn another(
    server: &Server,
    namespace: &str,
    act: impl AsyncFn(&dyn Storage) + Copy + Send + Sync + 'static,
) -> impl Fn() + Send + Sync + 'static {
    let (url, namespace) = (server.url(), namespace.to_owned());
    move || {
        let (url, namespace) = (url.clone(), namespace.clone());
        elsewhere(async move || act(open_with(&url, &namespace, |_, _| {}).await.as_ref()).await);
    }
}

/// Settles the series with a handle that goes away at the first visit to a step, after doing something there.
async fn gone_at(server: &Server, namespace: &str, step: &'static str, act: impl Fn() + Send + Sync + 'static) {
    let storage = open_with(&server.url(), namespace, move |name, visit| {
        if (name, visit) == (step, 1) {
            act();
            std::panic::resume_unwind(Box::new("gone"));
        }
    })
    .await;
    let settled = tokio::spawn(async move { Series(0).settle(storage.as_ref()).await });
    assert!(settled.await.is_err_and(|error| error.is_panic()), "it went away at {step:?}");
}

#[tokio::test]
async fn two_relays_that_go_step_by_step_deliver_each_follow_up_once() {
    let (server, namespace, site) = prepared().await;
    gone_at(server, &namespace, "settled", || {}).await;
    // Both have read, before either delivers; both have delivered, before either clears.
    let meetings: Arc<[Meeting; 2]> = Arc::default();
    let relay = || {
        let (url, namespace, meetings) = (server.url(), namespace.clone(), meetings.clone());
        std::thread::spawn(move || {
            elsewhere(async move || {
                let storage = open_with(&url, &namespace, move |step, visit| match (step, visit) {
                    ("read", 1) => meetings[0].meet(),
                    ("delivered", 1) => meetings[1].meet(),
                    _ => {}
                })
                .await;
                sweep(storage.as_ref()).await;
            });
        })
    };
    let relays = [relay(), relay()];
    for relay in relays {
        relay.join().expect("a relay");
    }
    all_well(&site, server, &namespace).await;
}

/// One relay stands still at a step for as long as another does everything, and then goes on.
#[tokio::test]
async fn a_relay_that_comes_late_doubles_nothing() {
    for step in STEPS {
        let (server, namespace, site) = prepared().await;
        let relay = another(server, &namespace, sweep);
        let storage = open_with(&server.url(), &namespace, move |name, visit| {
            if (name, visit) == (step, 1) {
                relay();
            }
        })
        .await;
        let answers = Series(0).settle(storage.as_ref()).await.expect("settle");
        // Whoever relayed them, the call says what became of its own.
        assert_eq!(answers, Series(0).answers(), "overtaken at {step:?}");
        all_well(&site, server, &namespace).await;
    }
}

/// The same where the follow-ups have run meanwhile and left no record, so that nothing but the numbers tells that they
/// were there.
#[tokio::test]
async fn a_relay_that_comes_late_brings_nothing_back_that_has_ended() {
    for step in ["read", "delivered"] {
        let (server, namespace, site) = prepared().await;
        let mut keep_none = QueueConfig::default();
        keep_none.retention.completed.count = 0;
        for queue in DESTINATIONS {
            site.storage().configure(&queue_name(queue), keep_none.clone()).await.expect("configure");
        }
        let work_off = {
            let (url, namespace) = (server.url(), namespace.clone());
            move || {
                let (url, namespace) = (url.clone(), namespace.clone());
                elsewhere(async move || {
                    let storage = open_with(&url, &namespace, |_, _| {}).await;
                    sweep(storage.as_ref()).await;
                    let worker = load::worker(&Client::new(storage)).queue("left").queue("right").queue(SOURCE);
                    worker.run_until_idle().await.expect("run");
                });
            }
        };
        let storage = open_with(&server.url(), &namespace, move |name, visit| {
            if (name, visit) == (step, 1) {
                work_off();
            }
        })
        .await;
        let answers = Series(0).settle(storage.as_ref()).await.expect("settle");
        assert_eq!(answers, Series(0).answers(), "overtaken at {step:?}");
        let snapshot = site.check().await;
        for queue in DESTINATIONS {
            assert_eq!(Series(0).found(&snapshot, queue), [], "{step:?}: what has ended came back to {queue:?}");
        }
        site.drain_and_check([], load::worker).await;
    }
}

#[tokio::test]
async fn follow_ups_that_are_duplicates_say_of_which_job() {
    let (server, namespace, site) = prepared().await;
    let answers = Series(0).settle(site.storage().as_ref()).await.expect("settle");
    assert_eq!(answers, Series(0).answers());
    let duplicates = answers.iter().flat_map(|answer| match answer {
        SettleAnswer::Settled { follow_ups, .. } => &follow_ups[..],
        other => panic!("{other:?}"),
    });
    assert!(duplicates.filter(|answer| matches!(answer, EnqueueAnswer::Duplicate(_))).count() > 40);
    all_well(&site, server, &namespace).await;
}

#[tokio::test]
async fn a_paused_destination_takes_follow_ups_in_and_runs_none() {
    let (server, namespace, site) = prepared().await;
    let left = queue_name("left");
    let pause = another(server, &namespace, async |storage| {
        assert!(storage.set_paused(&queue_name("left"), true).await.expect("pause"));
    });
    gone_at(server, &namespace, "read", pause).await;
    sweep(site.storage().as_ref()).await;
    let counts = site.storage().counts(&left).await.expect("counts");
    assert_eq!((counts.paused, counts.active, counts.completed), (true, 0, 0));
    assert_eq!(counts.waiting as usize, Series(0).expected("left").len());
    all_well(&site, server, &namespace).await;
}

async fn obliterate(storage: &dyn Storage, queue: &str) {
    let queue = queue_name(queue);
    while storage.obliterate(&queue, true, 1000).await.expect("obliterate") != ObliterateAnswer::Done {}
}

/// What was delivered has gone with its queue. A relay that did not get to clear it away brings nothing of it back.
#[tokio::test]
async fn what_went_with_an_obliterated_destination_does_not_come_back() {
    let (server, namespace, site) = prepared().await;
    let act = another(server, &namespace, async |storage| obliterate(storage, "left").await);
    gone_at(server, &namespace, "delivered", act).await;
    let gone = in_outbox(server, &namespace);
    sweep(site.storage().as_ref()).await;
    assert_eq!(in_outbox(server, &namespace), 0);
    let snapshot = site.check().await;
    let (expected, mut found) = (Series(0).expected("left"), Series(0).found(&snapshot, "left"));
    // The keys that some had met there were freed with the queue.
    found.retain(|id| expected.contains(id));
    assert!(gone == 240 && !found.is_empty() && found.len() < expected.len(), "{} of {}", found.len(), expected.len());
    assert_eq!(found, expected[expected.len() - found.len()..], "only what had not been delivered");
    for queue in ["right", SOURCE] {
        assert_eq!(Series(0).found(&snapshot, queue), Series(0).expected(queue), "{queue} is not concerned");
    }
    // The queue is there again, and what it remembers of others must not fade under it.
    assert_eq!(server.cli(&["PTTL", &key(&namespace, "left", "ledger")]), "-1");
    site.drain_and_check(found, load::worker).await;
}

/// Nothing had been delivered when the destination went, so all of it comes, to a queue that is made anew.
#[tokio::test]
async fn a_destination_obliterated_before_the_delivery_is_made_anew() {
    let (server, namespace, site) = prepared().await;
    let act = another(server, &namespace, async |storage| obliterate(storage, "left").await);
    gone_at(server, &namespace, "read", act).await;
    sweep(site.storage().as_ref()).await;
    let snapshot = site.check().await;
    let found = Series(0).found(&snapshot, "left");
    let missing: Vec<_> = Series(0).expected("left").into_iter().filter(|id| !found.contains(id)).collect();
    assert_eq!(missing, [], "each is there");
    assert!(site.storage().queues().await.expect("queues").contains(&queue_name("left")), "it is listed again");
    site.drain_and_check(found, load::worker).await;
}

/// Forgets a queue, as the loss of the node that held it would.
fn lose(server: &Server, namespace: &str, queue: &str) {
    let keys = server.cli(&["KEYS", &key(namespace, queue, "*")]);
    for key in keys.lines() {
        server.cli(&["DEL", key]);
    }
}

#[tokio::test]
async fn a_destination_that_lost_its_data_gets_what_is_still_on_its_way_and_all_that_comes_later() {
    let (server, namespace, site) = prepared().await;
    let act = {
        let namespace = namespace.clone();
        move || lose(shared(), &namespace, "left")
    };
    gone_at(server, &namespace, "delivered", act).await;
    sweep(site.storage().as_ref()).await;
    let snapshot = site.check().await;
    let found = Series(0).found(&snapshot, "left");
    let missing: Vec<_> = Series(0).expected("left").into_iter().filter(|id| !found.contains(id)).collect();
    assert_eq!(missing, [], "what was not cleared away was delivered again");
    assert_eq!(Series(0).found(&snapshot, "right"), Series(0).expected("right"), "nobody else is concerned");
    // And once more, with nothing on its way.
    lose(server, &namespace, "left");
    Series(1).prepare(site.storage().as_ref()).await;
    assert_eq!(Series(1).settle(site.storage().as_ref()).await.expect("settle"), Series(1).answers());
    let snapshot = site.check().await;
    Series(1).all_arrived(&snapshot);
    site.drain_and_check(Series(1).expected("left"), load::worker).await;
}

/// A source that lost its data, or was obliterated, numbers what it sends anew; none of that is taken for a repetition,
/// even if its clock was set back in between.
#[tokio::test]
async fn a_source_that_forgot_what_it_sent_sends_on() {
    let (server, namespace) = (shared(), namespace());
    let clock = ManualClock::default();
    let options = RedisOptions::from_url(&server.url()).expect("a URL").namespace(&namespace);
    let options = options.clock(Arc::new(clock.clone()));
    let storage = RedisStorage::open(options).await.expect("the server answers");
    let site = Site::open(server, &namespace).await;
    let run = async |series: u64| {
        Series(series).prepare(&storage).await;
        assert_eq!(Series(series).settle(&storage).await.expect("settle"), Series(series).answers(), "{series}");
    };
    run(0).await;
    clock.advance(Duration::from_secs(1));
    lose(server, &namespace, SOURCE);
    run(1).await;
    clock.advance(Duration::from_secs(1));
    obliterate(&storage, SOURCE).await;
    run(2).await;
    clock.step_back(Duration::from_secs(3600));
    run(3).await;
    obliterate(&storage, SOURCE).await;
    run(4).await;
    let snapshot = site.check().await;
    for (series, queue) in (0..5).flat_map(|series| ["left", "right"].map(|queue| (series, queue))) {
        assert_eq!(Series(series).found(&snapshot, queue), Series(series).expected(queue), "{series} in {queue}");
    }
}

/// Nobody may ever come again for what an obliterated queue owes to others, so it is seen to at once, and what can't be
/// delivered then can still be found.
#[tokio::test]
async fn an_obliterated_source_still_sends_what_it_owed() {
    let (server, namespace, site) = prepared().await;
    let meta = key(&namespace, "left", "meta");
    server.cli(&["RENAME", &meta, &format!("aside {namespace}")]);
    server.cli(&["SET", &meta, "theirs"]);
    let act = another(server, &namespace, async |storage| obliterate(storage, SOURCE).await);
    gone_at(server, &namespace, "settled", act).await;
    assert_eq!(in_outbox(server, &namespace), 120, "what could be delivered was");
    let names = || server.cli(&["SMEMBERS", &format!("ferroq:{{{namespace}}}:queues")]);
    assert!(names().lines().any(|name| name == SOURCE), "whoever looks for it finds it");
    server.cli(&["RENAME", &format!("aside {namespace}"), &meta]);
    sweep(site.storage().as_ref()).await;
    assert_eq!(in_outbox(server, &namespace), 0);
    assert!(!names().lines().any(|name| name == SOURCE), "nothing is left of it");
    let snapshot = site.check().await;
    for queue in ["left", "right"] {
        assert_eq!(Series(0).found(&snapshot, queue), Series(0).expected(queue), "{queue}");
    }
    site.drain_and_check(Series(0).expected("left"), load::worker).await;
}

#[tokio::test]
async fn more_than_any_relay_reads_at_once_for_a_queue_that_cannot_be_reached_is_passed_by() {
    let (server, namespace) = (shared(), namespace());
    let site = Site::open(server, &namespace).await;
    let storage = open_with(&server.url(), &namespace, |_, _| {}).await;
    Series(0).prepare(storage.as_ref()).await;
    let meta = key(&namespace, "left", "meta");
    server.cli(&["RENAME", &meta, &format!("aside {namespace}")]);
    server.cli(&["SET", &meta, "theirs"]);
    const SERIES: u64 = 20;
    for series in 0..SERIES {
        if series > 0 {
            Series(series).prepare_reachable(storage.as_ref()).await;
        }
        Series(series).settle(storage.as_ref()).await.expect("settle");
    }
    // Nothing of those in front moves, and those behind get through, in as many steps as it takes.
    let step = SweepRequest { queue: queue_name(SOURCE), max_items: 10 };
    assert!(site.storage().sweep(step).await.expect("sweep").more, "one step does not get there");
    sweep(site.storage().as_ref()).await;
    assert_eq!(in_outbox(server, &namespace), SERIES as usize * 120);
    server.cli(&["RENAME", &format!("aside {namespace}"), &meta]);
    let snapshot = site.check().await;
    for series in 0..SERIES {
        let found = Series(series).found(&snapshot, "right");
        let missing: Vec<_> = Series(series).expected("right").into_iter().filter(|id| !found.contains(id)).collect();
        assert_eq!(missing, [], "of the series {series}");
    }
    sweep(site.storage().as_ref()).await;
    assert_eq!(in_outbox(server, &namespace), 0);
    let snapshot = site.check().await;
    let all: Vec<_> = (0..SERIES).flat_map(|series| Series(series).expected("left")).collect();
    let mut found = Vec::new();
    for series in 0..SERIES {
        let expected = Series(series).expected("left");
        found.extend(Series(series).found(&snapshot, "left").into_iter().filter(|id| expected.contains(id)));
    }
    assert_eq!(found, all, "all of them, in their order");
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_stays_and_holds_up_nobody() {
    logs::keep();
    let (server, namespace, site) = prepared().await;
    gone_at(server, &namespace, "settled", || {}).await;
    let outbox = key(&namespace, SOURCE, "outbox");
    server.cli(&["ZADD", &outbox, "1", "not an entry", "2", "\0\0\0\0\0\0\0\u{2}\u{4}left"]);
    sweep(site.storage().as_ref()).await;
    sweep(site.storage().as_ref()).await;
    assert_eq!(in_outbox(server, &namespace), 2, "they stay for whoever looks into it");
    assert_eq!(logs::with(&["ERROR", "can't be read, and stays there"]).len(), 1, "it is logged once");
    server.cli(&["ZREMRANGEBYRANK", &outbox, "0", "1"]);
    all_well(&site, server, &namespace).await;
}

/// One queue whose keys are somebody else's once kept everything that came behind its own from everybody.
#[tokio::test]
async fn a_destination_that_cannot_be_reached_holds_up_no_other_and_is_logged_once() {
    logs::keep();
    let (server, namespace, site) = prepared().await;
    let meta = key(&namespace, "left", "meta");
    server.cli(&["RENAME", &meta, "aside"]);
    server.cli(&["SET", &meta, "theirs"]);
    let storage = open_with(&server.url(), &namespace, |_, _| {}).await;
    let answers = Series(0).settle(storage.as_ref()).await.expect("settle");
    for (answer, expected) in answers.iter().zip(Series(0).answers()) {
        let (SettleAnswer::Settled { follow_ups, .. }, SettleAnswer::Settled { follow_ups: expected, .. }) =
            (answer, expected)
        else {
            panic!("{answer:?}");
        };
        for (n, (answer, expected)) in follow_ups.iter().zip(expected).enumerate() {
            let expected = if DESTINATIONS[n % 3] == "left" { EnqueueAnswer::Deferred } else { expected };
            assert_eq!(*answer, expected, "the {n}th of {answers:?}");
        }
    }
    sweep(storage.as_ref()).await;
    assert_eq!(in_outbox(server, &namespace), 120, "what is for that queue waits");
    let told = logs::with(&["WARN", "outbox", &meta]);
    assert_eq!(told.len(), 1, "it is logged once, and says what is wrong: {told:?}");
    server.cli(&["RENAME", "aside", &meta]);
    sweep(storage.as_ref()).await;
    assert_eq!(logs::with(&["INFO", "get to their queue again", "left"]).len(), 1);
    all_well(&site, server, &namespace).await;
}
