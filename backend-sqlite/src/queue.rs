//! A queue's row while a transaction works on it: settings, time, counts and the events that are to be logged. It is
//! read once and written once per transaction, however many calls share that.

use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::clock::{TimeStep, advance, micros};
use ferroq_core::event::{EventBatch, EventKind};
use ferroq_core::job::{JobId, JobState, LaneKey, QueueName, Slot};
use ferroq_core::policy::batch::SetBack;
use ferroq_core::storage::{QueueConfig, QueueCounts, StorageError};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::batches::Batches;
use crate::error::unexpected;
use crate::lanes::{Came, Lanes};
use crate::memory::Oldest;
use crate::names::Names;
use crate::row::{Row, slot_of};
use crate::script::{Script, Value};

/// Reads a queue's row by its name, by the unique index on it.
pub(crate) const READ: &str = "SELECT concat_ws(',',number,counter,last,attended_at,term_min,waiting,delayed,blocked,\
    active,completed,failed,cancelled,shelved,solo,event_first,event_last,work,control,stamp),config,lanes \
    FROM ferroq_queues WHERE name=?";

/// The same, and when its next Delayed job is due, by `ferroq_jobs_by_place`; the argument before the name is the part of
/// a place that says Delayed.
pub(crate) const PROBE: &str = "SELECT concat_ws(',',number,counter,last,attended_at,term_min,waiting,delayed,blocked,\
    active,completed,failed,cancelled,shelved,solo,event_first,event_last,work,control,stamp),config,lanes,\
    (SELECT rank FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=(number<<40)|? ORDER BY rank LIMIT 1) \
    FROM ferroq_queues WHERE name=?";

/// A queue's number by its name, by the unique index on it.
pub(crate) const NUMBER: &str = "SELECT number FROM ferroq_queues WHERE name=?";

const WRITE_LANES: &str = "UPDATE ferroq_queues SET lanes=? WHERE number=?";
const WRITE_CONFIG: &str = "UPDATE ferroq_queues SET config=? WHERE number=?";
const WRITE: &str = "UPDATE ferroq_queues SET counter=?,last=?,attended_at=?,term_min=?,waiting=?,delayed=?,\
    blocked=?,active=?,completed=?,failed=?,cancelled=?,shelved=?,solo=?,event_first=?,event_last=?,work=?,control=?,\
    stamp=? WHERE number=?";

const LOG: &str = "INSERT INTO ferroq_events (key,at,body) VALUES (?,?,?)";
const TRIM: &str = "DELETE FROM ferroq_events WHERE key BETWEEN ? AND ?";

/// How many events entries beyond those kept may stand before a call trims the log, and how many it trims at most.
const TRIM_ENTRIES: i64 = 128;

/// All Active leases for the full term again (clock stepped back), by `ferroq_jobs_by_place`.
const REANCHOR: &str = "UPDATE ferroq_jobs SET rank=min(lease_term,9223372036854775807-?)+? WHERE place=?";

/// How far the stored time may lag behind while calls find nothing to do: so much of a step back of the clock may go
/// unnoticed, and so seldom does an idle worker write.
const STALE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) number: i64,
    pub(crate) config: QueueConfig,
    pub(crate) counter: i64,
    last: Timestamp,
    pub(crate) attended_at: Timestamp,
    /// No Active job's lease term is shorter than this; 0 if no job was Active.
    pub(crate) term_min: i64,
    pub(crate) counts: [i64; 7],
    pub(crate) shelved: i64,
    pub(crate) solo: i64,
    event_first: i64,
    event_last: i64,
    work: i64,
    control: i64,
    /// What the row's last writer left to recognise its own commit.
    pub(crate) stamp: i64,
    /// The stamp that this transaction found; `None` if it made the row.
    pub(crate) found_stamp: Option<i64>,
    pub(crate) now: Timestamp,
    pub(crate) events: EventBatch,
    /// Records of ended jobs that were added and kept.
    pub(crate) added: [u64; 7],
    pub(crate) dirty: bool,
    pub(crate) removed: bool,
    pub(crate) hint_work: bool,
    pub(crate) hint_control: bool,
    pub(crate) ended: Vec<JobId>,
    /// Whether the settings are others than those stored.
    pub(crate) config_changed: bool,
    /// The records to prune by count, if they were read beforehand.
    pub(crate) oldest: Vec<Oldest>,
    /// The lowest rank of a record that this call adds to Completed.
    pub(crate) completed_rank: i64,
    /// Whether the row was recalled instead of read, and is guarded.
    pub(crate) recalled: bool,
    /// Its lanes.
    pub(crate) lanes: Lanes,
    /// Its batches, as far as a call is about them.
    pub(crate) batches: Batches,
}

impl Queue {
    /// A queue that comes into being now.
    pub(crate) fn new(name: QueueName, number: i64, now: Timestamp) -> Queue {
        Queue {
            name,
            number,
            config: QueueConfig::default(),
            counter: 0,
            last: now,
            attended_at: now,
            term_min: 0,
            counts: [0; 7],
            shelved: 0,
            solo: 0,
            event_first: 1,
            event_last: 0,
            work: 0,
            control: 0,
            stamp: 0,
            found_stamp: None,
            now,
            events: EventBatch::default(),
            added: [0; 7],
            dirty: true,
            removed: false,
            hint_work: false,
            hint_control: false,
            ended: Vec::new(),
            config_changed: true,
            oldest: Vec::new(),
            completed_rank: i64::MAX,
            recalled: false,
            lanes: Lanes::default(),
            batches: Batches::default(),
        }
    }

    /// The row as a commit left it, for a later transaction.
    pub(crate) fn committed(self) -> Queue {
        Queue {
            events: EventBatch::default(),
            added: [0; 7],
            dirty: false,
            hint_work: false,
            hint_control: false,
            ended: Vec::new(),
            config_changed: false,
            oldest: Vec::new(),
            completed_rank: i64::MAX,
            recalled: true,
            found_stamp: Some(self.stamp),
            lanes: self.lanes.committed(),
            batches: Batches::default(),
            ..self
        }
    }

    /// Reads the row that [`READ`] answers.
    pub(crate) fn read(name: &QueueName, row: &SqliteRow, names: &Names) -> Result<Queue, StorageError> {
        let numbers: &str = row.try_get_unchecked(0).map_err(|_| unexpected("a queue's row"))?;
        let config: &str = row.try_get_unchecked(1).map_err(|_| unexpected("a queue's row"))?;
        let mut parts = numbers.split(',').map(|part| part.parse::<i64>());
        let mut next = || parts.next().and_then(Result::ok).ok_or_else(|| unexpected("a queue's row"));
        let number = next()?;
        let mut queue = Queue::new(name.clone(), number, Timestamp::default());
        queue.dirty = false;
        queue.config_changed = false;
        queue.config = names.config(number, config);
        queue.counter = next()?;
        queue.last = Timestamp::from_micros(next()?);
        queue.attended_at = Timestamp::from_micros(next()?);
        queue.term_min = next()?;
        for count in &mut queue.counts {
            *count = next()?;
        }
        queue.shelved = next()?;
        queue.solo = next()?;
        queue.event_first = next()?;
        queue.event_last = next()?;
        queue.work = next()?;
        queue.control = next()?;
        queue.stamp = next()?;
        queue.found_stamp = Some(queue.stamp);
        if let Some(lanes) = row.try_get_unchecked::<Option<&str>, _>(2).map_err(|_| unexpected("a queue's row"))? {
            queue.lanes = Lanes::read(lanes).map_err(|_| unexpected("a queue's lanes"))?;
        }
        queue.now = queue.last;
        Ok(queue)
    }

    /// The storage time of the last write.
    pub(crate) fn last(&self) -> Timestamp {
        self.last
    }

    /// Storage time at this clock reading, for those who only look.
    pub(crate) fn time(&self, clock: Timestamp) -> Timestamp {
        advance(Some(self.last), clock).0
    }

    /// Whether the clock stepped back, or the stored time lags behind so much that it should be written, even if there
    /// is nothing else to write.
    pub(crate) fn is_stale(&self) -> bool {
        self.now < self.last || self.now.since(self.last) >= STALE
    }

    /// Whether a claim that finds nothing may leave the row as it is.
    pub(crate) fn may_look_idle(&self) -> bool {
        self.count(JobState::Active) == 0 && !self.is_stale()
    }

    /// Lets the clock reading in, as every writing call begins.
    pub(crate) fn advance(&mut self, clock: Timestamp, script: &mut Script) {
        let before = self.last;
        let (now, step) = advance(Some(before), clock);
        self.lanes.read_clock(self.counter, before, clock);
        self.now = now;
        self.dirty |= now != self.last;
        self.last = now;
        if let TimeStep::SteppedBack { from } = step {
            tracing::warn!(queue = %self.name, %from, to = %now, "the clock stepped back; every lease gets its full term");
            if self.count(JobState::Active) > 0 {
                let now = now.as_micros();
                script.add(REANCHOR, [now.into(), now.into(), self.place(JobState::Active).into()]);
            }
            self.attended_at = now;
            self.lanes.reopen();
            self.lanes.stepped_back_from = Some(before);
            self.events.queue(EventKind::ClockSteppedBack);
            self.dirty = true;
        }
    }

    pub(crate) fn count(&self, state: JobState) -> i64 {
        self.counts[usize::from(state.number())]
    }

    /// Where jobs of this state stand, unless on a shelf or in the solo line.
    pub(crate) fn place(&self, state: JobState) -> i64 {
        crate::row::place(self.number, state, Slot::Lane, 0)
    }

    /// How many jobs stand in the line itself.
    pub(crate) fn in_line(&self) -> i64 {
        self.count(JobState::Waiting) - self.shelved - self.solo
    }

    /// How long ago anybody attended, if leases with so short a term may need an extension.
    pub(crate) fn outage(&self) -> Option<Duration> {
        let gap = self.now.since(self.attended_at);
        let possible = self.count(JobState::Active) > 0 && micros(gap).saturating_mul(2) > self.term_min;
        possible.then_some(gap)
    }

    /// Whether completing so many more jobs may push older records out.
    pub(crate) fn may_prune(&self, completed: usize) -> bool {
        let kept = self.count(JobState::Completed).max(0).unsigned_abs();
        let rule = self.config.retention.completed;
        rule.count > 0 && kept.saturating_add(u64::try_from(completed).unwrap_or(u64::MAX)) > rule.count
    }

    /// Notes that somebody attended, if jobs are Active.
    pub(crate) fn attend(&mut self) {
        if self.count(JobState::Active) > 0 {
            self.attended_at = self.now;
            self.dirty = true;
        }
    }

    pub(crate) fn note_term(&mut self, term: i64) {
        self.term_min = if self.term_min == 0 { term } else { self.term_min.min(term) };
    }

    /// Counts a job in where it stands.
    pub(crate) fn enter(&mut self, row: &Row) {
        self.shift(row.state(), row.slot(), 1);
        if row.is_in_lane() {
            let due = SetBack::due(self.lanes.set_back, row.seq(), row.due_at);
            let (in_line, came) = (self.in_line(), Came { in_batch: row.batch.is_some(), due });
            self.lanes.stand(row.lane(), row.key, in_line, came);
        } else if row.state() == JobState::Active {
            self.lanes.start(&row.lane());
        }
        if matches!(row.state(), JobState::Waiting | JobState::Delayed) {
            self.hint_work = true;
        }
    }

    /// Counts a job out from where it stands.
    pub(crate) fn leave(&mut self, row: &Row) {
        self.shift(row.state(), row.slot(), -1);
        if row.is_in_lane() {
            self.lanes.leave(slot_of(row.place).1, row.key);
        } else if let Some(batch) = row.batch.filter(|_| row.is_member()) {
            self.batches.left(batch);
        } else if row.state() == JobState::Active {
            self.lanes.stop(row.extra().ok().map(|_| row.lane()).as_ref());
        }
    }

    /// A run of a job of this lane is over: there may be room for another.
    pub(crate) fn release(&mut self, lane: LaneKey) {
        self.hint_work |= self.lanes.has_rules(&self.config);
        self.lanes.release(lane);
    }

    /// Counts without a hint.
    pub(crate) fn shift(&mut self, state: JobState, slot: Slot, by: i64) {
        self.dirty = true;
        self.counts[usize::from(state.number())] += by;
        if state == JobState::Waiting {
            match slot {
                Slot::Lane => {}
                Slot::Solo => self.solo += by,
                Slot::Shelf => self.shelved += by,
            }
        }
    }

    pub(crate) fn event(&mut self, kind: EventKind, id: JobId) {
        self.events.job(kind, id);
        self.dirty = true;
    }

    pub(crate) fn queue_event(&mut self, kind: EventKind) {
        self.events.queue(kind);
        self.dirty = true;
    }

    /// The entries of the log that exist: the first, and the last.
    pub(crate) fn event_range(&self) -> (i64, i64) {
        (self.event_first, self.event_last)
    }

    /// What a watcher in another process compares: work and control.
    pub(crate) fn marks(&self) -> (i64, i64) {
        (self.work, self.control)
    }

    pub(crate) fn counts(&self) -> QueueCounts {
        let mut counts = QueueCounts { paused: self.config.paused, ..QueueCounts::default() };
        for state in JobState::ALL {
            *counts.of_mut(state) = self.count(state).max(0).unsigned_abs();
        }
        counts
    }

    /// Adds the writes that end the transaction for this queue.
    pub(crate) fn write(&mut self, stamp: i64, script: &mut Script) {
        if self.removed || !(self.dirty || self.lanes.changed) {
            return;
        }
        if !self.events.is_empty() {
            self.event_last += 1;
            let key = crate::row::key(self.number, self.event_last);
            let body = std::mem::take(&mut self.events).pack();
            script.add(LOG, [key.into(), self.now.as_micros().into(), body.into()]);
            let kept = i64::try_from(self.config.event_entries_kept).unwrap_or(i64::MAX);
            let first = self.event_last.saturating_sub(kept).saturating_add(1);
            if first - self.event_first >= TRIM_ENTRIES {
                let upto = first.min(self.event_first + 4 * TRIM_ENTRIES) - 1;
                let key = |entry| crate::row::key(self.number, entry);
                script.add(TRIM, [key(self.event_first).into(), key(upto).into()]);
                self.event_first = upto + 1;
            }
        }
        if self.count(JobState::Active) == 0 {
            self.term_min = 0;
        }
        self.work += i64::from(self.hint_work);
        self.control += i64::from(self.hint_control);
        self.stamp = stamp;
        if std::mem::take(&mut self.config_changed) {
            let config = serde_json::to_string(&self.config).unwrap_or_default();
            script.add(WRITE_CONFIG, [config.into(), self.number.into()]);
        }
        if std::mem::take(&mut self.lanes.changed) {
            script.add(WRITE_LANES, [self.lanes.write().map_or(Value::Null, Value::Text), self.number.into()]);
        }
        let mut values: Vec<Value> = vec![
            self.counter.into(),
            self.last.as_micros().into(),
            self.attended_at.as_micros().into(),
            self.term_min.into(),
        ];
        values.extend(self.counts.map(Value::from));
        values.extend(
            [
                self.shelved,
                self.solo,
                self.event_first,
                self.event_last,
                self.work,
                self.control,
                self.stamp,
                self.number,
            ]
            .map(Value::from),
        );
        script.add(WRITE, values);
        self.dirty = false;
    }
}
