//! The core of ferroq: what a job is, which moves it may make, what a storage promises, and the client and worker that
//! stand on that promise. It holds no driver and does no I/O of its own; backends implement [`storage::Storage`], and
//! apps use the `ferroq` facade, which re-exports what they need from here.

pub mod batch;
pub mod client;
pub mod clock;
pub mod codec;
pub mod context;
pub mod event;
pub mod handler;
pub mod job;
pub mod policy;
pub mod storage;
pub mod testing;
pub mod worker;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use job::{JobId, JobKind, JobRecord, JobSpec, JobState, LaneKey, Payload, Priority, QueueName, Tag};

/// The JSON value that [`job::Job::upcast`] names, for code that a derive generates.
#[doc(hidden)]
pub use serde_json as __serde_json;
