//! Enqueue: a new job gets its key, its seq and its place, or learns whose place it would have taken.

use std::sync::Arc;

use ferroq_core::event::EventKind;
use ferroq_core::job::{JobRecord, JobSpec, JobState, Notes, Slot};
use ferroq_core::policy::enqueue::{expiry, line, place};
use ferroq_core::storage::EnqueueAnswer;

use crate::turn::Turn;

impl Turn<'_> {
    /// Inserts a job, unless it is there already or its key is held.
    pub(crate) fn enqueue(&mut self, spec: Arc<JobSpec>) -> EnqueueAnswer {
        let now = self.now;
        let queue = &mut *self.queue;
        if queue.roster.key(spec.id).is_some() {
            return EnqueueAnswer::Duplicate(spec.id);
        }
        if let Some(holder) = queue.keys.holder(&spec, now) {
            return EnqueueAnswer::Duplicate(holder.id);
        }
        queue.exists = true;
        queue.keys.take(&spec, now);
        queue.seq_last += 1;
        let (state, due_at) = place(spec.start, now);
        self.events.job(EventKind::Enqueued, spec.id);
        self.hints.work = true;
        queue.roster.insert(JobRecord {
            seq: if spec.lifo { -queue.seq_last } else { queue.seq_last },
            state,
            slot: if state == JobState::Waiting { line(0, spec.options.max_crashes) } else { Slot::Lane },
            priority: spec.priority,
            epoch: 0,
            attempts: 0,
            crashes: 0,
            runs: 0,
            cancel_requested: false,
            created_at: now,
            due_at,
            expires_at: expiry(spec.options.expires_in, now),
            started_at: None,
            finished_at: None,
            prune_at: None,
            lease_until: None,
            lease_term: None,
            worker: None,
            failure: None,
            waited_on: false,
            notes: Notes::default(),
            spec,
        });
        EnqueueAnswer::Inserted
    }
}
