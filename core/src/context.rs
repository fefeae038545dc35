//! What a handler is given besides its job: the app's state, the way to leave something on the job's record, and the
//! sign to stop. Whatever it writes names the run's lease, so a run that lost its job can't write to it.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, FollowUp};
use crate::codec::{self, CodecError};
use crate::job::{CodecTag, CorrelationId, Job, JobId, JobSpec, Origin, Payload, Progress, QueueName};
use crate::storage::{Claim, Lease, Note, NoteAnswer, Outcome, Settlement, StorageError};

/// A handler's view of its run. Cloning it is cheap; it can be moved into tasks of the handler's own.
pub struct Context<S = ()> {
    state: Arc<S>,
    run: Arc<Run>,
}

/// One run of one job: what the worker, its heartbeat and the handler share.
pub(crate) struct Run {
    pub(crate) claim: Claim,
    pub(crate) client: Client,
    /// Where notes go: to the storage, or to a test that looks at them.
    notes: NoteSink,
    follow_ups: Mutex<Vec<Arc<JobSpec>>>,
    stop: StopSign,
}

enum NoteSink {
    Storage,
    Recorder(Mutex<Vec<Note>>),
}

/// Why a run should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// Somebody asked to cancel the job.
    CancelRequested,
    /// The lease is lost: whatever the run still does, its outcome will be refused.
    LeaseLost,
    /// The worker shuts down and the grace period is over.
    Shutdown,
}

/// A cancellation token that costs nothing until somebody looks at it or fires it.
#[derive(Default)]
struct StopSign {
    token: OnceLock<CancellationToken>,
    reason: OnceLock<StopReason>,
}

/// What a handler tried to leave on its job's record was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The run no longer holds its job: nothing was written, and the outcome will be refused too. Stop.
    #[error("this run no longer holds its job: the lease was lost")]
    LeaseLost,
    /// The job's record is gone: it was removed while it ran. Stop.
    #[error("the job was removed while it ran")]
    Gone,
    /// The value can't be written or read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The storage failed. A handler that would rather go on without the note ignores this one; with `?`, the run fails.
    #[error("the note could not be stored")]
    Storage(#[source] StorageError),
}

impl Run {
    pub(crate) fn new(claim: Claim, client: Client) -> Arc<Self> {
        Arc::new(Run {
            claim,
            client,
            notes: NoteSink::Storage,
            follow_ups: Mutex::default(),
            stop: StopSign::default(),
        })
    }

    pub(crate) fn recorded(claim: Claim, client: Client) -> Arc<Self> {
        Arc::new(Run {
            claim,
            client,
            notes: NoteSink::Recorder(Mutex::default()),
            follow_ups: Mutex::default(),
            stop: StopSign::default(),
        })
    }

    pub(crate) fn queue(&self) -> &QueueName {
        &self.claim.spec.queue
    }

    pub(crate) fn lease(&self) -> Lease {
        self.claim.lease
    }

    /// Tells the handler to stop. The first reason stays.
    pub(crate) fn stop(&self, reason: StopReason) {
        if self.stop.reason.set(reason).is_ok() {
            self.token().cancel();
        }
    }

    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.stop.reason.get().copied()
    }

    pub(crate) fn add_follow_up(&self, spec: Arc<JobSpec>) {
        self.follow_ups.lock().unwrap_or_else(PoisonError::into_inner).push(spec);
    }

    pub(crate) fn follow_ups(&self) -> Vec<Arc<JobSpec>> {
        self.follow_ups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The notes that a recorded run made.
    pub(crate) fn recorded_notes(&self) -> Vec<Note> {
        match &self.notes {
            NoteSink::Storage => Vec::new(),
            NoteSink::Recorder(notes) => notes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn token(&self) -> &CancellationToken {
        self.stop.token.get_or_init(CancellationToken::new)
    }

    /// Adds a line to the job's log.
    pub(crate) async fn log(&self, line: String) -> Result<(), ContextError> {
        self.note(Note { log: vec![line], ..Note::default() }).await
    }

    async fn note(&self, note: Note) -> Result<(), ContextError> {
        let answers = match &self.notes {
            NoteSink::Recorder(notes) => {
                notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
                return Ok(());
            }
            NoteSink::Storage => self.client.storage().annotate(self.queue(), vec![(self.lease(), note)]).await,
        };
        match answers.map_err(ContextError::Storage)?.first() {
            Some(NoteAnswer::Noted) => Ok(()),
            Some(NoteAnswer::Gone) => {
                self.stop(StopReason::LeaseLost);
                Err(ContextError::Gone)
            }
            Some(NoteAnswer::LeaseLost) | None => {
                self.stop(StopReason::LeaseLost);
                Err(ContextError::LeaseLost)
            }
        }
    }

    /// The settlement of a run that ended in this, with nothing that follows.
    pub(crate) fn settlement(&self, outcome: Outcome) -> Settlement {
        Settlement { lease: self.lease(), outcome, follow_ups: Vec::new() }
    }

    /// The settlement of a run that succeeded with `output`.
    pub(crate) fn completion<T: Serialize + 'static>(&self, output: &T) -> Result<Settlement, CodecError> {
        // The unit value says nothing that Completed does not say, so it is not stored.
        let result = if std::any::TypeId::of::<T>() == std::any::TypeId::of::<()>() {
            None
        } else {
            Some(codec::encode("result", output, CodecTag::Json, 1, self.client.payload_bytes_max())?)
        };
        Ok(Settlement { lease: self.lease(), outcome: Outcome::Completed { result }, follow_ups: self.follow_ups() })
    }
}

impl<S> Context<S> {
    pub(crate) fn new(state: Arc<S>, run: Arc<Run>) -> Self {
        Context { state, run }
    }

    /// The app's state, as given to the worker.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// For how many enqueues the job stands; more than 1 only under
    /// [`DedupMode::Coalesce`](crate::policy::dedup::DedupMode::Coalesce). The same in every run.
    pub fn coalesced(&self) -> u32 {
        self.run.claim.coalesced
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.run.claim.lease.id
    }

    /// The queue that the job came from.
    pub fn queue(&self) -> &QueueName {
        self.run.queue()
    }

    /// Everything that the job was enqueued with.
    pub fn spec(&self) -> &JobSpec {
        &self.run.claim.spec
    }

    /// Which attempt this is, counting from 1: one more than the runs that failed before. A run that was released,
    /// snoozed or lost to a crash does not count.
    pub fn attempt(&self) -> u32 {
        self.run.claim.attempts.saturating_add(1)
    }

    /// How many attempts there are.
    pub fn max_attempts(&self) -> u32 {
        self.run.claim.spec.options.max_attempts
    }

    /// How many times a process died or hung with this job before.
    pub fn crashes(&self) -> u32 {
        self.run.claim.crashes
    }

    /// The job's correlation id.
    pub fn correlation_id(&self) -> Option<&CorrelationId> {
        self.run.claim.spec.options.correlation_id.as_ref()
    }

    /// Where the job failed before, and how, if it is a dead letter or was redriven from one.
    pub fn origin(&self) -> Option<&Origin> {
        self.run.claim.spec.origin.as_deref()
    }

    /// A number that rises with every claim of this job. Hand it to systems that can refuse a lower one than they saw
    /// before: then a run that lost its lease and does not know it yet can do no harm there.
    pub fn fencing_token(&self) -> i64 {
        self.run.claim.lease.epoch
    }

    /// The right to write to the job; for storages' own methods.
    pub fn lease(&self) -> Lease {
        self.run.lease()
    }

    /// The client that the worker works for.
    pub fn client(&self) -> &Client {
        &self.run.client
    }

    /// Waits until the run should stop: the job was cancelled, the lease was lost, or the worker's grace period is over.
    /// Handlers that run long select on it. Cancel safe.
    pub async fn cancelled(&self) {
        self.run.token().cancelled().await;
    }

    /// Why the run should stop, if it should.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.run.stop_reason()
    }

    /// A token that is cancelled when the run should stop, for code that takes one.
    pub fn cancellation_token(&self) -> CancellationToken {
        self.run.token().clone()
    }

    /// Says how far the run has come. Replaces what was said before.
    ///
    /// # Errors
    /// [`ContextError::LeaseLost`] or [`ContextError::Gone`]: nothing was written, and the run should stop.
    pub async fn progress(&self, done: u64, total: u64) -> Result<(), ContextError> {
        self.note_progress(Progress { done, total, note: None }).await
    }

    /// Says how far the run has come, in numbers and words.
    ///
    /// # Errors
    /// As [`progress`](Self::progress).
    pub async fn note_progress(&self, progress: Progress) -> Result<(), ContextError> {
        self.run.note(Note { progress: Some(progress), ..Note::default() }).await
    }

    /// Adds a line to the job's own log: the last 100 are kept, each up to 1,024 bytes.
    ///
    /// # Errors
    /// As [`progress`](Self::progress).
    pub async fn log(&self, line: impl Into<String>) -> Result<(), ContextError> {
        self.run.log(line.into()).await
    }

    /// Saves something for the next attempt, should this one not get to the end. Replaces what was saved before.
    ///
    /// # Errors
    /// As [`progress`](Self::progress); [`ContextError::Codec`] if it can't be written or is larger than a payload may be.
    pub async fn checkpoint<T: Serialize>(&self, value: &T) -> Result<(), ContextError> {
        let bytes_max = self.run.client.payload_bytes_max();
        let saved = codec::encode("checkpoint", value, CodecTag::Json, 1, bytes_max)?;
        self.run.note(Note { checkpoint: Some(saved), ..Note::default() }).await
    }

    /// What an earlier run of this job saved last, if any did. A checkpoint of this run is not among it.
    ///
    /// # Errors
    /// [`ContextError::Codec`] if it does not hold a `T`.
    pub fn last_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, ContextError> {
        let saved: Option<&Payload> = self.run.claim.checkpoint.as_ref();
        let bytes_max = self.run.client.payload_bytes_max();
        Ok(saved.map(|saved| codec::decode("checkpoint", saved, bytes_max)).transpose()?)
    }

    /// Enqueues a follow-up that comes into being together with this job's completion: in the same atomic unit, and not
    /// at all if this run does not succeed. It inherits the correlation id and the trace context.
    ///
    /// Takes effect when awaited.
    pub fn enqueue<J: Job>(&self, job: J) -> FollowUp<J> {
        FollowUp::new(self.run.clone(), job)
    }

    /// The settlement that completes this job with `output` and the follow-ups enqueued so far; for storages that can
    /// apply it inside the app's own transaction.
    ///
    /// # Errors
    /// [`CodecError`] if the output can't be written or is too large.
    pub fn completion<T: Serialize + 'static>(&self, output: &T) -> Result<Settlement, CodecError> {
        self.run.completion(output)
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Context { state: self.state.clone(), run: self.run.clone() }
    }
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("lease", &self.run.lease())
            .field("kind", &self.run.claim.spec.kind)
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}
