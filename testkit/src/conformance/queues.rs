//! Queues as a whole: their settings, their pause, and their end.

use super::prelude::*;

topic! {
    ($) queues, __conformance_queues:
    a_queue_without_settings_has_the_defaults,
    settings_are_kept_as_they_were_given,
    settings_make_a_queue,
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
