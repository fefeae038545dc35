//! For tests of apps: call a handler without a queue, find what was enqueued, and run everything that is due.

mod batch;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Client, ClientError};
use crate::clock::{Clock, SystemClock};
use crate::codec;
use crate::context::{Context, Run, StopReason};
use crate::handler::{Ending, Handler, JobError, JobResult, text_of};
use crate::job::{CodecTag, Job, JobId, JobOptions, JobRecord, JobSpec, Origin, Payload, Progress, QueueName};
use crate::storage::{Claim, JobFilter, Lease};
use crate::worker::{WorkerBuilder, WorkerError, WorkerReport};

pub use batch::{PerformBatch, perform_batch};

/// How a performed handler ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Performed<T> {
    /// It succeeded.
    Completed(T),
    /// It failed and would be tried again, after this delay if it named one.
    Retry {
        /// The error's text with its sources.
        error: String,
        /// The delay that the handler named.
        delay: Option<Duration>,
    },
    /// It gave up.
    Aborted {
        /// The error's text with its sources.
        error: String,
    },
    /// It asked for more time.
    Snoozed {
        /// How much.
        delay: Duration,
    },
}

impl<T> From<JobResult<T>> for Performed<T> {
    fn from(result: JobResult<T>) -> Self {
        match result {
            Ok(output) => Performed::Completed(output),
            Err(JobError { ending }) => match ending {
                Ending::Retry { error, delay } => Performed::Retry { error: text_of(&error), delay },
                Ending::Abort { error } => Performed::Aborted { error: text_of(&error) },
                Ending::Snooze { delay } => Performed::Snoozed { delay },
            },
        }
    }
}

/// What a performed handler did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Performance<T> {
    /// How it ended.
    pub ended: Performed<T>,
    /// The progress it reported, in order.
    pub progress: Vec<Progress>,
    /// The lines it logged, in order.
    pub log: Vec<String>,
    /// The last checkpoint it saved.
    pub checkpoint: Option<Payload>,
    /// The follow-ups it enqueued, whether or not its ending would let them come into being.
    pub follow_ups: Vec<Arc<JobSpec>>,
}

impl<T> Performance<T> {
    /// What a recorded run did that ended so.
    fn of(run: &Run, ended: Performed<T>) -> Self {
        let notes = run.recorded_notes();
        Performance {
            ended,
            progress: notes.iter().filter_map(|note| note.progress.clone()).collect(),
            log: notes.iter().flat_map(|note| note.log.iter().cloned()).collect(),
            checkpoint: notes.iter().rev().find_map(|note| note.checkpoint.clone()),
            follow_ups: run.follow_ups(),
        }
    }

    /// The output, of a handler that is meant to succeed.
    ///
    /// # Panics
    /// If it did not succeed; the message says what it did instead.
    #[track_caller]
    pub fn completed(self) -> T {
        match self.ended {
            Performed::Completed(output) => output,
            Performed::Retry { error, .. } => panic!("the handler failed and would be retried: {error}"),
            Performed::Aborted { error } => panic!("the handler aborted the job: {error}"),
            Performed::Snoozed { delay } => panic!("the handler snoozed for {delay:?}"),
        }
    }

    /// The follow-ups of one kind, read back.
    ///
    /// # Errors
    /// [`ClientError::Codec`] if one of them can't be read.
    pub fn follow_ups_of<J: Job>(&self) -> Result<Vec<J>, ClientError> {
        let specs = self.follow_ups.iter().filter(|spec| *spec.kind == *J::NAME);
        specs.map(|spec| Ok(codec::decode_job(&spec.payload, usize::MAX)?)).collect()
    }
}

/// A call of a handler with a fake context; made by [`perform`].
#[must_use = "the handler is called by run()"]
pub struct Perform<J, S> {
    client: Client,
    job: J,
    state: S,
    attempt: u32,
    crashes: u32,
    options: JobOptions,
    checkpoint: Option<Payload>,
    coalesced: u32,
    origin: Option<Arc<Origin>>,
    stopped: Option<StopReason>,
}

/// Calls a handler of `job` directly: nothing is enqueued, claimed or settled, and what it writes is recorded. The client
/// is only there for handlers that use [`Context::client`].
pub fn perform<J: Job>(client: &Client, job: J) -> Perform<J, ()> {
    Perform {
        client: client.clone(),
        job,
        state: (),
        attempt: 1,
        crashes: 0,
        options: J::options(),
        checkpoint: None,
        coalesced: 1,
        origin: None,
        stopped: None,
    }
}

impl<J: Job, S: Send + Sync + 'static> Perform<J, S> {
    /// Gives the handler a state.
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> Perform<J, T> {
        Perform {
            client: self.client,
            job: self.job,
            state,
            attempt: self.attempt,
            crashes: self.crashes,
            options: self.options,
            checkpoint: self.checkpoint,
            coalesced: self.coalesced,
            origin: self.origin,
            stopped: self.stopped,
        }
    }

    /// Lets the handler think that this is its n-th attempt.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt.max(1);
        self
    }

    /// Tells the handler that the job stands for so many enqueues.
    pub fn coalesced(mut self, enqueues: u32) -> Self {
        self.coalesced = enqueues;
        self
    }

    /// Tells the handler that the job failed before, and was a dead letter or still is one.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.origin = Some(Arc::new(origin));
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

    /// Calls the handler. A panic goes through to the test.
    ///
    /// # Errors
    /// [`ClientError`] if the job can't be written, or its names are none.
    pub async fn run<H: Handler<J, S>>(self, handler: H) -> Result<Performance<J::Output>, ClientError> {
        let claim = Claim {
            crashes: self.crashes,
            coalesced: self.coalesced,
            checkpoint: self.checkpoint,
            ..claim_of(&self.client, &self.job, self.options, self.origin, self.attempt)?
        };
        let run = started(claim, self.client, self.stopped);
        let context = Context::new(Arc::new(self.state), run.clone());
        let ended = handler.call(self.job, context).await.into();
        Ok(Performance::of(&run, ended))
    }
}

/// The claim that a worker would get of a job in its n-th attempt.
fn claim_of<J: Job>(
    client: &Client,
    job: &J,
    options: JobOptions,
    origin: Option<Arc<Origin>>,
    attempt: u32,
) -> Result<Claim, ClientError> {
    let payload = codec::encode_job(job, client.payload_bytes_max())?;
    let mut spec = JobSpec::new(QueueName::new(J::QUEUE)?, crate::job::JobKind::new(J::NAME)?, payload);
    spec.options = Arc::new(options);
    spec.origin = origin;
    let now = SystemClock.now();
    Ok(Claim {
        lease: Lease { id: spec.id, epoch: now.as_micros() },
        spec: Arc::new(spec),
        attempts: attempt - 1,
        crashes: 0,
        run: attempt,
        coalesced: 1,
        created_at: now,
        started_at: now,
        checkpoint: None,
        solo: false,
        batch: None,
    })
}

/// A run that is recorded, and told to stop if it is to find itself told so.
fn started(claim: Claim, client: Client, stopped: Option<StopReason>) -> Arc<Run> {
    let run = Run::recorded(claim, client);
    if let Some(reason) = stopped {
        run.stop(reason);
    }
    run
}

/// A job that was found by [`enqueued`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found<J> {
    /// The job itself, read back.
    pub job: J,
    /// Its record.
    pub record: JobRecord,
}

impl<J> Found<J> {
    /// Its id.
    pub fn id(&self) -> JobId {
        self.record.id()
    }
}

/// Every job of a type that is in its queue (live or kept) and whose payload matches `partial`: each field that
/// `partial` names is there with that value, nested objects likewise; `json!({})` matches all.
///
/// # Errors
/// [`ClientError`] if the storage fails or a payload can't be read.
pub async fn enqueued<J: Job>(client: &Client, partial: Value) -> Result<Vec<Found<J>>, ClientError> {
    let mut found = Vec::new();
    for queue in client.queues().await? {
        let filter = JobFilter { kind: Some(crate::job::JobKind::new(J::NAME)?), ..JobFilter::default() };
        for record in client.queue(&queue)?.all(filter).await? {
            let job: J = codec::decode_job(&record.spec.payload, usize::MAX)?;
            let whole: Value = as_json(&job)?;
            if contains(&whole, &partial) {
                found.push(Found { job, record });
            }
        }
    }
    found.sort_by_key(|found| found.record.id());
    Ok(found)
}

/// Runs everything that is due, and what that enqueues, and so on, until nothing is due any more.
///
/// # Errors
/// [`WorkerError`] if the worker can't start.
pub fn run_all<S: Send + Sync + 'static>(
    worker: WorkerBuilder<S>,
) -> impl Future<Output = Result<WorkerReport, WorkerError>> {
    worker.run_until_idle()
}

fn as_json<T: serde::Serialize>(value: &T) -> Result<Value, ClientError> {
    let payload = codec::encode("payload", value, CodecTag::Json, 1, usize::MAX)?;
    Ok(codec::decode("payload", &payload, usize::MAX)?)
}

fn contains(whole: &Value, partial: &Value) -> bool {
    match (whole, partial) {
        (Value::Object(whole), Value::Object(partial)) => {
            partial.iter().all(|(key, value)| whole.get(key).is_some_and(|found| contains(found, value)))
        }
        (whole, partial) => whole == partial,
    }
}

/// Reads a payload of any type; for looking at [`Performance::checkpoint`] and results.
///
/// # Errors
/// [`ClientError::Codec`] if it does not hold a `T`.
pub fn read<T: DeserializeOwned>(payload: &Payload) -> Result<T, ClientError> {
    Ok(codec::decode("payload", payload, usize::MAX)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_partial_match_names_only_what_it_cares_about() {
        let whole = json!({"to": "ada", "opts": {"loud": true, "n": 1}});
        assert!(contains(&whole, &json!({})));
        assert!(contains(&whole, &json!({"opts": {"n": 1}})));
        assert!(!contains(&whole, &json!({"opts": {"n": 2}})));
        assert!(!contains(&whole, &json!({"from": "bob"})));
    }
}
