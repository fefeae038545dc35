//! The role that tells what happened.

use async_trait::async_trait;

use super::StorageError;
use crate::event::{Event, EventCursor};
use crate::job::QueueName;

/// How many entries of a queue's event log are kept, unless its settings say otherwise.
pub const EVENT_ENTRIES_KEPT_DEFAULT: u64 = 10_000;

/// A page of a queue's event log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events, oldest first; entries are never split between pages.
    pub events: Vec<Event>,
    /// Where to read on.
    pub next: EventCursor,
    /// Whether entries after the cursor asked for were dropped before they were read.
    pub missed: bool,
}

/// Tells what happened in a queue.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// The events after a cursor, of at most `max_entries` log entries (one per storage call).
    ///
    /// # Guarantees
    /// Every acknowledged change is in the log, in the order in which it took effect, until it falls off the end. A
    /// reader that resumes from a stored cursor sees each event exactly once, or is told that it `missed` some.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all; how calls share entries may differ, the events and their order do not.
    async fn events(
        &self,
        queue: &QueueName,
        after: EventCursor,
        max_entries: usize,
    ) -> Result<EventPage, StorageError>;

    /// The cursor behind the last entry: to read only what happens from now on.
    ///
    /// # Guarantees
    /// Everything acknowledged before this call is at or before it.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    async fn last_event(&self, queue: &QueueName) -> Result<EventCursor, StorageError>;
}
