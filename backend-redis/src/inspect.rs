//! The role that only looks: scripts that can't write, so they also run on a server that takes no writes.

use async_trait::async_trait;
use bytes::Bytes;
use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobId, JobKind, JobRecord, JobState, QueueName};
use ferroq_core::policy::explain::Explanation;
use ferroq_core::storage::{Inspect, ListRequest, Page, QueueCounts, StorageError};
use futures::future::join_all;
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::error::invalid;
use crate::exchange::strange;
use crate::record::{self, JobParts, bytes_of};
use crate::script::{COUNTS, FIND, LIST, Script, TIME};
use crate::spec::{Kinds, Reader, Unreadable};
use crate::walk;

/// How many queues are asked at a time when all of them are.
const QUEUES_AT_ONCE: usize = 64;

impl RedisStorage {
    /// Runs a script that only reads, and takes its answer apart.
    pub(crate) async fn look(
        &self,
        script: &Script,
        queue: &QueueName,
        args: impl Fn(&mut Cmd) -> &mut Cmd + Send + Sync,
    ) -> Result<Value, StorageError> {
        let (keys, clock) = (self.keys(queue), self.clock_arg());
        let args = |cmd: &mut Cmd| {
            args(cmd.arg(&clock));
        };
        self.run(script, &keys, &keys.answers(None), args).await
    }

    async fn find(&self, queue: &QueueName, id: JobId) -> Result<Option<JobRecord>, StorageError> {
        let found = self.look(&FIND, queue, |cmd| cmd.arg(id.as_bytes())).await?;
        let records = array(found).and_then(|values| records(queue, values.into_iter()));
        Ok(records.map_err(|Unreadable| strange("a job's record"))?.pop())
    }

    /// The names in the registry. A queue that is named there may be gone, or not be there yet.
    async fn registered_queues(&self) -> Result<Vec<QueueName>, StorageError> {
        let names = match self.registry.names().await? {
            Value::Array(names) | Value::Set(names) => names,
            _ => return Err(strange("the names of queues")),
        };
        let name = |value| std::str::from_utf8(&bytes_of(value).ok()?).ok().and_then(|name| QueueName::new(name).ok());
        let mut queues: Vec<QueueName> = names.into_iter().filter_map(name).collect();
        queues.sort();
        Ok(queues)
    }

    /// Whether the queue exists.
    pub(crate) async fn exists(&self, queue: &QueueName) -> Result<bool, StorageError> {
        let mut cmd = redis::cmd("EXISTS");
        cmd.arg(self.keys(queue).meta());
        Ok(self.link.call(&cmd).await? == Value::Int(1))
    }
}

#[async_trait]
impl Inspect for RedisStorage {
    async fn job(&self, queue: Option<&QueueName>, id: JobId) -> Result<Option<JobRecord>, StorageError> {
        if let Some(queue) = queue {
            return self.find(queue, id).await;
        }
        // A queue that can't be read must not hide a job of another.
        let mut failed = None;
        for queues in self.registered_queues().await?.chunks(QUEUES_AT_ONCE) {
            for found in join_all(queues.iter().map(|queue| self.find(queue, id))).await {
                match found {
                    Ok(Some(record)) => return Ok(Some(record)),
                    Ok(None) => {}
                    Err(error) => failed = Some(error),
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn explain(&self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError> {
        self.explain_now(queue, id).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StorageError> {
        let ListRequest { queue, filter, after, max_items } = request;
        if max_items == 0 {
            return Err(invalid("a page of a list looks at one record at least"));
        }
        let page = self.look(&LIST, &queue, |cmd| walk::step(cmd, &filter, after, max_items)).await?;
        page_of(&queue, page).map_err(|Unreadable| strange("a page of jobs"))
    }

    async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, StorageError> {
        let counted = self.look(&COUNTS, queue, |cmd| cmd).await?;
        counts_of(counted).map_err(|Unreadable| strange("the counts of a queue"))
    }

    async fn queues(&self) -> Result<Vec<QueueName>, StorageError> {
        let registered = self.registered_queues().await?;
        let mut queues = Vec::with_capacity(registered.len());
        for some in registered.chunks(QUEUES_AT_ONCE) {
            let exist = join_all(some.iter().map(|queue| self.exists(queue))).await;
            for (queue, exists) in some.iter().zip(exist) {
                if exists? {
                    queues.push(queue.clone());
                }
            }
        }
        Ok(queues)
    }

    async fn now(&self, queue: &QueueName) -> Result<Timestamp, StorageError> {
        let time = self.look(&TIME, queue, |cmd| cmd).await?;
        let micros = bytes_of(time).and_then(|bytes| Reader(&bytes).i64());
        micros.map(Timestamp::from_micros).map_err(|Unreadable| strange("the time of a queue"))
    }
}

/// The values of an answer that is a list.
pub(crate) fn array(value: Value) -> Result<Vec<Value>, Unreadable> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(Unreadable),
    }
}

/// A number of an answer.
pub(crate) fn count(value: Option<Value>) -> Result<u64, Unreadable> {
    match value {
        Some(Value::Int(number)) => u64::try_from(number).map_err(|_| Unreadable),
        _ => Err(Unreadable),
    }
}

pub(crate) fn records(
    queue: &QueueName,
    values: impl ExactSizeIterator<Item = Value>,
) -> Result<Vec<JobRecord>, Unreadable> {
    let (mut values, mut kinds) = (values, Kinds::default());
    let mut records = Vec::with_capacity(values.len() / 8);
    while values.len() > 0 {
        records.push(record::read(queue, JobParts::take(&mut values)?, &mut kinds));
    }
    Ok(records)
}

/// What `list.lua` answers.
pub(crate) fn page_of(queue: &QueueName, page: Value) -> Result<Page, Unreadable> {
    let mut values = array(page)?.into_iter();
    let next = walk::next(&values.next().map_or(Err(Unreadable), bytes_of)?)?;
    Ok(Page { jobs: records(queue, values)?, next })
}

fn counts_of(counted: Value) -> Result<QueueCounts, Unreadable> {
    let mut values = array(counted)?.into_iter();
    let mut counts = QueueCounts { paused: count(values.next())? == 1, ..QueueCounts::default() };
    // Two more lines of Waiting jobs come before the sets of the other states.
    let lines = [JobState::Waiting; 2].into_iter().chain(JobState::ALL);
    for state in lines {
        *counts.of_mut(state) += count(values.next())?;
    }
    while let Some(kind) = values.next() {
        let (kind, jobs): (Bytes, u64) = (bytes_of(kind)?, count(values.next())?);
        // What nobody can name, nobody can ask for; its jobs are counted among the Waiting.
        if let Some(kind) = std::str::from_utf8(&kind).ok().and_then(|kind| JobKind::new(kind).ok()) {
            counts.shelved.push((kind, jobs));
        }
    }
    counts.shelved.sort();
    Ok(counts)
}

#[cfg(test)]
pub(crate) mod tests;
