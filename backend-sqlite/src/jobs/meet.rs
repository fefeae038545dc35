//! Jobs under one dedup key: what an enqueue does to the holder, and who holds a key that its holder let go of. Where
//! another job may have to come into its place, the keys are read; every other mode gives its key back unread.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use ferroq_core::event::EventKind;
use ferroq_core::job::{JobId, JobSpec, JobState, Slot};
use ferroq_core::policy::dedup::{DedupMode, Exit, Held, Holder, Meeting, meet};
use ferroq_core::policy::enqueue::{land, line, place};
use ferroq_core::storage::{EnqueueAnswer, StorageError};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::unexpected;
use crate::jobs::enqueue::read_holder;
use crate::row::Row;
use crate::unit::Unit;

const FREE_KEY: &str = "DELETE FROM ferroq_dedup WHERE queue=? AND key=? AND holder=?";
/// Whatever a job holds or is pending behind. Reads all of the queue's keys, which only a damaged row is worth.
const HELD_BY: &str = "SELECT key,holder,until,pending FROM ferroq_dedup WHERE queue=? AND (holder=? OR pending=?)";
const REPLACE: &str = "UPDATE ferroq_jobs SET format=?,payload=? WHERE key=?";

/// The holders that the jobs of one request met, as they are now, and the payloads that they got.
#[derive(Debug, Default)]
pub(super) struct Met {
    rows: HashMap<JobId, Row>,
    payloads: BTreeMap<i64, (i64, Bytes)>,
}

/// A key that a job let go of while another may be pending behind it.
#[derive(Debug)]
pub(crate) struct LetGo {
    queue: i64,
    id: JobId,
    /// The key; unknown where the job's row is damaged. Then whether holds for a time end as well.
    key: Result<String, bool>,
}

impl Unit<'_> {
    /// What becomes of a job whose key is held; `None` if it is to be inserted as the one that comes next.
    pub(super) async fn meet(
        &mut self,
        at: usize,
        job: &Arc<JobSpec>,
        mode: DedupMode,
        holder: Holder,
        met: &mut Met,
    ) -> Result<Option<EnqueueAnswer>, StorageError> {
        let nothing = Ok(Some(EnqueueAnswer::Duplicate(holder.id)));
        if !mode.changes_holder() {
            return nothing;
        }
        let kind = self.kind_number(&job.kind).await?;
        let Some(mut row) = self.met(at, holder.id, met).await? else { return nothing };
        let Some(dedup) = row.dedup() else { return nothing };
        let held = Held {
            mode: dedup.mode,
            same_kind: row.kind == kind,
            started: row.runs > 0,
            coalesced: row.coalesced(),
            has_pending: holder.pending.is_some(),
        };
        let now = self.queues[at].now;
        match meet(mode, held) {
            Meeting::Nothing => return nothing,
            Meeting::Follow => return Ok(None),
            Meeting::Replace => met.replace(&row, job),
            Meeting::ReplacePending => {
                let pending = holder.pending.unwrap_or(holder.id);
                if let Some(row) = self.met(at, pending, met).await? {
                    met.replace(&row, job);
                }
                self.queues[at].dirty = true;
                return Ok(Some(EnqueueAnswer::Replaced(pending)));
            }
            Meeting::Restart(start) => {
                met.replace(&row, job);
                self.queues[at].leave(&row);
                let (state, due_at) = place(start, now);
                row.due_at = due_at;
                match state {
                    JobState::Waiting => row.wait(line(row.crashes, row.options().max_crashes)),
                    _ => row.stand(state, Slot::Lane, due_at.as_micros()),
                }
                self.queues[at].event(EventKind::Rescheduled, row.id);
                met.rows.insert(row.id, row.clone());
                self.save(at, row);
            }
            Meeting::Count { coalesced, is_due } => {
                self.queues[at].leave(&row);
                row.set_coalesced(coalesced);
                if is_due && row.state() == JobState::Delayed {
                    row.due_at = now;
                    row.wait(line(row.crashes, row.options().max_crashes));
                    self.queues[at].event(EventKind::Promoted, row.id);
                }
                met.rows.insert(row.id, row.clone());
                self.save(at, row);
                return Ok(Some(EnqueueAnswer::Coalesced(holder.id, coalesced)));
            }
        }
        self.queues[at].dirty = true;
        Ok(Some(EnqueueAnswer::Replaced(holder.id)))
    }

    /// A holder's row, read once for each request.
    async fn met(&mut self, at: usize, id: JobId, met: &mut Met) -> Result<Option<Row>, StorageError> {
        if let Some(row) = met.rows.get(&id) {
            return Ok(Some(row.clone()));
        }
        let row = self.by_ids(at, [&id]).await?.remove(&id);
        met.rows.extend(row.clone().map(|row| (id, row)));
        Ok(row)
    }

    /// Writes the payloads that holders got.
    pub(super) fn write_replaced(&mut self, met: Met) {
        for (key, (format, payload)) in met.payloads {
            self.script.add(REPLACE, [format.into(), Vec::from(payload).into(), key.into()]);
        }
    }

    /// Frees the row's dedup key, if its mode says so and the job still holds it. Where another job may be pending, that is
    /// left for [`place_heirs`](Self::place_heirs).
    pub(crate) fn free_key(&mut self, row: &Row, exits: &[Exit]) {
        let (queue, id) = (row.queue(), row.id);
        let Ok(extra) = row.extra() else {
            // Which key it is can't be read, nor its mode. A job that is kept but can't run must not hold it for ever.
            let timed = exits.iter().any(|exit| DedupMode::For(std::time::Duration::ZERO).frees(*exit));
            self.let_go.push(LetGo { queue, id, key: Err(timed) });
            return;
        };
        let Some(dedup) = extra.and_then(|extra| extra.dedup.as_ref()) else { return };
        if !exits.iter().any(|exit| dedup.mode.frees(*exit)) {
            return;
        }
        if dedup.mode == DedupMode::KeepLatest {
            self.let_go.push(LetGo { queue, id, key: Ok(dedup.key.as_str().to_owned()) });
        } else {
            self.free(queue, dedup.key.as_str(), id);
        }
    }

    pub(super) fn free(&mut self, queue: i64, key: &str, holder: JobId) {
        self.script.add(FREE_KEY, [queue.into(), key.into(), holder.as_bytes().to_vec().into()]);
    }

    /// Gives the keys that were let go of to those that were pending, and these their place in line; then batches that lost
    /// their leader the next one. Answers both.
    pub(crate) async fn place_heirs(&mut self) -> Result<Vec<JobId>, StorageError> {
        let mut placed = Vec::new();
        for LetGo { queue, id, key } in std::mem::take(&mut self.let_go) {
            let Some(at) = self.queues.iter().position(|one| one.number == queue && !one.removed) else { continue };
            for (key, hold) in self.holds_of(queue, id, key).await? {
                let left = hold.without(id);
                match left {
                    Some(left) if left == hold => {}
                    Some(left) if hold.id != id => self.take_key(queue, &key, left),
                    None => self.free(queue, &key, id),
                    Some(left) => match self.by_ids(at, [&left.id]).await?.remove(&left.id) {
                        Some(row) => {
                            self.take_key(queue, &key, left);
                            placed.extend(self.place_heir(at, row));
                        }
                        // A damaged table; what is gone must not hold a key.
                        None => self.free(queue, &key, id),
                    },
                }
            }
        }
        placed.extend(self.pass_on().await?);
        Ok(placed)
    }

    fn place_heir(&mut self, at: usize, mut row: Row) -> Option<JobId> {
        if row.state() != JobState::Blocked {
            return None;
        }
        self.queues[at].leave(&row);
        match land(row.due_at, self.queues[at].now) {
            JobState::Waiting => row.wait(line(row.crashes, row.options().max_crashes)),
            state => row.stand(state, Slot::Lane, row.due_at.as_micros()),
        }
        let id = row.id;
        self.queues[at].event(EventKind::Promoted, id);
        self.save(at, row);
        Some(id)
    }

    async fn holds_of(
        &mut self,
        queue: i64,
        id: JobId,
        key: Result<String, bool>,
    ) -> Result<Vec<(String, Holder)>, StorageError> {
        let timed = match key {
            Ok(key) => return Ok(self.holder(queue, &key).await?.map(|hold| (key, hold)).into_iter().collect()),
            Err(timed) => timed,
        };
        let holder = || id.as_bytes().to_vec().into();
        let [rows] = self.ask([(HELD_BY, vec![queue.into(), holder(), holder()])]).await?;
        let read = |row: &SqliteRow| Ok((row.try_get(0).map_err(|_| unexpected("a dedup key"))?, read_holder(row)?));
        let holds: Vec<(String, Holder)> = rows.iter().map(read).collect::<Result<_, StorageError>>()?;
        Ok(holds.into_iter().filter(|(_, hold)| hold.until.is_none() || timed).collect())
    }
}

impl Met {
    fn replace(&mut self, row: &Row, by: &JobSpec) {
        let format = crate::record::format_of(&by.payload);
        self.payloads.insert(row.key, (format, by.payload.bytes.clone()));
    }
}
