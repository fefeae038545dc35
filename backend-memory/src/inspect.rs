//! The role that only looks.

use async_trait::async_trait;
use ferroq_core::clock::{self, Timestamp};
use ferroq_core::job::{JobId, JobRecord, JobState, LaneKey, QueueName, Slot};
use ferroq_core::policy::batch::SetBack;
use ferroq_core::policy::explain::{
    ActiveJobs, AtGate, COUNTED_MAX, Explanation, Facts, RememberedStarts, WaitingJobs, explain,
};
use ferroq_core::storage::{Inspect, ListRequest, Page, QueueCounts, StorageError};

use crate::MemoryStorage;
use crate::queue::QueueState;
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

    async fn explain(&self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError> {
        let facts = self.read(queue, |queue| queue.facts(id, self.store.clock.now()))?;
        Ok(facts.map_or_else(|| Explanation::unknown(id), |facts| explain(&facts)))
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

impl QueueState {
    fn at_gate(&self, lane: &LaneKey, clock: Timestamp) -> AtGate {
        let lanes = &self.roster.lanes;
        let Some(line) = lanes.line(lane) else { return AtGate::default() };
        let set_back = SetBack::read(lanes.set_back, self.seq_last, self.last, clock);
        let is_led = line.first_key_value().is_some_and(|(_, head)| self.roster.get(*head).batch.is_some());
        AtGate { leader: None, waiting: line.len() as u64, since: self.roster.first_due(line, set_back), is_led }
    }

    /// What is known of a job and of all that may hold it back.
    fn facts(&self, id: JobId, clock: Timestamp) -> Option<Facts> {
        let roster = &self.roster;
        let record = roster.get(roster.key(id)?).clone();
        let lane = &record.spec.lane;
        let active = roster.count(JobState::Active);
        let (of_class, of_lane) = roster.usage.active(lane, active);
        let (queue, class, starts_of_lane) = roster.usage.starts(lane);
        let most = COUNTED_MAX as usize;
        let in_lane = record.state == JobState::Waiting && record.slot == Slot::Lane;
        let at_gate = if in_lane { self.at_gate(lane, clock) } else { AtGate::default() };
        Some(Facts {
            last: self.last,
            clock,
            config: self.config.clone(),
            policy: self.lane_policies.get(lane).cloned(),
            holder: self.keys.written_holder(&record.spec),
            active: ActiveJobs { queue: active, class: of_class, lane: of_lane },
            starts: RememberedStarts { queue, class, lane: starts_of_lane },
            waiting: WaitingJobs {
                in_lanes: roster.lanes.len() as u64,
                shelved: roster.shelved_jobs(),
                delayed: roster.count(JobState::Delayed),
            },
            ahead: roster.ahead(&record, most) as u64,
            lanes_before: if in_lane { roster.lanes.before(lane, most) as u64 } else { 0 },
            at_gate: AtGate { leader: record.batch.and_then(|batch| self.batches.leader(batch)), ..at_gate },
            record,
        })
    }
}
