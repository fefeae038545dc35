//! Calls whose answer was lost and that are made again: the same answer, and nothing happens twice.

use uuid::Uuid;

use super::prelude::*;

topic! {
    ($) repeat, __conformance_repeat:
    an_enqueue_repeated_gives_the_same_answer,
    an_enqueue_repeated_after_the_job_is_gone_inserts_nothing,
    an_exchange_repeated_gives_the_same_answer,
    a_claim_repeated_hands_over_only_what_is_still_current,
    a_claim_repeated_after_a_lost_lease_hands_over_nothing,
    an_act_repeated_gives_the_same_report,
    an_act_by_filter_repeated_gives_the_same_report,
    a_repeat_does_not_notice_the_time,
    a_call_of_another_number_is_another_call,
    a_call_of_another_session_is_another_call,
    an_answer_lasts_until_it_is_acknowledged,
    every_unnumbered_call_can_be_made_twice,
}

async fn enqueue_as(t: &Scene, call: CallId, jobs: &[JobSpec]) -> Vec<EnqueueAnswer> {
    let jobs = jobs.iter().cloned().map(Arc::new).collect();
    t.storage().enqueue(EnqueueRequest { call: Some(call), queue: t.queue.clone(), jobs }).await.expect("enqueue")
}

async fn an_enqueue_repeated_gives_the_same_answer(t: &mut Scene) {
    let call = t.call();
    let jobs = [t.spec(), t.spec().dedup("k", DedupMode::UntilFinished), t.spec().dedup("k", DedupMode::UntilFinished)];
    let first = enqueue_as(t, call, &jobs).await;
    assert_eq!(first, [EnqueueAnswer::Inserted, EnqueueAnswer::Inserted, EnqueueAnswer::Duplicate(jobs[1].id)]);
    let before = t.dump().await;
    let seen = t.last_event().await;
    t.advance(SECOND);
    assert_eq!(enqueue_as(t, call, &jobs).await, first);
    assert_eq!(t.dump().await, before);
    assert_eq!(t.happened_after(seen).await, []);
}

async fn an_enqueue_repeated_after_the_job_is_gone_inserts_nothing(t: &mut Scene) {
    let call = t.call();
    let job = [t.spec()];
    enqueue_as(t, call, &job).await;
    t.act(job[0].id, Act::Remove).await;
    assert_eq!(enqueue_as(t, call, &job).await, [EnqueueAnswer::Inserted], "as it was answered then");
    assert_eq!(t.find(job[0].id).await, None);
}

async fn an_exchange_repeated_gives_the_same_answer(t: &mut Scene) {
    t.put_many(5).await;
    let claim = t.claim_one().await;
    let call = t.call();
    let follow_ups = vec![Arc::new(t.spec()), Arc::new(spec(&queue_name("another")))];
    let settlements = vec![Settlement { lease: claim.lease, outcome: completed(), follow_ups }];
    let first = t.exchange(Some(call), settlements.clone(), Some(t.asking(2))).await;
    let before = t.dump().await;
    let seen = t.last_event().await;
    for _ in 0..2 {
        assert_eq!(t.exchange(Some(call), settlements.clone(), Some(t.asking(2))).await, first);
    }
    assert_eq!(t.dump().await, before);
    assert_eq!(t.happened_after(seen).await, []);
    assert_eq!(t.storage().counts(&queue_name("another")).await.expect("counts").waiting, 1);
}

async fn a_claim_repeated_hands_over_only_what_is_still_current(t: &mut Scene) {
    let put = t.put_many(4).await;
    let call = t.call();
    let first = t.exchange(Some(call), vec![], Some(t.asking(3))).await.claimed.expect("an answer").claims;
    assert_eq!(ids(&first), put[..3]);
    t.settle(first[1].lease, completed()).await;
    let again = t.exchange(Some(call), vec![], Some(t.asking(3))).await.claimed.expect("an answer").claims;
    assert_eq!(again, [first[0].clone(), first[2].clone()]);
    assert_eq!(t.state(put[3]).await, JobState::Waiting, "nothing else is claimed in its stead");
}

async fn a_claim_repeated_after_a_lost_lease_hands_over_nothing(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let call = t.call();
    let first = t.exchange(Some(call), vec![], Some(t.asking(1))).await.claimed.expect("an answer").claims;
    t.let_leases_expire().await;
    let again = t.exchange(Some(call), vec![], Some(t.asking(1))).await.claimed.expect("an answer").claims;
    assert_eq!(again, []);
    let other = t.claim_one().await;
    let again = t.exchange(Some(call), vec![], Some(t.asking(1))).await.claimed.expect("an answer").claims;
    assert_eq!(again, [], "another claim's lease is not this one's");
    assert!(other.lease.epoch > first[0].lease.epoch);
}

async fn act_as(t: &Scene, call: CallId, on: &Selection, act: Act) -> ActReport {
    let request = ActRequest { call: Some(call), queue: t.queue.clone(), on: on.clone(), act };
    t.storage().act(request).await.expect("act")
}

async fn an_act_repeated_gives_the_same_report(t: &mut Scene) {
    let put = t.put_many(2).await;
    let call = t.call();
    let on = Selection::Ids(vec![put[0], JobId::new(), put[0]]);
    let first = act_as(t, call, &on, Act::Remove).await;
    assert_eq!(first.answers[0].1, ActAnswer::Done(JobState::Waiting));
    assert_eq!(act_as(t, call, &on, Act::Remove).await, first);
    let call = t.call();
    let on = Selection::Ids(vec![put[1]]);
    let first = act_as(t, call, &on, Act::Cancel).await;
    t.act(put[1], Act::Retry { reset: false }).await;
    assert_eq!(act_as(t, call, &on, Act::Cancel).await, first);
    assert_eq!(t.state(put[1]).await, JobState::Waiting, "and does not cancel what was put back since");
}

async fn an_act_by_filter_repeated_gives_the_same_report(t: &mut Scene) {
    t.put_many(5).await;
    let call = t.call();
    let on = Selection::Filter { filter: JobFilter::default(), after: None, max_items: 2 };
    let first = act_as(t, call, &on, Act::Remove).await;
    assert_eq!((first.answers.len(), first.next.is_some()), (2, true));
    assert_eq!(act_as(t, call, &on, Act::Remove).await, first);
    assert_eq!(t.counts().await.waiting, 3);
}

async fn a_repeat_does_not_notice_the_time(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let call = t.call();
    t.exchange(Some(call), vec![], Some(t.asking(1))).await;
    let before = t.dump().await;
    let seen = t.last_event().await;
    t.fixture.clock.step_back(HOUR);
    t.exchange(Some(call), vec![], Some(t.asking(1))).await;
    t.advance(2 * HOUR);
    t.exchange(Some(call), vec![], Some(t.asking(1))).await;
    assert_eq!(t.dump().await, before);
    assert_eq!(t.happened_after(seen).await, []);
}

async fn a_call_of_another_number_is_another_call(t: &mut Scene) {
    let put = t.put_many(2).await;
    let (one, two) = (t.call(), t.call());
    let first = t.exchange(Some(one), vec![], Some(t.asking(1))).await.claimed.expect("an answer");
    let second = t.exchange(Some(two), vec![], Some(t.asking(1))).await.claimed.expect("an answer");
    assert_eq!((ids(&first.claims), ids(&second.claims)), (vec![put[0]], vec![put[1]]));
}

async fn a_call_of_another_session_is_another_call(t: &mut Scene) {
    let put = t.put_many(2).await;
    let one = t.call();
    let two = CallId { session: Uuid::now_v7(), ..one };
    let first = t.exchange(Some(one), vec![], Some(t.asking(1))).await.claimed.expect("an answer");
    let second = t.exchange(Some(two), vec![], Some(t.asking(1))).await.claimed.expect("an answer");
    assert_eq!((ids(&first.claims), ids(&second.claims)), (vec![put[0]], vec![put[1]]));
}

async fn an_answer_lasts_until_it_is_acknowledged(t: &mut Scene) {
    let put = t.put_many(20).await;
    let first = t.call();
    let claimed = t.exchange(Some(first), vec![], Some(t.asking(1))).await;
    // Later calls of the session that do not acknowledge it leave it as it is.
    for _ in 0..10 {
        let call = CallId { acknowledged_below: first.number, ..t.call() };
        t.exchange(Some(call), vec![], Some(t.asking(1))).await;
    }
    let again = t.exchange(Some(first), vec![], Some(t.asking(1))).await;
    assert_eq!(again.claimed.map(|c| c.claims), claimed.claimed.map(|c| c.claims));
    assert_eq!(t.state(put[11]).await, JobState::Waiting);
    // Once acknowledged nobody repeats it, and the session goes on.
    let call = t.call();
    let call = CallId { acknowledged_below: call.number, ..call };
    let next = t.exchange(Some(call), vec![], Some(t.asking(1))).await.claimed.expect("an answer");
    assert_eq!(ids(&next.claims), [put[11]]);
    assert_eq!(t.exchange(Some(call), vec![], Some(t.asking(1))).await.claimed, Some(next));
}

async fn every_unnumbered_call_can_be_made_twice(t: &mut Scene) {
    let job = t.spec();
    t.put_one(job.clone()).await;
    let lease = t.claim_one().await.lease;
    let note = Note { checkpoint: Some(Scene::bytes(b"x")), ..Note::default() };
    for asked in [false, true] {
        assert_eq!(t.renew(lease).await, RenewAnswer::Renewed { cancel_requested: asked });
        assert_eq!(t.annotate(lease, note.clone()).await, NoteAnswer::Noted);
        assert_eq!(t.act(job.id, Act::Cancel).await, ActAnswer::Requested);
        t.configure(|config| config.event_entries_kept = 400).await;
        t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    }
    assert_eq!(t.settle(lease, completed()).await, settled(JobState::Completed));
    let before = t.dump().await;
    assert_eq!(t.settle(lease, completed()).await, SettleAnswer::AlreadyDone);
    assert_eq!(t.enqueue([job.clone()]).await, [EnqueueAnswer::Duplicate(job.id)]);
    t.sweep(10).await;
    assert_eq!(t.dump().await, before);
}
