//! The role that moves a queue between stores: records out and in as they are, with seqs, epochs and leases.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use ferroq_core::clock::Timestamp;
use ferroq_core::job::{DedupKey, LaneClass, QueueName};
use ferroq_core::policy::dedup::Holder;
use ferroq_core::policy::lanes::{Limited, Starts};
use ferroq_core::storage::{
    Control, DedupEntry, DumpPage, ErrorCode, JobFilter, ListCursor, PolicyEntry, RestoreAnswer, StartsEntry,
    StorageError, Transfer,
};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::batches::without_batch;
use crate::control::{after_the_fact, config_args, json_of, lane_of, policy_args, settings_of};
use crate::error::invalid;
use crate::exchange::strange;
use crate::inspect::{array, count, page_of};
use crate::record::{self, JobParts, bytes_of, id_of};
use crate::script::{HELD, LIST, RESTORE, SEQS, SETTINGS, STARTS};
use crate::spec::{self, Reader, Unreadable};
use crate::walk;

/// A stored seq has room for twice this, so that as many jobs can come after a restore as came before.
const SEQ_MAX: i64 = 1 << 51;
/// A look for taken seqs is good until somebody else restores to the same queue; so often it is taken again.
const LOOKS_MAX: usize = 20;

#[async_trait]
impl Transfer for RedisStorage {
    async fn dump(
        &self,
        queue: &QueueName,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<DumpPage, StorageError> {
        if max_items == 0 {
            return Err(invalid("a page of a dump holds one job at least"));
        }
        let mut dump = DumpPage::default();
        if after.is_none() {
            let (exists, config) = settings_of(self.look(&SETTINGS, queue, |cmd| cmd).await?)?;
            if exists {
                (dump.config, dump.dedup) = (Some(config), self.held(queue).await?);
                let policies = self.lane_policies(queue, None, usize::MAX).await?;
                dump.policies = policies.into_iter().map(|(lane, policy)| PolicyEntry { lane, policy }).collect();
                dump.starts = self.starts(queue).await?;
            }
        }
        let every = JobFilter::default();
        let page = self.look(&LIST, queue, |cmd| walk::step(cmd, &every, after, max_items)).await?;
        let page = page_of(queue, page).map_err(|Unreadable| strange("a page of jobs"))?;
        (dump.jobs, dump.next) = (page.jobs, page.next);
        Ok(dump)
    }

    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Result<RestoreAnswer, StorageError> {
        page.check(queue)?;
        if let Some(stray) = page.jobs.iter().find(|record| record.spec.queue != *queue) {
            return Err(invalid(format!("a job of the queue {} can't be restored to {queue}", stray.spec.queue)));
        }
        if let Some(record) = page.jobs.iter().find(|record| record.seq.unsigned_abs() >= SEQ_MAX.unsigned_abs()) {
            return Err(invalid(format!(
                "the job {} has the seq {}; seqs of {SEQ_MAX} and beyond can't be restored to Redis",
                record.id(),
                record.seq
            )));
        }
        self.registry.register(queue).await?;
        let (keys, clock) = (self.keys(queue), self.clock_arg());
        let jobs: Vec<JobParts> = page.jobs.iter().map(|record| record::write(&without_batch(record))).collect();
        let config = page.config.as_ref().map(|config| json_of(config, &[]));
        let mut look = Look::default();
        for _ in 0..LOOKS_MAX {
            let args = |cmd: &mut Cmd| {
                cmd.arg(&clock).arg(&look.counter[..]).arg(&look.restores[..]);
                config_args(cmd, page.config.as_ref().zip(config.as_deref()));
                cmd.arg(page.dedup.len());
                for DedupEntry { key, holder } in &page.dedup {
                    cmd.arg(key.as_str()).arg(hold_bytes(holder));
                }
                cmd.arg(page.policies.len());
                for PolicyEntry { lane, policy } in &page.policies {
                    policy_args(cmd, lane, Some(policy));
                }
                cmd.arg(page.starts.len());
                for StartsEntry { of, starts } in &page.starts {
                    cmd.arg(field_of(of)).arg(starts.to_bytes());
                }
                for job in &jobs {
                    let entry = if is_implied(&job.entry, &job.spec) { &[] } else { &job.entry[..] };
                    cmd.arg(job.id.as_bytes()).arg(&job.spec[..]).arg(entry);
                    for note in &job.notes {
                        cmd.arg(&note[..]);
                    }
                }
            };
            let answer = self.run(&RESTORE, &keys, &keys.answers(None), args).await?;
            match Restored::read(answer).map_err(|Unreadable| strange("the answer to a restore"))? {
                Restored::Done { created, answer } => {
                    if created {
                        self.registry.add(queue).await.map_err(after_the_fact)?;
                    }
                    return Ok(answer);
                }
                Restored::Look(wanted) => {
                    if self.is_taken(queue, &wanted.seqs).await? {
                        return Err(invalid("a seq of the restored page is taken by another job"));
                    }
                    look = wanted;
                }
            }
        }
        Err(StorageError::new(ErrorCode::Busy, "others restore to the same queue all the time; let one go first"))
    }
}

impl RedisStorage {
    /// Every held key, in the order of keys.
    async fn held(&self, queue: &QueueName) -> Result<Vec<DedupEntry>, StorageError> {
        let (mut held, mut cursor) = (BTreeMap::new(), Bytes::from_static(b"0"));
        loop {
            let step = self.look(&HELD, queue, |cmd| cmd.arg(&cursor[..])).await?;
            cursor = keys_of(step, &mut held).map_err(|Unreadable| strange("the held keys of a queue"))?;
            if *cursor == *b"0" {
                return Ok(held.into_iter().map(|(key, holder)| DedupEntry { key, holder }).collect());
            }
        }
    }

    /// What is remembered of starts, in the order of what they are of.
    async fn starts(&self, queue: &QueueName) -> Result<Vec<StartsEntry>, StorageError> {
        let (mut all, mut cursor) = (BTreeMap::new(), Bytes::from_static(b"0"));
        loop {
            let step = self.look(&STARTS, queue, |cmd| cmd.arg(&cursor[..])).await?;
            cursor = starts_of(step, &mut all).map_err(|Unreadable| strange("the starts of a queue"))?;
            if *cursor == *b"0" {
                return Ok(all.into_iter().map(|(of, starts)| StartsEntry { of, starts }).collect());
            }
        }
    }

    /// Whether a job of the queue has one of these seqs.
    async fn is_taken(&self, queue: &QueueName, seqs: &[u8]) -> Result<bool, StorageError> {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let step = self.look(&SEQS, queue, |cmd| cmd.arg(&cursor[..]).arg(seqs)).await?;
            let mut values = array(step).map_err(|Unreadable| strange("a look for seqs"))?.into_iter();
            let (next, taken) = (values.next().map_or(Err(Unreadable), bytes_of), count(values.next()));
            let (Ok(next), Ok(taken)) = (next, taken) else { return Err(strange("a look for seqs")) };
            if taken == 1 || *next == *b"0" {
                return Ok(taken == 1);
            }
            cursor = next;
        }
    }
}

/// Seqs that another job may have, and what the queue was like when that was said.
#[derive(Debug, Default)]
struct Look {
    counter: Bytes,
    restores: Bytes,
    seqs: Bytes,
}

/// What `restore.lua` answers.
#[derive(Debug)]
enum Restored {
    Done { created: bool, answer: RestoreAnswer },
    Look(Look),
}

impl Restored {
    fn read(answer: Value) -> Result<Self, Unreadable> {
        let mut values = array(answer)?.into_iter();
        let flags = values.next().map_or(Err(Unreadable), bytes_of)?;
        if *flags == [2] {
            let mut next = || values.next().map_or(Err(Unreadable), bytes_of);
            return Ok(Restored::Look(Look { counter: next()?, restores: next()?, seqs: next()? }));
        }
        let (restored, existing) = (count(values.next())? as usize, count(values.next())? as usize);
        Ok(Restored::Done { created: *flags == [1], answer: RestoreAnswer { restored, existing } })
    }
}

/// Whether an entry says no more than a spec without one: Waiting in its lane, as it was enqueued, and never claimed.
fn is_implied(entry: &[u8], stored: &[u8]) -> bool {
    let Some(head) = stored.get(..spec::HEAD + 2) else { return false };
    // State and epoch come before what the two have in common; counts and times after.
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    entry.split_at_checked(9).is_some_and(|(first, rest)| zero(first) && rest.strip_prefix(head).is_some_and(zero))
}

/// A hold: who, and until when, where zero stands for no end; then who is pending, if anybody is.
fn hold_bytes(holder: &Holder) -> Vec<u8> {
    let until = holder.until.map_or(0, |until| if until.as_micros() == 0 { 1 } else { until.as_micros() });
    let pending = holder.pending.map(|id| *id.as_bytes());
    [&holder.id.as_bytes()[..], &until.to_be_bytes(), pending.as_ref().map_or(&[], |id| &id[..])].concat()
}

/// The field under which `lanes.lua` keeps starts.
fn field_of(of: &Limited) -> String {
    match of {
        Limited::Queue => "q".to_owned(),
        Limited::Class(class) => format!("c{class}"),
        Limited::Lane(lane) => format!("l{}", lane.name().unwrap_or_default()),
    }
}

/// Adds the starts of one step to those known, and answers the scan's cursor. What can't be read is none, as for scripts.
fn starts_of(step: Value, all: &mut BTreeMap<Limited, Starts>) -> Result<Bytes, Unreadable> {
    let mut values = array(step)?.into_iter().map(bytes_of);
    let cursor = values.next().ok_or(Unreadable)??;
    while let Some(field) = values.next() {
        let (field, bytes) = (field?, values.next().ok_or(Unreadable)??);
        let (kind, name) = field.split_first().ok_or(Unreadable)?;
        let of = match kind {
            b'q' => Limited::Queue,
            b'c' => Limited::Class(LaneClass::new(&*String::from_utf8_lossy(name)).map_err(|_| Unreadable)?),
            _ => Limited::Lane(lane_of(name)?),
        };
        all.extend(Starts::from_bytes(&bytes).ok().map(|starts| (of, starts)));
    }
    Ok(cursor)
}

/// Adds the keys of one step to those held, and answers the scan's cursor.
fn keys_of(step: Value, held: &mut BTreeMap<DedupKey, Holder>) -> Result<Bytes, Unreadable> {
    let mut values = array(step)?.into_iter().map(bytes_of);
    let cursor = values.next().ok_or(Unreadable)??;
    while let Some(key) = values.next() {
        let (key, hold) = (key?, values.next().ok_or(Unreadable)??);
        let key = std::str::from_utf8(&key).ok().and_then(|key| DedupKey::new(key).ok());
        let (id, until) = hold.split_at_checked(16).ok_or(Unreadable)?;
        let mut rest = Reader(until);
        let until = Some(rest.i64()?).filter(|until| *until != 0).map(Timestamp::from_micros);
        let pending = if rest.0.is_empty() { None } else { Some(id_of(rest.0)?) };
        held.insert(key.ok_or(Unreadable)?, Holder { id: id_of(id)?, until, pending });
    }
    Ok(cursor)
}

#[cfg(test)]
mod tests;
