//! The role that moves jobs: in, out to a worker, back, and along as time passes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{CallId, JobWatch, SignalReceiver, StorageError};
use crate::clock::Timestamp;
use crate::job::{BatchNumber, ErrorKind, JobId, JobKind, JobSpec, JobState, Payload, Progress, QueueName, WorkerId};

/// How many due jobs one claim brings forward at most.
pub const PROMOTE_ITEMS_MAX: usize = 1000;
/// How many jobs of the solo line one claim goes through at most, for one that no limit holds back.
pub const SOLO_ITEMS_MAX: usize = 1000;

/// The right to write to an Active job: its id and the epoch of the claim that handed it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The job.
    pub id: JobId,
    /// The claim. It rises with every claim of the job, so it serves as a fencing token towards other systems.
    pub epoch: i64,
}

/// Jobs to insert, all of one queue.
#[derive(Clone, Debug)]
pub struct EnqueueRequest {
    /// Set to be able to repeat the call.
    pub call: Option<CallId>,
    /// The queue; every job names it too.
    pub queue: QueueName,
    /// The jobs, in the order in which they get their seq.
    pub jobs: Vec<Arc<JobSpec>>,
}

/// What became of one job of an [`EnqueueRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EnqueueAnswer {
    /// It was inserted.
    Inserted,
    /// Nothing was inserted: this job has the same id (then it is the same job) or holds the dedup key.
    Duplicate(JobId),
    /// Nothing was inserted, and this job has the payload now: the holder of the dedup key, or the one that is pending
    /// behind it.
    Replaced(JobId),
    /// Nothing was inserted, and the holder of the dedup key stands for so many enqueues now.
    Coalesced(JobId, u32),
    /// A follow-up for a queue that can't be reached now, on a storage whose queues live apart: it is stored with the
    /// settlement, and will be enqueued exactly once, with whatever answer, when its queue can be reached.
    Deferred,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// The error's text with its sources; the storage keeps the first
    /// [`ERROR_TEXT_BYTES_MAX`](crate::job::ERROR_TEXT_BYTES_MAX) bytes.
    pub message: String,
}

impl RunError {
    /// A run error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        RunError { kind, message: message.into() }
    }
}

/// What a run ended in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The handler succeeded.
    Completed {
        /// What it returned, unless that is the unit value.
        result: Option<Payload>,
    },
    /// The run failed: one attempt is used up, and the job waits for `delay` unless that was the last one.
    Retry {
        /// Why.
        error: RunError,
        /// The backoff, already computed.
        delay: Duration,
    },
    /// The run failed, and trying again is of no use.
    Abort {
        /// Why.
        error: RunError,
    },
    /// The handler wants to go on later; nothing is used up.
    Snooze {
        /// How much later.
        delay: Duration,
    },
    /// The worker gives the job back, unfinished or unstarted; nothing is used up.
    Release,
    /// The worker honoured a request to cancel.
    Cancelled,
}

/// The end of a run, and the jobs that come into being with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The run's lease.
    pub lease: Lease,
    /// What it ended in.
    pub outcome: Outcome,
    /// Jobs to insert in the same atomic unit, on any queue; nothing of them happens unless this settlement is applied.
    pub follow_ups: Vec<Arc<JobSpec>>,
}

/// What became of one settlement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettleAnswer {
    /// It was applied.
    Settled {
        /// The state that the job is in now (its record may be gone already, if nothing is kept).
        state: JobState,
        /// What became of the follow-ups, in their order.
        follow_ups: Vec<EnqueueAnswer>,
    },
    /// This lease was settled before; nothing changed.
    AlreadyDone,
    /// The lease is not the job's current one; nothing changed.
    LeaseLost,
    /// There is no such job (any more); nothing changed.
    Gone,
}

/// What a worker asks for.
#[derive(Clone, Debug)]
pub struct ClaimSpec {
    /// The kinds it has handlers for. Jobs of other kinds are put on their kind's shelf.
    pub kinds: Arc<[JobKind]>,
    /// How many jobs at most. At least 1.
    pub max_items: usize,
    /// How many bytes of payload at most; the first job comes whatever its size.
    pub max_bytes: usize,
    /// How long the leases hold unless renewed. At least a millisecond.
    pub term: Duration,
    /// Who asks.
    pub worker: WorkerId,
    /// Whether nothing runs in the worker's process, so that it may take a job that must run alone.
    pub alone: bool,
}

/// A job handed to a worker.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// The right to write to it.
    pub lease: Lease,
    /// The job.
    pub spec: Arc<JobSpec>,
    /// Runs that failed so far.
    pub attempts: u32,
    /// Leases lost so far.
    pub crashes: u32,
    /// Which run this is, counting from 1.
    pub run: u32,
    /// For how many enqueues it stands; see [`DedupMode::Coalesce`](crate::policy::dedup::DedupMode::Coalesce).
    pub coalesced: u32,
    /// When the storage took the job.
    pub created_at: Timestamp,
    /// When this claim was made.
    pub started_at: Timestamp,
    /// What an earlier run saved.
    pub checkpoint: Option<Payload>,
    /// Whether it must run alone in its process. Such a claim is the only one in its answer.
    pub solo: bool,
    /// The batch that it leads, whose members run with it; see [`Batches`](super::Batches).
    pub batch: Option<BatchNumber>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("lease", &self.lease)
            .field("kind", &self.spec.kind)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// The answer to a [`ClaimSpec`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimAnswer {
    /// The jobs, in the order in which they were served: lane after lane, and of one lane in the order (priority, seq).
    pub claims: Vec<Claim>,
    /// Whether asking again at once may give more.
    pub more: bool,
    /// How long until a Delayed job of the queue comes due, or a rate lets a job start that it holds back now; `None` if there
    /// is none of either, or the queue is paused.
    pub look_again: Option<Duration>,
    /// Whether a job waits that only a worker that is `alone` may take, and that nothing else held back when this claim came to
    /// it. Asking again, alone, gives it, unless somebody else was first.
    pub solo_waiting: bool,
    /// Whether none of these may start, and a limit or a pause holds one back. Asking for it is of no use; but whoever is alone
    /// and asks for whatever reason should say so, or the room that comes free goes to other jobs.
    pub solo_held: bool,
}

/// Settlements and a claim in one atomic unit.
#[derive(Clone, Debug)]
pub struct ExchangeRequest {
    /// Set to be able to repeat the call.
    pub call: Option<CallId>,
    /// The queue of both.
    pub queue: QueueName,
    /// Applied first, in this order.
    pub settlements: Vec<Settlement>,
    /// Answered after; `None` only settles.
    pub claim: Option<ClaimSpec>,
}

/// The answer to an [`ExchangeRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeAnswer {
    /// One answer per settlement, in their order.
    pub settled: Vec<SettleAnswer>,
    /// The answer to the claim, if there was one.
    pub claimed: Option<ClaimAnswer>,
}

/// Leases to keep.
#[derive(Clone, Debug)]
pub struct RenewRequest {
    /// The queue.
    pub queue: QueueName,
    /// The leases.
    pub leases: Vec<Lease>,
    /// How long they hold from now on.
    pub term: Duration,
}

/// What became of one lease of a [`RenewRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewAnswer {
    /// It holds for the full term again.
    Renewed {
        /// Somebody asked to cancel the job.
        cancel_requested: bool,
    },
    /// It is not the job's current one, or the job is no longer Active.
    LeaseLost,
    /// There is no such job (any more).
    Gone,
}

/// Something that a run leaves on its job's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Replaces the progress, if set.
    pub progress: Option<Progress>,
    /// Adds lines to the log.
    pub log: Vec<String>,
    /// Replaces the checkpoint, if set.
    pub checkpoint: Option<Payload>,
}

/// What became of one note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteAnswer {
    /// It was written.
    Noted,
    /// The lease is not the job's current one; nothing was written.
    LeaseLost,
    /// There is no such job (any more).
    Gone,
}

/// Asks for what time has made due.
#[derive(Clone, Debug)]
pub struct SweepRequest {
    /// The queue.
    pub queue: QueueName,
    /// How many jobs to move or remove at most, all in all.
    pub max_items: usize,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepAnswer {
    /// Members of batches that failed as a whole.
    pub failed: usize,
    /// Leases that had run out.
    pub stalled: usize,
    /// Delayed jobs whose time had come.
    pub promoted: usize,
    /// Records of ended jobs that were old enough to go.
    pub pruned: usize,
    /// Whether there is more to do at once.
    pub more: bool,
    /// How long until a lease runs out, a Delayed job comes due or a record may go; `None` if nothing is pending.
    pub next: Option<Duration>,
}

/// Moves jobs: in, out to a worker, back, and along as time passes.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// Inserts jobs of one queue.
    ///
    /// # Guarantees
    /// All or none are inserted, in their order: ordinary jobs get rising seqs, `lifo` ones falling negative ones. A job
    /// whose id exists in the queue inserts nothing. One whose dedup key is held (also by an earlier job of the request)
    /// does what [`crate::policy::dedup::meet`] decides: nothing, or it changes the holder that has not started, or it is
    /// inserted, Blocked, as the one that comes next; the answer says which. A key has one holder at any time. A job whose
    /// time has come is Waiting, others are Delayed.
    ///
    /// # Repeating
    /// With the same call id: the same answers. Without: [`EnqueueAnswer::Duplicate`] of the job's own id where it was
    /// inserted before and its record still exists; where it replaced a payload it does so again, and where it counted it
    /// counts again.
    ///
    /// # Errors
    /// [`Invalid`](super::ErrorCode::Invalid) if a job names another queue; `Full`, `ReadOnly`, `Busy`, `Unavailable`.
    ///
    /// # Backends
    /// The same on all.
    async fn enqueue(&self, request: EnqueueRequest) -> Result<Vec<EnqueueAnswer>, StorageError>;

    /// Settles ended runs and claims new jobs: a worker's steady state.
    ///
    /// # Guarantees
    /// One atomic unit. Settlements are applied first, each with its follow-ups, budgets and dedup release as
    /// [`crate::policy::settle::settle`] decides. Of a job that failed for good, a copy is enqueued on its queue's
    /// dead-letter queue, if it has one. A job that ended and is not kept is removed; beyond the queue's count
    /// the records that may go soonest are pruned, at most twice as many as were added. Then, unless the queue is
    /// paused: up to `max_items` jobs of the asked kinds come off their shelves (in the order priority, seq of each
    /// shelf), up to [`PROMOTE_ITEMS_MAX`] due jobs are promoted in the order (due time, seq), and either the first job
    /// of the solo line that no limit holds back, among its first [`SOLO_ITEMS_MAX`], is claimed by a worker that is
    /// `alone`, or the lanes are served in their turn until `max_items` jobs were looked at, those of one lane in the order
    /// (priority, seq): a job that expired is Failed, one of an unknown kind goes to its shelf, the others are claimed
    /// while `max_bytes` lasts. Nothing is claimed of a lane that is paused, and never more than the limits of the queue,
    /// the lane's class and the lane allow; what a limit holds back waits as it is, and holds nobody else back.
    ///
    /// # Repeating
    /// With the same call id: the same answers, and of the claims those whose lease is still current, each with its
    /// present checkpoint. Without: settled leases answer [`SettleAnswer::AlreadyDone`] or [`SettleAnswer::Gone`], and
    /// the claim claims anew.
    ///
    /// # Errors
    /// As for [`enqueue`](Self::enqueue). A record that can't be read is no error: its job is Failed as quarantined.
    ///
    /// # Backends
    /// The same on all.
    async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError>;

    /// Keeps leases: each that is current holds for `term` from now on, even if its time was over.
    ///
    /// # Guarantees
    /// One answer per lease, in their order. A stale lease changes nothing.
    ///
    /// # Repeating
    /// A repeat renews again.
    ///
    /// # Errors
    /// `ReadOnly`, `Full`, `Busy`, `Unavailable`: the leases hold as long as they did.
    ///
    /// # Backends
    /// The same on all.
    async fn renew(&self, request: RenewRequest) -> Result<Vec<RenewAnswer>, StorageError>;

    /// Writes what runs leave on their records: progress, log lines, checkpoints.
    ///
    /// # Guarantees
    /// One atomic unit; one answer per note, in their order. A stale lease writes nothing. Texts beyond their limits
    /// are cut; of the log the last lines stay.
    ///
    /// # Repeating
    /// Progress and checkpoint are the same after a repeat; log lines are there twice.
    ///
    /// # Errors
    /// As for [`renew`](Self::renew).
    ///
    /// # Backends
    /// The same on all.
    async fn annotate(&self, queue: &QueueName, notes: Vec<(Lease, Note)>) -> Result<Vec<NoteAnswer>, StorageError>;

    /// Does what time has made due: takes leases that ran out, promotes Delayed jobs, removes old records.
    ///
    /// # Guarantees
    /// In this order, at most `max_items` all in all: members of batches that failed, by (batch, seq); leases by (end, seq), as [`crate::policy::settle::crash`] decides,
    /// each raising the epoch and, if the job failed by it, with a copy on the queue's dead-letter queue; due jobs by (due time, seq); records by (state, prune time, seq).
    /// What limits remember of starts that no longer count is dropped besides, of `max_items` lanes at most.
    ///
    /// # Repeating
    /// A repeat finds less to do.
    ///
    /// # Errors
    /// As for [`renew`](Self::renew).
    ///
    /// # Backends
    /// The same on all. SQLite looks with a reader first and writes only if there is something to write.
    async fn sweep(&self, request: SweepRequest) -> Result<SweepAnswer, StorageError>;

    /// Hints about a queue: that there may be work, or that an operator (or another client) changed something.
    ///
    /// # Guarantees
    /// None: a hint may be missed or needless. It costs no I/O to hold a receiver nobody waits on.
    ///
    /// # Repeating
    /// Receivers are independent.
    ///
    /// # Errors
    /// None.
    ///
    /// # Backends
    /// Memory misses none. SQLite sees other processes' changes within a few milliseconds while somebody waits.
    fn signals(&self, queue: &QueueName) -> SignalReceiver;

    /// Registers interest in a job's outcome.
    ///
    /// # Guarantees
    /// If the job exists, its record outlives its end by at least a minute. The watch is hinted when it ends.
    ///
    /// # Repeating
    /// Watches are independent; the mark on the record stays.
    ///
    /// # Errors
    /// As for [`renew`](Self::renew).
    ///
    /// # Backends
    /// The same on all.
    async fn watch(&self, queue: &QueueName, id: JobId) -> Result<JobWatch, StorageError>;
}
