//! The event log of a queue: the last entries, one per call that made something happen, and the number of those that
//! fell off the end, from which every entry's cursor follows.

use std::collections::VecDeque;

use async_trait::async_trait;
use ferroq_core::clock::Timestamp;
use ferroq_core::event::{Event, EventBatch, EventCursor};
use ferroq_core::job::QueueName;
use ferroq_core::storage::{EventLog, EventPage, StorageError};

use crate::MemoryStorage;

/// A capped log of entries.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<(Timestamp, EventBatch)>,
    dropped: u64,
}

impl Log {
    /// Adds an entry, unless nothing happened, and drops the oldest beyond `entries_kept`.
    pub(crate) fn append(&mut self, at: Timestamp, batch: EventBatch, entries_kept: u64) {
        if batch.is_empty() {
            return;
        }
        self.entries.push_back((at, batch));
        while self.entries.len() as u64 > entries_kept {
            self.entries.pop_front();
            self.dropped += 1;
        }
    }

    fn last(&self) -> EventCursor {
        EventCursor(self.dropped + self.entries.len() as u64)
    }

    fn page(&self, after: EventCursor, entries_max: usize) -> EventPage {
        // A cursor from beyond the end was given out before the queue was obliterated: what it pointed at is lost.
        let foreign = after > self.last();
        let from = if foreign { self.dropped } else { after.0.max(self.dropped) };
        let skip = usize::try_from(from - self.dropped).unwrap_or(usize::MAX);
        let mut page = EventPage { events: Vec::new(), next: EventCursor(from), missed: foreign || from > after.0 };
        for (at, batch) in self.entries.iter().skip(skip).take(entries_max) {
            let cursor = EventCursor(page.next.0 + 1);
            page.events.extend(batch.iter().map(|(kind, job)| Event { cursor, at: *at, kind, job }));
            page.next = cursor;
        }
        page
    }
}

#[async_trait]
impl EventLog for MemoryStorage {
    async fn events(
        &self,
        queue: &QueueName,
        after: EventCursor,
        max_entries: usize,
    ) -> Result<EventPage, StorageError> {
        self.read(queue, |queue| queue.log.page(after, max_entries))
    }

    async fn last_event(&self, queue: &QueueName) -> Result<EventCursor, StorageError> {
        self.read(queue, |queue| queue.log.last())
    }
}
