//! Waiting for a job's outcome: the watch is hinted at its end, whatever that is, and the record stays to be read.

use super::prelude::*;

topic! {
    ($) watch, __conformance_watch:
    a_watch_marks_the_record_and_changes_nothing_else,
    a_watch_is_hinted_at_every_end,
    a_hint_that_came_before_is_not_lost,
    watches_are_independent,
    a_job_that_does_not_exist_can_be_watched,
    an_ended_job_can_be_watched,
    a_retried_job_stays_waited_on,
    work_is_hinted_when_signals_are_reliable,
    control_is_hinted_when_signals_are_reliable,
}

async fn watch(t: &Scene, id: JobId) -> JobWatch {
    t.storage().watch(&t.queue, id).await.expect("watch")
}

async fn a_watch_marks_the_record_and_changes_nothing_else(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let mut expected = t.record(id).await;
    let seen = t.last_event().await;
    t.advance(SECOND);
    let _watch = watch(t, id).await;
    expected.waited_on = true;
    assert_eq!(t.record(id).await, expected);
    assert_eq!(t.happened_after(seen).await, []);
}

async fn a_watch_is_hinted_at_every_end(t: &mut Scene) {
    for outcome in [completed(), abort(), Outcome::Cancelled] {
        let id = t.put_one(t.spec()).await;
        let watch = watch(t, id).await;
        let claim = t.claim_one().await;
        t.settle(claim.lease, outcome).await;
        watch.ended().await;
    }
    let id = t.put_one(t.spec()).await;
    let by_operator = watch(t, id).await;
    t.act(id, Act::Cancel).await;
    by_operator.ended().await;
    let id = t.put_one(t.spec().crashes(1)).await;
    let by_crash = watch(t, id).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    assert_eq!(t.state(id).await, JobState::Failed);
    by_crash.ended().await;
    let id = t.put_one(t.spec().expires_in(SECOND)).await;
    let by_expiry = watch(t, id).await;
    t.advance(MINUTE);
    t.claim(1).await;
    assert_eq!(t.state(id).await, JobState::Failed);
    by_expiry.ended().await;
}

async fn a_hint_that_came_before_is_not_lost(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let watch = watch(t, id).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    t.put_many(3).await;
    t.claim(10).await;
    watch.ended().await;
}

async fn watches_are_independent(t: &mut Scene) {
    let put = t.put_many(2).await;
    let first = watch(t, put[0]).await;
    let second = watch(t, put[0]).await;
    drop(watch(t, put[0]).await);
    let other = watch(t, put[1]).await;
    let claims = t.claim(2).await;
    t.settle(claims[0].lease, completed()).await;
    first.ended().await;
    second.ended().await;
    t.settle(claims[1].lease, completed()).await;
    other.ended().await;
}

async fn a_job_that_does_not_exist_can_be_watched(t: &mut Scene) {
    drop(watch(t, JobId::new()).await);
    assert_eq!(t.storage().queues().await.expect("queues"), []);
}

async fn an_ended_job_can_be_watched(t: &mut Scene) {
    let id = t.run(t.spec().options(|options| options.keep.completed = KeepFor::Age(SECOND)), completed()).await;
    let before = t.record(id).await;
    let _watch = watch(t, id).await;
    let record = t.record(id).await;
    assert_eq!((record.waited_on, record.prune_at), (true, before.prune_at));
}

async fn a_retried_job_stays_waited_on(t: &mut Scene) {
    let id = t.put_one(t.spec().options(|options| options.keep.failed = KeepFor::Remove)).await;
    drop(watch(t, id).await);
    let claim = t.claim_one().await;
    t.settle(claim.lease, abort()).await;
    t.act(id, Act::Retry { reset: false }).await;
    assert!(t.record(id).await.waited_on, "the mark on the record stays");
    let claim = t.claim_one().await;
    t.settle(claim.lease, abort()).await;
    assert_eq!(t.record(id).await.prune_at, Some(t.clock().after(WAITED_ON_KEEP)));
}

async fn work_is_hinted_when_signals_are_reliable(t: &mut Scene) {
    if !t.capabilities().reliable_signals {
        return;
    }
    let mut signals = t.storage().signals(&t.queue);
    t.put_one(t.spec()).await;
    assert!(signals.changed().await.0, "an enqueue");
    let claim = t.claim_one().await;
    signals.mark_seen();
    t.settle(claim.lease, released()).await;
    assert!(signals.changed().await.0, "a release");
}

async fn control_is_hinted_when_signals_are_reliable(t: &mut Scene) {
    if !t.capabilities().reliable_signals {
        return;
    }
    let id = t.put_one(t.spec()).await;
    t.claim_one().await;
    let mut signals = t.storage().signals(&t.queue);
    t.act(id, Act::Cancel).await;
    assert!(signals.changed().await.1, "a request to cancel");
    signals.mark_seen();
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    assert!(signals.changed().await.1, "a pause");
    signals.mark_seen();
    t.storage().set_paused(&t.queue, false).await.expect("set_paused");
    assert!(signals.changed().await.0, "a resumed queue may have work");
}
