//! What becomes of a job whose dedup key is held, on the model.

use std::sync::Arc;

use ferroq_core::event::EventKind;
use ferroq_core::job::{JobId, JobSpec, JobState};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::storage::EnqueueAnswer;

use super::queue::{QueueModel, line_of};

impl QueueModel {
    /// The answer; `None` if the job is to be inserted behind the holder.
    pub(super) fn meet(&mut self, spec: &Arc<JobSpec>, dedup: &Dedup, holder: JobId) -> Option<EnqueueAnswer> {
        let now = self.now;
        let nothing = Some(EnqueueAnswer::Duplicate(holder));
        let Some(entry) = self.dedup.iter_mut().find(|entry| entry.key == dedup.key) else { return nothing };
        let Some(job) = self.jobs.iter_mut().find(|job| job.spec.id == holder) else { return nothing };
        if job.spec.kind != spec.kind {
            return nothing;
        }
        let held_mode = job.spec.dedup.as_ref().map(|dedup| dedup.mode);
        let started = job.runs > 0;
        match (dedup.mode, held_mode) {
            (DedupMode::Debounce(span), Some(DedupMode::Debounce(_))) if !started => {
                let mut changed = (*job.spec).clone();
                changed.payload = spec.payload.clone();
                job.spec = Arc::new(changed);
                self.stand(holder, Some(now.after(span)));
                self.log(EventKind::Rescheduled, holder);
                Some(EnqueueAnswer::Replaced(holder))
            }
            (DedupMode::KeepLatest, Some(DedupMode::KeepLatest)) => {
                if started && entry.holder.pending.is_none() {
                    entry.holder.pending = Some(spec.id);
                    return None;
                }
                let target = entry.holder.pending.unwrap_or(holder);
                if let Some(job) = self.find(target) {
                    let mut changed = (*job.spec).clone();
                    changed.payload = spec.payload.clone();
                    job.spec = Arc::new(changed);
                }
                Some(EnqueueAnswer::Replaced(target))
            }
            (DedupMode::Coalesce { .. }, Some(DedupMode::Coalesce { count, .. })) if !started => {
                job.coalesced += 1;
                let coalesced = job.coalesced;
                if coalesced >= count && job.state == JobState::Delayed {
                    job.state = JobState::Waiting;
                    job.due_at = now;
                    job.slot = line_of(job.crashes, &job.spec);
                    self.see_lanes();
                    self.log(EventKind::Promoted, holder);
                }
                Some(EnqueueAnswer::Coalesced(holder, coalesced))
            }
            _ => nothing,
        }
    }
}
