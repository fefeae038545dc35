//! The contract between the queue and what stores it. It is small, object-safe and batch first, and split into roles
//! that a backend's files mirror: [`Jobs`], [`Batches`], [`Inspect`], [`Control`], [`Limits`], [`EventLog`] and [`Transfer`]. A type that has all
//! of them is a [`Storage`]. Sugar lives in [`StorageExt`], which nobody implements.
//!
//! # What every method keeps to
//! - **Fencing.** Each claim raises the job's epoch to `max(last + 1, storage time in microseconds)`. Every later write
//!   names its [`Lease`]; under a stale one nothing changes and the answer is `LeaseLost`. Losing a lease raises the
//!   epoch as well. Time decides when, the epoch decides who: a lease whose time is over stays good until a sweep took it.
//! - **Idempotence.** A call whose answer was lost is repeated with the same [`CallId`] and gets the same answer (a
//!   claim: those of the same jobs whose lease is still current). Beyond a session, enqueue repeats by job id and settle
//!   by lease.
//! - **Per-item answers.** A conflict on one job is that job's answer. `Err` means that the call as a whole failed;
//!   [`StorageError::effect`] says whether it may have had an effect.
//! - **Atomic units.** Each call is one, follow-up jobs on other queues included.
//! - **Time** belongs to the storage and is kept per queue: see [`crate::clock::advance`]. Where jobs are Active, each
//!   exchange, renew and sweep counts as attendance; a gap of more than half a lease's term before one of them
//!   extends that lease to a full term before anything else happens, once.
//! - **Bounded steps.** Whatever could be long takes `max_items` and answers `more` or a cursor.
//! - **Hints.** [`Jobs::signals`] may miss or invent; polling by [`ClaimAnswer::look_again`] and a poll interval alone
//!   finishes all work.

mod answers;
mod batches;
mod capabilities;
mod control;
mod error;
mod events;
mod inspect;
mod jobs;
mod limits;
mod session;
mod signals;
mod transfer;

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;

pub use answers::{AnswerBook, CallAnswer, SESSION_IDLE_MAX};
pub use batches::{Batches, GatherAnswer, MembersAnswer, MembersPage, MembersRequest};
pub use capabilities::{Capabilities, DurabilityReport, Loss};
pub use control::{
    Act, ActAnswer, ActReport, ActRequest, Control, JobFilter, ObliterateAnswer, QueueConfig, Reconfigured, Selection,
};
pub use error::{Effect, ErrorCode, StorageError};
pub use events::{EVENT_ENTRIES_KEPT_DEFAULT, EventLog, EventPage};
pub use inspect::{Inspect, ListCursor, ListRequest, Page, QueueCounts};
pub use jobs::{
    Claim, ClaimAnswer, ClaimSpec, EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest, Jobs, Lease, Note,
    NoteAnswer, Outcome, PROMOTE_ITEMS_MAX, RenewAnswer, RenewRequest, RunError, SOLO_ITEMS_MAX, SettleAnswer,
    Settlement, SweepAnswer, SweepRequest,
};
pub use limits::{AcquireAnswer, AcquireRequest, Limits};
pub use session::{CallId, REPEAT_MAX, Session};
pub use signals::{JobWatch, SignalHub, SignalReceiver, Signals};
pub use transfer::{DedupEntry, DumpPage, PolicyEntry, RestoreAnswer, StartsEntry, Transfer};

use crate::job::QueueName;

/// A place to keep jobs: all roles together, and the life of the handle itself.
///
/// It is [`Any`], so that what only one backend can do (SQLite: take part in the app's own transaction) can be reached
/// from an `Arc<dyn Storage>` by downcasting.
#[async_trait]
pub trait Storage: Jobs + Batches + Inspect + Control + Limits + EventLog + Transfer + Any {
    /// What this storage can do and what it may lose.
    ///
    /// # Guarantees
    /// The same for the life of the handle, and no more than is true.
    ///
    /// # Repeating
    /// The same answer.
    ///
    /// # Errors
    /// None.
    ///
    /// # Backends
    /// Each says its own; no test asks which one it is.
    fn capabilities(&self) -> Capabilities;

    /// A second handle on the same store with I/O of its own, bound to the runtime that calls this.
    ///
    /// # Guarantees
    /// Work on one handle is not held up by the other's runtime: a worker beats its heart on the second while a
    /// handler blocks the first's runtime.
    ///
    /// # Repeating
    /// Each call opens another handle.
    ///
    /// # Errors
    /// As for opening the store.
    ///
    /// # Backends
    /// Memory hands out the same store, which does no I/O.
    async fn second_handle(&self) -> Result<Arc<dyn Storage>, StorageError>;

    /// Finishes what is under way and closes the handle. Later calls answer [`ErrorCode::Closed`].
    ///
    /// # Guarantees
    /// Every call that answered before has the effect that it answered; nothing else is waited for.
    ///
    /// # Repeating
    /// Closing twice is closing once.
    ///
    /// # Errors
    /// None: what can't be closed cleanly is given up, and its store is as after a crash.
    ///
    /// # Backends
    /// The same on all.
    async fn close(&self);
}

/// Shorthands over the contract.
#[async_trait]
pub trait StorageExt: Storage {
    /// Settles without claiming. See [`Jobs::exchange`].
    async fn settle(
        &self,
        call: Option<CallId>,
        queue: &QueueName,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<SettleAnswer>, StorageError> {
        let request = ExchangeRequest { call, queue: queue.clone(), settlements, claim: None };
        Ok(self.exchange(request).await?.settled)
    }

    /// Claims without settling. See [`Jobs::exchange`].
    async fn claim(
        &self,
        call: Option<CallId>,
        queue: &QueueName,
        claim: ClaimSpec,
    ) -> Result<ClaimAnswer, StorageError> {
        let request = ExchangeRequest { call, queue: queue.clone(), settlements: Vec::new(), claim: Some(claim) };
        Ok(self.exchange(request).await?.claimed.unwrap_or_default())
    }
}

impl<T: Storage + ?Sized> StorageExt for T {}
