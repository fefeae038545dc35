//! The role that moves jobs: each call is a script of its own, in the file named after it under `lua/`.

use std::time::Duration;

use async_trait::async_trait;
use ferroq_core::clock::micros;
use ferroq_core::job::{JobId, LOG_LINE_BYTES_MAX, LOG_LINES_MAX, QueueName, clip};
use ferroq_core::storage::{
    EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest, JobWatch, Jobs, Lease, Note, NoteAnswer,
    RenewAnswer, RenewRequest, SignalReceiver, StorageError, SweepAnswer, SweepRequest,
};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::error::invalid;
use crate::exchange::{FLAG_OUTBOX, TERM_MIN, lease_bytes, strange};
use crate::outbox::Relayer;
use crate::record::{bytes_of, progress_bytes, write_long_text};
use crate::script::{ANNOTATE, RENEW, SWEEP, WATCH};
use crate::spec::{self, Reader, Unreadable};

#[async_trait]
impl Jobs for RedisStorage {
    async fn enqueue(&self, request: EnqueueRequest) -> Result<Vec<EnqueueAnswer>, StorageError> {
        self.enqueue_now(request).await
    }

    async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        self.exchange_now(request).await
    }

    async fn renew(&self, request: RenewRequest) -> Result<Vec<RenewAnswer>, StorageError> {
        if request.term < TERM_MIN {
            return Err(invalid("a lease holds for at least a millisecond"));
        }
        let keys = self.keys(&request.queue);
        let clock = self.clock_arg();
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock).arg(&micros(request.term).to_be_bytes());
            for lease in &request.leases {
                cmd.arg(lease_bytes(*lease));
            }
        };
        let value = self.run(&RENEW, &keys, &keys.answers(None), args).await?;
        let answer = |byte| match byte {
            0 => Some(RenewAnswer::Renewed { cancel_requested: false }),
            1 => Some(RenewAnswer::Renewed { cancel_requested: true }),
            2 => Some(RenewAnswer::LeaseLost),
            3 => Some(RenewAnswer::Gone),
            _ => None,
        };
        per_item(value, request.leases.len(), answer, "the answer to a renewal")
    }

    async fn annotate(&self, queue: &QueueName, notes: Vec<(Lease, Note)>) -> Result<Vec<NoteAnswer>, StorageError> {
        if notes.is_empty() {
            return Ok(Vec::new());
        }
        let keys = self.keys(queue);
        let clock = self.clock_arg();
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock);
            for (lease, note) in &notes {
                let (mut checkpoint, mut lines) = (Vec::new(), Vec::new());
                if let Some(payload) = &note.checkpoint {
                    spec::write_payload(payload, &mut checkpoint);
                }
                // Only the last lines would stay.
                for line in note.log.iter().skip(note.log.len().saturating_sub(LOG_LINES_MAX)) {
                    write_long_text(&clip(line, LOG_LINE_BYTES_MAX), &mut lines);
                }
                let progress = note.progress.as_ref().map(progress_bytes).unwrap_or_default();
                cmd.arg(lease_bytes(*lease)).arg(progress).arg(checkpoint).arg(lines);
            }
        };
        let value = self.run(&ANNOTATE, &keys, &keys.answers(None), args).await?;
        let answer = |byte| match byte {
            0 => Some(NoteAnswer::Noted),
            2 => Some(NoteAnswer::LeaseLost),
            3 => Some(NoteAnswer::Gone),
            _ => None,
        };
        per_item(value, notes.len(), answer, "the answer to a note")
    }

    async fn sweep(&self, request: SweepRequest) -> Result<SweepAnswer, StorageError> {
        let keys = self.keys(&request.queue);
        let clock = self.clock_arg();
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock).arg(request.max_items);
        };
        let value = self.run(&SWEEP, &keys, &keys.answers(None), args).await?;
        let (outbox, mut answer) = sweep_answer(value).map_err(|Unreadable| strange("the answer to a sweep"))?;
        if outbox {
            // The sweep itself is done; what can't be delivered now is the next sweep's to try.
            let relayed = self.relay(&keys, &[], Relayer::Sweep).await;
            if relayed.more {
                (answer.more, answer.next) = (true, Some(Duration::ZERO));
            }
            // It was obliterated, and its name stayed for what it owed. Should that fail, a name too many does no harm.
            if relayed.is_empty
                && let Ok(false) = self.exists(&request.queue).await
                && let Err(error) = self.unregister(&request.queue).await
            {
                tracing::debug!(queue = %request.queue, %error, "the name of a queue that is gone stays listed");
            }
        }
        Ok(answer)
    }

    fn signals(&self, queue: &QueueName) -> SignalReceiver {
        let receiver = self.hub.receiver(queue);
        self.listener.listen(&self.keys(queue));
        receiver
    }

    async fn watch(&self, queue: &QueueName, id: JobId) -> Result<JobWatch, StorageError> {
        // Watched first and marked after, so that an end in between is hinted.
        let watch = self.hub.watch(id);
        let keys = self.keys(queue);
        self.listener.subscribe(&keys);
        let clock = self.clock_arg();
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock).arg(id.as_bytes());
        };
        self.run(&WATCH, &keys, &keys.answers(None), args).await?;
        Ok(watch)
    }
}

/// One byte per item.
fn per_item<T>(
    value: Value,
    items: usize,
    answer: impl Fn(u8) -> Option<T>,
    what: &'static str,
) -> Result<Vec<T>, StorageError> {
    let bytes = bytes_of(value).map_err(|Unreadable| strange(what))?;
    let answers: Option<Vec<T>> = bytes.iter().map(|byte| answer(*byte)).collect();
    answers.filter(|answers| answers.len() == items).ok_or_else(|| strange(what))
}

fn sweep_answer(value: Value) -> Result<(bool, SweepAnswer), Unreadable> {
    let bytes = bytes_of(value)?;
    let mut from = Reader(&bytes);
    let outbox = from.u8()? & FLAG_OUTBOX != 0;
    let mut count = || from.u32().map(|count| count as usize);
    let (failed, stalled, promoted, pruned) = (count()?, count()?, count()?, count()?);
    let more = from.u8()? == 1;
    let wait = from.i64()?;
    let next = (wait >= 0).then(|| Duration::from_micros(wait.unsigned_abs()));
    Ok((outbox, SweepAnswer { failed, stalled, promoted, pruned, more, next }))
}
