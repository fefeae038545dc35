//! The log: what happened, in the order in which it took effect, read from any place, each event exactly once.

use super::prelude::*;

topic! {
    ($) events, __conformance_events:
    the_log_tells_a_jobs_whole_story,
    the_log_of_a_queue_that_does_not_exist_is_empty,
    the_events_of_one_call_share_an_entry,
    an_entry_is_never_split_between_pages,
    a_reader_that_resumes_sees_each_event_once,
    a_reader_at_the_end_stays_there,
    the_last_cursor_is_behind_everything_acknowledged,
    events_carry_the_storage_time,
    a_call_without_effect_leaves_no_entry,
    queues_have_logs_of_their_own,
    a_reader_that_comes_too_late_is_told,
    entries_within_the_limit_are_kept,
}

async fn the_log_tells_a_jobs_whole_story(t: &mut Scene) {
    let id = t.put_one(t.spec().delay(SECOND).attempts(3).crashes(4)).await;
    t.advance(SECOND);
    let endings = [fail(Duration::ZERO), snoozed(Duration::ZERO), released(), fail(SECOND)];
    for outcome in endings {
        let claim = t.claim_one().await;
        t.settle(claim.lease, outcome).await;
    }
    t.advance(SECOND);
    t.sweep(10).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, fail(SECOND)).await;
    t.act(id, Act::Retry { reset: true }).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    let told: Vec<_> = t.happened_after(EventCursor::default()).await;
    let expected = [
        EventKind::Enqueued,
        EventKind::Promoted,
        EventKind::Started,
        EventKind::Retrying,
        EventKind::Started,
        EventKind::Snoozed,
        EventKind::Started,
        EventKind::Released,
        EventKind::Started,
        EventKind::Retrying,
        EventKind::Promoted,
        EventKind::Started,
        EventKind::Stalled,
        EventKind::Started,
        EventKind::Failed,
        EventKind::Retried,
        EventKind::Started,
        EventKind::Completed,
    ];
    assert_eq!(told, expected.map(|kind| (kind, Some(id))));
}

async fn page(t: &Scene, after: EventCursor, max_entries: usize) -> EventPage {
    t.storage().events(&t.queue, after, max_entries).await.expect("events")
}

async fn the_log_of_a_queue_that_does_not_exist_is_empty(t: &mut Scene) {
    assert_eq!(page(t, EventCursor::default(), 10).await, EventPage::default());
    assert_eq!(t.last_event().await, EventCursor::default());
}

async fn the_events_of_one_call_share_an_entry(t: &mut Scene) {
    let put = t.put_many(3).await;
    let events = t.events_after(EventCursor::default()).await;
    assert_eq!(
        events.iter().map(|event| event.job).collect::<Vec<_>>(),
        put.iter().map(|id| Some(*id)).collect::<Vec<_>>()
    );
    assert!(events.iter().all(|event| event.cursor == events[0].cursor), "{events:?}");
    assert_eq!(events[0].cursor, t.last_event().await);
}

async fn an_entry_is_never_split_between_pages(t: &mut Scene) {
    t.put_many(5).await;
    t.claim(5).await;
    let first = page(t, EventCursor::default(), 1).await;
    assert!(first.events.len() >= 5 && first.events[..5].iter().all(|event| event.kind == EventKind::Enqueued));
    assert_eq!(first.next, first.events[first.events.len() - 1].cursor);
    let all = page(t, EventCursor::default(), 100).await;
    assert_eq!(all.events.len(), 10);
}

async fn a_reader_that_resumes_sees_each_event_once(t: &mut Scene) {
    for _ in 0..10 {
        t.run(t.spec(), completed()).await;
    }
    let all = t.events_after(EventCursor::default()).await;
    assert_eq!(all.len(), 30);
    assert!(all.is_sorted_by_key(|event| event.cursor));
    for max_entries in [1, 2, 7, 1000] {
        let mut read = Vec::new();
        let mut after = EventCursor::default();
        for _ in 0..100 {
            let page = page(t, after, max_entries).await;
            assert!(!page.missed);
            if page.events.is_empty() {
                break;
            }
            after = page.next;
            read.extend(page.events);
        }
        assert_eq!(read, all, "in pages of {max_entries}");
    }
    for event in &all {
        let rest = t.events_after(event.cursor).await;
        let expected: Vec<_> = all.iter().filter(|one| one.cursor > event.cursor).copied().collect();
        assert_eq!(rest, expected);
    }
}

async fn a_reader_at_the_end_stays_there(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let last = t.last_event().await;
    for _ in 0..2 {
        let page = page(t, last, 10).await;
        assert_eq!(page, EventPage { events: vec![], next: last, missed: false });
    }
    let id = t.put_one(t.spec()).await;
    assert_eq!(t.happened_after(last).await, [(EventKind::Enqueued, Some(id))]);
}

async fn the_last_cursor_is_behind_everything_acknowledged(t: &mut Scene) {
    let mut before = EventCursor::default();
    for _ in 0..5 {
        t.put_one(t.spec()).await;
        let last = t.last_event().await;
        assert!(last > before);
        assert_eq!(t.events_after(last).await, []);
        before = last;
    }
}

async fn events_carry_the_storage_time(t: &mut Scene) {
    let first = t.clock();
    t.put_one(t.spec()).await;
    t.advance(MINUTE);
    t.claim_one().await;
    let at: Vec<_> = t.events_after(EventCursor::default()).await.iter().map(|event| event.at).collect();
    assert_eq!(at, [first, t.clock()]);
}

async fn a_call_without_effect_leaves_no_entry(t: &mut Scene) {
    let spec = t.spec();
    t.put_one(spec.clone()).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, completed()).await;
    let last = t.last_event().await;
    t.enqueue([spec]).await;
    t.claim(10).await;
    t.settle(claim.lease, completed()).await;
    t.renew(claim.lease).await;
    t.sweep(10).await;
    t.act(claim.lease.id, Act::Cancel).await;
    t.storage().watch(&t.queue, claim.lease.id).await.expect("watch");
    assert_eq!(t.last_event().await, last);
}

async fn queues_have_logs_of_their_own(t: &mut Scene) {
    let other = queue_name("another");
    let here = t.put_one(t.spec()).await;
    let there = t.put_one(spec(&other)).await;
    assert_eq!(t.happened_after(EventCursor::default()).await, [(EventKind::Enqueued, Some(here))]);
    let events = t.storage().events(&other, EventCursor::default(), 10).await.expect("events").events;
    assert_eq!(events.iter().map(|event| event.job).collect::<Vec<_>>(), [Some(there)]);
}

async fn a_reader_that_comes_too_late_is_told(t: &mut Scene) {
    const KEPT: u64 = 10;
    t.configure(|config| config.event_entries_kept = KEPT).await;
    let mut put = Vec::new();
    // Backends drop entries in strides of their own, so many come.
    for _ in 0..1500 {
        put.push(t.put_one(t.spec().delay(DAY)).await);
        t.act(put[put.len() - 1], Act::Remove).await;
    }
    let last = t.last_event().await;
    let first = page(t, EventCursor::default(), 5000).await;
    assert!(first.missed, "a log that is capped at {KEPT} entries still has all of 3,000");
    assert!(first.events.len() as u64 >= KEPT, "{} events are left", first.events.len());
    assert_eq!(first.events.last().map(|event| event.cursor), Some(last), "those left are the last ones");
    let put: Vec<_> =
        put.into_iter().flat_map(|id| [(EventKind::Enqueued, Some(id)), (EventKind::Removed, Some(id))]).collect();
    let told: Vec<_> = first.events.iter().map(|event| (event.kind, event.job)).collect();
    assert_eq!(told, put[put.len() - told.len()..], "and none is missing among them");
    let resumed = page(t, first.events[0].cursor, 5000).await;
    assert!(!resumed.missed, "a reader that saw the first one left has missed nothing");
    assert_eq!(resumed.events, first.events[1..]);
}

async fn entries_within_the_limit_are_kept(t: &mut Scene) {
    t.configure(|config| config.event_entries_kept = 300).await;
    for _ in 0..299 {
        t.put_one(t.spec()).await;
    }
    assert_eq!(t.events_after(EventCursor::default()).await.len(), 299);
}
