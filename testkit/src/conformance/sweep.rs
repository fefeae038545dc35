//! What time has made due, done by anyone who sweeps: lost leases, due jobs, old records; in that order, bounded.

use super::prelude::*;

topic! {
    ($) sweep, __conformance_sweep:
    a_sweep_of_nothing_does_nothing,
    leases_run_out_at_the_very_instant,
    leases_are_taken_by_their_end_then_seq,
    leases_come_before_due_jobs_before_old_records,
    a_sweep_is_bounded_over_all_it_does,
    ended_records_go_by_state_then_prune_time,
    next_tells_when_something_comes_due,
    next_is_zero_while_there_is_more,
    a_sweep_twice_finds_nothing_left,
    a_lost_lease_is_told_in_the_log,
    a_swept_queue_stays_a_queue,
    a_paused_queue_is_swept,
}

async fn a_sweep_of_nothing_does_nothing(t: &mut Scene) {
    assert_eq!(t.sweep(10).await, SweepAnswer::default());
    assert_eq!(t.storage().queues().await.expect("queues"), []);
    t.put_many(2).await;
    let seen = t.last_event().await;
    assert_eq!(t.sweep(10).await, SweepAnswer::default(), "waiting jobs need no time");
    assert_eq!(t.happened_after(seen).await, []);
}

async fn leases_run_out_at_the_very_instant(t: &mut Scene) {
    t.put_one(t.spec()).await;
    t.claim_one().await;
    t.attend_for(TERM - Duration::from_micros(1)).await;
    let answer = t.sweep(10).await;
    assert_eq!((answer.stalled, answer.next), (0, Some(Duration::from_micros(1))));
    t.advance(Duration::from_micros(1));
    assert_eq!(t.sweep(10).await.stalled, 1);
}

async fn leases_are_taken_by_their_end_then_seq(t: &mut Scene) {
    let put = t.put_many(3).await;
    let claims = t.claim(3).await;
    t.advance(SECOND);
    t.renew(claims[0].lease).await;
    t.attend_for(2 * TERM).await;
    for id in [put[1], put[2], put[0]] {
        let seen = t.last_event().await;
        let answer = t.sweep(1).await;
        assert_eq!((answer.stalled, answer.more), (1, id != put[0]));
        assert_eq!(t.happened_after(seen).await, [(EventKind::Stalled, Some(id))]);
    }
}

/// A job whose lease ran out, one that came due and one whose record is old: in this order.
async fn one_of_each(t: &Scene) -> [JobId; 3] {
    let short = |spec: JobSpec| spec.options(|options| options.keep.completed = KeepFor::Age(SECOND));
    let old = t.run(short(t.spec()), completed()).await;
    let lost = t.put_one(t.spec()).await;
    t.claim_one().await;
    let due = t.put_one(t.spec().delay(SECOND)).await;
    t.attend_for(TERM).await;
    [lost, due, old]
}

async fn leases_come_before_due_jobs_before_old_records(t: &mut Scene) {
    let [lost, due, old] = one_of_each(t).await;
    let first = t.sweep(1).await;
    assert_eq!((first.stalled, first.promoted, first.pruned, first.more), (1, 0, 0, true));
    assert_eq!(t.state(lost).await, JobState::Waiting);
    let second = t.sweep(1).await;
    assert_eq!((second.stalled, second.promoted, second.pruned, second.more), (0, 1, 0, true));
    assert_eq!(t.state(due).await, JobState::Waiting);
    let third = t.sweep(1).await;
    assert_eq!((third.stalled, third.promoted, third.pruned, third.more), (0, 0, 1, false));
    assert_eq!(t.find(old).await, None);
}

async fn a_sweep_is_bounded_over_all_it_does(t: &mut Scene) {
    let [_, due, old] = one_of_each(t).await;
    let answer = t.sweep(2).await;
    assert_eq!((answer.stalled, answer.promoted, answer.pruned, answer.more), (1, 1, 0, true));
    assert_eq!(t.state(due).await, JobState::Waiting);
    assert_eq!(t.state(old).await, JobState::Completed);
    let answer = t.sweep(2).await;
    assert_eq!((answer.stalled, answer.promoted, answer.pruned, answer.more), (0, 0, 1, false));
}

async fn ended_records_go_by_state_then_prune_time(t: &mut Scene) {
    let kept = |seconds: u32| {
        let age = KeepFor::Age(seconds * SECOND);
        t.spec().options(|options| {
            options.keep.completed = age;
            options.keep.failed = age;
            options.keep.cancelled = age;
        })
    };
    let mut put = Vec::new();
    for (outcome, seconds) in
        [(Outcome::Cancelled, 1), (abort(), 2), (completed(), 9), (abort(), 1), (completed(), 5), (completed(), 9)]
    {
        put.push(t.run(kept(seconds), outcome).await);
    }
    t.advance(MINUTE);
    for place in [4, 2, 5, 3, 1, 0] {
        assert!(t.find(put[place]).await.is_some());
        let answer = t.sweep(1).await;
        assert_eq!((answer.pruned, answer.more), (1, place != 0));
        assert_eq!(t.find(put[place]).await, None, "the one at {place} goes now");
    }
}

async fn next_tells_when_something_comes_due(t: &mut Scene) {
    t.run(t.spec().options(|options| options.keep.completed = KeepFor::Age(HOUR)), completed()).await;
    assert_eq!(t.sweep(10).await.next, Some(HOUR));
    t.put_one(t.spec().delay(MINUTE)).await;
    assert_eq!(t.sweep(10).await.next, Some(MINUTE));
    t.put_one(t.spec()).await;
    t.claim_one().await;
    assert_eq!(t.sweep(10).await.next, Some(TERM));
    t.advance(10 * SECOND);
    assert_eq!(t.sweep(10).await.next, Some(TERM - 10 * SECOND));
}

async fn next_is_zero_while_there_is_more(t: &mut Scene) {
    t.put([t.spec().delay(SECOND), t.spec().delay(SECOND)]).await;
    t.advance(MINUTE);
    let answer = t.sweep(1).await;
    assert_eq!((answer.more, answer.next), (true, Some(Duration::ZERO)));
    let answer = t.sweep(1).await;
    assert_eq!((answer.more, answer.next), (false, None));
}

async fn a_sweep_twice_finds_nothing_left(t: &mut Scene) {
    one_of_each(t).await;
    let answer = t.sweep(1000).await;
    assert_eq!((answer.stalled, answer.promoted, answer.pruned, answer.more), (1, 1, 1, false));
    let before = t.dump().await;
    assert_eq!(t.sweep(1000).await, SweepAnswer::default());
    assert_eq!(t.dump().await, before);
}

async fn a_lost_lease_is_told_in_the_log(t: &mut Scene) {
    let put = t.put([t.spec().crashes(3), t.spec().crashes(1)]).await;
    let solo = t.claim_one().await;
    assert_eq!(solo.lease.id, put[1]);
    t.claim_one().await;
    let seen = t.last_event().await;
    t.let_leases_expire().await;
    let expected =
        [(EventKind::Stalled, Some(put[0])), (EventKind::Stalled, Some(put[1])), (EventKind::Failed, Some(put[1]))];
    assert_eq!(t.happened_after(seen).await, expected);
}

async fn a_swept_queue_stays_a_queue(t: &mut Scene) {
    t.run(t.spec().options(|options| options.keep.completed = KeepFor::Age(SECOND)), completed()).await;
    t.advance(MINUTE);
    assert_eq!(t.sweep(10).await.pruned, 1);
    assert_eq!(t.storage().queues().await.expect("queues"), std::slice::from_ref(&t.queue));
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.record(id).await.seq, 2, "seqs are never given again");
}

async fn a_paused_queue_is_swept(t: &mut Scene) {
    one_of_each(t).await;
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    let answer = t.sweep(10).await;
    assert_eq!((answer.stalled, answer.promoted, answer.pruned), (1, 1, 1));
}
