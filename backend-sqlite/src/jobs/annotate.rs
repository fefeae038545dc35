//! What runs leave on their records: progress, log lines, checkpoints.

use ferroq_core::event::EventKind;
use ferroq_core::job::{JobState, QueueName};
use ferroq_core::storage::{Lease, Note, NoteAnswer, StorageError};

use crate::unit::Unit;

impl Unit<'_> {
    /// Writes notes.
    pub(crate) async fn annotate(
        &mut self,
        queue: &QueueName,
        notes: &[(Lease, Note)],
    ) -> Result<Vec<NoteAnswer>, StorageError> {
        let Some(at) = self.queue(queue).await? else {
            return Ok(notes.iter().map(|_| NoteAnswer::Gone).collect());
        };
        let mut rows = self.by_ids(at, notes.iter().map(|(lease, _)| &lease.id)).await?;
        let now = self.queues[at].now;
        let mut answers = Vec::with_capacity(notes.len());
        for (lease, note) in notes {
            let Some(row) = rows.get_mut(&lease.id) else {
                answers.push(NoteAnswer::Gone);
                continue;
            };
            if row.state() != JobState::Active || row.epoch != lease.epoch {
                answers.push(NoteAnswer::LeaseLost);
                continue;
            }
            let runs = row.runs;
            row.change_notes(|notes| {
                if let Some(progress) = &note.progress {
                    notes.progress = Some(progress.clone());
                }
                if let Some(checkpoint) = &note.checkpoint {
                    notes.checkpoint = Some(checkpoint.clone());
                }
                for line in &note.log {
                    notes.push_log(now, runs, line);
                }
            });
            if note.progress.is_some() {
                self.queues[at].event(EventKind::Progress, lease.id);
            }
            answers.push(NoteAnswer::Noted);
            let row = row.clone();
            self.save_in_place(at, row);
        }
        Ok(answers)
    }
}
