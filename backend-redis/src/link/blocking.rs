//! A connection for commands that make the server hold its answer back. It is of no use to others meanwhile, and its
//! silence is no failure until the command's own time is over.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use super::Link;
use super::cluster::Next;
use super::live::Live;
use crate::error::CallError;

/// A connection of one's own, to the server that has a key. It is made anew when it was lost.
#[derive(Debug)]
pub(crate) struct Blocking {
    link: Link,
    key: String,
    live: Option<Arc<Live>>,
}

impl Blocking {
    pub(super) async fn open(link: Link, key: &str) -> Result<Self, CallError> {
        let mut blocking = Blocking::over(link, key, None);
        blocking.live = Some(blocking.dial().await?);
        Ok(blocking)
    }

    /// Over a connection that exists, if one does.
    pub(super) fn over(link: Link, key: &str, live: Option<Arc<Live>>) -> Self {
        Blocking { link, key: key.to_owned(), live }
    }

    /// The connection, for somebody else.
    pub(super) fn into_live(self) -> Option<Arc<Live>> {
        self.live
    }

    /// Sends a command and waits for its answer. `timeout` must be longer than the time for which the command itself may
    /// block: after it the connection is given up.
    ///
    /// Dropping this leaves the command running, so the connection is given up then too.
    pub(crate) async fn call(&mut self, cmd: &Cmd, timeout: Duration) -> Result<Value, CallError> {
        if self.link.is_closed() {
            return Err(CallError::closed());
        }
        let mut live = match self.live.take() {
            Some(live) if live.is_good() => live,
            _ => self.dial().await?,
        };
        let (mut hop, mut asking) = (0, false);
        loop {
            let end = EndUnlessKept(Some(&live));
            let answer =
                if asking { live.call_alone_asking(cmd, timeout).await } else { live.call_alone(cmd, timeout).await };
            let error = match answer {
                Err(error) => error,
                answer => {
                    end.keep();
                    // Even if the key is not at home there: the node will say so next time.
                    self.live = Some(live);
                    return answer;
                }
            };
            hop += 1;
            match self.link.next(&self.key, &live.address, &error, hop).await {
                Next::To { address, asking: ask } => {
                    drop(end);
                    live = Arc::new(self.link.dialer.dial(&address).await?);
                    asking = ask;
                }
                Next::Nowhere => {
                    if !error.is_about_the_server() {
                        end.keep();
                        self.live = Some(live);
                    }
                    return Err(self.link.explain(error).await);
                }
            }
        }
    }

    /// The shared connection knows where to go and how often to try.
    async fn dial(&self) -> Result<Arc<Live>, CallError> {
        let shared = self.link.line_of(&self.key).await?.live().await?;
        Ok(Arc::new(self.link.dialer.dial(&shared.address).await?))
    }
}

/// Ends a connection whose caller went away, or that leads to the wrong place.
pub(super) struct EndUnlessKept<'a>(pub(super) Option<&'a Arc<Live>>);

impl EndUnlessKept<'_> {
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for EndUnlessKept<'_> {
    fn drop(&mut self) {
        if let Some(live) = self.0 {
            live.end();
        }
    }
}
