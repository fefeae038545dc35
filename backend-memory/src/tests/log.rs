//! The event log.

use super::*;

#[tokio::test]
async fn a_cursor_reads_each_event_once_and_is_told_what_it_missed() {
    let b = Bench::new();
    b.configure(|config| config.event_entries_kept = 3).await;
    b.enqueue_all(vec![b.spec(), b.spec()]).await;
    let page = b.store.events(&b.q, EventCursor(0), 9).await.unwrap();
    assert_eq!((page.events.len(), page.next, page.missed), (2, EventCursor(1), false), "one entry per call");
    for _ in 0..3 {
        b.add(b.spec()).await;
    }
    let next = b.store.events(&b.q, page.next, 2).await.unwrap();
    assert_eq!((next.events.len(), next.next, next.missed), (2, EventCursor(3), false));
    b.add(b.spec()).await;
    let page = b.store.events(&b.q, EventCursor(0), 1).await.unwrap();
    assert_eq!((page.events[0].cursor, page.next, page.missed), (EventCursor(3), EventCursor(3), true));
    assert_eq!(b.store.last_event(&b.q).await.unwrap(), EventCursor(5));
}

#[tokio::test]
async fn a_call_that_changes_nothing_leaves_no_entry() {
    let b = Bench::new();
    b.add(b.spec()).await;
    let last = b.store.last_event(&b.q).await.unwrap();
    b.sweep().await;
    b.ask(asking(&[], 1)).await;
    b.ask(asking(&[], 1)).await;
    assert_eq!(b.store.last_event(&b.q).await.unwrap(), EventCursor(last.0 + 1), "the job was shelved, once");
}

#[tokio::test]
async fn a_cursor_of_an_obliterated_queue_is_told_that_it_missed_some() {
    let b = Bench::new();
    b.add(b.spec()).await;
    b.add(b.spec()).await;
    let old = b.store.last_event(&b.q).await.unwrap();
    b.store.obliterate(&b.q, true, 9).await.unwrap();
    b.add(b.spec()).await;
    let page = b.store.events(&b.q, old, 9).await.unwrap();
    assert_eq!((page.events.len(), page.missed), (1, true));
}

#[tokio::test]
async fn pausing_is_logged_once() {
    let b = Bench::new();
    for paused in [true, true, false] {
        b.store.set_paused(&b.q, paused).await.unwrap();
    }
    b.configure(|config| config.paused = true).await;
    assert_eq!(b.log().await, [EventKind::Paused, EventKind::Resumed, EventKind::Paused]);
}
