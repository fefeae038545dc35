//! ferroq is an embeddable job queue: durable background jobs in the app's own SQLite file, on a Redis server, in memory
//! for tests, and the same code and the same semantics on each. Connect, enqueue, work:
//!
//! ```
//! use ferroq::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Job)]
//! #[job(name = "email.welcome", queue = "emails", max_attempts = 5, timeout = "30s")]
//! struct Welcome {
//!     to: String,
//! }
//!
//! async fn welcome(job: Welcome, _cx: Context) -> JobResult {
//!     println!("welcome, {}", job.to);
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let jobs = ferroq::connect("memory://").await?; // or "sqlite://app.db", or "redis://localhost"
//! let handle = jobs.enqueue(Welcome { to: "ada@example.org".into() }).await?;
//! Worker::new(&jobs).handle(welcome).run_until_idle().await?;
//! handle.wait().await?;
//! # Ok(())
//! # }
//! ```

mod connect;

pub use connect::{ConnectError, connect};
pub use ferroq_core::batch::{BatchHandler, BatchJob, BatchOutcome};
pub use ferroq_core::client::{
    Client, ClientError, Enqueue, EnqueueAll, EventItem, FollowUp, JobHandle, LaneChange, LaneClassHandle, LaneHandle,
    Limiter, LimitsChange, QueueHandle, QueueLanes, QueueLimits, WaitError,
};
pub use ferroq_core::clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use ferroq_core::codec::{self, CodecError};
pub use ferroq_core::context::{Context, ContextError, StopReason};
pub use ferroq_core::event::{self, Event, EventCursor, EventKind};
pub use ferroq_core::handler::{BoxError, Handler, JobError, JobResult, OrAbort};
pub use ferroq_core::job::{
    self, CodecTag, ErrorEntry, ErrorKind, FailReason, Job, JobId, JobKind, JobOptions, JobRecord, JobSpec, JobState,
    LaneClass, LaneKey, NameError, Origin, Payload, Priority, Progress, QueueName, Start, Tag, UpcastError,
};
pub use ferroq_core::policy::backoff::{Backoff, Jitter};
pub use ferroq_core::policy::batch::BatchGate;
pub use ferroq_core::policy::dedup::DedupMode;
pub use ferroq_core::policy::explain::{Explanation, Reason};
pub use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, LaneRules, LaneTerms, Say, StartLimits};
pub use ferroq_core::policy::rate::{CalendarUnit, Per, Rate, RateError, TimeZoneName};
pub use ferroq_core::policy::retention::{Keep, KeepFor, KeepRule, Retention};
pub use ferroq_core::storage::{
    self, AcquireAnswer, Act, ActAnswer, Capabilities, DurabilityReport, EnqueueAnswer, JobFilter, QueueConfig,
    QueueCounts, Storage, StorageError,
};
pub use ferroq_core::testing;
pub use ferroq_core::worker::{RunningWorker, Worker, WorkerBuilder, WorkerError, WorkerReport};

#[cfg(feature = "derive")]
pub use ferroq_macros::Job;

/// The in-memory backend.
#[cfg(feature = "memory")]
pub use ferroq_memory as memory;

/// The Redis backend.
#[cfg(feature = "redis")]
pub use ferroq_redis as redis;

/// The SQLite backend.
#[cfg(feature = "sqlite")]
pub use ferroq_sqlite as sqlite;

/// What most programs need: `use ferroq::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Backoff, Client, Context, DedupMode, Job, JobError, JobHandle, JobResult, KeepFor, OrAbort, Rate, Worker,
        connect,
    };
}

/// The pages in `docs`, so that their examples are compiled and run.
#[cfg(all(doctest, feature = "memory", feature = "derive"))]
mod pages {
    #[doc = include_str!("../docs/batches.md")]
    mod batches {}
    #[doc = include_str!("../docs/dead-letter.md")]
    mod dead_letter {}
    #[doc = include_str!("../docs/dedup.md")]
    mod dedup {}
    #[doc = include_str!("../docs/explain.md")]
    mod explain {}
    #[doc = include_str!("../docs/lanes.md")]
    mod lanes {}
    #[doc = include_str!("../docs/limits.md")]
    mod limits {}
    #[doc = include_str!("../docs/rate-limits.md")]
    mod rate_limits {}
    #[doc = include_str!("../docs/retention.md")]
    mod retention {}
}

/// What `#[derive(Job)]` expands to. Not part of the public API.
#[doc(hidden)]
pub mod __derive {
    pub use ferroq_core::__serde_json::Value;
    pub use ferroq_core::job::{CodecTag, Job, JobOptions, Priority, UpcastError};
    pub use ferroq_core::policy::backoff::{Backoff, Jitter};
    pub use ferroq_core::policy::retention::KeepFor;
}
