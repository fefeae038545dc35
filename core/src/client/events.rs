//! A queue's event log as a stream, from a stored cursor or from now on.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, Stream};

use super::{Client, ClientError};
use crate::event::{Event, EventCursor};
use crate::job::QueueName;

/// How many log entries one read asks for.
const READ_ENTRIES: usize = 200;
/// How long to wait before looking again: at first, and at most, after looks that found nothing.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// What comes out of [`Client::events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventItem {
    /// Something happened.
    Event(Event),
    /// Entries fell off the end of the log before they were read; the next event is the oldest that is left.
    Missed,
}

pub(super) fn follow(
    client: Client,
    queue: QueueName,
    after: EventCursor,
) -> impl Stream<Item = Result<EventItem, ClientError>> + Send {
    struct Reader {
        client: Client,
        queue: QueueName,
        after: EventCursor,
        read: VecDeque<EventItem>,
    }
    let reader = Reader { client, queue, after, read: VecDeque::new() };
    stream::unfold(reader, |mut reader| async move {
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(item) = reader.read.pop_front() {
                return Some((Ok(item), reader));
            }
            match reader.client.storage().events(&reader.queue, reader.after, READ_ENTRIES).await {
                // The cursor stays where it was, so the next poll of the stream reads on from there.
                Err(error) => return Some((Err(error.into()), reader)),
                Ok(page) => {
                    reader.after = page.next;
                    if page.missed {
                        reader.read.push_back(EventItem::Missed);
                    }
                    reader.read.extend(page.events.into_iter().map(EventItem::Event));
                }
            }
            if reader.read.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    })
}
