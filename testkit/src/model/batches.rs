//! Batches, on the model: a gate lets jobs of a lane start together, under the lease of one of them. What a batch has spent is
//! kept as the counters that its leader had when it came to lead, and what was spent before that.

use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{BatchNumber, ErrorKind, FailReason, JobId, JobRecord, JobState, QueueName};
use ferroq_core::storage::{Claim, GatherAnswer, Lease, MembersAnswer, MembersPage, MembersRequest};

use super::Model;
use super::leave::Left;
use super::queue::{QueueModel, add_error, epoch_after};

/// When a lane's jobs start: at so many, or when one has waited so long.
pub(super) type Gate = (u32, Duration);

/// Attempts, crashes and runs.
type Counters = (u32, u32, u32);

#[derive(Clone, Debug)]
pub(super) struct BatchModel {
    number: BatchNumber,
    leader: Option<JobId>,
    size: u32,
    gathered: u32,
    formed: bool,
    then: Counters,
    before: Counters,
    /// The last error of the leader that took all members along.
    doom: Option<(ErrorKind, String)>,
}

fn counters(job: &JobRecord) -> Counters {
    (job.attempts, job.crashes, job.runs)
}

/// A member's counters, with what its batch has spent; within its budgets, as long as it may run again.
fn bearing(job: &JobRecord, spent: Counters, may_run: bool) -> Counters {
    let options = &job.spec.options;
    let mut attempts = job.attempts + spent.0;
    let mut crashes = job.crashes + spent.1;
    if may_run {
        attempts = attempts.min(options.max_attempts.max(1) - 1).max(job.attempts);
        crashes = crashes.min(options.max_crashes.max(1) - 1).max(job.crashes);
    }
    (attempts, crashes, job.runs + spent.2)
}

impl QueueModel {
    /// The members of a batch, in their order.
    fn members_of(&self, number: BatchNumber) -> Vec<&JobRecord> {
        let is_member = |job: &&JobRecord| job.state == JobState::Blocked && job.batch == Some(number);
        let mut members: Vec<&JobRecord> = self.jobs.iter().filter(is_member).collect();
        members.sort_by_key(|job| job.seq);
        members
    }

    fn batch(&mut self, number: BatchNumber) -> Option<&mut BatchModel> {
        self.batches.iter_mut().find(|batch| batch.number == number)
    }

    fn spent(&self, batch: &BatchModel) -> Counters {
        let Some(leader) = batch.leader.and_then(|id| self.job(id)) else { return batch.before };
        let (now, then, before) = (counters(leader), batch.then, batch.before);
        (
            now.0.saturating_sub(then.0) + before.0,
            now.1.saturating_sub(then.1) + before.1,
            now.2.saturating_sub(then.2) + before.2,
        )
    }

    /// What the batch of this job has spent, if it is a member and its leader is Active under this epoch.
    pub(super) fn is_member_under(&self, id: JobId, epoch: i64) -> bool {
        let Some(job) = self.job(id).filter(|job| job.state == JobState::Blocked) else { return false };
        let batch = self.batches.iter().find(|batch| Some(batch.number) == job.batch);
        let leader = batch.and_then(|batch| batch.leader).and_then(|leader| self.job(leader));
        leader.is_some_and(|leader| leader.state == JobState::Active && leader.epoch == epoch)
    }

    /// A member leaves its batch to be settled: it bears what that has spent.
    pub(super) fn come_out(&mut self, id: JobId, epoch: i64) {
        let number = self.job(id).and_then(|job| job.batch);
        let Some(batch) = self.batches.iter().find(|batch| Some(batch.number) == number) else { return };
        let spent = self.spent(batch);
        if let Some(job) = self.find(id) {
            (job.attempts, job.crashes, job.runs) = bearing(job, spent, true);
            job.epoch = epoch;
        }
    }

    /// Who leads a batch.
    pub(super) fn leader_of(&self, number: BatchNumber) -> Option<JobId> {
        self.batches.iter().find(|batch| batch.number == number)?.leader
    }

    /// A job was claimed through a gate: it leads a new batch.
    pub(super) fn open_batch(&mut self, id: JobId, gate: Gate, max_items: usize) -> Option<(BatchNumber, usize)> {
        self.last_batch += 1;
        let number = BatchNumber(self.last_batch);
        let job = self.find(id)?;
        job.batch = Some(number);
        let then = counters(job);
        let batch = BatchModel {
            number,
            leader: Some(id),
            size: gate.0,
            gathered: 1,
            formed: false,
            then,
            before: (0, 0, 0),
            doom: None,
        };
        self.batches.push(batch);
        let looked_at = self.gather(number, max_items);
        Some((number, looked_at))
    }

    fn gather(&mut self, number: BatchNumber, max_items: usize) -> usize {
        let leader = self.batch(number).and_then(|batch| batch.leader);
        let Some(leader) = leader.and_then(|id| self.job(id)).cloned() else { return 0 };
        let mut looked_at = 0;
        loop {
            let head = self.in_line(&leader.spec.lane).first().copied();
            let head = head.and_then(|id| self.job(id)).cloned();
            let head = head
                .filter(|head| head.batch.is_none() && head.spec.kind == leader.spec.kind && head.epoch < leader.epoch);
            let Some(batch) = self.batch(number) else { return looked_at };
            if batch.gathered >= batch.size || head.is_none() {
                batch.formed = true;
            }
            let (Some(head), false, true) = (head, batch.formed, looked_at < max_items) else { break };
            looked_at += 1;
            let id = head.spec.id;
            if self.is_too_old(id) {
                continue;
            }
            if let Some(batch) = self.batch(number) {
                batch.gathered += 1;
            }
            if head.runs == 0 {
                self.let_go(id, Left::ForWork);
            }
            let now = self.now;
            if let Some(job) = self.find(id) {
                job.state = JobState::Blocked;
                job.batch = Some(number);
                job.runs += 1;
                job.started_at = Some(now);
                job.epoch = leader.epoch;
                job.worker = leader.worker.clone();
            }
            self.log(EventKind::Started, id);
            self.see_lanes();
        }
        self.see_lanes();
        looked_at
    }

    /// A job goes back in line: whether it stays in its batch.
    pub(super) fn steps_back(&mut self, id: JobId) {
        let Some(job) = self.job(id) else { return };
        let (state, number) = (job.state, job.batch);
        let Some(number) = number else { return };
        let has_members = !self.members_of(number).is_empty();
        let leads = state == JobState::Active;
        if leads && let Some(batch) = self.batch(number) {
            batch.formed = true;
        }
        let stays = (leads && has_members) || (!leads && state != JobState::Blocked);
        if !stays {
            if leads {
                self.batches.retain(|batch| batch.number != number);
            }
            if let Some(job) = self.find(id) {
                job.batch = None;
            }
        }
    }

    /// A job leaves its batch for good, for this reason if it failed.
    pub(super) fn leaves_batch(&mut self, id: JobId, failure: Option<FailReason>) {
        let Some(job) = self.job(id).cloned() else { return };
        let Some(number) = job.batch else { return };
        self.bereft.push(number);
        let Some(batch) = self.batches.iter().find(|batch| batch.number == number && batch.leader == Some(id)) else {
            return;
        };
        let spent = self.spent(batch);
        let for_good =
            matches!(failure, Some(FailReason::AttemptsExhausted | FailReason::CrashesExhausted | FailReason::Aborted));
        let last = job.notes.errors.last().map(|error| (error.kind, error.message.clone()));
        if let Some(batch) = self.batch(number) {
            batch.leader = None;
            batch.formed = true;
            batch.before = spent;
            batch.doom = last.filter(|_| for_good);
        }
    }

    /// Batches that lost their leader get another, unless they fail; those without members are no more.
    pub(super) fn pass_on(&mut self) {
        for number in std::mem::take(&mut self.bereft) {
            let Some(batch) = self.batches.iter().find(|batch| batch.number == number) else { continue };
            let (leader, doomed, spent) = (batch.leader, batch.doom.is_some(), batch.before);
            if leader.is_some() {
                continue;
            }
            let Some(next) = self.members_of(number).first().map(|job| job.spec.id) else {
                self.batches.retain(|batch| batch.number != number);
                continue;
            };
            if doomed {
                continue;
            }
            let now = self.now;
            if let Some(job) = self.find(next) {
                (job.attempts, job.crashes, job.runs) = bearing(job, spent, true);
                job.epoch = epoch_after(job.epoch, now);
                job.due_at = now;
                job.state = JobState::Waiting;
                job.slot = super::queue::line_of(job.crashes, &job.spec);
                let then = counters(job);
                if let Some(batch) = self.batch(number) {
                    (batch.leader, batch.then) = (Some(next), then);
                }
            }
            self.see_lanes();
            self.log(EventKind::Promoted, next);
        }
    }

    /// Whether there are members that fail with their batch.
    pub(super) fn has_doomed(&self) -> bool {
        self.batches.iter().any(|batch| batch.doom.is_some())
    }

    /// Members of batches that fail, as many as there is room for.
    pub(super) fn fail_members(&mut self, max_items: usize) -> usize {
        let mut failed = 0;
        while failed < max_items {
            let doomed = self.batches.iter().filter(|batch| batch.doom.is_some()).min_by_key(|batch| batch.number);
            let Some(batch) = doomed.cloned() else { break };
            let Some(id) = self.members_of(batch.number).first().map(|job| job.spec.id) else { break };
            let (now, (kind, message)) = (self.now, batch.doom.unwrap_or((ErrorKind::Error, String::new())));
            if let Some(job) = self.find(id) {
                (job.attempts, job.crashes, job.runs) = bearing(job, batch.before, false);
                job.epoch = epoch_after(job.epoch, now);
                add_error(job, now, kind, &message);
            }
            self.end(id, JobState::Failed, Some(FailReason::WithBatch));
            self.release_heirs();
            failed += 1;
        }
        failed
    }

    /// The batch that is led under this lease.
    fn led(&self, lease: Lease) -> Option<BatchNumber> {
        self.job(lease.id).filter(|_| self.holds(lease)).and_then(|job| job.batch)
    }
}

impl Model {
    pub(super) fn gather(
        &mut self,
        clock: Timestamp,
        name: &QueueName,
        lease: Lease,
        max_items: usize,
    ) -> GatherAnswer {
        let Some(queue) = self.queues.get_mut(name) else { return GatherAnswer::Gone };
        queue.begin(clock);
        let answer = match (queue.job(lease.id).is_some(), queue.led(lease)) {
            (false, _) => GatherAnswer::Gone,
            (_, None) => GatherAnswer::LeaseLost,
            (_, Some(number)) => {
                queue.gather(number, max_items);
                queue.release_heirs();
                let members = queue.members_of(number).len() as u64;
                let formed = queue.batch(number).is_none_or(|batch| batch.formed);
                GatherAnswer::Gathered { members, formed }
            }
        };
        queue.prune_by_count();
        self.post(clock, name);
        answer
    }

    pub(super) fn members(&self, request: &MembersRequest) -> MembersAnswer {
        let Some(queue) = self.queues.get(&request.queue) else { return MembersAnswer::Gone };
        if queue.job(request.lease.id).is_none() {
            return MembersAnswer::Gone;
        }
        let Some(number) = queue.led(request.lease) else { return MembersAnswer::LeaseLost };
        let Some(batch) = queue.batches.iter().find(|batch| batch.number == number) else {
            return MembersAnswer::LeaseLost;
        };
        let spent = queue.spent(batch);
        let after = |job: &&JobRecord| request.after.is_none_or(|after| job.seq > after);
        let all: Vec<&JobRecord> = queue.members_of(number).into_iter().filter(after).collect();
        let mut page = MembersPage { formed: batch.formed, ..MembersPage::default() };
        let mut bytes = 0;
        for (place, job) in all.iter().enumerate() {
            bytes += job.spec.payload.len();
            if place > 0 && (place == request.max_items || bytes > request.max_bytes) {
                page.next = Some(all[place - 1].seq);
                break;
            }
            let (attempts, crashes, run) = bearing(job, spent, true);
            page.members.push(Claim {
                lease: Lease { id: job.spec.id, epoch: request.lease.epoch },
                spec: job.spec.clone(),
                attempts,
                crashes,
                run,
                coalesced: job.coalesced,
                created_at: job.created_at,
                started_at: job.started_at.unwrap_or_default(),
                checkpoint: job.notes.checkpoint.clone(),
                solo: false,
                batch: None,
            });
        }
        MembersAnswer::Page(page)
    }
}
