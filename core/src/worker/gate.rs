//! Lets a job that must run alone do so. A job on its last crash may well kill its process, so nothing else should run
//! there meanwhile. The gate counts the runs of all workers made from one client; a worker asks it for room before it
//! claims, and a worker that wants to be alone keeps the others from claiming until it is.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// The runs of one client's workers.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// Somebody runs a job alone.
    solo: bool,
    /// How many want to.
    wanted: usize,
}

impl Gate {
    /// Takes room for `jobs` runs, unless somebody runs alone or wants to.
    pub(crate) fn enter(&self, jobs: usize) -> bool {
        let mut state = self.lock();
        if state.solo || state.wanted > 0 {
            return false;
        }
        state.running += jobs;
        true
    }

    /// Gives back room for `jobs` runs.
    pub(crate) fn leave(&self, jobs: usize) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(jobs);
        if state.wanted > 0 && state.running == 0 {
            self.changed.notify_waiters();
        }
    }

    /// Says that a worker wants to be alone; from now on nobody enters.
    pub(crate) fn want_solo(&self) {
        self.lock().wanted += 1;
    }

    /// Takes it back.
    pub(crate) fn unwant_solo(&self) {
        let mut state = self.lock();
        state.wanted = state.wanted.saturating_sub(1);
        self.changed.notify_waiters();
    }

    /// Takes the whole gate, if nothing runs.
    pub(crate) fn enter_solo(&self) -> bool {
        let mut state = self.lock();
        if state.solo || state.running > 0 {
            return false;
        }
        state.solo = true;
        true
    }

    /// The same, unless somebody wants to be alone: for one who can do without.
    pub(crate) fn enter_solo_unasked(&self) -> bool {
        let mut state = self.lock();
        let is_free = !state.solo && state.running == 0 && state.wanted == 0;
        state.solo |= is_free;
        is_free
    }

    /// Gives the whole gate back.
    pub(crate) fn leave_solo(&self) {
        self.lock().solo = false;
        self.changed.notify_waiters();
    }

    /// Gives the whole gate back but for room for `jobs` ordinary runs.
    pub(crate) fn share(&self, jobs: usize) {
        {
            let mut state = self.lock();
            state.solo = false;
            state.running += jobs;
        }
        self.changed.notify_waiters();
    }

    /// Waits until it may be worth asking again. May return for nothing.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_while_somebody_runs_alone_or_wants_to() {
        let gate = Gate::default();
        assert!(gate.enter(2));
        gate.want_solo();
        assert!(!gate.enter(1) && !gate.enter_solo());
        gate.leave(2);
        assert!(gate.enter_solo());
        gate.unwant_solo();
        assert!(!gate.enter(1), "the solo run is under way");
        gate.leave_solo();
        assert!(gate.enter(1));
        assert!(!gate.enter_solo_unasked());
        gate.leave(1);
        gate.want_solo();
        assert!(!gate.enter_solo_unasked(), "that is for those who want it");
        gate.unwant_solo();
        assert!(gate.enter_solo_unasked() && !gate.enter(1));
    }
}
