//! Insertion: which jobs are there already, whose dedup key is held, and where the others land.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{JobId, JobSpec, JobState, QueueName, Slot};
use ferroq_core::policy::dedup::Holder;
use ferroq_core::storage::{EnqueueAnswer, StorageError};
use sqlx::Row as _;

use crate::error::{invalid, unexpected};
use crate::jobs::meet::Met;
use crate::memory::ABSENT;
use crate::record::ids_json;
use crate::row::{Row, key_range};
use crate::script::Value;
use crate::unit::{NOTHING, Unit};

/// Which of these ids exist in a queue, by `ferroq_jobs_by_id`.
pub(crate) const EXISTING: &str = "SELECT id FROM (SELECT unhex(value) AS wanted FROM json_each(?)) CROSS JOIN \
    ferroq_jobs INDEXED BY ferroq_jobs_by_id ON id=wanted AND key BETWEEN ? AND ?";
/// Who holds these keys, by the primary key of `ferroq_dedup`.
pub(crate) const HOLDERS: &str = "SELECT d.key,d.holder,d.until,d.pending FROM json_each(?) w CROSS JOIN ferroq_dedup d \
    ON d.queue=? AND d.key=w.value";
const TAKE_KEY: &str = "INSERT INTO ferroq_dedup (queue,key,holder,until,pending) VALUES (?,?,?,?,?) \
    ON CONFLICT (queue,key) DO UPDATE SET holder=excluded.holder,until=excluded.until,pending=excluded.pending";
/// Removes holds that ran out, but for the latest 1024, by `ferroq_dedup_by_until`. Those few are kept because they
/// hold again if the clock steps back.
pub(crate) const PURGE: &str = "DELETE FROM ferroq_dedup WHERE queue=? AND key IN \
    (SELECT key FROM ferroq_dedup WHERE queue=? AND until<=? ORDER BY until DESC LIMIT ?+0 OFFSET 1024)";
/// How many jobs a queue takes between two looks for holds that ran out, if nobody sweeps.
const PURGE_JOBS: i64 = 256;

/// What makes a request's jobs refusable before anything is done.
pub(crate) fn check<'a>(
    queue: &QueueName,
    jobs: impl IntoIterator<Item = &'a Arc<JobSpec>>,
) -> Result<(), StorageError> {
    for job in jobs {
        if job.queue != *queue {
            return Err(invalid(format!("a job names the queue {:?}, but the request is for {queue:?}", job.queue)));
        }
        if i32::try_from(job.payload.len()).is_err() {
            return Err(invalid("a payload is larger than SQLite can hold; store large data elsewhere"));
        }
    }
    Ok(())
}

impl Unit<'_> {
    /// Inserts jobs of one queue.
    pub(crate) async fn enqueue(
        &mut self,
        queue: &QueueName,
        jobs: &[Arc<JobSpec>],
    ) -> Result<Vec<EnqueueAnswer>, StorageError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        // One question for all, if the queue's number is known; it is checked when its row is there.
        let keys: Vec<&str> =
            jobs.iter().filter_map(|job| job.dedup.as_ref()).map(|dedup| dedup.key.as_str()).collect();
        let loaded = self.recall(queue);
        // Also what recalling the queue brought along: these jobs may go in front of it.
        self.ahead = None;
        let guess = loaded.map(|at| self.queues[at].number).or_else(|| self.names.queue_number(queue));
        let mut found = None;
        if let (Some(at), true, true) = (loaded, self.known.is_some(), keys.is_empty()) {
            // Ids are new but for repeats, so that they are is only checked.
            self.resolve_lanes().await?;
            self.flush();
            let (_, values) = existing_ask(self.queues[at].number, jobs);
            self.script.add(ABSENT, values);
            self.guarded = true;
            found = Some((Vec::new(), Vec::new()));
        } else if let Some(number) = guess {
            let queue_ask = if loaded.is_some() { (NOTHING, vec![]) } else { self.queue_ask(queue) };
            let [rows, ids, holders] =
                self.ask([queue_ask, existing_ask(number, jobs), holders_ask(number, &keys)]).await?;
            let at = if loaded.is_some() { loaded } else { self.load(queue, &rows)? };
            if at.is_some_and(|at| self.queues[at].number == number) {
                found = Some((ids, holders));
            }
        }
        let at = self.queue_or_new(queue).await?;
        let number = self.queues[at].number;
        let (ids, holders) = match found {
            Some(found) => found,
            None => {
                let [ids, holders] = self.ask([existing_ask(number, jobs), holders_ask(number, &keys)]).await?;
                (ids, holders)
            }
        };
        let mut existing = HashSet::with_capacity(ids.len());
        for row in &ids {
            existing.insert(read_id(row, 0)?);
        }
        let mut held: HashMap<String, Holder> = HashMap::with_capacity(holders.len());
        for row in &holders {
            let key: String = row.try_get(0).map_err(|_| unexpected("a dedup key"))?;
            held.insert(key, read_holder(row)?);
        }
        let now = self.queues[at].now;
        let mut answers = Vec::with_capacity(jobs.len());
        self.inserts.reserve(jobs.len());
        let (mut holds, counted, mut met) = (0, self.queues[at].counter, Met::default());
        for job in jobs {
            if existing.contains(&job.id) {
                answers.push(EnqueueAnswer::Duplicate(job.id));
                continue;
            }
            let mut is_pending = false;
            if let Some(dedup) = &job.dedup {
                let present = held.get(dedup.key.as_str()).copied().filter(|holder| holder.holds(now));
                let holder = match present {
                    None => Holder::take(job.id, dedup.mode, now),
                    Some(present) => match self.meet(at, job, dedup.mode, present, &mut met).await? {
                        Some(answer) => {
                            answers.push(answer);
                            continue;
                        }
                        None => Holder { pending: Some(job.id), ..present },
                    },
                };
                is_pending = present.is_some();
                holds += usize::from(holder.until.is_some());
                held.insert(dedup.key.as_str().to_owned(), holder);
                self.take_key(number, dedup.key.as_str(), holder);
            }
            if jobs.len() > 1 {
                existing.insert(job.id);
            }
            let kind = self.kind_number(&job.kind).await?;
            let queue = &mut self.queues[at];
            queue.counter += 1;
            let seq = if job.lifo { -queue.counter } else { queue.counter };
            let mut row = Row::new(number, seq, kind, job, now);
            if is_pending {
                row.stand(JobState::Blocked, Slot::Lane, 0);
            }
            queue.enter(&row);
            queue.event(EventKind::Enqueued, job.id);
            self.inserts.push(row);
            answers.push(EnqueueAnswer::Inserted);
        }
        self.write_replaced(met);
        if holds > 0 && counted / PURGE_JOBS != self.queues[at].counter / PURGE_JOBS {
            // More than came since the last look, so that they don't pile up, however seldom anybody sweeps.
            self.purge_keys(at, 1024 + 2 * holds);
        }
        Ok(answers)
    }

    /// Removes up to so many holds that ran out, if they are many.
    pub(crate) fn purge_keys(&mut self, at: usize, max_items: usize) {
        let (number, now) = (self.queues[at].number, self.queues[at].now.as_micros());
        let limit = i64::try_from(max_items).unwrap_or(i64::MAX);
        self.script.add(PURGE, [number.into(), number.into(), now.into(), limit.into()]);
    }

    /// Notes who holds a key.
    pub(crate) fn take_key(&mut self, queue: i64, key: &str, holder: Holder) {
        let until = holder.until.map(Timestamp::as_micros);
        let pending = holder.pending.map_or(Value::Null, |id| Value::Blob(id.as_bytes().to_vec()));
        let values = [queue.into(), key.into(), holder.id.as_bytes().to_vec().into(), until.into(), pending];
        self.script.add(TAKE_KEY, values);
    }

    /// Who holds a key.
    pub(crate) async fn holder(&mut self, queue: i64, key: &str) -> Result<Option<Holder>, StorageError> {
        let [rows] = self.ask([holders_ask(queue, &[key])]).await?;
        rows.first().map(read_holder).transpose()
    }
}

/// A hold in a row of key, holder, until when, and pending.
pub(crate) fn read_holder(row: &sqlx::sqlite::SqliteRow) -> Result<Holder, StorageError> {
    let until: Option<i64> = row.try_get(2).map_err(|_| unexpected("a dedup key"))?;
    let has_pending = row.try_get::<Option<Vec<u8>>, _>(3).map_err(|_| unexpected("a dedup key"))?.is_some();
    let pending = if has_pending { Some(read_id(row, 3)?) } else { None };
    Ok(Holder { id: read_id(row, 1)?, until: until.map(Timestamp::from_micros), pending })
}

/// An id in a column.
pub(crate) fn read_id(row: &sqlx::sqlite::SqliteRow, column: usize) -> Result<JobId, StorageError> {
    let bytes: &[u8] = row.try_get_unchecked(column).map_err(|_| unexpected("a job id"))?;
    Ok(JobId::from_bytes(bytes.try_into().map_err(|_| unexpected("a job id"))?))
}

fn existing_ask(queue: i64, jobs: &[Arc<JobSpec>]) -> (&'static str, Vec<Value>) {
    let (low, high) = key_range(queue);
    (EXISTING, vec![ids_json(jobs.iter().map(|job| &job.id)).into(), low.into(), high.into()])
}

fn holders_ask(queue: i64, keys: &[&str]) -> (&'static str, Vec<Value>) {
    if keys.is_empty() {
        return (NOTHING, vec![]);
    }
    (HOLDERS, vec![serde_json::to_string(keys).unwrap_or_default().into(), queue.into()])
}
