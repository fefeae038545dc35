//! Batches: a job of a gated lane is claimed as the leader of those behind it, which are gathered out of the line and wait
//! Blocked, by (batch, seq), until they are settled under the leader's lease. What a batch goes through with its leader is
//! here too: it goes back with it, gets another, or fails with it.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use ferroq_core::event::EventKind;
use ferroq_core::job::{BatchNumber, ErrorKind, FailReason, JobId, JobRecord, JobState, Move, QueueName, transition};
use ferroq_core::policy::batch::{BatchGate, Fate, Spent, fate};
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::enqueue::{is_expired, next_epoch};
use ferroq_core::policy::settle::EXPIRED_MESSAGE;
use ferroq_core::storage::{
    Batches, Claim, GatherAnswer, Lease, MembersAnswer, MembersPage, MembersRequest, StorageError,
};

use crate::MemoryStorage;
use crate::queue::QueueState;
use crate::renew::Stale;
use crate::roster::Key;
use crate::storage::invalid;
use crate::turn::{Turn, wait};

/// A batch that has not ended.
#[derive(Debug)]
struct Batch {
    /// Who leads it; nobody while its next leader is not chosen, and in a batch that fails.
    leader: Option<JobId>,
    /// How many it may be, with its leader.
    size: u32,
    /// How many were gathered, with its first leader.
    gathered: u32,
    /// Whether none come to it any more.
    formed: bool,
    /// The counters of its leader when it came to lead, and what was spent before.
    then: Spent,
    before: Spent,
    /// What becomes of the members now that the leader is lost.
    fate: Option<Fate>,
}

impl Batch {
    /// What it has spent, given its leader.
    fn spent(&self, leader: &JobRecord) -> Spent {
        Spent::grown(Spent::of(leader), self.then, self.before)
    }
}

/// The batches of a queue.
#[derive(Debug, Default)]
pub(crate) struct BatchBook {
    last: i64,
    batches: BTreeMap<BatchNumber, Batch>,
    /// Those whose members are to fail.
    failing: BTreeSet<BatchNumber>,
}

impl BatchBook {
    /// Who leads a batch.
    pub(crate) fn leader(&self, batch: BatchNumber) -> Option<JobId> {
        self.batches.get(&batch)?.leader
    }

    /// Whether there are members that are to fail.
    pub(crate) fn has_failing(&self) -> bool {
        !self.failing.is_empty()
    }
}

impl QueueState {
    /// The leader's record, if this batch has one that is Active.
    fn active_leader(&self, batch: BatchNumber) -> Option<&JobRecord> {
        let leader = self.batches.batches.get(&batch)?.leader?;
        let record = self.roster.get(self.roster.key(leader)?);
        (record.state == JobState::Active).then_some(record)
    }

    /// The batch of which this is the current lease of the leader.
    fn led(&self, lease: Lease) -> Result<(BatchNumber, Key), Stale> {
        let key = self.current(lease)?;
        self.roster.get(key).batch.map(|batch| (batch, key)).ok_or(Stale::Lost)
    }

    /// What a batch has spent, if this is a member of it and its leader holds the lease with this epoch.
    pub(crate) fn spent_under(&self, record: &JobRecord, epoch: i64) -> Option<Spent> {
        let batch = record.batch.filter(|_| record.state == JobState::Blocked)?;
        let leader = self.active_leader(batch).filter(|leader| leader.epoch == epoch)?;
        Some(self.batches.batches.get(&batch)?.spent(leader))
    }
}

impl Turn<'_> {
    /// Makes a job that was just claimed through a gate the leader of a new batch, and gathers its first members. Answers how
    /// many jobs were looked at.
    pub(crate) fn open_batch(&mut self, claim: &mut Claim, gate: &BatchGate, max_items: usize) -> usize {
        let book = &mut self.queue.batches;
        book.last += 1;
        let number = BatchNumber(book.last);
        let batch = Batch {
            leader: Some(claim.lease.id),
            size: gate.size,
            gathered: 1,
            formed: false,
            then: Spent { attempts: claim.attempts, crashes: claim.crashes, runs: claim.run },
            before: Spent::default(),
            fate: None,
        };
        book.batches.insert(number, batch);
        claim.batch = Some(number);
        let Some(key) = self.queue.roster.key(claim.lease.id) else { return 0 };
        self.queue.roster.get_mut(key).batch = Some(number);
        self.gather_into(number, key, max_items)
    }

    /// Gathers members out of the line of the leader's lane, looking at up to so many jobs. Answers at how many.
    fn gather_into(&mut self, number: BatchNumber, leader: Key, max_items: usize) -> usize {
        let leader = self.queue.roster.get(leader);
        let (lane, kind) = (leader.spec.lane.clone(), leader.spec.kind.clone());
        let (epoch, worker) = (leader.epoch, leader.worker.clone());
        let mut looked_at = 0;
        loop {
            let roster = &mut self.queue.roster;
            let number_of_lane = roster.lanes.number(&lane);
            let head = roster.lanes.first(number_of_lane);
            let fits = |record: &JobRecord| record.batch.is_none() && record.spec.kind == kind && record.epoch < epoch;
            let head = head.filter(|key| fits(roster.get(*key)));
            let Some(batch) = self.queue.batches.batches.get_mut(&number) else { return looked_at };
            batch.formed |= batch.gathered >= batch.size || head.is_none();
            let Some(key) = head.filter(|_| !batch.formed && looked_at < max_items) else { return looked_at };
            looked_at += 1;
            if self.expire(key) {
                continue;
            }
            if let Some(batch) = self.queue.batches.batches.get_mut(&number) {
                batch.gathered += 1;
            }
            let roster = &mut self.queue.roster;
            let record = roster.get(key);
            debug_assert!(transition(record.state, Move::Gather).is_some());
            if record.runs == 0 && record.spec.dedup.is_some() {
                self.queue.keys.free(&record.spec, Exit::Started);
            }
            let (now, worker) = (self.now, worker.clone());
            self.events.job(EventKind::Started, record.id());
            roster.change(key, |record| {
                record.state = JobState::Blocked;
                record.batch = Some(number);
                record.runs = record.runs.saturating_add(1);
                record.started_at = Some(now);
                record.epoch = epoch;
                record.worker = worker;
            });
        }
    }

    /// Fails a job that is too old to start; whether it was.
    pub(crate) fn expire(&mut self, key: Key) -> bool {
        let now = self.now;
        let record = self.queue.roster.get_mut(key);
        if !is_expired(record.expires_at, now) {
            return false;
        }
        record.notes.push_error(now, record.runs, ErrorKind::Expired, EXPIRED_MESSAGE);
        self.events.job(EventKind::Failed, record.id());
        self.end(key, JobState::Failed, Some(FailReason::Expired));
        true
    }

    fn gather(&mut self, lease: Lease, max_items: usize) -> GatherAnswer {
        let (number, leader) = match self.queue.led(lease) {
            Ok(led) => led,
            Err(Stale::Lost) => return GatherAnswer::LeaseLost,
            Err(Stale::Gone) => return GatherAnswer::Gone,
        };
        self.gather_into(number, leader, max_items);
        self.place_heirs();
        let members = self.queue.roster.members(number).count() as u64;
        let formed = self.queue.batches.batches.get(&number).is_none_or(|batch| batch.formed);
        GatherAnswer::Gathered { members, formed }
    }

    /// A job that is or was in a batch goes back in line, and is Active no longer. Answers the batch that it stays in.
    pub(crate) fn step_back(&mut self, key: Key) -> Option<BatchNumber> {
        let record = self.queue.roster.get(key);
        let number = record.batch?;
        let batch = self.queue.batches.batches.get_mut(&number).filter(|batch| batch.leader == Some(record.id()))?;
        batch.formed = true;
        if self.queue.roster.members(number).next().is_none() {
            self.queue.batches.batches.remove(&number);
            return None;
        }
        Some(number)
    }

    /// A job leaves its batch for good, ended (with this reason, if it failed) or removed.
    pub(crate) fn leave_batch(&mut self, key: Key, failure: Option<FailReason>) {
        let record = self.queue.roster.get(key);
        let Some(number) = record.batch else { return };
        self.orphans.push(number);
        if let Some(batch) = self.queue.batches.batches.get_mut(&number)
            && batch.leader == Some(record.id())
        {
            (batch.leader, batch.formed) = (None, true);
            batch.before = batch.spent(record);
            batch.fate = Some(fate(failure, &record.notes.errors));
        }
    }

    /// Gives batches that lost their leader another, or marks them as failing, and forgets those without members.
    pub(crate) fn pass_on(&mut self) {
        for number in std::mem::take(&mut self.orphans) {
            let Some(batch) = self.queue.batches.batches.get_mut(&number) else { continue };
            let Some(fate) = &batch.fate else { continue };
            let Some(key) = self.queue.roster.members(number).next() else {
                self.queue.batches.batches.remove(&number);
                self.queue.batches.failing.remove(&number);
                continue;
            };
            if let Fate::Fail(_) = fate {
                self.queue.batches.failing.insert(number);
                continue;
            }
            let now = self.now;
            let id = self.queue.roster.get(key).id();
            let before = batch.before;
            (batch.leader, batch.fate) = (Some(id), None);
            batch.then = self.queue.roster.change(key, |record| {
                bear(record, before.borne(Spent::of(record), &record.spec.options));
                record.epoch = next_epoch(record.epoch, now);
                record.due_at = now;
                wait(record);
                Spent::of(record)
            });
            self.events.job(EventKind::Promoted, id);
            self.hints.work = true;
        }
    }

    /// Fails up to so many members of batches that failed; how many there were.
    pub(crate) fn fail_members(&mut self, max_items: usize) -> usize {
        let mut failed = 0;
        while failed < max_items
            && let Some(&number) = self.queue.batches.failing.first()
        {
            let doom =
                self.queue.batches.batches.get(&number).and_then(|batch| Some((batch.fate.clone()?, batch.before)));
            let key = self.queue.roster.members(number).next();
            let (Some((Fate::Fail(doom), before)), Some(key)) = (doom, key) else {
                self.queue.batches.failing.remove(&number);
                continue;
            };
            let now = self.now;
            let record = self.queue.roster.get_mut(key);
            bear(record, before.borne_to_the_end(Spent::of(record)));
            record.epoch = next_epoch(record.epoch, now);
            record.notes.push_error(now, record.runs, doom.kind, &doom.message);
            self.events.job(EventKind::Failed, record.id());
            self.end(key, JobState::Failed, Some(FailReason::WithBatch));
            self.place_heirs();
            failed += 1;
        }
        failed
    }
}

#[async_trait]
impl Batches for MemoryStorage {
    async fn gather(&self, queue: &QueueName, lease: Lease, max_items: usize) -> Result<GatherAnswer, StorageError> {
        let others = |queue: &QueueState, _| queue.config.dead_letter.iter().cloned().collect();
        self.write_across(queue, others, |across, clock| {
            if !across.home.exists {
                return Ok(GatherAnswer::Gone);
            }
            Ok(across.turn(clock, |turns| turns.home.gather(lease, max_items)))
        })
    }

    async fn members(&self, request: MembersRequest) -> Result<MembersAnswer, StorageError> {
        if request.max_items == 0 {
            return Err(invalid("a page of members holds one at least"));
        }
        self.read(&request.queue, |queue| {
            let (number, leader) = match queue.led(request.lease) {
                Ok(led) => led,
                Err(Stale::Lost) => return MembersAnswer::LeaseLost,
                Err(Stale::Gone) => return MembersAnswer::Gone,
            };
            let leader = queue.roster.get(leader);
            let mut page = MembersPage::default();
            let batch = queue.batches.batches.get(&number);
            page.formed = batch.is_none_or(|batch| batch.formed);
            let spent = batch.map(|batch| batch.spent(leader)).unwrap_or_default();
            let (mut bytes, mut last) = (0_usize, None);
            for key in queue.roster.members_after(number, request.after) {
                let record = queue.roster.get(key);
                bytes = bytes.saturating_add(record.spec.payload.len());
                if page.members.len() == request.max_items || !page.members.is_empty() && bytes > request.max_bytes {
                    page.next = last;
                    break;
                }
                last = Some(record.seq);
                page.members.push(member(record, leader.epoch, spent));
            }
            MembersAnswer::Page(page)
        })
    }
}

/// Gives a member the counters that it has bearing what its batch spent.
pub(crate) fn bear(record: &mut JobRecord, counters: Spent) {
    (record.attempts, record.crashes, record.runs) = (counters.attempts, counters.crashes, counters.runs);
}

/// A member as its leader's worker gets it.
fn member(record: &JobRecord, epoch: i64, spent: Spent) -> Claim {
    let counters = spent.borne(Spent::of(record), &record.spec.options);
    Claim {
        lease: Lease { id: record.id(), epoch },
        spec: record.spec.clone(),
        attempts: counters.attempts,
        crashes: counters.crashes,
        run: counters.runs,
        coalesced: record.coalesced,
        created_at: record.created_at,
        started_at: record.started_at.unwrap_or_default(),
        checkpoint: record.notes.checkpoint.clone(),
        solo: false,
        batch: None,
    }
}
