//! One transaction's work: the queues it has read, the rows it means to write, and the statements not yet sent. The SQL
//! layer is written against this, so the same functions serve the writer's own transactions (several calls each) and
//! the app's. Nothing here commits or rolls back; whoever made the unit does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{ErrorKind, FailReason, JobId, JobKind, JobRecord, JobSpec, JobState, QueueName, Slot};
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::retention::{WAITED_ON_KEEP, prune_at, prune_quota};
use ferroq_core::storage::StorageError;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use crate::error::{storage_error, unexpected};
use crate::jobs::LetGo;
use crate::limits::LimiterMark;
use crate::memory::{self, Ahead, Known};
use crate::names::Names;
use crate::queue::{self, Queue};
use crate::record::numbers_json;
use crate::row::{INLINE_BYTES_MAX, Row, key_range};
use crate::script::{Script, Value};
use crate::writes;

const NEW_QUEUE: &str = "INSERT INTO ferroq_queues (name,config,last,attended_at) VALUES (?,?,?,?) RETURNING number";
const KIND_NUMBER: &str = "INSERT INTO ferroq_names (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET name=name \
    RETURNING number";
const KIND_NAME: &str = "SELECT name FROM ferroq_names WHERE number=?";
const LEFT_OUT: &str = "SELECT notes,payload FROM ferroq_jobs WHERE key=?";
const NOTES: &str = "SELECT notes FROM ferroq_jobs WHERE key=?";
const PAYLOAD: &str = "SELECT payload FROM ferroq_jobs WHERE key=?";

/// Some statements to ask as one command.
pub(crate) type Ask = (&'static str, Vec<Value>);

/// No question, for a place in an array of questions that needs none; it has no rows.
pub(crate) const NOTHING: &str = "";

/// The transaction has begun already, or its first statement is to begin it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With `BEGIN IMMEDIATE`, in front of the first command.
    Own,
    /// With `BEGIN`, to look only.
    Read,
    /// Not at all: there is to be one statement, which is a transaction of its own.
    Once,
    /// With a savepoint, `ferroq_unit`, inside of somebody else's: the app's own transaction.
    Foreign,
}

/// One transaction's work.
#[derive(Debug)]
pub(crate) struct Unit<'c> {
    conn: &'c mut SqliteConnection,
    pub(crate) names: &'c Names,
    pub(crate) clock: Timestamp,
    begin: Begin,
    /// Whether a command was sent, so that a transaction may be open.
    pub(crate) begun: bool,
    pub(crate) script: Script,
    pub(crate) queues: Vec<Queue>,
    kinds: Vec<(JobKind, i64)>,
    pub(crate) inserts: Vec<Row>,
    /// Jobs for other queues than the call's own, not yet enqueued.
    pub(crate) letters: Vec<Arc<JobSpec>>,
    pub(crate) saves: BTreeMap<i64, Row>,
    removes: Vec<i64>,
    /// Keys that may have to go to a pending job.
    pub(crate) let_go: Vec<LetGo>,
    /// Jobs that completed without leaving anything, by prune time.
    completes: BTreeMap<(i64, i64), Vec<i64>>,
    /// An error that SQLite itself gave lies in the request's data.
    pub(crate) request_at_fault: bool,
    /// What may be relied on under a guard; `None` where memory is not to be used.
    pub(crate) known: Option<HashMap<QueueName, Known>>,
    /// The rows of Active jobs, of the queues that were recalled or are to be remembered.
    pub(crate) active: HashMap<QueueName, HashMap<JobId, Row>>,
    /// What was read ahead, until something may have changed since.
    pub(crate) ahead: Option<(QueueName, Ahead)>,
    /// A limiter that was written, to recognise the transaction by.
    pub(crate) limiter_mark: Option<LimiterMark>,
    /// Whether the transaction relies on memory.
    pub(crate) guarded: bool,
    /// Whether a guard may have failed.
    pub(crate) guard_failed: bool,
}

impl<'c> Unit<'c> {
    pub(crate) fn new(conn: &'c mut SqliteConnection, names: &'c Names, clock: Timestamp, begin: Begin) -> Self {
        Unit {
            conn,
            names,
            clock,
            begin,
            begun: false,
            script: Script::default(),
            queues: Vec::new(),
            kinds: Vec::new(),
            inserts: Vec::new(),
            letters: Vec::new(),
            saves: BTreeMap::new(),
            removes: Vec::new(),
            let_go: Vec::new(),
            completes: BTreeMap::new(),
            request_at_fault: false,
            known: None,
            active: HashMap::new(),
            ahead: None,
            limiter_mark: None,
            guarded: false,
            guard_failed: false,
        }
    }

    /// Where the queue is in `queues`, if it is there or is remembered.
    pub(crate) fn recall(&mut self, name: &QueueName) -> Option<usize> {
        if let Some(at) = self.loaded(name) {
            return Some(at);
        }
        let known = self.known.as_mut()?.remove(name)?;
        let mut queue = known.queue;
        self.script.add(memory::STAMPED, [queue.number.into(), queue.stamp.into()]);
        self.guarded = true;
        queue.advance(self.clock, &mut self.script);
        if self.queues.is_empty() {
            self.ahead = known.ahead.map(|ahead| (name.clone(), ahead));
        }
        self.active.insert(name.clone(), known.active);
        self.queues.push(queue);
        Some(self.queues.len() - 1)
    }

    /// Sends what was collected, and asks.
    pub(crate) async fn ask<const N: usize>(&mut self, asks: [Ask; N]) -> Result<[Vec<SqliteRow>; N], StorageError> {
        self.resolve_lanes().await?;
        self.flush();
        self.send(asks).await
    }

    /// The same, without the rows that are to be written.
    pub(crate) async fn send<const N: usize>(&mut self, asks: [Ask; N]) -> Result<[Vec<SqliteRow>; N], StorageError> {
        let mut script = Script::default();
        match self.begin {
            Begin::Own if !self.begun => script.add("BEGIN IMMEDIATE", []),
            Begin::Read if !self.begun => script.add("BEGIN", []),
            Begin::Foreign if !self.begun => script.add("SAVEPOINT ferroq_unit", []),
            _ => {}
        }
        script.append(std::mem::take(&mut self.script));
        let skip = script.statements();
        let asked = asks.each_ref().map(|(sql, _)| *sql != NOTHING);
        for (sql, values) in asks {
            if sql != NOTHING {
                script.add(sql, values);
            }
        }
        self.begun = self.begin != Begin::Once;
        let answers = script.run(self.conn, skip).await.map_err(|error| {
            self.request_at_fault = crate::error::is_about_the_request(&error);
            self.guard_failed = self.guarded && crate::error::is_guard(&error);
            storage_error(error)
        })?;
        let mut answers = answers.into_iter();
        Ok(asked.map(|asked| if asked { answers.next().unwrap_or_default() } else { Vec::new() }))
    }

    /// Turns the rows to write into statements, once their lanes are known.
    pub(crate) fn flush(&mut self) {
        writes::insert(&mut self.script, std::mem::take(&mut self.inserts));
        if !self.removes.is_empty() {
            self.script.add(writes::REMOVE, [numbers_json(std::mem::take(&mut self.removes)).into()]);
        }
        writes::save(&mut self.script, std::mem::take(&mut self.saves));
        for ((place, prune), keys) in std::mem::take(&mut self.completes) {
            let finished = self.queue_numbered(place).map_or(self.clock, |queue| queue.now);
            let values = [place.into(), prune.into(), finished.as_micros().into(), numbers_json(keys).into()];
            self.script.add(writes::COMPLETE, values);
        }
        for queue in &mut self.queues {
            if !queue.removed {
                let number = queue.number;
                crate::lane_rows::write_lanes(&mut self.script, number, &queue.lanes.take_dirty());
            }
            if queue.batches.has_to_write() && !queue.removed {
                queue.batches.write(queue.number, &mut self.script);
            }
        }
    }

    fn queue_numbered(&self, place: i64) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.place(JobState::Completed) == place)
    }

    /// Reads packed rows, and what was left out of them because it is long. `with_payload` says which of the two forms
    /// they are in.
    pub(crate) async fn rows(&mut self, answer: &[SqliteRow], with_payload: bool) -> Result<Vec<Row>, StorageError> {
        let mut rows = unpack(answer, with_payload)?;
        for row in &mut rows {
            if row.notes_left_out || (with_payload && row.payload_left_out) {
                let [left_out] = self.ask([(LEFT_OUT, vec![row.key.into()])]).await?;
                let found = left_out.first().ok_or_else(|| unexpected("a row"))?;
                fill(row, found, with_payload)?;
            }
        }
        Ok(rows)
    }

    /// Reads the notes of a row from which they were left out.
    pub(crate) async fn fetch_notes(&mut self, row: &mut Row) -> Result<(), StorageError> {
        let [found] = self.ask([(NOTES, vec![row.key.into()])]).await?;
        let found = found.first().ok_or_else(|| unexpected("a row"))?;
        let notes: Option<Vec<u8>> = found.try_get_unchecked(0).map_err(|_| unexpected("notes"))?;
        row.notes = notes.map(Vec::into_boxed_slice);
        row.notes_left_out = false;
        Ok(())
    }

    /// Reads the payload of a row from which it was left out.
    pub(crate) async fn fetch_payload(&mut self, row: &Row) -> Result<Bytes, StorageError> {
        let [found] = self.ask([(PAYLOAD, vec![row.key.into()])]).await?;
        let found = found.first().ok_or_else(|| unexpected("a row"))?;
        let payload: Vec<u8> = found.try_get_unchecked(0).map_err(|_| unexpected("a payload"))?;
        Ok(payload.into())
    }

    /// Where the queue is in `queues`, read and with its time advanced; `None` if it does not exist.
    pub(crate) async fn queue(&mut self, name: &QueueName) -> Result<Option<usize>, StorageError> {
        if let Some(at) = self.recall(name) {
            return Ok(Some(at));
        }
        let [rows] = self.ask([self.queue_ask(name)]).await?;
        self.load(name, &rows)
    }

    /// A queue's number, without reading its row in.
    pub(crate) async fn number(&mut self, name: &QueueName) -> Result<Option<i64>, StorageError> {
        if let Some(at) = self.loaded(name) {
            return Ok(Some(self.queues[at].number));
        }
        let [rows] = self.ask([(queue::NUMBER, vec![name.as_str().into()])]).await?;
        Ok(first_int(&rows))
    }

    pub(crate) fn loaded(&self, name: &QueueName) -> Option<usize> {
        self.queues.iter().position(|queue| queue.name == *name && !queue.removed)
    }

    pub(crate) fn queue_ask(&self, name: &QueueName) -> Ask {
        (queue::READ, vec![name.as_str().into()])
    }

    /// Takes in the answer to [`queue_ask`](Self::queue_ask).
    pub(crate) fn load(&mut self, name: &QueueName, rows: &[SqliteRow]) -> Result<Option<usize>, StorageError> {
        let Some(row) = rows.first() else { return Ok(None) };
        let mut queue = Queue::read(name, row, self.names)?;
        if matches!(self.begin, Begin::Read | Begin::Once) {
            queue.now = queue.time(self.clock);
        } else {
            queue.advance(self.clock, &mut self.script);
        }
        self.queues.push(queue);
        if self.known.is_some() {
            self.active.insert(name.clone(), HashMap::new());
        }
        Ok(Some(self.queues.len() - 1))
    }

    /// The queue, made if it does not exist.
    pub(crate) async fn queue_or_new(&mut self, name: &QueueName) -> Result<usize, StorageError> {
        if let Some(at) = self.queue(name).await? {
            return Ok(at);
        }
        let config = serde_json::to_string(&ferroq_core::storage::QueueConfig::default()).unwrap_or_default();
        let now = self.clock.as_micros();
        let values = vec![name.as_str().into(), config.into(), now.into(), now.into()];
        let [rows] = self.ask([(NEW_QUEUE, values)]).await?;
        let number = first_int(&rows).ok_or_else(|| unexpected("a new queue's number"))?;
        self.queues.push(Queue::new(name.clone(), number, self.clock));
        Ok(self.queues.len() - 1)
    }

    /// A kind's number, given now if it has none.
    pub(crate) async fn kind_number(&mut self, kind: &JobKind) -> Result<i64, StorageError> {
        if let Some(number) = self.names.kind_number(kind) {
            return Ok(number);
        }
        if let Some((_, number)) = self.kinds.iter().find(|(known, _)| known == kind) {
            return Ok(*number);
        }
        let [rows] = self.ask([(KIND_NUMBER, vec![kind.as_str().into()])]).await?;
        let number = first_int(&rows).ok_or_else(|| unexpected("a kind's number"))?;
        self.kinds.push((kind.clone(), number));
        Ok(number)
    }

    /// A kind's name; `None` if the number has none (then the row that holds it is damaged).
    pub(crate) async fn kind_name(&mut self, number: i64) -> Result<Option<JobKind>, StorageError> {
        if let Some(kind) = self.known_kind(number) {
            return Ok(Some(kind));
        }
        let [rows] = self.ask([(KIND_NAME, vec![number.into()])]).await?;
        let name = rows.first().and_then(|row| row.try_get::<String, _>(0).ok());
        let kind = name.and_then(|name| JobKind::new(name).ok());
        if let Some(kind) = &kind {
            self.kinds.push((kind.clone(), number));
        }
        Ok(kind)
    }

    /// A kind's name, if it was asked for before.
    pub(crate) fn known_kind(&self, number: i64) -> Option<JobKind> {
        let here = || self.kinds.iter().find(|(_, known)| *known == number).map(|(kind, _)| kind.clone());
        self.names.kind_name(number).or_else(here)
    }

    /// The records of rows.
    pub(crate) async fn records(&mut self, queue: &QueueName, rows: &[Row]) -> Result<Vec<JobRecord>, StorageError> {
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let kind = self.kind_name(row.kind).await?;
            records.extend(row.record(queue, kind.as_ref()));
        }
        Ok(records)
    }

    /// What a commit has made true for everyone.
    pub(crate) fn learn(&mut self) {
        for (kind, number) in std::mem::take(&mut self.kinds) {
            self.names.learn_kind(number, kind);
        }
        for queue in &self.queues {
            self.names.learn_queue(&queue.name, queue.number);
        }
    }

    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        self.conn
    }

    /// Writes a changed row, whose old standing was counted out and whose new one is counted in here.
    pub(crate) fn save(&mut self, at: usize, row: Row) {
        self.queues[at].enter(&row);
        self.saves.insert(row.key, row);
    }

    /// Writes a changed row that stays where it stands.
    pub(crate) fn save_in_place(&mut self, at: usize, row: Row) {
        self.queues[at].dirty = true;
        self.saves.insert(row.key, row);
    }

    /// Removes a row that was counted out.
    pub(crate) fn remove(&mut self, key: i64) {
        self.saves.remove(&key);
        self.removes.push(key);
    }

    /// Ends a job that was counted out: keeps or removes its record, frees its key, tells its watchers.
    pub(crate) fn end(&mut self, at: usize, mut row: Row, state: JobState, failure: Option<FailReason>) -> Option<Row> {
        if let Some(reason) = failure.filter(|_| self.has_dead_letter(at)) {
            self.copy(at, &row, reason);
        }
        self.leave_batch(at, &row, failure);
        let in_batch = row.batch.take();
        let (now, number) = (self.queues[at].now, self.queues[at].number);
        let plain = row.extra.is_none();
        let options = row.options();
        let prune = prune_at(&options.keep, &self.queues[at].config.retention, state, now, row.waited_on());
        if !plain {
            let exit = if state == JobState::Cancelled { Exit::Cancelled } else { Exit::Ended };
            let exits = [exit, Exit::RemovedEnded];
            self.free_key(&row, if prune.is_none() { &exits } else { &exits[..1] });
        }
        self.queues[at].ended.push(row.id);
        self.queues[at].dirty = true;
        let Some(prune) = prune else {
            self.remove(row.key);
            return None;
        };
        self.queues[at].added[usize::from(state.number())] += 1;
        if state == JobState::Completed {
            let queue = &mut self.queues[at];
            queue.completed_rank = queue.completed_rank.min(prune.as_micros());
        }
        let untouched = in_batch.is_none() && !self.saves.contains_key(&row.key) && state == JobState::Completed;
        if untouched && !row.notes_changed {
            self.queues[at].shift(state, Slot::Lane, 1);
            let place = crate::row::place(number, state, Slot::Lane, 0);
            self.completes.entry((place, prune.as_micros())).or_default().push(row.key);
            row.stand(state, Slot::Lane, prune.as_micros());
            return Some(row);
        }
        row.finished_at = Some(now);
        row.lease_term = None;
        row.set_failure(failure);
        row.stand(state, Slot::Lane, prune.as_micros());
        self.save(at, row.clone());
        Some(row)
    }

    /// Fails a job that was counted out and can't be started.
    pub(crate) fn fail(&mut self, at: usize, mut row: Row, reason: FailReason, kind: ErrorKind, message: &str) {
        let (now, runs) = (self.queues[at].now, row.runs);
        row.change_notes(|notes| notes.push_error(now, runs, kind, message));
        self.queues[at].event(EventKind::Failed, row.id);
        self.end(at, row, JobState::Failed, Some(reason));
    }

    /// Writes everything that ends the work on the queues: pruning by count, events, the queues' rows.
    pub(crate) async fn finish(&mut self, stamp: i64) -> Result<(), StorageError> {
        self.end_call().await?;
        self.resolve_lanes().await?;
        self.flush();
        for queue in &mut self.queues {
            queue.write(stamp, &mut self.script);
        }
        Ok(())
    }

    /// Ends a call: what it added to the ended states may push older records out.
    pub(crate) async fn end_call(&mut self) -> Result<(), StorageError> {
        self.place_heirs().await?;
        for at in 0..self.queues.len() {
            self.prune_by_count(at).await?;
            self.follow_clock(at).await?;
            self.queues[at].oldest.clear();
            self.queues[at].completed_rank = i64::MAX;
        }
        self.ahead = None;
        Ok(())
    }

    async fn prune_by_count(&mut self, at: usize) -> Result<(), StorageError> {
        for state in [JobState::Completed, JobState::Failed, JobState::Cancelled] {
            let queue = &mut self.queues[at];
            let added = std::mem::take(&mut queue.added[usize::from(state.number())]);
            if added == 0 || queue.removed {
                continue;
            }
            let kept = queue.count(state).max(0).unsigned_abs();
            let quota = prune_quota(kept, queue.config.retention.rule(state).count, added);
            if quota == 0 {
                continue;
            }
            if state == JobState::Completed && self.prune_plain(at, quota) {
                continue;
            }
            // Records that somebody waits for are passed over, unless they ended long enough ago.
            let queue = &self.queues[at];
            let ended_before = queue.now.before(WAITED_ON_KEEP).as_micros();
            let values =
                vec![queue.place(state).into(), ended_before.into(), i64::try_from(quota).unwrap_or(i64::MAX).into()];
            let [answer] = self.ask([(writes::OLDEST, values)]).await?;
            for row in self.rows(&answer, false).await? {
                self.queues[at].leave(&row);
                self.free_key(&row, &[Exit::RemovedEnded]);
                self.remove(row.key);
            }
        }
        Ok(())
    }

    /// Prunes completed records that were read beforehand, if they are the ones to go and nothing speaks against it.
    fn prune_plain(&mut self, at: usize, quota: u64) -> bool {
        let queue = &mut self.queues[at];
        let quota = usize::try_from(quota).unwrap_or(usize::MAX);
        let Some(oldest) = queue.oldest.get(..quota) else { return false };
        if !oldest.iter().all(|record| record.plain && record.rank < queue.completed_rank) {
            return false;
        }
        for record in std::mem::take(&mut queue.oldest).into_iter().take(quota) {
            self.queues[at].shift(JobState::Completed, Slot::Lane, -1);
            self.remove(record.key);
        }
        true
    }

    /// The rows of these ids in a queue, without payloads.
    pub(crate) async fn by_ids(
        &mut self,
        at: usize,
        ids: impl IntoIterator<Item = &JobId>,
    ) -> Result<HashMap<JobId, Row>, StorageError> {
        let ask = ids_ask(self.queues[at].number, ids);
        let [answer] = self.ask([ask]).await?;
        Ok(self.rows(&answer, false).await?.into_iter().map(|row| (row.id, row)).collect())
    }
}

/// Asks for the rows of ids in a queue, by `ferroq_jobs_by_id`.
pub(crate) fn ids_ask<'a>(queue: i64, ids: impl IntoIterator<Item = &'a JobId>) -> Ask {
    let (low, high) = key_range(queue);
    (writes::BY_IDS, vec![crate::record::ids_json(ids).into(), low.into(), high.into()])
}

/// Reads a batch of packed rows.
pub(crate) fn unpack(answer: &[SqliteRow], with_payload: bool) -> Result<Vec<Row>, StorageError> {
    let Some(row) = answer.first() else { return Ok(Vec::new()) };
    let bytes: Option<&[u8]> = row.try_get_unchecked(0).map_err(|_| unexpected("a row"))?;
    Row::unpack_all(bytes.unwrap_or_default(), if with_payload { INLINE_BYTES_MAX } else { 0 })
        .map_err(|_| unexpected("a row"))
}

/// Fills in what a packed row left out.
pub(crate) fn fill(row: &mut Row, found: &SqliteRow, with_payload: bool) -> Result<(), StorageError> {
    let notes: Option<Vec<u8>> = found.try_get_unchecked(0).map_err(|_| unexpected("notes"))?;
    row.notes = notes.map(Vec::into_boxed_slice);
    row.notes_left_out = false;
    if with_payload && row.payload_len > INLINE_BYTES_MAX {
        let payload: Vec<u8> = found.try_get_unchecked(1).map_err(|_| unexpected("a payload"))?;
        row.payload = payload.into();
    }
    row.payload_left_out = !with_payload;
    Ok(())
}

/// The first column of the first row.
pub(crate) fn first_int(rows: &[SqliteRow]) -> Option<i64> {
    rows.first().and_then(|row| row.try_get_unchecked::<Option<i64>, _>(0).ok()).flatten()
}
