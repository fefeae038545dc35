//! The operator's acts, on jobs one by one or by filter, and on queues as a whole, as work on a unit.

use ferroq_core::event::EventKind;
use ferroq_core::job::{JobId, JobState, LaneKey, QueueName, Slot};
use ferroq_core::policy::dedup::{Exit, Holder};
use ferroq_core::policy::enqueue::{expiry, line, next_epoch, place};
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::storage::{
    Act, ActAnswer, ActReport, ActRequest, ObliterateAnswer, QueueConfig, Reconfigured, Selection, StorageError,
};

use crate::error::invalid;
use crate::lane_rows::{POLICIES, read_lanes};
use crate::lanes::{OWN, Standing};
use crate::row::{Row, key_range};
use crate::script::Value;
use crate::unit::Unit;

const FREE_KEYS: &str = "DELETE FROM ferroq_dedup WHERE queue=?";
const FORGET_EVENTS: &str = "DELETE FROM ferroq_events WHERE key BETWEEN ? AND ?";
const FORGET_QUEUE: &str = "DELETE FROM ferroq_queues WHERE number=?";

/// Refuses requests that make no sense.
pub(crate) fn check(request: &ActRequest) -> Result<(), StorageError> {
    match &request.on {
        Selection::Filter { max_items: 0, .. } => Err(invalid("a filter looks at 0 items; look at at least 1")),
        _ => Ok(()),
    }
}

/// Refuses a lane's policy that makes no sense.
pub(crate) fn check_policy(policy: Option<&LanePolicy>) -> Result<(), StorageError> {
    let problems = policy.map_or_else(Vec::new, |policy| policy.problems("the lane"));
    if problems.is_empty() { Ok(()) } else { Err(invalid(problems.join("; "))) }
}

impl Unit<'_> {
    /// Does something with some jobs.
    pub(crate) async fn act(&mut self, request: &ActRequest) -> Result<ActReport, StorageError> {
        let Some(at) = self.queue(&request.queue).await? else {
            let answers = match &request.on {
                Selection::Ids(ids) => ids.iter().map(|id| (*id, ActAnswer::NotFound)).collect(),
                Selection::Filter { .. } => Vec::new(),
            };
            return Ok(ActReport { answers, next: None });
        };
        let mut report = ActReport::default();
        match &request.on {
            Selection::Ids(ids) => {
                for id in ids {
                    // One by one, because an act on one may free or take the dedup key of the next.
                    let answer = match self.by_ids(at, [id]).await?.remove(id) {
                        Some(row) => {
                            let answer = self.act_on(at, row, &request.act).await?;
                            self.place_heirs().await?;
                            answer
                        }
                        None => ActAnswer::NotFound,
                    };
                    report.answers.push((*id, answer));
                }
            }
            Selection::Filter { filter, after, max_items } => {
                let number = self.queues[at].number;
                let (rows, next) = self.walk(number, filter, *after, *max_items, false).await?;
                report.next = next;
                let (now, name) = (self.queues[at].now, self.queues[at].name.clone());
                let mut moved = Vec::new();
                for mut row in rows {
                    let kind = self.kind_name(row.kind).await?;
                    if row.record(&name, kind.as_ref()).is_none_or(|record| !filter.matches(&record, now)) {
                        continue;
                    }
                    let id: JobId = row.id;
                    if moved.contains(&id)
                        && let Some(present) = self.by_ids(at, [&id]).await?.remove(&id)
                    {
                        row = present;
                    }
                    let answer = self.act_on(at, row, &request.act).await?;
                    moved.extend(self.place_heirs().await?);
                    report.answers.push((id, answer));
                }
            }
        }
        self.post().await?;
        Ok(report)
    }

    async fn act_on(&mut self, at: usize, mut row: Row, act: &Act) -> Result<ActAnswer, StorageError> {
        let state = row.state();
        let now = self.queues[at].now;
        let in_line = matches!(state, JobState::Waiting | JobState::Delayed);
        Ok(match act {
            Act::Cancel => match state {
                JobState::Cancelled => ActAnswer::Unchanged(state),
                JobState::Completed | JobState::Failed => ActAnswer::Refused(state),
                JobState::Active => {
                    if !row.cancel_requested() {
                        row.set_cancel_requested(true);
                        self.queues[at].event(EventKind::CancelRequested, row.id);
                        self.queues[at].hint_control = true;
                        self.save_in_place(at, row);
                    }
                    ActAnswer::Requested
                }
                _ => {
                    if row.is_member() {
                        // Its batch's lease settles it no more.
                        row.epoch = next_epoch(row.epoch, now);
                    }
                    self.queues[at].leave(&row);
                    self.queues[at].event(EventKind::Cancelled, row.id);
                    self.end(at, row, JobState::Cancelled, None);
                    ActAnswer::Done(JobState::Cancelled)
                }
            },
            Act::Retry { reset } => match state {
                JobState::Blocked => ActAnswer::Refused(state),
                _ if !state.is_terminal() => ActAnswer::Unchanged(state),
                _ => self.retry(at, row, *reset).await?,
            },
            Act::Promote => match state {
                JobState::Waiting => ActAnswer::Unchanged(state),
                JobState::Delayed => {
                    self.queues[at].leave(&row);
                    row.due_at = now;
                    row.wait(line(row.crashes, row.options().max_crashes));
                    self.queues[at].event(EventKind::Promoted, row.id);
                    self.save(at, row);
                    ActAnswer::Done(JobState::Waiting)
                }
                _ => ActAnswer::Refused(state),
            },
            Act::Reschedule(_) if !in_line => ActAnswer::Refused(state),
            Act::Reschedule(start) => {
                self.queues[at].leave(&row);
                let (state, due_at) = place(*start, now);
                row.due_at = due_at;
                match state {
                    JobState::Waiting => row.wait(line(row.crashes, row.options().max_crashes)),
                    _ => row.stand(state, Slot::Lane, due_at.as_micros()),
                }
                self.queues[at].event(EventKind::Rescheduled, row.id);
                self.save(at, row);
                ActAnswer::Done(state)
            }
            Act::SetPriority(_) if state.is_terminal() => ActAnswer::Refused(state),
            Act::SetPriority(priority) => {
                if row.priority == i64::from(priority.0) {
                    return Ok(ActAnswer::Unchanged(state));
                }
                row.priority = priority.0.into();
                if state == JobState::Waiting {
                    row.wait(row.slot());
                }
                self.queues[at].event(EventKind::Rescheduled, row.id);
                self.save_in_place(at, row);
                ActAnswer::Done(state)
            }
            Act::Remove if state == JobState::Active => ActAnswer::Refused(state),
            Act::Remove => {
                self.remove_by_act(at, &row);
                ActAnswer::Done(state)
            }
            Act::Redrive => self.redrive(at, row).await?,
            _ => return Err(invalid("this version of the SQLite backend does not know this act")),
        })
    }

    async fn retry(&mut self, at: usize, mut row: Row, reset: bool) -> Result<ActAnswer, StorageError> {
        let (now, number) = (self.queues[at].now, self.queues[at].number);
        if let Some(dedup) = row.dedup() {
            let holder = self.holder(number, dedup.key.as_str()).await?;
            match holder.filter(|holder| holder.holds(now)) {
                Some(holder) if holder.id != row.id => return Ok(ActAnswer::DedupHeld(holder.id)),
                _ => {}
            }
            if dedup.mode.is_taken_again() {
                self.take_key(number, dedup.key.as_str(), Holder::take(row.id, dedup.mode, now));
            }
        }
        self.queues[at].leave(&row);
        let options = row.options();
        if row.notes.is_some() {
            row.change_notes(|notes| notes.result = None);
        }
        if reset {
            row.attempts = 0;
            row.crashes = 0;
        }
        row.finished_at = None;
        row.set_failure(None);
        row.set_cancel_requested(false);
        row.due_at = now;
        row.expires_at = expiry(options.expires_in, now);
        row.wait(line(row.crashes, options.max_crashes));
        self.queues[at].event(EventKind::Retried, row.id);
        self.save(at, row);
        Ok(ActAnswer::Done(JobState::Waiting))
    }

    /// Stores settings, if they still are `from`.
    pub(crate) async fn configure(
        &mut self,
        queue: &QueueName,
        config: &QueueConfig,
        from: Option<&QueueConfig>,
    ) -> Result<Reconfigured<QueueConfig>, StorageError> {
        if let Some(from) = from {
            let at = self.queue(queue).await?;
            let present = at.map(|at| self.queues[at].config.clone()).unwrap_or_default();
            if present != *from && present != *config {
                return Ok(Reconfigured::Conflict(present));
            }
        }
        let at = self.queue_or_new(queue).await?;
        let queue = &mut self.queues[at];
        if config.paused != queue.config.paused {
            queue.queue_event(if config.paused { EventKind::Paused } else { EventKind::Resumed });
        }
        if config.lanes != queue.config.lanes {
            queue.lanes.reopen();
        }
        queue.config = config.clone();
        queue.config_changed = true;
        queue.dirty = true;
        queue.hint_control = true;
        self.count_active(at).await?;
        Ok(Reconfigured::Stored)
    }

    /// Stores one lane's own policy, or removes it, if it still is `from`.
    pub(crate) async fn configure_lane(
        &mut self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: &Option<LanePolicy>,
        from: Option<&Option<LanePolicy>>,
    ) -> Result<Reconfigured<Option<LanePolicy>>, StorageError> {
        if let Some(from) = from {
            let present = self.lane_policy(queue, lane).await?;
            if present != *from && present != *policy {
                return Ok(Reconfigured::Conflict(present));
            }
        }
        let at = self.queue_or_new(queue).await?;
        self.queues[at].dirty = true;
        self.queues[at].hint_control = true;
        self.load_lanes(at, std::slice::from_ref(lane)).await?;
        self.resolve_lanes().await?;
        self.set_policy(at, lane, policy);
        self.count_active(at).await?;
        Ok(Reconfigured::Stored)
    }

    /// The same of a lane whose row, if there is one, is here.
    pub(crate) fn set_policy(&mut self, at: usize, lane: &LaneKey, policy: &Option<LanePolicy>) {
        let queue = &mut self.queues[at];
        let known = queue.lanes.known_number(lane);
        let before = known.and_then(|number| queue.lanes.lane(number)).and_then(|lane| lane.policy.clone());
        if before == *policy {
            return;
        }
        let number = match known {
            Some(number) => number,
            None => queue.lanes.number(lane),
        };
        if !lane.is_default() {
            queue.lanes.policies += i64::from(policy.is_some()) - i64::from(before.is_some());
        }
        queue.lanes.lane_mut(number).policy.clone_from(policy);
        queue.lanes.changed = true;
        let in_line = queue.in_line();
        let standing = queue.lanes.lane(number).map(|lane| lane.standing);
        if queue.lanes.waiting(number, in_line) > 0 && standing != Some(Standing::Ring) {
            queue.lanes.rejoin(number);
        }
    }

    /// One lane's own policy.
    pub(crate) async fn lane_policy(
        &mut self,
        queue: &QueueName,
        lane: &LaneKey,
    ) -> Result<Option<LanePolicy>, StorageError> {
        let Some(at) = self.queue(queue).await? else { return Ok(None) };
        self.load_lanes(at, std::slice::from_ref(lane)).await?;
        let lanes = &self.queues[at].lanes;
        Ok(lanes.known_number(lane).and_then(|number| lanes.lane(number)).and_then(|lane| lane.policy.clone()))
    }

    /// Lanes' own policies.
    pub(crate) async fn lane_policies(
        &mut self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Result<Vec<(LaneKey, LanePolicy)>, StorageError> {
        let Some(at) = self.queue(queue).await? else { return Ok(Vec::new()) };
        let mut policies = Vec::new();
        if after.is_none() {
            let own = self.queues[at].lanes.lane(OWN).and_then(|own| own.policy.clone());
            policies.extend(own.map(|policy| (LaneKey::DEFAULT, policy)));
        }
        let left = i64::try_from(max_items - policies.len()).unwrap_or(i64::MAX);
        let after = after.and_then(LaneKey::name).unwrap_or_default();
        let [rows] = self.ask([(POLICIES, vec![self.queues[at].number.into(), after.into(), left.into()])]).await?;
        let lanes = read_lanes(&rows)?.into_iter();
        policies.extend(lanes.filter_map(|(_, lane)| Some((lane.key, lane.policy?))));
        Ok(policies)
    }

    /// Pauses or resumes, and says whether that changed anything.
    pub(crate) async fn set_paused(&mut self, queue: &QueueName, paused: bool) -> Result<bool, StorageError> {
        let at = self.queue_or_new(queue).await?;
        let queue = &mut self.queues[at];
        if queue.config.paused == paused {
            return Ok(false);
        }
        queue.config.paused = paused;
        queue.config_changed = true;
        queue.dirty = true;
        queue.queue_event(if paused { EventKind::Paused } else { EventKind::Resumed });
        queue.hint_control = true;
        Ok(true)
    }

    /// A step of a queue's removal.
    pub(crate) async fn obliterate(
        &mut self,
        queue: &QueueName,
        force: bool,
        max_items: usize,
    ) -> Result<ObliterateAnswer, StorageError> {
        let Some(at) = self.queue(queue).await? else { return Ok(ObliterateAnswer::Done) };
        let active = self.queues[at].count(JobState::Active).max(0).unsigned_abs();
        if active > 0 && !force {
            return Ok(ObliterateAnswer::Active(active));
        }
        let number = self.queues[at].number;
        let (rows, next) = self.walk(number, &Default::default(), None, max_items, false).await?;
        let went = rows.len();
        for row in rows {
            self.queues[at].leave(&row);
            self.queues[at].ended.push(row.id);
            let exit = if row.state().is_terminal() { Exit::RemovedEnded } else { Exit::RemovedLive };
            self.free_key(&row, &[exit]);
            self.leave_batch(at, &row, None);
            self.remove(row.key);
        }
        self.queues[at].hint_control = true;
        let left: i64 = self.queues[at].counts.iter().sum();
        if left > 0 && next.is_some() {
            self.place_heirs().await?;
            return Ok(ObliterateAnswer::More(went));
        }
        let (low, high) = key_range(number);
        self.flush();
        // A damaged row that no walk finds goes with its queue.
        self.script.add("DELETE FROM ferroq_jobs WHERE key BETWEEN ? AND ?", [low.into(), high.into()]);
        self.script.add(FREE_KEYS, [Value::Int(number)]);
        self.script.add(crate::batches::DROP_ALL, [low.into(), high.into()]);
        self.script.add(FORGET_EVENTS, [low.into(), high.into()]);
        self.script.add(crate::lane_rows::DROP_ALL, [low.into(), high.into()]);
        self.script.add(FORGET_QUEUE, [Value::Int(number)]);
        self.queues[at].removed = true;
        Ok(ObliterateAnswer::Done)
    }
}
