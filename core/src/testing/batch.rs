//! A batch handler called without a queue: as [`perform`](super::perform) does it for one job, with what became of each.

use std::sync::Arc;

use super::{Performance, Performed, claim_of, started};
use crate::batch::{BatchHandler, BatchJob};
use crate::client::{Client, ClientError};
use crate::codec;
use crate::context::{Context, StopReason};
use crate::job::{CodecTag, Job, Payload};
use crate::storage::Claim;

/// A call of a batch handler with a fake context; made by [`perform_batch`].
#[must_use = "the handler is called by run()"]
pub struct PerformBatch<J, S> {
    client: Client,
    jobs: Vec<J>,
    state: S,
    attempt: u32,
    checkpoint: Option<Payload>,
    stopped: Option<StopReason>,
}

/// Calls a batch handler of these jobs directly: nothing is enqueued, claimed or settled, and what it writes is recorded. The
/// client is only there for handlers that use [`Context::client`].
///
/// ```
/// # use ferroq_core::batch::BatchJob;
/// # use ferroq_core::client::{Client, ClientError};
/// # use ferroq_core::context::Context;
/// # use ferroq_core::handler::{JobError, JobResult};
/// # use ferroq_core::job::Job;
/// # use serde::{Deserialize, Serialize};
/// use ferroq_core::testing::{Performed, perform_batch};
///
/// # #[derive(Serialize, Deserialize)]
/// # struct Visit(String);
/// # impl Job for Visit {
/// #     type Output = ();
/// #     const NAME: &'static str = "visit.store";
/// # }
/// async fn store(visits: Vec<BatchJob<Visit>>, _cx: Context) -> JobResult<Vec<JobResult>> {
///     let stored = |visit: &BatchJob<Visit>| match visit.0.as_str() {
///         "" => Err(JobError::abort("a visit of no page")),
///         _ => Ok(()),
///     };
///     Ok(visits.iter().map(stored).collect())
/// }
///
/// # async fn test(client: &Client) -> Result<(), ClientError> {
/// let visits = ["/", ""].map(|page| Visit(page.to_owned()));
/// let each = perform_batch(client, visits).run(store).await?.completed();
/// assert!(matches!(each[..], [Performed::Completed(()), Performed::Aborted { .. }]));
/// # Ok(())
/// # }
/// ```
pub fn perform_batch<J: Job>(client: &Client, jobs: impl IntoIterator<Item = J>) -> PerformBatch<J, ()> {
    PerformBatch {
        client: client.clone(),
        jobs: jobs.into_iter().collect(),
        state: (),
        attempt: 1,
        checkpoint: None,
        stopped: None,
    }
}

impl<J: Job, S: Send + Sync + 'static> PerformBatch<J, S> {
    /// Gives the handler a state.
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> PerformBatch<J, T> {
        PerformBatch {
            client: self.client,
            jobs: self.jobs,
            state,
            attempt: self.attempt,
            checkpoint: self.checkpoint,
            stopped: self.stopped,
        }
    }

    /// Lets the handler think that this is the n-th attempt of each job.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt.max(1);
        self
    }

    /// Gives the handler a checkpoint of an earlier attempt.
    ///
    /// # Errors
    /// [`ClientError::Codec`] if it can't be written.
    pub fn checkpoint<T: serde::Serialize>(mut self, value: &T) -> Result<Self, ClientError> {
        let bytes_max = self.client.payload_bytes_max();
        self.checkpoint = Some(codec::encode("checkpoint", value, CodecTag::Json, 1, bytes_max)?);
        Ok(self)
    }

    /// Tells the handler to stop before it starts.
    pub fn stopped(mut self, reason: StopReason) -> Self {
        self.stopped = Some(reason);
        self
    }

    /// Calls the handler. Answers what became of each job, in their order, or of the batch as a whole: one that answers
    /// for another number of jobs than it was given is to be retried, as a worker would have it. Without jobs there is no
    /// batch, and the handler is not called. A panic goes through to the test.
    ///
    /// # Errors
    /// [`ClientError`] if a job can't be written, or its names are none.
    pub async fn run<H: BatchHandler<J, S>>(self, handler: H) -> Result<Performance<Vec<Performed<()>>>, ClientError> {
        let count = self.jobs.len();
        let mut batch = Vec::with_capacity(count);
        let mut first = None;
        for job in self.jobs {
            let claim = claim_of(&self.client, &job, J::options(), None, self.attempt)?;
            batch.push(BatchJob::new(job, &claim));
            first.get_or_insert(claim);
        }
        let Some(first) = first else { return Ok(Performance::of_nothing()) };
        let run = started(Claim { checkpoint: self.checkpoint, ..first }, self.client, self.stopped);
        let context = Context::new(Arc::new(self.state), run.clone());
        let result = handler.call(batch, context).await.and_then(|outcome| outcome.of_each(count));
        let ended = result.map(|each| each.into_iter().map(Performed::from).collect()).into();
        Ok(Performance::of(&run, ended))
    }
}

impl Performance<Vec<Performed<()>>> {
    fn of_nothing() -> Self {
        Performance {
            ended: Performed::Completed(Vec::new()),
            progress: Vec::new(),
            log: Vec::new(),
            checkpoint: None,
            follow_ups: Vec::new(),
        }
    }
}
