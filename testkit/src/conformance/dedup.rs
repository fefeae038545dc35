//! Two jobs with one key: who holds it, for how long in each mode, and every way in which it comes free.

use super::prelude::*;

topic! {
    ($) dedup, __conformance_dedup:
    a_held_key_inserts_nothing_and_names_the_holder,
    an_earlier_job_of_the_request_holds_the_key,
    a_key_belongs_to_its_queue,
    until_finished_holds_through_every_live_state,
    until_finished_ends_with_every_end,
    until_finished_ends_when_a_live_job_is_removed,
    for_a_time_holds_beyond_the_end_of_the_job,
    for_a_time_ends_at_the_very_instant,
    for_a_time_holds_for_a_record_that_is_gone,
    for_a_time_ends_when_the_job_is_cancelled_or_removed_live,
    while_kept_holds_as_long_as_the_record,
    while_kept_ends_with_a_record_that_is_not_kept,
    while_kept_ends_when_the_record_is_pruned,
    while_kept_ends_when_a_live_job_is_removed,
    only_the_holder_frees_its_key,
    an_operators_retry_takes_the_key_again,
    an_operators_retry_is_refused_while_another_holds_the_key,
    an_expired_jobs_key_comes_free,
    a_crashed_jobs_key_comes_free,
    obliteration_frees_every_key,
    modes_share_the_keys,
}

const EACH: [DedupMode; 3] = [DedupMode::UntilFinished, DedupMode::For(HOUR), DedupMode::WhileKept];

/// Whether the key is free: tries it, and takes the probe away again.
async fn is_free(t: &Scene, key: &str) -> bool {
    let probe = t.spec().dedup(key, DedupMode::UntilFinished).delay(DAY);
    let id = probe.id;
    match t.enqueue([probe]).await[0] {
        EnqueueAnswer::Inserted => {
            assert_eq!(t.act(id, Act::Remove).await, ActAnswer::Done(JobState::Delayed));
            true
        }
        _ => false,
    }
}

async fn a_held_key_inserts_nothing_and_names_the_holder(t: &mut Scene) {
    for (place, mode) in EACH.into_iter().enumerate() {
        let key = format!("key {place}");
        let holder = t.put_one(t.spec().dedup(&key, mode)).await;
        let before = t.record(holder).await;
        let second = t.spec().dedup(&key, mode);
        let third = t.spec().dedup(&key, mode).priority(1);
        let duplicate = EnqueueAnswer::Duplicate(holder);
        assert_eq!(t.enqueue([second.clone(), third]).await, [duplicate, duplicate], "{mode:?}");
        assert_eq!(t.find(second.id).await, None);
        assert_eq!(t.record(holder).await, before);
    }
    assert_eq!(t.counts().await.waiting, 3);
}

async fn an_earlier_job_of_the_request_holds_the_key(t: &mut Scene) {
    let jobs = [t.spec().dedup("k", DedupMode::UntilFinished), t.spec(), t.spec().dedup("k", DedupMode::WhileKept)];
    let first = jobs[0].id;
    let answers = t.enqueue(jobs).await;
    assert_eq!(answers, [EnqueueAnswer::Inserted, EnqueueAnswer::Inserted, EnqueueAnswer::Duplicate(first)]);
}

async fn a_key_belongs_to_its_queue(t: &mut Scene) {
    t.put_one(t.spec().dedup("k", DedupMode::UntilFinished)).await;
    t.put_one(spec(&queue_name("another")).dedup("k", DedupMode::UntilFinished)).await;
}

async fn until_finished_holds_through_every_live_state(t: &mut Scene) {
    let id = t.put_one(t.spec().dedup("k", DedupMode::UntilFinished).delay(SECOND)).await;
    assert!(!is_free(t, "k").await, "delayed");
    t.advance(SECOND);
    let claim = t.claim_one().await;
    assert!(!is_free(t, "k").await, "active");
    t.settle(claim.lease, fail(MINUTE)).await;
    assert!(!is_free(t, "k").await, "waiting for its backoff");
    t.act(id, Act::Promote).await;
    assert!(!is_free(t, "k").await, "waiting");
    t.claim_one().await;
    t.let_leases_expire().await;
    assert!(!is_free(t, "k").await, "after a crash");
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    assert!(is_free(t, "k").await, "finished");
}

async fn until_finished_ends_with_every_end(t: &mut Scene) {
    for outcome in [completed(), abort(), Outcome::Cancelled] {
        t.run(t.spec().dedup("k", DedupMode::UntilFinished), outcome).await;
        assert!(is_free(t, "k").await);
    }
    t.run(t.spec().dedup("k", DedupMode::UntilFinished).attempts(1), fail(SECOND)).await;
    assert!(is_free(t, "k").await, "out of attempts");
    let id = t.put_one(t.spec().dedup("k", DedupMode::UntilFinished)).await;
    assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    assert!(is_free(t, "k").await, "cancelled by an operator");
    t.run(
        t.spec().dedup("k", DedupMode::UntilFinished).options(|options| options.keep.completed = KeepFor::Remove),
        completed(),
    )
    .await;
    assert!(is_free(t, "k").await, "not kept");
}

async fn until_finished_ends_when_a_live_job_is_removed(t: &mut Scene) {
    let id = t.put_one(t.spec().dedup("k", DedupMode::UntilFinished)).await;
    assert_eq!(t.act(id, Act::Remove).await, ActAnswer::Done(JobState::Waiting));
    assert!(is_free(t, "k").await);
}

async fn for_a_time_holds_beyond_the_end_of_the_job(t: &mut Scene) {
    for outcome in [completed(), abort()] {
        let id = t.run(t.spec().dedup("k", DedupMode::For(HOUR)), outcome).await;
        t.advance(MINUTE);
        let duplicate = EnqueueAnswer::Duplicate(id);
        assert_eq!(t.enqueue([t.spec().dedup("k", DedupMode::For(HOUR))]).await, [duplicate]);
        t.advance(HOUR);
    }
}

async fn for_a_time_ends_at_the_very_instant(t: &mut Scene) {
    let id = t.put_one(t.spec().dedup("k", DedupMode::For(HOUR))).await;
    t.advance(HOUR - Duration::from_micros(1));
    assert!(!is_free(t, "k").await);
    t.advance(Duration::from_micros(1));
    let next = t.put_one(t.spec().dedup("k", DedupMode::For(HOUR))).await;
    assert_eq!(t.state(id).await, JobState::Waiting, "the first job goes on without its key");
    let duplicate = EnqueueAnswer::Duplicate(next);
    assert_eq!(t.enqueue([t.spec().dedup("k", DedupMode::For(HOUR))]).await, [duplicate]);
}

async fn for_a_time_holds_for_a_record_that_is_gone(t: &mut Scene) {
    let job = t.spec().dedup("k", DedupMode::For(HOUR)).options(|options| options.keep.completed = KeepFor::Remove);
    let id = t.run(job, completed()).await;
    assert_eq!(t.find(id).await, None);
    let duplicate = EnqueueAnswer::Duplicate(id);
    assert_eq!(t.enqueue([t.spec().dedup("k", DedupMode::UntilFinished)]).await, [duplicate]);
    let other = t.run(t.spec().dedup("other", DedupMode::For(HOUR)), completed()).await;
    assert_eq!(t.act(other, Act::Remove).await, ActAnswer::Done(JobState::Completed));
    assert!(!is_free(t, "other").await, "removing the ended record frees nothing");
    t.advance(HOUR);
    assert!(is_free(t, "k").await && is_free(t, "other").await);
}

async fn for_a_time_ends_when_the_job_is_cancelled_or_removed_live(t: &mut Scene) {
    let id = t.put_one(t.spec().dedup("k", DedupMode::For(HOUR))).await;
    t.act(id, Act::Cancel).await;
    assert!(is_free(t, "k").await, "cancelled by an operator");
    t.run(t.spec().dedup("k", DedupMode::For(HOUR)), Outcome::Cancelled).await;
    assert!(is_free(t, "k").await, "cancelled by its worker");
    let id = t.put_one(t.spec().dedup("k", DedupMode::For(HOUR))).await;
    t.act(id, Act::Remove).await;
    assert!(is_free(t, "k").await, "removed");
}

async fn while_kept_holds_as_long_as_the_record(t: &mut Scene) {
    for outcome in [completed(), abort(), Outcome::Cancelled] {
        let id = t.run(t.spec().dedup("k", DedupMode::WhileKept), outcome).await;
        t.advance(HOUR);
        assert!(!is_free(t, "k").await);
        t.act(id, Act::Remove).await;
        assert!(is_free(t, "k").await);
    }
}

async fn while_kept_ends_with_a_record_that_is_not_kept(t: &mut Scene) {
    let job = t.spec().dedup("k", DedupMode::WhileKept).options(|options| options.keep.completed = KeepFor::Remove);
    t.run(job, completed()).await;
    assert!(is_free(t, "k").await);
    t.configure(|config| config.retention.cancelled = KeepRule::REMOVE).await;
    let id = t.put_one(t.spec().dedup("k", DedupMode::WhileKept)).await;
    assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    assert_eq!(t.find(id).await, None);
    assert!(is_free(t, "k").await);
}

async fn while_kept_ends_when_the_record_is_pruned(t: &mut Scene) {
    let job = t.spec().dedup("k", DedupMode::WhileKept).options(|options| options.keep.completed = KeepFor::Age(HOUR));
    t.run(job, completed()).await;
    t.advance(HOUR);
    assert!(!is_free(t, "k").await, "until a sweep comes by");
    assert_eq!(t.sweep(10).await.pruned, 1);
    assert!(is_free(t, "k").await, "pruned by age");
    t.configure(|config| config.retention.completed.count = 1).await;
    t.run(t.spec().dedup("k", DedupMode::WhileKept), completed()).await;
    assert!(!is_free(t, "k").await);
    t.advance(SECOND);
    t.run(t.spec(), completed()).await;
    assert!(is_free(t, "k").await, "pruned by count");
}

async fn while_kept_ends_when_a_live_job_is_removed(t: &mut Scene) {
    let id = t.put_one(t.spec().dedup("k", DedupMode::WhileKept)).await;
    t.act(id, Act::Remove).await;
    assert!(is_free(t, "k").await);
}

async fn only_the_holder_frees_its_key(t: &mut Scene) {
    let first = t.put_one(t.spec().dedup("k", DedupMode::For(MINUTE))).await;
    t.advance(MINUTE);
    let second = t.put_one(t.spec().dedup("k", DedupMode::UntilFinished)).await;
    assert_eq!(t.act(first, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    let duplicate = EnqueueAnswer::Duplicate(second);
    assert_eq!(t.enqueue([t.spec().dedup("k", DedupMode::UntilFinished)]).await, [duplicate]);
    t.act(first, Act::Remove).await;
    assert!(!is_free(t, "k").await);
}

async fn an_operators_retry_takes_the_key_again(t: &mut Scene) {
    let id = t.run(t.spec().dedup("k", DedupMode::UntilFinished), abort()).await;
    assert_eq!(t.act(id, Act::Retry { reset: false }).await, ActAnswer::Done(JobState::Waiting));
    assert!(!is_free(t, "k").await);
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    assert!(is_free(t, "k").await);
    let kept = t.run(t.spec().dedup("kept", DedupMode::WhileKept), abort()).await;
    assert_eq!(t.act(kept, Act::Retry { reset: true }).await, ActAnswer::Done(JobState::Waiting), "it holds its key");
}

async fn an_operators_retry_is_refused_while_another_holds_the_key(t: &mut Scene) {
    for (place, outcome) in [completed(), abort(), Outcome::Cancelled].into_iter().enumerate() {
        let key = format!("key {place}");
        let id = t.run(t.spec().dedup(&key, DedupMode::UntilFinished), outcome).await;
        let holder = t.put_one(t.spec().dedup(&key, DedupMode::UntilFinished).delay(DAY)).await;
        let before = t.record(id).await;
        assert_eq!(t.act(id, Act::Retry { reset: true }).await, ActAnswer::DedupHeld(holder));
        assert_eq!(t.record(id).await, before);
        t.act(holder, Act::Remove).await;
        assert_eq!(t.act(id, Act::Retry { reset: true }).await, ActAnswer::Done(JobState::Waiting));
        t.act(id, Act::Cancel).await;
    }
}

async fn an_expired_jobs_key_comes_free(t: &mut Scene) {
    t.put_one(t.spec().dedup("k", DedupMode::UntilFinished).expires_in(SECOND)).await;
    t.advance(MINUTE);
    assert!(!is_free(t, "k").await, "it ends when its turn comes");
    t.claim(1).await;
    assert!(is_free(t, "k").await);
}

async fn a_crashed_jobs_key_comes_free(t: &mut Scene) {
    t.put_one(t.spec().dedup("k", DedupMode::UntilFinished).crashes(1)).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    assert_eq!(t.counts().await.failed, 1);
    assert!(is_free(t, "k").await);
}

async fn obliteration_frees_every_key(t: &mut Scene) {
    for (place, mode) in EACH.into_iter().enumerate() {
        t.put_one(t.spec().dedup(&format!("key {place}"), mode)).await;
    }
    let answer = t.storage().obliterate(&t.queue, false, 100).await.expect("obliterate");
    assert_eq!(answer, ObliterateAnswer::Done);
    for place in 0..EACH.len() {
        assert!(is_free(t, &format!("key {place}")).await);
    }
}

async fn modes_share_the_keys(t: &mut Scene) {
    for held in EACH {
        let id = t.put_one(t.spec().dedup("k", held)).await;
        for asked in EACH {
            assert_eq!(t.enqueue([t.spec().dedup("k", asked)]).await, [EnqueueAnswer::Duplicate(id)]);
        }
        t.act(id, Act::Remove).await;
    }
}
