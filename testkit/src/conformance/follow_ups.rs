//! Jobs that come into being with the end of another: in the same atomic unit, on any queue, or not at all.

use super::prelude::*;

topic! {
    ($) follow_ups, __conformance_follow_ups:
    a_follow_up_is_inserted_with_the_settlement,
    a_follow_up_may_go_to_another_queue,
    follow_ups_are_inserted_whatever_the_outcome,
    a_refused_settlement_inserts_nothing,
    a_follow_up_is_claimed_in_the_same_exchange,
    a_follow_up_may_be_a_duplicate,
    a_follow_up_may_take_the_key_that_its_job_just_freed,
    a_follow_up_can_have_every_setting,
    follow_ups_keep_their_order,
}

fn with(state: JobState, follow_ups: &[EnqueueAnswer]) -> SettleAnswer {
    SettleAnswer::Settled { state, follow_ups: follow_ups.to_vec() }
}

async fn a_follow_up_is_inserted_with_the_settlement(t: &mut Scene) {
    let first = t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let seen = t.last_event().await;
    t.advance(SECOND);
    let next = t.spec();
    let answer = t.settle_with(claim.lease, completed(), [next.clone()]).await;
    assert_eq!(answer, with(JobState::Completed, &[EnqueueAnswer::Inserted]));
    let record = t.record(next.id).await;
    assert_eq!((record.state, record.seq, record.created_at), (JobState::Waiting, 2, t.clock()));
    let expected = [(EventKind::Completed, Some(first)), (EventKind::Enqueued, Some(next.id))];
    assert_eq!(t.happened_after(seen).await, expected);
}

async fn a_follow_up_may_go_to_another_queue(t: &mut Scene) {
    let other = queue_name("another");
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let (here, there) = (t.spec(), spec(&other));
    let answer = t.settle_with(claim.lease, completed(), [there.clone(), here.clone()]).await;
    assert_eq!(answer, with(JobState::Completed, &[EnqueueAnswer::Inserted; 2]));
    let record = t.storage().job(Some(&other), there.id).await.expect("job").expect("a record");
    assert_eq!((record.state, record.seq, &record.spec.queue), (JobState::Waiting, 1, &other));
    assert_eq!(t.state(here.id).await, JobState::Waiting);
    assert_eq!(t.storage().queues().await.expect("queues"), [other.clone(), t.queue.clone()]);
    let events = t.storage().events(&other, EventCursor::default(), 10).await.expect("events").events;
    let told: Vec<_> = events.iter().map(|event| (event.kind, event.job)).collect();
    assert_eq!(told, [(EventKind::Enqueued, Some(there.id))], "the other queue's log tells it");
}

async fn follow_ups_are_inserted_whatever_the_outcome(t: &mut Scene) {
    for outcome in [fail(HOUR), abort(), Outcome::Cancelled, snoozed(HOUR)] {
        let id = t.put_one(t.spec()).await;
        let lease = t.claim_one().await.lease;
        let next = t.spec().delay(DAY);
        let answer = t.settle_with(lease, outcome, [next.clone()]).await;
        assert_eq!(answer, with(t.state(id).await, &[EnqueueAnswer::Inserted]));
        assert_eq!(t.state(next.id).await, JobState::Delayed);
    }
}

async fn a_refused_settlement_inserts_nothing(t: &mut Scene) {
    let other = queue_name("another");
    t.put_one(t.spec()).await;
    let stale = t.claim_one().await.lease;
    t.let_leases_expire().await;
    let lease = t.claim_one().await.lease;
    let nobody = Lease { id: JobId::new(), epoch: 1 };
    assert_eq!(t.settle_with(stale, completed(), [t.spec(), spec(&other)]).await, SettleAnswer::LeaseLost);
    assert_eq!(t.settle_with(nobody, completed(), [t.spec(), spec(&other)]).await, SettleAnswer::Gone);
    t.settle(lease, completed()).await;
    assert_eq!(t.settle_with(lease, completed(), [t.spec(), spec(&other)]).await, SettleAnswer::AlreadyDone);
    assert_eq!(t.counts().await.live(), 0);
    assert_eq!(t.storage().queues().await.expect("queues"), std::slice::from_ref(&t.queue));
}

async fn a_follow_up_is_claimed_in_the_same_exchange(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let next = t.spec();
    let settlement = Settlement { lease: claim.lease, outcome: completed(), follow_ups: vec![Arc::new(next.clone())] };
    let answer = t.exchange(None, vec![settlement], Some(t.asking(10))).await;
    assert_eq!(ids(&answer.claimed.expect("an answer to the claim").claims), [next.id]);
}

async fn a_follow_up_may_be_a_duplicate(t: &mut Scene) {
    let holder = t.put_one(t.spec().dedup("k", DedupMode::UntilFinished).delay(DAY)).await;
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let (keyed, fresh) = (t.spec().dedup("k", DedupMode::UntilFinished), t.spec());
    let jobs = [keyed, fresh.clone(), fresh.clone()];
    let answer = t.settle_with(claim.lease, completed(), jobs).await;
    let expected = [EnqueueAnswer::Duplicate(holder), EnqueueAnswer::Inserted, EnqueueAnswer::Duplicate(fresh.id)];
    assert_eq!(answer, with(JobState::Completed, &expected));
}

async fn a_follow_up_may_take_the_key_that_its_job_just_freed(t: &mut Scene) {
    t.put_one(t.spec().dedup("k", DedupMode::UntilFinished)).await;
    let claim = t.claim_one().await;
    let again = t.spec().dedup("k", DedupMode::UntilFinished);
    let answer = t.settle_with(claim.lease, completed(), [again.clone()]).await;
    assert_eq!(answer, with(JobState::Completed, &[EnqueueAnswer::Inserted]));
    let claim = t.claim_one().await;
    let answer = t.settle_with(claim.lease, fail(HOUR), [t.spec().dedup("k", DedupMode::UntilFinished)]).await;
    assert_eq!(answer, with(JobState::Delayed, &[EnqueueAnswer::Duplicate(again.id)]), "a failed run keeps its key");
}

async fn a_follow_up_can_have_every_setting(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let next = t.spec().priority(9).lifo().delay(HOUR).tag("x").crashes(1).payload(vec![0, 1, 255]);
    t.settle_with(claim.lease, completed(), [next.clone()]).await;
    let record = t.record(next.id).await;
    assert_eq!((&*record.spec, record.seq, record.priority), (&next, -2, Priority(9)));
    assert_eq!((record.state, record.due_at), (JobState::Delayed, t.clock().after(HOUR)));
}

async fn follow_ups_keep_their_order(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    let jobs: Vec<_> = (0..6).map(|_| t.spec()).collect();
    let half = |range: std::ops::Range<usize>, claim: &Claim| Settlement {
        lease: claim.lease,
        outcome: completed(),
        follow_ups: jobs[range].iter().cloned().map(Arc::new).collect(),
    };
    t.settle_all(vec![half(0..3, &claims[0]), half(3..6, &claims[1])]).await;
    let expected: Vec<_> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(ids(&t.claim(10).await), expected);
}
