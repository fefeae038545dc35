//! Renew and annotate: what a run may do under its lease before it ends.

use std::time::Duration;

use ferroq_core::event::EventKind;
use ferroq_core::job::JobState;
use ferroq_core::storage::{Lease, Note, NoteAnswer, RenewAnswer};

use crate::queue::QueueState;
use crate::roster::Key;
use crate::turn::Turn;

/// Why a lease is of no use.
pub(crate) enum Stale {
    Lost,
    Gone,
}

impl Turn<'_> {
    /// Makes a lease hold for `term` from now on, if it is current.
    pub(crate) fn renew(&mut self, lease: Lease, term: Duration) -> RenewAnswer {
        let key = match self.queue.current(lease) {
            Ok(key) => key,
            Err(Stale::Lost) => return RenewAnswer::LeaseLost,
            Err(Stale::Gone) => return RenewAnswer::Gone,
        };
        let until = self.now.after(term);
        self.queue.note_term(term);
        self.queue.roster.change(key, |record| {
            record.lease_until = Some(until);
            record.lease_term = Some(term);
            RenewAnswer::Renewed { cancel_requested: record.cancel_requested }
        })
    }

    /// Writes a note on a job's record, if its lease is current.
    pub(crate) fn annotate(&mut self, lease: Lease, note: Note) -> NoteAnswer {
        let key = match self.queue.current(lease) {
            Ok(key) => key,
            Err(Stale::Lost) => return NoteAnswer::LeaseLost,
            Err(Stale::Gone) => return NoteAnswer::Gone,
        };
        let record = self.queue.roster.get_mut(key);
        for line in &note.log {
            record.notes.push_log(self.now, record.runs, line);
        }
        if note.checkpoint.is_some() {
            record.notes.checkpoint = note.checkpoint;
        }
        if note.progress.is_some() {
            record.notes.progress = note.progress;
            self.events.job(EventKind::Progress, lease.id);
        }
        NoteAnswer::Noted
    }
}

impl QueueState {
    /// The job that is held under this lease, if it is the current one.
    pub(crate) fn current(&self, lease: Lease) -> Result<Key, Stale> {
        let key = self.roster.key(lease.id).ok_or(Stale::Gone)?;
        let record = self.roster.get(key);
        if record.state == JobState::Active && record.epoch == lease.epoch { Ok(key) } else { Err(Stale::Lost) }
    }
}
