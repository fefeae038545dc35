//! How jobs come in: stored as they were given, once per id, in their order, all or none.

use bytes::Bytes;
use ferroq_core::job::{CodecTag, CorrelationId, JobOptions, JobRecord, LaneKey, Notes, Payload, Tag};
use ferroq_core::policy::backoff::Backoff;
use ferroq_core::policy::retention::Keep;

use super::prelude::*;

topic! {
    ($) enqueue, __conformance_enqueue:
    a_job_is_stored_as_it_was_given,
    jobs_get_rising_seqs_in_their_order,
    lifo_jobs_get_negative_seqs_from_the_same_counter,
    an_id_is_inserted_once,
    an_id_is_inserted_once_within_one_request,
    a_duplicate_changes_nothing_of_the_record,
    a_duplicate_uses_up_no_seq,
    an_id_belongs_to_its_queue,
    a_job_of_another_queue_refuses_the_whole_request,
    an_empty_request_does_nothing,
    the_first_job_makes_the_queue,
    queues_do_not_share_jobs_or_seqs,
}

async fn a_job_is_stored_as_it_was_given(t: &mut Scene) {
    let mut spec = t.spec().priority(7).lifo().delay(MINUTE).dedup("same", DedupMode::WhileKept);
    spec.lane = LaneKey::new("tenant/42").expect("a good lane");
    spec.payload = Payload { codec: CodecTag::Bincode, version: 9, bytes: Bytes::from_static(b"\0\xffx") };
    spec.options = Arc::new(JobOptions {
        max_attempts: 4,
        max_crashes: 2,
        backoff: Backoff::default(),
        timeout: Some(SECOND),
        expires_in: Some(HOUR),
        keep: Keep { completed: KeepFor::Remove, failed: KeepFor::Age(DAY), cancelled: KeepFor::QueueDefault },
        tags: vec![Tag::new("a").expect("a good tag"), Tag::new("b:c").expect("a good tag")],
        correlation_id: Some(CorrelationId::new("request-1").expect("a good id")),
        trace_context: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    });
    let now = t.clock();
    let id = t.put_one(spec.clone()).await;
    let expected = JobRecord {
        spec: Arc::new(spec),
        seq: -1,
        state: JobState::Delayed,
        slot: Slot::Lane,
        priority: Priority(7),
        epoch: 0,
        attempts: 0,
        crashes: 0,
        runs: 0,
        coalesced: 1,
        batch: None,
        cancel_requested: false,
        created_at: now,
        due_at: now.after(MINUTE),
        expires_at: Some(now.after(HOUR)),
        started_at: None,
        finished_at: None,
        prune_at: None,
        lease_until: None,
        lease_term: None,
        worker: None,
        failure: None,
        waited_on: false,
        notes: Notes::default(),
    };
    assert_eq!(t.record(id).await, expected);
}

async fn jobs_get_rising_seqs_in_their_order(t: &mut Scene) {
    let first = t.put_many(3).await;
    t.advance(SECOND);
    let second = t.put_many(2).await;
    for (place, id) in first.into_iter().chain(second).enumerate() {
        let record = t.record(id).await;
        assert_eq!(record.seq, place as i64 + 1);
        assert_eq!((record.state, record.slot), (JobState::Waiting, Slot::Lane));
        assert_eq!(record.due_at, record.created_at);
    }
}

async fn lifo_jobs_get_negative_seqs_from_the_same_counter(t: &mut Scene) {
    let ids = t.put([t.spec(), t.spec().lifo(), t.spec(), t.spec().lifo()]).await;
    let mut seqs = Vec::new();
    for id in ids {
        seqs.push(t.record(id).await.seq);
    }
    assert_eq!(seqs, [1, -2, 3, -4]);
}

async fn an_id_is_inserted_once(t: &mut Scene) {
    let spec = t.spec();
    t.put_one(spec.clone()).await;
    assert_eq!(t.enqueue([spec.clone()]).await, [EnqueueAnswer::Duplicate(spec.id)]);
    let claim = t.claim_one().await;
    assert_eq!(t.enqueue([spec.clone()]).await, [EnqueueAnswer::Duplicate(spec.id)], "while it is active");
    t.settle(claim.lease, completed()).await;
    assert_eq!(t.enqueue([spec.clone()]).await, [EnqueueAnswer::Duplicate(spec.id)], "while its record is kept");
    assert_eq!(t.counts().await.completed, 1);
    assert_eq!(t.act(spec.id, Act::Remove).await, ActAnswer::Done(JobState::Completed));
    assert_eq!(t.enqueue([spec.clone()]).await, [EnqueueAnswer::Inserted], "once its record is gone");
}

async fn an_id_is_inserted_once_within_one_request(t: &mut Scene) {
    let (twice, other) = (t.spec(), t.spec());
    let answers = t.enqueue([twice.clone(), other.clone(), twice.clone()]).await;
    let duplicate = EnqueueAnswer::Duplicate(twice.id);
    assert_eq!(answers, [EnqueueAnswer::Inserted, EnqueueAnswer::Inserted, duplicate]);
    assert_eq!(t.counts().await.waiting, 2);
}

async fn a_duplicate_changes_nothing_of_the_record(t: &mut Scene) {
    let spec = t.spec();
    t.put_one(spec.clone()).await;
    let before = t.record(spec.id).await;
    let seen = t.last_event().await;
    t.advance(MINUTE);
    let changed = spec.clone().priority(1).payload(&b"other"[..]).delay(HOUR);
    assert_eq!(t.enqueue([changed]).await, [EnqueueAnswer::Duplicate(spec.id)]);
    assert_eq!(t.record(spec.id).await, before);
    assert_eq!(t.happened_after(seen).await, []);
}

async fn a_duplicate_uses_up_no_seq(t: &mut Scene) {
    let spec = t.spec();
    t.put_one(spec.clone()).await;
    t.enqueue([spec]).await;
    let next = t.put_one(t.spec()).await;
    assert_eq!(t.record(next).await.seq, 2);
}

async fn an_id_belongs_to_its_queue(t: &mut Scene) {
    let here = t.spec();
    let mut there = here.clone();
    there.queue = queue_name("another");
    t.put_one(here.clone()).await;
    t.put_one(there.clone()).await;
    let found = t.storage().job(Some(&there.queue), there.id).await.expect("job").expect("a record");
    assert_eq!(found.spec.queue, there.queue);
    assert_eq!(t.record(here.id).await.spec.queue, here.queue);
    assert_eq!(t.act(here.id, Act::Remove).await, ActAnswer::Done(JobState::Waiting));
    // Without a queue, every queue is searched.
    let found = t.storage().job(None, here.id).await.expect("job").expect("the other queue's record");
    assert_eq!(found.spec.queue, there.queue);
}

async fn a_job_of_another_queue_refuses_the_whole_request(t: &mut Scene) {
    let mut stray = t.spec();
    stray.queue = queue_name("another");
    let jobs = vec![Arc::new(t.spec()), Arc::new(stray)];
    let request = EnqueueRequest { call: None, queue: t.queue.clone(), jobs };
    let error = t.storage().enqueue(request).await.expect_err("a job of another queue");
    assert_eq!((error.code(), error.effect()), (ErrorCode::Invalid, Effect::None));
    assert_eq!(t.counts().await, QueueCounts::default());
    assert_eq!(t.storage().queues().await.expect("queues"), []);
}

async fn an_empty_request_does_nothing(t: &mut Scene) {
    assert_eq!(t.enqueue([]).await, []);
    assert_eq!(t.storage().queues().await.expect("queues"), []);
    assert_eq!(t.last_event().await, EventCursor::default());
}

async fn the_first_job_makes_the_queue(t: &mut Scene) {
    for name in ["b", "a", "c"] {
        t.put_one(spec(&queue_name(name))).await;
    }
    assert_eq!(t.storage().queues().await.expect("queues"), ["a", "b", "c"].map(queue_name));
}

async fn queues_do_not_share_jobs_or_seqs(t: &mut Scene) {
    let other = queue_name("another");
    t.put_many(3).await;
    let there = t.put_one(spec(&other)).await;
    let record = t.storage().job(Some(&other), there).await.expect("job").expect("a record");
    assert_eq!(record.seq, 1);
    assert_eq!(t.find(there).await, None, "a job is found in its own queue only");
    assert_eq!(t.claim(10).await.len(), 3);
    assert_eq!(t.storage().counts(&other).await.expect("counts").waiting, 1);
}
