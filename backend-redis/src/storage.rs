//! The handle: one way to the server, the names of the queues that it has seen, and the hints for those who wait here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ferroq_core::job::QueueName;
use ferroq_core::storage::{Capabilities, SignalHub, Storage, StorageError};
use redis::{Cmd, Value};
use tokio::runtime::Handle;

use crate::combine::Gates;
use crate::keys::QueueKeys;
use crate::link::Link;
use crate::options::RedisOptions;
use crate::outbox::HeldUp;
use crate::probe::{self, Probe, RedisReport};
use crate::registry::Registry;
use crate::script::Script;
use crate::signals::Listener;

/// ferroq's storage on a Redis or Valkey server, behind Sentinels, or in a Cluster.
pub struct RedisStorage {
    pub(crate) link: Link,
    pub(crate) options: Arc<RedisOptions>,
    pub(crate) hub: SignalHub,
    pub(crate) gates: Gates,
    pub(crate) listener: Listener,
    pub(crate) registry: Registry,
    /// The runtime that the handle was opened on; its tasks do the handle's work.
    pub(crate) runtime: Handle,
    pub(crate) held_up: HeldUp,
    probe: Probe,
    keys: Mutex<HashMap<QueueName, QueueKeys>>,
}

impl fmt::Debug for RedisStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStorage").field("options", &self.options).finish_non_exhaustive()
    }
}

impl RedisStorage {
    /// Connects, and looks at what the server is and does with what it is given. Warnings are logged, and in the
    /// [`report`](Self::report). The handle's work is done by tasks of the runtime that calls this.
    ///
    /// # Errors
    /// `Invalid` for options that make no sense, all named at once; `Unavailable` if the server can't be reached;
    /// `Denied` if it refuses the user or a right is missing; `Unsupported` for a version before 7.0, or a memory policy
    /// that evicts keys, unless that is accepted.
    pub async fn open(options: RedisOptions) -> Result<Self, StorageError> {
        let link = Link::open(&options).await?;
        let probe = probe::probe(&link, &options).await?;
        for warning in &probe.report.warnings {
            tracing::warn!(server = %probe.report.server, "{warning}");
        }
        Ok(Self::with(link, Arc::new(options), probe))
    }

    fn with(link: Link, options: Arc<RedisOptions>, probe: Probe) -> Self {
        let hub = SignalHub::default();
        RedisStorage {
            listener: Listener::new(link.clone(), hub.clone(), Handle::current()),
            registry: Registry::new(link.clone(), &options.namespace),
            link,
            options,
            held_up: HeldUp::default(),
            hub,
            gates: Gates::default(),
            runtime: Handle::current(),
            probe,
            keys: Mutex::default(),
        }
    }

    /// What the server is, and what may be lost on it: as it was when this handle was opened.
    pub fn report(&self) -> &RedisReport {
        &self.probe.report
    }

    /// The names of a queue's keys.
    pub(crate) fn keys(&self, queue: &QueueName) -> QueueKeys {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match keys.get(queue) {
            Some(keys) => keys.clone(),
            None => {
                let made = QueueKeys::new(&self.options.namespace, queue);
                keys.insert(queue.clone(), made.clone());
                made
            }
        }
    }

    /// The clock's reading as scripts take it: nothing, unless a clock was injected.
    pub(crate) fn clock_arg(&self) -> String {
        self.options.clock.as_ref().map(|clock| clock.now().as_micros().to_string()).unwrap_or_default()
    }

    /// Runs a script on a queue.
    pub(crate) async fn run(
        &self,
        script: &Script,
        keys: &QueueKeys,
        answers: &str,
        args: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<Value, StorageError> {
        Ok(script.call(&self.link, keys, answers, args).await?)
    }
}

#[async_trait]
impl Storage for RedisStorage {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none("redis");
        capabilities.persistent = true;
        capabilities.shared_across_processes = true;
        capabilities.durability = self.probe.report.durability;
        capabilities
    }

    async fn second_handle(&self) -> Result<Arc<dyn Storage>, StorageError> {
        if self.link.is_closed() {
            return Err(crate::error::closed());
        }
        let link = Link::open(&self.options).await?;
        Ok(Arc::new(Self::with(link, self.options.clone(), self.probe.clone())))
    }

    async fn close(&self) {
        self.listener.close();
        self.link.close();
    }
}
