//! The event log of a queue: a stream whose entries are numbered from 1, one per call that made something happen. The
//! stream keeps the number of its last entry, also when it is trimmed, so cursors stay good.

use async_trait::async_trait;
use ferroq_core::clock::Timestamp;
use ferroq_core::event::{Event, EventCursor, EventKind};
use ferroq_core::job::{JobId, QueueName};
use ferroq_core::storage::{EventLog, EventPage, StorageError};
use redis::Value;

use crate::RedisStorage;
use crate::exchange::strange;
use crate::inspect::{array, count};
use crate::record::bytes_of;
use crate::script::EVENTS;
use crate::spec::{Reader, Unreadable};

/// What the server counts entries with has room for no more.
const ENTRIES_MAX: usize = u32::MAX as usize;

#[async_trait]
impl EventLog for RedisStorage {
    async fn events(
        &self,
        queue: &QueueName,
        after: EventCursor,
        max_entries: usize,
    ) -> Result<EventPage, StorageError> {
        let max_entries = max_entries.min(ENTRIES_MAX);
        let page = self.look(&EVENTS, queue, |cmd| cmd.arg(after.0).arg(max_entries)).await?;
        page_of(queue, page).map_err(|Unreadable| strange("a page of the event log"))
    }

    async fn last_event(&self, queue: &QueueName) -> Result<EventCursor, StorageError> {
        let page = self.look(&EVENTS, queue, |cmd| cmd.arg(0).arg(0)).await?;
        let last = array(page).and_then(|values| cursor(values.into_iter().next()));
        last.map_err(|Unreadable| strange("the end of the event log"))
    }
}

fn cursor(value: Option<Value>) -> Result<EventCursor, Unreadable> {
    let number = value.map_or(Err(Unreadable), bytes_of)?;
    std::str::from_utf8(&number).ok().and_then(|number| number.parse().ok()).ok_or(Unreadable)
}

fn page_of(queue: &QueueName, page: Value) -> Result<EventPage, Unreadable> {
    let mut values = array(page)?.into_iter();
    let _last = cursor(values.next())?;
    let mut page = EventPage { next: cursor(values.next())?, missed: count(values.next())? == 1, events: Vec::new() };
    while let Some(number) = values.next() {
        page.next = cursor(Some(number))?;
        let entry = values.next().map_or(Err(Unreadable), bytes_of)?;
        match entry_of(page.next, &entry) {
            Ok(events) => page.events.extend(events),
            Err(Unreadable) => {
                tracing::warn!(%queue, entry = page.next.0, "a log entry can't be read");
                page.missed = true;
            }
        }
    }
    Ok(page)
}

/// An entry: when, and runs of events of one kind; a run of none is an event about the queue. Kinds that this version does
/// not know are left out.
fn entry_of(cursor: EventCursor, entry: &[u8]) -> Result<Vec<Event>, Unreadable> {
    let mut from = Reader(entry);
    let at = Timestamp::from_micros(from.i64()?);
    let mut events = Vec::new();
    while !from.0.is_empty() {
        let kind = EventKind::from_number(from.u8()?);
        let jobs = from.u32()?;
        let mut event = |job| events.extend(kind.map(|kind| Event { cursor, at, kind, job }));
        if jobs == 0 {
            event(None);
        }
        for _ in 0..jobs {
            event(Some(JobId::from_bytes(from.array()?)));
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: u8, jobs: &[JobId]) -> Vec<u8> {
        let ids = jobs.iter().flat_map(|id| *id.as_bytes());
        [kind].into_iter().chain((jobs.len() as u32).to_be_bytes()).chain(ids).collect()
    }

    #[test]
    fn an_entry_holds_runs_of_events_in_their_order() {
        let cursor = EventCursor(3);
        let jobs = [JobId::new(), JobId::new()];
        let at = Timestamp::from_micros(77);
        let entry = [77_i64.to_be_bytes().to_vec(), run(3, &jobs), run(16, &[]), run(250, &jobs), run(2, &jobs[1..])];
        let event = |kind, job| Event { cursor, at, kind, job };
        let expected = vec![
            event(EventKind::Completed, Some(jobs[0])),
            event(EventKind::Completed, Some(jobs[1])),
            event(EventKind::Paused, None),
            event(EventKind::Started, Some(jobs[1])),
        ];
        assert_eq!(entry_of(cursor, &entry.concat()), Ok(expected), "what a newer library logged is left out");
    }

    #[test]
    fn a_damaged_entry_is_told_and_passed_over() {
        let whole = [77_i64.to_be_bytes().to_vec(), run(0, &[JobId::new()])].concat();
        for cut in 9..whole.len() {
            assert_eq!(entry_of(EventCursor(1), &whole[..cut]), Err(Unreadable), "cut at {cut}");
        }
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let page = vec![
            text("2"),
            text("0"),
            Value::Int(0),
            text("1"),
            Value::BulkString(whole[..20].to_vec()),
            text("2"),
            Value::BulkString(whole),
        ];
        let Ok(queue) = QueueName::new("q") else { panic!("a good name") };
        let Ok(page) = page_of(&queue, Value::Array(page)) else { panic!("a page") };
        assert_eq!((page.events.len(), page.next, page.missed), (1, EventCursor(2), true));
    }
}
