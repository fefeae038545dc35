//! Fencing: only the current lease writes. Whatever a stale one tries changes nothing and is told so.

use ferroq_core::job::Progress;

use super::prelude::*;

topic! {
    ($) lease, __conformance_lease:
    a_stale_lease_cannot_settle,
    a_stale_lease_cannot_renew,
    a_stale_lease_cannot_annotate,
    a_lease_is_stale_once_a_sweep_took_it,
    a_lease_whose_time_is_over_stays_good_until_a_sweep,
    an_epoch_that_was_never_given_is_refused,
    a_lease_settled_before_is_already_done,
    a_settled_lease_can_neither_renew_nor_annotate,
    a_lease_settles_once_within_one_call,
    a_job_that_is_gone_says_so,
    each_settlement_gets_its_own_answer,
    a_lease_is_good_in_its_own_queue_only,
}

/// A job whose first lease was lost and whose second is current: (stale, current).
async fn outlived(t: &Scene) -> (Lease, Lease) {
    t.put_one(t.spec()).await;
    let stale = t.claim_one().await.lease;
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    let current = t.claim_one().await.lease;
    assert_eq!(stale.id, current.id);
    assert!(stale.epoch < current.epoch);
    (stale, current)
}

async fn a_stale_lease_cannot_settle(t: &mut Scene) {
    let (stale, current) = outlived(t).await;
    let before = t.record(stale.id).await;
    let seen = t.last_event().await;
    for outcome in [completed(), fail(SECOND), abort(), snoozed(SECOND), released(), Outcome::Cancelled] {
        let answer = t.settle_with(stale, outcome.clone(), [t.spec()]).await;
        assert_eq!(answer, SettleAnswer::LeaseLost, "{outcome:?}");
    }
    assert_eq!(t.record(stale.id).await, before);
    assert_eq!(t.counts().await.waiting, 0, "no follow-up of a refused settlement is inserted");
    assert_eq!(t.happened_after(seen).await, []);
    assert_eq!(t.settle(current, completed()).await, settled(JobState::Completed));
    assert_eq!(t.settle(stale, fail(SECOND)).await, SettleAnswer::LeaseLost, "also after the current one");
}

async fn a_stale_lease_cannot_renew(t: &mut Scene) {
    let (stale, current) = outlived(t).await;
    t.advance(SECOND);
    let before = t.record(stale.id).await;
    assert_eq!(t.renew(stale).await, RenewAnswer::LeaseLost);
    assert_eq!(t.record(stale.id).await, before);
    assert_eq!(t.renew(current).await, RenewAnswer::Renewed { cancel_requested: false });
}

async fn a_stale_lease_cannot_annotate(t: &mut Scene) {
    let (stale, _) = outlived(t).await;
    let before = t.record(stale.id).await;
    let seen = t.last_event().await;
    let progress = Some(Progress { done: 1, total: 1, note: None });
    let notes = [
        Note { progress, ..Note::default() },
        Note { log: vec!["a line".to_owned()], ..Note::default() },
        Note { checkpoint: Some(Scene::bytes(b"x")), ..Note::default() },
    ];
    for note in notes {
        assert_eq!(t.annotate(stale, note.clone()).await, NoteAnswer::LeaseLost, "{note:?}");
    }
    assert_eq!(t.record(stale.id).await, before);
    assert_eq!(t.happened_after(seen).await, []);
}

async fn a_lease_is_stale_once_a_sweep_took_it(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    assert!(t.record(lease.id).await.epoch > lease.epoch, "losing a lease raises the epoch");
    assert_eq!(t.settle(lease, completed()).await, SettleAnswer::LeaseLost);
    assert_eq!(t.renew(lease).await, RenewAnswer::LeaseLost);
    assert_eq!(t.annotate(lease, Note::default()).await, NoteAnswer::LeaseLost);
    assert_eq!(t.state(lease.id).await, JobState::Waiting);
}

async fn a_lease_whose_time_is_over_stays_good_until_a_sweep(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    t.attend_for(3 * TERM).await;
    assert_eq!(t.claim(10).await, [], "a claim takes no leases");
    assert_eq!(t.settle(claims[0].lease, completed()).await, settled(JobState::Completed));
    assert_eq!(t.renew(claims[1].lease).await, RenewAnswer::Renewed { cancel_requested: false });
    assert_eq!(t.sweep(10).await.stalled, 0, "renewed in time");
}

async fn an_epoch_that_was_never_given_is_refused(t: &mut Scene) {
    t.put_many(2).await;
    let claim = t.claim_one().await;
    let ahead = Lease { epoch: claim.lease.epoch + 1, ..claim.lease };
    assert_eq!(t.settle(ahead, completed()).await, SettleAnswer::LeaseLost);
    assert_eq!(t.renew(ahead).await, RenewAnswer::LeaseLost);
    assert_eq!(t.annotate(ahead, Note::default()).await, NoteAnswer::LeaseLost);
    let waiting = t.list(JobFilter::states([JobState::Waiting]), 10).await[0].id();
    assert_eq!(t.settle(Lease { id: waiting, epoch: 1 }, completed()).await, SettleAnswer::LeaseLost);
    assert_eq!(t.state(waiting).await, JobState::Waiting);
}

async fn a_lease_settled_before_is_already_done(t: &mut Scene) {
    for outcome in [completed(), fail(HOUR), abort(), snoozed(HOUR), Outcome::Cancelled, released()] {
        t.put_one(t.spec()).await;
        let lease = t.claim_one().await.lease;
        t.settle(lease, outcome.clone()).await;
        let before = t.record(lease.id).await;
        let seen = t.last_event().await;
        for repeat in [outcome.clone(), completed(), abort()] {
            let answer = t.settle_with(lease, repeat, [t.spec()]).await;
            assert_eq!(answer, SettleAnswer::AlreadyDone, "{outcome:?}");
        }
        assert_eq!(t.record(lease.id).await, before, "{outcome:?}");
        assert_eq!(t.happened_after(seen).await, []);
    }
}

async fn a_settled_lease_can_neither_renew_nor_annotate(t: &mut Scene) {
    for outcome in [completed(), fail(HOUR), released()] {
        t.put_one(t.spec()).await;
        let lease = t.claim_one().await.lease;
        t.settle(lease, outcome).await;
        let before = t.record(lease.id).await;
        assert_eq!(t.renew(lease).await, RenewAnswer::LeaseLost);
        let note = Note { log: vec!["late".to_owned()], ..Note::default() };
        assert_eq!(t.annotate(lease, note).await, NoteAnswer::LeaseLost);
        assert_eq!(t.record(lease.id).await, before);
    }
}

async fn a_lease_settles_once_within_one_call(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    let answers = t.settle_all(vec![settlement(lease, fail(HOUR)), settlement(lease, completed())]).await;
    assert_eq!(answers, [settled(JobState::Delayed), SettleAnswer::AlreadyDone]);
    assert_eq!(t.state(lease.id).await, JobState::Delayed);
}

async fn a_job_that_is_gone_says_so(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    t.settle(lease, released()).await;
    assert_eq!(t.act(id, Act::Remove).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(t.settle_with(lease, completed(), [t.spec()]).await, SettleAnswer::Gone);
    assert_eq!(t.renew(lease).await, RenewAnswer::Gone);
    assert_eq!(t.annotate(lease, Note::default()).await, NoteAnswer::Gone);
    assert_eq!(t.counts().await.live(), 0);
}

async fn each_settlement_gets_its_own_answer(t: &mut Scene) {
    t.put_many(4).await;
    let claims = t.claim(4).await;
    t.settle(claims[1].lease, completed()).await;
    let stale = Lease { epoch: claims[2].lease.epoch - 1, ..claims[2].lease };
    let nobody = Lease { id: JobId::new(), epoch: 1 };
    let answers = t
        .settle_all(vec![
            settlement(claims[0].lease, completed()),
            settlement(claims[1].lease, completed()),
            settlement(stale, completed()),
            settlement(nobody, completed()),
            settlement(claims[3].lease, abort()),
        ])
        .await;
    let expected = [
        settled(JobState::Completed),
        SettleAnswer::AlreadyDone,
        SettleAnswer::LeaseLost,
        SettleAnswer::Gone,
        settled(JobState::Failed),
    ];
    assert_eq!(answers, expected);
    assert_eq!(t.state(claims[2].lease.id).await, JobState::Active);
}

async fn a_lease_is_good_in_its_own_queue_only(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    let other = queue_name("another");
    t.put_one(spec(&other)).await;
    let answers = t.storage().settle(None, &other, vec![settlement(lease, completed())]).await.expect("settle");
    assert_eq!(answers, [SettleAnswer::Gone]);
    assert_eq!(t.state(lease.id).await, JobState::Active);
}
