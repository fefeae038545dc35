//! How long records of ended jobs stay: by the job's own word, by age, by count, never in the way of those who wait.

use super::prelude::*;

topic! {
    ($) retention, __conformance_retention:
    a_job_that_is_not_kept_goes_with_its_settlement,
    a_queue_that_keeps_nothing_removes_at_once,
    a_jobs_own_age_beats_the_queues,
    a_record_goes_when_its_time_is_over,
    beyond_the_count_the_soonest_to_go_goes,
    each_state_has_its_own_count,
    a_call_prunes_at_most_twice_what_it_added,
    a_record_that_is_not_kept_prunes_nothing,
    a_waited_on_record_outlives_its_end_by_a_minute,
    a_waited_on_record_is_not_pruned_by_count_for_a_minute,
    an_operators_cancel_prunes_by_count_too,
    the_defaults_are_a_day_and_a_week,
    changed_ages_apply_to_jobs_that_end_from_now_on,
}

fn unkept(spec: JobSpec) -> JobSpec {
    spec.options(|options| {
        options.keep.completed = KeepFor::Remove;
        options.keep.failed = KeepFor::Remove;
        options.keep.cancelled = KeepFor::Remove;
    })
}

async fn a_job_that_is_not_kept_goes_with_its_settlement(t: &mut Scene) {
    let ends = [
        (completed(), JobState::Completed, EventKind::Completed),
        (abort(), JobState::Failed, EventKind::Failed),
        (Outcome::Cancelled, JobState::Cancelled, EventKind::Cancelled),
    ];
    for (outcome, state, event) in ends {
        let id = t.put_one(unkept(t.spec())).await;
        let lease = t.claim_one().await.lease;
        let seen = t.last_event().await;
        assert_eq!(t.settle(lease, outcome).await, settled(state));
        assert_eq!(t.find(id).await, None);
        assert_eq!(t.happened_after(seen).await, [(event, Some(id))]);
        assert_eq!(t.settle(lease, completed()).await, SettleAnswer::Gone);
    }
    assert_eq!(t.counts().await, QueueCounts::default());
}

async fn a_queue_that_keeps_nothing_removes_at_once(t: &mut Scene) {
    t.configure(|config| config.retention.completed = KeepRule::REMOVE).await;
    let id = t.run(t.spec(), completed()).await;
    assert_eq!(t.find(id).await, None);
    t.configure(|config| config.retention.completed = KeepRule { age: HOUR, count: 0 }).await;
    let id = t.run(t.spec(), completed()).await;
    assert_eq!(t.find(id).await, None, "a count of nothing keeps nothing");
    let id = t.run(t.spec(), abort()).await;
    assert_eq!(t.state(id).await, JobState::Failed, "other states have rules of their own");
}

async fn a_jobs_own_age_beats_the_queues(t: &mut Scene) {
    t.configure(|config| config.retention.completed = KeepRule { age: HOUR, count: 100 }).await;
    let own = |age| t.spec().options(|options| options.keep.completed = KeepFor::Age(age));
    for age in [SECOND, DAY] {
        let id = t.run(own(age), completed()).await;
        assert_eq!(t.record(id).await.prune_at, Some(t.clock().after(age)));
    }
    let id = t.run(own(Duration::ZERO), completed()).await;
    assert_eq!(t.find(id).await, None);
}

async fn a_record_goes_when_its_time_is_over(t: &mut Scene) {
    t.configure(|config| config.retention.failed.age = HOUR).await;
    let id = t.run(t.spec(), abort()).await;
    t.advance(HOUR - Duration::from_micros(1));
    assert_eq!(t.sweep(10).await.pruned, 0);
    t.advance(Duration::from_micros(1));
    let seen = t.last_event().await;
    assert_eq!(t.state(id).await, JobState::Failed, "it is there until a sweep comes by");
    assert_eq!(t.sweep(10).await.pruned, 1);
    assert_eq!(t.find(id).await, None);
    assert_eq!(t.happened_after(seen).await, [], "pruning is no event");
}

async fn beyond_the_count_the_soonest_to_go_goes(t: &mut Scene) {
    t.configure(|config| config.retention.completed.count = 3).await;
    let mut ended = Vec::new();
    // The second one may go first, by its own word.
    for age in [HOUR, MINUTE, HOUR, HOUR, HOUR] {
        t.advance(SECOND);
        let job = t.spec().options(|options| options.keep.completed = KeepFor::Age(age));
        ended.push(t.run(job, completed()).await);
    }
    let mut kept = Vec::new();
    for id in &ended {
        kept.push(t.find(*id).await.is_some());
    }
    assert_eq!(kept, [false, false, true, true, true]);
    assert_eq!(t.counts().await.completed, 3);
}

async fn each_state_has_its_own_count(t: &mut Scene) {
    t.configure(|config| {
        config.retention.completed.count = 1;
        config.retention.failed.count = 2;
        config.retention.cancelled.count = 3;
    })
    .await;
    for outcome in [completed(), abort(), Outcome::Cancelled] {
        for _ in 0..4 {
            t.run(t.spec(), outcome.clone()).await;
        }
    }
    let counts = t.counts().await;
    assert_eq!((counts.completed, counts.failed, counts.cancelled), (1, 2, 3));
}

async fn a_call_prunes_at_most_twice_what_it_added(t: &mut Scene) {
    for _ in 0..10 {
        t.run(t.spec(), completed()).await;
    }
    t.configure(|config| config.retention.completed.count = 2).await;
    assert_eq!(t.counts().await.completed, 10, "settings remove nothing by themselves");
    let mut counts = Vec::new();
    for _ in 0..9 {
        t.run(t.spec(), completed()).await;
        counts.push(t.counts().await.completed);
    }
    assert_eq!(counts, [9, 8, 7, 6, 5, 4, 3, 2, 2]);
    t.configure(|config| config.retention.completed.count = 100).await;
    t.put_many(8).await;
    let settle = |claims: Vec<Claim>| claims.iter().map(|c| settlement(c.lease, completed())).collect();
    t.settle_all(settle(t.claim(8).await)).await;
    assert_eq!(t.counts().await.completed, 10);
    t.configure(|config| config.retention.completed.count = 2).await;
    t.put_many(3).await;
    t.settle_all(settle(t.claim(3).await)).await;
    assert_eq!(t.counts().await.completed, 7, "thirteen less six");
}

async fn a_record_that_is_not_kept_prunes_nothing(t: &mut Scene) {
    for _ in 0..4 {
        t.run(t.spec(), completed()).await;
    }
    t.configure(|config| config.retention.completed.count = 2).await;
    t.run(unkept(t.spec()), completed()).await;
    t.run(t.spec(), abort()).await;
    assert_eq!(t.counts().await.completed, 4);
}

async fn a_waited_on_record_outlives_its_end_by_a_minute(t: &mut Scene) {
    let id = t.put_one(unkept(t.spec())).await;
    let _watch = t.storage().watch(&t.queue, id).await.expect("watch");
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    assert_eq!(t.record(id).await.prune_at, Some(t.clock().after(WAITED_ON_KEEP)));
    t.advance(WAITED_ON_KEEP - SECOND);
    assert_eq!(t.sweep(10).await.pruned, 0);
    t.advance(SECOND);
    assert_eq!(t.sweep(10).await.pruned, 1);
    assert_eq!(t.find(id).await, None);
}

async fn a_waited_on_record_is_not_pruned_by_count_for_a_minute(t: &mut Scene) {
    t.configure(|config| config.retention.completed.count = 1).await;
    let awaited = t.put_one(t.spec()).await;
    let _watch = t.storage().watch(&t.queue, awaited).await.expect("watch");
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    t.advance(SECOND);
    let second = t.run(t.spec(), completed()).await;
    assert!(t.find(awaited).await.is_some());
    assert_eq!(t.find(second).await, None, "the next one goes in its stead");
    t.advance(WAITED_ON_KEEP);
    t.run(t.spec(), completed()).await;
    assert_eq!(t.find(awaited).await, None);
}

async fn an_operators_cancel_prunes_by_count_too(t: &mut Scene) {
    t.configure(|config| config.retention.cancelled.count = 2).await;
    for id in t.put_many(5).await {
        assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    }
    assert_eq!(t.counts().await.cancelled, 2);
}

async fn the_defaults_are_a_day_and_a_week(t: &mut Scene) {
    for (outcome, age) in [(completed(), DAY), (abort(), 7 * DAY), (Outcome::Cancelled, DAY)] {
        let id = t.run(t.spec(), outcome).await;
        assert_eq!(t.record(id).await.prune_at, Some(t.clock().after(age)));
    }
}

async fn changed_ages_apply_to_jobs_that_end_from_now_on(t: &mut Scene) {
    let before = t.run(t.spec(), completed()).await;
    t.configure(|config| config.retention.completed.age = MINUTE).await;
    let after = t.run(t.spec(), completed()).await;
    assert_eq!(t.record(before).await.prune_at, Some(t.clock().after(DAY)));
    assert_eq!(t.record(after).await.prune_at, Some(t.clock().after(MINUTE)));
}
