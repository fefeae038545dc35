//! A queue in an operator's hands: look, pause, empty, act on many jobs at once.

use std::time::Duration;

use super::{Client, ClientError};
use crate::event::EventCursor;
use crate::job::{JobId, JobRecord, JobState, NameError, Priority, QueueName, Start};
use crate::policy::retention::Retention;
use crate::storage::{
    Act, ActAnswer, ActReport, ActRequest, JobFilter, ListCursor, ListRequest, ObliterateAnswer, Page, QueueConfig,
    QueueCounts, Selection,
};

/// How many jobs one storage call looks at when something is done to many: small enough that no other caller waits long.
const STEP_ITEMS: usize = 500;

/// One queue; made by [`Client::queue`].
#[derive(Clone, Debug)]
pub struct QueueHandle {
    pub(super) client: Client,
    pub(super) name: QueueName,
}

impl QueueHandle {
    pub(crate) fn new(client: Client, name: QueueName) -> Self {
        QueueHandle { client, name }
    }

    /// Its name.
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// How many jobs it has, by state.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn counts(&self) -> Result<QueueCounts, ClientError> {
        Ok(self.client.storage().counts(&self.name).await?)
    }

    /// A page of its jobs, looking at up to `max_items` records; pass the page's `next` to go on.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn list(
        &self,
        filter: JobFilter,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<Page, ClientError> {
        let request = ListRequest { queue: self.name.clone(), filter, after, max_items };
        Ok(self.client.storage().list(request).await?)
    }

    /// All of its jobs that match, however many; for tests and small queues.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn all(&self, filter: JobFilter) -> Result<Vec<JobRecord>, ClientError> {
        let mut jobs = Vec::new();
        let mut after = None;
        loop {
            let page = self.list(filter.clone(), after, STEP_ITEMS).await?;
            jobs.extend(page.jobs);
            after = page.next;
            if after.is_none() {
                return Ok(jobs);
            }
        }
    }

    /// Its settings.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn config(&self) -> Result<QueueConfig, ClientError> {
        Ok(self.client.storage().config(&self.name).await?)
    }

    /// Stores all of its settings, for every process, whatever they were; to change some of them, see
    /// [`change`](Self::change).
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn configure(&self, config: QueueConfig) -> Result<(), ClientError> {
        Ok(self.client.storage().configure(&self.name, config).await?)
    }

    /// Names the queue that gets a copy of each job that fails for good here, for every process; or none. The other
    /// settings stay as they are.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if that is no name, [`ClientError::Storage`] also if it is this very queue.
    pub async fn dead_letter(&self, queue: Option<&str>) -> Result<(), ClientError> {
        let invalid = |error: NameError| ClientError::Invalid { problems: vec![error.to_string()] };
        let queue = queue.map(QueueName::new).transpose().map_err(invalid)?;
        self.change(|config| config.dead_letter.clone_from(&queue)).await.map(drop)
    }

    /// Sets how long and how many records of ended jobs are kept, for every process. The other settings stay as they are.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn retention(&self, retention: Retention) -> Result<(), ClientError> {
        self.change(|config| config.retention = retention).await.map(drop)
    }

    /// Stops claims from it, in every process. Jobs that run go on, jobs can be enqueued.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn pause(&self) -> Result<bool, ClientError> {
        Ok(self.client.storage().set_paused(&self.name, true).await?)
    }

    /// Lets claims go on.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn resume(&self) -> Result<bool, ClientError> {
        Ok(self.client.storage().set_paused(&self.name, false).await?)
    }

    /// Does something to every job that matches, in steps, and answers once for each. Jobs that come or change meanwhile may
    /// be missed. A filter that names no states means those that the act is for.
    ///
    /// # Errors
    /// [`ClientError::Storage`]; steps before it have taken effect. Every act can be repeated.
    pub async fn act(&self, mut filter: JobFilter, act: Act) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        if filter.states.is_empty() {
            filter.states = states_for(&act).to_vec();
        }
        match act {
            // These take jobs out of the walk's way.
            Act::Cancel | Act::Promote | Act::Remove | Act::Redrive => self.act_walking(filter, act).await,
            // All will start at one instant, however long the steps take.
            Act::Reschedule(Start::After(delay)) => {
                let at = self.client.storage().now(&self.name).await?.after(delay);
                self.act_listed(filter, Act::Reschedule(Start::At(at))).await
            }
            _ => self.act_listed(filter, act).await,
        }
    }

    /// Acts on what matches while walking.
    async fn act_walking(&self, filter: JobFilter, act: Act) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        let mut answers = Vec::new();
        let mut after = None;
        loop {
            let on = Selection::Filter { filter: filter.clone(), after, max_items: STEP_ITEMS };
            let report = self.act_step(on, &act).await?;
            answers.extend(report.answers);
            after = report.next;
            if after.is_none() {
                return Ok(answers);
            }
        }
    }

    /// Walks first and acts then: for acts that move a job to a place that the walk has yet to come to, so that it would
    /// meet the job again, and again.
    async fn act_listed(&self, filter: JobFilter, act: Act) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let page = self.list(filter.clone(), after, STEP_ITEMS).await?;
            ids.extend(page.jobs.iter().map(JobRecord::id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut answers = Vec::with_capacity(ids.len());
        for step in ids.chunks(STEP_ITEMS) {
            answers.extend(self.act_step(Selection::Ids(step.to_vec()), &act).await?.answers);
        }
        Ok(answers)
    }

    async fn act_step(&self, on: Selection, act: &Act) -> Result<ActReport, ClientError> {
        let acted = self.client.session().call(|call| {
            self.client.storage().act(ActRequest {
                call: Some(call),
                queue: self.name.clone(),
                on: on.clone(),
                act: act.clone(),
            })
        });
        Ok(acted.await?)
    }

    /// Cancels every job that matches. Running ones are asked to stop; see [`Client::cancel`].
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn cancel(&self, filter: JobFilter) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        self.act(filter, Act::Cancel).await
    }

    /// Puts every job that matches and has ended back in line.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn retry(&self, filter: JobFilter, reset: bool) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        self.act(filter, Act::Retry { reset }).await
    }

    /// Brings every Delayed job that matches forward to now.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn promote(&self, filter: JobFilter) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        self.act(filter, Act::Promote).await
    }

    /// Gives every Waiting or Delayed job that matches another time.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn reschedule(&self, filter: JobFilter, start: Start) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        self.act(filter, Act::Reschedule(start)).await
    }

    /// Changes the priority of every live job that matches.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn set_priority(
        &self,
        filter: JobFilter,
        priority: Priority,
    ) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        self.act(filter, Act::SetPriority(priority)).await
    }

    /// Removes the record of every job that matches and is not Active.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn remove(&self, filter: JobFilter) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        self.act(filter, Act::Remove).await
    }

    /// Brings every dead letter that matches, and is not Active, back to the queue that it comes from, as a new job with full
    /// budgets. Jobs that are no dead letters answer [`ActAnswer::Refused`].
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn redrive(&self, filter: JobFilter) -> Result<Vec<(JobId, ActAnswer)>, ClientError> {
        self.act(filter, Act::Redrive).await
    }

    /// Removes everything that waits: Waiting, Delayed and Blocked jobs. Active ones go on. Answers how many went.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn drain(&self) -> Result<usize, ClientError> {
        let waits = JobFilter::states([JobState::Waiting, JobState::Delayed, JobState::Blocked]);
        Ok(removed(&self.act(waits, Act::Remove).await?))
    }

    /// Removes records of jobs that ended in `state` longer than `age` ago. Answers how many went.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if the state is not one that a job ends in; as [`act`](Self::act).
    pub async fn clean(&self, state: JobState, age: Duration) -> Result<usize, ClientError> {
        if !state.is_terminal() {
            let problem = format!("clean removes jobs that have ended, and {state} is not an end; use drain or remove");
            return Err(ClientError::Invalid { problems: vec![problem] });
        }
        let filter = JobFilter { ended_before: Some(age), ..JobFilter::states([state]) };
        Ok(removed(&self.act(filter, Act::Remove).await?))
    }

    /// Removes the queue with all that belongs to it, in steps. Without `force` it refuses while a job is Active; a worker
    /// that claims one between two steps stops it half way, so pause the queue first.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if jobs are Active and it was not forced; [`ClientError::Storage`]: call again to go on.
    pub async fn obliterate(&self, force: bool) -> Result<(), ClientError> {
        loop {
            match self.client.storage().obliterate(&self.name, force, STEP_ITEMS).await? {
                ObliterateAnswer::Done => return Ok(()),
                ObliterateAnswer::More(_) => {}
                ObliterateAnswer::Active(jobs) => {
                    let problem = format!("{jobs} jobs of {:?} are active; stop their workers or use force", self.name);
                    return Err(ClientError::Invalid { problems: vec![problem] });
                }
            }
        }
    }

    /// The cursor behind the last event: to read only what happens from now on.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn last_event(&self) -> Result<EventCursor, ClientError> {
        Ok(self.client.storage().last_event(&self.name).await?)
    }
}

/// The states that an act is for. Without this, a walk that cancels would meet what it cancelled once more.
fn states_for(act: &Act) -> &'static [JobState] {
    use JobState::*;
    match act {
        Act::Cancel | Act::SetPriority(_) => &[Waiting, Delayed, Blocked, Active],
        Act::Retry { .. } => &[Completed, Failed, Cancelled],
        Act::Promote => &[Delayed],
        Act::Reschedule(_) => &[Waiting, Delayed],
        Act::Remove | Act::Redrive => &[Waiting, Delayed, Blocked, Completed, Failed, Cancelled],
    }
}

fn removed(answers: &[(JobId, ActAnswer)]) -> usize {
    answers.iter().filter(|(_, answer)| matches!(answer, ActAnswer::Done(_))).count()
}
