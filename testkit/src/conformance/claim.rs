//! How jobs go out to workers: each to one, whole, within the asked bounds, under an epoch that rises.

use ferroq_core::job::{Payload, Progress, WorkerId};

use super::prelude::*;

topic! {
    ($) claim, __conformance_claim:
    a_job_is_handed_out_once,
    a_claim_says_what_the_worker_needs,
    a_claimed_job_is_active_for_its_worker,
    a_claim_takes_no_more_than_max_items,
    a_claim_stops_before_max_bytes,
    the_first_job_comes_whatever_its_size,
    payload_bytes_count_exactly,
    an_empty_queue_gives_the_default_answer_and_is_not_made,
    a_first_epoch_is_the_storage_time,
    an_epoch_rises_while_the_clock_stands_still,
    more_tells_whether_asking_again_helps,
    look_again_tells_when_the_next_job_comes_due,
    settlements_are_applied_before_the_claim,
    an_exchange_without_a_claim_answers_none,
    a_job_enqueued_meanwhile_is_claimed_next,
}

async fn a_job_is_handed_out_once(t: &mut Scene) {
    let put = t.put_many(4).await;
    assert_eq!(ids(&t.claim(2).await), put[..2]);
    assert_eq!(ids(&t.claim(10).await), put[2..]);
    assert_eq!(t.claim(10).await, []);
}

async fn a_claim_says_what_the_worker_needs(t: &mut Scene) {
    let mut spec = t.spec().priority(3).tag("x");
    spec.payload = Payload { version: 4, ..Scene::bytes(b"[1,2]") };
    let created_at = t.clock();
    t.put_one(spec.clone()).await;
    t.advance(SECOND);
    let first = t.claim_one().await;
    assert_eq!(*first.spec, spec);
    assert_eq!((first.run, first.attempts, first.crashes, first.solo), (1, 0, 0, false));
    assert_eq!((first.created_at, first.started_at), (created_at, t.clock()));
    assert_eq!(first.checkpoint, None);
    let note = Note { checkpoint: Some(Scene::bytes(b"half")), ..Note::default() };
    t.annotate(first.lease, note).await;
    t.settle(first.lease, fail(Duration::ZERO)).await;
    t.advance(SECOND);
    let second = t.claim_one().await;
    assert_eq!((second.run, second.attempts, second.crashes), (2, 1, 0));
    assert_eq!((second.created_at, second.started_at), (created_at, t.clock()));
    assert_eq!(second.checkpoint, Some(Scene::bytes(b"half")));
}

async fn a_claimed_job_is_active_for_its_worker(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    t.advance(SECOND);
    let worker = WorkerId::new("worker-7").expect("a good worker id");
    let term = Duration::from_millis(12_345);
    let answer = t.claim_as(ClaimSpec { worker: worker.clone(), term, ..t.asking(1) }).await;
    let record = t.record(id).await;
    assert_eq!((record.state, record.slot, record.runs), (JobState::Active, Slot::Lane, 1));
    assert_eq!(record.lease(), answer.claims[0].lease);
    assert_eq!((record.lease_until, record.lease_term), (Some(t.clock().after(term)), Some(term)));
    assert_eq!((record.worker, record.started_at), (Some(worker), Some(t.clock())));
    assert_eq!((record.attempts, record.crashes), (0, 0), "a claim uses up nothing");
}

async fn a_claim_takes_no_more_than_max_items(t: &mut Scene) {
    t.put_many(5).await;
    assert_eq!(t.claim(1).await.len(), 1);
    assert_eq!(t.claim(3).await.len(), 3);
    assert_eq!(t.claim(3).await.len(), 1);
}

async fn a_claim_stops_before_max_bytes(t: &mut Scene) {
    let put = t.put([40, 40, 40, 10].map(|size| t.spec().payload(vec![b'1'; size]))).await;
    let asking = ClaimSpec { max_bytes: 100, ..t.asking(10) };
    let first = t.claim_as(asking.clone()).await;
    assert_eq!(ids(&first.claims), put[..2], "it ends before the job that is too much, and does not skip it");
    assert!(first.more);
    let second = t.claim_as(asking).await;
    assert_eq!(ids(&second.claims), put[2..]);
    assert!(!second.more);
}

async fn the_first_job_comes_whatever_its_size(t: &mut Scene) {
    let put = t.put([500, 1].map(|size| t.spec().payload(vec![b'1'; size]))).await;
    for id in put {
        let answer = t.claim_as(ClaimSpec { max_bytes: 0, ..t.asking(10) }).await;
        assert_eq!(ids(&answer.claims), [id]);
    }
}

async fn payload_bytes_count_exactly(t: &mut Scene) {
    t.put([60, 40, 1].map(|size| t.spec().payload(vec![0xff; size]))).await;
    let answer = t.claim_as(ClaimSpec { max_bytes: 100, ..t.asking(10) }).await;
    assert_eq!(answer.claims.len(), 2, "just enough is not too much");
}

async fn an_empty_queue_gives_the_default_answer_and_is_not_made(t: &mut Scene) {
    assert_eq!(t.claim_as(t.asking(10)).await, ClaimAnswer::default());
    assert_eq!(t.storage().queues().await.expect("queues"), []);
}

async fn a_first_epoch_is_the_storage_time(t: &mut Scene) {
    t.put_one(t.spec()).await;
    t.advance(HOUR);
    assert_eq!(t.claim_one().await.lease.epoch, t.clock().as_micros());
}

async fn an_epoch_rises_while_the_clock_stands_still(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let mut last = 0;
    for _ in 0..5 {
        let claim = t.claim_one().await;
        assert!(claim.lease.epoch > last);
        if last > 0 {
            assert_eq!(claim.lease.epoch, last + 1);
        }
        last = claim.lease.epoch;
        t.settle(claim.lease, released()).await;
    }
}

async fn more_tells_whether_asking_again_helps(t: &mut Scene) {
    t.put_many(3).await;
    assert!(t.claim_as(t.asking(2)).await.more);
    assert!(!t.claim_as(t.asking(2)).await.more);
    assert!(!t.claim_as(t.asking(2)).await.more);
    t.put_many(2).await;
    assert!(!t.claim_as(t.asking(2)).await.more, "the line is empty after the call");
}

async fn look_again_tells_when_the_next_job_comes_due(t: &mut Scene) {
    t.put([t.spec().delay(MINUTE), t.spec().delay(HOUR), t.spec()]).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.more), (1, false));
    assert_eq!(answer.look_again, Some(MINUTE));
    t.advance(SECOND);
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MINUTE - SECOND));
    t.advance(MINUTE);
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!(answer.claims.len(), 1);
    assert_eq!(answer.look_again, Some(HOUR - MINUTE - SECOND));
    t.advance(HOUR);
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, None);
}

async fn settlements_are_applied_before_the_claim(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let first = t.claim_one().await;
    let answer = t.exchange(None, vec![settlement(first.lease, released())], Some(t.asking(10))).await;
    assert_eq!(answer.settled, [settled(JobState::Waiting)]);
    let again = answer.claimed.expect("an answer to the claim");
    assert_eq!(ids(&again.claims), [id]);
    assert!(again.claims[0].lease.epoch > first.lease.epoch);
}

async fn an_exchange_without_a_claim_answers_none(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    let answer = t.exchange(None, vec![settlement(claim.lease, completed())], None).await;
    assert_eq!(answer, ExchangeAnswer { settled: vec![settled(JobState::Completed)], claimed: None });
}

async fn a_job_enqueued_meanwhile_is_claimed_next(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(1).await;
    let urgent = t.put_one(t.spec().priority(0)).await;
    let note = Note { progress: Some(Progress { done: 1, total: 2, note: None }), ..Note::default() };
    assert_eq!(t.annotate(claims[0].lease, note).await, NoteAnswer::Noted);
    assert_eq!(ids(&t.claim(1).await), [urgent]);
}
