//! The role that hands out the members of batches. Both calls name the leader's lease; gathering is a script that writes, and
//! what it failed on the way may leave dead letters, as in a claim.

use std::borrow::Cow;

use async_trait::async_trait;
use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobRecord, JobState, QueueName};
use ferroq_core::policy::enqueue::line;
use ferroq_core::storage::{Batches, GatherAnswer, Lease, MembersAnswer, MembersPage, MembersRequest, StorageError};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::error::invalid;
use crate::exchange::{FLAG_OUTBOX, lease_bytes, strange};
use crate::inspect::array;
use crate::outbox::Relayer;
use crate::record::{bytes_of, claimed, id_of, seq_of};
use crate::script::{GATHER, MEMBERS};
use crate::spec::{Kinds, Reader, Unreadable};

#[async_trait]
impl Batches for RedisStorage {
    async fn gather(&self, queue: &QueueName, lease: Lease, max_items: usize) -> Result<GatherAnswer, StorageError> {
        let (keys, clock) = (self.keys(queue), self.clock_arg());
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock).arg(lease_bytes(lease)).arg(max_items);
        };
        let value = self.run(&GATHER, &keys, &keys.answers(None), args).await?;
        let (outbox, answer) = gathered(value).map_err(|Unreadable| strange("the answer to a gathering"))?;
        if outbox && !self.held_up.has(queue) {
            self.relay(&keys, &[], Relayer::Call { letters: max_items }).await;
        }
        Ok(answer)
    }

    async fn members(&self, request: MembersRequest) -> Result<MembersAnswer, StorageError> {
        let MembersRequest { queue, lease, after, max_items, max_bytes } = request;
        if max_items == 0 {
            return Err(invalid("a page of members holds one at least"));
        }
        let after = after.map(|seq| seq.to_string()).unwrap_or_default();
        let page = self
            .look(&MEMBERS, &queue, |cmd| cmd.arg(lease_bytes(lease)).arg(&after).arg(max_items).arg(max_bytes))
            .await?;
        members(&queue, lease, page).map_err(|Unreadable| strange("a page of members"))
    }
}

/// What `gather.lua` answers: whether the outbox holds something, and what gathering came to.
fn gathered(value: Value) -> Result<(bool, GatherAnswer), Unreadable> {
    let bytes = bytes_of(value)?;
    let mut from = Reader(&bytes);
    let outbox = from.u8()? & FLAG_OUTBOX != 0;
    let answer = match from.u8()? {
        0 => {
            let formed = from.u8()? == 1;
            GatherAnswer::Gathered { members: from.i64()?.unsigned_abs(), formed }
        }
        2 => GatherAnswer::LeaseLost,
        3 => GatherAnswer::Gone,
        _ => return Err(Unreadable),
    };
    Ok((outbox, answer))
}

/// What `members.lua` answers. A member that can't be read is left out.
fn members(queue: &QueueName, lease: Lease, page: Value) -> Result<MembersAnswer, Unreadable> {
    let mut values = array(page)?.into_iter();
    let head = values.next().map_or(Err(Unreadable), bytes_of)?;
    let mut from = Reader(&head);
    match from.u8()? {
        0 => {}
        2 => return Ok(MembersAnswer::LeaseLost),
        3 => return Ok(MembersAnswer::Gone),
        _ => return Err(Unreadable),
    }
    let formed = from.u8()? == 1;
    let next = if from.0.is_empty() { None } else { Some(seq_of(from.0)?) };
    let mut page = MembersPage { members: Vec::with_capacity(values.len() / 3), next, formed };
    let mut kinds = Kinds::default();
    while let (Some(id), Some(stored), Some(extra)) = (values.next(), values.next(), values.next()) {
        let (id, stored, extra) = (id_of(&bytes_of(id)?)?, bytes_of(stored)?, bytes_of(extra)?);
        match claimed(queue, id, &stored, &extra, Timestamp::default(), false, &mut kinds) {
            Ok(mut member) => {
                member.lease.epoch = lease.epoch;
                member.batch = None;
                page.members.push(member);
            }
            Err(Unreadable) => {
                tracing::error!(%queue, job = %id, "a member of a batch can't be read; it fails when the batch is over");
            }
        }
    }
    Ok(MembersAnswer::Page(page))
}

/// A record as it is restored: a batch stays behind, and its members wait in their lane again.
pub(crate) fn without_batch(record: &JobRecord) -> Cow<'_, JobRecord> {
    if record.batch.is_none() {
        return Cow::Borrowed(record);
    }
    let mut record = record.clone();
    record.batch = None;
    if record.state == JobState::Blocked {
        record.state = JobState::Waiting;
        record.slot = line(record.crashes, record.spec.options.max_crashes);
    }
    Cow::Owned(record)
}

#[cfg(test)]
mod tests;
