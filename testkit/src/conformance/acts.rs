//! What an operator can do with jobs: the whole table of acts and states, one by one and by filter.

use ferroq_core::job::{JobRecord, LaneKey, Tag};

use super::prelude::*;

topic! {
    ($) acts, __conformance_acts:
    the_table_of_acts_holds,
    a_refused_or_unchanged_act_changes_nothing,
    each_id_gets_its_own_answer,
    cancel_ends_a_job_that_does_not_run,
    cancel_asks_the_worker_of_an_active_job_once,
    retry_puts_an_ended_job_back_with_its_counters,
    retry_with_reset_counts_from_zero,
    retry_keeps_the_seq_and_forgets_the_end,
    retry_of_a_job_out_of_attempts_gives_it_one_more_failure,
    promote_brings_a_delayed_job_forward,
    reschedule_gives_another_time,
    reschedule_takes_a_job_off_its_shelf,
    set_priority_moves_a_job_in_its_line,
    set_priority_holds_for_the_next_run_of_an_active_job,
    remove_takes_the_record_away,
    a_filter_acts_on_those_that_match,
    a_filter_walks_in_bounded_steps,
    a_filter_walks_in_the_order_of_the_list,
    an_act_that_moves_jobs_meets_each_once,
    a_filter_by_age_looks_at_the_end,
    acts_on_a_queue_that_does_not_exist_find_nothing,
    acts_are_told_in_the_log,
}

async fn blocked(t: &Scene) -> JobId {
    let id = t.put_one(t.spec()).await;
    let record = JobRecord { state: JobState::Blocked, slot: Slot::Lane, ..t.record(id).await };
    assert_eq!(t.act(id, Act::Remove).await, ActAnswer::Done(JobState::Waiting));
    let page = DumpPage { jobs: vec![record], ..DumpPage::default() };
    let answer = t.storage().restore(&t.queue, page).await.expect("restore");
    assert_eq!(answer.restored, 1);
    id
}

async fn in_state(t: &Scene, state: JobState) -> JobId {
    let first = t.spec().priority(0);
    match state {
        JobState::Waiting => t.put_one(t.spec()).await,
        JobState::Delayed => t.put_one(t.spec().delay(DAY)).await,
        JobState::Blocked => blocked(t).await,
        JobState::Active => {
            let id = t.put_one(first).await;
            assert_eq!(t.claim_one().await.lease.id, id);
            id
        }
        JobState::Completed => t.run(first, completed()).await,
        JobState::Failed => t.run(first, abort()).await,
        JobState::Cancelled => t.run(first, Outcome::Cancelled).await,
    }
}

/// The acts, and what they answer in each state, in the order of the states.
fn table() -> Vec<(Act, [ActAnswer; 7])> {
    use ActAnswer::{Done, Refused, Requested, Unchanged};
    use JobState::{Active, Blocked, Cancelled, Completed, Delayed, Failed, Waiting};
    let refused = JobState::ALL.map(Refused);
    let from = |answers: [ActAnswer; 4]| {
        let [waiting, delayed, blocked, active] = answers;
        [waiting, delayed, blocked, active, refused[4], refused[5], refused[6]]
    };
    let back = Done(Waiting);
    vec![
        (
            Act::Cancel,
            [
                Done(Cancelled),
                Done(Cancelled),
                Done(Cancelled),
                Requested,
                Refused(Completed),
                Refused(Failed),
                Unchanged(Cancelled),
            ],
        ),
        (
            Act::Retry { reset: false },
            [Unchanged(Waiting), Unchanged(Delayed), Refused(Blocked), Unchanged(Active), back, back, back],
        ),
        (Act::Promote, from([Unchanged(Waiting), Done(Waiting), Refused(Blocked), Refused(Active)])),
        (Act::Reschedule(Start::After(HOUR)), from([Done(Delayed), Done(Delayed), Refused(Blocked), Refused(Active)])),
        (Act::Reschedule(Start::Now), from([Done(Waiting), Done(Waiting), Refused(Blocked), Refused(Active)])),
        (Act::SetPriority(Priority(7)), from([Done(Waiting), Done(Delayed), Done(Blocked), Done(Active)])),
        (
            Act::Remove,
            [
                Done(Waiting),
                Done(Delayed),
                Done(Blocked),
                Refused(Active),
                Done(Completed),
                Done(Failed),
                Done(Cancelled),
            ],
        ),
    ]
}

async fn the_table_of_acts_holds(t: &mut Scene) {
    for (act, answers) in table() {
        for (state, expected) in JobState::ALL.into_iter().zip(answers) {
            let id = in_state(t, state).await;
            assert_eq!(t.state(id).await, state);
            assert_eq!(t.act(id, act.clone()).await, expected, "{act:?} of a {state} job");
            match (expected, t.find(id).await) {
                (ActAnswer::Done(_), None) => assert_eq!(act, Act::Remove),
                (ActAnswer::Done(now), Some(record)) => assert_eq!(record.state, now, "{act:?} of a {state} job"),
                (_, found) => assert_eq!(found.map(|record| record.state), Some(state), "{act:?} of a {state} job"),
            }
            // What an act put back in line must not stand in the next one's way.
            let answer = t.storage().obliterate(&t.queue, true, 100).await.expect("obliterate");
            assert_eq!(answer, ObliterateAnswer::Done);
        }
    }
}

async fn a_refused_or_unchanged_act_changes_nothing(t: &mut Scene) {
    for (act, answers) in table() {
        for (state, expected) in JobState::ALL.into_iter().zip(answers) {
            if !matches!(expected, ActAnswer::Refused(_) | ActAnswer::Unchanged(_)) {
                continue;
            }
            let id = in_state(t, state).await;
            let before = t.dump().await;
            let seen = t.last_event().await;
            assert_eq!(t.act(id, act.clone()).await, expected);
            assert_eq!(t.dump().await, before, "{act:?} of a {state} job");
            assert_eq!(t.happened_after(seen).await, [], "{act:?} of a {state} job");
        }
    }
}

async fn each_id_gets_its_own_answer(t: &mut Scene) {
    let nobody = JobId::new();
    let waiting = in_state(t, JobState::Waiting).await;
    let failed = in_state(t, JobState::Failed).await;
    let active = in_state(t, JobState::Active).await;
    let asked = vec![active, nobody, waiting, failed, waiting];
    let report = t.act_on(Selection::Ids(asked), Act::Cancel).await;
    let expected = [
        (active, ActAnswer::Requested),
        (nobody, ActAnswer::NotFound),
        (waiting, ActAnswer::Done(JobState::Cancelled)),
        (failed, ActAnswer::Refused(JobState::Failed)),
        (waiting, ActAnswer::Unchanged(JobState::Cancelled)),
    ];
    assert_eq!((report.answers.as_slice(), report.next), (&expected[..], None));
}

async fn cancel_ends_a_job_that_does_not_run(t: &mut Scene) {
    for state in [JobState::Waiting, JobState::Delayed, JobState::Blocked] {
        let id = in_state(t, state).await;
        t.advance(SECOND);
        t.act(id, Act::Cancel).await;
        let record = t.record(id).await;
        assert_eq!((record.state, record.slot, record.finished_at), (JobState::Cancelled, Slot::Lane, Some(t.clock())));
        assert_eq!(record.prune_at, Some(t.clock().after(DAY)));
    }
    assert_eq!(t.claim(10).await, []);
}

async fn cancel_asks_the_worker_of_an_active_job_once(t: &mut Scene) {
    let id = in_state(t, JobState::Active).await;
    let seen = t.last_event().await;
    assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Requested);
    let record = t.record(id).await;
    assert_eq!((record.state, record.cancel_requested), (JobState::Active, true));
    assert_eq!(t.act(id, Act::Cancel).await, ActAnswer::Requested);
    assert_eq!(t.happened_after(seen).await, [(EventKind::CancelRequested, Some(id))], "asked once");
    assert_eq!(t.settle(record.lease(), released()).await, settled(JobState::Cancelled));
}

/// A job that failed for good after one crash and two failed runs, the second of which left a result of nothing.
async fn failed_with_a_past(t: &Scene) -> JobId {
    let id = t.put_one(t.spec().attempts(2).crashes(5)).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    for _ in 0..2 {
        let claim = t.claim_one().await;
        t.settle(claim.lease, fail(Duration::ZERO)).await;
    }
    assert_eq!(t.state(id).await, JobState::Failed);
    id
}

async fn retry_puts_an_ended_job_back_with_its_counters(t: &mut Scene) {
    let id = failed_with_a_past(t).await;
    t.advance(SECOND);
    assert_eq!(t.act(id, Act::Retry { reset: true }).await, ActAnswer::Done(JobState::Waiting));
    let record = t.record(id).await;
    assert_eq!((record.attempts, record.crashes, record.runs), (0, 0, 3));
    assert_eq!(record.notes.errors.len(), 3, "the past is kept");
    assert_eq!(record.due_at, t.clock());
    let claim = t.claim_one().await;
    assert_eq!((claim.attempts, claim.run), (0, 4));
}

async fn retry_with_reset_counts_from_zero(t: &mut Scene) {
    let id = t.run(t.spec().attempts(5), abort()).await;
    t.act(id, Act::Retry { reset: false }).await;
    assert_eq!(t.record(id).await.attempts, 1);
    let claim = t.claim_one().await;
    t.settle(claim.lease, abort()).await;
    t.act(id, Act::Retry { reset: true }).await;
    assert_eq!(t.record(id).await.attempts, 0);
}

async fn retry_keeps_the_seq_and_forgets_the_end(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, Outcome::Completed { result: Some(Scene::bytes(b"1")) }).await;
    t.put_one(t.spec()).await;
    t.act(id, Act::Retry { reset: false }).await;
    let record = t.record(id).await;
    assert_eq!((record.seq, record.state), (1, JobState::Waiting));
    assert_eq!((record.finished_at, record.prune_at, record.failure), (None, None, None));
    assert_eq!((record.notes.result, record.cancel_requested), (None, false));
    let again = t.claim_one().await;
    assert_eq!(again.lease.id, id, "before the younger one");
    assert!(again.lease.epoch > claim.lease.epoch);
    assert_eq!(t.settle(claim.lease, completed()).await, SettleAnswer::LeaseLost, "the old lease stays stale");
}

async fn retry_of_a_job_out_of_attempts_gives_it_one_more_failure(t: &mut Scene) {
    let id = t.run(t.spec().attempts(1).crashes(9), fail(SECOND)).await;
    t.act(id, Act::Retry { reset: true }).await;
    let claim = t.claim_one().await;
    assert_eq!(t.settle(claim.lease, fail(SECOND)).await, settled(JobState::Failed));
    let cancelled = t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    t.act(cancelled, Act::Cancel).await;
    t.settle(claim.lease, released()).await;
    t.act(cancelled, Act::Retry { reset: false }).await;
    assert!(!t.record(cancelled).await.cancel_requested, "the request to cancel is over");
    let claim = t.claim_one().await;
    assert_eq!(t.settle(claim.lease, released()).await, settled(JobState::Waiting));
}

async fn promote_brings_a_delayed_job_forward(t: &mut Scene) {
    let id = t.put_one(t.spec().delay(DAY)).await;
    t.advance(SECOND);
    assert_eq!(t.act(id, Act::Promote).await, ActAnswer::Done(JobState::Waiting));
    let record = t.record(id).await;
    assert_eq!((record.due_at, record.slot, record.seq), (t.clock(), Slot::Lane, 1));
    assert_eq!(t.claim_one().await.lease.id, id);
    let solo = t.put_one(t.spec().crashes(1).delay(DAY)).await;
    t.act(solo, Act::Promote).await;
    assert_eq!(t.record(solo).await.slot, Slot::Solo);
}

async fn reschedule_gives_another_time(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.act(id, Act::Reschedule(Start::After(HOUR))).await, ActAnswer::Done(JobState::Delayed));
    assert_eq!(t.record(id).await.due_at, t.clock().after(HOUR));
    assert_eq!(t.claim(1).await, []);
    let at = t.clock().after(MINUTE);
    assert_eq!(t.act(id, Act::Reschedule(Start::At(at))).await, ActAnswer::Done(JobState::Delayed));
    assert_eq!(t.record(id).await.due_at, at);
    t.advance(MINUTE);
    let past = Start::At(t.clock().before(DAY));
    assert_eq!(t.act(id, Act::Reschedule(past)).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(t.record(id).await.due_at, t.clock());
    assert_eq!(t.claim_one().await.lease.id, id);
}

async fn reschedule_takes_a_job_off_its_shelf(t: &mut Scene) {
    let put = t.put([t.spec().of_kind("rare"), t.spec().of_kind("rare")]).await;
    t.claim(10).await;
    assert_eq!(t.counts().await.shelved[0].1, 2);
    t.act(put[0], Act::Reschedule(Start::Now)).await;
    assert_eq!((t.state(put[0]).await, t.record(put[0]).await.slot), (JobState::Waiting, Slot::Lane));
    t.act(put[1], Act::Reschedule(Start::After(HOUR))).await;
    assert_eq!((t.state(put[1]).await, t.record(put[1]).await.slot), (JobState::Delayed, Slot::Lane));
    assert_eq!(t.counts().await.shelved, []);
}

async fn set_priority_moves_a_job_in_its_line(t: &mut Scene) {
    let put = t.put_many(3).await;
    assert_eq!(t.act(put[2], Act::SetPriority(Priority(1))).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(t.act(put[2], Act::SetPriority(Priority(1))).await, ActAnswer::Unchanged(JobState::Waiting));
    let record = t.record(put[2]).await;
    assert_eq!((record.priority, record.spec.priority), (Priority(1), Priority::default()));
    assert_eq!(ids(&t.claim(3).await), [put[2], put[0], put[1]]);
    let shelved = t.put([t.spec().of_kind("rare"), t.spec().of_kind("rare")]).await;
    t.claim(10).await;
    t.act(shelved[1], Act::SetPriority(Priority(1))).await;
    let answer = t.claim_as(t.asking_for(&["rare"], 1)).await;
    assert_eq!(ids(&answer.claims), [shelved[1]], "also on a shelf");
}

async fn set_priority_holds_for_the_next_run_of_an_active_job(t: &mut Scene) {
    let put = t.put_many(3).await;
    let claims = t.claim(3).await;
    t.act(put[2], Act::SetPriority(Priority(1))).await;
    t.settle_all(claims.iter().map(|claim| settlement(claim.lease, released())).collect()).await;
    assert_eq!(ids(&t.claim(3).await), [put[2], put[0], put[1]]);
}

async fn remove_takes_the_record_away(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.act(id, Act::Remove).await, ActAnswer::Done(JobState::Waiting));
    assert_eq!(t.find(id).await, None);
    assert_eq!(t.act(id, Act::Remove).await, ActAnswer::NotFound);
    assert_eq!(t.claim(10).await, []);
    assert_eq!(t.storage().queues().await.expect("queues"), std::slice::from_ref(&t.queue), "the queue stays");
}

fn by(filter: JobFilter, after: Option<ListCursor>, max_items: usize) -> Selection {
    Selection::Filter { filter, after, max_items }
}

async fn a_filter_acts_on_those_that_match(t: &mut Scene) {
    let in_lane = |name: &str| {
        let mut spec = t.spec();
        spec.lane = LaneKey::new(name).expect("a good lane");
        spec
    };
    let put = t.put([t.spec().tag("a"), t.spec().of_kind("other"), in_lane("l"), t.spec().tag("a").delay(DAY)]).await;
    let lane = LaneKey::new("l").expect("a good lane");
    let filters = [
        (JobFilter { lane: Some(lane), ..JobFilter::default() }, vec![put[2]]),
        (JobFilter { kind: Some(kind("other")), ..JobFilter::default() }, vec![put[1]]),
        (JobFilter { tag: Some(Tag::new("a").expect("a good tag")), ..JobFilter::default() }, vec![put[0], put[3]]),
        (JobFilter::states([JobState::Delayed]), vec![put[3]]),
        (JobFilter { kind: Some(kind("oth_r")), ..JobFilter::default() }, vec![]),
    ];
    for (place, (filter, expected)) in filters.into_iter().enumerate() {
        let act = Act::SetPriority(Priority(place as u8));
        let report = t.act_on(by(filter, None, 100), act).await;
        let acted: Vec<_> = report.answers.iter().map(|(id, _)| *id).collect();
        assert_eq!((acted, report.next), (expected, None));
        assert!(report.answers.iter().all(|(_, answer)| matches!(answer, ActAnswer::Done(_))));
    }
    let report = t.act_on(by(JobFilter::default(), None, 100), Act::Remove).await;
    assert_eq!(report.answers.len(), 4);
    assert_eq!(t.counts().await, QueueCounts::default());
}

async fn a_filter_walks_in_bounded_steps(t: &mut Scene) {
    let put = t.put((0..7).map(|n| if n % 2 == 0 { t.spec().tag("even") } else { t.spec() })).await;
    let filter = JobFilter { tag: Some(Tag::new("even").expect("a good tag")), ..JobFilter::default() };
    let mut after = None;
    let mut acted = Vec::new();
    let mut steps = 0;
    loop {
        steps += 1;
        let report = t.act_on(by(filter.clone(), after, 2), Act::SetPriority(Priority(250))).await;
        assert!(report.answers.len() <= 2);
        acted.extend(report.answers.iter().map(|(id, _)| *id));
        after = report.next;
        if after.is_none() || steps > 20 {
            break;
        }
    }
    // What was moved behind the others is met again there; each answer says whether it was changed.
    acted.dedup();
    for id in put.iter().step_by(2) {
        assert!(acted.contains(id));
        assert_eq!(t.record(*id).await.priority, Priority(250));
    }
    assert!(steps > 3, "a step looks at no more than two records");
}

async fn a_filter_walks_in_the_order_of_the_list(t: &mut Scene) {
    for state in JobState::ALL {
        in_state(t, state).await;
        in_state(t, state).await;
    }
    t.claim(10).await;
    let listed: Vec<_> = t.list(JobFilter::default(), 3).await.iter().map(|record| record.id()).collect();
    let report = t.act_on(by(JobFilter::default(), None, 1000), Act::Cancel).await;
    assert_eq!(report.answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), listed);
}

async fn an_act_that_moves_jobs_meets_each_once(t: &mut Scene) {
    let put = t.put_many(9).await;
    let mut cancelled = Vec::new();
    let mut after = None;
    for _ in 0..20 {
        let report = t.act_on(by(JobFilter::states([JobState::Waiting]), after, 2), Act::Cancel).await;
        cancelled.extend(report.answers);
        after = report.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(cancelled, put.iter().map(|id| (*id, ActAnswer::Done(JobState::Cancelled))).collect::<Vec<_>>());
}

async fn a_filter_by_age_looks_at_the_end(t: &mut Scene) {
    let old = t.run(t.spec(), completed()).await;
    t.advance(MINUTE);
    let young = t.run(t.spec(), completed()).await;
    t.put_one(t.spec()).await;
    t.advance(Duration::from_micros(1));
    let filter = JobFilter { ended_before: Some(MINUTE), ..JobFilter::default() };
    let report = t.act_on(by(filter, None, 100), Act::Remove).await;
    assert_eq!(report.answers, [(old, ActAnswer::Done(JobState::Completed))]);
    assert!(t.find(young).await.is_some());
    t.advance(MINUTE - Duration::from_micros(1));
    let filter = JobFilter { ended_before: Some(MINUTE), ..JobFilter::default() };
    let report = t.act_on(by(filter, None, 100), Act::Remove).await;
    assert_eq!(report.answers, [], "longer ago than a minute, and not a minute ago");
}

async fn acts_on_a_queue_that_does_not_exist_find_nothing(t: &mut Scene) {
    assert_eq!(t.act(JobId::new(), Act::Cancel).await, ActAnswer::NotFound);
    let report = t.act_on(by(JobFilter::default(), None, 10), Act::Remove).await;
    assert_eq!(report, ActReport::default());
    assert_eq!(t.storage().queues().await.expect("queues"), []);
}

async fn acts_are_told_in_the_log(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let told = [
        (Act::Reschedule(Start::After(HOUR)), EventKind::Rescheduled),
        (Act::Promote, EventKind::Promoted),
        (Act::SetPriority(Priority(3)), EventKind::Rescheduled),
        (Act::Cancel, EventKind::Cancelled),
        (Act::Retry { reset: false }, EventKind::Retried),
        (Act::Remove, EventKind::Removed),
    ];
    for (act, kind) in told {
        let seen = t.last_event().await;
        assert!(matches!(t.act(id, act.clone()).await, ActAnswer::Done(_)), "{act:?}");
        assert_eq!(t.happened_after(seen).await, [(kind, Some(id))], "{act:?}");
    }
}
