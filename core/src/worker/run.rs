//! One run of one job: read the payload, call the handler within its timeout, catch what it throws, and say what it
//! ended in. Each run is a task of its own, so that one handler can't hold up another.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tracing::warn;

use crate::codec::{self, CodecError};
use crate::context::{Context, Run, StopReason};
use crate::handler::{Ending, Handler, JobError, JobResult, text_of};
use crate::job::{ErrorKind, Job, JobKind};
use crate::storage::{Claim, Outcome, RunError, Settlement};
use crate::worker::WorkerReport;

/// A run that ended, on its way to the storage.
pub(super) struct Ended {
    pub(super) queue: usize,
    pub(super) settlement: Settlement,
    /// What became of the other jobs of its batch, which are settled already.
    pub(super) members: WorkerReport,
}

/// What every run of a worker shares.
pub(super) struct Shared<S> {
    pub(super) state: Arc<S>,
    pub(super) handlers: HashMap<JobKind, Arc<dyn ErasedHandler<S>>>,
    pub(super) ended: UnboundedSender<Ended>,
    /// The source of jitter; seeded by the worker's builder.
    pub(super) random: Mutex<StdRng>,
}

/// A handler without its job type.
pub(super) trait ErasedHandler<S>: Send + Sync {
    fn start(&self, shared: Arc<Shared<S>>, run: Arc<Run>, queue: usize) -> AbortHandle;
}

/// A handler with its job type.
pub(super) struct Typed<J, H> {
    handler: Arc<H>,
    job: PhantomData<fn() -> J>,
}

impl<J, H> Typed<J, H> {
    pub(super) fn new(handler: H) -> Self {
        Typed { handler: Arc::new(handler), job: PhantomData }
    }
}

impl<S, J, H> ErasedHandler<S> for Typed<J, H>
where
    S: Send + Sync + 'static,
    J: Job,
    H: Handler<J, S>,
{
    fn start(&self, shared: Arc<Shared<S>>, run: Arc<Run>, queue: usize) -> AbortHandle {
        let handler = self.handler.clone();
        // One task and no box: the handler's future is part of the task.
        tokio::spawn(async move {
            let mut guard = EndGuard::new(shared.clone(), run.clone(), queue);
            let settlement = execute(&*handler, &shared, &run).await;
            guard.disarm();
            // The receiver is gone only when the worker was dropped; then the lease runs out and the job is run again.
            let members = WorkerReport::default();
            let _worker_dropped = shared.ended.send(Ended { queue, settlement, members }).is_err();
        })
        .abort_handle()
    }
}

/// Gives the job back if the task is dropped before the run ended: at shutdown, when time is up.
pub(super) struct EndGuard<S> {
    ended: Option<(Arc<Shared<S>>, Arc<Run>, usize)>,
}

impl<S> EndGuard<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, run: Arc<Run>, queue: usize) -> Self {
        EndGuard { ended: Some((shared, run, queue)) }
    }

    /// The run has ended by itself.
    pub(super) fn disarm(&mut self) {
        self.ended = None;
    }
}

impl<S> Drop for EndGuard<S> {
    fn drop(&mut self) {
        if let Some((shared, run, queue)) = self.ended.take() {
            let settlement = run.settlement(Outcome::Release);
            let members = WorkerReport::default();
            let _worker_dropped = shared.ended.send(Ended { queue, settlement, members }).is_err();
        }
    }
}

/// Runs one job and says what it ended in. Everything that the app wrote is inside the catch: not only the handler, but
/// how payload and output are read and written, how its errors are displayed, and what is dropped when time is up.
async fn execute<S, J, H>(handler: &H, shared: &Arc<Shared<S>>, run: &Arc<Run>) -> Settlement
where
    S: Send + Sync + 'static,
    J: Job,
    H: Handler<J, S>,
{
    match AssertUnwindSafe(attempt(handler, shared, run)).catch_unwind().await {
        Ok(settlement) => settlement,
        Err(panic) => shared.failed(run, ErrorKind::Panic, panic_text(panic.as_ref()), None),
    }
}

async fn attempt<S, J, H>(handler: &H, shared: &Arc<Shared<S>>, run: &Arc<Run>) -> Settlement
where
    S: Send + Sync + 'static,
    J: Job,
    H: Handler<J, S>,
{
    let spec = &run.claim.spec;
    let job: J = match codec::decode_job(&spec.payload, run.client.payload_bytes_max()) {
        Ok(job) => job,
        Err(error @ CodecError::TooNew { .. }) => return shared.too_new(run, &error).await,
        // Nothing about the bytes will change.
        Err(error) => return aborted(run, ErrorKind::Payload, error.to_string()),
    };
    let work = handler.call(job, Context::new(shared.state.clone(), run.clone()));
    match spec.options.timeout {
        None => shared.settlement::<J>(run, work.await),
        Some(timeout) => match within(timeout, work).await {
            Some(result) => shared.settlement::<J>(run, result),
            None => {
                let message = format!("the run took longer than its timeout of {timeout:?}");
                shared.failed(run, ErrorKind::Timeout, message, None)
            }
        },
    }
}

/// `None` if the time is over first.
pub(super) async fn within<F: Future>(timeout: Duration, work: F) -> Option<F::Output> {
    tokio::time::timeout(timeout, work).await.ok()
}

impl<S> Shared<S> {
    fn settlement<J: Job>(&self, run: &Run, result: JobResult<J::Output>) -> Settlement {
        match result {
            Ok(output) => match run.completion(&output) {
                Ok(settlement) => settlement,
                Err(error) => aborted(run, ErrorKind::Abort, error.to_string()),
            },
            Err(error) => run.settlement(self.outcome_of(run, &run.claim, error)),
        }
    }

    /// What a job of this run ends in that did not succeed.
    pub(super) fn outcome_of(&self, run: &Run, claim: &Claim, JobError { ending }: JobError) -> Outcome {
        match ending {
            // Told to stop at shutdown, a handler has no other way out than an error; that is not its failure.
            Ending::Retry { .. } if run.stop_reason() == Some(StopReason::Shutdown) => Outcome::Release,
            Ending::Retry { error, delay } => self.retry(claim, ErrorKind::Error, text_of(&error), delay),
            Ending::Abort { error } => Outcome::Abort { error: RunError::new(ErrorKind::Abort, text_of(&error)) },
            Ending::Snooze { delay } => Outcome::Snooze { delay },
        }
    }

    /// A newer program can read the payload, so the job waits for one: that is nobody's failure. The pauses grow with the
    /// number of runs, so that old workers don't pass it around.
    async fn too_new(&self, run: &Run, error: &CodecError) -> Settlement {
        warn!(job = %run.lease().id, %error, "a job waits for a newer program");
        if let Err(error) = run.log(error.to_string()).await {
            warn!(job = %run.lease().id, %error, "the job's log could not say so");
        }
        run.settlement(Outcome::Snooze { delay: self.backoff(&run.claim, run.claim.run) })
    }

    pub(super) fn backoff(&self, claim: &Claim, failed: u32) -> Duration {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        claim.spec.options.backoff.delay(failed, &mut *random)
    }

    /// A failed attempt; without a delay of its own it waits as the job's backoff says.
    pub(super) fn failed(&self, run: &Run, kind: ErrorKind, message: String, delay: Option<Duration>) -> Settlement {
        run.settlement(self.retry(&run.claim, kind, message, delay))
    }

    fn retry(&self, claim: &Claim, kind: ErrorKind, message: String, delay: Option<Duration>) -> Outcome {
        let delay = delay.unwrap_or_else(|| self.backoff(claim, claim.attempts.saturating_add(1)));
        Outcome::Retry { error: RunError::new(kind, message), delay }
    }
}

fn aborted(run: &Run, kind: ErrorKind, message: String) -> Settlement {
    run.settlement(Outcome::Abort { error: RunError::new(kind, message) })
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("(a value that is no text)"))
}
