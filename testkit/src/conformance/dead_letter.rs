//! Dead letters: a job that failed for good leaves a copy on its queue's dead-letter queue, once per failure and with its
//! story; and a redrive brings the copy back as a new job.

use ferroq_core::job::{JobRecord, Origin};

use super::prelude::*;

topic! {
    ($) dead_letter, __conformance_dead_letter:
    a_job_out_of_attempts_leaves_a_copy,
    an_aborted_job_leaves_a_copy,
    a_job_out_of_crashes_leaves_a_copy,
    an_expired_job_leaves_a_copy,
    a_copy_has_what_its_job_had_and_nothing_of_its_enqueue,
    a_copy_tells_the_last_five_errors,
    a_failure_that_is_not_kept_leaves_a_copy_all_the_same,
    a_run_that_failed_and_is_retried_leaves_none,
    what_completed_or_was_cancelled_leaves_none,
    without_a_dead_letter_queue_there_is_none,
    a_repeated_settlement_leaves_one_copy,
    each_failure_of_a_job_leaves_a_copy_of_its_own,
    a_copy_comes_before_the_follow_ups,
    a_copy_holds_no_dedup_key,
    many_failures_in_one_call_keep_their_order,
    a_copy_that_fails_in_turn_leaves_one_copy,
    a_queue_is_not_its_own_dead_letter_queue,
    a_redrive_brings_a_copy_home,
    a_redrive_by_filter_brings_home_what_matches,
    a_copy_is_redriven_once,
    a_repeated_redrive_answers_the_same,
    what_has_no_origin_is_not_redriven,
    a_redriven_job_is_at_home,
    an_active_copy_is_not_redriven,
    a_copy_that_has_ended_is_redriven,
    a_redrive_makes_a_home_that_is_gone_anew,
    a_redriven_job_that_fails_again_leaves_a_new_copy,
    an_origin_survives_a_dump,
}

fn dead() -> QueueName {
    queue_name("dead:letters")
}

async fn with_dead_letters(t: &Scene) {
    t.configure(|config| config.dead_letter = Some(dead())).await;
}

/// All that the dead-letter queue holds, in the order of a list.
async fn letters(t: &Scene) -> Vec<JobRecord> {
    dump_queue(t.storage(), &dead(), 1000).await.jobs
}

/// The only dead letter there is.
async fn letter(t: &Scene) -> JobRecord {
    let mut letters = letters(t).await;
    assert_eq!(letters.len(), 1, "one dead letter: {letters:?}");
    letters.remove(0)
}

/// The origin of a letter.
fn origin(letter: &JobRecord) -> &Origin {
    letter.spec.origin.as_deref().expect("a dead letter has an origin")
}

async fn redrive(t: &Scene, ids: &[JobId]) -> Vec<ActAnswer> {
    let on = Selection::Ids(ids.to_vec());
    let request = ActRequest { call: None, queue: dead(), on, act: Act::Redrive };
    let report = t.storage().act(request).await.expect("act");
    report.answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Lets a job fail, and answers its copy.
async fn failed(t: &Scene) -> JobRecord {
    t.run(t.spec(), abort()).await;
    letter(t).await
}

async fn told(t: &Scene, queue: &QueueName) -> Vec<(EventKind, Option<JobId>)> {
    let page = t.storage().events(queue, EventCursor::default(), 100).await.expect("events");
    page.events.iter().map(|event| (event.kind, event.job)).collect()
}

async fn a_job_out_of_attempts_leaves_a_copy(t: &mut Scene) {
    with_dead_letters(t).await;
    let id = t.put_one(t.spec().attempts(2)).await;
    let first = t.claim_one().await;
    t.settle(first.lease, fail(Duration::ZERO)).await;
    assert!(letters(t).await.is_empty());
    t.advance(SECOND);
    let second = t.claim_one().await;
    t.advance(SECOND);
    t.settle(second.lease, fail(HOUR)).await;
    let copy = letter(t).await;
    assert_eq!((copy.state, copy.seq, copy.created_at), (JobState::Waiting, 1, t.clock()));
    assert_eq!((copy.attempts, copy.crashes, copy.runs, copy.epoch), (0, 0, 0, 0));
    let from = origin(&copy);
    assert_eq!((&from.queue, from.id, from.reason), (&t.queue, id, FailReason::AttemptsExhausted));
    assert_eq!((from.failed_at, from.attempts, from.crashes), (t.clock(), 2, 0));
    assert_eq!(from.errors, t.record(id).await.notes.errors);
    assert_eq!(told(t, &dead()).await, [(EventKind::Enqueued, Some(copy.id()))]);
    assert_ne!(copy.id(), id, "a record is found by its id, whatever its queue");
}

async fn an_aborted_job_leaves_a_copy(t: &mut Scene) {
    with_dead_letters(t).await;
    let id = t.run(t.spec(), abort()).await;
    let copy = letter(t).await;
    assert_eq!((origin(&copy).id, origin(&copy).reason), (id, FailReason::Aborted));
    assert_eq!(origin(&copy).errors[0].message, "it is of no use");
    assert_eq!(t.state(id).await, JobState::Failed, "the job itself is where it was");
}

async fn a_job_out_of_crashes_leaves_a_copy(t: &mut Scene) {
    with_dead_letters(t).await;
    let id = t.put_one(t.spec().crashes(2)).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    assert!(letters(t).await.is_empty());
    t.claim_one().await;
    t.let_leases_expire().await;
    let copy = letter(t).await;
    let from = origin(&copy);
    assert_eq!((from.id, from.reason, from.crashes), (id, FailReason::CrashesExhausted, 2));
    assert_eq!((from.errors.len(), from.errors[1].kind), (2, ErrorKind::Crash));
    assert_eq!(from.failed_at, t.clock());
    t.sweep(10).await;
    assert_eq!(letters(t).await.len(), 1);
}

async fn an_expired_job_leaves_a_copy(t: &mut Scene) {
    with_dead_letters(t).await;
    let id = t.put_one(t.spec().expires_in(SECOND)).await;
    t.advance(MINUTE);
    assert!(t.claim(10).await.is_empty());
    let copy = letter(t).await;
    let from = origin(&copy);
    assert_eq!((from.id, from.reason, from.attempts), (id, FailReason::Expired, 0));
    assert_eq!((from.errors.len(), from.errors[0].kind), (1, ErrorKind::Expired));
    assert_eq!((copy.expires_at, copy.spec.options.expires_in), (None, None), "it is to lie there");
    // It expires again, without ever having been claimed.
    t.act(id, Act::Retry { reset: true }).await;
    t.advance(MINUTE);
    assert!(t.claim(10).await.is_empty());
    assert_eq!(letters(t).await.len(), 2);
}

async fn a_copy_has_what_its_job_had_and_nothing_of_its_enqueue(t: &mut Scene) {
    with_dead_letters(t).await;
    let spec = t.spec().payload(vec![b'9'; 40_000]).priority(7).lifo().delay(HOUR).expires_in(DAY).tag("red").tag("blue");
    let mut spec = spec.attempts(3).crashes(2).dedup("k", DedupMode::WhileKept).options(|options| {
        options.correlation_id = "request-7".parse().ok();
        options.timeout = Some(MINUTE);
        options.keep.failed = KeepFor::Age(DAY);
        options.trace_context = Some("00-trace".to_owned());
    });
    spec.lane = ferroq_core::job::LaneKey::new("red/1").expect("a lane");
    let id = t.put_one(spec.clone()).await;
    t.act(id, Act::SetPriority(Priority(9))).await;
    t.advance(HOUR);
    let claim = t.claim_one().await;
    t.settle(claim.lease, abort()).await;
    let copy = letter(t).await;
    let mut expected = JobSpec { id: copy.id(), queue: dead(), priority: Priority(9), ..spec };
    (expected.lifo, expected.start, expected.dedup) = (false, Start::Now, None);
    expected = expected.options(|options| options.expires_in = None);
    expected.origin = copy.spec.origin.clone();
    assert_eq!(*copy.spec, expected);
    assert_eq!((copy.priority, copy.seq, copy.state, copy.due_at), (Priority(9), 1, JobState::Waiting, t.clock()));
    let at_home = t.find(id).await.expect("the job's own record");
    assert_eq!((at_home.spec.payload.len(), &at_home.spec.origin), (40_000, &None));
}

async fn a_copy_tells_the_last_five_errors(t: &mut Scene) {
    with_dead_letters(t).await;
    let long = "é".repeat(2000);
    let id = t.put_one(t.spec().attempts(7)).await;
    for _ in 0..7 {
        let lease = t.claim_one().await.lease;
        let error = RunError::new(ErrorKind::Timeout, long.clone());
        t.settle(lease, Outcome::Retry { error, delay: Duration::ZERO }).await;
        t.advance(SECOND);
    }
    let copy = letter(t).await;
    let runs: Vec<_> = origin(&copy).errors.iter().map(|error| (error.run, error.message.len())).collect();
    assert_eq!(runs, [3, 4, 5, 6, 7].map(|run| (run, 2048)));
    assert_eq!(origin(&copy).errors, t.record(id).await.notes.errors);
}

async fn a_failure_that_is_not_kept_leaves_a_copy_all_the_same(t: &mut Scene) {
    t.configure(|config| {
        config.dead_letter = Some(dead());
        config.retention.failed = KeepRule::REMOVE;
    })
    .await;
    let spec = t.spec().payload(vec![b'5'; 20_000]);
    let id = t.run(spec.clone(), abort()).await;
    assert_eq!(t.find(id).await, None);
    let copy = letter(t).await;
    assert_eq!((origin(&copy).id, &copy.spec.payload), (id, &spec.payload));
}

async fn a_run_that_failed_and_is_retried_leaves_none(t: &mut Scene) {
    with_dead_letters(t).await;
    t.run(t.spec(), fail(HOUR)).await;
    t.run(t.spec(), snoozed(HOUR)).await;
    t.run(t.spec(), released()).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    assert!(letters(t).await.is_empty());
}

async fn what_completed_or_was_cancelled_leaves_none(t: &mut Scene) {
    with_dead_letters(t).await;
    t.run(t.spec(), completed()).await;
    t.run(t.spec(), Outcome::Cancelled).await;
    let waiting = t.put_one(t.spec().delay(HOUR)).await;
    t.act(waiting, Act::Cancel).await;
    // What somebody asked to cancel is Cancelled, also if it fails on its last attempt or its worker dies.
    for outcome in [Some(abort()), None] {
        let id = t.put_one(t.spec().attempts(1).crashes(1)).await;
        let lease = t.claim_one().await.lease;
        assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Requested);
        match outcome {
            Some(outcome) => drop(t.settle(lease, outcome).await),
            None => drop(t.let_leases_expire().await),
        }
        assert_eq!(t.state(id).await, JobState::Cancelled);
    }
    let removed = t.put_one(t.spec()).await;
    t.act(removed, Act::Remove).await;
    assert!(letters(t).await.is_empty());
    assert_eq!(t.storage().queues().await.expect("queues"), std::slice::from_ref(&t.queue));
}

async fn without_a_dead_letter_queue_there_is_none(t: &mut Scene) {
    t.run(t.spec(), abort()).await;
    with_dead_letters(t).await;
    assert!(letters(t).await.is_empty(), "it applies to jobs that fail from then on");
    t.configure(|config| config.dead_letter = None).await;
    t.run(t.spec(), abort()).await;
    assert!(letters(t).await.is_empty());
}

async fn a_repeated_settlement_leaves_one_copy(t: &mut Scene) {
    with_dead_letters(t).await;
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    let call = t.call();
    let first = t.exchange(Some(call), vec![settlement(lease, abort())], None).await;
    let again = t.exchange(Some(call), vec![settlement(lease, abort())], None).await;
    assert_eq!(first, again);
    assert_eq!(t.settle(lease, abort()).await, SettleAnswer::AlreadyDone);
    assert_eq!(letters(t).await.len(), 1);
}

async fn each_failure_of_a_job_leaves_a_copy_of_its_own(t: &mut Scene) {
    with_dead_letters(t).await;
    let id = t.run(t.spec(), abort()).await;
    for _ in 0..2 {
        assert_eq!(t.act(id, Act::Retry { reset: true }).await, ActAnswer::Done(JobState::Waiting));
        let lease = t.claim_one().await.lease;
        t.settle(lease, abort()).await;
    }
    let letters = letters(t).await;
    let errors: Vec<_> = letters.iter().map(|copy| (origin(copy).id, origin(copy).errors.len())).collect();
    assert_eq!(errors, [(id, 1), (id, 2), (id, 3)]);
}

async fn a_copy_comes_before_the_follow_ups(t: &mut Scene) {
    with_dead_letters(t).await;
    t.put_one(t.spec()).await;
    let lease = t.claim_one().await.lease;
    let next = spec(&dead());
    let answer = t.settle_with(lease, abort(), [next.clone()]).await;
    let expected = SettleAnswer::Settled { state: JobState::Failed, follow_ups: vec![EnqueueAnswer::Inserted] };
    assert_eq!(answer, expected, "the copy is no follow-up");
    let seqs: Vec<_> = letters(t).await.iter().map(|job| (job.seq, job.id() == next.id)).collect();
    assert_eq!(seqs, [(1, false), (2, true)]);
}

async fn a_copy_holds_no_dedup_key(t: &mut Scene) {
    with_dead_letters(t).await;
    t.run(t.spec().dedup("k", DedupMode::UntilFinished), abort()).await;
    let copy = letter(t).await;
    assert_eq!(copy.spec.dedup, None);
    let next = t.put_one(t.spec().dedup("k", DedupMode::UntilFinished)).await;
    assert_eq!(redrive(t, &[copy.id()]).await, [ActAnswer::Done(JobState::Waiting)]);
    assert_eq!(t.counts().await.waiting, 2, "what is redriven comes beside the key's new holder");
    assert_eq!(t.dump().await.dedup[0].holder.id, next);
}

async fn many_failures_in_one_call_keep_their_order(t: &mut Scene) {
    with_dead_letters(t).await;
    let ids = t.put_many(150).await;
    let claims = t.claim(150).await;
    let settlements = claims.iter().enumerate().map(|(place, claim)| {
        settlement(claim.lease, if place % 3 == 0 { completed() } else { abort() })
    });
    t.settle_all(settlements.collect()).await;
    let failed = ids.iter().enumerate().filter(|(place, _)| place % 3 != 0).map(|(_, id)| *id);
    let letters = letters(t).await;
    assert_eq!(letters.iter().map(|copy| origin(copy).id).collect::<Vec<_>>(), failed.collect::<Vec<_>>());
    assert!(letters.iter().all(|copy| copy.spec.payload == t.spec().payload));
}

async fn a_copy_that_fails_in_turn_leaves_one_copy(t: &mut Scene) {
    with_dead_letters(t).await;
    let mut config = t.storage().config(&dead()).await.expect("config");
    config.dead_letter = Some(t.queue.clone());
    t.storage().configure(&dead(), config).await.expect("configure");
    let first = t.run(t.spec(), abort()).await;
    let claim = t.storage().claim(None, &dead(), t.asking(1)).await.expect("claim").claims.remove(0);
    assert_eq!(claim.spec.origin.as_ref().map(|origin| origin.id), Some(first), "whoever works there is told");
    let settled = t.storage().settle(None, &dead(), vec![settlement(claim.lease, abort())]).await;
    assert_eq!(settled.expect("settle")[0], super::prelude::settled(JobState::Failed));
    let back = t.list(JobFilter::states([JobState::Waiting]), 10).await;
    assert_eq!(back.len(), 1);
    assert_eq!((&origin(&back[0]).queue, origin(&back[0]).id), (&dead(), claim.lease.id), "the latest failure is told");
    assert_eq!(letter(t).await.state, JobState::Failed);
}

async fn a_queue_is_not_its_own_dead_letter_queue(t: &mut Scene) {
    with_dead_letters(t).await;
    let mut config = QueueConfig::default();
    config.dead_letter = Some(t.queue.clone());
    let error = t.storage().configure(&t.queue, config.clone()).await.expect_err("refused");
    assert_eq!(error.code(), ErrorCode::Invalid);
    let page = DumpPage { config: Some(config), ..DumpPage::default() };
    let error = t.storage().restore(&t.queue, page).await.expect_err("refused");
    assert_eq!(error.code(), ErrorCode::Invalid);
    assert_eq!(t.storage().config(&t.queue).await.expect("config").dead_letter, Some(dead()), "nothing was changed");
}

async fn a_redrive_brings_a_copy_home(t: &mut Scene) {
    with_dead_letters(t).await;
    let spec = t.spec().payload(vec![b'3'; 30_000]).attempts(1).tag("red");
    let id = t.run(spec.clone(), fail(HOUR)).await;
    let copy = letter(t).await;
    t.advance(HOUR);
    let seen = t.last_event().await;
    assert_eq!(redrive(t, &[copy.id()]).await, [ActAnswer::Done(JobState::Waiting)]);
    assert!(letters(t).await.is_empty());
    let back = t.list(JobFilter::states([JobState::Waiting]), 10).await.remove(0);
    assert!(back.id() != id && back.id() != copy.id(), "it is a new job");
    assert_eq!((back.attempts, back.crashes, back.runs, back.created_at), (0, 0, 0, t.clock()));
    let mut expected = JobSpec { id: back.id(), ..spec };
    expected.origin = copy.spec.origin.clone();
    assert_eq!(*back.spec, expected);
    assert_eq!(t.happened_after(seen).await, [(EventKind::Enqueued, Some(back.id()))]);
    assert_eq!(told(t, &dead()).await.last(), Some(&(EventKind::Removed, Some(copy.id()))));
    let claim = t.claim_one().await;
    assert_eq!((claim.lease.id, claim.attempts), (back.id(), 0));
    assert_eq!(claim.spec.origin.as_deref(), Some(origin(&copy)), "its handler is told");
    assert_eq!(t.state(id).await, JobState::Failed, "the record of what failed stays");
}

async fn a_redrive_by_filter_brings_home_what_matches(t: &mut Scene) {
    with_dead_letters(t).await;
    for tag in ["red", "blue", "red"] {
        t.run(t.spec().tag(tag), abort()).await;
    }
    let own = t.put_one(spec(&dead()).tag("red")).await;
    let filter = JobFilter { tag: "red".parse().ok(), ..JobFilter::default() };
    let on = |after| Selection::Filter { filter: filter.clone(), after, max_items: 2 };
    let (mut answers, mut after) = (Vec::new(), None);
    loop {
        let request = ActRequest { call: None, queue: dead(), on: on(after), act: Act::Redrive };
        let report = t.storage().act(request).await.expect("act");
        answers.extend(report.answers.into_iter().map(|(_, answer)| answer));
        after = report.next;
        if after.is_none() {
            break;
        }
    }
    let done = ActAnswer::Done(JobState::Waiting);
    assert_eq!(answers, [done, done, ActAnswer::Refused(JobState::Waiting)]);
    assert_eq!(t.counts().await.waiting, 2);
    let left: Vec<_> = letters(t).await.iter().map(|job| job.id() == own).collect();
    assert_eq!(left, [false, true], "the blue one stays, and so does what is no dead letter");
}

async fn a_copy_is_redriven_once(t: &mut Scene) {
    with_dead_letters(t).await;
    let copy = failed(t).await.id();
    let done = ActAnswer::Done(JobState::Waiting);
    assert_eq!(redrive(t, &[copy, copy]).await, [done, ActAnswer::NotFound]);
    assert_eq!(redrive(t, &[copy]).await, [ActAnswer::NotFound]);
    assert_eq!(t.counts().await.waiting, 1);
}

async fn a_repeated_redrive_answers_the_same(t: &mut Scene) {
    with_dead_letters(t).await;
    let copy = failed(t).await.id();
    let on = Selection::Ids(vec![copy]);
    let request = ActRequest { call: Some(t.call()), queue: dead(), on, act: Act::Redrive };
    let first = t.storage().act(request.clone()).await.expect("act");
    assert_eq!(first.answers, [(copy, ActAnswer::Done(JobState::Waiting))]);
    assert_eq!(t.storage().act(request).await.expect("act"), first);
    assert_eq!(t.counts().await.waiting, 1);
}

async fn what_has_no_origin_is_not_redriven(t: &mut Scene) {
    let waiting = t.put_one(t.spec()).await;
    let delayed = t.put_one(t.spec().delay(HOUR)).await;
    assert_eq!(t.act(waiting, Act::Redrive).await, ActAnswer::Refused(JobState::Waiting));
    assert_eq!(t.act(delayed, Act::Redrive).await, ActAnswer::Refused(JobState::Delayed));
    let lease = t.claim_one().await.lease;
    assert_eq!(t.act(waiting, Act::Redrive).await, ActAnswer::Refused(JobState::Active));
    t.settle(lease, abort()).await;
    assert_eq!(t.act(waiting, Act::Redrive).await, ActAnswer::Refused(JobState::Failed));
    assert_eq!(t.act(JobId::new(), Act::Redrive).await, ActAnswer::NotFound);
}

async fn a_redriven_job_is_at_home(t: &mut Scene) {
    with_dead_letters(t).await;
    let copy = failed(t).await;
    redrive(t, &[copy.id()]).await;
    let back = t.list(JobFilter::states([JobState::Waiting]), 10).await.remove(0).id();
    assert_ne!(back, copy.id(), "also if no time has passed");
    assert_eq!(t.act(back, Act::Redrive).await, ActAnswer::Refused(JobState::Waiting));
    assert_eq!(t.state(back).await, JobState::Waiting);
}

async fn an_active_copy_is_not_redriven(t: &mut Scene) {
    with_dead_letters(t).await;
    let copy = failed(t).await.id();
    let claim = t.storage().claim(None, &dead(), t.asking(1)).await.expect("claim").claims.remove(0);
    assert_eq!(redrive(t, &[copy]).await, [ActAnswer::Refused(JobState::Active)]);
    let answers = t.storage().settle(None, &dead(), vec![settlement(claim.lease, released())]).await.expect("settle");
    assert_eq!(answers, [settled(JobState::Waiting)]);
    assert_eq!(redrive(t, &[copy]).await, [ActAnswer::Done(JobState::Waiting)]);
}

async fn a_copy_that_has_ended_is_redriven(t: &mut Scene) {
    with_dead_letters(t).await;
    let copy = failed(t).await.id();
    let claim = t.storage().claim(None, &dead(), t.asking(1)).await.expect("claim").claims.remove(0);
    t.storage().settle(None, &dead(), vec![settlement(claim.lease, completed())]).await.expect("settle");
    assert_eq!(redrive(t, &[copy]).await, [ActAnswer::Done(JobState::Completed)]);
    assert!(letters(t).await.is_empty());
    let back = t.list(JobFilter::states([JobState::Waiting]), 10).await.remove(0);
    assert_eq!((back.runs, back.epoch), (0, 0));
}

async fn a_redrive_makes_a_home_that_is_gone_anew(t: &mut Scene) {
    with_dead_letters(t).await;
    let copy = failed(t).await;
    let gone = t.storage().obliterate(&t.queue, false, 100).await.expect("obliterate");
    assert_eq!(gone, ObliterateAnswer::Done);
    assert_eq!(redrive(t, &[copy.id()]).await, [ActAnswer::Done(JobState::Waiting)]);
    let back = t.list(JobFilter::default(), 10).await.remove(0);
    assert_eq!((back.seq, back.spec.origin.as_deref()), (1, Some(origin(&copy))));
}

async fn a_redriven_job_that_fails_again_leaves_a_new_copy(t: &mut Scene) {
    with_dead_letters(t).await;
    let first = failed(t).await;
    redrive(t, &[first.id()]).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, abort()).await;
    let second = letter(t).await;
    assert_ne!(second.id(), first.id());
    assert_eq!((&origin(&second).queue, origin(&second).id), (&t.queue, claim.lease.id));
    assert_eq!(origin(&second).errors.len(), 1, "its own errors, not those of its first life");
}

async fn an_origin_survives_a_dump(t: &mut Scene) {
    with_dead_letters(t).await;
    failed(t).await;
    let page = t.storage().dump(&dead(), None, 10).await.expect("dump");
    let other = t.another_store().await;
    other.storage().restore(&dead(), page.clone()).await.expect("restore");
    assert_eq!(letters(&other).await, page.jobs);
    let home = t.storage().dump(&t.queue, None, 10).await.expect("dump");
    other.storage().restore(&t.queue, home).await.expect("restore");
    assert_eq!(other.storage().config(&t.queue).await.expect("config").dead_letter, Some(dead()));
    other.storage().close().await;
}
