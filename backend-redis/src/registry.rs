//! The list of a namespace's queues. A name there is a hint: the queue exists if its settings do. So a name is written
//! before the first call that may make its queue, and again after one that made it, because somebody may have taken it
//! out in between.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferroq_core::job::QueueName;
use redis::{Cmd, Value};

use crate::error::CallError;
use crate::keys;
use crate::link::Link;

/// The list, and what this handle knows to be in it.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    link: Link,
    key: Arc<str>,
    known: Arc<Mutex<HashSet<QueueName>>>,
}

impl Registry {
    pub(crate) fn new(link: Link, namespace: &str) -> Self {
        Registry { link, key: keys::registry(namespace).into(), known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<QueueName>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, cmd: &mut Cmd, queue: &QueueName) -> Result<Value, CallError> {
        let answer = self.link.call(cmd.arg(&*self.key).arg(queue.as_str())).await;
        if answer.is_err() {
            self.known().remove(queue);
        }
        answer.map_err(|error| error.about_key(&self.key))
    }

    /// Whether a queue is listed.
    pub(crate) async fn lists(&self, queue: &QueueName) -> Result<bool, CallError> {
        Ok(self.call(&mut redis::cmd("SISMEMBER"), queue).await? == Value::Int(1))
    }

    /// Sees to it that a queue is listed, once per handle.
    pub(crate) async fn register(&self, queue: &QueueName) -> Result<(), CallError> {
        if self.known().contains(queue) {
            return Ok(());
        }
        // Asked first: a server whose memory is full refuses to add a name even where it is there already, and to pause a
        // queue or to send it a follow-up needs no room.
        if self.lists(queue).await? {
            self.known().insert(queue.clone());
            return Ok(());
        }
        self.add(queue).await
    }

    /// Lists a queue. If that fails, the next call that needs it does it.
    pub(crate) async fn add(&self, queue: &QueueName) -> Result<(), CallError> {
        self.call(&mut redis::cmd("SADD"), queue).await?;
        self.known().insert(queue.clone());
        Ok(())
    }

    /// Takes a queue out of the list.
    pub(crate) async fn remove(&self, queue: &QueueName) -> Result<(), CallError> {
        self.known().remove(queue);
        self.call(&mut redis::cmd("SREM"), queue).await.map(drop)
    }

    /// All names.
    pub(crate) async fn names(&self) -> Result<Value, CallError> {
        let mut cmd = redis::cmd("SMEMBERS");
        self.link.call(cmd.arg(&*self.key)).await.map_err(|error| error.about_key(&self.key))
    }
}
