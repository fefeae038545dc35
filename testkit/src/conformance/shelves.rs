//! Jobs of kinds that no worker has a handler for: set aside once, without using anything up, and taken back in their
//! old place as soon as a worker asks for their kind.

use super::prelude::*;

topic! {
    ($) shelves, __conformance_shelves:
    a_job_of_an_unknown_kind_is_set_aside_and_uses_up_nothing,
    a_worker_that_knows_the_kind_gets_the_job,
    a_shelved_job_keeps_its_place,
    setting_aside_uses_up_the_look,
    a_shelved_job_is_not_looked_at_again,
    shelves_are_counted_by_kind,
    shelves_give_back_no_more_than_max_items,
    a_shelf_gives_back_by_priority_then_seq,
    shelves_are_emptied_in_the_order_of_the_kinds_asked_for,
    a_solo_job_of_an_unknown_kind_comes_back_to_the_solo_line,
    a_worker_without_kinds_gets_nothing,
}

async fn a_job_of_an_unknown_kind_is_set_aside_and_uses_up_nothing(t: &mut Scene) {
    let id = t.put_one(t.spec().of_kind("unknown")).await;
    let before = t.record(id).await;
    let seen = t.last_event().await;
    t.advance(SECOND);
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims, answer.more), (vec![], false));
    let mut expected = before;
    expected.slot = Slot::Shelf;
    assert_eq!(t.record(id).await, expected);
    assert_eq!(t.happened_after(seen).await, [(EventKind::Shelved, Some(id))]);
}

async fn a_worker_that_knows_the_kind_gets_the_job(t: &mut Scene) {
    let id = t.put_one(t.spec().of_kind("rare")).await;
    t.claim(10).await;
    let seen = t.last_event().await;
    let answer = t.claim_as(t.asking_for(&["rare"], 10)).await;
    assert_eq!(ids(&answer.claims), [id]);
    assert_eq!((answer.claims[0].run, answer.claims[0].attempts), (1, 0));
    assert_eq!(t.happened_after(seen).await, [(EventKind::Started, Some(id))], "coming off a shelf is no event");
    assert_eq!(t.record(id).await.slot, Slot::Lane);
    assert_eq!(t.counts().await.shelved, []);
}

async fn a_shelved_job_keeps_its_place(t: &mut Scene) {
    let put = t.put([t.spec(), t.spec().of_kind("rare"), t.spec(), t.spec().of_kind("rare").priority(1)]).await;
    let claims = t.claim(10).await;
    assert_eq!(ids(&claims), [put[0], put[2]]);
    let give_back = claims.iter().map(|claim| settlement(claim.lease, released())).collect();
    t.settle_all(give_back).await;
    let answer = t.claim_as(t.asking_for(&[KIND, "rare"], 10)).await;
    assert_eq!(ids(&answer.claims), [put[3], put[0], put[1], put[2]]);
}

async fn setting_aside_uses_up_the_look(t: &mut Scene) {
    let put = t.put([t.spec().of_kind("x"), t.spec().of_kind("x"), t.spec()]).await;
    let answer = t.claim_as(t.asking(2)).await;
    assert_eq!((answer.claims, answer.more), (vec![], true), "the line is not empty, so asking again helps");
    assert_eq!(ids(&t.claim(2).await), put[2..]);
}

async fn a_shelved_job_is_not_looked_at_again(t: &mut Scene) {
    t.put_one(t.spec().of_kind("unknown")).await;
    t.claim(10).await;
    let seen = t.last_event().await;
    let id = t.put_one(t.spec()).await;
    assert_eq!(ids(&t.claim(1).await), [id], "the shelved job stands in nobody's way");
    assert!(!t.happened_after(seen).await.iter().any(|(kind, _)| *kind == EventKind::Shelved), "it is shelved once");
}

async fn shelves_are_counted_by_kind(t: &mut Scene) {
    t.put(["a", "b", "a", KIND].map(|kind| t.spec().of_kind(kind))).await;
    assert_eq!(t.claim(10).await.len(), 1);
    let counts = t.counts().await;
    let mut shelved: Vec<_> = counts.shelved.iter().map(|(kind, count)| (kind.to_string(), *count)).collect();
    shelved.sort();
    assert_eq!(shelved, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(counts.waiting, 3, "shelved jobs are waiting");
}

async fn shelves_give_back_no_more_than_max_items(t: &mut Scene) {
    let put = t.put((0..5).map(|_| t.spec().of_kind("rare"))).await;
    t.claim(10).await;
    assert_eq!(t.counts().await.shelved.len(), 1);
    let answer = t.claim_as(t.asking_for(&["rare"], 2)).await;
    assert_eq!((ids(&answer.claims), answer.more), (put[..2].to_vec(), true));
    let counts = t.counts().await;
    assert_eq!((counts.waiting, counts.shelved[0].1), (3, 3));
    assert_eq!(ids(&t.claim_as(t.asking_for(&["rare"], 10)).await.claims), put[2..]);
}

async fn a_shelf_gives_back_by_priority_then_seq(t: &mut Scene) {
    let put = t.put([5, 1, 5, 0].map(|priority| t.spec().of_kind("rare").priority(priority))).await;
    t.claim(10).await;
    let answer = t.claim_as(t.asking_for(&["rare"], 2)).await;
    assert_eq!(ids(&answer.claims), [put[3], put[1]]);
}

async fn shelves_are_emptied_in_the_order_of_the_kinds_asked_for(t: &mut Scene) {
    let put = t.put(["a", "b", "c"].map(|kind| t.spec().of_kind(kind))).await;
    t.claim(10).await;
    let answer = t.claim_as(t.asking_for(&["c", "b"], 1)).await;
    assert_eq!((ids(&answer.claims), answer.more), (vec![put[2]], true));
    let answer = t.claim_as(t.asking_for(&["c", "b"], 1)).await;
    assert_eq!((ids(&answer.claims), answer.more), (vec![put[1]], false), "nobody asked for the third kind");
}

async fn a_solo_job_of_an_unknown_kind_comes_back_to_the_solo_line(t: &mut Scene) {
    let id = t.put_one(t.spec().of_kind("rare").crashes(1)).await;
    assert!(t.claim_as(ClaimSpec { alone: false, ..t.asking(10) }).await.solo_waiting);
    assert_eq!(t.claim(10).await, []);
    assert_eq!(t.record(id).await.slot, Slot::Shelf);
    let answer = t.claim_as(ClaimSpec { alone: false, ..t.asking_for(&["rare"], 10) }).await;
    assert_eq!((answer.claims, answer.solo_waiting), (vec![], true));
    assert_eq!(t.record(id).await.slot, Slot::Solo);
    assert_eq!(ids(&t.claim_as(t.asking_for(&["rare"], 10)).await.claims), [id]);
}

async fn a_worker_without_kinds_gets_nothing(t: &mut Scene) {
    t.put_many(2).await;
    assert_eq!(t.claim_as(t.asking_for(&[], 10)).await.claims, []);
    assert_eq!(t.counts().await.shelved.len(), 1);
}
