//! Keeping leases: for the full term from now on, each with an answer of its own, and with word of a request to cancel.

use super::prelude::*;

topic! {
    ($) renew, __conformance_renew:
    a_renewed_lease_holds_for_the_term_from_now_on,
    a_renewed_lease_outlives_its_first_term,
    a_renewal_may_name_another_term,
    a_renewal_may_shorten_the_lease,
    a_renewal_tells_of_a_request_to_cancel,
    each_lease_gets_its_own_answer,
    a_renewal_changes_nothing_else,
    a_renewal_of_nothing_answers_nothing,
}

async fn a_renewed_lease_holds_for_the_term_from_now_on(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    t.advance(10 * SECOND);
    assert_eq!(t.renew(lease).await, RenewAnswer::Renewed { cancel_requested: false });
    assert_eq!(t.record(lease.id).await.lease_until, Some(t.clock().after(TERM)));
}

async fn a_renewed_lease_outlives_its_first_term(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    for _ in 0..5 {
        t.attend_for(TERM / 2).await;
        assert_eq!(t.renew(claims[0].lease).await, RenewAnswer::Renewed { cancel_requested: false });
        t.sweep(10).await;
    }
    assert_eq!(t.state(claims[0].lease.id).await, JobState::Active);
    assert_eq!(t.state(claims[1].lease.id).await, JobState::Waiting, "the one that was not renewed is lost");
    assert_eq!(t.settle(claims[0].lease, completed()).await, settled(JobState::Completed));
}

async fn renew_for(t: &Scene, lease: Lease, term: Duration) -> RenewAnswer {
    let request = RenewRequest { queue: t.queue.clone(), leases: vec![lease], term };
    t.storage().renew(request).await.expect("renew")[0]
}

async fn a_renewal_may_name_another_term(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    assert_eq!(renew_for(t, lease, HOUR).await, RenewAnswer::Renewed { cancel_requested: false });
    let record = t.record(lease.id).await;
    assert_eq!((record.lease_until, record.lease_term), (Some(t.clock().after(HOUR)), Some(HOUR)));
}

async fn a_renewal_may_shorten_the_lease(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    renew_for(t, lease, SECOND).await;
    t.advance(SECOND / 2);
    t.attend().await;
    t.advance(SECOND / 2);
    assert_eq!(t.sweep(10).await.stalled, 1);
}

async fn a_renewal_tells_of_a_request_to_cancel(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    assert_eq!(t.act(lease.id, Act::Cancel).await, ActAnswer::Requested);
    for _ in 0..2 {
        assert_eq!(t.renew(lease).await, RenewAnswer::Renewed { cancel_requested: true });
    }
}

async fn each_lease_gets_its_own_answer(t: &mut Scene) {
    t.put_many(3).await;
    let claims = t.claim(3).await;
    t.settle(claims[1].lease, completed()).await;
    t.act(claims[2].lease.id, Act::Cancel).await;
    let nobody = Lease { id: JobId::new(), epoch: 1 };
    let stale = Lease { epoch: claims[0].lease.epoch - 1, ..claims[0].lease };
    let leases = vec![claims[2].lease, nobody, claims[1].lease, stale, claims[0].lease];
    let request = RenewRequest { queue: t.queue.clone(), leases, term: TERM };
    let answers = t.storage().renew(request).await.expect("renew");
    let expected = [
        RenewAnswer::Renewed { cancel_requested: true },
        RenewAnswer::Gone,
        RenewAnswer::LeaseLost,
        RenewAnswer::LeaseLost,
        RenewAnswer::Renewed { cancel_requested: false },
    ];
    assert_eq!(answers, expected);
}

async fn a_renewal_changes_nothing_else(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    let mut expected = t.record(lease.id).await;
    let seen = t.last_event().await;
    t.advance(SECOND);
    t.renew(lease).await;
    expected.lease_until = Some(t.clock().after(TERM));
    assert_eq!(t.record(lease.id).await, expected);
    assert_eq!(t.happened_after(seen).await, [], "a renewal is no event");
}

async fn a_renewal_of_nothing_answers_nothing(t: &mut Scene) {
    let request = RenewRequest { queue: t.queue.clone(), leases: vec![], term: TERM };
    assert_eq!(t.storage().renew(request).await.expect("renew"), []);
    assert_eq!(t.storage().queues().await.expect("queues"), []);
}
