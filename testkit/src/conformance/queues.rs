//! Queues as a whole: their settings, their pause, and their end.

use ferroq_core::event::EventKind::{Paused, Resumed};
use ferroq_core::job::{LaneClass, LaneKey};
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy};

use super::prelude::*;

topic! {
    ($) queues, __conformance_queues:
    a_queue_without_settings_has_the_defaults,
    settings_are_kept_as_they_were_given,
    settings_make_a_queue,
    settings_made_from_the_present_ones_are_stored,
    settings_made_from_older_ones_change_nothing,
    settings_that_are_there_already_are_stored_again,
    settings_that_make_no_sense_are_refused_whatever_they_were_made_from,
    of_changes_at_once_none_is_undone,
    a_lanes_policy_made_from_the_present_one_is_stored,
    a_lanes_policy_made_from_an_older_one_changes_nothing,
    of_changes_of_a_lanes_policy_at_once_none_is_undone,
    a_paused_queue_hands_out_nothing,
    a_paused_queue_goes_on_otherwise,
    a_pause_changes_nothing_else_of_the_settings,
    a_pause_is_told_once,
    a_pause_by_settings_is_told_too,
    a_pause_makes_a_queue,
    an_obliterated_queue_leaves_nothing,
    an_obliteration_goes_in_bounded_steps,
    an_obliteration_stops_at_active_jobs,
    a_forced_obliteration_leaves_workers_with_nothing,
    a_queue_that_does_not_exist_is_obliterated,
}

async fn set_paused(t: &Scene, paused: bool) -> bool {
    t.storage().set_paused(&t.queue, paused).await.expect("set_paused")
}

async fn config(t: &Scene) -> QueueConfig {
    t.storage().config(&t.queue).await.expect("config")
}

async fn queues(t: &Scene) -> Vec<QueueName> {
    t.storage().queues().await.expect("queues")
}

async fn a_queue_without_settings_has_the_defaults(t: &mut Scene) {
    assert_eq!(config(t).await, QueueConfig::default());
    assert_eq!(queues(t).await, []);
    t.put_one(t.spec()).await;
    assert_eq!(config(t).await, QueueConfig::default());
}

async fn settings_are_kept_as_they_were_given(t: &mut Scene) {
    let mut given = QueueConfig::default();
    given.paused = true;
    given.event_entries_kept = 77;
    given.retention.completed = KeepRule { age: Duration::from_micros(1), count: 0 };
    given.retention.failed = KeepRule { age: TEN_YEARS, count: u64::MAX >> 1 };
    t.storage().configure(&t.queue, given.clone()).await.expect("configure");
    assert_eq!(config(t).await, given);
    assert_eq!(t.storage().config(&queue_name("another")).await.expect("config"), QueueConfig::default());
}

async fn settings_make_a_queue(t: &mut Scene) {
    t.configure(|_| {}).await;
    assert_eq!(queues(t).await, std::slice::from_ref(&t.queue));
}

async fn reconfigure(t: &Scene, from: &QueueConfig, to: &QueueConfig) -> Reconfigured<QueueConfig> {
    t.storage().reconfigure(&t.queue, from.clone(), to.clone()).await.expect("reconfigure")
}

fn with_entries_kept(entries: u64) -> QueueConfig {
    let mut config = QueueConfig::default();
    config.event_entries_kept = entries;
    config
}

async fn settings_made_from_the_present_ones_are_stored(t: &mut Scene) {
    // Those of a queue that does not exist are the defaults, and to store them makes it.
    let mut config = with_entries_kept(70);
    assert_eq!(reconfigure(t, &QueueConfig::default(), &config).await, Reconfigured::Stored);
    assert_eq!(queues(t).await, std::slice::from_ref(&t.queue));
    for entries in 71..75 {
        let from = config.clone();
        config.event_entries_kept = entries;
        config.paused = !config.paused;
        assert_eq!(reconfigure(t, &from, &config).await, Reconfigured::Stored);
        assert_eq!(self::config(t).await, config);
    }
    let told = t.happened_after(EventCursor::default()).await;
    assert_eq!(told.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Paused, Resumed, Paused, Resumed]);
}

async fn settings_made_from_older_ones_change_nothing(t: &mut Scene) {
    let (mine, theirs) = (with_entries_kept(80), with_entries_kept(90));
    assert_eq!(reconfigure(t, &theirs, &mine).await, Reconfigured::Conflict(QueueConfig::default()));
    assert_eq!(queues(t).await, [], "and it makes no queue");
    t.configure(|config| *config = theirs.clone()).await;
    let before = t.dump().await;
    assert_eq!(reconfigure(t, &QueueConfig::default(), &mine).await, Reconfigured::Conflict(theirs.clone()));
    assert_eq!(t.dump().await, before);
    // A pause is a change as well.
    set_paused(t, true).await;
    let mut paused = theirs.clone();
    paused.paused = true;
    assert_eq!(reconfigure(t, &theirs, &mine).await, Reconfigured::Conflict(paused));
}

async fn settings_that_are_there_already_are_stored_again(t: &mut Scene) {
    let config = with_entries_kept(80);
    for _ in 0..2 {
        assert_eq!(reconfigure(t, &QueueConfig::default(), &config).await, Reconfigured::Stored);
    }
    assert_eq!(self::config(t).await, config);
}

async fn settings_that_make_no_sense_are_refused_whatever_they_were_made_from(t: &mut Scene) {
    let mut senseless = QueueConfig::default();
    senseless.limits.concurrency = Some(0);
    for from in [QueueConfig::default(), with_entries_kept(80)] {
        let refused = t.storage().reconfigure(&t.queue, from, senseless.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), ErrorCode::Invalid);
    }
    let policy = Some(LanePolicy { weight: Some(0), ..LanePolicy::default() });
    let refused = t.storage().reconfigure_lane(&t.queue, &LaneKey::DEFAULT, None, policy).await.expect_err("refused");
    assert_eq!(refused.code(), ErrorCode::Invalid);
    assert_eq!(queues(t).await, []);
}

/// How many there are who each make one change at the same time.
const CHANGES: u64 = 8;

async fn of_changes_at_once_none_is_undone(t: &mut Scene) {
    let class = |n: u64| LaneClass::new(format!("class {n}")).expect("a class");
    let change = async |n: u64| {
        let mut from = QueueConfig::default();
        loop {
            let mut to = from.clone();
            to.lanes.classes.insert(class(n), ClassPolicy::default());
            match reconfigure(t, &from, &to).await {
                Reconfigured::Stored => return,
                Reconfigured::Conflict(present) => from = present,
            }
        }
    };
    futures::future::join_all((0..CHANGES).map(change)).await;
    let all: Vec<LaneClass> = config(t).await.lanes.classes.into_keys().collect();
    assert_eq!(all, (0..CHANGES).map(class).collect::<Vec<_>>());
}

fn ada() -> LaneKey {
    LaneKey::new("twitter/ada").expect("a lane")
}

fn weighing(weight: u32) -> Option<LanePolicy> {
    Some(LanePolicy { weight: Some(weight), ..LanePolicy::default() })
}

async fn reconfigure_lane(
    t: &Scene,
    lane: &LaneKey,
    from: Option<LanePolicy>,
    to: Option<LanePolicy>,
) -> Reconfigured<Option<LanePolicy>> {
    t.storage().reconfigure_lane(&t.queue, lane, from, to).await.expect("reconfigure_lane")
}

async fn lane_policy(t: &Scene, lane: &LaneKey) -> Option<LanePolicy> {
    t.storage().lane_policy(&t.queue, lane).await.expect("lane_policy")
}

async fn a_lanes_policy_made_from_the_present_one_is_stored(t: &mut Scene) {
    for lane in [ada(), LaneKey::DEFAULT] {
        assert_eq!(lane_policy(t, &lane).await, None);
        let steps = [None, weighing(2), weighing(3), None, None, weighing(4)];
        for step in steps.windows(2) {
            assert_eq!(reconfigure_lane(t, &lane, step[0].clone(), step[1].clone()).await, Reconfigured::Stored);
            assert_eq!(lane_policy(t, &lane).await, step[1]);
        }
    }
    assert_eq!(queues(t).await, std::slice::from_ref(&t.queue));
    let all = t.storage().lane_policies(&t.queue, None, 10).await.expect("lane_policies");
    assert_eq!(all.len(), 2);
}

async fn a_lanes_policy_made_from_an_older_one_changes_nothing(t: &mut Scene) {
    for lane in [ada(), LaneKey::DEFAULT] {
        assert_eq!(reconfigure_lane(t, &lane, weighing(2), weighing(3)).await, Reconfigured::Conflict(None));
        assert_eq!(lane_policy(t, &lane).await, None);
    }
    assert_eq!(queues(t).await, [], "and it makes no queue");
    for lane in [ada(), LaneKey::DEFAULT] {
        t.storage().configure_lane(&t.queue, &lane, weighing(5)).await.expect("configure_lane");
        assert_eq!(reconfigure_lane(t, &lane, None, weighing(3)).await, Reconfigured::Conflict(weighing(5)));
        assert_eq!(reconfigure_lane(t, &lane, weighing(4), None).await, Reconfigured::Conflict(weighing(5)));
        assert_eq!(lane_policy(t, &lane).await, weighing(5));
        // What is there already is stored again.
        assert_eq!(reconfigure_lane(t, &lane, None, weighing(5)).await, Reconfigured::Stored);
    }
}

async fn of_changes_of_a_lanes_policy_at_once_none_is_undone(t: &mut Scene) {
    // Each adds a bit of its own.
    let change = async |bit: u32| {
        let mut from = None;
        loop {
            let weight = from.as_ref().and_then(|policy: &LanePolicy| policy.weight).unwrap_or(1);
            match reconfigure_lane(t, &ada(), from, weighing(weight | bit)).await {
                Reconfigured::Stored => return,
                Reconfigured::Conflict(present) => from = present,
            }
        }
    };
    futures::future::join_all((1..=CHANGES).map(|n| change(1 << n))).await;
    assert_eq!(lane_policy(t, &ada()).await, weighing((1 << (CHANGES + 1)) - 1));
}

async fn a_paused_queue_hands_out_nothing(t: &mut Scene) {
    t.put([t.spec(), t.spec().delay(SECOND), t.spec().crashes(1), t.spec().expires_in(SECOND)]).await;
    assert!(set_paused(t, true).await);
    t.advance(MINUTE);
    let before = t.dump().await;
    assert_eq!(t.claim_as(t.asking(10)).await, ClaimAnswer::default());
    assert_eq!(t.dump().await, before, "a claim does nothing at all");
    assert!(t.counts().await.paused);
    assert!(set_paused(t, false).await);
    assert!(!t.counts().await.paused);
    assert_eq!(t.claim(10).await.len(), 1, "the solo one");
    assert_eq!(t.claim(10).await.len(), 2);
    assert_eq!(t.counts().await.failed, 1);
}

async fn a_paused_queue_goes_on_otherwise(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    set_paused(t, true).await;
    let id = t.put_one(t.spec().delay(SECOND)).await;
    assert_eq!(t.renew(claims[0].lease).await, RenewAnswer::Renewed { cancel_requested: false });
    assert_eq!(t.annotate(claims[0].lease, Note::default()).await, NoteAnswer::Noted);
    let answer = t.exchange(None, vec![settlement(claims[0].lease, completed())], Some(t.asking(10))).await;
    assert_eq!(answer.settled, [settled(JobState::Completed)]);
    assert_eq!(answer.claimed, Some(ClaimAnswer::default()));
    t.advance(SECOND);
    assert_eq!(t.sweep(10).await.promoted, 1);
    assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
}

async fn a_pause_changes_nothing_else_of_the_settings(t: &mut Scene) {
    t.configure(|config| {
        config.event_entries_kept = 500;
        config.retention.completed.count = 5;
    })
    .await;
    let before = config(t).await;
    set_paused(t, true).await;
    assert_eq!(config(t).await, {
        let mut paused = before.clone();
        paused.paused = true;
        paused
    });
    set_paused(t, false).await;
    assert_eq!(config(t).await, before);
}

async fn a_pause_is_told_once(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let seen = t.last_event().await;
    let changed = [true, true, false, false].map(|paused| (paused, t.storage()));
    let mut answers = Vec::new();
    for (paused, storage) in changed {
        answers.push(storage.set_paused(&t.queue, paused).await.expect("set_paused"));
    }
    assert_eq!(answers, [true, false, true, false]);
    assert_eq!(t.happened_after(seen).await, [(EventKind::Paused, None), (EventKind::Resumed, None)]);
}

async fn a_pause_by_settings_is_told_too(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let seen = t.last_event().await;
    for paused in [false, true, true, false] {
        t.configure(|config| config.paused = paused).await;
    }
    assert_eq!(t.happened_after(seen).await, [(EventKind::Paused, None), (EventKind::Resumed, None)]);
}

async fn a_pause_makes_a_queue(t: &mut Scene) {
    assert!(set_paused(t, true).await);
    assert_eq!(queues(t).await, std::slice::from_ref(&t.queue));
    t.put_one(t.spec()).await;
    assert_eq!(t.claim(1).await, [], "a queue may be paused before its first job");
}

/// Obliterates to the end, and answers how many jobs each step but the last took.
async fn obliterate(t: &Scene, force: bool, max_items: usize) -> Vec<usize> {
    let mut steps = Vec::new();
    for _ in 0..1000 {
        match t.storage().obliterate(&t.queue, force, max_items).await.expect("obliterate") {
            ObliterateAnswer::Done => return steps,
            ObliterateAnswer::More(gone) => steps.push(gone),
            ObliterateAnswer::Active(active) => panic!("{active} jobs are active"),
        }
    }
    panic!("the obliteration does not end")
}

async fn an_obliterated_queue_leaves_nothing(t: &mut Scene) {
    let other = queue_name("another");
    t.storage()
        .enqueue(EnqueueRequest { call: None, queue: other.clone(), jobs: vec![Arc::new(spec(&other))] })
        .await
        .expect("enqueue");
    t.configure(|config| config.event_entries_kept = 500).await;
    t.run(t.spec().dedup("k", DedupMode::WhileKept), completed()).await;
    t.put([t.spec(), t.spec().delay(DAY), t.spec().dedup("f", DedupMode::For(DAY))]).await;
    obliterate(t, false, 100).await;
    assert_eq!(queues(t).await, std::slice::from_ref(&other));
    assert_eq!(t.dump().await, QueueDump::default());
    assert_eq!(t.counts().await, QueueCounts::default());
    assert_eq!(config(t).await, QueueConfig::default());
    assert_eq!(t.storage().events(&t.queue, EventCursor::default(), 10).await.expect("events").events, []);
    assert_eq!(t.storage().counts(&other).await.expect("counts").waiting, 1);
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.record(id).await.seq, 1, "the counter went too");
}

async fn an_obliteration_goes_in_bounded_steps(t: &mut Scene) {
    t.put_many(3).await;
    t.put((0..2).map(|_| t.spec().delay(DAY))).await;
    t.run(t.spec().priority(0), abort()).await;
    let listed: Vec<_> = t.list(JobFilter::default(), 100).await.iter().map(|record| record.id()).collect();
    let answer = t.storage().obliterate(&t.queue, false, 2).await.expect("obliterate");
    assert_eq!(answer, ObliterateAnswer::More(2));
    let left: Vec<_> = t.list(JobFilter::default(), 100).await.iter().map(|record| record.id()).collect();
    assert_eq!(left, listed[2..], "in the order of the walk");
    let steps = obliterate(t, false, 2).await;
    assert!(steps.iter().all(|gone| *gone <= 2) && steps.iter().sum::<usize>() <= 4, "{steps:?}");
    assert_eq!(queues(t).await, []);
}

async fn an_obliteration_stops_at_active_jobs(t: &mut Scene) {
    t.put_many(3).await;
    let claim = t.claim_one().await;
    let before = t.dump().await;
    let answer = t.storage().obliterate(&t.queue, false, 100).await.expect("obliterate");
    assert_eq!(answer, ObliterateAnswer::Active(1));
    assert_eq!(t.dump().await, before);
    assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
    obliterate(t, false, 100).await;
    assert_eq!(queues(t).await, []);
}

async fn a_forced_obliteration_leaves_workers_with_nothing(t: &mut Scene) {
    t.put_many(2).await;
    let lease = t.claim_one().await.lease;
    obliterate(t, true, 100).await;
    assert_eq!(t.renew(lease).await, RenewAnswer::Gone);
    assert_eq!(t.annotate(lease, Note::default()).await, NoteAnswer::Gone);
    assert_eq!(t.settle_with(lease, completed(), [t.spec()]).await, SettleAnswer::Gone);
    assert_eq!(queues(t).await, []);
}

async fn a_queue_that_does_not_exist_is_obliterated(t: &mut Scene) {
    assert_eq!(obliterate(t, false, 1).await, [0usize; 0]);
    assert_eq!(obliterate(t, true, 1).await, [0usize; 0]);
}
