//! The numbering of calls, so that a call whose answer was lost can be repeated. A session belongs to one storage
//! handle and ends with it; each call carries the lowest number still open, which acknowledges all lower ones, so a
//! storage keeps answers per session and not per job.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::{Effect, StorageError};

/// For how long a call is repeated before its caller is told that the outcome is unknown.
pub const REPEAT_MAX: Duration = Duration::from_secs(300);

/// The pauses between repeats: at first, and at most. A store that is back is found within a second.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The number of a call within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    /// The session.
    pub session: Uuid,
    /// The call's number; never used twice for different calls.
    pub number: u64,
    /// Every number below this one has been answered and will not be repeated.
    pub acknowledged_below: u64,
}

/// Hands out call numbers and knows which are still open. Clones share the numbering.
#[derive(Clone, Debug)]
pub struct Session {
    id: Uuid,
    open: Arc<Mutex<OpenCalls>>,
}

#[derive(Debug, Default)]
struct OpenCalls {
    next: u64,
    open: BTreeSet<u64>,
}

/// A call that is under way; dropping it acknowledges the call.
#[derive(Debug)]
struct OpenCall {
    session: Session,
    id: CallId,
}

impl Session {
    /// A new session.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Session { id: Uuid::now_v7(), open: Arc::default() }
    }

    /// Makes a call and repeats it, with the same number, if its effect is unknown and a repeat may help: with growing
    /// pauses, for at most [`REPEAT_MAX`].
    ///
    /// # Errors
    /// The call's own last error.
    pub async fn call<T, F, Fut>(&self, make: F) -> Result<T, StorageError>
    where
        F: FnMut(CallId) -> Fut,
        Fut: Future<Output = Result<T, StorageError>>,
    {
        self.call_telling(make, |_| {}).await
    }

    /// The same for a caller who wants to know meanwhile that it takes long: `tell` hears of each repeat that failed.
    pub(crate) async fn call_telling<T, F, Fut>(
        &self,
        mut make: F,
        mut tell: impl FnMut(&StorageError),
    ) -> Result<T, StorageError>
    where
        F: FnMut(CallId) -> Fut,
        Fut: Future<Output = Result<T, StorageError>>,
    {
        let call = self.begin();
        let first = match make(call.id).await {
            // A failure without effect is the caller's to see at once.
            Err(error) if error.effect() == Effect::Unknown && error.is_retryable() => error,
            answer => return answer,
        };
        let until = tokio::time::Instant::now() + REPEAT_MAX;
        let (mut last, mut pause) = (first, PAUSE_MIN);
        while tokio::time::Instant::now() < until {
            // Up to half of the pause is left to chance, so that many callers don't come back together.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
            match make(call.id).await {
                // The first try may have had its effect, whatever a later one says of itself.
                Err(error) if error.is_retryable() => {
                    last = error.effect_unknown();
                    tell(&last);
                }
                Err(error) => return Err(error.effect_unknown()),
                answer => return answer,
            }
        }
        Err(last)
    }

    fn begin(&self) -> OpenCall {
        let mut calls = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = calls.next;
        calls.next += 1;
        calls.open.insert(number);
        let acknowledged_below = calls.open.first().copied().unwrap_or(number);
        OpenCall { session: self.clone(), id: CallId { session: self.id, number, acknowledged_below } }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.session.open.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.id.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::ErrorCode;

    #[tokio::test]
    async fn a_call_acknowledges_all_lower_ones_that_were_answered() {
        let session = Session::new();
        let first = session.begin();
        let second = session.begin();
        assert_eq!((second.id.number, second.id.acknowledged_below), (1, 0));
        drop(first);
        let third = session.begin();
        assert_eq!((third.id.number, third.id.acknowledged_below), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_call_of_unknown_effect_is_repeated_and_under_its_own_number() {
        let session = Session::new();
        let mut numbers = Vec::new();
        let answer = session
            .call(|call| {
                numbers.push(call.number);
                let again = numbers.len() < 3;
                async move {
                    if again { Err(StorageError::new(ErrorCode::Unavailable, "gone").effect_unknown()) } else { Ok(7) }
                }
            })
            .await;
        assert_eq!(answer.ok(), Some(7));
        assert_eq!(numbers, [0, 0, 0]);

        // What a repeat says of itself says nothing of the first try.
        let refused: Result<(), _> = session.call(|_| async { Err(StorageError::new(ErrorCode::Busy, "x")) }).await;
        assert_eq!(refused.map_err(|e| e.effect()), Err(Effect::None), "Busy without effect is not repeated");
        let mut tries = 0;
        let unknown: Result<(), _> = session
            .call(|_| {
                tries += 1;
                let first = tries == 1;
                async move {
                    let error = StorageError::new(if first { ErrorCode::Unavailable } else { ErrorCode::Invalid }, "x");
                    Err(if first { error.effect_unknown() } else { error })
                }
            })
            .await;
        assert_eq!((tries, unknown.map_err(|e| e.effect())), (2, Err(Effect::Unknown)));

        let start = tokio::time::Instant::now();
        let (mut tries, mut told) = (Vec::new(), 0);
        let in_vain: Result<(), _> = session
            .call_telling(
                |_| {
                    tries.push(start.elapsed());
                    async { Err(StorageError::new(ErrorCode::Unavailable, "gone").effect_unknown()) }
                },
                |_| told += 1,
            )
            .await;
        assert_eq!(in_vain.map_err(|e| e.effect()), Err(Effect::Unknown));
        assert_eq!(told + 1, tries.len(), "told of each failed repeat");
        assert!(tries.windows(2).all(|pair| pair[1] - pair[0] <= PAUSE_MAX + PAUSE_MIN), "{tries:?}");
        assert!(tries.last().is_some_and(|last| *last >= REPEAT_MAX), "{tries:?}");

        let mut calls = 0;
        let refused: Result<(), _> = session
            .call(|_| {
                calls += 1;
                async { Err(StorageError::new(ErrorCode::Full, "no room")) }
            })
            .await;
        assert!(refused.is_err());
        assert_eq!(calls, 1, "an error without effect goes to the caller");
    }
}
