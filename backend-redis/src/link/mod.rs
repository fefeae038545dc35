//! The way to the server, kept up through restarts, cuts, silence and failovers. A [`Link`] sends commands over one shared
//! connection per server; what blocks or listens has a connection of its own. A call that may have reached a server is
//! never sent again from here: whether that is right is known only to who made it.

mod blocking;
mod cluster;
mod dial;
mod line;
mod live;
mod pace;
mod sentinel;
mod slots;
mod subscriber;
#[cfg(test)]
mod tests;
mod tls;
mod waiting;

use std::sync::Arc;

use ferroq_core::storage::StorageError;
use redis::{Cmd, Value};

pub(crate) use self::blocking::Blocking;
use self::cluster::{Cluster, Next};
use self::dial::Dialer;
use self::line::{Line, Target};
use self::live::Live;
use self::slots::slot_of;

pub(crate) use self::subscriber::{Message, SubscriberSink, SubscriberStream};
pub use self::waiting::Reached;
use self::waiting::Spares;
use crate::acl::Rights;
use crate::error::CallError;
use crate::options::{RedisOptions, Servers};

/// The way to the server. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    dialer: Arc<Dialer>,
    way: Way,
    spares: Arc<Spares>,
    rights: Arc<Rights>,
}

/// How servers are found.
#[derive(Clone, Debug)]
enum Way {
    /// There is one at a time, by its address or by sentinels.
    One(Arc<Line>),
    /// By a map of slots.
    Cluster(Arc<Cluster>),
}

impl Link {
    /// Checks the options and connects.
    pub(crate) async fn open(options: &RedisOptions) -> Result<Link, StorageError> {
        options.check()?;
        let dialer = Arc::new(Dialer::new(options)?);
        let one = |target| Line::new(dialer.clone(), target);
        let way = match &options.servers {
            Servers::One(address) => Way::One(one(Target::Fixed(address.clone()))),
            Servers::Sentinel { sentinels, master, .. } => {
                Way::One(one(Target::Master { sentinels: sentinels.clone(), master: master.clone() }))
            }
            Servers::Cluster(nodes) => Way::Cluster(Cluster::open(dialer.clone(), nodes).await?),
        };
        let link = Link { dialer, way, spares: Arc::default(), rights: Arc::new(Rights::of(options)) };
        link.any_live().await?;
        Ok(link)
    }

    /// Sends one command, over a new connection if there is none, to the node that has its first key. Once a connection
    /// is lost the next call makes another; after a failed attempt calls fail at once for a short while, with nothing
    /// sent.
    pub(crate) async fn call(&self, cmd: &Cmd) -> Result<Value, CallError> {
        let answer = match &self.way {
            Way::One(line) => line.call(cmd, false).await,
            Way::Cluster(cluster) => cluster.call(cmd).await,
        };
        match answer {
            Err(error) => Err(self.explain(error).await),
            answer => answer,
        }
    }

    /// Sends a command to every master; answers come with who gave them.
    pub(crate) async fn call_everywhere(&self, cmd: &Cmd) -> Result<Vec<(String, Value)>, CallError> {
        let lines = match &self.way {
            Way::One(line) => vec![line.clone()],
            Way::Cluster(cluster) => cluster.all_lines().await?,
        };
        let answers = lines.iter().map(async |line| {
            let place = line.live().await?.place.to_string();
            Ok((place, line.call(cmd, false).await?))
        });
        futures::future::try_join_all(answers).await
    }

    /// The rights that this user lacks on any of the servers, as ACL rules name them; nothing if it has all.
    pub(crate) async fn missing_rights(&self) -> Result<Option<String>, CallError> {
        let answers = self.call_everywhere(&self.rights.question()).await?;
        Ok(answers.iter().find_map(|(_, answer)| self.rights.missing(answer)))
    }

    /// Has an error that is about a missing right say which: Redis does not tell of keys, channels, and what is inside
    /// scripts.
    pub(crate) async fn explain(&self, error: CallError) -> CallError {
        if !error.lacks_a_right() {
            return error;
        }
        match self.missing_rights().await {
            Ok(Some(missing)) => error.lacking(missing),
            // If not even that may be asked, Redis has named what is missing for it.
            Err(why) if why.lacks_a_right() => why,
            _ => error,
        }
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
        match &self.way {
            Way::One(line) => line.close(),
            Way::Cluster(cluster) => cluster.close(),
        }
        self.spares.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        match &self.way {
            Way::One(line) => line.is_closed(),
            Way::Cluster(cluster) => cluster.is_closed(),
        }
    }

    /// Whether this leads to a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.way, Way::Cluster(_))
    }

    /// A connection to any server that can be reached.
    async fn any_live(&self) -> Result<Arc<Live>, CallError> {
        match &self.way {
            Way::One(line) => line.live().await,
            Way::Cluster(cluster) => cluster.any_live().await,
        }
    }

    /// The line to the server that has `key`.
    async fn line_of(&self, key: &str) -> Result<Arc<Line>, CallError> {
        match &self.way {
            Way::One(line) => Ok(line.clone()),
            Way::Cluster(cluster) => cluster.line_of(key).await,
        }
    }

    /// Where to send a call about `key` that failed at `address`.
    async fn next(&self, key: &str, address: &crate::options::Address, error: &CallError, hop: u32) -> Next {
        match &self.way {
            Way::One(_) => Next::Nowhere,
            Way::Cluster(cluster) => cluster.next(slot_of(key.as_bytes()), address, error, hop).await,
        }
    }
}
