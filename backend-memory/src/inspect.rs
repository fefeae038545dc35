//! The role that only looks.

use async_trait::async_trait;
use ferroq_core::clock::{self, Timestamp};
use ferroq_core::job::{JobId, JobRecord, JobState, QueueName};
use ferroq_core::storage::{Inspect, ListRequest, Page, QueueCounts, StorageError};

use crate::MemoryStorage;
use crate::storage::{invalid, lock};

#[async_trait]
impl Inspect for MemoryStorage {
    async fn job(&self, queue: Option<&QueueName>, id: JobId) -> Result<Option<JobRecord>, StorageError> {
        if let Some(queue) = queue {
            return self.read(queue, |queue| queue.roster.key(id).map(|key| queue.roster.get(key).clone()));
        }
        self.check_open()?;
        Ok(self.states().into_iter().find_map(|(_, queue)| {
            let queue = lock(&queue);
            queue.roster.key(id).map(|key| queue.roster.get(key).clone())
        }))
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StorageError> {
        let ListRequest { queue, filter, after, max_items } = request;
        if max_items == 0 {
            return Err(invalid("a page of a list looks at one record at least"));
        }
        self.read(&queue, |queue| {
            let (now, _) = clock::advance(queue.last, self.store.clock.now());
            let looked_at = queue.roster.walk(|state| filter.allows(state), after, max_items);
            let next = looked_at.last().map(|(place, _)| *place).filter(|_| looked_at.len() == max_items);
            let records = looked_at.into_iter().map(|(_, key)| queue.roster.get(key));
            Page { jobs: records.filter(|record| filter.matches(record, now)).cloned().collect(), next }
        })
    }

    async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, StorageError> {
        self.read(queue, |queue| {
            let mut counts = QueueCounts::default();
            for state in JobState::ALL {
                *counts.of_mut(state) = queue.roster.count(state);
            }
            counts.shelved = queue.roster.shelved();
            counts.paused = queue.config.paused;
            counts
        })
    }

    async fn queues(&self) -> Result<Vec<QueueName>, StorageError> {
        self.check_open()?;
        let queues = self.states().into_iter();
        Ok(queues.filter(|(_, queue)| lock(queue).exists).map(|(name, _)| name).collect())
    }

    async fn now(&self, queue: &QueueName) -> Result<Timestamp, StorageError> {
        self.read(queue, |queue| clock::advance(queue.last, self.store.clock.now()).0)
    }
}
