//! The ways into a queue: one job, many jobs, or a follow-up of the job that runs. Each is a builder that takes effect
//! when awaited.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::settings::{Settings, setters};
use super::{Client, ClientError, JobHandle};
use crate::codec::CodecError;
use crate::context::Run;
use crate::job::{DedupKey, Job, JobId, JobSpec, LaneKey, QueueName};
use crate::policy::dedup::{Dedup, DedupMode, problem};
use crate::storage::{EnqueueAnswer, EnqueueRequest, StorageError};

/// Enqueues one job when awaited; made by [`Client::enqueue`].
#[must_use = "a job is enqueued when this is awaited"]
pub struct Enqueue<J> {
    client: Client,
    job: J,
    id: JobId,
    settings: Settings,
}

impl<J: Job> Enqueue<J> {
    pub(crate) fn new(client: Client, job: J) -> Self {
        Enqueue { client, job, id: JobId::new(), settings: Settings::of::<J>() }
    }

    setters!();

    /// Uses this id instead of a new one, so that the same enqueue can be repeated: the second inserts nothing.
    pub fn id(mut self, id: JobId) -> Self {
        self.id = id;
        self
    }

    /// Everything checked and encoded, to hand to a storage's own method (such as one that joins an app's transaction).
    ///
    /// # Errors
    /// [`ClientError`] if settings or payload are refused.
    pub fn into_spec(self) -> Result<(Client, Arc<JobSpec>), ClientError> {
        let checked = self.settings.check::<J>(None)?;
        let spec = checked.spec(self.id, &self.job, self.client.payload_bytes_max())?;
        Ok((self.client, spec))
    }
}

impl<J: Job> IntoFuture for Enqueue<J> {
    type Output = Result<JobHandle<J>, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (client, spec) = self.into_spec()?;
            let answers = client.enqueue_specs(&spec.queue, std::slice::from_ref(&spec)).await?;
            let answer = answers.first().copied().unwrap_or(EnqueueAnswer::Inserted);
            Ok(JobHandle::from_answer(client, &spec, answer))
        })
    }
}

/// Enqueues many jobs of one type when awaited, all or none; made by [`Client::enqueue_all`].
#[must_use = "jobs are enqueued when this is awaited"]
pub struct EnqueueAll<J> {
    client: Client,
    jobs: Vec<J>,
    settings: Settings,
    keys: Option<Keys>,
    lanes: Option<Vec<String>>,
}

/// Each job's own dedup key, in their order.
struct Keys {
    keys: Vec<String>,
    mode: DedupMode,
}

impl<J: Job> EnqueueAll<J> {
    pub(crate) fn new(client: Client, jobs: Vec<J>) -> Self {
        EnqueueAll { client, jobs, settings: Settings::of::<J>(), keys: None, lanes: None }
    }

    setters!();

    /// Gives each job a dedup key of its own, in place of one that is made from its payload.
    /// ([`dedup`](Self::dedup) gives all the same one, which is refused for more
    /// than one job.)
    pub fn dedup_by<K: Into<String>>(mut self, mut key: impl FnMut(&J) -> K, mode: DedupMode) -> Self {
        self.keys = Some(Keys { keys: self.jobs.iter().map(|job| key(job).into()).collect(), mode });
        self
    }

    /// Puts each job in a lane of its own; [`lane`](Self::lane) puts all of them in one.
    pub fn lane_by<K: Into<String>>(mut self, mut lane: impl FnMut(&J) -> K) -> Self {
        self.lanes = Some(self.jobs.iter().map(|job| lane(job).into()).collect());
        self
    }
}

impl<J: Job> IntoFuture for EnqueueAll<J> {
    type Output = Result<Vec<JobHandle<J>>, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let EnqueueAll { client, jobs, settings, keys, lanes } = self;
            if jobs.len() > 1 && settings.has_dedup() {
                let problem = "dedup(..) would give every job the same key, so that only the first is inserted; use \
                    dedup_by(..) to give each its own";
                return Err(ClientError::Invalid { problems: vec![problem.to_owned()] });
            }
            let mut checked = settings.check::<J>(keys.as_ref().map(|keys| keys.mode))?;
            let bytes_max = client.payload_bytes_max();
            let mut specs = Vec::with_capacity(jobs.len());
            for (place, job) in jobs.iter().enumerate() {
                if let Some(Keys { keys, mode }) = &keys {
                    checked.set_key(Dedup { key: DedupKey::new(&keys[place])?, mode: *mode });
                }
                if let Some(lanes) = &lanes {
                    checked.set_lane(LaneKey::new(&lanes[place])?);
                }
                specs.push(checked.spec(JobId::new(), job, bytes_max)?);
            }
            let answers = client.enqueue_specs(&checked.queue, &specs).await?;
            let handles =
                specs.iter().zip(answers).map(|(spec, answer)| JobHandle::from_answer(client.clone(), spec, answer));
            Ok(handles.collect())
        })
    }
}

/// Adds a follow-up to the running job when awaited; made by [`Context::enqueue`](crate::context::Context::enqueue).
#[must_use = "a follow-up is added when this is awaited"]
pub struct FollowUp<J> {
    run: Arc<Run>,
    job: J,
    settings: Settings,
}

impl<J: Job> FollowUp<J> {
    pub(crate) fn new(run: Arc<Run>, job: J) -> Self {
        let mut settings = Settings::of::<J>();
        let parent = &run.claim.spec.options;
        settings.options.correlation_id.clone_from(&parent.correlation_id);
        settings.options.trace_context.clone_from(&parent.trace_context);
        FollowUp { run, job, settings }
    }

    setters!();
}

impl<J: Job> IntoFuture for FollowUp<J> {
    type Output = Result<JobId, ClientError>;
    type IntoFuture = std::future::Ready<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let FollowUp { run, job, settings } = self;
        let id = JobId::new();
        let spec = settings.check::<J>(None).and_then(|checked| checked.spec(id, &job, run.client.payload_bytes_max()));
        std::future::ready(spec.map(|spec| {
            run.add_follow_up(spec);
            id
        }))
    }
}

impl Client {
    /// Enqueues specifications that are ready, all of one queue, in one storage call; repeated while its outcome is
    /// unknown.
    pub(crate) async fn enqueue_specs(
        &self,
        queue: &QueueName,
        specs: &[Arc<JobSpec>],
    ) -> Result<Vec<EnqueueAnswer>, StorageError> {
        self.session()
            .call(|call| {
                self.storage().enqueue(EnqueueRequest { call: Some(call), queue: queue.clone(), jobs: specs.to_vec() })
            })
            .await
    }

    /// Enqueues jobs of any kinds and queues, given as specifications: one atomic call per queue, in the order in which
    /// the queues first appear. The answers are in the order of the jobs.
    ///
    /// # Errors
    /// [`ClientError::Codec`] or [`ClientError::Invalid`] if a specification is refused; then none is enqueued.
    /// [`ClientError::Storage`] from the first queue that failed; jobs of queues before it are enqueued. Repeating the
    /// same specifications is safe, because their ids are the same.
    pub async fn enqueue_batch(&self, specs: Vec<Arc<JobSpec>>) -> Result<Vec<EnqueueAnswer>, ClientError> {
        for spec in &specs {
            check_spec(spec, self.payload_bytes_max())?;
        }
        let mut order: Vec<QueueName> = Vec::new();
        let mut by_queue: HashMap<QueueName, Vec<usize>> = HashMap::new();
        for (place, spec) in specs.iter().enumerate() {
            by_queue
                .entry(spec.queue.clone())
                .or_insert_with(|| {
                    order.push(spec.queue.clone());
                    Vec::new()
                })
                .push(place);
        }
        let mut answers = vec![EnqueueAnswer::Inserted; specs.len()];
        for queue in order {
            let places = by_queue.remove(&queue).unwrap_or_default();
            let batch: Vec<_> = places.iter().map(|&place| specs[place].clone()).collect();
            for (place, answer) in places.into_iter().zip(self.enqueue_specs(&queue, &batch).await?) {
                answers[place] = answer;
            }
        }
        Ok(answers)
    }
}

/// Checks a specification that may have been made by hand.
fn check_spec(spec: &JobSpec, bytes_max: usize) -> Result<(), ClientError> {
    let bytes = spec.payload.len();
    if bytes > bytes_max {
        return Err(CodecError::TooLarge { what: "payload", bytes, bytes_max }.into());
    }
    let mut problems = spec.options.problems();
    problems.extend(spec.dedup.as_ref().and_then(|dedup| problem(dedup.mode, spec.start)));
    if problems.is_empty() { Ok(()) } else { Err(ClientError::Invalid { problems }) }
}

impl<J> std::fmt::Debug for Enqueue<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enqueue").field("id", &self.id).field("job", &PhantomData::<J>).finish_non_exhaustive()
    }
}
