//! The runs that a worker holds leases for: shared by the turn (which adds and removes), the heartbeat (which renews)
//! and the shutdown (which tells them to stop). A run stays here until its settlement was answered, so that its lease
//! is kept even while the storage is slow to take the settlement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::task::AbortHandle;

use crate::context::{Run, StopReason};
use crate::job::JobId;
use crate::storage::Lease;

/// The runs of one queue.
#[derive(Default)]
pub(super) struct Registry {
    runs: Mutex<HashMap<JobId, Entry>>,
}

struct Entry {
    run: Arc<Run>,
    task: AbortHandle,
    /// After this the heartbeat stops for it, if it still runs: its timeout is over, so it blocks its thread.
    renew_until: Option<Instant>,
}

impl Registry {
    pub(super) fn add(&self, runs: impl IntoIterator<Item = (Arc<Run>, AbortHandle)>) {
        let mut entries = self.lock();
        for (run, task) in runs {
            // A timeout too long for the clock is none.
            let renew_until = run.claim.spec.options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
            entries.insert(run.lease().id, Entry { run, task, renew_until });
        }
    }

    /// Forgets runs, unless the worker has claimed the job again since.
    pub(super) fn remove(&self, leases: impl IntoIterator<Item = Lease>) {
        let mut entries = self.lock();
        for lease in leases {
            if entries.get(&lease.id).is_some_and(|entry| entry.run.lease() == lease) {
                entries.remove(&lease.id);
            }
        }
    }

    /// The leases to keep.
    pub(super) fn renewable(&self) -> Vec<Lease> {
        let now = Instant::now();
        let entries = self.lock();
        entries
            .values()
            .filter(|entry| entry.task.is_finished() || entry.renew_until.is_none_or(|until| now < until))
            .map(|entry| entry.run.lease())
            .collect()
    }

    pub(super) fn stop(&self, lease: Lease, reason: StopReason) {
        let entries = self.lock();
        if let Some(entry) = entries.get(&lease.id).filter(|entry| entry.run.lease() == lease) {
            entry.run.stop(reason);
        }
    }

    pub(super) fn stop_all(&self, reason: StopReason) {
        for entry in self.lock().values() {
            entry.run.stop(reason);
        }
    }

    /// Ends every task at its next await.
    pub(super) fn abort_all(&self) {
        for entry in self.lock().values() {
            entry.task.abort();
        }
    }

    pub(super) fn leases(&self) -> Vec<Lease> {
        self.lock().values().map(|entry| entry.run.lease()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Entry>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
