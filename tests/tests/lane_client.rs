//! Lanes and limits as an app meets them, on each backend: said with a client, read back, changed by two at once, and kept
//! while workers work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferroq::{
    Client, ClientError, Context, Job, JobResult, KeepRule, LaneKey, LanePolicy, QueueHandle, Rate, Retention, Say,
    StartLimits, Worker,
};
use ferroq_testkit::harness::Fixture;
use ferroq_tests::fixtures;
use ferroq_tests::wait::{until, within};
use serde::{Deserialize, Serialize};

const QUEUE: &str = "posts";

#[derive(Clone, Serialize, Deserialize, Job)]
#[job(name = "post", queue = "posts")]
struct Post {
    user: String,
}

fn post(user: &str) -> Post {
    Post { user: user.into() }
}

async fn each() -> [(&'static str, Fixture); 3] {
    [("memory", fixtures::memory().await), ("sqlite", fixtures::sqlite().await), ("redis", fixtures::redis().await)]
}

fn posts(client: &Client) -> QueueHandle {
    client.queue(QUEUE).expect("a name")
}

fn problems(refused: Result<bool, ClientError>) -> Vec<String> {
    match refused {
        Err(ClientError::Invalid { problems }) => problems,
        other => panic!("it is refused: {other:?}"),
    }
}

#[tokio::test]
async fn limits_that_are_not_named_stay() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let posts = posts(&client);
        assert_eq!(posts.limits().get().await.expect("get"), StartLimits::default(), "{name}");
        let set = posts.limits().concurrency(5).rate(Rate::per_minute(20)).set().await;
        assert!(set.expect("set"), "{name}");
        assert!(!posts.limits().concurrency(5).set().await.expect("set"), "{name}: it is so already");
        assert!(posts.limits().concurrency(None).set().await.expect("set"), "{name}");
        let left = StartLimits { concurrency: None, rate: Some(Rate::per_minute(20)) };
        assert_eq!(posts.limits().get().await.expect("get"), left, "{name}");
        client.close().await;
    }
}

#[tokio::test]
async fn lanes_classes_and_one_lane_are_told_apart() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let posts = posts(&client);
        posts.lanes().quantum(4).every(|lane| lane.concurrency(2)).set().await.expect("set");
        let twitter = posts.lane_class("twitter");
        let said = twitter.clone().each(|lane| lane.rate(Rate::per_day(50)).weight(2)).total(|all| all.concurrency(9));
        assert!(said.set().await.expect("set"), "{name}");
        let ada = posts.lane("twitter/ada");
        assert!(ada.clone().rate(Say::Unlimited).weight(3).set().await.expect("set"), "{name}");
        posts.default_lane().concurrency(1).set().await.expect("set");

        let terms = ada.terms().await.expect("terms");
        assert_eq!((terms.turn_jobs, terms.limits.concurrency, terms.limits.rate), (12, Some(2), None), "{name}");
        let terms = posts.lane("twitter/bob").terms().await.expect("terms");
        assert_eq!((terms.turn_jobs, terms.limits.rate), (8, Some(Rate::per_day(50))), "{name}");
        assert_eq!(posts.default_lane().terms().await.expect("terms").limits.concurrency, Some(1), "{name}");
        assert_eq!(twitter.get().await.expect("get").total.concurrency, Some(9), "{name}");
        assert_eq!(posts.lanes().get().await.expect("get").quantum, 4, "{name}");
        let own: Vec<LaneKey> =
            posts.lanes().policies().await.expect("list").into_iter().map(|(lane, _)| lane).collect();
        assert_eq!(own, [LaneKey::DEFAULT, LaneKey::new("twitter/ada").expect("a lane")], "{name}");

        // What is taken back leaves nothing.
        assert!(ada.remove().await.expect("remove"), "{name}");
        assert!(!ada.remove().await.expect("remove"), "{name}");
        assert!(twitter.remove().await.expect("remove"), "{name}");
        assert_eq!(posts.lanes().get().await.expect("get").classes.len(), 0, "{name}");
        assert_eq!(posts.lanes().policies().await.expect("list").len(), 1, "{name}");
        client.close().await;
    }
}

#[tokio::test]
async fn a_pause_leaves_the_rest_of_a_policy_and_a_resume_leaves_nothing_of_it() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let posts = posts(&client);
        let (ada, class) = (posts.lane("twitter/ada"), posts.lane_class("twitter"));
        assert!(ada.pause().await.expect("pause"), "{name}");
        assert!(!ada.pause().await.expect("pause"), "{name}: it is so already");
        ada.clone().weight(3).set().await.expect("set");
        assert_eq!(
            ada.get().await.expect("get"),
            LanePolicy { weight: Some(3), paused: true, ..LanePolicy::default() }
        );
        assert!(ada.clone().weight(None).resume().await.expect("resume"), "{name}");
        assert_eq!(posts.lanes().policies().await.expect("list"), [], "{name}");
        // Of the three that can pause a lane, each does.
        assert!(class.pause().await.expect("pause"), "{name}");
        assert!(ada.terms().await.expect("terms").paused, "{name}");
        assert!(class.resume().await.expect("resume"), "{name}");
        assert!(!ada.terms().await.expect("terms").paused, "{name}");
        assert_eq!(posts.config().await.expect("config"), Default::default(), "{name}");
        client.close().await;
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_said_at_once_and_changes_nothing() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let posts = posts(&client);
        let all = problems(posts.lane("").concurrency(0).weight(0).rate(Rate::per_second(0)).set().await);
        assert_eq!(all.len(), 4, "{name}: {all:?}");
        assert!(all[0].contains("it is empty") && all[1].contains("weight of 0"), "{name}: {all:?}");
        let all = problems(posts.limits().concurrency(0).rate(Rate::sliding(1, Duration::from_micros(5))).set().await);
        assert_eq!(all.len(), 2, "{name}: {all:?}");
        let all = problems(posts.lane_class("twitter/ada").each(|lane| lane.weight(0)).set().await);
        assert!(all[0].contains("before the first '/'") && all.len() == 2, "{name}: {all:?}");
        let all = problems(posts.lane_class("a{b").total(|all| all.concurrency(0)).pause().await);
        assert!(all[0].contains("braces"), "{name}: {all:?}");
        let all = problems(posts.lanes().quantum(0).every(|lane| lane.concurrency(0)).set().await);
        assert_eq!(all.len(), 2, "{name}: {all:?}");
        assert!(matches!(posts.lane("").get().await, Err(ClientError::Name(_))), "{name}");
        assert_eq!(client.queues().await.expect("queues"), [], "{name}: not even a queue");
        client.close().await;
    }
}

/// Each of many changes another setting of the same queue, all at once, through two handles where the backend has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_made_at_once_do_not_undo_each_other() {
    const CLASSES: usize = 12;
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let (queue, ada) = (posts(&client), posts(&client).lane("ada"));
        let class = |n: usize| queue.lane_class(format!("class {n}"));
        let classes = (0..CLASSES).map(|n| class(n).total(move |all| all.concurrency(n as u32 + 1)).set());
        let retention =
            Retention { failed: KeepRule { age: Duration::from_secs(7), count: 7 }, ..Retention::default() };
        let (changed, ..) = tokio::join!(
            futures::future::join_all(classes),
            async { queue.dead_letter(Some("dead")).await.expect("set") },
            async { queue.retention(retention).await.expect("set") },
            async { queue.limits().concurrency(5).set().await.expect("set") },
            async { queue.limits().rate(Rate::per_minute(20)).set().await.expect("set") },
            async { queue.lanes().quantum(3).set().await.expect("set") },
            async { queue.pause().await.expect("pause") },
            async { ada.clone().weight(3).set().await.expect("set") },
            async { ada.clone().concurrency(3).set().await.expect("set") },
            async { ada.clone().rate(Rate::per_day(3)).set().await.expect("set") },
            async { ada.pause().await.expect("pause") },
        );
        assert!(changed.into_iter().all(|changed| changed.expect("set")), "{name}");
        let config = queue.config().await.expect("config");
        let totals: Vec<_> = config.lanes.classes.values().filter_map(|class| class.total.concurrency).collect();
        assert_eq!(totals.iter().sum::<u32>(), (1..=CLASSES as u32).sum::<u32>(), "{name}: {totals:?}");
        assert_eq!((config.dead_letter.as_deref(), config.retention, config.paused), (Some("dead"), retention, true));
        let limits = StartLimits { concurrency: Some(5), rate: Some(Rate::per_minute(20)) };
        assert_eq!((config.limits, config.lanes.quantum), (limits, 3), "{name}");
        let own = ada.get().await.expect("get");
        let rate = Say::Limit(Rate::per_day(3));
        assert_eq!(
            own,
            LanePolicy { weight: Some(3), concurrency: Say::Limit(3), rate, paused: true, ..LanePolicy::default() },
            "{name}"
        );
        client.close().await;
    }
}

/// Who runs now, and how many ran at once at most: of each user, and of all.
#[derive(Default)]
struct Hall {
    inside: HashMap<String, u32>,
    most: HashMap<String, u32>,
    most_of_all: u32,
    done: Vec<String>,
}

type Door = Arc<Mutex<Hall>>;

async fn enter(job: Post, cx: Context<Door>) -> JobResult {
    {
        let mut hall = cx.state().lock().expect("nobody panicked in the hall");
        let inside = hall.inside.entry(job.user.clone()).or_default();
        *inside += 1;
        let inside = *inside;
        let all = hall.inside.values().sum();
        let most = hall.most.entry(job.user.clone()).or_default();
        *most = inside.max(*most);
        hall.most_of_all = hall.most_of_all.max(all);
    }
    // Long enough that the others would come in, if they were let.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let mut hall = cx.state().lock().expect("nobody panicked in the hall");
    *hall.inside.entry(job.user.clone()).or_default() -= 1;
    hall.done.push(job.user);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_at_a_time_of_each_tenant_and_three_of_all() {
    const USERS: usize = 5;
    const POSTS: usize = 12;
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        posts(&client).lanes().every(|lane| lane.concurrency(1)).set().await.expect("set");
        posts(&client).limits().concurrency(3).set().await.expect("set");
        let all = (0..USERS * POSTS).map(|n| post(&format!("user {}", n % USERS)));
        client.enqueue_all(all).lane_by(|post| post.user.clone()).await.expect("enqueue");
        let door = Door::default();
        let worker = || Worker::new(&client).state(door.clone()).concurrency(10).handle(enter).run_until_idle();
        let (a, b) = tokio::join!(worker(), worker());
        assert_eq!(a.expect("run").completed + b.expect("run").completed, (USERS * POSTS) as u64, "{name}");
        client.close().await;
        let hall = door.lock().expect("nobody panicked in the hall");
        assert!(hall.most.len() == USERS && hall.most.values().all(|most| *most == 1), "{name}: {:?}", hall.most);
        assert!(hall.most_of_all <= 3, "{name}: {}", hall.most_of_all);
    }
}

#[tokio::test]
async fn a_worker_that_works_until_idle_does_not_wait_for_paused_lanes() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let other = client.queue("other").expect("a name");
        posts(&client).lane("ada").pause().await.expect("pause");
        other.lane_class("twitter").pause().await.expect("pause");
        for user in ["ada", "twitter/bob", "cy"] {
            client.enqueue_all((0..20).map(|_| post(user))).lane(user).await.expect("enqueue");
            client.enqueue_all((0..20).map(|_| post(user))).queue("other").lane(user).await.expect("enqueue");
        }
        let door = Door::default();
        let worker = Worker::new(&client).state(door.clone()).queue("posts").queue("other").handle(enter);
        let report = within(&format!("the worker ends on {name}"), worker.run_until_idle()).await.expect("run");
        assert_eq!(report.completed, 80, "{name}");
        assert_eq!(posts(&client).counts().await.expect("counts").waiting, 20, "{name}");
        assert_eq!(other.counts().await.expect("counts").waiting, 20, "{name}");
        client.close().await;
    }
}

/// The clock of the stores stands still, so no second start can come into any window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_lane_waits_and_holds_up_nobody() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let queue = posts(&client);
        // Records are kept until all is done: by default they would go after the day that passes here.
        let kept = KeepRule { age: Duration::from_secs(30 * 24 * 3600), count: 100 };
        queue.retention(Retention { completed: kept, ..Retention::default() }).await.expect("set");
        let daily = Rate::per_day(3).in_zone("America/New_York").expect("a zone");
        queue.lane_class("instagram").each(|lane| lane.rate(daily)).set().await.expect("set");
        queue.lane("mastodon/bob").pause().await.expect("pause");
        let users = ["instagram/ada", "instagram/eve", "mastodon/bob", "mastodon/cy"];
        for user in users {
            client.enqueue_all((0..5).map(|_| post(user))).lane(user).await.expect("enqueue");
        }
        let door = Door::default();
        let start =
            || Worker::new(&client).state(door.clone()).poll_interval(Duration::from_millis(5)).handle(enter).start();
        let worker = start().await.expect("start");
        // What runs has ended and is settled, and so many of each user are done.
        let all_done = async |wanted: [usize; 4]| {
            let counts = until("what may start is done", async || {
                let counts = queue.counts().await.expect("counts");
                (counts.completed == wanted.iter().sum::<usize>() as u64).then_some(counts)
            });
            let counts = counts.await;
            let hall = door.lock().expect("nobody panicked in the hall");
            assert_eq!(users.map(|user| hall.done.iter().filter(|done| *done == user).count()), wanted, "{name}");
            counts
        };
        let counts = all_done([3, 3, 0, 5]).await;
        assert_eq!((counts.waiting, counts.active, counts.failed), (9, 0, 0), "{name}: delayed, not failed");
        queue.lane("mastodon/bob").resume().await.expect("resume");
        all_done([3, 3, 5, 5]).await;
        // The next day comes, in whatever zone. A worker sleeps by its own clock, so another one has to look.
        worker.shutdown().await;
        fixture.clock.advance(Duration::from_secs(24 * 3600));
        let worker = start().await.expect("start");
        all_done([5, 5, 5, 5]).await;
        let jobs = queue.all(Default::default()).await.expect("list");
        assert!(jobs.iter().all(|job| job.attempts == 0), "{name}: waiting burns no attempt");
        worker.shutdown().await;
        client.close().await;
    }
}
