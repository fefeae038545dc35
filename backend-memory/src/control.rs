//! The role of the operator: acts on jobs, and on queues as a whole.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use ferroq_core::clock::{self, Timestamp};
use ferroq_core::event::EventKind;
use ferroq_core::job::{JobId, JobState, LaneKey, Slot};
use ferroq_core::job::{Move, QueueName, Start, transition};
use ferroq_core::policy::dead_letter;
use ferroq_core::policy::enqueue::{expiry, next_epoch, place};
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::storage::{
    Act, ActAnswer, ActReport, ActRequest, CallAnswer, Control, ListCursor, ObliterateAnswer, QueueConfig,
    Reconfigured, Selection, StorageError,
};

use crate::MemoryStorage;
use crate::jobs::other_call;
use crate::queue::QueueState;
use crate::roster::Key;
use crate::storage::invalid;
use crate::turn::{Hints, Turn, wait};

#[async_trait]
impl Control for MemoryStorage {
    async fn act(&self, request: ActRequest) -> Result<ActReport, StorageError> {
        let ActRequest { call, queue, on, act } = request;
        if matches!(on, Selection::Filter { max_items: 0, .. }) {
            return Err(invalid("a step of an act by filter looks at one record at least"));
        }
        let others = |queue: &QueueState, clock| match act {
            Act::Redrive if queue.answers.recall(call).is_none() => queue.homes(&on, clock),
            _ => Vec::new(),
        };
        self.write_across(&queue, others, |across, clock| {
            let home = &mut *across.home;
            match home.answers.recall(call) {
                Some(CallAnswer::Act(kept)) => return Ok(kept.clone()),
                Some(_) => return Err(other_call()),
                None => {}
            }
            let report =
                if home.exists { across.turn(clock, |turns| turns.home.act_on(&on, &act)) } else { none_found(&on) };
            let home = &mut *across.home;
            let now = home.last.unwrap_or(clock);
            home.answers.keep(call, now, || CallAnswer::Act(report.clone()));
            Ok(report)
        })
    }

    async fn config(&self, queue: &QueueName) -> Result<QueueConfig, StorageError> {
        self.read(queue, |queue| queue.config.clone())
    }

    async fn configure(&self, queue: &QueueName, config: QueueConfig) -> Result<(), StorageError> {
        config.check(queue)?;
        self.write(queue, |queue, clock| Ok(((), queue.configure(config, clock))))
    }

    async fn reconfigure(
        &self,
        queue: &QueueName,
        from: QueueConfig,
        to: QueueConfig,
    ) -> Result<Reconfigured<QueueConfig>, StorageError> {
        to.check(queue)?;
        self.write(queue, |queue, clock| {
            if queue.config != from && queue.config != to {
                return Ok((Reconfigured::Conflict(queue.config.clone()), Hints::default()));
            }
            Ok((Reconfigured::Stored, queue.configure(to, clock)))
        })
    }

    async fn configure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: Option<LanePolicy>,
    ) -> Result<(), StorageError> {
        check(policy.as_ref().map_or_else(Vec::new, |policy| policy.problems("the lane")))?;
        self.write(queue, |queue, clock| Ok(((), queue.configure_lane(lane, policy, clock))))
    }

    async fn reconfigure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        from: Option<LanePolicy>,
        to: Option<LanePolicy>,
    ) -> Result<Reconfigured<Option<LanePolicy>>, StorageError> {
        check(to.as_ref().map_or_else(Vec::new, |policy| policy.problems("the lane")))?;
        self.write(queue, |queue, clock| {
            let present = queue.lane_policies.get(lane).cloned();
            if present != from && present != to {
                return Ok((Reconfigured::Conflict(present), Hints::default()));
            }
            Ok((Reconfigured::Stored, queue.configure_lane(lane, to, clock)))
        })
    }

    async fn lane_policy(&self, queue: &QueueName, lane: &LaneKey) -> Result<Option<LanePolicy>, StorageError> {
        self.read(queue, |queue| queue.lane_policies.get(lane).cloned())
    }

    async fn lane_policies(
        &self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Result<Vec<(LaneKey, LanePolicy)>, StorageError> {
        if max_items == 0 {
            return Err(invalid("a page of lane policies holds one at least"));
        }
        self.read(queue, |queue| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let policies = queue.lane_policies.range((from, Bound::Unbounded)).take(max_items);
            policies.map(|(lane, policy)| (lane.clone(), policy.clone())).collect()
        })
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, StorageError> {
        self.write(queue, |queue, clock| {
            let mut turn = Turn::begin(queue, clock);
            let changed = turn.pause(paused);
            Ok((changed, turn.finish()))
        })
    }

    async fn obliterate(
        &self,
        queue: &QueueName,
        force: bool,
        max_items: usize,
    ) -> Result<ObliterateAnswer, StorageError> {
        if max_items == 0 {
            return Err(invalid("a step of an obliteration removes one job at least"));
        }
        self.write(queue, |queue, clock| {
            let active = queue.roster.count(JobState::Active);
            if active > 0 && !force {
                return Ok((ObliterateAnswer::Active(active), Hints::default()));
            }
            if !queue.exists {
                return Ok((ObliterateAnswer::Done, Hints::default()));
            }
            let mut turn = Turn::begin(queue, clock);
            let going = turn.queue.roster.walk(|_| true, None, max_items);
            let removed = going.into_iter().filter_map(|(_, key)| turn.remove(key)).map(|record| record.id());
            let removed = removed.collect();
            turn.place_heirs();
            turn.hints.ended = removed;
            turn.hints.control = true;
            let hints = turn.finish();
            if queue.roster.len() == 0 {
                queue.obliterate();
                return Ok((ObliterateAnswer::Done, hints));
            }
            Ok((ObliterateAnswer::More(hints.ended.len()), hints))
        })
    }
}

fn check(problems: Vec<String>) -> Result<(), StorageError> {
    if problems.is_empty() { Ok(()) } else { Err(invalid(problems.join("; "))) }
}

/// The report of a queue that does not exist.
fn none_found(on: &Selection) -> ActReport {
    let answers = match on {
        Selection::Ids(ids) => ids.iter().map(|id| (*id, ActAnswer::NotFound)).collect(),
        Selection::Filter { .. } => Vec::new(),
    };
    ActReport { answers, next: None }
}

impl QueueState {
    fn configure(&mut self, config: QueueConfig, clock: Timestamp) -> Hints {
        let mut turn = Turn::begin(self, clock);
        turn.pause(config.paused);
        if turn.queue.config.lanes != config.lanes {
            turn.queue.roster.lanes.reopen();
        }
        turn.queue.config = config;
        turn.finish()
    }

    fn configure_lane(&mut self, lane: &LaneKey, policy: Option<LanePolicy>, clock: Timestamp) -> Hints {
        let mut turn = Turn::begin(self, clock);
        turn.queue.exists = true;
        turn.hints.control = true;
        turn.queue.set_policy(lane, policy);
        turn.finish()
    }

    /// The jobs that a selection names, and where its next step goes on.
    fn selected(&self, on: &Selection, now: Timestamp) -> (Vec<JobId>, Option<ListCursor>) {
        match on {
            Selection::Ids(ids) => (ids.clone(), None),
            Selection::Filter { filter, after, max_items } => {
                let roster = &self.roster;
                let looked_at = roster.walk(|state| filter.allows(state), *after, *max_items);
                let next = looked_at.last().map(|(place, _)| *place).filter(|_| looked_at.len() == *max_items);
                let records = looked_at.iter().map(|(_, key)| roster.get(*key));
                (records.filter(|record| filter.matches(record, now)).map(|record| record.id()).collect(), next)
            }
        }
    }

    /// The queues to which a redrive would bring jobs back.
    fn homes(&self, on: &Selection, clock: Timestamp) -> Vec<QueueName> {
        let mut on = on.clone();
        if let Selection::Filter { max_items, .. } = &mut on {
            // Should the clock have stepped back, the turn moves Active jobs, which this step may then pass over.
            *max_items =
                max_items.saturating_add(usize::try_from(self.roster.count(JobState::Active)).unwrap_or(usize::MAX));
        }
        let (ids, _) = self.selected(&on, clock::advance(self.last, clock).0);
        let records = ids.into_iter().filter_map(|id| self.roster.key(id)).map(|key| self.roster.get(key));
        let mut homes: Vec<_> = records.filter_map(|record| Some(record.spec.origin.as_ref()?.queue.clone())).collect();
        homes.sort();
        homes.dedup();
        homes
    }
}

impl Turn<'_> {
    /// Pauses or resumes; whether that changed anything. The queue exists from then on.
    fn pause(&mut self, paused: bool) -> bool {
        self.queue.exists = true;
        self.hints.control = true;
        let changed = self.queue.config.paused != paused;
        if changed {
            self.queue.config.paused = paused;
            self.events.queue(if paused { EventKind::Paused } else { EventKind::Resumed });
        }
        changed
    }

    fn act_on(&mut self, on: &Selection, act: &Act) -> ActReport {
        let (ids, next) = self.queue.selected(on, self.now);
        self.hints.control = !ids.is_empty();
        let act = |id: JobId| {
            let key = self.queue.roster.key(id);
            let answer = key.map_or(ActAnswer::NotFound, |key| self.act(key, act));
            self.place_heirs();
            (id, answer)
        };
        ActReport { answers: ids.into_iter().map(act).collect(), next }
    }

    fn act(&mut self, key: Key, act: &Act) -> ActAnswer {
        use JobState::{Active, Blocked, Cancelled, Completed, Delayed, Failed, Waiting};
        let state = self.queue.roster.get(key).state;
        match (act, state) {
            (Act::Cancel, Waiting | Delayed | Blocked) => self.cancel(key),
            (Act::Cancel, Active) => self.request_cancel(key),
            (Act::Cancel, Cancelled) => ActAnswer::Unchanged(state),
            (Act::Retry { reset }, Completed | Failed | Cancelled) => self.retry(key, *reset),
            (Act::Retry { .. }, Waiting | Delayed | Active) => ActAnswer::Unchanged(state),
            (Act::Promote, Waiting) => ActAnswer::Unchanged(state),
            (Act::Promote, Delayed) => self.promote(key),
            (Act::Reschedule(start), Waiting | Delayed) => self.reschedule(key, *start),
            (Act::SetPriority(priority), Waiting | Delayed | Blocked | Active) => {
                let record = self.queue.roster.get(key);
                if record.priority == *priority {
                    return ActAnswer::Unchanged(state);
                }
                self.events.job(EventKind::Rescheduled, record.id());
                self.queue.roster.change(key, |record| record.priority = *priority);
                ActAnswer::Done(state)
            }
            (Act::Remove, Active) => ActAnswer::Refused(state),
            (Act::Remove, _) => {
                self.events.job(EventKind::Removed, self.queue.roster.get(key).id());
                if let Some(record) = self.remove(key) {
                    self.hints.ended.push(record.id());
                }
                ActAnswer::Done(state)
            }
            (Act::Redrive, Waiting | Delayed | Blocked | Completed | Failed | Cancelled) => self.redrive(key),
            _ => ActAnswer::Refused(state),
        }
    }

    fn redrive(&mut self, key: Key) -> ActAnswer {
        let record = self.queue.roster.get(key);
        let state = record.state;
        let Some(job) = dead_letter::redriven(&record.spec, record.priority, record.epoch, self.now) else {
            return ActAnswer::Refused(state);
        };
        self.letters.push(Arc::new(job));
        self.act(key, &Act::Remove)
    }

    fn cancel(&mut self, key: Key) -> ActAnswer {
        let now = self.now;
        let record = self.queue.roster.get_mut(key);
        if record.batch.is_some() && record.state == JobState::Blocked {
            // Its batch's lease settles it no more.
            record.epoch = next_epoch(record.epoch, now);
        }
        self.events.job(EventKind::Cancelled, record.id());
        self.end(key, JobState::Cancelled, None);
        ActAnswer::Done(JobState::Cancelled)
    }

    fn request_cancel(&mut self, key: Key) -> ActAnswer {
        let record = self.queue.roster.get_mut(key);
        if !record.cancel_requested {
            record.cancel_requested = true;
            self.events.job(EventKind::CancelRequested, record.id());
        }
        ActAnswer::Requested
    }

    fn retry(&mut self, key: Key, reset: bool) -> ActAnswer {
        let now = self.now;
        let spec = self.queue.roster.get(key).spec.clone();
        if let Some(holder) = self.queue.keys.holder(&spec, now).filter(|holder| holder.id != spec.id) {
            return ActAnswer::DedupHeld(holder.id);
        }
        self.queue.keys.take_again(&spec, now);
        self.queue.roster.change(key, |record| {
            debug_assert!(transition(record.state, Move::RetryByOperator).is_some());
            record.finished_at = None;
            record.prune_at = None;
            record.failure = None;
            record.notes.result = None;
            record.cancel_requested = false;
            if reset {
                record.attempts = 0;
                record.crashes = 0;
            }
            record.due_at = now;
            record.expires_at = expiry(spec.options.expires_in, now);
            wait(record);
        });
        self.events.job(EventKind::Retried, spec.id);
        self.hints.work = true;
        ActAnswer::Done(JobState::Waiting)
    }

    fn promote(&mut self, key: Key) -> ActAnswer {
        let now = self.now;
        self.queue.roster.change(key, |record| {
            record.due_at = now;
            wait(record);
        });
        self.events.job(EventKind::Promoted, self.queue.roster.get(key).id());
        self.hints.work = true;
        ActAnswer::Done(JobState::Waiting)
    }

    fn reschedule(&mut self, key: Key, start: Start) -> ActAnswer {
        let state = self.start_over(key, start);
        self.hints.work = true;
        ActAnswer::Done(state)
    }

    /// Gives a job that is not Active another start; the state that it is in then.
    pub(crate) fn start_over(&mut self, key: Key, start: Start) -> JobState {
        let (state, due_at) = place(start, self.now);
        self.queue.roster.change(key, |record| {
            record.due_at = due_at;
            if state == JobState::Waiting {
                wait(record);
            } else {
                record.state = state;
                record.slot = Slot::Lane;
            }
        });
        self.events.job(EventKind::Rescheduled, self.queue.roster.get(key).id());
        state
    }
}
