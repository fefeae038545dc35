//! What the one who enqueues says about a job. All of it is written once and never changes, except for the priority,
//! which the record repeats because an operator may change it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CorrelationId, JobId, JobKind, LaneKey, Origin, Payload, QueueName, Tag};
use crate::clock::Timestamp;
use crate::policy::backoff::Backoff;
use crate::policy::dedup::Dedup;
use crate::policy::micros;
use crate::policy::retention::Keep;

/// How soon a job is served: lower runs sooner. 128 unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub u8);

impl Default for Priority {
    fn default() -> Self {
        Priority(128)
    }
}

impl From<u8> for Priority {
    fn from(number: u8) -> Self {
        Priority(number)
    }
}

impl fmt::Debug for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Priority({})", self.0)
    }
}

/// When a job may start at the earliest. Delays travel as durations and instants as instants, so that no client's
/// clock matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At once.
    #[default]
    Now,
    /// This long after the storage took it.
    After(#[serde(with = "micros")] Duration),
    /// At this instant of storage time; at once if it has passed.
    At(Timestamp),
}

impl Start {
    /// The instant, given the storage's `now`.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Start::Now => now,
            Start::After(delay) => now.after(delay),
            Start::At(at) => at.max(now),
        }
    }
}

/// The settings of a job that most jobs leave as they are. Storages keep them as one serialized value and may leave
/// them out where they equal the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobOptions {
    /// How many runs may fail (error, panic, timeout) before the job is Failed. At least 1; 20 by default.
    #[serde(skip_serializing_if = "is_default_attempts")]
    pub max_attempts: u32,
    /// How many times the job's process may die or hang under it before the job is Failed. At least 1; 3 by default.
    #[serde(skip_serializing_if = "is_default_crashes")]
    pub max_crashes: u32,
    /// How long to wait after a failed run.
    #[serde(skip_serializing_if = "is_default")]
    pub backoff: Backoff,
    /// How long one run may take.
    #[serde(with = "micros::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The job is never started once it is older than this; it is Failed as expired instead.
    #[serde(with = "micros::option", skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Duration>,
    /// What becomes of the record once the job has ended.
    #[serde(skip_serializing_if = "is_default")]
    pub keep: Keep,
    /// Labels to find and filter the job by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Ties together the jobs that one request caused; follow-ups inherit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The W3C `traceparent` of the one who enqueued, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_context: Option<String>,
}

impl JobOptions {
    /// `max_attempts` unless said otherwise.
    pub const MAX_ATTEMPTS_DEFAULT: u32 = 20;
    /// `max_crashes` unless said otherwise.
    pub const MAX_CRASHES_DEFAULT: u32 = 3;

    /// Everything about these options that makes no sense.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.max_attempts == 0 {
            problems.push("max_attempts is 0; a job needs at least 1 attempt".to_owned());
        }
        if self.max_crashes == 0 {
            problems.push("max_crashes is 0; a job needs a crash budget of at least 1".to_owned());
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            problems.push("timeout is zero; no run could end in time".to_owned());
        }
        problems
    }

    /// The default options, shared: cloning the Arc is cheaper than making them anew for each job.
    pub fn shared_default() -> Arc<JobOptions> {
        static DEFAULT: std::sync::OnceLock<Arc<JobOptions>> = std::sync::OnceLock::new();
        DEFAULT.get_or_init(Arc::default).clone()
    }
}

impl Default for JobOptions {
    fn default() -> Self {
        JobOptions {
            max_attempts: Self::MAX_ATTEMPTS_DEFAULT,
            max_crashes: Self::MAX_CRASHES_DEFAULT,
            backoff: Backoff::default(),
            timeout: None,
            expires_in: None,
            keep: Keep::default(),
            tags: Vec::new(),
            correlation_id: None,
            trace_context: None,
        }
    }
}

fn is_default_attempts(n: &u32) -> bool {
    *n == JobOptions::MAX_ATTEMPTS_DEFAULT
}

fn is_default_crashes(n: &u32) -> bool {
    *n == JobOptions::MAX_CRASHES_DEFAULT
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A job as it is handed to a storage: the immutable part of a [`JobRecord`](super::JobRecord). Shared, so that a
/// repeated call, a claim and a record cost a reference count and no copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Made by the client; a repeat under the same id inserts nothing.
    pub id: JobId,
    /// The queue that it is in.
    pub queue: QueueName,
    /// The lane within the queue.
    #[serde(default)]
    pub lane: LaneKey,
    /// Which handler it is for.
    pub kind: JobKind,
    /// What it carries.
    pub payload: Payload,
    /// How soon it is served.
    #[serde(default)]
    pub priority: Priority,
    /// Whether it goes first, not last, among the jobs of its priority.
    #[serde(default)]
    pub lifo: bool,
    /// When it may start.
    #[serde(default)]
    pub start: Start,
    /// Whether and how it is the same as another job.
    #[serde(default)]
    pub dedup: Option<Dedup>,
    /// Everything else.
    #[serde(default)]
    pub options: Arc<JobOptions>,
    /// Where it comes from, if it is a dead letter, or was redriven from one. Storages set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Arc<Origin>>,
}

impl JobSpec {
    /// A job with a new id and every setting at its default.
    pub fn new(queue: QueueName, kind: JobKind, payload: Payload) -> Self {
        JobSpec {
            id: JobId::new(),
            queue,
            lane: LaneKey::DEFAULT,
            kind,
            payload,
            priority: Priority::default(),
            lifo: false,
            start: Start::Now,
            dedup: None,
            options: JobOptions::shared_default(),
            origin: None,
        }
    }
}
