//! The role of the operator: acts on jobs one by one or by filter, and on queues as a whole.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{CallId, EVENT_ENTRIES_KEPT_DEFAULT, ErrorCode, ListCursor, StorageError};
use crate::clock::Timestamp;
use crate::job::{JobId, JobKind, JobRecord, JobState, LaneKey, Priority, QueueName, Start, Tag};
use crate::policy::lanes::{LanePolicy, LaneRules, StartLimits};
use crate::policy::retention::Retention;

/// A queue's settings: stored with the queue, shared by every process, changed at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Whether claims are stopped. Nothing else stops.
    pub paused: bool,
    /// How long and how many records of ended jobs are kept.
    pub retention: Retention,
    /// How many entries of the event log are kept, at least.
    pub event_entries_kept: u64,
    /// The queue that gets a copy of each job that fails for good here; not this queue itself. Jobs whose stored record
    /// can't be read are not copied.
    pub dead_letter: Option<QueueName>,
    /// What may start of the queue as a whole, over all processes.
    pub limits: StartLimits,
    /// What its lanes may do.
    pub lanes: LaneRules,
}

impl QueueConfig {
    /// Whether these can be the settings of `queue`; storages ask before they store them.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong.
    pub fn check(&self, queue: &QueueName) -> Result<(), StorageError> {
        if self.dead_letter.as_ref() == Some(queue) {
            let message = format!("the queue {queue} can't be its own dead-letter queue");
            return Err(StorageError::new(ErrorCode::Invalid, message));
        }
        let mut problems = self.limits.problems("the queue");
        problems.extend(self.lanes.problems());
        if problems.is_empty() { Ok(()) } else { Err(StorageError::new(ErrorCode::Invalid, problems.join("; "))) }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            paused: false,
            retention: Retention::default(),
            event_entries_kept: EVENT_ENTRIES_KEPT_DEFAULT,
            dead_letter: None,
            limits: StartLimits::default(),
            lanes: LaneRules::default(),
        }
    }
}

/// Which jobs: those that match every part that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobFilter {
    /// In one of these states; empty: in any.
    pub states: Vec<JobState>,
    /// Of this kind.
    pub kind: Option<JobKind>,
    /// In this lane.
    pub lane: Option<LaneKey>,
    /// With this tag.
    pub tag: Option<Tag>,
    /// Ended longer ago than this.
    pub ended_before: Option<Duration>,
}

impl JobFilter {
    /// Every job in one of these states.
    pub fn states(states: impl IntoIterator<Item = JobState>) -> Self {
        JobFilter { states: states.into_iter().collect(), ..JobFilter::default() }
    }

    /// Whether jobs in this state can match.
    pub fn allows(&self, state: JobState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether this record matches at `now`.
    pub fn matches(&self, record: &JobRecord, now: Timestamp) -> bool {
        self.allows(record.state)
            && self.kind.as_ref().is_none_or(|kind| *kind == record.spec.kind)
            && self.lane.as_ref().is_none_or(|lane| *lane == record.spec.lane)
            && self.tag.as_ref().is_none_or(|tag| record.spec.options.tags.contains(tag))
            && self.ended_before.is_none_or(|age| record.finished_at.is_some_and(|at| now.since(at) > age))
    }
}

/// Which jobs to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These, in this order.
    Ids(Vec<JobId>),
    /// Those that match, in the order of [`Inspect::list`](super::Inspect::list), in steps.
    Filter {
        /// Which.
        filter: JobFilter,
        /// Where the last step ended; `None` for the first.
        after: Option<ListCursor>,
        /// How many records to look at in this step, at most.
        max_items: usize,
    },
}

/// What to do with a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Act {
    /// Cancel: at once if it is not Active, else by asking its worker.
    Cancel,
    /// Put a job that has ended back in line.
    Retry {
        /// Whether its attempts and crashes count from zero again.
        reset: bool,
    },
    /// Bring a Delayed job forward to now.
    Promote,
    /// Give a Waiting or Delayed job another time.
    Reschedule(Start),
    /// Change the priority of a job that has not ended. An Active one has it from its next run on.
    SetPriority(Priority),
    /// Remove the record of a job that is not Active.
    Remove,
    /// Bring a dead letter that is not Active back to the queue that it comes from, as a new job. Refused to a job that is
    /// no dead letter, or is on that queue already.
    Redrive,
}

/// What became of one job of an [`ActRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActAnswer {
    /// Done; the state that the job is in now (or was in, if it was removed).
    Done(JobState),
    /// Its worker was asked; it is Active until that one answers or its lease runs out.
    Requested,
    /// It is so already; nothing changed.
    Unchanged(JobState),
    /// Not possible in this state; nothing changed.
    Refused(JobState),
    /// Its dedup key is held by this job now; nothing changed.
    DedupHeld(JobId),
    /// There is no such job.
    NotFound,
}

/// Something to do with some jobs of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActRequest {
    /// Set to be able to repeat the call.
    pub call: Option<CallId>,
    /// The queue.
    pub queue: QueueName,
    /// Which jobs.
    pub on: Selection,
    /// What to do.
    pub act: Act,
}

/// The answer to an [`ActRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActReport {
    /// One answer per job acted on: per id asked for, or per record that matched.
    pub answers: Vec<(JobId, ActAnswer)>,
    /// Where the next step goes on; `None` if the walk is over, or was by ids.
    pub next: Option<ListCursor>,
}

/// What became of a change of settings that was made from what they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconfigured<T> {
    /// The new ones are stored.
    Stored,
    /// Somebody else has changed them since; nothing happened. They are these now.
    Conflict(T),
}

/// What a step of an obliteration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObliterateAnswer {
    /// Nothing is left of the queue.
    Done,
    /// This many jobs went; call again.
    More(usize),
    /// Nothing happened: this many jobs are Active, and it was not forced.
    Active(u64),
}

/// Acts on jobs and queues.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Does something with some jobs.
    ///
    /// # Guarantees
    /// One atomic unit per call, what it enqueues on other queues included. Each job gets an answer of its own; none is
    /// touched that the answer does not name.
    /// Every way out of a live state frees the job's dedup key as its mode says. Promote, reschedule to now and retry
    /// keep the job's seq.
    ///
    /// # Repeating
    /// With the same call id: the same report. Without: every act is idempotent, and what is so already answers
    /// [`ActAnswer::Unchanged`] (removed, redriven: [`ActAnswer::NotFound`]). What counts as "so already": cancel on a Cancelled
    /// job or one already asked (that answers [`ActAnswer::Requested`] again); promote on a Waiting one; retry on a
    /// Waiting, Delayed or Active one (counters are left alone); set_priority to the priority that it has. Reschedule
    /// always sets the time.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](super::Jobs::enqueue).
    ///
    /// # Backends
    /// The same on all.
    async fn act(&self, request: ActRequest) -> Result<ActReport, StorageError>;

    /// A queue's settings; the defaults if none were stored.
    ///
    /// # Guarantees
    /// What was last stored by anyone.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    async fn config(&self, queue: &QueueName) -> Result<QueueConfig, StorageError>;

    /// Stores a queue's settings, and with them the queue's existence.
    ///
    /// # Guarantees
    /// Every process sees them at its next call. Retention applies to jobs that end from now on, counts at once; a
    /// dead-letter queue to jobs that fail from now on; limits and the rules of lanes to what starts from now on.
    ///
    /// # Repeating
    /// The same after a repeat.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](super::Jobs::enqueue); `Invalid` as [`QueueConfig::check`] says.
    ///
    /// # Backends
    /// The same on all.
    async fn configure(&self, queue: &QueueName, config: QueueConfig) -> Result<(), StorageError>;

    /// Stores a queue's settings as [`configure`](Self::configure) does, if they still are what the caller made the new ones
    /// from: so that two who change different things at once don't undo each other.
    ///
    /// # Guarantees
    /// One atomic unit. If the settings (the defaults, if none were stored) are neither `from` nor `to`, the answer is
    /// [`Conflict`](Reconfigured::Conflict) and nothing changes.
    ///
    /// # Repeating
    /// Stored again, unless somebody else has changed them since; that is a conflict.
    ///
    /// # Errors
    /// As for `configure`.
    ///
    /// # Backends
    /// The same on all.
    async fn reconfigure(
        &self,
        queue: &QueueName,
        from: QueueConfig,
        to: QueueConfig,
    ) -> Result<Reconfigured<QueueConfig>, StorageError>;

    /// Stores one lane's own policy, or removes it; and with it the queue's existence.
    ///
    /// # Guarantees
    /// Every process sees it at its next claim. It stays when the lane has no jobs. Jobs that are Active stay so.
    ///
    /// # Repeating
    /// The same after a repeat.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](super::Jobs::enqueue); `Invalid` for a policy under which nothing could ever start.
    ///
    /// # Backends
    /// The same on all.
    async fn configure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: Option<LanePolicy>,
    ) -> Result<(), StorageError>;

    /// Stores or removes one lane's own policy as [`configure_lane`](Self::configure_lane) does, if it still is what the
    /// caller made the new one from.
    ///
    /// # Guarantees
    /// One atomic unit. If the policy is neither `from` nor `to`, the answer is [`Conflict`](Reconfigured::Conflict) and
    /// nothing changes.
    ///
    /// # Repeating
    /// Stored again, unless somebody else has changed it since; that is a conflict.
    ///
    /// # Errors
    /// As for `configure_lane`.
    ///
    /// # Backends
    /// The same on all.
    async fn reconfigure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        from: Option<LanePolicy>,
        to: Option<LanePolicy>,
    ) -> Result<Reconfigured<Option<LanePolicy>>, StorageError>;

    /// One lane's own policy, if it has one.
    ///
    /// # Guarantees
    /// What was last stored by anyone.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`.
    ///
    /// # Backends
    /// The same on all.
    async fn lane_policy(&self, queue: &QueueName, lane: &LaneKey) -> Result<Option<LanePolicy>, StorageError>;

    /// The lanes that have policies of their own, in the order of keys: at most `max_items`, after the lane `after`.
    ///
    /// # Guarantees
    /// What was last stored by anyone.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`; `Invalid` for `max_items` 0.
    ///
    /// # Backends
    /// The same on all.
    async fn lane_policies(
        &self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Result<Vec<(LaneKey, LanePolicy)>, StorageError>;

    /// Pauses or resumes a queue: nothing but `paused` of its settings changes, atomically.
    ///
    /// # Guarantees
    /// After a pause no claim hands out a job. Enqueue, settle, renew and sweep go on.
    ///
    /// # Repeating
    /// The same after a repeat. Answers whether this call changed it.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](super::Jobs::enqueue).
    ///
    /// # Backends
    /// The same on all.
    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, StorageError>;

    /// Removes a queue with all that belongs to it: jobs, keys, settings, events. In steps of `max_items` jobs.
    ///
    /// # Guarantees
    /// Without `force`, nothing happens while a job is Active. With it, the workers of Active jobs find them Gone.
    ///
    /// # Repeating
    /// Until it answers Done; a queue that does not exist is Done.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](super::Jobs::enqueue).
    ///
    /// # Backends
    /// The same on all.
    async fn obliterate(
        &self,
        queue: &QueueName,
        force: bool,
        max_items: usize,
    ) -> Result<ObliterateAnswer, StorageError>;
}
