//! The handle: one way to the server, the names of the queues that it has seen, and the hints for those who wait here.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ferroq_core::job::QueueName;
use ferroq_core::storage::{Capabilities, SignalHub, Storage, StorageError};
use redis::{Cmd, Value};

use crate::combine::Gates;
use crate::error::CallError;
use crate::keys::{self, QueueKeys};
use crate::link::Link;
use crate::options::RedisOptions;
use crate::probe::{self, Probe, RedisReport};
use crate::script::Script;
use crate::signals::Listener;

/// ferroq's storage on a Redis or Valkey server, behind Sentinels, or in a Cluster.
pub struct RedisStorage {
    pub(crate) link: Link,
    pub(crate) options: Arc<RedisOptions>,
    pub(crate) hub: SignalHub,
    pub(crate) gates: Gates,
    pub(crate) listener: Listener,
    probe: Probe,
    keys: Mutex<HashMap<QueueName, QueueKeys>>,
    /// Queues whose names this handle has written to the registry.
    registered: Mutex<HashSet<QueueName>>,
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
            listener: Listener::new(link.clone(), hub.clone()),
            link,
            options,
            hub,
            gates: Gates::default(),
            probe,
            keys: Mutex::default(),
            registered: Mutex::default(),
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

    /// Writes a queue's name to the registry, once per handle. A name there is a hint: the queue exists if its settings
    /// do. So the name is written before the first call that may make the queue.
    pub(crate) async fn register(&self, queue: &QueueName) -> Result<(), CallError> {
        if self.registered.lock().unwrap_or_else(PoisonError::into_inner).contains(queue) {
            return Ok(());
        }
        // Asked first: a server whose memory is full refuses to add a name even where it is there already, and to pause a
        // queue or to send it a follow-up needs no room.
        let mut cmd = redis::cmd("SISMEMBER");
        cmd.arg(keys::registry(&self.options.namespace)).arg(queue.as_str());
        if self.link.call(&cmd).await? == Value::Int(1) {
            self.registered.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone());
            return Ok(());
        }
        self.created(queue).await
    }

    /// Writes a queue's name to the registry: also after a call that made the queue, because somebody may have taken the
    /// name out in between.
    pub(crate) async fn created(&self, queue: &QueueName) -> Result<(), CallError> {
        let mut cmd = redis::cmd("SADD");
        cmd.arg(keys::registry(&self.options.namespace)).arg(queue.as_str());
        self.link.call(&cmd).await?;
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone());
        Ok(())
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
