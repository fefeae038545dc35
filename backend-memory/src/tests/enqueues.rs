//! Enqueue: order, places, duplicates and keys.

use ferroq_core::job::{JobState, Priority, Slot, Start};

use super::*;

#[tokio::test]
async fn jobs_are_served_by_priority_then_seq_and_lifo_goes_first() {
    let b = Bench::new();
    let plain = b.add(b.spec()).await;
    let later = b.add(JobSpec { priority: Priority(200), ..b.spec() }).await;
    let first = b.add(JobSpec { priority: Priority(1), ..b.spec() }).await;
    let lifo = b.add(JobSpec { lifo: true, ..b.spec() }).await;
    let lifo_after = b.add(JobSpec { lifo: true, ..b.spec() }).await;
    assert_eq!(b.record(lifo).await.seq, -4);
    assert_eq!(ids(&b.claim(9).await), [first, lifo_after, lifo, plain, later]);
}

#[tokio::test]
async fn a_job_is_delayed_until_its_time_and_waiting_from_the_very_instant() {
    let b = Bench::new();
    let now = b.store.now(&b.q).await.unwrap();
    let delayed = b.add(JobSpec { start: Start::After(SECOND), ..b.spec() }).await;
    let past = b.add(JobSpec { start: Start::At(now.before(HOUR)), ..b.spec() }).await;
    assert_eq!(b.record(delayed).await.state, JobState::Delayed);
    assert_eq!(b.record(past).await.due_at, now);
    let answer = b.ask(asking(&["k"], 9)).await;
    assert_eq!((ids(&answer.claims), answer.look_again), (vec![past], Some(SECOND)));
    b.clock.advance(SECOND);
    assert_eq!(ids(&b.claim(9).await), [delayed]);
    assert_eq!(b.record(delayed).await.due_at, now.after(SECOND));
}

#[tokio::test]
async fn a_job_with_one_crash_to_lose_waits_in_the_solo_line_from_the_start() {
    let b = Bench::new();
    let id = b.add(b.spec_with(|options| options.max_crashes = 1)).await;
    assert_eq!(b.record(id).await.slot, Slot::Solo);
}

#[tokio::test]
async fn the_same_id_inserts_once() {
    let b = Bench::new();
    let spec = b.spec();
    assert_eq!(
        b.enqueue_all(vec![spec.clone(), spec.clone()]).await,
        [EnqueueAnswer::Inserted, EnqueueAnswer::Duplicate(spec.id)]
    );
    let lease = b.take().await.lease;
    b.settle(lease, done()).await;
    assert_eq!(b.enqueue(spec.clone()).await, EnqueueAnswer::Duplicate(spec.id));
    assert_eq!(b.log().await.iter().filter(|kind| **kind == EventKind::Enqueued).count(), 1);
}

#[tokio::test]
async fn a_key_is_held_within_the_same_request() {
    let b = Bench::new();
    let (one, two) = (b.keyed(DedupMode::UntilFinished), b.keyed(DedupMode::UntilFinished));
    let holder = one.id;
    assert_eq!(b.enqueue_all(vec![one, two]).await, [EnqueueAnswer::Inserted, EnqueueAnswer::Duplicate(holder)]);
}

#[tokio::test]
async fn every_end_frees_a_key_until_finished() {
    let b = Bench::new();
    b.add(b.keyed(DedupMode::UntilFinished)).await;
    let lease = b.take().await.lease;
    b.settle(lease, done()).await;

    let id = b.add(b.keyed(DedupMode::UntilFinished)).await;
    b.act(id, Act::Cancel).await;

    let id = b.add(b.keyed(DedupMode::UntilFinished)).await;
    b.act(id, Act::Remove).await;

    let expiring = b.spec_with(|options| options.expires_in = Some(SECOND));
    b.add(JobSpec { options: expiring.options, ..b.keyed(DedupMode::UntilFinished) }).await;
    b.clock.advance(SECOND * 2);
    assert!(b.claim(1).await.is_empty());

    let fragile = b.spec_with(|options| options.max_crashes = 1);
    b.add(JobSpec { options: fragile.options, ..b.keyed(DedupMode::UntilFinished) }).await;
    b.ask(ClaimSpec { alone: true, ..asking(&["k"], 1) }).await;
    b.crash().await;

    b.add(b.keyed(DedupMode::UntilFinished)).await;
}

#[tokio::test]
async fn a_key_held_for_a_time_outlives_the_record_and_ends_with_the_instant() {
    let b = Bench::new();
    b.configure(|config| config.retention.completed = ferroq_core::policy::retention::KeepRule::REMOVE).await;
    let id = b.add(b.keyed(DedupMode::For(HOUR))).await;
    let lease = b.take().await.lease;
    b.settle(lease, done()).await;
    assert_eq!(b.find(id).await, None);
    b.clock.advance(HOUR - Duration::from_micros(1));
    assert_eq!(b.enqueue(b.keyed(DedupMode::For(HOUR))).await, EnqueueAnswer::Duplicate(id));
    b.clock.advance(Duration::from_micros(1));
    let next = b.add(b.keyed(DedupMode::For(HOUR))).await;
    b.act(next, Act::Cancel).await;
    b.add(b.keyed(DedupMode::For(HOUR))).await;
}

#[tokio::test]
async fn a_key_held_while_kept_comes_free_with_the_record() {
    let b = Bench::new();
    let id = b.add(b.keyed(DedupMode::WhileKept)).await;
    let lease = b.take().await.lease;
    b.settle(lease, done()).await;
    assert_eq!(b.enqueue(b.keyed(DedupMode::WhileKept)).await, EnqueueAnswer::Duplicate(id));
    b.clock.advance(HOUR * 24);
    assert_eq!(b.sweep().await.pruned, 1);
    b.add(b.keyed(DedupMode::WhileKept)).await;
}

#[tokio::test]
async fn a_job_of_another_queue_is_refused_and_nothing_is_inserted() {
    let b = Bench::new();
    let jobs = vec![Arc::new(b.spec()), Arc::new(JobSpec { queue: q("other"), ..b.spec() })];
    let error = b.store.enqueue(EnqueueRequest { call: None, queue: b.q.clone(), jobs }).await.unwrap_err();
    assert_eq!(error.code(), ferroq_core::storage::ErrorCode::Invalid);
    assert!(b.store.queues().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_request_does_not_make_a_queue() {
    let b = Bench::new();
    assert!(b.enqueue_all(Vec::new()).await.is_empty());
    b.claim(1).await;
    assert!(b.store.queues().await.unwrap().is_empty());
}
