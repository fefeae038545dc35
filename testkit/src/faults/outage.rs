//! Faults of the way to a store rather than of the store: answers that get lost, and times without any answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ferroq_core::storage::{CallId, ErrorCode, StorageError};

use super::wrapper::{Faults, Stage, Visit};

/// Loses the first answers of every call that can be repeated: the call takes effect, and its caller hears that the effect
/// is unknown. A client repeats such a call under its number, so whoever uses one should notice nothing. Clones share
/// their counters.
#[derive(Clone, Debug)]
pub struct LostAnswers {
    times: u32,
    shared: Arc<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    by_call: Mutex<HashMap<(uuid::Uuid, u64), u32>>,
    count: AtomicU64,
}

impl LostAnswers {
    /// Loses the first `times` answers of each call.
    pub fn new(times: u32) -> Self {
        LostAnswers { times, shared: Arc::default() }
    }

    /// How many answers were lost so far.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::SeqCst)
    }
}

impl Faults for LostAnswers {
    fn visit(&self, visit: Visit) -> Result<(), StorageError> {
        let (Stage::After, Some(CallId { session, number, .. })) = (visit.stage, visit.call) else { return Ok(()) };
        let mut by_call = self.shared.by_call.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = by_call.entry((session, number)).or_default();
        if *lost >= self.times {
            return Ok(());
        }
        *lost += 1;
        self.shared.count.fetch_add(1, Ordering::SeqCst);
        Err(StorageError::new(ErrorCode::Unavailable, "the answer was lost").effect_unknown())
    }
}

/// A store that can't be reached while the outage lasts: every call fails without effect. Clones are the same outage.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    shared: Arc<Switch>,
}

#[derive(Debug, Default)]
struct Switch {
    is_on: AtomicBool,
    refused: AtomicU64,
    changed: tokio::sync::Notify,
}

impl Outage {
    /// An outage that has not begun.
    pub fn new() -> Self {
        Outage::default()
    }

    /// From now on nothing is answered.
    pub fn begin(&self) {
        self.shared.is_on.store(true, Ordering::SeqCst);
    }

    /// From now on everything is answered again.
    pub fn end(&self) {
        self.shared.is_on.store(false, Ordering::SeqCst);
    }

    /// How many calls were refused so far.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Waits until at least so many calls were refused.
    pub async fn until_refused(&self, calls: u64) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.refused() >= calls {
                return;
            }
            changed.await;
        }
    }
}

impl Faults for Outage {
    fn visit(&self, visit: Visit) -> Result<(), StorageError> {
        if visit.stage == Stage::After || !self.shared.is_on.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.shared.refused.fetch_add(1, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
        Err(StorageError::new(ErrorCode::Unavailable, "the store can't be reached"))
    }
}
