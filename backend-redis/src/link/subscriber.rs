//! A connection for messages. Nothing is ever sent to a subscriber that has nothing to hear, so a cut that nobody
//! announces would go unnoticed: after a while without a message it pings, and ends when there is no answer.

use std::time::Duration;

use futures::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};

use super::Link;
use crate::error::CallError;

/// Says what to listen to, while somebody else listens.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberSink {
    sink: PubSubSink,
    place: std::sync::Arc<str>,
    call_timeout: Duration,
}

/// The messages of all channels subscribed to.
pub(crate) struct SubscriberStream {
    stream: PubSubStream,
    sink: SubscriberSink,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) channel: String,
    pub(crate) payload: Vec<u8>,
}

pub(super) async fn open(link: &Link) -> Result<(SubscriberSink, SubscriberStream), CallError> {
    let shared = link.any_live().await?;
    let (sink, stream) = link.dialer.dial_pubsub(&shared.address).await?.split();
    let sink = SubscriberSink { sink, place: shared.place.clone(), call_timeout: link.dialer.call_timeout() };
    Ok((sink.clone(), SubscriberStream { stream, sink }))
}

impl SubscriberSink {
    /// Listens to a channel; once this returns, no later message is missed while the connection lasts.
    pub(crate) async fn subscribe(&mut self, channel: &str) -> Result<(), CallError> {
        let (place, timeout) = (self.place.clone(), self.call_timeout);
        bounded(&place, timeout, self.sink.subscribe(channel)).await
    }

    async fn ping(&mut self) -> Result<(), CallError> {
        let (place, timeout) = (self.place.clone(), self.call_timeout);
        bounded(&place, timeout, async { self.sink.ping::<redis::Value>().await.map(drop) }).await
    }
}

async fn bounded(
    place: &std::sync::Arc<str>,
    timeout: Duration,
    act: impl Future<Output = Result<(), redis::RedisError>>,
) -> Result<(), CallError> {
    match tokio::time::timeout(timeout, act).await {
        Ok(answer) => answer.map_err(|error| CallError::from_redis(place, error)),
        Err(_) => Err(CallError::silent(place, timeout)),
    }
}

impl SubscriberStream {
    /// The next message; `None` once the connection is lost, and from then on.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            match tokio::time::timeout(self.sink.call_timeout, self.stream.next()).await {
                Ok(message) => {
                    let message = message?;
                    let channel = message.get_channel_name().to_owned();
                    return Some(Message { channel, payload: message.get_payload_bytes().to_vec() });
                }
                // A server that refuses the ping is there, which is all that was asked.
                Err(_) => match self.sink.ping().await {
                    Err(error) if error.server_code().is_none() => return None,
                    _ => {}
                },
            }
        }
    }
}
