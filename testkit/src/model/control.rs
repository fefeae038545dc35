//! What an operator does, on the model: acts on jobs, settings, and the end of a queue.

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{JobId, JobRecord, JobState, QueueName, Slot};
use ferroq_core::policy::dedup::{DedupMode, Holder};
use ferroq_core::storage::{
    Act, ActAnswer, ActReport, ActRequest, DedupEntry, JobFilter, ObliterateAnswer, QueueConfig, Selection,
};

use super::Model;
use super::leave::{Left, due};
use super::queue::{QueueModel, line_of};
use super::walks::place_of;

impl Model {
    pub(super) fn act(&mut self, clock: Timestamp, request: &ActRequest, order: &[JobId]) -> ActReport {
        let Some(queue) = self.queues.get_mut(&request.queue) else {
            let ids = match &request.on {
                Selection::Ids(ids) => ids.as_slice(),
                Selection::Filter { .. } => &[],
            };
            return ActReport { answers: ids.iter().map(|id| (*id, ActAnswer::NotFound)).collect(), next: None };
        };
        queue.begin(clock);
        let (ids, next) = match &request.on {
            Selection::Ids(ids) => (ids.clone(), None),
            Selection::Filter { filter, max_items, .. } => {
                let looked_at: Vec<&JobRecord> =
                    order.iter().take(*max_items).filter_map(|id| queue.job(*id)).collect();
                let next = looked_at.last().filter(|_| looked_at.len() == *max_items).map(|job| place_of(job));
                let matching = looked_at.iter().filter(|job| matches(filter, job, queue.now));
                (matching.map(|job| job.spec.id).collect(), next)
            }
        };
        let mut answers = Vec::new();
        for id in ids {
            answers.push((id, queue.act(id, &request.act)));
            queue.release_heirs();
        }
        queue.prune_by_count();
        self.post(clock, &request.queue);
        ActReport { answers, next }
    }

    pub(super) fn configure(&mut self, clock: Timestamp, name: &QueueName, config: &QueueConfig) {
        let queue = self.queues.entry(name.clone()).or_default();
        queue.begin(clock);
        queue.log_pause(config.paused);
        if queue.config.lanes != config.lanes {
            queue.lane_rules_changed();
        }
        queue.config = config.clone();
    }

    pub(super) fn set_paused(&mut self, clock: Timestamp, name: &QueueName, paused: bool) -> bool {
        let queue = self.queues.entry(name.clone()).or_default();
        queue.begin(clock);
        let changed = queue.config.paused != paused;
        queue.log_pause(paused);
        queue.config.paused = paused;
        changed
    }

    pub(super) fn obliterate(
        &mut self,
        clock: Timestamp,
        name: &QueueName,
        force: bool,
        max_items: usize,
        order: &[JobId],
    ) -> ObliterateAnswer {
        let Some(queue) = self.queues.get_mut(name) else { return ObliterateAnswer::Done };
        let active = queue.jobs.iter().filter(|job| job.state == JobState::Active).count();
        if active > 0 && !force {
            return ObliterateAnswer::Active(active as u64);
        }
        queue.begin(clock);
        let go: Vec<JobId> = order.iter().copied().take(max_items).collect();
        for id in &go {
            let ended = queue.job(*id).is_some_and(|job| job.state.is_terminal());
            queue.remove(*id, if ended { Left::RemovedEnded } else { Left::RemovedLive });
        }
        queue.release_heirs();
        if queue.jobs.is_empty() {
            self.queues.remove(name);
            return ObliterateAnswer::Done;
        }
        ObliterateAnswer::More(go.len())
    }
}

/// Whether a filter asks for this record.
fn matches(filter: &JobFilter, job: &JobRecord, now: Timestamp) -> bool {
    if !filter.states.is_empty() && !filter.states.contains(&job.state) {
        return false;
    }
    if let Some(kind) = &filter.kind
        && *kind != job.spec.kind
    {
        return false;
    }
    if let Some(lane) = &filter.lane
        && *lane != job.spec.lane
    {
        return false;
    }
    if let Some(tag) = &filter.tag
        && !job.spec.options.tags.contains(tag)
    {
        return false;
    }
    match (filter.ended_before, job.finished_at) {
        (Some(age), Some(at)) => at.after(age) < now,
        (Some(_), None) => false,
        (None, _) => true,
    }
}

impl QueueModel {
    fn log_pause(&mut self, paused: bool) {
        if self.config.paused != paused {
            self.events.push((if paused { EventKind::Paused } else { EventKind::Resumed }, None));
        }
    }

    fn act(&mut self, id: JobId, act: &Act) -> ActAnswer {
        let Some(state) = self.job(id).map(|job| job.state) else { return ActAnswer::NotFound };
        match act {
            Act::Cancel => self.cancel(id, state),
            Act::Retry { reset } => self.retry(id, state, *reset),
            Act::Redrive => self.redrive(id, state),
            Act::Promote => self.promote(id, state),
            Act::Reschedule(start) => match state {
                JobState::Waiting | JobState::Delayed => {
                    let at = due(*start, self.now);
                    self.log(EventKind::Rescheduled, id);
                    ActAnswer::Done(self.stand(id, Some(at)))
                }
                _ => ActAnswer::Refused(state),
            },
            Act::SetPriority(priority) => {
                if state.is_terminal() {
                    return ActAnswer::Refused(state);
                }
                let Some(job) = self.find(id) else { return ActAnswer::NotFound };
                if job.priority == *priority {
                    return ActAnswer::Unchanged(state);
                }
                job.priority = *priority;
                self.log(EventKind::Rescheduled, id);
                ActAnswer::Done(state)
            }
            Act::Remove => {
                if state == JobState::Active {
                    return ActAnswer::Refused(state);
                }
                self.log(EventKind::Removed, id);
                self.remove(id, if state.is_terminal() { Left::RemovedEnded } else { Left::RemovedLive });
                ActAnswer::Done(state)
            }
            _ => ActAnswer::Refused(state),
        }
    }

    fn cancel(&mut self, id: JobId, state: JobState) -> ActAnswer {
        match state {
            JobState::Waiting | JobState::Delayed | JobState::Blocked => {
                let now = self.now;
                if let Some(member) = self.find(id).filter(|job| state == JobState::Blocked && job.batch.is_some()) {
                    member.epoch = super::queue::epoch_after(member.epoch, now);
                }
                ActAnswer::Done(self.end(id, JobState::Cancelled, None))
            }
            JobState::Active => {
                let asked_before = self.find(id).map(|job| std::mem::replace(&mut job.cancel_requested, true));
                if asked_before == Some(false) {
                    self.log(EventKind::CancelRequested, id);
                }
                ActAnswer::Requested
            }
            JobState::Completed | JobState::Failed => ActAnswer::Refused(state),
            JobState::Cancelled => ActAnswer::Unchanged(state),
        }
    }

    fn retry(&mut self, id: JobId, state: JobState, reset: bool) -> ActAnswer {
        match state {
            JobState::Waiting | JobState::Delayed | JobState::Active => return ActAnswer::Unchanged(state),
            JobState::Blocked => return ActAnswer::Refused(state),
            JobState::Completed | JobState::Failed | JobState::Cancelled => {}
        }
        let now = self.now;
        let dedup = self.job(id).and_then(|job| job.spec.dedup.clone());
        if let Some(dedup) = dedup {
            if let Some(holder) = self.holder(&dedup.key)
                && holder != id
            {
                return ActAnswer::DedupHeld(holder);
            }
            if matches!(dedup.mode, DedupMode::UntilFinished | DedupMode::WhileKept | DedupMode::KeepLatest) {
                self.dedup.retain(|entry| entry.key != dedup.key);
                self.dedup.push(DedupEntry { key: dedup.key, holder: Holder { id, until: None, pending: None } });
            }
        }
        let Some(job) = self.find(id) else { return ActAnswer::NotFound };
        job.finished_at = None;
        job.prune_at = None;
        job.failure = None;
        job.notes.result = None;
        job.cancel_requested = false;
        if reset {
            job.attempts = 0;
            job.crashes = 0;
        }
        job.due_at = now;
        job.expires_at = job.spec.options.expires_in.map(|span| now.after(span));
        job.state = JobState::Waiting;
        job.slot = line_of(job.crashes, &job.spec);
        self.see_lanes();
        self.log(EventKind::Retried, id);
        ActAnswer::Done(JobState::Waiting)
    }

    fn promote(&mut self, id: JobId, state: JobState) -> ActAnswer {
        match state {
            JobState::Waiting => return ActAnswer::Unchanged(state),
            JobState::Delayed => {}
            _ => return ActAnswer::Refused(state),
        }
        let now = self.now;
        if let Some(job) = self.find(id) {
            job.due_at = now;
            job.state = JobState::Waiting;
            job.slot = line_of(job.crashes, &job.spec);
        }
        self.see_lanes();
        self.log(EventKind::Promoted, id);
        ActAnswer::Done(JobState::Waiting)
    }
}

/// The slot that a record outside Waiting has.
pub(super) const NO_LINE: Slot = Slot::Lane;
