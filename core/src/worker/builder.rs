//! How a worker is put together: state, queues, handlers, and a few figures. Everything is checked when it is started,
//! and everything that is wrong is said at once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tracing::warn;

use super::batch::Batched;
use super::run::{ErasedHandler, Shared, Typed};
use super::shutdown::{self, Phases};
use super::turn::Turn;
use super::{RunningWorker, WorkerError, WorkerReport};
use crate::batch::BatchHandler;
use crate::client::Client;
use crate::handler::Handler;
use crate::job::{Job, JobKind, QueueName, WorkerId};

/// The figures of a worker.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) concurrency: usize,
    pub(super) term: Duration,
    pub(super) grace: Duration,
    pub(super) poll: Duration,
    pub(super) claim_bytes_max: usize,
}

/// A worker under construction; made by [`Worker::new`](super::Worker::new).
#[must_use = "a worker works when one of its run methods is awaited"]
pub struct WorkerBuilder<S = ()> {
    client: Client,
    state: Arc<S>,
    queues: Vec<QueueName>,
    handlers: HashMap<JobKind, Arc<dyn ErasedHandler<S>>>,
    home_queues: Vec<QueueName>,
    figures: Figures,
    id: Option<WorkerId>,
    seed: Option<u64>,
    problems: Vec<String>,
}

impl WorkerBuilder<()> {
    pub(super) fn new(client: &Client) -> Self {
        WorkerBuilder {
            client: client.clone(),
            state: Arc::new(()),
            queues: Vec::new(),
            handlers: HashMap::new(),
            home_queues: Vec::new(),
            figures: Figures {
                concurrency: 10,
                term: Duration::from_secs(30),
                grace: Duration::from_secs(30),
                poll: Duration::from_secs(1),
                claim_bytes_max: 16 << 20,
            },
            id: None,
            seed: None,
            problems: Vec::new(),
        }
    }

    /// Gives the handlers a state: what they need besides the job. Must come before the first `handle`.
    pub fn state<S: Send + Sync + 'static>(self, state: S) -> WorkerBuilder<S> {
        self.shared_state(Arc::new(state))
    }

    /// Gives the handlers a state that is shared already. Must come before the first `handle`.
    pub fn shared_state<S: Send + Sync + 'static>(mut self, state: Arc<S>) -> WorkerBuilder<S> {
        if !self.handlers.is_empty() {
            self.problems.push("state(..) comes after handle(..); give the state first".to_owned());
        }
        WorkerBuilder {
            client: self.client,
            state,
            queues: self.queues,
            handlers: HashMap::new(),
            home_queues: self.home_queues,
            figures: self.figures,
            id: self.id,
            seed: self.seed,
            problems: self.problems,
        }
    }
}

impl<S: Send + Sync + 'static> WorkerBuilder<S> {
    /// Works on this queue. May be said several times; without it, the worker works on the queues that its handlers'
    /// jobs name.
    pub fn queue(mut self, name: impl AsRef<str>) -> Self {
        match QueueName::new(name) {
            Ok(name) if self.queues.contains(&name) => {}
            Ok(name) => self.queues.push(name),
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }

    /// Runs at most this many jobs at once, over all of its queues. 10 by default.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.figures.concurrency = jobs;
        self
    }

    /// How long a lease holds when it is not renewed: how soon another worker takes over after a crash. 30 seconds by
    /// default, 10 milliseconds at least; it is renewed three times as often.
    pub fn lease(mut self, term: Duration) -> Self {
        self.figures.term = term;
        self
    }

    /// How long running jobs may take to end at shutdown. 30 seconds by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.figures.grace = grace;
        self
    }

    /// How often to look for work when no hint comes. 1 second by default; storages whose hints are reliable are not
    /// polled.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.figures.poll = interval;
        self
    }

    /// How many bytes of payload to claim at once, at most. 16 MiB by default.
    pub fn claim_bytes_max(mut self, bytes: usize) -> Self {
        self.figures.claim_bytes_max = bytes;
        self
    }

    /// The worker's name on the jobs that it runs. By default the host's process id and a random part.
    pub fn id(mut self, name: impl AsRef<str>) -> Self {
        match WorkerId::new(name) {
            Ok(id) => self.id = Some(id),
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }

    /// Seeds the source of jitter, so that a test repeats.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Adds the handler of one kind of job: an `async fn(J, Context<S>) -> JobResult<J::Output>`.
    pub fn handle<J: Job, H: Handler<J, S>>(self, handler: H) -> Self {
        self.handle_with::<J>(Arc::new(Typed::<J, H>::new(handler)))
    }

    /// Adds the handler of one kind of job that runs in batches: an
    /// `async fn(Vec<BatchJob<J>>, Context<S>) -> JobResult<O>`, where `O` is `()` or a `Vec<JobResult>`. The gate of its
    /// lane says which jobs run together; see [`LaneChange::batch`](crate::client::LaneChange::batch). A job that is
    /// handed out alone is a batch of one. A batch takes one place of the worker's concurrency, and its payloads are in
    /// memory together.
    pub fn handle_batch<J: Job, H: BatchHandler<J, S>>(self, handler: H) -> Self {
        self.handle_with::<J>(Arc::new(Batched::<J, H>::new(handler)))
    }

    fn handle_with<J: Job>(mut self, handler: Arc<dyn ErasedHandler<S>>) -> Self {
        match JobKind::new(J::NAME) {
            Err(error) => self.problems.push(error.to_string()),
            Ok(kind) => {
                if self.handlers.insert(kind, handler).is_some() {
                    self.problems.push(format!("there are two handlers for the job {:?}", J::NAME));
                }
            }
        }
        match QueueName::new(J::QUEUE) {
            Err(error) => self.problems.push(error.to_string()),
            Ok(queue) if self.home_queues.contains(&queue) => {}
            Ok(queue) => self.home_queues.push(queue),
        }
        self
    }

    /// Works until Ctrl-C or SIGTERM, then shuts down within the grace period; a second signal ends at once.
    ///
    /// # Errors
    /// [`WorkerError`] if it can't start. Once it works, storage failures don't end it.
    pub async fn run_until_signal(self) -> Result<WorkerReport, WorkerError> {
        let grace = self.figures.grace;
        let (turn, phases) = self.build().await?;
        let signals = tokio::spawn(shutdown::on_signals(phases, grace));
        let report = as_task(turn.run()).await;
        signals.abort();
        Ok(report)
    }

    /// Works until `end` is ready, then shuts down within the grace period. Let `end` end it: a worker whose future is
    /// dropped gives nothing back, and its running jobs count a crash when their leases run out.
    ///
    /// # Errors
    /// As [`run_until_signal`](Self::run_until_signal).
    pub async fn run_until(self, end: impl Future<Output = ()> + Send) -> Result<WorkerReport, WorkerError> {
        let grace = self.figures.grace;
        let (turn, phases) = self.build().await?;
        let work = as_task(turn.run());
        tokio::pin!(work, end);
        tokio::select! {
            report = &mut work => return Ok(report),
            () = &mut end => {}
        }
        let (report, ()) = tokio::join!(work, shutdown::within(&phases, grace));
        Ok(report)
    }

    /// Works until nothing is due: no job of its queues is Active, and none is Waiting that may start now. Delayed jobs stay,
    /// and so do those that are shelved, paused, or wait for a limit or a batch.
    ///
    /// # Errors
    /// As [`run_until_signal`](Self::run_until_signal).
    pub async fn run_until_idle(self) -> Result<WorkerReport, WorkerError> {
        let (turn, _phases) = self.build().await?;
        Ok(as_task(turn.until_idle().run()).await)
    }

    /// Works as a task of the current runtime until it is told to stop.
    ///
    /// # Errors
    /// As [`run_until_signal`](Self::run_until_signal).
    pub async fn start(self) -> Result<RunningWorker, WorkerError> {
        let grace = self.figures.grace;
        let (turn, phases) = self.build().await?;
        let task = tokio::spawn(turn.run());
        Ok(RunningWorker { phases, grace, task: Some(task) })
    }

    async fn build(mut self) -> Result<(Turn<S>, Phases), WorkerError> {
        if self.handlers.is_empty() {
            self.problems.push("there is no handler; add one with handle(..)".to_owned());
        }
        if self.figures.concurrency == 0 {
            self.problems.push("concurrency is 0; at least 1 is needed to work".to_owned());
        }
        if self.figures.term < Duration::from_millis(10) {
            self.problems.push(format!("a lease of {:?} is too short; give 10 ms or more", self.figures.term));
        }
        if self.figures.poll.is_zero() {
            self.problems.push("poll_interval is zero; that would ask the storage without pause".to_owned());
        }
        if !self.problems.is_empty() {
            return Err(WorkerError::Invalid { problems: self.problems });
        }
        let queues = if self.queues.is_empty() {
            self.home_queues
        } else {
            for queue in self.home_queues.iter().filter(|queue| !self.queues.contains(queue)) {
                warn!(%queue, "there is a handler for jobs whose own queue this worker does not work on");
            }
            self.queues
        };
        let id = self.id.unwrap_or_else(default_id);
        let random = self.seed.map_or_else(rand::make_rng::<StdRng>, StdRng::seed_from_u64);
        let (ended, ends) = tokio::sync::mpsc::unbounded_channel();
        let shared = Arc::new(Shared { state: self.state, handlers: self.handlers, ended, random: Mutex::new(random) });
        let phases = Phases::default();
        let turn = Turn::start(self.client, shared, ends, queues, id, self.figures, phases.clone()).await?;
        Ok((turn, phases))
    }
}

/// Runs the loop as a task, which ends when this future is dropped. The caller's future is often the one that the runtime
/// blocks on, outside its own threads: there each hand-over to and from the connection and the handlers would wake
/// another thread, which at concurrency 1 takes longer than the work itself.
async fn as_task(work: impl Future<Output = WorkerReport> + Send + 'static) -> WorkerReport {
    let mut task = JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is being torn down around it.
        Some(Err(_)) | None => WorkerReport::default(),
        Some(Ok(report)) => report,
    }
}

/// Unique per worker, and tells an operator which process it was.
fn default_id() -> WorkerId {
    let random = uuid::Uuid::now_v7().simple().to_string();
    let name = format!("pid-{}-{}", std::process::id(), &random[24..]);
    // Letters, digits and dashes only, so the fallback (a checked constant) is never needed.
    WorkerId::new(name).or_else(|_| WorkerId::new("worker")).unwrap_or_else(|_| unreachable!("a plain name is a name"))
}
