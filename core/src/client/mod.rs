//! The app's side of the queue: put jobs in, see what became of them, change their course. A client is cheap to clone
//! and shares its storage handle and its numbering of calls with its clones.

mod change;
mod enqueue;
mod error;
mod events;
mod handle;
mod lanes;
mod limiter;
mod limits;
mod payload_key;
mod queue;
pub(crate) mod settings;

use std::fmt;
use std::sync::Arc;

use futures::Stream;

pub use enqueue::{Enqueue, EnqueueAll, FollowUp};
pub use error::ClientError;
pub use events::EventItem;
pub use handle::{JobHandle, WaitError};
pub use lanes::{LaneChange, LaneClassHandle, LaneHandle, QueueLanes};
pub use limiter::Limiter;
pub use limits::{LimitsChange, QueueLimits};
pub use queue::QueueHandle;

use crate::event::EventCursor;
use crate::job::{Job, JobId, JobRecord, NameError, PAYLOAD_BYTES_MAX_DEFAULT, Priority, QueueName, Start};
use crate::policy::explain::Explanation;
use crate::policy::rate::Rate;
use crate::storage::{Act, ActAnswer, ActRequest, Selection, Session, Storage};
use crate::worker::gate::Gate;

/// A handle on the queues of one storage.
#[derive(Clone)]
pub struct Client {
    storage: Arc<dyn Storage>,
    session: Session,
    gate: Arc<Gate>,
    payload_bytes_max: usize,
}

impl Client {
    /// A client of this storage.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Client { storage, session: Session::new(), gate: Arc::default(), payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT }
    }

    /// The same client with another limit on the size of payloads, results and checkpoints, in bytes. The default is
    /// 1 MiB. Workers read with the limit of the client that they were made from.
    #[must_use]
    pub fn with_payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// The largest payload, result or checkpoint, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    /// The storage itself, for what only the contract offers.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Enqueues a job; takes effect when awaited.
    pub fn enqueue<J: Job>(&self, job: J) -> Enqueue<J> {
        Enqueue::new(self.clone(), job)
    }

    /// Enqueues many jobs of one type in one storage call, all or none; takes effect when awaited.
    pub fn enqueue_all<J: Job>(&self, jobs: impl IntoIterator<Item = J>) -> EnqueueAll<J> {
        EnqueueAll::new(self.clone(), jobs.into_iter().collect())
    }

    /// A job's record, whatever queue it is in.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn job(&self, id: JobId) -> Result<Option<JobRecord>, ClientError> {
        Ok(self.storage.job(None, id).await?)
    }

    /// Why a job is not running now, or that it is, whatever queue it is in: as data, and in words.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn explain(&self, id: JobId) -> Result<Explanation, ClientError> {
        match self.job(id).await? {
            Some(record) => Ok(self.storage.explain(&record.spec.queue, id).await?),
            None => Ok(Explanation::unknown(id)),
        }
    }

    /// The handle of a job that is known by its id, whatever queue it is in; `None` if there is no such job.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn handle<J: Job>(&self, id: JobId) -> Result<Option<JobHandle<J>>, ClientError> {
        Ok(self.job(id).await?.map(|record| JobHandle::of(self, record.spec.queue.clone(), id)))
    }

    /// A queue, to look at and to operate.
    ///
    /// # Errors
    /// [`NameError`] if the name is not one.
    pub fn queue(&self, name: impl AsRef<str>) -> Result<QueueHandle, NameError> {
        Ok(QueueHandle::new(self.clone(), QueueName::new(name)?))
    }

    /// A limiter: how often something may be done, counted by the storage for everybody who shares it. There is nothing to
    /// set up; what is wrong with the name or the rate, the first question says.
    ///
    /// ```
    /// # use ferroq_core::client::{Client, ClientError};
    /// use ferroq_core::policy::rate::Rate;
    ///
    /// # async fn sign_up(client: &Client, address: &str) -> Result<(), ClientError> {
    /// let answer = client.limiter(format!("signup:{address}"), Rate::per_hour(20)).acquire(1).await?;
    /// if !answer.granted {
    ///     // Answer 429, with `answer.retry_after`.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn limiter(&self, name: impl AsRef<str>, rate: Rate) -> Limiter {
        Limiter::new(self.clone(), name.as_ref(), rate)
    }

    /// The names of all queues.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn queues(&self) -> Result<Vec<QueueName>, ClientError> {
        Ok(self.storage.queues().await?)
    }

    /// What happens in a queue after a cursor (zero: from the oldest entry kept), for ever. Store the cursor of the last
    /// event handled to go on from there after a restart.
    ///
    /// # Errors
    /// [`NameError`] if the name is not one. The stream itself answers storage errors and goes on when polled again.
    pub fn events(
        &self,
        queue: &str,
        after: EventCursor,
    ) -> Result<impl Stream<Item = Result<EventItem, ClientError>> + Send + use<>, NameError> {
        Ok(events::follow(self.clone(), QueueName::new(queue)?, after))
    }

    /// Cancels a job: at once if it is not running. A running one is asked: its
    /// [`Context::cancelled`](crate::context::Context::cancelled) fires, and unless the handler succeeds all the same,
    /// the job is Cancelled when the handler returns. A handler that never looks runs to its end.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn cancel(&self, id: JobId) -> Result<ActAnswer, ClientError> {
        self.act(id, Act::Cancel).await
    }

    /// Puts a job that has ended back in line; with `reset`, its attempts and crashes count from zero again.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn retry(&self, id: JobId, reset: bool) -> Result<ActAnswer, ClientError> {
        self.act(id, Act::Retry { reset }).await
    }

    /// Brings a Delayed job forward to now.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn promote(&self, id: JobId) -> Result<ActAnswer, ClientError> {
        self.act(id, Act::Promote).await
    }

    /// Gives a Waiting or Delayed job another time.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn reschedule(&self, id: JobId, start: Start) -> Result<ActAnswer, ClientError> {
        self.act(id, Act::Reschedule(start)).await
    }

    /// Changes a live job's priority.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn set_priority(&self, id: JobId, priority: impl Into<Priority>) -> Result<ActAnswer, ClientError> {
        self.act(id, Act::SetPriority(priority.into())).await
    }

    /// Removes a job that is not running.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn remove(&self, id: JobId) -> Result<ActAnswer, ClientError> {
        self.act(id, Act::Remove).await
    }

    /// Brings a dead letter that is not running back to the queue that it comes from, as a new job.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn redrive(&self, id: JobId) -> Result<ActAnswer, ClientError> {
        self.act(id, Act::Redrive).await
    }

    /// Finishes what is under way and closes the storage handle, for all clones of this client.
    pub async fn close(&self) {
        self.storage.close().await;
    }

    async fn act(&self, id: JobId, act: Act) -> Result<ActAnswer, ClientError> {
        match self.storage.job(None, id).await? {
            None => Ok(ActAnswer::NotFound),
            Some(record) => self.act_on(&record.spec.queue, id, act).await,
        }
    }

    pub(crate) async fn act_on(&self, queue: &QueueName, id: JobId, act: Act) -> Result<ActAnswer, ClientError> {
        let report = self
            .session
            .call(|call| {
                self.storage.act(ActRequest {
                    call: Some(call),
                    queue: queue.clone(),
                    on: Selection::Ids(vec![id]),
                    act: act.clone(),
                })
            })
            .await?;
        Ok(report.answers.first().map_or(ActAnswer::NotFound, |(_, answer)| *answer))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("backend", &self.storage.capabilities().backend).finish_non_exhaustive()
    }
}
