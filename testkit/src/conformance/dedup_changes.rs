//! The modes in which a second job changes the first or comes next, and every mode's key after every way out.

use ferroq_core::job::{JobRecord, Payload};

use super::prelude::*;

topic! {
    ($) dedup_changes, __conformance_dedup_changes:
    a_debounced_job_gets_the_payload_and_the_delay_of_the_last,
    a_debounced_job_that_is_due_is_delayed_again,
    a_debounced_key_is_free_once_the_job_starts_and_stays_free,
    an_undelayed_debounce_waits_at_once,
    keep_latest_replaces_the_payload_of_a_job_that_has_not_started,
    keep_latest_has_one_active_and_one_pending,
    keep_latest_counts_a_job_between_two_runs_as_started,
    a_pending_job_with_a_delay_waits_for_its_time,
    a_pending_job_is_claimed_in_the_call_that_ended_its_holder,
    a_pending_job_that_leaves_makes_room,
    a_pending_job_follows_on_every_way_out_of_the_holder,
    a_filter_that_cancels_holder_and_pending_acts_on_both,
    steps_of_an_obliteration_leave_no_pending_job_behind,
    an_operators_retry_is_refused_while_the_pending_job_holds_the_key,
    coalesced_jobs_run_at_the_count_and_are_told,
    coalesced_jobs_run_after_the_longest_wait,
    a_coalescing_key_is_free_once_the_job_starts,
    a_count_of_one_is_due_at_once,
    modes_and_kinds_that_differ_change_nothing,
    every_key_is_free_or_held_after_every_way_out,
    answers_are_repeated_and_count_once,
    follow_ups_meet_the_holder_as_other_jobs_do,
    several_jobs_of_one_request_meet_the_first,
    a_dump_keeps_counts_and_pending_jobs,
}

const DEBOUNCE: DedupMode = DedupMode::Debounce(MINUTE);
const COALESCE: DedupMode = DedupMode::Coalesce { count: 3, max_wait: MINUTE };
const EACH: [DedupMode; 6] = [
    DedupMode::UntilFinished,
    DedupMode::For(HOUR),
    DedupMode::WhileKept,
    DEBOUNCE,
    DedupMode::KeepLatest,
    COALESCE,
];

fn job(t: &Scene, mode: DedupMode, payload: &'static str) -> JobSpec {
    t.spec().dedup("k", mode).payload(payload)
}

async fn answer(t: &Scene, job: JobSpec) -> EnqueueAnswer {
    t.enqueue([job]).await[0]
}

fn text(payload: &Payload) -> &str {
    std::str::from_utf8(&payload.bytes).expect("text")
}

async fn payload(t: &Scene, id: JobId) -> String {
    text(&t.record(id).await.spec.payload).to_owned()
}

/// Whether nobody holds a key, now.
async fn is_free(t: &Scene, key: &str) -> bool {
    let now = t.storage().now(&t.queue).await.expect("now");
    !t.dump().await.dedup.iter().any(|entry| entry.key.as_str() == key && entry.holder.holds(now))
}

/// A job under "k" that was claimed, and its claim.
async fn started(t: &Scene, mode: DedupMode) -> Claim {
    let id = t.put_one(job(t, mode, "first")).await;
    t.act(id, Act::Promote).await;
    t.claim_one().await
}

async fn a_debounced_job_gets_the_payload_and_the_delay_of_the_last(t: &mut Scene) {
    let id = t.put_one(job(t, DEBOUNCE, "1")).await;
    let before = t.record(id).await;
    assert_eq!((before.state, before.due_at), (JobState::Delayed, before.created_at.after(MINUTE)));
    t.advance(SECOND * 50);
    let seen = t.last_event().await;
    assert_eq!(answer(t, job(t, DEBOUNCE, "22")).await, EnqueueAnswer::Replaced(id));
    assert_eq!(t.happened_after(seen).await, [(EventKind::Rescheduled, Some(id))]);
    t.advance(SECOND * 50);
    assert_eq!(t.claim(1).await.len(), 0, "the delay began anew");
    assert_eq!(answer(t, job(t, DedupMode::Debounce(SECOND), "333")).await, EnqueueAnswer::Replaced(id));
    let after = t.record(id).await;
    let spec = JobSpec { payload: after.spec.payload.clone(), ..(*before.spec).clone() };
    assert_eq!(after, JobRecord { spec: spec.into(), due_at: after.due_at, ..before }, "nothing else changes");
    t.advance(SECOND);
    let claim = t.claim_one().await;
    assert_eq!((claim.lease.id, text(&claim.spec.payload)), (id, "333"));
    assert_eq!(t.counts().await.live(), 1);
}

async fn a_debounced_job_that_is_due_is_delayed_again(t: &mut Scene) {
    let id = t.put_one(job(t, DEBOUNCE, "1")).await;
    t.advance(MINUTE);
    assert_eq!(t.sweep(10).await.promoted, 1);
    assert_eq!(answer(t, job(t, DEBOUNCE, "2")).await, EnqueueAnswer::Replaced(id));
    assert_eq!(t.state(id).await, JobState::Delayed);
    assert_eq!(t.claim(1).await.len(), 0);
    t.act(id, Act::Promote).await;
    assert_eq!(t.claim_as(t.asking_for(&["another"], 1)).await.claims.len(), 0, "it goes to its shelf");
    assert_eq!(answer(t, job(t, DEBOUNCE, "3")).await, EnqueueAnswer::Replaced(id));
    assert_eq!((t.state(id).await, payload(t, id).await.as_str()), (JobState::Delayed, "3"));
}

async fn a_debounced_key_is_free_once_the_job_starts_and_stays_free(t: &mut Scene) {
    let claim = started(t, DEBOUNCE).await;
    assert!(is_free(t, "k").await, "started");
    t.settle(claim.lease, fail(MINUTE)).await;
    assert!(is_free(t, "k").await, "a retry does not take it again");
    let second = t.put_one(job(t, DEBOUNCE, "second")).await;
    t.act(claim.lease.id, Act::Promote).await;
    let again = t.claim_one().await;
    assert_eq!((again.lease.id, again.run, text(&again.spec.payload)), (claim.lease.id, 2, "first"));
    t.settle(again.lease, completed()).await;
    assert_eq!(answer(t, job(t, DEBOUNCE, "3")).await, EnqueueAnswer::Replaced(second), "only the holder frees it");
    assert_eq!(t.act(claim.lease.id, Act::Retry { reset: true }).await, ActAnswer::DedupHeld(second));
}

async fn an_undelayed_debounce_waits_at_once(t: &mut Scene) {
    let mode = DedupMode::Debounce(Duration::ZERO);
    let id = t.put_one(job(t, mode, "1")).await;
    assert_eq!(answer(t, job(t, mode, "2")).await, EnqueueAnswer::Replaced(id));
    assert_eq!(t.state(id).await, JobState::Waiting);
    assert_eq!(text(&t.claim_one().await.spec.payload), "2");
    assert!(is_free(t, "k").await);
}

async fn keep_latest_replaces_the_payload_of_a_job_that_has_not_started(t: &mut Scene) {
    let id = t.put_one(job(t, DedupMode::KeepLatest, "1").delay(HOUR)).await;
    let (before, seen) = (t.record(id).await, t.last_event().await);
    t.advance(SECOND);
    let later = job(t, DedupMode::KeepLatest, "22").delay(DAY).priority(1);
    assert_eq!(answer(t, later).await, EnqueueAnswer::Replaced(id));
    let after = t.record(id).await;
    assert_eq!((after.due_at, after.state, after.priority), (before.due_at, before.state, before.priority));
    assert_eq!(payload(t, id).await, "22");
    assert_eq!(t.happened_after(seen).await, []);
    t.act(id, Act::Promote).await;
    assert_eq!(answer(t, job(t, DedupMode::KeepLatest, "3")).await, EnqueueAnswer::Replaced(id));
    assert_eq!(text(&t.claim_one().await.spec.payload), "3");
}

async fn keep_latest_has_one_active_and_one_pending(t: &mut Scene) {
    let claim = started(t, DedupMode::KeepLatest).await;
    let second = t.put_one(job(t, DedupMode::KeepLatest, "second")).await;
    assert_eq!(t.state(second).await, JobState::Blocked);
    for payload in ["third", "fourth"] {
        let answer = answer(t, job(t, DedupMode::KeepLatest, payload).delay(HOUR)).await;
        assert_eq!(answer, EnqueueAnswer::Replaced(second));
    }
    assert_eq!(answer(t, job(t, DedupMode::UntilFinished, "x")).await, EnqueueAnswer::Duplicate(claim.lease.id));
    assert_eq!(t.claim(9).await.len(), 0, "it stands in no line");
    assert_eq!(t.sweep(9).await.promoted, 0);
    for act in [Act::Promote, Act::Reschedule(Start::Now), Act::Retry { reset: false }] {
        assert_eq!(t.act(second, act).await, ActAnswer::Refused(JobState::Blocked));
    }
    let seen = t.last_event().await;
    t.settle(claim.lease, completed()).await;
    let happened = [(EventKind::Completed, Some(claim.lease.id)), (EventKind::Promoted, Some(second))];
    assert_eq!(t.happened_after(seen).await, happened);
    let next = t.claim_one().await;
    assert_eq!((next.lease.id, text(&next.spec.payload)), (second, "fourth"));
    t.settle(next.lease, completed()).await;
    assert!(is_free(t, "k").await);
}

async fn keep_latest_counts_a_job_between_two_runs_as_started(t: &mut Scene) {
    for back in [fail(MINUTE), snoozed(MINUTE), released()] {
        let claim = started(t, DedupMode::KeepLatest).await;
        t.settle(claim.lease, back).await;
        let second = t.put_one(job(t, DedupMode::KeepLatest, "second")).await;
        assert_eq!(t.state(second).await, JobState::Blocked);
        assert_eq!(payload(t, claim.lease.id).await, "first");
        t.act(claim.lease.id, Act::Cancel).await;
        assert_eq!(t.state(second).await, JobState::Waiting);
        t.act(second, Act::Remove).await;
    }
}

async fn a_pending_job_with_a_delay_waits_for_its_time(t: &mut Scene) {
    let claim = started(t, DedupMode::KeepLatest).await;
    let second = t.put_one(job(t, DedupMode::KeepLatest, "second").delay(MINUTE)).await;
    let due_at = t.record(second).await.due_at;
    t.settle(claim.lease, completed()).await;
    let record = t.record(second).await;
    assert_eq!((record.state, record.due_at), (JobState::Delayed, due_at));
    t.advance(MINUTE);
    assert_eq!(t.claim_one().await.lease.id, second);
}

async fn a_pending_job_is_claimed_in_the_call_that_ended_its_holder(t: &mut Scene) {
    let claim = started(t, DedupMode::KeepLatest).await;
    let second = t.put_one(job(t, DedupMode::KeepLatest, "second")).await;
    let answer = t.exchange(None, vec![settlement(claim.lease, completed())], Some(t.asking(5))).await;
    assert_eq!(ids(&answer.claimed.expect("a claim").claims), [second]);
    // What a claim itself ends is followed after it has looked at its line.
    let third = t.put_one(job(t, DedupMode::KeepLatest, "third")).await;
    t.act(second, Act::Cancel).await;
    t.settle(answer_lease(t, second).await, Outcome::Cancelled).await;
    t.act(third, Act::Remove).await;
    let expiring = t.put_one(job(t, DedupMode::KeepLatest, "4").expires_in(MINUTE)).await;
    let claim = t.claim_one().await;
    assert_eq!(claim.lease.id, expiring);
    t.settle(claim.lease, released()).await;
    let heir = t.put_one(job(t, DedupMode::KeepLatest, "5")).await;
    t.act(heir, Act::SetPriority(Priority(1))).await;
    let other = t.put_one(t.spec()).await;
    t.advance(HOUR);
    let claimed = t.claim_as(t.asking(5)).await;
    assert_eq!((ids(&claimed.claims), claimed.more), (vec![other], true));
    assert_eq!(t.state(expiring).await, JobState::Failed);
    assert_eq!(ids(&t.claim(5).await), [heir]);
}

async fn answer_lease(t: &Scene, id: JobId) -> Lease {
    t.record(id).await.lease()
}

async fn a_pending_job_that_leaves_makes_room(t: &mut Scene) {
    let claim = started(t, DedupMode::KeepLatest).await;
    for act in [Act::Cancel, Act::Remove] {
        let pending = t.put_one(job(t, DedupMode::KeepLatest, "pending")).await;
        assert!(matches!(t.act(pending, act).await, ActAnswer::Done(_)));
    }
    let pending = t.put_one(job(t, DedupMode::KeepLatest, "pending")).await;
    assert_eq!(t.state(pending).await, JobState::Blocked);
    t.settle(claim.lease, completed()).await;
    assert_eq!(t.claim_one().await.lease.id, pending);
}

async fn a_pending_job_follows_on_every_way_out_of_the_holder(t: &mut Scene) {
    for way in WAYS {
        let (queue, only_unstarted) = (t.queue.clone(), matches!(way, Way::Expire | Way::Obliterate));
        if only_unstarted {
            continue;
        }
        let id = t.put_one(job(t, DedupMode::KeepLatest, "first").crashes(2).attempts(2)).await;
        let claim = t.claim_one().await;
        t.settle(claim.lease, fail(Duration::ZERO)).await;
        let pending = t.put_one(job(t, DedupMode::KeepLatest, "pending")).await;
        way.go(t, id).await;
        let record = t.record(pending).await;
        assert_eq!(record.state, JobState::Waiting, "{way:?} in {queue}");
        t.act(pending, Act::Remove).await;
        assert!(is_free(t, "k").await, "{way:?}");
    }
}

async fn a_filter_that_cancels_holder_and_pending_acts_on_both(t: &mut Scene) {
    for act in [Act::Cancel, Act::Remove, Act::SetPriority(Priority(3))] {
        let claim = started(t, DedupMode::KeepLatest).await;
        t.settle(claim.lease, released()).await;
        let pending = t.put_one(job(t, DedupMode::KeepLatest, "pending")).await;
        let live = JobFilter::states([JobState::Waiting, JobState::Delayed, JobState::Blocked]);
        let on = Selection::Filter { filter: live, after: None, max_items: 10 };
        let report = t.act_on(on, act.clone()).await;
        let after = match act {
            Act::Cancel => [JobState::Cancelled, JobState::Cancelled],
            Act::Remove => [JobState::Waiting, JobState::Waiting],
            _ => [JobState::Waiting, JobState::Blocked],
        };
        let expected = [(claim.lease.id, ActAnswer::Done(after[0])), (pending, ActAnswer::Done(after[1]))];
        assert_eq!(report.answers, expected, "{act:?}");
        if !matches!(act, Act::SetPriority(_)) {
            assert!(is_free(t, "k").await, "{act:?}");
        }
    }
}

async fn steps_of_an_obliteration_leave_no_pending_job_behind(t: &mut Scene) {
    let claim = started(t, DedupMode::KeepLatest).await;
    t.settle(claim.lease, released()).await;
    let pending = t.put_one(job(t, DedupMode::KeepLatest, "pending")).await;
    let step = |items| t.storage().obliterate(&t.queue, false, items);
    assert_eq!(step(1).await.expect("a step"), ObliterateAnswer::More(1));
    assert_eq!(t.state(pending).await, JobState::Waiting, "who stops here has a queue that works");
    t.put_many(3).await;
    assert_eq!(step(1).await.expect("a step"), ObliterateAnswer::More(1));
    assert!(is_free(t, "k").await);
    assert_eq!(step(100).await.expect("a step"), ObliterateAnswer::Done);
}

async fn an_operators_retry_is_refused_while_the_pending_job_holds_the_key(t: &mut Scene) {
    let claim = started(t, DedupMode::KeepLatest).await;
    let second = t.put_one(job(t, DedupMode::KeepLatest, "second")).await;
    t.settle(claim.lease, abort()).await;
    let retry = Act::Retry { reset: true };
    assert_eq!(t.act(claim.lease.id, retry.clone()).await, ActAnswer::DedupHeld(second));
    t.act(second, Act::Cancel).await;
    assert_eq!(t.act(claim.lease.id, retry.clone()).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(t.act(second, retry).await, ActAnswer::DedupHeld(claim.lease.id));
    let third = t.put_one(job(t, DedupMode::KeepLatest, "third")).await;
    assert_eq!(t.state(third).await, JobState::Blocked, "the retried job has run before");
}

async fn coalesced_jobs_run_at_the_count_and_are_told(t: &mut Scene) {
    let id = t.put_one(job(t, COALESCE, "1")).await;
    assert_eq!(t.record(id).await.coalesced, 1);
    assert_eq!(answer(t, job(t, COALESCE, "2")).await, EnqueueAnswer::Coalesced(id, 2));
    assert_eq!((t.state(id).await, t.claim(1).await.len()), (JobState::Delayed, 0));
    let seen = t.last_event().await;
    let other_count = DedupMode::Coalesce { count: 9, max_wait: HOUR };
    assert_eq!(answer(t, job(t, other_count, "3")).await, EnqueueAnswer::Coalesced(id, 3));
    assert_eq!(t.happened_after(seen).await, [(EventKind::Promoted, Some(id))]);
    assert_eq!(t.record(id).await.due_at, t.storage().now(&t.queue).await.expect("now"));
    assert_eq!(answer(t, job(t, COALESCE, "4")).await, EnqueueAnswer::Coalesced(id, 4), "until it starts");
    let claim = t.claim_one().await;
    assert_eq!((claim.coalesced, text(&claim.spec.payload)), (4, "1"));
    t.settle(claim.lease, fail(Duration::ZERO)).await;
    let again = t.claim_one().await;
    assert_eq!((again.lease.id, again.run, again.coalesced), (id, 2, 4), "the same in every run");
    t.annotate(again.lease, Note { checkpoint: Some(Scene::bytes(b"7")), ..Note::default() }).await;
    t.settle(again.lease, fail(Duration::ZERO)).await;
    let call = t.call();
    let first = t.exchange(Some(call), Vec::new(), Some(t.asking(1))).await;
    assert_eq!(t.exchange(Some(call), Vec::new(), Some(t.asking(1))).await, first);
    let third = first.claimed.expect("a claim").claims.remove(0);
    assert_eq!((third.run, third.coalesced, third.checkpoint), (3, 4, Some(Scene::bytes(b"7"))));
    t.let_leases_expire().await;
    assert_eq!(t.record(id).await.coalesced, 4);
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    assert_eq!(t.record(id).await.coalesced, 4);
}

async fn coalesced_jobs_run_after_the_longest_wait(t: &mut Scene) {
    let id = t.put_one(job(t, COALESCE, "1")).await;
    t.advance(SECOND * 59);
    assert_eq!(answer(t, job(t, COALESCE, "2")).await, EnqueueAnswer::Coalesced(id, 2));
    assert_eq!(t.claim(1).await.len(), 0);
    t.advance(SECOND);
    assert_eq!(t.claim_one().await.coalesced, 2);
}

async fn a_coalescing_key_is_free_once_the_job_starts(t: &mut Scene) {
    let claim = started(t, COALESCE).await;
    assert!(is_free(t, "k").await);
    t.settle(claim.lease, released()).await;
    let second = t.put_one(job(t, COALESCE, "2")).await;
    assert_eq!(answer(t, job(t, COALESCE, "3")).await, EnqueueAnswer::Coalesced(second, 2));
}

async fn a_count_of_one_is_due_at_once(t: &mut Scene) {
    let now = DedupMode::Coalesce { count: 5, max_wait: Duration::ZERO };
    for mode in [1, 0].map(|count| DedupMode::Coalesce { count, max_wait: MINUTE }).into_iter().chain([now]) {
        let id = t.put_one(job(t, mode, "1")).await;
        assert_eq!(t.state(id).await, JobState::Waiting, "{mode:?}");
        assert_eq!(answer(t, job(t, mode, "2")).await, EnqueueAnswer::Coalesced(id, 2));
        assert_eq!(t.claim_one().await.coalesced, 2);
    }
}

async fn modes_and_kinds_that_differ_change_nothing(t: &mut Scene) {
    for held in EACH {
        let id = t.put_one(job(t, held, "1")).await;
        let before = t.record(id).await;
        let duplicate = EnqueueAnswer::Duplicate(id);
        for asked in EACH {
            if asked != held || matches!(held, DedupMode::UntilFinished | DedupMode::For(_) | DedupMode::WhileKept) {
                assert_eq!(answer(t, job(t, asked, "22")).await, duplicate, "{asked:?} under {held:?}");
            }
            assert_eq!(answer(t, job(t, asked, "22").of_kind("another")).await, duplicate, "{asked:?} under {held:?}");
        }
        assert_eq!(t.record(id).await, before);
        t.act(id, Act::Remove).await;
    }
    let claim = started(t, DedupMode::KeepLatest).await;
    let other = job(t, DedupMode::KeepLatest, "22").of_kind("another");
    assert_eq!(answer(t, other).await, EnqueueAnswer::Duplicate(claim.lease.id));
}

/// How a job can get out of a live state.
#[derive(Clone, Copy, Debug)]
enum Way {
    Complete,
    CompleteUnkept,
    Abort,
    Expire,
    Crash,
    CancelByWorker,
    Cancel,
    Remove,
    CancelByFilter,
    RemoveByFilter,
    Obliterate,
}

const WAYS: [Way; 11] = [
    Way::Complete,
    Way::CompleteUnkept,
    Way::Abort,
    Way::Expire,
    Way::Crash,
    Way::CancelByWorker,
    Way::Cancel,
    Way::Remove,
    Way::CancelByFilter,
    Way::RemoveByFilter,
    Way::Obliterate,
];

impl Way {
    /// Gets a job out that is Waiting or Delayed.
    async fn go(self, t: &mut Scene, id: JobId) {
        let live = [JobState::Waiting, JobState::Delayed];
        let on = Selection::Filter { filter: JobFilter::states(live), after: None, max_items: 1 };
        match self {
            Way::Cancel => drop(t.act(id, Act::Cancel).await),
            Way::Remove => drop(t.act(id, Act::Remove).await),
            Way::CancelByFilter => drop(t.act_on(on, Act::Cancel).await),
            Way::RemoveByFilter => drop(t.act_on(on, Act::Remove).await),
            Way::Obliterate => drop(t.storage().obliterate(&t.queue, true, 100).await.expect("obliterate")),
            Way::Expire => {
                t.advance(MINUTE * 2);
                t.claim(1).await;
                assert_eq!(t.state(id).await, JobState::Failed);
            }
            _ => {
                t.act(id, Act::Promote).await;
                if let Way::CompleteUnkept = self {
                    t.configure(|config| config.retention.completed = KeepRule::REMOVE).await;
                }
                let lease = t.claim_one().await.lease;
                assert_eq!(lease.id, id);
                match self {
                    Way::Crash => drop(t.let_leases_expire().await),
                    Way::Abort => drop(t.settle(lease, abort()).await),
                    Way::CancelByWorker => drop(t.settle(lease, Outcome::Cancelled).await),
                    _ => drop(t.settle(lease, completed()).await),
                }
                if let Way::Crash = self {
                    t.act(id, Act::Promote).await;
                    if t.state(id).await == JobState::Waiting {
                        t.claim_one().await;
                        t.let_leases_expire().await;
                    }
                    assert_eq!(t.state(id).await, JobState::Failed);
                }
                t.configure(|config| config.retention = Default::default()).await;
            }
        }
    }

    /// Whether the key is free after, as the contract's table says.
    fn frees(self, mode: DedupMode) -> bool {
        match mode {
            DedupMode::For(_) => !matches!(
                self,
                Way::Complete | Way::CompleteUnkept | Way::Abort | Way::Expire | Way::Crash
            ),
            DedupMode::WhileKept => {
                matches!(self, Way::CompleteUnkept | Way::Remove | Way::RemoveByFilter | Way::Obliterate)
            }
            _ => true,
        }
    }
}

async fn every_key_is_free_or_held_after_every_way_out(t: &mut Scene) {
    for mode in EACH {
        for way in WAYS {
            let mut one = job(t, mode, "1").crashes(1);
            if let Way::Expire = way {
                one = one.expires_in(MINUTE);
            }
            let id = t.put_one(one).await;
            way.go(t, id).await;
            assert_eq!(is_free(t, "k").await, way.frees(mode), "{mode:?} after {way:?}");
            if t.find(id).await.is_some() {
                t.act(id, Act::Remove).await;
            }
            t.advance(HOUR);
            assert!(is_free(t, "k").await, "{mode:?} after {way:?} and an hour");
        }
    }
}

async fn answers_are_repeated_and_count_once(t: &mut Scene) {
    for mode in [DEBOUNCE, DedupMode::KeepLatest, COALESCE] {
        let id = t.put_one(job(t, mode, "1")).await;
        let call = t.call();
        let jobs: Vec<_> = vec![Arc::new(job(t, mode, "22"))];
        let request = || EnqueueRequest { call: Some(call), queue: t.queue.clone(), jobs: jobs.clone() };
        let first = t.storage().enqueue(request()).await.expect("enqueue");
        assert_ne!(first, [EnqueueAnswer::Inserted]);
        let before = t.dump().await;
        assert_eq!(t.storage().enqueue(request()).await.expect("enqueue"), first);
        assert_eq!(t.dump().await, before);
        t.act(id, Act::Remove).await;
    }
}

async fn follow_ups_meet_the_holder_as_other_jobs_do(t: &mut Scene) {
    let other = queue_name("another");
    for home in [t.queue.clone(), other] {
        let make = |key: &str, mode| spec(&home).dedup(key, mode).payload("22");
        let modes = [("d", DEBOUNCE), ("l", DedupMode::KeepLatest), ("c", COALESCE)];
        let mut holders = Vec::new();
        for (key, mode) in modes {
            let job = make(key, mode).delay(DAY).payload("1");
            holders.push(job.id);
            assert_eq!(enqueue_on(t, &home, job).await, [EnqueueAnswer::Inserted]);
        }
        let parent = t.put_one(t.spec()).await;
        let lease = t.claim_one().await.lease;
        assert_eq!(lease.id, parent);
        let answer = t.settle_with(lease, completed(), modes.map(|(key, mode)| make(key, mode))).await;
        let SettleAnswer::Settled { follow_ups, .. } = answer else { panic!("settled") };
        let expected = [
            EnqueueAnswer::Replaced(holders[0]),
            EnqueueAnswer::Replaced(holders[1]),
            EnqueueAnswer::Coalesced(holders[2], 2),
        ];
        assert_eq!(follow_ups, expected, "on {home}");
        let record = t.storage().job(Some(&home), holders[0]).await.expect("job").expect("a record");
        assert_eq!(text(&record.spec.payload), "22");
    }
}

async fn several_jobs_of_one_request_meet_the_first(t: &mut Scene) {
    let jobs = [job(t, COALESCE, "1"), job(t, COALESCE, "2"), job(t, COALESCE, "3"), job(t, COALESCE, "4")];
    let id = jobs[0].id;
    let coalesced = |n| EnqueueAnswer::Coalesced(id, n);
    assert_eq!(t.enqueue(jobs).await, [EnqueueAnswer::Inserted, coalesced(2), coalesced(3), coalesced(4)]);
    assert_eq!((t.claim_one().await.coalesced, is_free(t, "k").await), (4, true));
    let jobs = [job(t, DEBOUNCE, "1"), job(t, DEBOUNCE, "22"), job(t, DEBOUNCE, "333")];
    let id = jobs[0].id;
    let replaced = EnqueueAnswer::Replaced(id);
    assert_eq!(t.enqueue(jobs).await, [EnqueueAnswer::Inserted, replaced, replaced]);
    assert_eq!((t.state(id).await, payload(t, id).await.as_str()), (JobState::Delayed, "333"));
    t.act(id, Act::Remove).await;
    let claim = started(t, DedupMode::KeepLatest).await;
    let jobs = [job(t, DedupMode::KeepLatest, "1"), job(t, DedupMode::KeepLatest, "22")];
    let pending = jobs[0].id;
    assert_eq!(t.enqueue(jobs).await, [EnqueueAnswer::Inserted, EnqueueAnswer::Replaced(pending)]);
    t.settle(claim.lease, completed()).await;
    assert_eq!(text(&t.claim_one().await.spec.payload), "22");
}

async fn a_dump_keeps_counts_and_pending_jobs(t: &mut Scene) {
    let counted = t.put_one(t.spec().dedup("c", COALESCE)).await;
    t.enqueue([t.spec().dedup("c", COALESCE)]).await;
    let claim = started(t, DedupMode::KeepLatest).await;
    let pending = t.put_one(job(t, DedupMode::KeepLatest, "pending")).await;
    let dump = t.dump().await;
    let hold = dump.dedup.iter().find(|entry| entry.key.as_str() == "k").expect("a hold").holder;
    assert_eq!((hold.id, hold.pending), (claim.lease.id, Some(pending)));
    let page = DumpPage { config: Some(dump.config.clone()), dedup: dump.dedup.clone(), jobs: dump.jobs.clone(), ..DumpPage::default() };
    for _ in 0..2 {
        if let ObliterateAnswer::Done = t.storage().obliterate(&t.queue, true, 100).await.expect("obliterate") {
            break;
        }
    }
    t.storage().restore(&t.queue, page).await.expect("restore");
    assert_eq!(t.dump().await, dump);
    let next = t.spec().dedup("c", COALESCE);
    assert_eq!(t.enqueue([next]).await, [EnqueueAnswer::Coalesced(counted, 3)]);
    assert_eq!(t.claim_one().await.coalesced, 3);
    t.settle(claim.lease, completed()).await;
    assert_eq!(t.claim_one().await.lease.id, pending);
}

async fn enqueue_on(t: &Scene, queue: &QueueName, job: JobSpec) -> Vec<EnqueueAnswer> {
    let request = EnqueueRequest { call: None, queue: queue.clone(), jobs: vec![Arc::new(job)] };
    t.storage().enqueue(request).await.expect("enqueue")
}
