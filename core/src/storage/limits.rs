//! The role of the limiter that callers ask themselves: how many of something may be done in a span of time, counted by
//! the storage for everybody who shares it. It belongs to no queue; what a queue's own limits hold back is decided at
//! the claim.

use std::time::Duration;

use async_trait::async_trait;

use super::{CallId, StorageError};
use crate::job::LimiterName;
use crate::policy::rate::Rate;

/// Asks a limiter for permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireRequest {
    /// The call's number, if it may be repeated.
    pub call: Option<CallId>,
    /// The limiter; there from the first permit that it gives.
    pub limiter: LimiterName,
    /// What it allows. It may be another one with each call, and applies from this one on.
    pub rate: Rate,
    /// How many are wanted, all or none; 1 or more, and not more than the rate's limit.
    pub permits: u32,
}

/// What a limiter answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcquireAnswer {
    /// Whether all permits were given. If not, none was.
    pub granted: bool,
    /// How many more may be had now.
    pub remaining: u32,
    /// If they were refused: when so many can be had, if nobody takes any until then.
    pub retry_after: Option<Duration>,
}

/// Limits that callers ask themselves.
#[async_trait]
pub trait Limits: Send + Sync + 'static {
    /// Takes permits, if the rate allows them now.
    ///
    /// # Guarantees
    /// All or none. With a sliding rate of N in D, any permit and the N-th after it are at least D apart in storage time,
    /// whoever asked; with a calendar's, no window has more than N. Storage time goes on with each permit, and never back
    /// by less than a minute; where a clock steps back further, what was given later counts as given now. A limiter leaves
    /// nothing behind a minute after all that it gave has ceased to count, or ten after its last answer that may be asked
    /// for again.
    ///
    /// # Repeating
    /// Permits that were given are given once, and the answer is the same. A refusal took nothing, and is decided anew.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`, `Full`, `ReadOnly`; `Invalid` for a rate that makes no sense, for no permits, or for more than
    /// the limit, which could never be had.
    ///
    /// # Backends
    /// Sliding limits up to 100 are exact. Above, permits are remembered in groups of a hundredth of the limit, so that
    /// at most one in 51 is left unused by those who always wait for one. The same on all.
    async fn acquire(&self, request: AcquireRequest) -> Result<AcquireAnswer, StorageError>;

    /// What [`acquire`](Self::acquire) would answer, except that nothing is taken: `remaining` is what may be had now.
    ///
    /// # Guarantees
    /// Changes nothing. By the time that the answer arrives somebody may have taken what it tells of.
    ///
    /// # Repeating
    /// A read.
    ///
    /// # Errors
    /// As for `acquire`.
    ///
    /// # Backends
    /// The same on all.
    async fn peek(&self, limiter: &LimiterName, rate: &Rate, permits: u32) -> Result<AcquireAnswer, StorageError>;

    /// Forgets all that a limiter gave.
    ///
    /// # Guarantees
    /// What was given no longer counts. Answers that were given are still repeated.
    ///
    /// # Repeating
    /// Forgets also what was given since.
    ///
    /// # Errors
    /// `Unavailable`, `Busy`, `ReadOnly`.
    ///
    /// # Backends
    /// The same on all.
    async fn reset(&self, limiter: &LimiterName) -> Result<(), StorageError>;
}
