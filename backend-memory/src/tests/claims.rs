//! Claim: what is handed out, in which order, and what a claim does on its way.

use ferroq_core::job::{FailReason, JobState, Slot, Start};
use ferroq_core::storage::{ErrorCode, PROMOTE_ITEMS_MAX};

use super::*;

#[tokio::test]
async fn a_claim_leases_the_job_and_raises_its_epoch_to_storage_time() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    let now = b.store.now(&b.q).await.unwrap();
    let first = b.take().await;
    let record = b.record(id).await;
    assert_eq!((record.state, record.epoch, record.runs), (JobState::Active, now.as_micros(), 1));
    assert_eq!((record.lease_until, record.lease_term), (Some(now.after(TERM)), Some(TERM)));
    b.settle(first.lease, Outcome::Release).await;
    let second = b.take().await;
    assert_eq!((second.lease.epoch, second.run), (first.lease.epoch + 1, 2));
}

#[tokio::test]
async fn a_job_of_an_unknown_kind_goes_to_its_shelf_and_comes_back_in_its_old_place() {
    let b = Bench::new();
    let known = b.add(b.spec()).await;
    let unknown = b.add(JobSpec { kind: kind("u"), ..b.spec() }).await;
    let last = b.add(b.spec()).await;
    let answer = b.ask(asking(&["k"], 2)).await;
    assert_eq!((ids(&answer.claims), answer.more), (vec![known], true));
    assert_eq!(b.record(unknown).await.slot, Slot::Shelf);
    assert_eq!(b.store.counts(&b.q).await.unwrap().shelved, [(kind("u"), 1)]);
    assert_eq!(ids(&b.ask(asking(&["u", "k"], 9)).await.claims), [unknown, last]);
    assert_eq!(b.record(unknown).await.slot, Slot::Lane);
}

#[tokio::test]
async fn no_more_than_max_items_come_off_the_shelves_and_the_rest_is_more() {
    let b = Bench::new();
    for _ in 0..3 {
        b.add(JobSpec { kind: kind("u"), ..b.spec() }).await;
    }
    b.claim(9).await;
    let answer = b.ask(asking(&["u"], 2)).await;
    assert_eq!((answer.claims.len(), answer.more), (2, true));
    assert!(!b.ask(asking(&["k"], 2)).await.more, "nobody asked for that shelf");
}

#[tokio::test]
async fn the_first_job_comes_whatever_its_size_and_the_others_while_bytes_last() {
    let b = Bench::new();
    for size in [10, 4, 4, 1] {
        b.add(JobSpec { payload: Payload::json(vec![b'1'; size]), ..b.spec() }).await;
    }
    let bytes = |max_bytes| ClaimSpec { max_bytes, ..asking(&["k"], 9) };
    assert_eq!(b.ask(bytes(5)).await.claims.len(), 1);
    let answer = b.ask(bytes(8)).await;
    assert_eq!((answer.claims.len(), answer.more), (2, true));
}

#[tokio::test]
async fn a_solo_job_is_handed_only_to_a_worker_that_is_alone_and_by_itself() {
    let b = Bench::new();
    let plain = b.add(b.spec()).await;
    let solo = b.add(b.spec_with(|options| options.max_crashes = 1)).await;
    let answer = b.ask(asking(&["k"], 9)).await;
    assert_eq!((ids(&answer.claims), answer.solo_waiting), (vec![plain], true));
    b.settle(answer.claims[0].lease, Outcome::Release).await;
    let answer = b.ask(ClaimSpec { alone: true, ..asking(&["k"], 9) }).await;
    assert_eq!((ids(&answer.claims), answer.solo_waiting, answer.more), (vec![solo], false, true));
    assert!(answer.claims[0].solo);
}

#[tokio::test]
async fn a_solo_line_of_unusable_jobs_does_not_stop_the_line() {
    let b = Bench::new();
    b.add(JobSpec { kind: kind("u"), ..b.spec_with(|options| options.max_crashes = 1) }).await;
    let plain = b.add(b.spec()).await;
    let answer = b.ask(ClaimSpec { alone: true, ..asking(&["k"], 9) }).await;
    assert_eq!((ids(&answer.claims), answer.claims[0].solo), (vec![plain], false));
    let answer = b.ask(asking(&["u"], 9)).await;
    assert_eq!((answer.claims.len(), answer.solo_waiting), (0, true), "off the shelf it stands in the solo line again");
}

#[tokio::test]
async fn an_expired_job_is_failed_and_not_started() {
    let b = Bench::new();
    let id = b.add(b.spec_with(|options| options.expires_in = Some(SECOND))).await;
    let on_time = b.add(b.spec_with(|options| options.expires_in = Some(SECOND * 2))).await;
    b.clock.advance(SECOND * 2);
    assert_eq!(ids(&b.claim(9).await), [on_time]);
    let record = b.record(id).await;
    assert_eq!((record.failure, record.runs), (Some(FailReason::Expired), 0));
    assert_eq!((record.notes.errors[0].kind, record.notes.errors[0].run), (ErrorKind::Expired, 0));
}

#[tokio::test]
async fn a_paused_queue_hands_out_nothing_and_does_nothing() {
    let b = Bench::new();
    b.add(JobSpec { start: Start::After(SECOND), ..b.spec() }).await;
    assert!(b.store.set_paused(&b.q, true).await.unwrap());
    b.clock.advance(HOUR);
    assert_eq!(b.ask(asking(&["k"], 9)).await, ClaimAnswer::default());
    assert!(b.store.set_paused(&b.q, false).await.unwrap());
    assert_eq!(b.claim(9).await.len(), 1);
}

#[tokio::test]
async fn one_claim_promotes_a_bounded_number_of_due_jobs() {
    let b = Bench::new();
    let specs = (0..=PROMOTE_ITEMS_MAX).map(|_| JobSpec { start: Start::After(SECOND), ..b.spec() });
    b.enqueue_all(specs.collect()).await;
    b.clock.advance(SECOND);
    let answer = b.ask(asking(&["k"], 1)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (1, Some(Duration::ZERO)));
    let counts = b.store.counts(&b.q).await.unwrap();
    assert_eq!((counts.waiting, counts.delayed), (PROMOTE_ITEMS_MAX as u64 - 1, 1));
}

#[tokio::test]
async fn a_claim_of_nothing_is_refused() {
    let b = Bench::new();
    let error = b.store.claim(None, &b.q, asking(&["k"], 0)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Invalid);
}
