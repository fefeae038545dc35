//! How runs end: settlements, leases that run out, and what is kept of the records.

use ferroq_core::job::{FailReason, JobState, Slot};
use ferroq_core::policy::retention::{KeepFor, KeepRule};
use ferroq_core::storage::{Note, NoteAnswer, RenewAnswer, RenewRequest};

use super::*;

#[tokio::test]
async fn stale_lease_cannot_write() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    let old = b.take().await.lease;
    b.crash().await;
    let before = b.record(id).await;
    assert_eq!(b.settle(old, done()).await, SettleAnswer::LeaseLost, "while it waits");
    assert_eq!(b.record(id).await, before);
    let new = b.take().await.lease;
    assert!(new.epoch > before.epoch && before.epoch > old.epoch);
    assert_eq!(b.settle_with(old, done(), vec![b.spec()]).await, SettleAnswer::LeaseLost);
    let renew = RenewRequest { queue: b.q.clone(), leases: vec![old, new], term: TERM };
    let renewed = RenewAnswer::Renewed { cancel_requested: false };
    assert_eq!(b.store.renew(renew).await.unwrap(), [RenewAnswer::LeaseLost, renewed]);
    let note = Note { log: vec!["x".into()], ..Note::default() };
    let answers = b.store.annotate(&b.q, vec![(old, note.clone()), (new, note)]).await.unwrap();
    assert_eq!(answers, [NoteAnswer::LeaseLost, NoteAnswer::Noted]);
    assert_eq!(b.record(id).await.notes.log.len(), 1);
    assert_eq!(b.store.counts(&b.q).await.unwrap().live(), 1, "no follow-up came of a stale settlement");
}

#[tokio::test]
async fn a_settled_lease_answers_already_done_and_a_removed_job_gone() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    let lease = b.take().await.lease;
    let answer = b.settle_with(lease, done(), vec![b.spec()]).await;
    assert_eq!(answer, SettleAnswer::Settled { state: JobState::Completed, follow_ups: vec![EnqueueAnswer::Inserted] });
    assert_eq!(b.settle_with(lease, done(), vec![b.spec()]).await, SettleAnswer::AlreadyDone);
    assert_eq!(b.store.counts(&b.q).await.unwrap().waiting, 1);
    b.act(id, Act::Remove).await;
    assert_eq!(b.settle(lease, done()).await, SettleAnswer::Gone);
}

#[tokio::test]
async fn a_failed_run_is_noted_and_the_last_attempt_fails_the_job() {
    let b = Bench::new();
    let id = b.add(b.spec_with(|options| options.max_attempts = 2)).await;
    let lease = b.take().await.lease;
    b.settle(lease, failed(SECOND)).await;
    let record = b.record(id).await;
    assert_eq!((record.state, record.attempts, record.notes.errors.len()), (JobState::Delayed, 1, 1));
    assert_eq!((record.lease_until, record.lease_term), (None, None));
    assert!(record.worker.is_some() && record.started_at.is_some());
    b.clock.advance(SECOND);
    let lease = b.take().await.lease;
    b.settle(lease, failed(SECOND)).await;
    let record = b.record(id).await;
    assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::AttemptsExhausted)));
    assert_eq!(record.notes.errors.iter().map(|error| error.run).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn release_and_snooze_keep_the_seq_and_use_up_nothing() {
    let b = Bench::new();
    let first = b.add(b.spec()).await;
    b.add(b.spec()).await;
    let lease = b.take().await.lease;
    b.settle(lease, Outcome::Release).await;
    let again = b.take().await.lease;
    assert_eq!(again.id, first, "it kept its place in line");
    b.settle(again, Outcome::Snooze { delay: HOUR }).await;
    let record = b.record(first).await;
    assert_eq!((record.state, record.attempts, record.crashes), (JobState::Delayed, 0, 0));
    assert_eq!(b.log().await[2..], [EventKind::Started, EventKind::Released, EventKind::Started, EventKind::Snoozed]);
}

#[tokio::test]
async fn crashes_lead_to_the_solo_line_and_then_to_failure() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    b.take().await;
    b.crash().await;
    let record = b.record(id).await;
    assert_eq!((record.state, record.slot, record.crashes, record.attempts), (JobState::Waiting, Slot::Lane, 1, 0));
    b.take().await;
    b.crash().await;
    assert_eq!(b.record(id).await.slot, Slot::Solo);
    b.ask(ClaimSpec { alone: true, ..asking(&["k"], 1) }).await;
    b.crash().await;
    let record = b.record(id).await;
    assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::CrashesExhausted)));
    assert!(record.notes.errors.iter().all(|error| error.kind == ErrorKind::Crash));
    let log = b.log().await;
    assert_eq!(log[log.len() - 2..], [EventKind::Stalled, EventKind::Failed]);
}

#[tokio::test]
async fn a_follow_up_goes_to_another_queue_in_the_same_unit() {
    let b = Bench::new();
    b.add(b.spec()).await;
    let lease = b.take().await.lease;
    let (a, z) = (JobSpec { queue: q("a"), ..b.spec() }, JobSpec { queue: q("z"), ..b.spec() });
    let answer = b.settle_with(lease, done(), vec![z.clone(), a, z.clone(), b.spec()]).await;
    let follow_ups =
        vec![EnqueueAnswer::Inserted, EnqueueAnswer::Inserted, EnqueueAnswer::Duplicate(z.id), EnqueueAnswer::Inserted];
    assert_eq!(answer, SettleAnswer::Settled { state: JobState::Completed, follow_ups });
    assert_eq!(b.store.queues().await.unwrap(), [q("a"), q("q"), q("z")]);
    assert_eq!(b.store.last_event(&q("z")).await.unwrap(), EventCursor(1), "one entry per call");
}

#[tokio::test]
async fn a_follow_up_of_a_refused_settlement_makes_no_queue() {
    let b = Bench::new();
    b.add(b.spec()).await;
    let lease = b.take().await.lease;
    let stale = Lease { epoch: lease.epoch - 1, ..lease };
    b.settle_with(stale, done(), vec![JobSpec { queue: q("a"), ..b.spec() }]).await;
    assert_eq!(b.store.queues().await.unwrap(), [q("q")]);
}

async fn complete(b: &Bench, spec: JobSpec) -> JobId {
    let id = b.add(spec).await;
    let lease = b.take().await.lease;
    b.settle(lease, done()).await;
    id
}

#[tokio::test]
async fn a_record_that_is_not_kept_goes_with_the_end() {
    let b = Bench::new();
    let id = complete(&b, b.spec_with(|options| options.keep.completed = KeepFor::Remove)).await;
    assert_eq!(b.find(id).await, None);
    b.configure(|config| config.retention.completed = KeepRule::REMOVE).await;
    let kept = b.spec_with(|options| options.keep.completed = KeepFor::Age(SECOND));
    let kept = b.add(kept).await;
    let lease = b.take().await.lease;
    b.settle(lease, done()).await;
    assert_eq!(b.find(kept).await, None, "kept for an age, but the count is zero");
}

#[tokio::test]
async fn pruning_by_count_takes_at_most_twice_what_a_call_added() {
    let b = Bench::new();
    for _ in 0..10 {
        complete(&b, b.spec()).await;
    }
    b.configure(|config| config.retention.completed.count = 3).await;
    complete(&b, b.spec()).await;
    assert_eq!(b.store.counts(&b.q).await.unwrap().completed, 9);
    for _ in 0..10 {
        complete(&b, b.spec()).await;
    }
    assert_eq!(b.store.counts(&b.q).await.unwrap().completed, 3);
}

#[tokio::test]
async fn a_waited_on_record_outlives_its_end_by_a_minute() {
    let b = Bench::new();
    b.configure(|config| config.retention.completed = KeepRule::REMOVE).await;
    let id = b.add(b.spec()).await;
    let watch = b.store.watch(&b.q, id).await.unwrap();
    let lease = b.take().await.lease;
    b.settle(lease, done()).await;
    watch.ended().await;
    complete(&b, b.spec()).await;
    assert!(b.find(id).await.is_some());
    b.clock.advance(SECOND * 60);
    assert_eq!(b.sweep().await.pruned, 1);
    assert_eq!(b.find(id).await, None);
}

#[tokio::test]
async fn notes_are_clipped_and_carry_their_run() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    let lease = b.take().await.lease;
    let note = Note {
        log: (0..150).map(|line| format!("{line}{}", "x".repeat(2000))).collect(),
        checkpoint: Some(Payload::json("7")),
        progress: Some(Default::default()),
    };
    b.store.annotate(&b.q, vec![(lease, note)]).await.unwrap();
    let notes = b.record(id).await.notes;
    assert_eq!((notes.log.len(), notes.log[0].run, notes.log[0].text.len()), (100, 1, 1024));
    assert!(notes.log[0].text.starts_with("50x"));
    b.settle(lease, Outcome::Release).await;
    assert_eq!(b.take().await.checkpoint, Some(Payload::json("7")));
    assert!(b.log().await.contains(&EventKind::Progress));
}
