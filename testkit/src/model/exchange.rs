//! What a worker does, on the model: settle, claim, renew, annotate.

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{ErrorKind, FailReason, JobId, JobRecord, JobState, LaneKey, LogLine, QueueName, Slot};
use ferroq_core::storage::{
    Claim, ClaimAnswer, ClaimSpec, ExchangeAnswer, ExchangeRequest, Lease, Note, NoteAnswer, Outcome, RenewAnswer,
    RenewRequest, SettleAnswer, Settlement,
};

use super::Model;
use super::lanes::Served;
use super::leave::Left;
use super::queue::{QueueModel, add_error, cut, epoch_after, line_of};

/// How many jobs of the solo line one claim goes through.
const SOLO_GONE_THROUGH: usize = 1000;

impl Model {
    pub(super) fn exchange(&mut self, clock: Timestamp, request: &ExchangeRequest) -> ExchangeAnswer {
        if let Some(queue) = self.queues.get_mut(&request.queue) {
            queue.begin(clock);
            queue.attend();
        }
        let settled = request.settlements.iter().map(|one| self.settle(clock, &request.queue, one)).collect();
        let claimed = request.claim.as_ref().map(|claim| match self.queues.get_mut(&request.queue) {
            Some(queue) if !queue.config.paused => queue.claim(claim),
            _ => ClaimAnswer::default(),
        });
        if let Some(queue) = self.queues.get_mut(&request.queue) {
            queue.leave_attended();
            queue.prune_by_count();
        }
        self.post(clock, &request.queue);
        ExchangeAnswer { settled, claimed }
    }

    fn settle(&mut self, clock: Timestamp, name: &QueueName, settlement: &Settlement) -> SettleAnswer {
        let id = settlement.lease.id;
        let Some(queue) = self.queues.get_mut(name) else { return SettleAnswer::Gone };
        let now = queue.now;
        let of_batch = queue.is_member_under(id, settlement.lease.epoch);
        if of_batch {
            queue.come_out(id, settlement.lease.epoch);
        }
        let Some(job) = queue.find(id) else { return SettleAnswer::Gone };
        let in_batch = job.state == JobState::Blocked && job.batch.is_some();
        if job.epoch != settlement.lease.epoch || (in_batch && !of_batch) {
            return SettleAnswer::LeaseLost;
        }
        if job.state != JobState::Active && !of_batch {
            return SettleAnswer::AlreadyDone;
        }
        if let Outcome::Retry { error, .. } | Outcome::Abort { error } = &settlement.outcome {
            add_error(job, now, error.kind, &error.message);
            job.attempts += 1;
        }
        let lane = job.spec.lane.clone();
        let out_of_attempts = job.attempts >= job.spec.options.max_attempts;
        let cancel_requested = job.cancel_requested;
        let state = match &settlement.outcome {
            Outcome::Completed { result } => {
                job.notes.result = result.clone();
                queue.end(id, JobState::Completed, None)
            }
            // Work that is done stays done; everything else gives way to a request to cancel.
            _ if cancel_requested => queue.end(id, JobState::Cancelled, None),
            Outcome::Abort { .. } => queue.end(id, JobState::Failed, Some(FailReason::Aborted)),
            Outcome::Retry { .. } if out_of_attempts => {
                queue.end(id, JobState::Failed, Some(FailReason::AttemptsExhausted))
            }
            Outcome::Retry { delay, .. } => {
                queue.log(EventKind::Retrying, id);
                queue.stand(id, Some(now.after(*delay)))
            }
            Outcome::Snooze { delay } => {
                queue.log(EventKind::Snoozed, id);
                queue.stand(id, Some(now.after(*delay)))
            }
            Outcome::Release => {
                queue.log(EventKind::Released, id);
                queue.stand(id, None)
            }
            _ => queue.end(id, JobState::Cancelled, None),
        };
        // A member took no place under a limit.
        if !of_batch {
            queue.release(&lane);
        }
        queue.release_heirs();
        self.post(clock, name);
        let follow_ups = settlement
            .follow_ups
            .iter()
            .flat_map(|job| {
                // On the settled job's own queue the call has begun already, and beginning anew would forget what
                // it ended so far.
                if job.queue == *name {
                    self.queues.get_mut(name).map(|queue| vec![queue.insert(job)]).unwrap_or_default()
                } else {
                    self.enqueue(clock, &job.queue, std::slice::from_ref(job))
                }
            })
            .collect();
        SettleAnswer::Settled { state, follow_ups }
    }

    pub(super) fn renew(&mut self, clock: Timestamp, request: &RenewRequest) -> Vec<RenewAnswer> {
        let Some(queue) = self.queues.get_mut(&request.queue) else {
            return request.leases.iter().map(|_| RenewAnswer::Gone).collect();
        };
        queue.begin(clock);
        queue.attend();
        let now = queue.now;
        let mut answers = Vec::new();
        for lease in &request.leases {
            let current = queue.holds(*lease);
            answers.push(match queue.find(lease.id) {
                None => RenewAnswer::Gone,
                Some(_) if !current => RenewAnswer::LeaseLost,
                Some(job) => {
                    job.lease_until = Some(now.after(request.term));
                    job.lease_term = Some(request.term);
                    RenewAnswer::Renewed { cancel_requested: job.cancel_requested }
                }
            });
        }
        queue.leave_attended();
        answers
    }

    pub(super) fn annotate(&mut self, clock: Timestamp, name: &QueueName, notes: &[(Lease, Note)]) -> Vec<NoteAnswer> {
        let Some(queue) = self.queues.get_mut(name) else { return notes.iter().map(|_| NoteAnswer::Gone).collect() };
        queue.begin(clock);
        let now = queue.now;
        let mut answers = Vec::new();
        for (lease, note) in notes {
            let current = queue.holds(*lease);
            let Some(job) = queue.find(lease.id) else {
                answers.push(NoteAnswer::Gone);
                continue;
            };
            if !current {
                answers.push(NoteAnswer::LeaseLost);
                continue;
            }
            for line in &note.log {
                job.notes.log.push(LogLine { at: now, run: job.runs, text: cut(line, 1024) });
                if job.notes.log.len() > 100 {
                    job.notes.log.remove(0);
                }
            }
            if note.checkpoint.is_some() {
                job.notes.checkpoint = note.checkpoint.clone();
            }
            if note.progress.is_some() {
                job.notes.progress = note.progress.clone();
                queue.log(EventKind::Progress, lease.id);
            }
            answers.push(NoteAnswer::Noted);
        }
        answers
    }
}

/// What looking at a job in a line led to.
enum Look {
    Claimed,
    PutAside,
    NoRoom,
}

impl QueueModel {
    fn claim(&mut self, claim: &ClaimSpec) -> ClaimAnswer {
        self.clear_shelves(claim);
        self.promote_due(1000);
        self.bring_lanes_back();
        let mut claims = Vec::new();
        let mut solo_claimed = false;
        if claim.alone {
            let mut looked_at = 0;
            for id in self.first_in(Slot::Solo, SOLO_GONE_THROUGH) {
                if looked_at == claim.max_items || solo_claimed {
                    break;
                }
                if self.may_start(&self.lane_of(id)) {
                    looked_at += 1;
                    solo_claimed = matches!(self.look_at(id, claim, &mut claims, true), Look::Claimed);
                }
            }
        }
        let solo: Vec<LaneKey> =
            self.first_in(Slot::Solo, SOLO_GONE_THROUGH).into_iter().map(|id| self.lane_of(id)).collect();
        let solo_waiting = solo.iter().any(|lane| self.may_start(lane));
        let held = if solo_waiting { &[] } else { solo.as_slice() };
        let solo_opens: Vec<Timestamp> = held.iter().filter_map(|lane| self.opens_at(lane)).collect();
        let solo_held = !held.is_empty();
        if !solo_claimed {
            let mut to_gather = 1000;
            self.serve(claim.max_items, |queue, id, gate| match queue.look_at(id, claim, &mut claims, false) {
                Look::NoRoom => Served::NoRoom,
                Look::PutAside => Served::GoOn,
                Look::Claimed => {
                    if let (Some(gate), Some(made)) = (gate, claims.last_mut().filter(|made| made.batch.is_none())) {
                        let opened = queue.open_batch(id, gate, to_gather);
                        made.batch = opened.map(|(number, _)| number);
                        to_gather -= opened.map_or(0, |(_, looked_at)| looked_at);
                    }
                    if to_gather == 0 { Served::Enough } else { Served::GoOn }
                }
            });
        }
        self.release_heirs();
        let waiting =
            |slot: Slot| self.jobs.iter().filter(move |job| job.state == JobState::Waiting && job.slot == slot);
        let earliest = self.jobs.iter().filter(|job| job.state == JobState::Delayed).map(|job| job.due_at).min();
        let (more_in_lanes, lanes_open) = self.look_at_lanes_again();
        ClaimAnswer {
            claims,
            more: more_in_lanes
                || earliest.is_some_and(|at| at <= self.now)
                || waiting(Slot::Shelf).any(|job| claim.kinds.contains(&job.spec.kind)),
            look_again: earliest.into_iter().chain(lanes_open).chain(solo_opens).min().map(|at| at.since(self.now)),
            solo_waiting,
            solo_held,
        }
    }

    fn clear_shelves(&mut self, claim: &ClaimSpec) {
        let mut room = claim.max_items;
        for (place, kind) in claim.kinds.iter().enumerate() {
            if claim.kinds[..place].contains(kind) {
                continue;
            }
            let on_shelf = |job: &&JobRecord| job.state == JobState::Waiting && job.slot == Slot::Shelf;
            let mut shelf: Vec<&JobRecord> =
                self.jobs.iter().filter(on_shelf).filter(|job| job.spec.kind == *kind).collect();
            shelf.sort_by_key(|job| (job.priority, job.seq));
            let off: Vec<JobId> = shelf.into_iter().take(room).map(|job| job.spec.id).collect();
            room -= off.len();
            for id in off {
                if let Some(job) = self.find(id) {
                    job.slot = line_of(job.crashes, &job.spec);
                }
                self.see_lanes();
            }
        }
    }

    /// Promotes due jobs by (due time, seq), and says how many.
    pub(super) fn promote_due(&mut self, max_items: usize) -> usize {
        let now = self.now;
        let mut due: Vec<&JobRecord> =
            self.jobs.iter().filter(|job| job.state == JobState::Delayed && job.due_at <= now).collect();
        due.sort_by_key(|job| (job.due_at, job.seq));
        let ids: Vec<JobId> = due.iter().take(max_items).map(|job| job.spec.id).collect();
        for id in &ids {
            if let Some(job) = self.find(*id) {
                job.state = JobState::Waiting;
                job.slot = line_of(job.crashes, &job.spec);
            }
            self.see_lanes();
            self.log(EventKind::Promoted, *id);
        }
        ids.len()
    }

    fn lane_of(&self, id: JobId) -> LaneKey {
        self.job(id).map(|job| job.spec.lane.clone()).unwrap_or_default()
    }

    fn first_in(&self, slot: Slot, max_items: usize) -> Vec<JobId> {
        let mut line: Vec<&JobRecord> =
            self.jobs.iter().filter(|job| job.state == JobState::Waiting && job.slot == slot).collect();
        line.sort_by_key(|job| (job.priority, job.seq));
        line.iter().take(max_items).map(|job| job.spec.id).collect()
    }

    /// Fails a job that is too old to start; whether it was.
    pub(super) fn is_too_old(&mut self, id: JobId) -> bool {
        let now = self.now;
        let Some(job) = self.find(id).filter(|job| job.expires_at.is_some_and(|at| now > at)) else { return false };
        add_error(job, now, ErrorKind::Expired, "older than expires_in when its turn came");
        self.end(id, JobState::Failed, Some(FailReason::Expired));
        true
    }

    fn look_at(&mut self, id: JobId, claim: &ClaimSpec, claims: &mut Vec<Claim>, solo: bool) -> Look {
        let now = self.now;
        if self.is_too_old(id) {
            return Look::PutAside;
        }
        let Some(job) = self.find(id) else { return Look::PutAside };
        if !claim.kinds.contains(&job.spec.kind) {
            job.slot = Slot::Shelf;
            self.log(EventKind::Shelved, id);
            return Look::PutAside;
        }
        let bytes: usize = claims.iter().map(|claim| claim.spec.payload.len()).sum();
        if !claims.is_empty() && bytes + job.spec.payload.len() > claim.max_bytes {
            return Look::NoRoom;
        }
        if job.runs == 0 {
            self.let_go(id, Left::ForWork);
        }
        let Some(job) = self.find(id) else { return Look::PutAside };
        job.state = JobState::Active;
        job.slot = Slot::Lane;
        job.epoch = epoch_after(job.epoch, now);
        job.runs += 1;
        job.started_at = Some(now);
        job.lease_until = Some(now.after(claim.term));
        job.lease_term = Some(claim.term);
        job.worker = Some(claim.worker.clone());
        claims.push(Claim {
            lease: Lease { id, epoch: job.epoch },
            spec: job.spec.clone(),
            attempts: job.attempts,
            crashes: job.crashes,
            run: job.runs,
            coalesced: job.coalesced,
            created_at: job.created_at,
            started_at: now,
            checkpoint: job.notes.checkpoint.clone(),
            solo,
            batch: job.batch,
        });
        let lane = job.spec.lane.clone();
        self.note_start(&lane);
        if solo {
            self.group_starts(&lane);
        }
        self.log(EventKind::Started, id);
        Look::Claimed
    }
}
