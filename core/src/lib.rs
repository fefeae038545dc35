//! The core of ferroq: what a job is, which moves it may make, what a storage promises, and the client and worker that
//! stand on that promise. It holds no driver and does no I/O of its own; backends implement [`storage::Storage`], and
//! apps use the `ferroq` facade, which re-exports what they need from here.

pub mod clock;
pub mod codec;
pub mod event;
pub mod job;
pub mod policy;
pub mod storage;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use job::{JobId, JobKind, JobRecord, JobSpec, JobState, LaneKey, Payload, Priority, QueueName, Tag};
