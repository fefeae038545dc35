//! A job's specification as bytes: what `record.lua` calls a spec, from the priority on. The storage puts the seq and the
//! times before it. The parts that most jobs don't have are named by the traits, so that an ordinary job costs some ten
//! bytes beyond its kind and its payload, and a script reads it without parsing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferroq_core::clock::{Timestamp, micros};
use ferroq_core::job::{
    CodecTag, DedupKey, JobId, JobKind, JobOptions, JobSpec, LaneKey, Payload, Priority, QueueName, Start, Tag,
};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::policy::retention::{Keep, KeepFor};

use crate::record;

/// Which parts a spec has after its kind; `names.lua` has the same numbers.
pub(crate) mod traits {
    pub(crate) const DEDUP: u8 = 1;
    pub(crate) const KEEP: u8 = 2;
    pub(crate) const BUDGETS: u8 = 4;
    pub(crate) const EXPIRES: u8 = 8;
    pub(crate) const LANE: u8 = 16;
    pub(crate) const TAGS: u8 = 32;
    pub(crate) const REST: u8 = 64;
    pub(crate) const PLACE: u8 = 128;
}

/// With the payload's codec: an origin stands behind the payload, to the end.
const HAS_ORIGIN: u8 = 128;

/// What stands before the priority in a stored spec: seq, created_at, expires_at.
pub(crate) const HEAD: usize = 23;

/// The options that have no part of their own, with the others at their defaults, so that JSON leaves those out.
fn rest_of(options: &JobOptions) -> JobOptions {
    JobOptions {
        max_attempts: JobOptions::MAX_ATTEMPTS_DEFAULT,
        max_crashes: JobOptions::MAX_CRASHES_DEFAULT,
        expires_in: None,
        keep: Keep::default(),
        tags: Vec::new(),
        ..options.clone()
    }
}

/// Writes a spec from the priority on.
pub(crate) fn write(spec: &JobSpec, to: &mut Vec<u8>) {
    let options = &*spec.options;
    // Most jobs share one Arc of defaults, which need no look.
    let plain = Arc::ptr_eq(&spec.options, &JobOptions::shared_default());
    let rest = if plain { None } else { Some(rest_of(options)).filter(|rest| *rest != JobOptions::default()) };
    let mut traits = 0;
    let mut set = |bit, on: bool| traits |= if on { bit } else { 0 };
    set(traits::DEDUP, spec.dedup.is_some());
    set(traits::LANE, !spec.lane.is_default());
    set(traits::PLACE, spec.lifo || spec.start != Start::Now);
    if !plain {
        set(traits::KEEP, options.keep != Keep::default());
        let budgets = (options.max_attempts, options.max_crashes);
        set(traits::BUDGETS, budgets != (JobOptions::MAX_ATTEMPTS_DEFAULT, JobOptions::MAX_CRASHES_DEFAULT));
        set(traits::EXPIRES, options.expires_in.is_some());
        set(traits::TAGS, !options.tags.is_empty());
        set(traits::REST, rest.is_some());
    }
    to.push(spec.priority.0);
    to.push(traits);
    text(&spec.kind, to);
    to.extend((spec.payload.len() as u32).to_be_bytes());
    if let Some(dedup) = &spec.dedup {
        let (mode, span) = match dedup.mode {
            DedupMode::UntilFinished => (0, Duration::ZERO),
            DedupMode::For(span) => (1, span),
            DedupMode::Debounce(span) => (3, span),
            DedupMode::KeepLatest => (4, Duration::ZERO),
            DedupMode::Coalesce { max_wait, .. } => (5, max_wait),
            _ => (2, Duration::ZERO),
        };
        to.push(mode);
        to.extend(micros(span).to_be_bytes());
        text(&dedup.key, to);
        if let DedupMode::Coalesce { count, .. } = dedup.mode {
            to.extend(count.to_be_bytes());
        }
    }
    if traits & traits::BUDGETS != 0 {
        to.extend(options.max_attempts.to_be_bytes());
        to.extend(options.max_crashes.to_be_bytes());
    }
    if let Some(span) = options.expires_in {
        to.extend(micros(span).to_be_bytes());
    }
    if traits & traits::KEEP != 0 {
        for keep in [options.keep.completed, options.keep.failed, options.keep.cancelled] {
            let (tag, age) = match keep {
                KeepFor::QueueDefault => (0, Duration::ZERO),
                KeepFor::Remove => (1, Duration::ZERO),
                KeepFor::Age(age) => (2, age),
            };
            to.push(tag);
            to.extend(micros(age).to_be_bytes());
        }
    }
    if let Some(lane) = spec.lane.name() {
        text(lane, to);
    }
    if traits & traits::TAGS != 0 {
        to.extend((options.tags.len() as u16).to_be_bytes());
        for tag in &options.tags {
            text(tag, to);
        }
    }
    if traits & traits::PLACE != 0 {
        let (tag, at) = match spec.start {
            Start::Now => (0, 0),
            Start::After(delay) => (1, micros(delay)),
            Start::At(at) => (2, at.as_micros()),
        };
        to.push(u8::from(spec.lifo));
        to.push(tag);
        to.extend(at.to_be_bytes());
    }
    if let Some(rest) = rest {
        // Plain structs of numbers and texts: there is nothing in them that JSON can't say.
        let json = serde_json::to_vec(&rest).unwrap_or_default();
        to.extend((json.len() as u32).to_be_bytes());
        to.extend(json);
    }
    let origin = spec.origin.as_deref();
    to.push(spec.payload.codec.number() | if origin.is_some() { HAS_ORIGIN } else { 0 });
    to.extend(spec.payload.version.to_be_bytes());
    to.extend_from_slice(&spec.payload.bytes);
    if let Some(origin) = origin {
        record::write_origin(origin, to);
    }
}

/// A name: its length, which is at most 128, and its bytes.
pub(crate) fn text(name: &str, to: &mut Vec<u8>) {
    to.push(name.len() as u8);
    to.extend_from_slice(name.as_bytes());
}

/// Stored bytes are not what this library wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Reads bytes from the front.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const K: usize>(&mut self) -> Result<[u8; K], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Unreadable> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Unreadable> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Unreadable> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A number in six bytes.
    pub(crate) fn u48(&mut self) -> Result<i64, Unreadable> {
        let mut wide = [0; 8];
        wide[2..].copy_from_slice(self.bytes(6)?);
        Ok(i64::from_be_bytes(wide))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Unreadable> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn span(&mut self) -> Result<Duration, Unreadable> {
        Ok(Duration::from_micros(self.i64()?.max(0).unsigned_abs()))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Unreadable> {
        let length = self.u8()?;
        std::str::from_utf8(self.bytes(length.into())?).map_err(|_| Unreadable)
    }
}

/// Remembers the last kind read: the jobs of a queue are mostly of one, and a clone costs less than a new name.
#[derive(Debug, Default)]
pub(crate) struct Kinds(Option<JobKind>);

impl Kinds {
    fn get(&mut self, name: &str) -> Result<JobKind, Unreadable> {
        if let Some(kind) = self.0.as_ref().filter(|kind| kind.as_str() == name) {
            return Ok(kind.clone());
        }
        let kind = JobKind::new(name).map_err(|_| Unreadable)?;
        self.0 = Some(kind.clone());
        Ok(kind)
    }
}

/// Reads a stored spec, without what stands before the priority.
pub(crate) fn read(queue: &QueueName, id: JobId, stored: &Bytes, kinds: &mut Kinds) -> Result<JobSpec, Unreadable> {
    let mut from = Reader(stored.get(HEAD..).ok_or(Unreadable)?);
    let priority = Priority(from.u8()?);
    let traits = from.u8()?;
    let has = |bit| traits & bit != 0;
    let kind = kinds.get(from.text()?)?;
    let payload_len = from.u32()?;
    let mut spec = JobSpec {
        id,
        queue: queue.clone(),
        lane: LaneKey::DEFAULT,
        kind,
        payload: Payload::default(),
        priority,
        lifo: false,
        start: Start::Now,
        dedup: None,
        options: JobOptions::shared_default(),
        origin: None,
    };
    if has(traits::DEDUP) {
        let (mode, span) = (from.u8()?, from.span()?);
        let key = DedupKey::new(from.text()?).map_err(|_| Unreadable)?;
        let mode = match mode {
            0 => DedupMode::UntilFinished,
            1 => DedupMode::For(span),
            2 => DedupMode::WhileKept,
            3 => DedupMode::Debounce(span),
            4 => DedupMode::KeepLatest,
            5 => DedupMode::Coalesce { count: from.u32()?, max_wait: span },
            _ => return Err(Unreadable),
        };
        spec.dedup = Some(Dedup { key, mode });
    }
    let mut options = JobOptions::default();
    if has(traits::BUDGETS) {
        (options.max_attempts, options.max_crashes) = (from.u32()?, from.u32()?);
    }
    if has(traits::EXPIRES) {
        options.expires_in = Some(from.span()?);
    }
    if has(traits::KEEP) {
        options.keep = Keep { completed: keep(&mut from)?, failed: keep(&mut from)?, cancelled: keep(&mut from)? };
    }
    if has(traits::LANE) {
        spec.lane = LaneKey::new(from.text()?).map_err(|_| Unreadable)?;
    }
    if has(traits::TAGS) {
        for _ in 0..from.u16()? {
            options.tags.push(Tag::new(from.text()?).map_err(|_| Unreadable)?);
        }
    }
    if has(traits::PLACE) {
        spec.lifo = from.u8()? == 1;
        spec.start = match (from.u8()?, from.i64()?) {
            (0, _) => Start::Now,
            (1, delay) => Start::After(Duration::from_micros(delay.max(0).unsigned_abs())),
            (2, at) => Start::At(Timestamp::from_micros(at)),
            _ => return Err(Unreadable),
        };
    }
    if has(traits::REST) {
        let length = from.u32()?;
        let rest: JobOptions = serde_json::from_slice(from.bytes(length as usize)?).map_err(|_| Unreadable)?;
        options = JobOptions {
            max_attempts: options.max_attempts,
            max_crashes: options.max_crashes,
            expires_in: options.expires_in,
            keep: options.keep,
            tags: options.tags,
            ..rest
        };
    }
    if traits & (traits::BUDGETS | traits::EXPIRES | traits::KEEP | traits::TAGS | traits::REST) != 0 {
        spec.options = Arc::new(options);
    }
    let codec = from.u8()?;
    let version = from.u16()?;
    let mut bytes = stored.slice(stored.len() - from.0.len()..);
    if codec & HAS_ORIGIN != 0 {
        let origin = from.0.get(payload_len as usize..).ok_or(Unreadable)?;
        spec.origin = Some(Arc::new(record::read_origin(origin)?));
        bytes.truncate(payload_len as usize);
    }
    let codec = CodecTag::from_number(codec & !HAS_ORIGIN).ok_or(Unreadable)?;
    spec.payload = Payload { codec, version, bytes };
    if spec.payload.len() != payload_len as usize {
        return Err(Unreadable);
    }
    Ok(spec)
}

fn keep(from: &mut Reader<'_>) -> Result<KeepFor, Unreadable> {
    Ok(match (from.u8()?, from.span()?) {
        (0, _) => KeepFor::QueueDefault,
        (1, _) => KeepFor::Remove,
        (2, age) => KeepFor::Age(age),
        _ => return Err(Unreadable),
    })
}

/// A payload up to the end of the bytes, sharing them.
pub(crate) fn payload(from: &mut Reader<'_>, stored: &Bytes) -> Result<Payload, Unreadable> {
    let codec = CodecTag::from_number(from.u8()?).ok_or(Unreadable)?;
    let version = from.u16()?;
    Ok(Payload { codec, version, bytes: stored.slice(stored.len() - from.0.len()..) })
}

/// Writes a payload.
pub(crate) fn write_payload(payload: &Payload, to: &mut Vec<u8>) {
    to.push(payload.codec.number());
    to.extend(payload.version.to_be_bytes());
    to.extend_from_slice(&payload.bytes);
}
