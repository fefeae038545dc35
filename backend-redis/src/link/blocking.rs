//! A connection for commands that make the server hold its answer back. It is of no use to others meanwhile, and its
//! silence is no failure until the command's own time is over.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use super::Link;
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
        let mut blocking = Blocking { link, key: key.to_owned(), live: None };
        blocking.live = Some(blocking.dial().await?);
        Ok(blocking)
    }

    /// Sends a command and waits for its answer. `timeout` must be longer than the time for which the command itself may
    /// block: after it the connection is given up.
    ///
    /// Dropping this leaves the command running, so the connection is given up then too.
    pub(crate) async fn call(&mut self, cmd: &Cmd, timeout: Duration) -> Result<Value, CallError> {
        if self.link.is_closed() {
            return Err(CallError::closed());
        }
        let live = match self.live.take() {
            Some(live) if live.is_good() => live,
            _ => self.dial().await?,
        };
        let giving_up = GiveUp(Some(live));
        let Some(live) = &giving_up.0 else { return Err(CallError::closed()) };
        let answer = live.call_alone(cmd, timeout).await;
        match &answer {
            Err(error) if error.is_about_the_server() => {}
            _ => self.live = giving_up.keep(),
        }
        answer
    }

    /// The shared connection knows where to go and how often to try.
    async fn dial(&self) -> Result<Arc<Live>, CallError> {
        let shared = self.link.line_of(&self.key).await?.live().await?;
        Ok(Arc::new(self.link.dialer.dial(&shared.address).await?))
    }
}

/// Ends a connection whose caller went away.
struct GiveUp(Option<Arc<Live>>);

impl GiveUp {
    fn keep(mut self) -> Option<Arc<Live>> {
        self.0.take()
    }
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.end();
        }
    }
}
