//! A row as the rest of ferroq sees it. Reading is forgiving where a record is shown (what can be read is, and the rest
//! is replaced and the job marked as quarantined) and strict where a job would be run.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::clock::micros;
use ferroq_core::job::{
    BatchNumber, CodecTag, FailReason, JobId, JobKind, JobOptions, JobRecord, JobSpec, JobState, LaneKey, Notes,
    Payload, Priority, QueueName, Slot, Start, WorkerId,
};
use ferroq_core::policy::dedup::Dedup;
use ferroq_core::policy::settle::Standing;

use crate::row::{Extra, Row, is_default, key, place, seq_of, slot_of, state_of};

const CANCEL_REQUESTED: i64 = 1;
const WAITED_ON: i64 = 2;
/// Above the flags: the priority that the job was enqueued with, as its difference from the default, so that most rows
/// have none.
const SPEC_PRIORITY_SHIFT: u32 = 8;
/// Above that: for how many enqueues beyond its own the job stands.
const COALESCED_SHIFT: u32 = 16;

/// A record, or a part of it, can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) &'static str);

fn flags(record_priority: Priority, cancel_requested: bool, waited_on: bool) -> i64 {
    let priority = i64::from(record_priority.0 ^ Priority::default().0) << SPEC_PRIORITY_SHIFT;
    priority | if cancel_requested { CANCEL_REQUESTED } else { 0 } | if waited_on { WAITED_ON } else { 0 }
}

fn reason_number(reason: FailReason) -> i64 {
    match reason {
        FailReason::AttemptsExhausted => 1,
        FailReason::CrashesExhausted => 2,
        FailReason::Aborted => 3,
        FailReason::Expired => 4,
        FailReason::WithBatch => 6,
        _ => 5,
    }
}

fn reason_from(number: i64) -> FailReason {
    match number {
        1 => FailReason::AttemptsExhausted,
        2 => FailReason::CrashesExhausted,
        3 => FailReason::Aborted,
        4 => FailReason::Expired,
        6 => FailReason::WithBatch,
        _ => FailReason::Quarantined,
    }
}

/// A payload's codec and version as they are stored.
pub(crate) fn format_of(payload: &Payload) -> i64 {
    i64::from(payload.codec.number()) | i64::from(payload.version) << 8
}

/// The rare parts of a spec as they are stored: nothing if there are none.
pub(crate) fn extra_of(spec: &JobSpec) -> Option<(Box<[u8]>, Extra)> {
    let plain = is_default(&spec.options);
    if plain && spec.dedup.is_none() && spec.origin.is_none() && spec.lane.is_default() && spec.start == Start::Now {
        return None;
    }
    let options = (!plain).then(|| spec.options.clone());
    let extra = Extra {
        lane: spec.lane.clone(),
        start: spec.start,
        dedup: spec.dedup.clone(),
        options,
        origin: spec.origin.clone(),
    };
    serde_json::to_vec(&extra).ok().map(|bytes| (bytes.into_boxed_slice(), extra))
}

/// Notes as they are stored: nothing if they are empty.
pub(crate) fn notes_of(notes: &Notes) -> Option<Box<[u8]>> {
    if notes.is_empty() { None } else { crate::notes::write(notes).map(Vec::into_boxed_slice) }
}

impl Row {
    /// A new job's row, Waiting or Delayed.
    pub(crate) fn new(queue: i64, seq: i64, kind: i64, spec: &JobSpec, now: Timestamp) -> Row {
        let (state, due_at) = ferroq_core::policy::enqueue::place(ferroq_core::policy::dedup::start(spec), now);
        let (extra, rare) = extra_of(spec).unzip();
        let mut row = Row {
            key: key(queue, seq),
            place: 0,
            rank: 0,
            kind,
            format: format_of(&spec.payload),
            priority: i64::from(spec.priority.0),
            epoch: 0,
            attempts: 0,
            crashes: 0,
            runs: 0,
            flags: flags(spec.priority, false, false),
            created_at: now,
            due_at,
            expires_at: ferroq_core::policy::enqueue::expiry(spec.options.expires_in, now),
            started_at: None,
            finished_at: None,
            lease_term: None,
            failure: None,
            batch: None,
            id: spec.id,
            id_damaged: false,
            extra,
            rare: rare.map_or_else(OnceLock::new, |rare| Some(Arc::new(rare)).into()),
            worker: None,
            notes: None,
            payload: spec.payload.bytes.clone(),
            notes_left_out: false,
            notes_changed: false,
            payload_left_out: false,
            payload_len: spec.payload.bytes.len(),
        };
        match state {
            JobState::Delayed => row.stand(JobState::Delayed, Slot::Lane, due_at.as_micros()),
            _ => row.wait(ferroq_core::policy::enqueue::line(0, spec.options.max_crashes)),
        }
        row
    }

    /// A record's row.
    pub(crate) fn of_record(queue: i64, kind: i64, record: &JobRecord) -> Row {
        let mut row = Row::new(queue, record.seq, kind, &record.spec, record.created_at);
        row.priority = i64::from(record.priority.0);
        row.epoch = record.epoch;
        row.attempts = record.attempts;
        row.crashes = record.crashes;
        row.runs = record.runs;
        row.flags = flags(record.spec.priority, record.cancel_requested, record.waited_on);
        row.set_coalesced(record.coalesced);
        row.due_at = record.due_at;
        row.expires_at = record.expires_at;
        row.started_at = record.started_at;
        row.finished_at = record.finished_at;
        row.lease_term = record.lease_term.map(micros);
        row.failure = record.failure.map(reason_number);
        row.worker = record.worker.as_ref().map(|name| name.as_str().into());
        row.notes = notes_of(&record.notes);
        let rank = match record.state {
            JobState::Waiting => row.priority,
            JobState::Delayed => record.due_at.as_micros(),
            JobState::Blocked => 0,
            JobState::Active => record.lease_until.unwrap_or_default().as_micros(),
            JobState::Completed | JobState::Failed | JobState::Cancelled => {
                record.prune_at.unwrap_or_default().as_micros()
            }
        };
        row.stand(record.state, record.slot, rank);
        row
    }

    pub(crate) fn queue(&self) -> i64 {
        crate::row::queue_of(self.key)
    }

    pub(crate) fn seq(&self) -> i64 {
        seq_of(self.key)
    }

    /// The state; Failed where it can't be read.
    pub(crate) fn state(&self) -> JobState {
        state_of(self.place).unwrap_or(JobState::Failed)
    }

    pub(crate) fn slot(&self) -> Slot {
        slot_of(self.place).0
    }

    /// Puts the job where it belongs.
    pub(crate) fn stand(&mut self, state: JobState, slot: Slot, rank: i64) {
        let line = if slot == Slot::Shelf { self.kind } else { 0 };
        self.place = place(self.queue(), state, slot, line);
        self.rank = rank;
    }

    /// Puts the job in line; of a lane that has a name, the unit fills in its number when it writes.
    pub(crate) fn wait(&mut self, slot: Slot) {
        self.stand(JobState::Waiting, slot, self.priority);
    }

    pub(crate) fn cancel_requested(&self) -> bool {
        self.flags & CANCEL_REQUESTED != 0
    }

    pub(crate) fn set_cancel_requested(&mut self, asked: bool) {
        self.flags = if asked { self.flags | CANCEL_REQUESTED } else { self.flags & !CANCEL_REQUESTED };
    }

    pub(crate) fn coalesced(&self) -> u32 {
        u32::try_from((self.flags >> COALESCED_SHIFT) & i64::from(u32::MAX)).unwrap_or(0).saturating_add(1)
    }

    pub(crate) fn set_coalesced(&mut self, enqueues: u32) {
        self.flags &= (1 << COALESCED_SHIFT) - 1;
        self.flags |= i64::from(enqueues.saturating_sub(1)) << COALESCED_SHIFT;
    }

    pub(crate) fn waited_on(&self) -> bool {
        self.flags & WAITED_ON != 0
    }

    /// Whether the job is a member of a batch.
    pub(crate) fn is_member(&self) -> bool {
        self.batch.is_some() && self.state() == JobState::Blocked
    }

    pub(crate) fn lease_until(&self) -> Option<Timestamp> {
        (self.state() == JobState::Active).then(|| Timestamp::from_micros(self.rank))
    }

    pub(crate) fn set_failure(&mut self, reason: Option<FailReason>) {
        self.failure = reason.map(reason_number);
    }

    /// The rare parts of the spec, read once.
    pub(crate) fn extra(&self) -> Result<Option<&Extra>, Unreadable> {
        let Some(bytes) = &self.extra else { return Ok(None) };
        let rare = self.rare.get_or_init(|| serde_json::from_slice(bytes).ok().map(Arc::new));
        rare.as_deref().map(Some).ok_or(Unreadable("its options"))
    }

    /// Takes over what another row's rare parts say, if they are the same: the jobs of a lane often have nothing else.
    pub(crate) fn share_extra(&mut self, other: &Row) {
        if self.extra.is_some() && self.extra == other.extra && other.extra().is_ok() {
            self.rare = other.rare.clone();
        }
    }

    /// Whether the job's lane has a name: what is rare about a spec begins with it.
    pub(crate) fn has_lane(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.starts_with(b"{\"lane\":"))
    }

    /// The job's lane; the default one where it can't be read.
    pub(crate) fn lane(&self) -> LaneKey {
        if !self.has_lane() {
            return LaneKey::DEFAULT;
        }
        self.extra().ok().flatten().map_or(LaneKey::DEFAULT, |extra| extra.lane.clone())
    }

    /// Whether the job stands in the line of a lane.
    pub(crate) fn is_in_lane(&self) -> bool {
        self.state() == JobState::Waiting && self.slot() == Slot::Lane
    }

    /// The options, or the defaults where they can't be read.
    pub(crate) fn options(&self) -> Arc<JobOptions> {
        let extra = self.extra().ok().flatten();
        extra.and_then(|extra| extra.options.clone()).unwrap_or_else(JobOptions::shared_default)
    }

    /// The dedup key and mode, if it has one that can be read.
    pub(crate) fn dedup(&self) -> Option<Dedup> {
        self.extra().ok().flatten().and_then(|extra| extra.dedup.clone())
    }

    pub(crate) fn standing(&self, options: &JobOptions) -> Standing {
        Standing::new(self.attempts, self.crashes, self.cancel_requested(), options)
    }

    /// The notes.
    pub(crate) fn read_notes(&self) -> Result<Notes, Unreadable> {
        match &self.notes {
            None => Ok(Notes::default()),
            Some(bytes) => crate::notes::read(bytes).ok_or(Unreadable("its notes")),
        }
    }

    /// Changes the notes; unreadable ones start anew, because the job's way on must not depend on them.
    pub(crate) fn change_notes(&mut self, change: impl FnOnce(&mut Notes)) {
        let mut notes = self.read_notes().unwrap_or_default();
        change(&mut notes);
        self.notes = notes_of(&notes);
        self.notes_left_out = false;
        self.notes_changed = true;
    }

    /// The spec, for a job that is to be run.
    pub(crate) fn spec(&self, queue: &QueueName, kind: &JobKind) -> Result<JobSpec, Unreadable> {
        if self.id_damaged {
            return Err(Unreadable("its id"));
        }
        let codec = u8::try_from(self.format & 0xff).ok().and_then(CodecTag::from_number);
        let version = u16::try_from(self.format >> 8);
        let (Some(codec), Ok(version)) = (codec, version) else { return Err(Unreadable("its payload's format")) };
        let extra = self.extra()?;
        let priority = u8::try_from((self.flags >> SPEC_PRIORITY_SHIFT) & 0xff).unwrap_or(0);
        if u8::try_from(self.priority).is_err() {
            return Err(Unreadable("its priority"));
        }
        Ok(JobSpec {
            id: self.id,
            queue: queue.clone(),
            lane: extra.map_or(LaneKey::DEFAULT, |extra| extra.lane.clone()),
            kind: kind.clone(),
            payload: Payload { codec, version, bytes: self.payload.clone() },
            priority: Priority(priority ^ Priority::default().0),
            lifo: self.seq() < 0,
            start: extra.map_or(Start::Now, |extra| extra.start),
            dedup: extra.and_then(|extra| extra.dedup.clone()),
            options: extra.and_then(|extra| extra.options.clone()).unwrap_or_else(JobOptions::shared_default),
            origin: extra.and_then(|extra| extra.origin.clone()),
        })
    }

    /// The whole record, with what can't be read replaced and the failure saying so.
    pub(crate) fn record(&self, queue: &QueueName, kind: Option<&JobKind>) -> Option<JobRecord> {
        let mut readable = kind.is_some() && state_of(self.place).is_some();
        let kind = match kind {
            Some(kind) => kind.clone(),
            None => JobKind::new("unreadable").ok()?,
        };
        let spec = self.spec(queue, &kind).unwrap_or_else(|_| {
            readable = false;
            let mut spec = JobSpec::new(queue.clone(), kind, Payload::json(self.payload.clone()));
            spec.id = self.id;
            spec.lifo = self.seq() < 0;
            spec
        });
        let notes = self.read_notes().unwrap_or_else(|_| {
            readable = false;
            Notes::default()
        });
        let state = self.state();
        let rank = Timestamp::from_micros(self.rank);
        Some(JobRecord {
            spec: Arc::new(spec),
            seq: self.seq(),
            state,
            slot: self.slot(),
            priority: Priority(u8::try_from(self.priority).unwrap_or_default()),
            epoch: self.epoch,
            attempts: self.attempts,
            crashes: self.crashes,
            runs: self.runs,
            coalesced: self.coalesced(),
            batch: self.batch.map(BatchNumber),
            cancel_requested: self.cancel_requested(),
            created_at: self.created_at,
            due_at: self.due_at,
            expires_at: self.expires_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            prune_at: state.is_terminal().then_some(rank),
            lease_until: self.lease_until(),
            lease_term: self.lease_term.map(|term| Duration::from_micros(term.max(0).unsigned_abs())),
            worker: self.worker.as_ref().and_then(|name| WorkerId::new(name).ok()),
            failure: if readable { self.failure.map(reason_from) } else { Some(FailReason::Quarantined) },
            waited_on: self.waited_on(),
            notes,
        })
    }
}

/// Sets the mark of a waiter in SQL.
pub(crate) const WAITED_ON_FLAG: i64 = WAITED_ON;

/// An id as it travels in a JSON argument.
pub(crate) fn hex(id: &JobId, to: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in id.as_bytes() {
        to.push(char::from(DIGITS[usize::from(byte >> 4)]));
        to.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Ids as a JSON array of hexadecimal texts.
pub(crate) fn ids_json<'a>(ids: impl IntoIterator<Item = &'a JobId>) -> String {
    let mut json = String::from("[");
    for id in ids {
        json.push_str(if json.len() > 1 { ",\"" } else { "\"" });
        hex(id, &mut json);
        json.push('"');
    }
    json.push(']');
    json
}

/// Numbers as a JSON array.
pub(crate) fn numbers_json(numbers: impl IntoIterator<Item = i64>) -> String {
    let mut json = String::from("[");
    for number in numbers {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&number.to_string());
    }
    json.push(']');
    json
}
