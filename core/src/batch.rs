//! Jobs that run together: what a batch handler is, what it is given and what it answers. Which jobs run together is said
//! by the gate of their lane; see [`BatchGate`](crate::policy::batch::BatchGate).

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::context::Context;
use crate::handler::{JobError, JobResult};
use crate::job::{Job, JobId, JobSpec};
use crate::storage::Claim;

/// One job of a batch. It derefs to the job itself.
pub struct BatchJob<J> {
    /// The job, as it was enqueued.
    pub job: J,
    spec: Arc<JobSpec>,
    attempts: u32,
    created_at: Timestamp,
}

impl<J> BatchJob<J> {
    pub(crate) fn new(job: J, claim: &Claim) -> Self {
        BatchJob { job, spec: claim.spec.clone(), attempts: claim.attempts, created_at: claim.created_at }
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.spec.id
    }

    /// Everything that the job was enqueued with.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Which attempt this is, counting from 1: one more than the runs of it that failed before, alone or with a batch.
    pub fn attempt(&self) -> u32 {
        self.attempts.saturating_add(1)
    }

    /// When it was enqueued.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }
}

impl<J> Deref for BatchJob<J> {
    type Target = J;

    fn deref(&self) -> &J {
        &self.job
    }
}

impl<J: fmt::Debug> fmt::Debug for BatchJob<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchJob").field("id", &self.id()).field("job", &self.job).finish_non_exhaustive()
    }
}

/// What became of the jobs of a batch. `()` says that all of them completed; a `Vec<JobResult>` says it of each, in the
/// order in which the handler was given them.
#[derive(Debug)]
pub struct BatchOutcome(pub(crate) Each);

pub(crate) enum Each {
    Completed,
    Of(Vec<JobResult>),
}

impl BatchOutcome {
    /// What became of each of so many jobs; an error of the whole batch if that was said of more or of fewer.
    pub(crate) fn of_each(self, jobs: usize) -> JobResult<Vec<JobResult>> {
        match self.0 {
            Each::Completed => Ok((0..jobs).map(|_| Ok(())).collect()),
            Each::Of(each) if each.len() == jobs => Ok(each),
            Each::Of(each) => Err(JobError::retry(format!("the handler gave {} results for {jobs} jobs", each.len()))),
        }
    }
}

impl fmt::Debug for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Each::Completed => f.write_str("all completed"),
            Each::Of(each) => f.debug_list().entries(each).finish(),
        }
    }
}

impl From<()> for BatchOutcome {
    fn from((): ()) -> Self {
        BatchOutcome(Each::Completed)
    }
}

impl<E: Into<JobError>> From<Vec<Result<(), E>>> for BatchOutcome {
    fn from(each: Vec<Result<(), E>>) -> Self {
        BatchOutcome(Each::Of(each.into_iter().map(|one| one.map_err(Into::into)).collect()))
    }
}

/// A handler of batches of jobs of type `J` with a state of type `S`: implemented by every
/// `async fn(Vec<BatchJob<J>>, Context<S>) -> JobResult<O>`, where `O` is `()` if all jobs completed, or a
/// `Vec<JobResult>` with what became of each.
///
/// An error is about the batch: all of it runs again, as it was, after the backoff of its first job, until that job's
/// attempts are used up; then all of it fails. What is left undone for one job is a matter of its own result: a job that
/// is to be tried again goes back to its lane, and with the next batch.
#[diagnostic::on_unimplemented(
    message = "this is not a handler of batches of `{J}` jobs for a worker whose state is `{S}`",
    label = "not a batch handler of this shape",
    note = "a batch handler is `async fn name(batch: Vec<BatchJob<{J}>>, cx: Context<{S}>) -> JobResult<Outcome>`, where `Outcome` is `()` or `Vec<JobResult>`",
    note = "the worker's state is set by `.state(..)` before `.handle_batch(..)`; without it, the state is `()`"
)]
pub trait BatchHandler<J: Job, S>: Send + Sync + 'static {
    /// Handles one batch. The context is that of its first job.
    fn call(&self, batch: Vec<BatchJob<J>>, cx: Context<S>) -> impl Future<Output = JobResult<BatchOutcome>> + Send;
}

impl<J, S, F, Fut, O> BatchHandler<J, S> for F
where
    J: Job,
    S: Send + Sync + 'static,
    F: Fn(Vec<BatchJob<J>>, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = JobResult<O>> + Send + 'static,
    O: Into<BatchOutcome>,
{
    async fn call(&self, batch: Vec<BatchJob<J>>, cx: Context<S>) -> JobResult<BatchOutcome> {
        self(batch, cx).await.map(Into::into)
    }
}
