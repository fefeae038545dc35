//! What every topic speaks of: the scene, the contract's words and a few spans of time.

pub(super) use std::sync::Arc;
pub(super) use std::time::Duration;

pub(super) use ferroq_core::clock::Timestamp;
pub(super) use ferroq_core::event::{EventCursor, EventKind};
pub(super) use ferroq_core::job::{ErrorKind, FailReason, JobId, JobSpec, JobState, Priority, QueueName, Slot, Start};
pub(super) use ferroq_core::policy::dedup::DedupMode;
pub(super) use ferroq_core::policy::retention::{KeepFor, KeepRule, WAITED_ON_KEEP};
pub(super) use ferroq_core::storage::*;

pub(super) use crate::harness::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const TEN_YEARS: Duration = Duration::from_secs(3652 * 24 * 3600);

pub(super) fn ids(claims: &[Claim]) -> Vec<JobId> {
    claims.iter().map(|claim| claim.lease.id).collect()
}

pub(super) fn settlement(lease: Lease, outcome: Outcome) -> Settlement {
    Settlement { lease, outcome, follow_ups: Vec::new() }
}

/// Sets the clock to a time such as `2026-03-08T05:00:00Z`.
pub(super) fn set_clock(t: &Scene, to: &str) {
    t.fixture.clock.set(humantime::parse_rfc3339(to).expect("a time").into());
}
