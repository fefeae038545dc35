//! A job: what it is called, what it carries, how it is to be run, and what has become of it.

mod id;
mod kind;
mod names;
mod options;
mod origin;
mod payload;
mod record;
mod state;

pub use id::JobId;
pub use kind::{Job, UpcastError};
pub use names::{
    CorrelationId, DedupKey, JobKind, LaneClass, LaneKey, LaneName, LimiterName, NAME_BYTES_MAX, NameError, QueueName,
    Tag, WorkerId,
};
pub use options::{JobOptions, JobSpec, Priority, Start};
pub use origin::Origin;
pub use payload::{CodecTag, PAYLOAD_BYTES_MAX_DEFAULT, Payload};
pub use record::{
    BatchNumber, ERROR_TEXT_BYTES_MAX, ERRORS_KEPT_MAX, ErrorEntry, ErrorKind, FailReason, JobRecord,
    LOG_LINE_BYTES_MAX, LOG_LINES_MAX, LogLine, Notes, Progress, Slot, clip,
};
pub use state::{JobState, Move, transition};
