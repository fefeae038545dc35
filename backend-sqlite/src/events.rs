//! The role that tells what happened, as work on a unit that reads.

use ferroq_core::Timestamp;
use ferroq_core::event::{Event, EventBatch, EventCursor};
use ferroq_core::job::QueueName;
use ferroq_core::storage::{EventPage, StorageError};
use sqlx::Row as _;

use crate::error::{invalid, unexpected};
use crate::row::{key, seq_of};
use crate::unit::Unit;

/// Entries of a queue's log, by key.
const ENTRIES: &str = "SELECT key,at,body FROM ferroq_events WHERE key>? AND key<=? ORDER BY key LIMIT ?+0";

impl Unit<'_> {
    /// The events after a cursor.
    pub(crate) async fn events(
        &mut self,
        queue: &QueueName,
        after: EventCursor,
        max_entries: usize,
    ) -> Result<EventPage, StorageError> {
        if max_entries == 0 {
            return Err(invalid("a page of the event log of 0 entries was asked for; ask for at least 1"));
        }
        let Some(at) = self.queue(queue).await? else {
            return Ok(EventPage { next: after, ..EventPage::default() });
        };
        let number = self.queues[at].number;
        let (first, last) = self.queues[at].event_range();
        let mut from = i64::try_from(after.0).unwrap_or(i64::MAX);
        let mut page = EventPage { next: after, missed: from.saturating_add(1) < first, ..EventPage::default() };
        if from > last {
            // A cursor of a log that was obliterated since.
            from = 0;
            page = EventPage { missed: true, ..EventPage::default() };
        }
        if from == last {
            return Ok(page);
        }
        let limit = i64::try_from(max_entries).unwrap_or(i64::MAX);
        let values = vec![key(number, from).into(), key(number, last).into(), limit.into()];
        let [rows] = self.ask([(ENTRIES, values)]).await?;
        for row in &rows {
            let entry: i64 = row.try_get(0).map_err(|_| unexpected("an event"))?;
            let at: i64 = row.try_get(1).map_err(|_| unexpected("an event"))?;
            let body: &[u8] = row.try_get_unchecked(2).map_err(|_| unexpected("an event"))?;
            let cursor = EventCursor(seq_of(entry).unsigned_abs());
            page.next = cursor;
            match EventBatch::unpack(body) {
                Ok(batch) => {
                    let at = Timestamp::from_micros(at);
                    page.events.extend(batch.iter().map(|(kind, job)| Event { cursor, at, kind, job }));
                }
                Err(error) => {
                    tracing::warn!(%queue, entry = cursor.0, %error, "a log entry can't be read");
                    page.missed = true;
                }
            }
        }
        Ok(page)
    }

    /// The cursor behind the last entry.
    pub(crate) async fn last_event(&mut self, queue: &QueueName) -> Result<EventCursor, StorageError> {
        let at = self.queue(queue).await?;
        Ok(EventCursor(at.map_or(0, |at| self.queues[at].event_range().1.unsigned_abs())))
    }
}
