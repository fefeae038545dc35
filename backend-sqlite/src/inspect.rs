//! The role that only looks, as work on a unit that reads: one record, the walk over all of them, counts, queues.

use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, JobRecord, JobState, QueueName, Slot};
use ferroq_core::storage::{JobFilter, ListCursor, ListRequest, Page, QueueCounts, StorageError};
use sqlx::Row as _;

use crate::error::{invalid, unexpected};
use crate::row::{Row, key, key_range, place, select_heads, select_rows, shelf_range, slot_of, state_range};
use crate::unit::Unit;

/// A job by its id, in a queue or any, by `ferroq_jobs_by_id`.
pub(crate) const BY_ID: &str =
    select_rows!("(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_id WHERE id=? AND key BETWEEN ? AND ? LIMIT 1)");
/// A step of the walk, by `ferroq_jobs_by_place`.
pub(crate) const WALK: &str = select_rows!(
    "(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE (place,rank,key)>(?,?,?) AND place<? \
     ORDER BY place,rank,key LIMIT ?+0)"
);
/// The same without payloads. Not from rows of a subquery, for which SQLite would read them all the same.
pub(crate) const WALK_HEADS: &str = select_heads!(
    "(SELECT key AS found FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE (place,rank,key)>(?,?,?) AND place<? \
     ORDER BY place,rank,key LIMIT ?+0) CROSS JOIN ferroq_jobs ON key=found"
);
/// How many stand on each shelf, by `ferroq_jobs_by_place`.
const SHELVES: &str = "SELECT place,count(*) FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place \
    WHERE place>=? AND place<? GROUP BY place";
const QUEUES: &str = "SELECT name FROM ferroq_queues ORDER BY name";
const QUEUE_NAME: &str = "SELECT name FROM ferroq_queues WHERE number=?";

impl Unit<'_> {
    /// A job's record.
    pub(crate) async fn job(
        &mut self,
        queue: Option<&QueueName>,
        id: JobId,
    ) -> Result<Option<JobRecord>, StorageError> {
        let (low, high) = match queue {
            None => (i64::MIN, i64::MAX),
            Some(queue) => match self.queue(queue).await? {
                Some(at) => key_range(self.queues[at].number),
                None => return Ok(None),
            },
        };
        let [rows] = self.ask([(BY_ID, vec![id.as_bytes().to_vec().into(), low.into(), high.into()])]).await?;
        let rows = self.rows(&rows, true).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let name = match queue {
            Some(queue) => queue.clone(),
            None => {
                let [names] = self.ask([(QUEUE_NAME, vec![row.queue().into()])]).await?;
                let name = names.first().and_then(|name| name.try_get::<String, _>(0).ok());
                name.and_then(|name| QueueName::new(name).ok()).ok_or_else(|| unexpected("a queue's name"))?
            }
        };
        Ok(self.records(&name, &rows).await?.pop())
    }

    /// A page of a queue's records.
    pub(crate) async fn list(&mut self, request: &ListRequest) -> Result<Page, StorageError> {
        if request.max_items == 0 {
            return Err(invalid("a list looks at 0 items; look at at least 1"));
        }
        let Some(at) = self.queue(&request.queue).await? else { return Ok(Page { jobs: Vec::new(), next: None }) };
        let (number, now) = (self.queues[at].number, self.queues[at].now);
        let (rows, next) = self.walk(number, &request.filter, request.after, request.max_items, true).await?;
        let mut jobs = self.records(&request.queue, &rows).await?;
        jobs.retain(|record| request.filter.matches(record, now));
        Ok(Page { jobs, next })
    }

    /// The rows of a step of the walk over the states that the filter allows, with or without their payloads, and where the
    /// next step goes on.
    pub(crate) async fn walk(
        &mut self,
        number: i64,
        filter: &JobFilter,
        after: Option<ListCursor>,
        max_items: usize,
        with_payload: bool,
    ) -> Result<(Vec<Row>, Option<ListCursor>), StorageError> {
        let mut found: Vec<Row> = Vec::new();
        for state in JobState::ALL {
            let left = max_items - found.len();
            if left == 0 {
                break;
            }
            if !filter.allows(state) || after.is_some_and(|after| state < after.state) {
                continue;
            }
            let (first, end) = state_range(number, state);
            let (from, rank, from_key) = match after {
                Some(after) if after.state == state => {
                    (place(number, state, after.slot, after.line), after.rank, key(number, after.seq))
                }
                _ => (first - 1, i64::MAX, i64::MAX),
            };
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            let values = vec![from.into(), rank.into(), from_key.into(), end.into(), limit.into()];
            let [rows] = self.ask([(if with_payload { WALK } else { WALK_HEADS }, values)]).await?;
            found.extend(self.rows(&rows, with_payload).await?);
        }
        let next = found.last().filter(|_| found.len() >= max_items).map(|row| {
            let (slot, line) = if row.state() == JobState::Waiting { slot_of(row.place) } else { (Slot::Lane, 0) };
            ListCursor { state: row.state(), slot, line, rank: row.rank, seq: row.seq() }
        });
        Ok((found, next))
    }

    /// How many jobs a queue has, by state.
    pub(crate) async fn counts(&mut self, queue: &QueueName) -> Result<QueueCounts, StorageError> {
        let Some(at) = self.queue(queue).await? else { return Ok(QueueCounts::default()) };
        let mut counts = self.queues[at].counts();
        if self.queues[at].shelved > 0 {
            let (first, end) = shelf_range(self.queues[at].number);
            let [rows] = self.ask([(SHELVES, vec![first.into(), end.into()])]).await?;
            for row in &rows {
                let (place, count): (i64, i64) =
                    (row.try_get_unchecked(0).unwrap_or(0), row.try_get_unchecked(1).unwrap_or(0));
                if let Some(kind) = self.kind_name(slot_of(place).1).await? {
                    counts.shelved.push((kind, count.unsigned_abs()));
                }
            }
            counts.shelved.sort();
        }
        Ok(counts)
    }

    /// Every queue.
    pub(crate) async fn queue_names(&mut self) -> Result<Vec<QueueName>, StorageError> {
        let [rows] = self.ask([(QUEUES, vec![])]).await?;
        let names = rows.iter().filter_map(|row| row.try_get::<String, _>(0).ok());
        Ok(names.filter_map(|name| QueueName::new(name).ok()).collect())
    }

    /// Storage time in a queue.
    pub(crate) async fn time(&mut self, queue: &QueueName) -> Result<Timestamp, StorageError> {
        let at = self.queue(queue).await?;
        Ok(at.map_or(self.clock, |at| self.queues[at].time(self.clock)))
    }
}
