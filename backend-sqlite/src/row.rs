//! A stored job, between SQL and [`JobRecord`]. A batch of rows travels as one value: the driver hands over each row
//! through a channel and copies each of its columns, which would cost more than the query itself, so the questions have
//! SQLite concatenate a row into a line of numbers followed by its blobs, and a batch comes back as a single blob.
//! Tables are STRICT, so a column's type can't be wrong; whatever else is wrong with a row makes it unreadable, never
//! its neighbours.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, JobOptions, JobState, LaneKey, Origin, Slot, Start};
use ferroq_core::policy::dedup::Dedup;
use serde::{Deserialize, Serialize};

/// Blobs longer than this are left out of a packed row and fetched on their own, so that a batch can't exceed what
/// SQLite holds in one value.
pub(crate) const INLINE_BYTES_MAX: usize = 16 * 1024;

macro_rules! packed {
    ($payload:literal) => {
        concat!(
            "concat(key,',',place,',',rank,',',kind,',',format,',',priority,',',epoch,',',attempts,',',crashes,',',",
            "runs,',',flags,',',created_at,',',due_at,',',expires_at,',',started_at,',',finished_at,',',lease_term,',',",
            "failure,',',batch,',',octet_length(id),',',octet_length(extra),',',octet_length(worker),',',octet_length(notes),',',",
            "octet_length(payload),';',id,extra,worker,iif(octet_length(notes)<=16384,notes,NULL),",
            $payload,
            ")"
        )
    };
}

/// The question for packed rows with their payloads: what stands behind FROM. Or, with payloads only of rows in which
/// they are no longer than an argument, more columns to ask for, and what stands behind FROM.
macro_rules! select_rows {
    ($from:literal) => {
        concat!(
            "SELECT group_concat(",
            $crate::row::packed!("iif(octet_length(payload)<=16384,payload,NULL)"),
            ",'') FROM ",
            $from
        )
    };
    ($columns:literal, $from:literal) => {
        concat!(
            "SELECT group_concat(",
            $crate::row::packed!("iif(octet_length(payload)<=?,payload,NULL)"),
            ",''),",
            $columns,
            " FROM ",
            $from
        )
    };
}
/// The same without the payloads, for those who only decide.
macro_rules! select_heads {
    ($from:literal) => {
        concat!("SELECT group_concat(", $crate::row::packed!("NULL"), ",'') FROM ", $from)
    };
}
pub(crate) use {packed, select_heads, select_rows};

const KEY_BITS: u32 = 40;
const STATE_BITS_AT: u32 = 37;
const SOLO: i64 = 1 << 35;
const SHELF: i64 = 1 << 36;

/// The key of a job: its queue's number and its seq in one integer, so that the table is clustered by queue and, within
/// it, in the order of seq.
pub(crate) fn key(queue: i64, seq: i64) -> i64 {
    (queue << KEY_BITS) + seq
}

/// The queue's number in a key.
pub(crate) fn queue_of(key: i64) -> i64 {
    (key + (1 << (KEY_BITS - 1))) >> KEY_BITS
}

/// The seq in a key.
pub(crate) fn seq_of(key: i64) -> i64 {
    key - (queue_of(key) << KEY_BITS)
}

/// The lowest and the highest key of a queue.
pub(crate) fn key_range(queue: i64) -> (i64, i64) {
    let half = 1 << (KEY_BITS - 1);
    (key(queue, -half), key(queue, half - 1))
}

/// Where a job stands: queue, state and line in one integer, whose order is the order of the walk. The line is the number of
/// the lane or of the shelf's kind.
pub(crate) fn place(queue: i64, state: JobState, slot: Slot, line: i64) -> i64 {
    let line = match slot {
        Slot::Lane => line,
        Slot::Solo => SOLO,
        Slot::Shelf => SHELF + line,
    };
    (queue << KEY_BITS) | (i64::from(state.number()) << STATE_BITS_AT) | line
}

/// The first place of a state, and the first one behind it.
pub(crate) fn state_range(queue: i64, state: JobState) -> (i64, i64) {
    let first = place(queue, state, Slot::Lane, 0);
    (first, first + (1 << STATE_BITS_AT))
}

/// The first place of a queue's shelves, and the first one behind them.
pub(crate) fn shelf_range(queue: i64) -> (i64, i64) {
    (place(queue, JobState::Waiting, Slot::Shelf, 0), state_range(queue, JobState::Waiting).1)
}

/// The state in a place, if there is such a state.
pub(crate) fn state_of(place: i64) -> Option<JobState> {
    u8::try_from((place >> STATE_BITS_AT) & 7).ok().and_then(JobState::from_number)
}

/// The slot in a place, and the number of the lane or of the shelf's kind.
pub(crate) fn slot_of(place: i64) -> (Slot, i64) {
    match place & ((1 << STATE_BITS_AT) - 1) {
        line if line >= SHELF => (Slot::Shelf, line - SHELF),
        line if line >= SOLO => (Slot::Solo, 0),
        line => (Slot::Lane, line),
    }
}

/// The rare parts of a spec; most rows have none.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Extra {
    #[serde(skip_serializing_if = "LaneKey::is_default")]
    pub(crate) lane: LaneKey,
    #[serde(skip_serializing_if = "is_now")]
    pub(crate) start: Start,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dedup: Option<Dedup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) options: Option<Arc<JobOptions>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Arc<Origin>>,
}

fn is_now(start: &Start) -> bool {
    *start == Start::Now
}

/// Whether these are the options that a row leaves out.
pub(crate) fn is_default(options: &Arc<JobOptions>) -> bool {
    let default = JobOptions::shared_default();
    Arc::ptr_eq(options, &default) || *options == default
}

/// A row as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: i64,
    pub(crate) place: i64,
    pub(crate) rank: i64,
    pub(crate) kind: i64,
    pub(crate) format: i64,
    pub(crate) priority: i64,
    pub(crate) epoch: i64,
    pub(crate) attempts: u32,
    pub(crate) crashes: u32,
    pub(crate) runs: u32,
    pub(crate) flags: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) due_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) lease_term: Option<i64>,
    pub(crate) failure: Option<i64>,
    /// The batch that it leads or, Blocked, is a member of.
    pub(crate) batch: Option<i64>,
    pub(crate) id: JobId,
    pub(crate) id_damaged: bool,
    pub(crate) extra: Option<Box<[u8]>>,
    /// What that says, once somebody asked; `None` if it can't be read.
    pub(crate) rare: OnceLock<Option<Arc<Extra>>>,
    pub(crate) worker: Option<Box<str>>,
    pub(crate) notes: Option<Box<[u8]>>,
    pub(crate) payload: Bytes,
    /// Whether the notes are stored but not here, because they are long; they are fetched on their own.
    pub(crate) notes_left_out: bool,
    /// Whether the notes are others than those stored.
    pub(crate) notes_changed: bool,
    /// Whether the payload is stored but not here.
    pub(crate) payload_left_out: bool,
    /// The payload's length, also where it was left out.
    pub(crate) payload_len: usize,
}

/// Bytes are no packed rows: the query and this file disagree.
#[derive(Debug)]
pub(crate) struct Unpacked;

impl Row {
    /// Reads a batch of packed rows, in which payloads longer than this were left out.
    pub(crate) fn unpack_all(mut bytes: &[u8], inline_max: usize) -> Result<Vec<Row>, Unpacked> {
        let mut rows = Vec::new();
        while !bytes.is_empty() {
            let (row, rest) = Row::unpack(bytes, inline_max)?;
            rows.push(row);
            bytes = rest;
        }
        Ok(rows)
    }

    fn unpack(bytes: &[u8], inline_max: usize) -> Result<(Row, &[u8]), Unpacked> {
        const FIELDS: usize = 24;
        let mut fields = [None; FIELDS];
        let mut at = 0;
        for (i, field) in fields.iter_mut().enumerate() {
            let (mut number, mut negative, mut digits) = (0i64, false, 0);
            loop {
                let byte = *bytes.get(at).ok_or(Unpacked)?;
                at += 1;
                match byte {
                    b'0'..=b'9' => {
                        // Negative throughout, so that the lowest number fits as well.
                        number = number.wrapping_mul(10).wrapping_sub(i64::from(byte - b'0'));
                        digits += 1;
                    }
                    b'-' => negative = true,
                    b',' if i < FIELDS - 1 => break,
                    b';' if i == FIELDS - 1 => break,
                    _ => return Err(Unpacked),
                }
            }
            *field = (digits > 0).then_some(if negative { number } else { number.wrapping_neg() });
        }
        let int = |i: usize| fields[i].unwrap_or(0);
        let count = |i: usize| u32::try_from(int(i)).unwrap_or(0);
        let time = |i: usize| fields[i].map(Timestamp::from_micros);
        let length = |i: usize| fields[i].map(|n| usize::try_from(n).unwrap_or(0));
        let mut take = |length: usize| {
            let part = bytes.get(at..at + length).ok_or(Unpacked)?;
            at += length;
            Ok(part)
        };
        let id = take(length(19).unwrap_or(0))?;
        let id_damaged = id.len() != 16;
        let mut id_bytes = [0; 16];
        id_bytes[..id.len().min(16)].copy_from_slice(&id[..id.len().min(16)]);
        let extra = length(20).map(&mut take).transpose()?.map(Box::from);
        let worker = length(21).map(&mut take).transpose()?.map(|name| String::from_utf8_lossy(name).into());
        let notes_len = length(22);
        let notes_left_out = notes_len.is_some_and(|n| n > INLINE_BYTES_MAX);
        let notes = notes_len.filter(|_| !notes_left_out).map(&mut take).transpose()?.map(Box::from);
        let payload_len = length(23).unwrap_or(0);
        let payload_left_out = payload_len > inline_max;
        let payload = if payload_left_out { Bytes::new() } else { Bytes::copy_from_slice(take(payload_len)?) };
        let row = Row {
            key: int(0),
            place: int(1),
            rank: int(2),
            kind: int(3),
            format: int(4),
            priority: int(5),
            epoch: int(6),
            attempts: count(7),
            crashes: count(8),
            runs: count(9),
            flags: int(10),
            created_at: Timestamp::from_micros(int(11)),
            due_at: Timestamp::from_micros(int(12)),
            expires_at: time(13),
            started_at: time(14),
            finished_at: time(15),
            lease_term: fields[16],
            failure: fields[17],
            batch: fields[18],
            id: JobId::from_bytes(id_bytes),
            id_damaged,
            extra,
            rare: OnceLock::new(),
            worker,
            notes,
            payload,
            payload_left_out,
            notes_left_out,
            notes_changed: false,
            payload_len,
        };
        Ok((row, &bytes[at..]))
    }
}
