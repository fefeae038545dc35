//! The way to the server, kept up through restarts, cuts, silence and failovers. A [`Link`] sends commands over one shared
//! connection per server; what blocks or listens has a connection of its own. A call that failed is never sent again
//! from here: whether that is right is known only to who made it.

mod blocking;
mod dial;
mod line;
mod live;
mod pace;
mod subscriber;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;

use ferroq_core::storage::StorageError;
use redis::{Cmd, Value};

pub(crate) use self::blocking::Blocking;
use self::dial::Dialer;
use self::line::{Line, Target};
use self::live::Live;
#[cfg(test)]
pub(crate) use self::subscriber::Message;
pub(crate) use self::subscriber::{SubscriberSink, SubscriberStream};
use crate::error::{CallError, unsupported};
use crate::options::{RedisOptions, Servers};

/// The way to the server. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    dialer: Arc<Dialer>,
    line: Arc<Line>,
}

impl Link {
    /// Checks the options and connects.
    pub(crate) async fn open(options: &RedisOptions) -> Result<Link, StorageError> {
        options.check()?;
        let dialer = Arc::new(Dialer::new(options)?);
        let target = match &options.servers {
            Servers::One(address) => Target::Fixed(address.clone()),
            Servers::Sentinel { .. } | Servers::Cluster(_) => {
                return Err(unsupported("sentinels and clusters can't be used yet"));
            }
        };
        let line = Line::new(dialer.clone(), target, options.call_timeout);
        line.live().await?;
        Ok(Link { dialer, line })
    }

    /// Sends one command, over a new connection if there is none. Once a connection is lost the next call makes another;
    /// after a failed attempt calls fail at once for a short while, with nothing sent.
    pub(crate) async fn call(&self, cmd: &Cmd) -> Result<Value, CallError> {
        self.line.call(cmd).await
    }

    /// Sends a command to every master; answers come with who gave them.
    pub(crate) async fn call_everywhere(&self, cmd: &Cmd) -> Result<Vec<(String, Value)>, CallError> {
        let live = self.line.live().await?;
        Ok(vec![(live.place.to_string(), self.line.call(cmd).await?)])
    }

    /// A connection of its own to the server that has `key`, for one blocking command at a time.
    pub(crate) async fn blocking(&self, key: &str) -> Result<Blocking, CallError> {
        Blocking::open(self.clone(), key).await
    }

    /// A connection of its own for messages. Channels reach every server of a cluster, so any will do.
    pub(crate) async fn subscriber(&self) -> Result<(SubscriberSink, SubscriberStream), CallError> {
        subscriber::open(self).await
    }

    /// Lets no call through any more. What was sent is still answered.
    pub(crate) fn close(&self) {
        self.line.close();
    }

    fn is_closed(&self) -> bool {
        self.line.is_closed()
    }

    /// A connection to any server that can be reached.
    async fn any_live(&self) -> Result<Arc<Live>, CallError> {
        self.line.live().await
    }

    /// The line to the server that has `key`.
    async fn line_of(&self, _key: &str) -> Result<Arc<Line>, CallError> {
        Ok(self.line.clone())
    }
}
