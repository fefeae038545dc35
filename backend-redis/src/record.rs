//! A job as the rest of ferroq sees it, from the entries that the store has of it. Reading is forgiving where a record is
//! shown: what can be read is, the rest is replaced, and the job is shown as quarantined. Where a job would be run,
//! [`claimed`] is strict.

use std::time::Duration;

use bytes::Bytes;
use ferroq_core::clock::{Timestamp, micros};
use ferroq_core::job::{
    BatchNumber, ErrorEntry, ErrorKind, FailReason, JobId, JobKind, JobRecord, JobSpec, JobState, LogLine, Notes,
    Origin, Payload, Priority, Progress, QueueName, Slot, WorkerId, clip,
};
use ferroq_core::storage::{Claim, Lease};
use redis::Value;

use crate::spec::{self, Kinds, Reader, Unreadable};

/// Seqs are stored with this added, in seven bytes, so that they sort as bytes.
pub(crate) const SEQ_BIAS: i64 = 1 << 52;
/// How long an entry in `run` is without the worker's name.
const ENTRY: usize = 74;

const CANCEL_REQUESTED: u8 = 1;
const WAITED_ON: u8 = 2;
/// The job stands for several enqueues, and how many comes before the worker.
const COALESCED: u8 = 4;
/// It is in a batch, whose number comes before the worker and after that count.
const IN_BATCH: u8 = 8;
/// Where an entry has its flags.
const FLAGS_AT: usize = 35;

/// Where the worker begins in an entry with these flags; `pack.lua` has the same.
fn head_len(flags: u8) -> usize {
    ENTRY + if flags & COALESCED != 0 { 4 } else { 0 } + if flags & IN_BATCH != 0 { 6 } else { 0 }
}

/// What the store has of one job.
#[derive(Clone, Debug)]
pub(crate) struct JobParts {
    pub(crate) id: JobId,
    pub(crate) spec: Bytes,
    /// Empty if there is none.
    pub(crate) entry: Bytes,
    /// Errors, progress, checkpoint, result, log; empty where there is none.
    pub(crate) notes: [Bytes; 5],
}

/// The bytes of an answer; empty for nil.
pub(crate) fn bytes_of(value: Value) -> Result<Bytes, Unreadable> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into_bytes().into()),
        Value::Nil => Ok(Bytes::new()),
        _ => Err(Unreadable),
    }
}

pub(crate) fn id_of(bytes: &[u8]) -> Result<JobId, Unreadable> {
    Ok(JobId::from_bytes(bytes.try_into().map_err(|_| Unreadable)?))
}

/// The seq in seven bytes.
pub(crate) fn seq_of(bytes: &[u8]) -> Result<i64, Unreadable> {
    let mut wide = [0; 8];
    wide[1..].copy_from_slice(bytes.get(..7).ok_or(Unreadable)?);
    Ok(i64::from_be_bytes(wide) - SEQ_BIAS)
}

/// A seq as it is stored.
pub(crate) fn seq_bytes(seq: i64) -> [u8; 7] {
    let [_, rest @ ..] = (seq + SEQ_BIAS).to_be_bytes();
    rest
}

impl JobParts {
    /// Reads id, spec, entry and notes from a flat answer.
    pub(crate) fn take(values: &mut impl Iterator<Item = Value>) -> Result<Self, Unreadable> {
        let mut next = || bytes_of(values.next().ok_or(Unreadable)?);
        let id = id_of(&next()?)?;
        let (spec, entry) = (next()?, next()?);
        Ok(JobParts { id, spec, entry, notes: [next()?, next()?, next()?, next()?, next()?] })
    }
}

/// The changing part of a job.
#[derive(Clone, Debug)]
struct Entry {
    state: JobState,
    epoch: i64,
    seq: i64,
    due_at: Timestamp,
    expires_at: Option<Timestamp>,
    priority: Priority,
    slot: Slot,
    flags: u8,
    failure: Option<FailReason>,
    attempts: u32,
    crashes: u32,
    runs: u32,
    coalesced: u32,
    batch: Option<BatchNumber>,
    started_at: Option<Timestamp>,
    till: Option<Timestamp>,
    term: i64,
    worker: Option<WorkerId>,
}

fn instant(micros: i64) -> Option<Timestamp> {
    (micros != 0).then(|| Timestamp::from_micros(micros))
}

fn reason_number(reason: FailReason) -> u8 {
    match reason {
        FailReason::AttemptsExhausted => 1,
        FailReason::CrashesExhausted => 2,
        FailReason::Aborted => 3,
        FailReason::Expired => 4,
        FailReason::WithBatch => 6,
        _ => 5,
    }
}

fn reason_of(number: u8) -> Option<FailReason> {
    Some(match number {
        0 => return None,
        1 => FailReason::AttemptsExhausted,
        2 => FailReason::CrashesExhausted,
        3 => FailReason::Aborted,
        4 => FailReason::Expired,
        6 => FailReason::WithBatch,
        _ => FailReason::Quarantined,
    })
}

/// The number of a sort of error; `names.lua` has those that scripts write.
pub(crate) fn error_number(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Panic => 1,
        ErrorKind::Timeout => 2,
        ErrorKind::Abort => 3,
        ErrorKind::Payload => 4,
        ErrorKind::Crash => 5,
        ErrorKind::Expired => 6,
        ErrorKind::Quarantine => 7,
        _ => 0,
    }
}

fn error_kind(number: u8) -> ErrorKind {
    match number {
        1 => ErrorKind::Panic,
        2 => ErrorKind::Timeout,
        3 => ErrorKind::Abort,
        4 => ErrorKind::Payload,
        5 => ErrorKind::Crash,
        6 => ErrorKind::Expired,
        7 => ErrorKind::Quarantine,
        _ => ErrorKind::Error,
    }
}

impl Entry {
    fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut from = Reader(bytes);
        let state = JobState::from_number(from.u8()?).ok_or(Unreadable)?;
        let epoch = from.i64()?;
        let seq = seq_of(from.bytes(7)?)?;
        let (due_at, expires_at) = (Timestamp::from_micros(from.i64()?), instant(from.i64()?));
        let priority = Priority(from.u8()?);
        let _traits = from.u8()?;
        let slot = match from.u8()? {
            0 => Slot::Lane,
            1 => Slot::Solo,
            2 => Slot::Shelf,
            _ => return Err(Unreadable),
        };
        let flags = from.u8()?;
        let _mask = from.u8()?;
        let failure = reason_of(from.u8()?);
        let (attempts, crashes, runs) = (from.u32()?, from.u32()?, from.u32()?);
        let (started_at, till, term) = (instant(from.i64()?), instant(from.i64()?), from.i64()?);
        let coalesced = if flags & COALESCED != 0 { from.u32()? } else { 1 };
        let batch = if flags & IN_BATCH != 0 { Some(BatchNumber(from.u48()?)) } else { None };
        let worker = std::str::from_utf8(from.0).map_err(|_| Unreadable)?;
        let worker = if worker.is_empty() { None } else { Some(WorkerId::new(worker).map_err(|_| Unreadable)?) };
        Ok(Entry {
            state,
            epoch,
            seq,
            due_at,
            expires_at,
            priority,
            slot,
            flags,
            failure,
            attempts,
            crashes,
            runs,
            coalesced,
            batch,
            started_at,
            till,
            term,
            worker,
        })
    }

    /// The entry of a job that has none: Waiting in its lane, never claimed.
    fn fresh(stored: &[u8]) -> Result<Self, Unreadable> {
        let mut from = Reader(stored);
        let seq = seq_of(from.bytes(7)?)?;
        let (created_at, expires_at) = (Timestamp::from_micros(from.i64()?), instant(from.i64()?));
        Ok(Entry {
            state: JobState::Waiting,
            epoch: 0,
            seq,
            due_at: created_at,
            expires_at,
            priority: Priority(from.u8()?),
            slot: Slot::Lane,
            flags: 0,
            failure: None,
            attempts: 0,
            crashes: 0,
            runs: 0,
            coalesced: 1,
            batch: None,
            started_at: None,
            till: None,
            term: 0,
            worker: None,
        })
    }

    /// What stands in for an entry that can't be read.
    fn unreadable() -> Self {
        Entry {
            state: JobState::Failed,
            epoch: 0,
            seq: 0,
            due_at: Timestamp::default(),
            expires_at: None,
            priority: Priority::default(),
            slot: Slot::Lane,
            flags: 0,
            failure: Some(FailReason::Quarantined),
            attempts: 0,
            crashes: 0,
            runs: 0,
            coalesced: 1,
            batch: None,
            started_at: None,
            till: None,
            term: 0,
            worker: None,
        }
    }
}

/// The whole record.
pub(crate) fn read(queue: &QueueName, parts: JobParts, kinds: &mut Kinds) -> JobRecord {
    let JobParts { id, spec: stored, entry, notes } = parts;
    let spec = spec::read(queue, id, &stored, kinds);
    let entry = if entry.is_empty() { Entry::fresh(&stored) } else { Entry::read(&entry) };
    let notes = notes_of(&notes);
    let readable = spec.is_ok() && entry.is_ok() && notes.is_ok();
    let created_at = Reader(stored.get(7..).unwrap_or_default()).i64().unwrap_or_default();
    let entry = entry.unwrap_or_else(|_| Entry::unreadable());
    let ended = entry.state.is_terminal();
    let active = entry.state == JobState::Active;
    JobRecord {
        spec: spec.unwrap_or_else(|_| placeholder(queue, id)).into(),
        seq: entry.seq,
        state: entry.state,
        slot: entry.slot,
        priority: entry.priority,
        epoch: entry.epoch,
        attempts: entry.attempts,
        crashes: entry.crashes,
        runs: entry.runs,
        coalesced: entry.coalesced,
        batch: entry.batch,
        cancel_requested: entry.flags & CANCEL_REQUESTED != 0,
        created_at: Timestamp::from_micros(created_at),
        due_at: entry.due_at,
        expires_at: entry.expires_at,
        started_at: entry.started_at,
        finished_at: entry.till.filter(|_| ended),
        prune_at: instant(entry.term).filter(|_| ended),
        lease_until: entry.till.filter(|_| active),
        lease_term: active.then(|| Duration::from_micros(entry.term.max(0).unsigned_abs())),
        worker: entry.worker,
        failure: if readable { entry.failure } else { Some(FailReason::Quarantined) },
        waited_on: entry.flags & WAITED_ON != 0,
        notes: notes.unwrap_or_default(),
    }
}

/// What stands in for a spec that can't be read.
fn placeholder(queue: &QueueName, id: JobId) -> JobSpec {
    // A name that is checked elsewhere to be one.
    let kind = JobKind::new("unreadable").unwrap_or_else(|_| unreachable!("the placeholder's kind is a good name"));
    let mut spec = JobSpec::new(queue.clone(), kind, Payload::default());
    spec.id = id;
    spec
}

fn notes_of([errors, progress, checkpoint, result, log]: &[Bytes; 5]) -> Result<Notes, Unreadable> {
    let mut notes = Notes { errors: errors_of(errors)?, ..Notes::default() };
    let mut from = Reader(log);
    while !from.0.is_empty() {
        let (at, run) = (Timestamp::from_micros(from.i64()?), from.u32()?);
        notes.log.push(LogLine { at, run, text: long_text(&mut from)? });
    }
    if !progress.is_empty() {
        notes.progress = Some(serde_json::from_slice::<Progress>(progress).map_err(|_| Unreadable)?);
    }
    notes.checkpoint = payload_of(checkpoint)?;
    notes.result = payload_of(result)?;
    Ok(notes)
}

fn errors_of(bytes: &[u8]) -> Result<Vec<ErrorEntry>, Unreadable> {
    let (mut errors, mut from) = (Vec::new(), Reader(bytes));
    while !from.0.is_empty() {
        let (at, run, kind) = (Timestamp::from_micros(from.i64()?), from.u32()?, error_kind(from.u8()?));
        errors.push(ErrorEntry { at, run, kind, message: long_text(&mut from)? });
    }
    Ok(errors)
}

fn write_errors(errors: &[ErrorEntry], to: &mut Vec<u8>) {
    for entry in errors {
        to.extend(entry.at.as_micros().to_be_bytes());
        to.extend(entry.run.to_be_bytes());
        to.push(error_number(entry.kind));
        write_long_text(&entry.message, to);
    }
}

/// Writes where a dead letter comes from; `letter.lua` writes the same.
pub(crate) fn write_origin(origin: &Origin, to: &mut Vec<u8>) {
    spec::text(&origin.queue, to);
    to.extend(origin.id.as_bytes());
    to.push(reason_number(origin.reason));
    to.extend(origin.failed_at.as_micros().to_be_bytes());
    to.extend(origin.attempts.to_be_bytes());
    to.extend(origin.crashes.to_be_bytes());
    write_errors(&origin.errors, to);
}

pub(crate) fn read_origin(bytes: &[u8]) -> Result<Origin, Unreadable> {
    let mut from = Reader(bytes);
    Ok(Origin {
        queue: QueueName::new(from.text()?).map_err(|_| Unreadable)?,
        id: JobId::from_bytes(from.array()?),
        reason: reason_of(from.u8()?).ok_or(Unreadable)?,
        failed_at: Timestamp::from_micros(from.i64()?),
        attempts: from.u32()?,
        crashes: from.u32()?,
        errors: errors_of(from.0)?,
    })
}

fn long_text(from: &mut Reader<'_>) -> Result<String, Unreadable> {
    let length = from.u16()?;
    String::from_utf8(from.bytes(length.into())?.to_vec()).map_err(|_| Unreadable)
}

fn payload_of(bytes: &Bytes) -> Result<Option<Payload>, Unreadable> {
    if bytes.is_empty() {
        return Ok(None);
    }
    spec::payload(&mut Reader(bytes), bytes).map(Some)
}

/// A claim from what the script answered: the spec, and, if the job has run before, its entry and checkpoint.
pub(crate) fn claimed(
    queue: &QueueName,
    id: JobId,
    stored: &Bytes,
    extra: &Bytes,
    now: Timestamp,
    solo: bool,
    kinds: &mut Kinds,
) -> Result<Claim, Unreadable> {
    let spec = spec::read(queue, id, stored, kinds)?;
    let created_at = Timestamp::from_micros(Reader(stored.get(7..).ok_or(Unreadable)?).i64()?);
    let mut claim = Claim {
        lease: Lease { id, epoch: now.as_micros().max(1) },
        spec: spec.into(),
        attempts: 0,
        crashes: 0,
        run: 1,
        coalesced: 1,
        created_at,
        started_at: now,
        checkpoint: None,
        solo,
        batch: None,
    };
    if !extra.is_empty() {
        let end = head_len(*extra.get(FLAGS_AT).ok_or(Unreadable)?);
        let entry = Entry::read(extra.get(..end).ok_or(Unreadable)?)?;
        (claim.coalesced, claim.batch) = (entry.coalesced, entry.batch);
        claim.lease.epoch = entry.epoch;
        (claim.attempts, claim.crashes, claim.run) = (entry.attempts, entry.crashes, entry.runs);
        claim.started_at = entry.started_at.unwrap_or(now);
        claim.checkpoint = payload_of(&extra.slice(end..))?;
    }
    Ok(claim)
}

/// The stored form of a record, as it is.
pub(crate) fn write(record: &JobRecord) -> JobParts {
    let mut stored = Vec::new();
    stored.extend(seq_bytes(record.seq));
    stored.extend(record.created_at.as_micros().to_be_bytes());
    stored.extend(record.expires_at.map_or(0, Timestamp::as_micros).to_be_bytes());
    spec::write(&record.spec, &mut stored);
    let traits = stored[spec::HEAD + 1];

    let notes = note_bytes(&record.notes);
    let mask = notes.iter().enumerate().fold(0, |mask, (bit, bytes)| mask | (u8::from(!bytes.is_empty()) << bit));
    let ended = record.state.is_terminal();
    let till = if ended { record.finished_at } else { record.lease_until };
    let term =
        if ended { record.prune_at.map_or(0, Timestamp::as_micros) } else { record.lease_term.map_or(0, micros) };
    let is_coalesced = record.coalesced > 1;
    let flags = u8::from(record.cancel_requested) * CANCEL_REQUESTED
        + u8::from(record.waited_on) * WAITED_ON
        + u8::from(is_coalesced) * COALESCED
        + u8::from(record.batch.is_some()) * IN_BATCH;
    let mut entry = Vec::with_capacity(ENTRY + 40);
    entry.push(record.state.number());
    entry.extend(record.epoch.to_be_bytes());
    entry.extend(seq_bytes(record.seq));
    entry.extend(record.due_at.as_micros().to_be_bytes());
    entry.extend(record.expires_at.map_or(0, Timestamp::as_micros).to_be_bytes());
    entry.extend([record.priority.0, traits]);
    entry.push(match record.slot {
        Slot::Lane => 0,
        Slot::Solo => 1,
        Slot::Shelf => 2,
    });
    entry.extend([flags, mask, record.failure.map_or(0, reason_number)]);
    for count in [record.attempts, record.crashes, record.runs] {
        entry.extend(count.to_be_bytes());
    }
    entry.extend(record.started_at.map_or(0, Timestamp::as_micros).to_be_bytes());
    entry.extend(till.map_or(0, Timestamp::as_micros).to_be_bytes());
    entry.extend(term.to_be_bytes());
    if is_coalesced {
        entry.extend(record.coalesced.to_be_bytes());
    }
    if let Some(BatchNumber(batch)) = record.batch {
        let [_, _, rest @ ..] = batch.to_be_bytes();
        entry.extend(rest);
    }
    entry.extend(record.worker.iter().flat_map(|worker| worker.as_bytes()));
    JobParts { id: record.id(), spec: stored.into(), entry: entry.into(), notes: notes.map(Bytes::from) }
}

fn note_bytes(notes: &Notes) -> [Vec<u8>; 5] {
    let (mut errors, mut log) = (Vec::new(), Vec::new());
    write_errors(&notes.errors, &mut errors);
    for line in &notes.log {
        log.extend(line.at.as_micros().to_be_bytes());
        log.extend(line.run.to_be_bytes());
        write_long_text(&line.text, &mut log);
    }
    let progress = notes.progress.as_ref().map(progress_bytes).unwrap_or_default();
    let payload = |payload: &Option<Payload>| {
        let mut bytes = Vec::new();
        if let Some(payload) = payload {
            spec::write_payload(payload, &mut bytes);
        }
        bytes
    };
    [errors, progress, payload(&notes.checkpoint), payload(&notes.result), log]
}

/// A progress as it is stored: JSON, since a person may look at it.
pub(crate) fn progress_bytes(progress: &Progress) -> Vec<u8> {
    // Numbers and a text: there is nothing in it that JSON can't say.
    serde_json::to_vec(progress).unwrap_or_default()
}

/// A text of up to 64 KiB: its length and its bytes. Texts are cut to far less before they get here.
pub(crate) fn write_long_text(text: &str, to: &mut Vec<u8>) {
    let text = clip(text, u16::MAX.into());
    to.extend((text.len() as u16).to_be_bytes());
    to.extend_from_slice(text.as_bytes());
}
