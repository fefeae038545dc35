//! A queue's contents out, and in, with seqs and epochs, as work on a unit.

use std::collections::HashSet;

use ferroq_core::Timestamp;
use ferroq_core::clock::micros;
use ferroq_core::job::{DedupKey, JobId, JobState, LaneKey, QueueName};
use ferroq_core::policy::batch::SetBack;
use ferroq_core::policy::enqueue::line;
use ferroq_core::policy::lanes::Limited;
use ferroq_core::storage::{
    DedupEntry, DumpPage, JobFilter, ListCursor, PolicyEntry, RestoreAnswer, StartsEntry, StorageError,
};
use sqlx::Row as _;

use crate::error::{invalid, unexpected};
use crate::jobs::{read_holder, read_id};
use crate::lane_rows::{WITH_STARTS, read_lanes};
use crate::lanes::Lane;
use crate::record::{ids_json, numbers_json};
use crate::row::{Row, key, key_range};
use crate::script::Value;
use crate::unit::Unit;

/// All keys of a queue, by the primary key of `ferroq_dedup`.
const KEYS: &str = "SELECT key,holder,until,pending FROM ferroq_dedup WHERE queue=? ORDER BY key";
const KEEP_KEY: &str = "INSERT INTO ferroq_dedup (queue,key,holder,until,pending) VALUES (?,?,?,?,?) \
    ON CONFLICT (queue,key) DO NOTHING";
const EXISTING: &str = "SELECT id FROM (SELECT unhex(value) AS wanted FROM json_each(?)) CROSS JOIN ferroq_jobs \
    INDEXED BY ferroq_jobs_by_id ON id=wanted AND key BETWEEN ? AND ?";
const TAKEN: &str = "SELECT key FROM ferroq_jobs WHERE key IN (SELECT value FROM json_each(?)) LIMIT 1";

/// Refuses pages that can't be of this queue.
pub(crate) fn check(queue: &QueueName, page: &DumpPage) -> Result<(), StorageError> {
    page.check(queue)?;
    let mut seqs = HashSet::with_capacity(page.jobs.len());
    for record in &page.jobs {
        if record.spec.queue != *queue {
            let other = &record.spec.queue;
            return Err(invalid(format!("a job names the queue {other:?}, but the page is restored to {queue:?}")));
        }
        if record.seq.unsigned_abs() >= 1 << 39 {
            return Err(invalid(format!("the seq {} is beyond what this backend stores", record.seq)));
        }
        if !seqs.insert(record.seq) {
            return Err(invalid(format!("the seq {} is there twice", record.seq)));
        }
    }
    Ok(())
}

impl Unit<'_> {
    /// A page of a queue's contents.
    pub(crate) async fn dump(
        &mut self,
        queue: &QueueName,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<DumpPage, StorageError> {
        if max_items == 0 {
            return Err(invalid("a dump's page of 0 items was asked for; ask for at least 1"));
        }
        let Some(at) = self.queue(queue).await? else { return Ok(DumpPage::default()) };
        let number = self.queues[at].number;
        let mut page = DumpPage::default();
        if after.is_none() {
            page.config = Some(self.queues[at].config.clone());
            let [rows] = self.ask([(KEYS, vec![number.into()])]).await?;
            for row in &rows {
                let key: String = row.try_get(0).map_err(|_| unexpected("a dedup key"))?;
                let holder = read_holder(row)?;
                page.dedup.extend(DedupKey::new(key).ok().map(|key| DedupEntry { key, holder }));
            }
        }
        if after.is_none() {
            let policies = self.lane_policies(queue, None, usize::MAX).await?;
            page.policies = policies.into_iter().map(|(lane, policy)| PolicyEntry { lane, policy }).collect();
            page.starts = self.queues[at].lanes.starts();
            if self.queues[at].lanes.has_starts {
                let all = [number, i64::MIN, i64::MIN, i64::MIN, i64::MAX].map(Value::from);
                let [rows] = self.ask([(WITH_STARTS, all.to_vec())]).await?;
                for (_, Lane { key, starts, .. }) in read_lanes(&rows)? {
                    page.starts.extend(starts.map(|starts| StartsEntry { of: Limited::Lane(key), starts }));
                }
                page.starts.sort_by(|a, b| a.of.cmp(&b.of));
            }
        }
        let (rows, next) = self.walk(number, &JobFilter::default(), after, max_items, true).await?;
        page.jobs = self.records(queue, &rows).await?;
        page.next = next;
        Ok(page)
    }

    /// Writes a page of a dump.
    pub(crate) async fn restore(&mut self, queue: &QueueName, page: &DumpPage) -> Result<RestoreAnswer, StorageError> {
        let at = self.queue_or_new(queue).await?;
        let number = self.queues[at].number;
        if let Some(config) = &page.config {
            if config.lanes != self.queues[at].config.lanes {
                self.queues[at].lanes.reopen();
            }
            self.queues[at].config = config.clone();
            self.queues[at].config_changed = true;
            self.queues[at].hint_control = true;
        }
        for entry in &page.dedup {
            let until = entry.holder.until.map(Timestamp::as_micros);
            let holder = entry.holder.id.as_bytes().to_vec();
            let pending = entry.holder.pending.map_or(Value::Null, |id| Value::Blob(id.as_bytes().to_vec()));
            let values = [number.into(), entry.key.as_str().into(), holder.into(), until.into(), pending];
            self.script.add(KEEP_KEY, values);
        }
        self.restore_lanes(at, page).await?;
        self.count_active(at).await?;
        let (low, high) = key_range(number);
        let ids = ids_json(page.jobs.iter().map(|record| &record.spec.id));
        let [rows] = self.ask([(EXISTING, vec![ids.into(), low.into(), high.into()])]).await?;
        let mut existing: HashSet<JobId> = HashSet::new();
        for row in &rows {
            existing.insert(read_id(row, 0)?);
        }
        let (mut answer, mut new) = (RestoreAnswer::default(), Vec::with_capacity(page.jobs.len()));
        for record in &page.jobs {
            if existing.insert(record.spec.id) {
                new.push(record);
            } else {
                answer.existing += 1;
            }
        }
        let keys = numbers_json(new.iter().map(|record| key(number, record.seq)));
        let [taken] = self.ask([(TAKEN, vec![keys.into()])]).await?;
        if !taken.is_empty() {
            return Err(invalid("a seq of the page is taken by another job of the queue; restore to an empty queue"));
        }
        let mut latest = self.queues[at].now;
        for record in new {
            let kind = self.kind_number(&record.spec.kind).await?;
            let mut row = Row::of_record(number, kind, record);
            if record.batch.is_some() && record.state == JobState::Blocked {
                // A batch stays behind: its members wait in their lane again.
                row.wait(line(row.crashes, record.spec.options.max_crashes));
            }
            let queue = &mut self.queues[at];
            queue.counter = queue.counter.max(i64::try_from(record.seq.unsigned_abs()).unwrap_or(i64::MAX));
            if record.state == JobState::Active {
                queue.note_term(record.lease_term.map_or(1, micros));
            }
            if matches!(row.state(), JobState::Waiting | JobState::Active) {
                latest = latest.max(row.due_at);
            }
            queue.enter(&row);
            self.inserts.push(row);
            answer.restored += 1;
        }
        let queue = &mut self.queues[at];
        if latest > queue.now {
            // As if the clock had stepped back from there.
            let known = SetBack::noted(queue.lanes.set_back, queue.counter, latest, queue.now);
            queue.lanes.step_back_to(Some(known));
        }
        queue.attended_at = queue.now;
        queue.dirty = true;
        Ok(answer)
    }
    /// Lanes' policies, and starts where none that count are remembered. None of them is later than now.
    async fn restore_lanes(&mut self, at: usize, page: &DumpPage) -> Result<(), StorageError> {
        let of_lane = |entry: &StartsEntry| match &entry.of {
            Limited::Lane(lane) => Some(lane.clone()),
            Limited::Queue | Limited::Class(_) => None,
        };
        let policies = page.policies.iter().map(|entry| entry.lane.clone());
        let lanes: Vec<LaneKey> = policies.chain(page.starts.iter().filter_map(of_lane)).collect();
        if lanes.is_empty() && page.starts.is_empty() {
            return Ok(());
        }
        // A clock that stepped back is followed first by the starts that are here.
        self.follow_clock(at).await?;
        self.load_lanes(at, &lanes).await?;
        self.resolve_lanes().await?;
        for PolicyEntry { lane, policy } in &page.policies {
            self.set_policy(at, lane, &Some(policy.clone()));
        }
        self.queues[at].hint_control |= !page.policies.is_empty();
        let now = self.queues[at].now;
        for StartsEntry { of, starts } in &page.starts {
            self.queues[at].lanes.restore_starts(of, starts, now);
        }
        Ok(())
    }
}
