//! Dead letters, as work on a unit: copies of jobs that failed for good, and jobs that are redriven. Both are collected
//! while a call works on its own queue, and enqueued on theirs before the call goes on to something that must come after.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ferroq_core::event::EventKind;
use ferroq_core::job::{FailReason, JobState, Origin, Priority};
use ferroq_core::policy::dead_letter;
use ferroq_core::policy::dedup::Exit;
use ferroq_core::storage::{ActAnswer, StorageError};
use sqlx::Row as _;

use crate::error::unexpected;
use crate::record::numbers_json;
use crate::row::Row;
use crate::unit::Unit;

/// Payloads, by key.
const PAYLOADS: &str = "SELECT key,payload FROM ferroq_jobs WHERE key IN (SELECT value FROM json_each(?))";

impl Unit<'_> {
    /// Whether jobs that fail in this queue are copied.
    pub(crate) fn has_dead_letter(&self, at: usize) -> bool {
        self.queues[at].config.dead_letter.is_some()
    }

    /// Reads what a copy of these rows needs and was left out of them.
    pub(crate) async fn complete_rows(&mut self, rows: &mut [&mut Row]) -> Result<(), StorageError> {
        for row in rows.iter() {
            self.kind_name(row.kind).await?;
        }
        let keys: Vec<i64> = rows.iter().filter(|row| row.payload_left_out).map(|row| row.key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let [found] = self.ask([(PAYLOADS, vec![numbers_json(keys).into()])]).await?;
        let mut payloads: HashMap<i64, Bytes> = HashMap::with_capacity(found.len());
        for one in &found {
            let key = one.try_get_unchecked(0).map_err(|_| unexpected("a payload"))?;
            let payload: Vec<u8> = one.try_get_unchecked(1).map_err(|_| unexpected("a payload"))?;
            payloads.insert(key, payload.into());
        }
        for row in rows.iter_mut() {
            if let Some(payload) = payloads.remove(&row.key) {
                row.payload = payload;
                row.payload_left_out = false;
            }
        }
        Ok(())
    }

    /// Takes note of the copy of a job that is about to end as Failed, if its queue has a dead-letter queue.
    pub(crate) fn copy(&mut self, at: usize, row: &Row, reason: FailReason) {
        let queue = &self.queues[at];
        let Some(dead) = queue.config.dead_letter.clone().filter(|_| dead_letter::is_copied(reason)) else { return };
        let kind = self.known_kind(row.kind).filter(|_| !row.payload_left_out);
        let spec = kind.and_then(|kind| row.spec(&queue.name, &kind).ok());
        let Some(spec) = spec else {
            tracing::warn!(queue = %queue.name, job = %row.id, "a failed job can't be read, so there is no copy of it");
            return;
        };
        let origin = Origin {
            queue: queue.name.clone(),
            id: row.id,
            reason,
            failed_at: queue.now,
            attempts: row.attempts,
            crashes: row.crashes,
            errors: row.read_notes().unwrap_or_default().errors,
        };
        let copy = dead_letter::copy(&spec, priority(row), row.epoch, dead, origin);
        self.letters.push(Arc::new(copy));
    }

    /// Brings a dead letter back to the queue that it comes from.
    pub(crate) async fn redrive(&mut self, at: usize, mut row: Row) -> Result<ActAnswer, StorageError> {
        let state = row.state();
        let has_origin = row.extra().ok().flatten().is_some_and(|extra| extra.origin.is_some());
        if state == JobState::Active || !has_origin {
            return Ok(ActAnswer::Refused(state));
        }
        self.complete_rows(&mut [&mut row]).await?;
        let queue = &self.queues[at];
        let spec = self.known_kind(row.kind).and_then(|kind| row.spec(&queue.name, &kind).ok());
        let job = spec.and_then(|spec| dead_letter::redriven(&spec, priority(&row), row.epoch, queue.now));
        let Some(job) = job else { return Ok(ActAnswer::Refused(state)) };
        self.letters.push(Arc::new(job));
        self.remove_by_act(at, &row);
        Ok(ActAnswer::Done(state))
    }

    /// Removes a job that is not Active, as an operator does.
    pub(crate) fn remove_by_act(&mut self, at: usize, row: &Row) {
        self.queues[at].leave(row);
        self.free_key(row, &[if row.state().is_terminal() { Exit::RemovedEnded } else { Exit::RemovedLive }]);
        self.leave_batch(at, row, None);
        self.queues[at].event(EventKind::Removed, row.id);
        self.queues[at].ended.push(row.id);
        self.remove(row.key);
    }

    /// Enqueues what the call has had for other queues so far.
    pub(crate) async fn post(&mut self) -> Result<(), StorageError> {
        let letters = std::mem::take(&mut self.letters);
        for group in letters.chunk_by(|a, b| a.queue == b.queue) {
            self.enqueue(&group[0].queue, group).await?;
        }
        Ok(())
    }
}

fn priority(row: &Row) -> Priority {
    Priority(u8::try_from(row.priority).unwrap_or_default())
}
