//! The life of a store and its handles: what persists is there when it is opened anew, handles see the same store, a
//! closed one says so, and many callers at once get in nobody's way.

use std::collections::HashSet;

use futures::future::join_all;

use super::prelude::*;

topic! {
    ($) handles, __conformance_handles:
    a_store_says_truthfully_whether_it_persists,
    everything_is_there_after_opening_anew,
    a_lease_outlives_opening_anew,
    seqs_and_epochs_go_on_after_opening_anew,
    time_off_is_an_outage,
    a_second_handle_sees_the_same_store,
    closing_a_second_handle_leaves_the_first_open,
    a_closed_handle_says_so,
    closing_twice_is_closing_once,
    nobody_gets_a_job_twice,
    one_of_many_enqueues_inserts_the_id,
    one_of_many_enqueues_takes_the_key,
    one_of_many_settlements_is_applied,
    workers_on_two_handles_share_the_work,
}

async fn a_store_says_truthfully_whether_it_persists(t: &mut Scene) {
    let capabilities = t.capabilities();
    assert_eq!(capabilities.persistent, t.fixture.can_reopen(), "a persistent store can be opened anew");
    if !capabilities.persistent {
        assert_eq!(capabilities.durability.process_crash, Loss::Everything);
    }
    assert_eq!(t.capabilities(), capabilities, "the same for the life of the handle");
}

async fn everything_is_there_after_opening_anew(t: &mut Scene) {
    t.put([t.spec().dedup("k", DedupMode::WhileKept), t.spec().delay(HOUR), t.spec().crashes(1).tag("x")]).await;
    t.put((0..3).map(|n| t.spec().priority(n))).await;
    for outcome in [completed(), abort()] {
        let claim = t.claim_as(ClaimSpec { alone: false, ..t.asking(1) }).await.claims.remove(0);
        t.annotate(claim.lease, Note { log: vec!["x".to_owned()], ..Note::default() }).await;
        t.settle(claim.lease, outcome).await;
    }
    t.configure(|config| config.event_entries_kept = 345).await;
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    let before = (t.dump().await, t.events_after(EventCursor::default()).await, t.counts().await);
    if t.fixture.reopen().await {
        let after = (t.dump().await, t.events_after(EventCursor::default()).await, t.counts().await);
        assert_eq!(after, before);
    }
}

async fn a_lease_outlives_opening_anew(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    if t.fixture.reopen().await {
        assert_eq!(t.renew(claims[0].lease).await, RenewAnswer::Renewed { cancel_requested: false });
        assert_eq!(t.settle(claims[1].lease, completed()).await, settled(JobState::Completed));
        assert_eq!(t.settle(claims[1].lease, completed()).await, SettleAnswer::AlreadyDone);
        assert_eq!(t.let_leases_expire().await.stalled, 1);
    }
}

async fn seqs_and_epochs_go_on_after_opening_anew(t: &mut Scene) {
    t.put_many(2).await;
    let first = t.claim_one().await;
    t.settle(first.lease, released()).await;
    let last = t.last_event().await;
    t.fixture.clock.step_back(30 * SECOND);
    if t.fixture.reopen().await {
        let id = t.put_one(t.spec()).await;
        let record = t.record(id).await;
        assert_eq!((record.seq, record.created_at), (3, first.created_at), "time does not go back either");
        assert!(t.claim_one().await.lease.epoch > first.lease.epoch);
        assert!(t.last_event().await > last);
        assert_eq!(t.happened_after(last).await.len(), 2);
    }
}

async fn time_off_is_an_outage(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    if t.fixture.reopen().await {
        t.advance(DAY);
        assert_eq!(t.sweep(10).await.stalled, 0);
        assert_eq!(t.settle(claim.lease, completed()).await, settled(JobState::Completed));
    }
}

async fn a_second_handle_sees_the_same_store(t: &mut Scene) {
    let second = t.storage().second_handle().await.expect("second_handle");
    t.put_many(2).await;
    assert_eq!(second.counts(&t.queue).await.expect("counts").waiting, 2);
    let claim = second.claim(None, &t.queue, t.asking(1)).await.expect("claim").claims.remove(0);
    assert_eq!(t.renew(claim.lease).await, RenewAnswer::Renewed { cancel_requested: false });
    let answer = second.settle(None, &t.queue, vec![settlement(claim.lease, completed())]).await.expect("settle");
    assert_eq!(answer, [settled(JobState::Completed)]);
    assert_eq!(dump_queue(second.as_ref(), &t.queue, 10).await, t.dump().await);
    assert_eq!(second.capabilities(), t.capabilities());
    t.advance(HOUR);
    assert_eq!(second.now(&t.queue).await.expect("now"), t.clock(), "it reads the same clock");
    second.close().await;
}

async fn closing_a_second_handle_leaves_the_first_open(t: &mut Scene) {
    let second = t.storage().second_handle().await.expect("second_handle");
    t.put_one(t.spec()).await;
    second.close().await;
    assert_eq!(second.counts(&t.queue).await.expect_err("closed").code(), ErrorCode::Closed);
    t.put_one(t.spec()).await;
    assert_eq!(t.claim(10).await.len(), 2);
}

async fn a_closed_handle_says_so(t: &mut Scene) {
    t.put_many(2).await;
    let lease = t.claim_one().await.lease;
    t.storage().close().await;
    let (storage, queue) = (t.storage(), &t.queue);
    let jobs = vec![Arc::new(t.spec())];
    let request = ActRequest { call: None, queue: queue.clone(), on: Selection::Ids(vec![lease.id]), act: Act::Cancel };
    let list = ListRequest { queue: queue.clone(), filter: JobFilter::default(), after: None, max_items: 10 };
    let renew = RenewRequest { queue: queue.clone(), leases: vec![lease], term: TERM };
    let errors = [
        storage.enqueue(EnqueueRequest { call: None, queue: queue.clone(), jobs }).await.err(),
        storage.settle(None, queue, vec![settlement(lease, completed())]).await.err(),
        storage.claim(None, queue, t.asking(1)).await.err(),
        storage.renew(renew).await.err(),
        storage.annotate(queue, vec![(lease, Note::default())]).await.err(),
        storage.sweep(SweepRequest { queue: queue.clone(), max_items: 10 }).await.err(),
        storage.watch(queue, lease.id).await.err(),
        storage.act(request).await.err(),
        storage.config(queue).await.err(),
        storage.configure(queue, QueueConfig::default()).await.err(),
        storage.set_paused(queue, true).await.err(),
        storage.obliterate(queue, true, 10).await.err(),
        storage.job(Some(queue), lease.id).await.err(),
        storage.list(list).await.err(),
        storage.counts(queue).await.err(),
        storage.queues().await.err(),
        storage.now(queue).await.err(),
        storage.events(queue, EventCursor::default(), 10).await.err(),
        storage.last_event(queue).await.err(),
        storage.dump(queue, None, 10).await.err(),
        storage.restore(queue, DumpPage::default()).await.err(),
    ];
    for (place, error) in errors.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("call {place} answers after the close"));
        assert_eq!((error.code(), error.effect()), (ErrorCode::Closed, Effect::None), "call {place}");
    }
}

async fn closing_twice_is_closing_once(t: &mut Scene) {
    t.put_one(t.spec()).await;
    t.storage().close().await;
    t.storage().close().await;
    assert_eq!(t.storage().queues().await.expect_err("closed").code(), ErrorCode::Closed);
}

/// Takes and completes jobs until none are left, and answers which it completed.
async fn work(storage: Arc<dyn Storage>, queue: QueueName, asking: ClaimSpec) -> Vec<JobId> {
    let mut done = Vec::new();
    let mut settlements = Vec::new();
    loop {
        let request = ExchangeRequest { call: None, queue: queue.clone(), settlements, claim: Some(asking.clone()) };
        let answer = storage.exchange(request).await.expect("exchange");
        assert!(answer.settled.iter().all(|one| *one == settled(JobState::Completed)), "{:?}", answer.settled);
        let claimed = answer.claimed.expect("an answer to the claim");
        if claimed.claims.is_empty() && !claimed.more {
            return done;
        }
        done.extend(ids(&claimed.claims));
        settlements = claimed.claims.iter().map(|claim| settlement(claim.lease, completed())).collect();
        tokio::task::yield_now().await;
    }
}

async fn share_the_work(t: &Scene, storages: Vec<Arc<dyn Storage>>) {
    let mut put: Vec<JobId> = Vec::new();
    for _ in 0..4 {
        put.extend(t.put_many(100).await);
    }
    let workers = storages.into_iter().map(|storage| tokio::spawn(work(storage, t.queue.clone(), t.asking(7))));
    let done: Vec<JobId> =
        join_all(workers).await.into_iter().flat_map(|done| done.expect("a worker that ends")).collect();
    assert_eq!(done.len(), put.len(), "each job is handed out once");
    assert_eq!(done.into_iter().collect::<HashSet<_>>(), put.into_iter().collect::<HashSet<_>>());
    assert_eq!(t.counts().await.completed, 400);
}

async fn nobody_gets_a_job_twice(t: &mut Scene) {
    share_the_work(t, vec![t.fixture.storage.clone(); 8]).await;
}

async fn workers_on_two_handles_share_the_work(t: &mut Scene) {
    let second = t.storage().second_handle().await.expect("second_handle");
    let storages = (0..8).map(|n| if n % 2 == 0 { second.clone() } else { t.fixture.storage.clone() }).collect();
    share_the_work(t, storages).await;
    second.close().await;
}

async fn at_once<T: Send + 'static>(
    calls: impl Iterator<Item = impl Future<Output = Result<T, StorageError>> + Send + 'static>,
) -> Vec<T> {
    let calls: Vec<_> = calls.map(tokio::spawn).collect();
    join_all(calls).await.into_iter().map(|call| call.expect("a call that ends").expect("an answer")).collect()
}

fn enqueue_each(
    t: &Scene,
    jobs: Vec<JobSpec>,
) -> impl Iterator<Item = impl Future<Output = Result<Vec<EnqueueAnswer>, StorageError>> + Send + 'static> {
    let (storage, queue) = (t.fixture.storage.clone(), t.queue.clone());
    jobs.into_iter().map(move |job| {
        let (storage, queue) = (storage.clone(), queue.clone());
        async move { storage.enqueue(EnqueueRequest { call: None, queue, jobs: vec![Arc::new(job)] }).await }
    })
}

async fn one_of_many_enqueues_inserts_the_id(t: &mut Scene) {
    let job = t.spec();
    let answers = at_once(enqueue_each(t, vec![job.clone(); 16])).await.concat();
    assert_eq!(answers.iter().filter(|answer| **answer == EnqueueAnswer::Inserted).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == EnqueueAnswer::Duplicate(job.id)).count(), 15);
}

async fn one_of_many_enqueues_takes_the_key(t: &mut Scene) {
    let jobs: Vec<_> = (0..16).map(|_| t.spec().dedup("k", DedupMode::UntilFinished)).collect();
    let answers = at_once(enqueue_each(t, jobs)).await.concat();
    let holder = t.list(JobFilter::default(), 10).await[0].id();
    assert_eq!(answers.iter().filter(|answer| **answer == EnqueueAnswer::Inserted).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == EnqueueAnswer::Duplicate(holder)).count(), 15);
}

async fn one_of_many_settlements_is_applied(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    let (storage, queue) = (t.fixture.storage.clone(), t.queue.clone());
    let calls = (0..16).map(|_| {
        let (storage, queue) = (storage.clone(), queue.clone());
        let follow_ups = vec![Arc::new(t.spec())];
        let settlements = vec![Settlement { lease, outcome: completed(), follow_ups }];
        async move { storage.settle(None, &queue, settlements).await }
    });
    let answers = at_once(calls).await.concat();
    assert_eq!(answers.iter().filter(|answer| **answer == SettleAnswer::AlreadyDone).count(), 15);
    assert_eq!(t.counts().await.waiting, 1, "one follow-up");
}
