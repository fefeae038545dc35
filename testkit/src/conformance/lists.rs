//! Looking at jobs: counts that equal the records, and walks that meet each once, in a stated order, in pages of any size.

use ferroq_core::job::{LaneKey, Tag};

use super::prelude::*;

topic! {
    ($) lists, __conformance_lists:
    a_queue_that_does_not_exist_is_empty,
    a_job_that_does_not_exist_is_not_found,
    counts_follow_every_move,
    pages_of_any_size_tell_the_same,
    a_list_walks_states_and_lines_in_order,
    a_list_by_filter_holds_those_that_match,
    a_walk_meets_each_job_that_does_not_move_once,
    a_walk_goes_on_where_its_last_job_was_removed,
    a_cursor_survives_its_text_form,
    a_page_of_nothing_is_refused,
    a_delayed_list_is_by_due_time,
    an_ended_list_is_by_prune_time,
}

async fn a_queue_that_does_not_exist_is_empty(t: &mut Scene) {
    assert_eq!(t.counts().await, QueueCounts::default());
    assert_eq!(t.list(JobFilter::default(), 10).await, []);
    assert_eq!(t.dump().await, QueueDump::default());
    assert_eq!(t.storage().queues().await.expect("queues"), []);
}

async fn a_job_that_does_not_exist_is_not_found(t: &mut Scene) {
    let nobody = JobId::new();
    assert_eq!(t.storage().job(None, nobody).await.expect("job"), None);
    assert_eq!(t.find(nobody).await, None);
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.storage().job(Some(&queue_name("another")), id).await.expect("job"), None);
    assert!(t.storage().job(None, id).await.expect("job").is_some());
}

async fn tally(t: &Scene) -> [u64; 7] {
    let counts = t.counts().await;
    JobState::ALL.map(|state| counts.of(state))
}

async fn counts_follow_every_move(t: &mut Scene) {
    t.put([t.spec(), t.spec(), t.spec(), t.spec().delay(SECOND)]).await;
    assert_eq!(tally(t).await, [3, 1, 0, 0, 0, 0, 0]);
    let claims = t.claim(3).await;
    assert_eq!(tally(t).await, [0, 1, 0, 3, 0, 0, 0]);
    t.settle(claims[0].lease, completed()).await;
    assert_eq!(tally(t).await, [0, 1, 0, 2, 1, 0, 0]);
    t.settle(claims[1].lease, fail(HOUR)).await;
    assert_eq!(tally(t).await, [0, 2, 0, 1, 1, 0, 0]);
    t.settle(claims[2].lease, abort()).await;
    assert_eq!(tally(t).await, [0, 2, 0, 0, 1, 1, 0]);
    t.act(claims[1].lease.id, Act::Cancel).await;
    assert_eq!(tally(t).await, [0, 1, 0, 0, 1, 1, 1]);
    t.advance(SECOND);
    t.sweep(10).await;
    assert_eq!(tally(t).await, [1, 0, 0, 0, 1, 1, 1]);
    t.act(claims[0].lease.id, Act::Retry { reset: false }).await;
    assert_eq!(tally(t).await, [2, 0, 0, 0, 0, 1, 1]);
    t.act(claims[2].lease.id, Act::Remove).await;
    assert_eq!(tally(t).await, [2, 0, 0, 0, 0, 0, 1]);
    t.advance(2 * DAY);
    t.sweep(10).await;
    assert_eq!(tally(t).await, [2, 0, 0, 0, 0, 0, 0]);
}

/// A queue with several jobs in each state and line that a caller can bring about.
async fn populate(t: &Scene) {
    for outcome in [completed(), abort(), Outcome::Cancelled] {
        for _ in 0..3 {
            t.run(t.spec().priority(0), outcome.clone()).await;
            t.advance(SECOND);
        }
    }
    let in_lane = |name: &str| {
        let mut spec = t.spec();
        spec.lane = LaneKey::new(name).expect("a good lane");
        spec
    };
    t.put((0..4).map(|_| t.spec().priority(0))).await;
    assert_eq!(t.claim(2).await.len(), 2);
    t.advance(SECOND);
    assert_eq!(t.claim(2).await.len(), 2);
    t.put(["x", "y", "x"].map(|kind| t.spec().of_kind(kind).priority(0))).await;
    assert_eq!(t.claim_as(ClaimSpec { alone: false, ..t.asking(3) }).await.claims, []);
    t.put([5, 200, 5, 128].map(|priority| t.spec().priority(priority))).await;
    t.put([in_lane("a"), in_lane("b"), in_lane("a"), t.spec().lifo(), t.spec().lifo()]).await;
    t.put([t.spec().crashes(1), t.spec().crashes(1).priority(1)]).await;
    t.put([7, 3, 5].map(|hours| t.spec().delay(hours * HOUR))).await;
}

async fn pages_of_any_size_tell_the_same(t: &mut Scene) {
    populate(t).await;
    let all = t.list(JobFilter::default(), 1000).await;
    assert_eq!(all.len(), 9 + 4 + 3 + 9 + 2 + 3);
    for page in [1, 2, 3, 5, all.len() - 1, all.len(), all.len() + 1] {
        assert_eq!(t.list(JobFilter::default(), page).await, all, "in pages of {page}");
        assert_eq!(dump_queue(t.storage(), &t.queue, page).await.jobs, all, "dumped in pages of {page}");
    }
    for state in JobState::ALL {
        let expected: Vec<_> = all.iter().filter(|record| record.state == state).cloned().collect();
        for page in [1, 2, 100] {
            assert_eq!(t.list(JobFilter::states([state]), page).await, expected, "{state} in pages of {page}");
        }
    }
    let some = JobFilter::states([JobState::Cancelled, JobState::Delayed, JobState::Active]);
    let expected: Vec<_> = all.iter().filter(|record| some.allows(record.state)).cloned().collect();
    assert_eq!(t.list(some, 2).await, expected, "the order is the walk's, not the filter's");
}

async fn a_list_walks_states_and_lines_in_order(t: &mut Scene) {
    populate(t).await;
    // The audit checks the order of the walk in every state and line.
    let dump = audit(t.storage(), &t.queue).await;
    let slots: Vec<_> = dump.jobs.iter().filter(|r| r.state == JobState::Waiting).map(|r| r.slot).collect();
    let expected = [vec![Slot::Lane; 9], vec![Slot::Solo; 2], vec![Slot::Shelf; 3]].concat();
    assert_eq!(slots, expected);
}

async fn a_list_by_filter_holds_those_that_match(t: &mut Scene) {
    populate(t).await;
    t.put([t.spec().tag("red").tag("big"), t.spec().tag("blue"), t.spec().tag("re").tag("d").delay(DAY)]).await;
    let all = t.list(JobFilter::default(), 1000).await;
    let tag = |name: &str| Some(Tag::new(name).expect("a good tag"));
    let filters = [
        JobFilter { tag: tag("red"), ..JobFilter::default() },
        JobFilter { tag: tag("re"), ..JobFilter::default() },
        JobFilter { tag: tag("big"), states: vec![JobState::Waiting], ..JobFilter::default() },
        JobFilter { kind: Some(kind("x")), ..JobFilter::default() },
        JobFilter { lane: Some(LaneKey::new("a").expect("a good lane")), ..JobFilter::default() },
        JobFilter { lane: Some(LaneKey::DEFAULT), states: vec![JobState::Waiting], ..JobFilter::default() },
        JobFilter { ended_before: Some(8 * SECOND), ..JobFilter::default() },
        JobFilter { ended_before: Some(Duration::ZERO), states: vec![JobState::Failed], ..JobFilter::default() },
        JobFilter { tag: tag("none"), ..JobFilter::default() },
    ];
    let now = t.storage().now(&t.queue).await.expect("now");
    for (place, filter) in filters.into_iter().enumerate() {
        let expected: Vec<_> = all.iter().filter(|record| filter.matches(record, now)).cloned().collect();
        assert_eq!(expected.is_empty(), place == 8, "{filter:?} tells something apart");
        for page in [1, 4, 1000] {
            assert_eq!(t.list(filter.clone(), page).await, expected, "{filter:?} in pages of {page}");
        }
    }
}

async fn page_after(t: &Scene, after: Option<ListCursor>, max_items: usize) -> Page {
    let request = ListRequest { queue: t.queue.clone(), filter: JobFilter::default(), after, max_items };
    t.storage().list(request).await.expect("list")
}

async fn a_walk_meets_each_job_that_does_not_move_once(t: &mut Scene) {
    let put = t.put_many(8).await;
    let first = page_after(t, None, 4).await;
    // Meanwhile some before and some behind the cursor move, and others come.
    for id in [put[0], put[5]] {
        t.act(id, Act::Cancel).await;
    }
    t.put([t.spec().priority(0), t.spec()]).await;
    let mut met: Vec<_> = first.jobs.iter().map(|record| record.id()).collect();
    let mut after = first.next;
    while after.is_some() {
        let page = page_after(t, after, 2).await;
        met.extend(page.jobs.iter().map(|record| record.id()));
        after = page.next;
        assert!(met.len() < 100, "the walk does not end");
    }
    for id in put.iter().filter(|id| **id != put[0] && **id != put[5]) {
        assert_eq!(met.iter().filter(|one| *one == id).count(), 1);
    }
}

async fn a_walk_goes_on_where_its_last_job_was_removed(t: &mut Scene) {
    let put = t.put_many(6).await;
    let first = page_after(t, None, 3).await;
    t.act(put[2], Act::Remove).await;
    t.act(put[3], Act::Remove).await;
    let second = page_after(t, first.next, 10).await;
    assert_eq!(second.jobs.iter().map(|record| record.id()).collect::<Vec<_>>(), put[4..]);
    assert_eq!(second.next, None);
}

async fn a_cursor_survives_its_text_form(t: &mut Scene) {
    populate(t).await;
    let mut after = None;
    for _ in 0..100 {
        let page = page_after(t, after, 1).await;
        let Some(next) = page.next else { return };
        let text = next.to_string();
        assert_eq!(text.parse(), Ok(next), "{text}");
        after = Some(next);
    }
    panic!("the walk does not end");
}

async fn a_page_of_nothing_is_refused(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let request = ListRequest { queue: t.queue.clone(), filter: JobFilter::default(), after: None, max_items: 0 };
    let error = t.storage().list(request).await.expect_err("a page of nothing");
    assert_eq!(error.code(), ErrorCode::Invalid);
    let error = t.storage().dump(&t.queue, None, 0).await.expect_err("a page of nothing");
    assert_eq!(error.code(), ErrorCode::Invalid);
}

async fn a_delayed_list_is_by_due_time(t: &mut Scene) {
    let put = t.put([3, 1, 2, 1].map(|hours| t.spec().delay(hours * HOUR))).await;
    let listed: Vec<_> = t.list(JobFilter::default(), 2).await.iter().map(|record| record.id()).collect();
    assert_eq!(listed, [put[1], put[3], put[2], put[0]]);
}

async fn an_ended_list_is_by_prune_time(t: &mut Scene) {
    let mut put = Vec::new();
    for hours in [3, 1, 2, 1] {
        let job = t.spec().options(|options| options.keep.failed = KeepFor::Age(hours * HOUR));
        put.push(t.run(job, abort()).await);
    }
    let listed: Vec<_> = t.list(JobFilter::default(), 2).await.iter().map(|record| record.id()).collect();
    assert_eq!(listed, [put[1], put[3], put[2], put[0]]);
}
