//! The clock that a memory storage has unless another is injected: tokio's. Under a paused runtime it stands still
//! until the test advances it or every task sleeps, so that thirty days of retries pass in milliseconds; outside a
//! runtime it is the host's monotonic clock, set to the wall clock's date at construction.

use std::time::SystemTime;

use ferroq_core::clock::{Clock, Timestamp};
use tokio::time::Instant;

/// Tokio's clock with a date.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuntimeClock {
    started: Instant,
    started_at: Timestamp,
}

impl RuntimeClock {
    /// A clock that shows the wall clock's time now, and goes on with tokio's.
    pub(crate) fn start() -> Self {
        RuntimeClock { started: Instant::now(), started_at: SystemTime::now().into() }
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        self.started_at.after(Instant::now().saturating_duration_since(self.started))
    }
}
