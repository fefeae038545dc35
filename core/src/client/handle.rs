//! A hold on a job that was enqueued: to see what became of it, to wait for it, to change its course.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::{Client, ClientError};
use crate::codec::{self, CodecError};
use crate::job::{CodecTag, ErrorEntry, FailReason, Job, JobId, JobRecord, JobSpec, JobState, Payload, QueueName};
use crate::policy::explain::Explanation;
use crate::storage::{Act, ActAnswer, EnqueueAnswer, StorageError};

/// How often a waiter looks for itself, in case the hint that the job ended was lost.
const WAIT_POLL: Duration = Duration::from_millis(500);

/// A job that was enqueued, or the one that was there already.
pub struct JobHandle<J> {
    client: Client,
    queue: QueueName,
    id: JobId,
    answer: EnqueueAnswer,
    kind: PhantomData<fn() -> J>,
}

/// A job did not complete, or its outcome can't be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It is Failed.
    #[error("the job failed ({reason:?}){}", errors.last().map(|e| format!(": {}", e.message)).unwrap_or_default())]
    Failed {
        /// Why.
        reason: FailReason,
        /// Its last errors, oldest first.
        errors: Vec<ErrorEntry>,
    },
    /// It was cancelled.
    #[error("the job was cancelled")]
    Cancelled,
    /// Its record is gone: removed, or not kept by its retention before anybody waited.
    #[error("the job's record is gone, so its outcome can't be told")]
    Gone,
    /// Its result does not hold the type asked for.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The storage failed. The job is not affected.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl<J> JobHandle<J> {
    /// The handle that an enqueue of `spec` answers; for storages with enqueue methods of their own.
    pub fn from_answer(client: Client, spec: &JobSpec, answer: EnqueueAnswer) -> Self {
        let id = match answer {
            EnqueueAnswer::Duplicate(job) | EnqueueAnswer::Replaced(job) | EnqueueAnswer::Coalesced(job, _) => job,
            EnqueueAnswer::Inserted | EnqueueAnswer::Deferred => spec.id,
        };
        JobHandle { client, queue: spec.queue.clone(), id, answer, kind: PhantomData }
    }

    /// The handle of a job that is known by its id.
    pub fn of(client: &Client, queue: QueueName, id: JobId) -> Self {
        JobHandle { client: client.clone(), queue, id, answer: EnqueueAnswer::Inserted, kind: PhantomData }
    }

    /// The job's id; of the job that holds the place, if this enqueue inserted none: it was a duplicate, or gave that
    /// job its payload, or one more to its count.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The queue that it is in.
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// What the storage made of the enqueue.
    pub fn answer(&self) -> EnqueueAnswer {
        self.answer
    }

    /// Whether another job (or this very one, by its id) was there already, so that nothing was inserted. Under a dedup key
    /// that jobs of several kinds share, the holder may be of another kind than `J`; then [`wait`](Self::wait) can't read
    /// its result.
    pub fn is_duplicate(&self) -> bool {
        matches!(self.answer, EnqueueAnswer::Duplicate(_))
    }

    /// The job's record, as long as it exists.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn record(&self) -> Result<Option<JobRecord>, ClientError> {
        Ok(self.client.storage().job(Some(&self.queue), self.id).await?)
    }

    /// Why it is not running now, or that it is: as data, and in words.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn explain(&self) -> Result<Explanation, ClientError> {
        Ok(self.client.storage().explain(&self.queue, self.id).await?)
    }

    /// Cancels it: at once if it is not running, else by asking its worker; see [`Client::cancel`].
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn cancel(&self) -> Result<ActAnswer, ClientError> {
        self.client.act_on(&self.queue, self.id, Act::Cancel).await
    }

    /// Puts it back in line after it has ended.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn retry(&self, reset: bool) -> Result<ActAnswer, ClientError> {
        self.client.act_on(&self.queue, self.id, Act::Retry { reset }).await
    }

    /// Waits until the job has ended, and answers its record. While somebody waits, the record outlives the job's end by
    /// a minute, whatever its retention says. Cancel safe.
    ///
    /// # Errors
    /// [`WaitError::Gone`] if there is no record (any more), [`WaitError::Storage`].
    pub async fn wait_record(&self) -> Result<JobRecord, WaitError> {
        let storage = self.client.storage();
        // First the watch, then the look: an end in between is hinted.
        let watch = storage.watch(&self.queue, self.id).await?;
        let hints_suffice = storage.capabilities().reliable_signals;
        loop {
            match storage.job(Some(&self.queue), self.id).await? {
                None => return Err(WaitError::Gone),
                Some(record) if record.state.is_terminal() => return Ok(record),
                Some(_) => {}
            }
            if hints_suffice {
                watch.ended().await;
            } else {
                // A timeout is no failure here: it only means to look again.
                let _looked_early = tokio::time::timeout(WAIT_POLL, watch.ended()).await;
            }
        }
    }
}

impl<J: Job> JobHandle<J> {
    /// Waits until the job has ended, and answers what its handler returned. Cancel safe.
    ///
    /// # Errors
    /// [`WaitError`] if it failed, was cancelled, or its outcome can't be told.
    pub async fn wait(&self) -> Result<J::Output, WaitError> {
        let record = self.wait_record().await?;
        match record.state {
            JobState::Cancelled => Err(WaitError::Cancelled),
            JobState::Failed => Err(WaitError::Failed {
                reason: record.failure.unwrap_or(FailReason::AttemptsExhausted),
                errors: record.notes.errors,
            }),
            _ => {
                // The unit value is not stored, and reads as JSON's null.
                let unit = Payload { codec: CodecTag::Json, version: 1, bytes: bytes::Bytes::from_static(b"null") };
                let result = record.notes.result.unwrap_or(unit);
                Ok(codec::decode("result", &result, self.client.payload_bytes_max())?)
            }
        }
    }
}

impl<J> Clone for JobHandle<J> {
    fn clone(&self) -> Self {
        JobHandle {
            client: self.client.clone(),
            queue: self.queue.clone(),
            id: self.id,
            answer: self.answer,
            kind: PhantomData,
        }
    }
}

impl<J> fmt::Debug for JobHandle<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle")
            .field("queue", &self.queue)
            .field("id", &self.id)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}
