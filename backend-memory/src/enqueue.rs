//! Enqueue: a new job gets its key, its seq and its place, or learns whose place it would have taken.

use std::sync::Arc;

use ferroq_core::event::EventKind;
use ferroq_core::job::{JobRecord, JobSpec, JobState, Notes, Slot};
use ferroq_core::policy::dedup::{Held, Holder, Meeting, meet, start};
use ferroq_core::policy::enqueue::{expiry, line, place};
use ferroq_core::storage::EnqueueAnswer;

use crate::roster::Key;
use crate::turn::{Turn, wait};

impl Turn<'_> {
    /// Inserts a job, unless it is there already or its key is held.
    pub(crate) fn enqueue(&mut self, spec: Arc<JobSpec>) -> EnqueueAnswer {
        let now = self.now;
        let queue = &mut *self.queue;
        if queue.roster.key(spec.id).is_some() {
            return EnqueueAnswer::Duplicate(spec.id);
        }
        let (mut state, due_at) = place(start(&spec), now);
        if let Some(holder) = queue.keys.holder(&spec, now) {
            match self.meet(&spec, holder) {
                Some(answer) => return answer,
                None => state = JobState::Blocked,
            }
        }
        let queue = &mut *self.queue;
        queue.exists = true;
        if state == JobState::Blocked {
            queue.keys.follow(&spec);
        } else {
            queue.keys.take(&spec, now);
        }
        queue.seq_last += 1;
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
            coalesced: 1,
            batch: None,
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

    /// What becomes of a job whose key is held; `None` if it is to be inserted as the one that comes next.
    fn meet(&mut self, spec: &JobSpec, holder: Holder) -> Option<EnqueueAnswer> {
        let roster = &mut self.queue.roster;
        let duplicate = Some(EnqueueAnswer::Duplicate(holder.id));
        let (Some(dedup), Some(key)) = (&spec.dedup, roster.key(holder.id)) else { return duplicate };
        let record = roster.get(key);
        let Some(mode) = record.spec.dedup.as_ref().map(|dedup| dedup.mode) else { return duplicate };
        let held = Held {
            mode,
            same_kind: record.spec.kind == spec.kind,
            started: record.runs > 0,
            coalesced: record.coalesced,
            has_pending: holder.pending.is_some(),
        };
        match meet(dedup.mode, held) {
            Meeting::Nothing => duplicate,
            Meeting::Follow => None,
            Meeting::Restart(start) => {
                self.replace(key, spec);
                self.start_over(key, start);
                self.hints.work = true;
                Some(EnqueueAnswer::Replaced(holder.id))
            }
            Meeting::Replace => {
                self.replace(key, spec);
                Some(EnqueueAnswer::Replaced(holder.id))
            }
            Meeting::ReplacePending => {
                let pending = holder.pending.unwrap_or(holder.id);
                if let Some(key) = self.queue.roster.key(pending) {
                    self.replace(key, spec);
                }
                Some(EnqueueAnswer::Replaced(pending))
            }
            Meeting::Count { coalesced, is_due } => {
                let now = self.now;
                let promoted = self.queue.roster.change(key, |record| {
                    record.coalesced = coalesced;
                    let promoted = is_due && record.state == JobState::Delayed;
                    if promoted {
                        record.due_at = now;
                        wait(record);
                    }
                    promoted
                });
                if promoted {
                    self.events.job(EventKind::Promoted, holder.id);
                    self.hints.work = true;
                }
                Some(EnqueueAnswer::Coalesced(holder.id, coalesced))
            }
        }
    }

    /// Gives a job that has not started another's payload.
    fn replace(&mut self, key: Key, by: &JobSpec) {
        let spec = &mut self.queue.roster.get_mut(key).spec;
        *spec = Arc::new(JobSpec { payload: by.payload.clone(), ..JobSpec::clone(spec) });
    }
}
