//! Job specifications for tests, written as one line: `spec(&queue).priority(1).delay(MINUTE)`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferroq_core::clock::Timestamp;
use ferroq_core::job::{DedupKey, JobKind, JobOptions, JobSpec, LaneKey, Payload, Priority, QueueName, Start, Tag};
use ferroq_core::policy::dedup::{Dedup, DedupMode};

/// The kind of job that a [`spec`] is of and that a [`Scene`](super::Scene) claims, unless told otherwise.
pub const KIND: &str = "test.job";

/// A job of kind [`KIND`] with a small payload and every setting at its default.
pub fn spec(queue: &QueueName) -> JobSpec {
    JobSpec::new(queue.clone(), kind(KIND), Payload::json(Bytes::from_static(b"{}")))
}

/// A kind's name that is known to be good.
pub fn kind(name: &str) -> JobKind {
    JobKind::new(name).expect("a kind that follows the rule for names")
}

/// Changes to a specification, each giving it back.
pub trait SpecExt: Sized {
    /// Of this kind.
    fn of_kind(self, name: &str) -> Self;
    /// In this lane.
    fn lane(self, name: &str) -> Self;
    /// With this priority.
    fn priority(self, priority: u8) -> Self;
    /// First, not last, among the jobs of its priority.
    fn lifo(self) -> Self;
    /// Not before this much time has passed.
    fn delay(self, delay: Duration) -> Self;
    /// Not before this instant.
    fn at(self, at: Timestamp) -> Self;
    /// With this dedup key, held as `mode` says.
    fn dedup(self, key: &str, mode: DedupMode) -> Self;
    /// With these bytes.
    fn payload(self, bytes: impl Into<Bytes>) -> Self;
    /// With this tag.
    fn tag(self, tag: &str) -> Self;
    /// With a budget of so many failed runs.
    fn attempts(self, max_attempts: u32) -> Self;
    /// With a budget of so many lost leases.
    fn crashes(self, max_crashes: u32) -> Self;
    /// Never started once older than this.
    fn expires_in(self, span: Duration) -> Self;
    /// With other options, changed by `change`.
    fn options(self, change: impl FnOnce(&mut JobOptions)) -> Self;
}

impl SpecExt for JobSpec {
    fn of_kind(mut self, name: &str) -> Self {
        self.kind = kind(name);
        self
    }

    fn lane(mut self, name: &str) -> Self {
        self.lane = LaneKey::new(name).expect("a lane that follows the rule for names");
        self
    }

    fn priority(mut self, priority: u8) -> Self {
        self.priority = Priority(priority);
        self
    }

    fn lifo(mut self) -> Self {
        self.lifo = true;
        self
    }

    fn delay(mut self, delay: Duration) -> Self {
        self.start = Start::After(delay);
        self
    }

    fn at(mut self, at: Timestamp) -> Self {
        self.start = Start::At(at);
        self
    }

    fn dedup(mut self, key: &str, mode: DedupMode) -> Self {
        let key = DedupKey::new(key).expect("a key that follows the rule for names");
        self.dedup = Some(Dedup { key, mode });
        self
    }

    fn payload(mut self, bytes: impl Into<Bytes>) -> Self {
        self.payload = Payload::json(bytes);
        self
    }

    fn tag(self, tag: &str) -> Self {
        let tag = Tag::new(tag).expect("a tag that follows the rule for names");
        self.options(|options| options.tags.push(tag))
    }

    fn attempts(self, max_attempts: u32) -> Self {
        self.options(|options| options.max_attempts = max_attempts)
    }

    fn crashes(self, max_crashes: u32) -> Self {
        self.options(|options| options.max_crashes = max_crashes)
    }

    fn expires_in(self, span: Duration) -> Self {
        self.options(|options| options.expires_in = Some(span))
    }

    fn options(mut self, change: impl FnOnce(&mut JobOptions)) -> Self {
        change(Arc::make_mut(&mut self.options));
        self
    }
}
