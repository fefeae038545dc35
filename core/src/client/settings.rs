//! What can be said about a job when it is enqueued, one by one, in bulk or as a follow-up: the same words for all
//! three. Mistakes are collected while the builder is filled and reported together.

use std::sync::Arc;
use std::time::Duration;

use super::ClientError;
use super::payload_key::key_of;
use crate::clock::Timestamp;
use crate::codec;
use crate::job::{
    CorrelationId, DedupKey, Job, JobId, JobKind, JobOptions, JobSpec, LaneKey, NameError, Priority, QueueName, Start,
    Tag,
};
use crate::policy::dedup::{Dedup, DedupMode, problem};

/// Settings under way.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) queue: Option<QueueName>,
    lane: LaneKey,
    priority: Priority,
    lifo: bool,
    start: Start,
    dedup: Option<Dedup>,
    by_payload: Option<DedupMode>,
    pub(crate) options: JobOptions,
    problems: Vec<String>,
}

impl Settings {
    pub(crate) fn of<J: Job>() -> Self {
        Settings {
            queue: None,
            lane: LaneKey::DEFAULT,
            priority: J::PRIORITY,
            lifo: false,
            start: Start::Now,
            dedup: None,
            by_payload: None,
            options: J::options(),
            problems: Vec::new(),
        }
    }

    fn name<T>(&mut self, name: Result<T, NameError>) -> Option<T> {
        name.map_err(|error| self.problems.push(error.to_string())).ok()
    }

    pub(crate) fn set_queue(&mut self, name: &str) {
        self.queue = self.name(QueueName::new(name)).or(self.queue.take());
    }

    pub(crate) fn set_lane(&mut self, name: &str) {
        self.lane = self.name(LaneKey::new(name)).unwrap_or_default();
    }

    pub(crate) fn set_start(&mut self, start: Start) {
        self.start = start;
    }

    pub(crate) fn set_priority(&mut self, priority: Priority) {
        self.priority = priority;
    }

    pub(crate) fn set_lifo(&mut self) {
        self.lifo = true;
    }

    pub(crate) fn set_dedup(&mut self, key: &str, mode: DedupMode) {
        self.dedup = self.name(DedupKey::new(key)).map(|key| Dedup { key, mode });
        self.by_payload = None;
    }

    pub(crate) fn set_dedup_by_payload(&mut self, mode: DedupMode) {
        (self.dedup, self.by_payload) = (None, Some(mode));
    }

    pub(crate) fn has_dedup(&self) -> bool {
        self.dedup.is_some()
    }

    pub(crate) fn add_tag(&mut self, tag: &str) {
        if let Some(tag) = self.name(Tag::new(tag)) {
            self.options.tags.push(tag);
        }
    }

    pub(crate) fn set_correlation_id(&mut self, id: &str) {
        self.options.correlation_id = self.name(CorrelationId::new(id));
    }

    /// Checks everything once and says all that is wrong. `mode` is that of keys which are not among the settings.
    pub(crate) fn check<J: Job>(mut self, mode: Option<DedupMode>) -> Result<Checked, ClientError> {
        let queue = match self.queue.take() {
            Some(queue) => Some(queue),
            None => self.name(QueueName::new(J::QUEUE)),
        };
        let kind = self.name(JobKind::new(J::NAME));
        self.problems.extend(self.options.problems());
        let mode = mode.or(self.by_payload).or(self.dedup.as_ref().map(|dedup| dedup.mode));
        self.problems.extend(mode.and_then(|mode| problem(mode, self.start)));
        match (queue, kind) {
            (Some(queue), Some(kind)) if self.problems.is_empty() => {
                let options = if self.options == JobOptions::default() {
                    JobOptions::shared_default()
                } else {
                    Arc::new(self.options)
                };
                Ok(Checked {
                    queue,
                    kind,
                    lane: self.lane,
                    priority: self.priority,
                    lifo: self.lifo,
                    start: self.start,
                    dedup: self.dedup,
                    by_payload: self.by_payload,
                    options,
                })
            }
            _ => Err(ClientError::Invalid { problems: self.problems }),
        }
    }
}

/// Settings that were found good; each job of a bulk is made from the same.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) queue: QueueName,
    kind: JobKind,
    lane: LaneKey,
    priority: Priority,
    lifo: bool,
    start: Start,
    dedup: Option<Dedup>,
    by_payload: Option<DedupMode>,
    options: Arc<JobOptions>,
}

impl Checked {
    /// Gives the next jobs this key, whatever key they would have had.
    pub(crate) fn set_key(&mut self, dedup: Dedup) {
        (self.dedup, self.by_payload) = (Some(dedup), None);
    }

    /// Puts the next jobs in this lane, whatever lane they would have been in.
    pub(crate) fn set_lane(&mut self, lane: LaneKey) {
        self.lane = lane;
    }

    pub(crate) fn spec<J: Job>(&self, id: JobId, job: &J, bytes_max: usize) -> Result<Arc<JobSpec>, ClientError> {
        let payload = codec::encode_job(job, bytes_max)?;
        let dedup = match self.by_payload {
            Some(mode) => Some(Dedup { key: DedupKey::new(key_of(&self.kind, &payload))?, mode }),
            None => self.dedup.clone(),
        };
        Ok(Arc::new(JobSpec {
            id,
            queue: self.queue.clone(),
            lane: self.lane.clone(),
            kind: self.kind.clone(),
            payload,
            priority: self.priority,
            lifo: self.lifo,
            start: self.start,
            dedup,
            options: self.options.clone(),
            origin: None,
        }))
    }
}

/// The instant that a user names.
pub(crate) fn instant(at: impl Into<Timestamp>) -> Start {
    Start::At(at.into())
}

/// The delay that a user names.
pub(crate) fn delay(span: Duration) -> Start {
    if span.is_zero() { Start::Now } else { Start::After(span) }
}

/// Writes the setters that every builder has, for a builder with a field `settings: Settings`.
macro_rules! setters {
    () => {
        /// Puts it in this queue instead of the one that the job's type names.
        pub fn queue(mut self, name: impl AsRef<str>) -> Self {
            self.settings.set_queue(name.as_ref());
            self
        }

        /// Puts it in this lane of the queue: `key`, or `class/key`. The lanes of a queue take turns.
        pub fn lane(mut self, name: impl AsRef<str>) -> Self {
            self.settings.set_lane(name.as_ref());
            self
        }

        /// Starts it no sooner than this long after the storage took it.
        pub fn delay(mut self, span: std::time::Duration) -> Self {
            self.settings.set_start($crate::client::settings::delay(span));
            self
        }

        /// Starts it no sooner than at this instant (a `SystemTime` or a [`Timestamp`](crate::Timestamp)).
        pub fn run_at(mut self, at: impl Into<$crate::Timestamp>) -> Self {
            self.settings.set_start($crate::client::settings::instant(at));
            self
        }

        /// How soon it is served: lower runs sooner; 128 by default.
        pub fn priority(mut self, priority: impl Into<$crate::Priority>) -> Self {
            self.settings.set_priority(priority.into());
            self
        }

        /// Puts it first, not last, among the jobs of its priority.
        pub fn lifo(mut self) -> Self {
            self.settings.set_lifo();
            self
        }

        /// How many runs may fail before it is Failed; 1 or more.
        pub fn max_attempts(mut self, attempts: u32) -> Self {
            self.settings.options.max_attempts = attempts;
            self
        }

        /// How many times its process may die or hang under it before it is Failed; 1 or more. With 1 it always runs
        /// alone in its process, because losing one lease would fail it.
        pub fn max_crashes(mut self, crashes: u32) -> Self {
            self.settings.options.max_crashes = crashes;
            self
        }

        /// How long to wait after a failed run.
        pub fn backoff(mut self, backoff: $crate::policy::backoff::Backoff) -> Self {
            self.settings.options.backoff = backoff;
            self
        }

        /// How long one run may take; then it counts as failed.
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.options.timeout = Some(timeout);
            self
        }

        /// Never starts it once it is older than this; it is Failed as expired instead.
        pub fn expires_in(mut self, span: std::time::Duration) -> Self {
            self.settings.options.expires_in = Some(span);
            self
        }

        /// Inserts no second job while another one of the queue holds this key; `mode` says for how long this one holds
        /// it, and what a second one does instead. [`DedupMode::Debounce`](crate::policy::dedup::DedupMode::Debounce) and
        /// [`DedupMode::Coalesce`](crate::policy::dedup::DedupMode::Coalesce) give the start, so with those a delay of its
        /// own is refused.
        pub fn dedup(mut self, key: impl AsRef<str>, mode: $crate::policy::dedup::DedupMode) -> Self {
            self.settings.set_dedup(key.as_ref(), mode);
            self
        }

        /// The same with a key made from what the job carries, instead of one by hand: its kind and its payload. JSON
        /// payloads are the same if they are the same value, whatever the order of an object's members; numbers count as
        /// they are written. Other payloads are the same if their bytes are. The key is the same on every machine and in
        /// every version, but a changed type writes another payload.
        pub fn dedup_by_payload(mut self, mode: $crate::policy::dedup::DedupMode) -> Self {
            self.settings.set_dedup_by_payload(mode);
            self
        }

        /// Adds a label to find and filter it by.
        pub fn tag(mut self, tag: impl AsRef<str>) -> Self {
            self.settings.add_tag(tag.as_ref());
            self
        }

        /// Adds labels to find and filter it by.
        pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
            for tag in tags {
                self.settings.add_tag(tag.as_ref());
            }
            self
        }

        /// Ties it to the request that caused it; its follow-ups inherit this.
        pub fn correlation_id(mut self, id: impl AsRef<str>) -> Self {
            self.settings.set_correlation_id(id.as_ref());
            self
        }

        /// The W3C `traceparent` of whoever enqueues it; its follow-ups inherit this.
        pub fn trace_context(mut self, traceparent: impl Into<String>) -> Self {
            self.settings.options.trace_context = Some(traceparent.into());
            self
        }

        /// What becomes of its record once it has ended.
        pub fn keep(mut self, keep: $crate::policy::retention::Keep) -> Self {
            self.settings.options.keep = keep;
            self
        }

        /// What becomes of its record once it has completed.
        pub fn keep_completed(mut self, keep: $crate::policy::retention::KeepFor) -> Self {
            self.settings.options.keep.completed = keep;
            self
        }

        /// What becomes of its record once it has failed.
        pub fn keep_failed(mut self, keep: $crate::policy::retention::KeepFor) -> Self {
            self.settings.options.keep.failed = keep;
            self
        }
    };
}
pub(crate) use setters;
