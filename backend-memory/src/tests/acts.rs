//! Acts on jobs and queues.

use ferroq_core::job::{JobState, Priority, Slot, Start};
use ferroq_core::storage::{JobFilter, ObliterateAnswer};

use super::*;

/// One job in each state that a job can be brought into.
async fn one_of_each(b: &Bench) -> Vec<(JobState, JobId)> {
    let mut jobs = Vec::new();
    for outcome in [done(), Outcome::Abort { error: RunError::new(ErrorKind::Abort, "x") }, Outcome::Cancelled] {
        let id = b.add(b.spec()).await;
        let lease = b.take().await.lease;
        b.settle(lease, outcome).await;
        jobs.push((b.record(id).await.state, id));
    }
    jobs.push((JobState::Active, b.add(b.spec()).await));
    b.take().await;
    jobs.push((JobState::Waiting, b.add(b.spec()).await));
    jobs.push((JobState::Delayed, b.add(JobSpec { start: Start::After(HOUR), ..b.spec() }).await));
    jobs.sort();
    for (state, id) in &jobs {
        assert_eq!(b.record(*id).await.state, *state);
    }
    jobs
}

#[tokio::test]
async fn acts_answer_as_the_table_says() {
    use ActAnswer::{Done, Refused, Requested, Unchanged};
    use JobState::{Active, Cancelled, Completed, Delayed, Failed, Waiting};
    // In the order Waiting, Delayed, Active, Completed, Failed, Cancelled.
    let table = [
        (
            Act::Cancel,
            [Done(Cancelled), Done(Cancelled), Requested, Refused(Completed), Refused(Failed), Unchanged(Cancelled)],
        ),
        (
            Act::Retry { reset: false },
            [Unchanged(Waiting), Unchanged(Delayed), Unchanged(Active), Done(Waiting), Done(Waiting), Done(Waiting)],
        ),
        (
            Act::Promote,
            [
                Unchanged(Waiting),
                Done(Waiting),
                Refused(Active),
                Refused(Completed),
                Refused(Failed),
                Refused(Cancelled),
            ],
        ),
        (
            Act::Reschedule(Start::After(SECOND)),
            [Done(Delayed), Done(Delayed), Refused(Active), Refused(Completed), Refused(Failed), Refused(Cancelled)],
        ),
        (
            Act::SetPriority(Priority(1)),
            [Done(Waiting), Done(Delayed), Done(Active), Refused(Completed), Refused(Failed), Refused(Cancelled)],
        ),
        (
            Act::SetPriority(Priority(128)),
            [
                Unchanged(Waiting),
                Unchanged(Delayed),
                Unchanged(Active),
                Refused(Completed),
                Refused(Failed),
                Refused(Cancelled),
            ],
        ),
        (Act::Remove, [Done(Waiting), Done(Delayed), Refused(Active), Done(Completed), Done(Failed), Done(Cancelled)]),
    ];
    for (act, expected) in table {
        let b = Bench::new();
        let jobs = one_of_each(&b).await;
        for ((state, id), expected) in jobs.into_iter().zip(expected) {
            let before = b.record(id).await;
            let answer = b.act(id, act.clone()).await;
            assert_eq!(answer, expected, "{act:?} of a {state} job");
            if matches!(answer, Refused(_) | Unchanged(_)) {
                assert_eq!(b.record(id).await, before, "{act:?} of a {state} job changed it");
            }
        }
    }
}

#[tokio::test]
async fn a_cancel_request_is_told_at_renewal_and_logged_once() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    let lease = b.take().await.lease;
    assert_eq!(b.act(id, Act::Cancel).await, ActAnswer::Requested);
    assert_eq!(b.act(id, Act::Cancel).await, ActAnswer::Requested);
    let renew = ferroq_core::storage::RenewRequest { queue: b.q.clone(), leases: vec![lease], term: TERM };
    let told = ferroq_core::storage::RenewAnswer::Renewed { cancel_requested: true };
    assert_eq!(b.store.renew(renew).await.unwrap(), [told]);
    b.settle(lease, failed(SECOND)).await;
    assert_eq!(b.record(id).await.state, JobState::Cancelled);
    assert_eq!(b.log().await[2..], [EventKind::CancelRequested, EventKind::Cancelled]);
}

#[tokio::test]
async fn a_retry_keeps_or_resets_the_counters_and_clears_the_end() {
    let b = Bench::new();
    let id = b.add(b.spec_with(|options| options.max_attempts = 1)).await;
    for (reset, attempts) in [(false, 1), (true, 0)] {
        let lease = b.take().await.lease;
        b.settle(lease, failed(SECOND)).await;
        assert_eq!(b.act(id, Act::Retry { reset }).await, ActAnswer::Done(JobState::Waiting));
        let record = b.record(id).await;
        assert_eq!(
            (record.attempts, record.failure, record.finished_at, record.prune_at),
            (attempts, None, None, None)
        );
        assert!(!record.notes.errors.is_empty());
    }
}

#[tokio::test]
async fn a_retry_of_a_job_whose_key_has_a_new_holder_says_who() {
    let b = Bench::new();
    let old = b.add(b.keyed(DedupMode::UntilFinished)).await;
    b.act(old, Act::Cancel).await;
    let new = b.add(b.keyed(DedupMode::UntilFinished)).await;
    assert_eq!(b.act(old, Act::Retry { reset: true }).await, ActAnswer::DedupHeld(new));
    assert_eq!(b.record(old).await.state, JobState::Cancelled);
    b.act(new, Act::Remove).await;
    assert_eq!(b.act(old, Act::Retry { reset: true }).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(b.enqueue(b.keyed(DedupMode::UntilFinished)).await, EnqueueAnswer::Duplicate(old));
}

#[tokio::test]
async fn rescheduling_takes_a_job_off_its_shelf() {
    let b = Bench::new();
    let id = b.add(JobSpec { kind: kind("u"), ..b.spec() }).await;
    b.claim(1).await;
    assert_eq!(b.act(id, Act::Reschedule(Start::Now)).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(b.record(id).await.slot, Slot::Lane);
    assert!(b.store.counts(&b.q).await.unwrap().shelved.is_empty());
}

#[tokio::test]
async fn an_act_by_filter_walks_in_steps_and_touches_only_what_matches() {
    let b = Bench::new();
    let mut odd = Vec::new();
    for number in 0..5 {
        let name = if number % 2 == 1 { "odd" } else { "k" };
        let id = b.add(JobSpec { kind: kind(name), ..b.spec() }).await;
        if number % 2 == 1 {
            odd.push(id);
        }
    }
    let filter = JobFilter { kind: Some(kind("odd")), ..JobFilter::states([JobState::Waiting]) };
    let (mut after, mut seen, mut steps) = (None, Vec::new(), 0);
    loop {
        let on = Selection::Filter { filter: filter.clone(), after, max_items: 2 };
        let request = ActRequest { call: None, queue: b.q.clone(), on, act: Act::Cancel };
        let report = b.store.act(request).await.unwrap();
        seen.extend(report.answers.iter().map(|(id, _)| *id));
        steps += 1;
        after = report.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((seen, steps), (odd, 3));
    assert_eq!(b.store.counts(&b.q).await.unwrap().waiting, 3);
}

#[tokio::test]
async fn obliterate_spares_active_jobs_unless_forced_and_leaves_nothing() {
    let b = Bench::new();
    b.add(b.keyed(DedupMode::For(HOUR))).await;
    let lease = b.take().await.lease;
    b.add(b.spec()).await;
    b.configure(|config| config.event_entries_kept = 5).await;
    let go = |force| b.store.obliterate(&b.q, force, 1);
    assert_eq!(go(false).await.unwrap(), ObliterateAnswer::Active(1));
    assert_eq!(b.store.counts(&b.q).await.unwrap().live(), 2);
    assert_eq!(go(true).await.unwrap(), ObliterateAnswer::More(1));
    assert_eq!(go(true).await.unwrap(), ObliterateAnswer::Done);
    assert_eq!(go(true).await.unwrap(), ObliterateAnswer::Done);
    assert!(b.store.queues().await.unwrap().is_empty());
    assert_eq!(b.store.config(&b.q).await.unwrap(), QueueConfig::default());
    assert_eq!(b.settle(lease, done()).await, SettleAnswer::Gone);
    let id = b.add(b.keyed(DedupMode::For(HOUR))).await;
    assert_eq!(b.record(id).await.seq, 1);
}

#[tokio::test]
async fn acts_on_a_queue_that_does_not_exist_find_nothing() {
    let b = Bench::new();
    assert_eq!(b.act(JobId::new(), Act::Remove).await, ActAnswer::NotFound);
    assert!(!b.store.set_paused(&b.q, false).await.unwrap());
    assert_eq!(
        b.store.queues().await.unwrap(),
        std::slice::from_ref(&b.q),
        "but pausing is a setting, and makes it exist"
    );
}
