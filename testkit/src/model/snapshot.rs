//! Everything that a store holds, as one value: what its dump, its lists, its counts and its event log say.

use std::collections::BTreeMap;

use ferroq_core::Timestamp;
use ferroq_core::event::{EventCursor, EventKind};
use ferroq_core::job::{JobId, JobRecord, JobState, QueueName};
use ferroq_core::policy::lanes::Limited;
use ferroq_core::storage::{
    DedupEntry, JobFilter, ListCursor, ListRequest, PolicyEntry, QueueConfig, QueueCounts, StartsEntry, Storage,
    StorageError,
};

use super::QueueModel;
use super::diff::{debug_differences, record_differences};

/// How many records a page holds: small, so that walks in several steps are tested by the way.
const PAGE_ITEMS: usize = 16;

/// Everything that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By queue.
    pub queues: BTreeMap<QueueName, QueueSnapshot>,
}

/// Everything that a store holds of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSnapshot {
    /// The dump's jobs, in its order.
    pub jobs: Vec<JobRecord>,
    /// The dump's dedup keys.
    pub dedup: Vec<DedupEntry>,
    /// The dump's policies of lanes.
    pub policies: Vec<PolicyEntry>,
    /// The dump's starts.
    pub starts: Vec<StartsEntry>,
    /// The settings.
    pub config: QueueConfig,
    /// What the counts say.
    pub counts: QueueCounts,
    /// What listing each state alone gives.
    pub lists: Vec<(JobState, Vec<JobId>)>,
    /// The event log.
    pub events: Vec<(EventKind, Option<JobId>)>,
    /// Storage time.
    pub now: Timestamp,
}

impl Snapshot {
    /// Reads everything. Exact if nobody works on the store meanwhile.
    ///
    /// # Errors
    /// What the store answered.
    pub async fn take(storage: &dyn Storage) -> Result<Snapshot, StorageError> {
        let mut queues = BTreeMap::new();
        for name in storage.queues().await? {
            let queue = QueueSnapshot::take(storage, &name).await?;
            queues.insert(name, queue);
        }
        Ok(Snapshot { queues })
    }

    /// Every record, with its queue.
    pub fn records(&self) -> impl Iterator<Item = (&QueueName, &JobRecord)> {
        self.queues.iter().flat_map(|(name, queue)| queue.jobs.iter().map(move |job| (name, job)))
    }

    /// A job's record.
    pub fn job(&self, queue: &QueueName, id: JobId) -> Option<&JobRecord> {
        self.queues.get(queue)?.jobs.iter().find(|job| job.spec.id == id)
    }
}

impl QueueSnapshot {
    /// What is different in another store's queue; one line a difference. The order of shelves may differ, and so may
    /// when holds that ran out are forgotten.
    pub fn differences(&self, other: &QueueSnapshot) -> Vec<String> {
        let mut wrong = Vec::new();
        for job in &self.jobs {
            match other.jobs.iter().find(|seen| seen.spec.id == job.spec.id) {
                None => wrong.push(format!("{} ({}) is in the first only", job.spec.id, job.state)),
                Some(seen) => wrong.extend(record_differences(job, seen)),
            }
        }
        for job in other.jobs.iter().filter(|job| !self.jobs.iter().any(|one| one.spec.id == job.spec.id)) {
            wrong.push(format!("{} ({}) is in the second only", job.spec.id, job.state));
        }
        let (a, b) = (held(&self.dedup, self.now), held(&other.dedup, other.now));
        wrong.extend(debug_differences("the held dedup keys", &a, &b));
        wrong.extend(debug_differences("the settings", &self.config, &other.config));
        wrong.extend(debug_differences("the lanes' policies", &self.policies, &other.policies));
        let (a, b) = (remembered(&self.starts, self.now), remembered(&other.starts, other.now));
        wrong.extend(debug_differences("the starts", &a, &b));
        wrong.extend(debug_differences("the events", &self.events, &other.events));
        wrong
    }

    async fn take(storage: &dyn Storage, name: &QueueName) -> Result<QueueSnapshot, StorageError> {
        let first = storage.dump(name, None, PAGE_ITEMS).await?;
        let mut jobs = first.jobs;
        let mut next = first.next;
        while let Some(after) = next {
            let page = storage.dump(name, Some(after), PAGE_ITEMS).await?;
            jobs.extend(page.jobs);
            next = page.next;
        }
        let mut lists = Vec::new();
        for state in JobState::ALL {
            lists.push((state, walk(storage, name, &[state], None).await?));
        }
        let mut events = Vec::new();
        let mut cursor = EventCursor::default();
        loop {
            let page = storage.events(name, cursor, 100).await?;
            if page.events.is_empty() {
                break;
            }
            events.extend(page.events.iter().map(|event| (event.kind, event.job)));
            cursor = page.next;
        }
        Ok(QueueSnapshot {
            jobs,
            dedup: first.dedup,
            policies: first.policies,
            starts: first.starts,
            config: first.config.unwrap_or_default(),
            counts: storage.counts(name).await?,
            lists,
            events,
            now: storage.now(name).await?,
        })
    }
}

/// The ids of the jobs in these states, in the order of the store's walk from a cursor on.
pub(crate) async fn walk(
    storage: &dyn Storage,
    queue: &QueueName,
    states: &[JobState],
    mut after: Option<ListCursor>,
) -> Result<Vec<JobId>, StorageError> {
    let mut ids = Vec::new();
    loop {
        let filter = JobFilter::states(states.iter().copied());
        let page = storage.list(ListRequest { queue: queue.clone(), filter, after, max_items: PAGE_ITEMS }).await?;
        ids.extend(page.jobs.iter().map(JobRecord::id));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(ids),
        }
    }
}

impl QueueModel {
    /// What is different in a queue that a backend holds; one line a difference.
    pub fn compare(&self, seen: &QueueSnapshot) -> Vec<String> {
        let mut wrong = Vec::new();
        for job in &self.jobs {
            match seen.jobs.iter().find(|other| other.spec.id == job.spec.id) {
                None => wrong.push(format!("{} ({}) is missing", job.spec.id, job.state)),
                Some(other) => wrong.extend(record_differences(job, other)),
            }
        }
        for other in seen.jobs.iter().filter(|other| self.job(other.spec.id).is_none()) {
            wrong.push(format!("{} ({}) should not be there", other.spec.id, other.state));
        }
        if wrong.is_empty() {
            let ids: Vec<JobId> = seen.jobs.iter().map(JobRecord::id).collect();
            wrong.extend(self.check_walk(&[], None, &ids));
        }
        let (a, b) = (held(&self.dedup, self.now), held(&seen.dedup, self.now));
        wrong.extend(debug_differences("the held dedup keys", &a, &b));
        wrong.extend(debug_differences("the settings", &self.config, &seen.config));
        let policies: Vec<_> = seen.policies.iter().map(|entry| (entry.lane.clone(), entry.policy.clone())).collect();
        wrong.extend(debug_differences("the lanes' policies", &self.lane_policies(), &policies));
        wrong.extend(debug_differences("the starts", &self.remembered(), &remembered(&seen.starts, self.now)));
        wrong.extend(debug_differences("the events", &self.events, &seen.events));
        wrong
    }
}

/// What a limit remembers: of what, until when, how many starts, and when the last one was.
pub(super) type Remembered = (Limited, Timestamp, u32, Option<Timestamp>);

/// The starts that are not all forgotten.
fn remembered(entries: &[StartsEntry], now: Timestamp) -> Vec<Remembered> {
    let counting = entries.iter().filter(|entry| !entry.starts.is_over(now));
    counting
        .map(|entry| {
            let (count, last) = entry.starts.count();
            (entry.of.clone(), entry.starts.until(), count, last)
        })
        .collect()
}

/// The entries whose hold has not run out, by key.
fn held(entries: &[DedupEntry], now: Timestamp) -> Vec<DedupEntry> {
    let holds = |entry: &&DedupEntry| entry.holder.until.is_none_or(|until| now < until);
    let mut held: Vec<DedupEntry> = entries.iter().filter(holds).cloned().collect();
    held.sort_by(|a, b| a.key.cmp(&b.key));
    held
}
