//! The visit of a lane that has a gate: when that is open, the first job is claimed and leads those behind it, which are
//! gathered out of the line by one question and one statement, however many they are. Gathering goes on here, and here the
//! members are read.

use std::collections::{HashMap, VecDeque};

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{BatchNumber, JobKind, JobState, QueueName, Slot};
use ferroq_core::policy::batch::{BatchGate, GATE_LOOKS_MAX, GATHER_ITEMS_MAX, SetBack, Spent};
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::enqueue::is_expired;
use ferroq_core::storage::{
    Claim, ClaimSpec, GatherAnswer, Lease, MembersAnswer, MembersPage, MembersRequest, StorageError,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::batches::{opened, read_past};
use crate::error::{invalid, unexpected};
use crate::jobs::claim::{CLAIMABLE, HEADS, Look, Looked, limit, read_line};
use crate::record::{Unreadable, hex, numbers_json};
use crate::row::{INLINE_BYTES_MAX, Row, key, place, select_rows};
use crate::unit::{Unit, first_int};

/// A batch, by key.
pub(crate) const BATCH: &str = "SELECT size,gathered,members,formed,spent FROM ferroq_batches WHERE key=?";
/// Members of a batch, by `ferroq_jobs_by_place`.
pub(crate) const MEMBERS: &str = select_rows!(
    "(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? AND rank=? AND key>? ORDER BY key LIMIT ?+0)"
);
/// Makes jobs members, by key.
pub(crate) const GATHER: &str = "UPDATE ferroq_jobs SET place=?,rank=?,batch=?,epoch=?,runs=runs+1,started_at=?,worker=? WHERE key IN \
    (SELECT value FROM json_each(?))";
/// Frees keys, by the primary key of `ferroq_dedup`.
pub(crate) const FREE_KEYS: &str = "DELETE FROM ferroq_dedup WHERE (queue,key,holder) IN (SELECT value->>0,value->>1,\
    unhex(value->>2) FROM json_each(?))";
/// When the first of a lane's line came due, of so many, by `ferroq_jobs_by_place`; those up to a seq, within two instants, at the
/// first of these.
pub(crate) const FIRST_DUE: &str = "SELECT min(iif(abs(key-?)<=? AND due_at>? AND due_at<=?,?,due_at)) FROM (SELECT key,due_at FROM     ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? ORDER BY rank,key LIMIT ?+0)";
const LEADS: &str = "UPDATE ferroq_jobs SET batch=? WHERE key=?";
const OPEN: &str = "INSERT INTO ferroq_batches (key,leader,size,gathered,members,formed,spent) VALUES (?,?,?,?,?,?,?)";
const GROW: &str = "UPDATE ferroq_batches SET gathered=?,members=members+?,formed=? WHERE key=?";
/// How many members are read at once, with payloads that may be long.
const MEMBERS_READ: usize = 128;

const MIN: Timestamp = Timestamp::from_micros(i64::MIN);

/// The lane that is visited.
pub(super) struct Gated<'g> {
    pub(super) lane: i64,
    pub(super) gate: &'g BatchGate,
    /// How many jobs may be looked at, and claimed.
    pub(super) max_items: usize,
    pub(super) room: u32,
    /// The first of its line, as far as they were read.
    pub(super) rows: VecDeque<Row>,
}

/// What a visit came to.
#[derive(Debug, Default)]
pub(super) struct Visit {
    pub(super) looked_at: usize,
    pub(super) started: u32,
    pub(super) too_large: bool,
    /// Whether the gate is closed, and the lane held.
    pub(super) held: bool,
}

/// Whom a batch is gathered for.
struct Leader {
    kind: i64,
    epoch: i64,
    worker: String,
    lane: i64,
}

/// Jobs that became members, and are still to be written.
#[derive(Default)]
struct Members {
    keys: Vec<i64>,
    /// The dedup keys that they free, with queue and holder.
    freed: Vec<(i64, String, String)>,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug)]
struct Growth {
    size: u32,
    gathered: u32,
    members: i64,
    formed: bool,
}

impl Unit<'_> {
    /// Visits a lane that has a gate.
    pub(super) async fn visit_gate(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        kinds: &HashMap<i64, &JobKind>,
        gated: Gated<'_>,
        looked: &mut Looked,
    ) -> Result<Visit, StorageError> {
        let Gated { lane, gate, max_items, room, mut rows } = gated;
        let mut visit = Visit::default();
        while visit.looked_at < max_items && visit.started < room {
            self.resolve_lanes().await?;
            if self.queues[at].lanes.waiting(lane, self.queues[at].in_line()) <= 0 {
                break;
            }
            if rows.is_empty() {
                self.hand_out(at, claim, looked);
                rows = self.head_of(at, lane).await?.into();
            }
            let Some(row) = rows.pop_front() else { break };
            if row.batch.is_none() && !self.is_open(at, lane, gate).await? {
                visit.held = true;
                break;
            }
            let (key, kind, leads) = (row.key, row.kind, row.batch.is_some());
            match self.look_at(at, claim, kinds, row, false, looked).await? {
                Look::Claimed if leads => visit.started += 1,
                Look::Claimed => {
                    visit.started += 1;
                    self.open_batch(at, claim, gate, (lane, key, kind), looked).await?;
                    rows.clear();
                    if looked.gathered >= GATHER_ITEMS_MAX {
                        visit.looked_at += 1;
                        visit.too_large = true;
                        break;
                    }
                }
                Look::Passed => {}
                Look::TooLarge => {
                    visit.too_large = true;
                    break;
                }
            }
            visit.looked_at += 1;
        }
        self.resolve_lanes().await?;
        Ok(visit)
    }

    /// Whether a gate lets the jobs of a lane start. If it doesn't, the lane is held.
    async fn is_open(&mut self, at: usize, lane: i64, gate: &BatchGate) -> Result<bool, StorageError> {
        let queue = &self.queues[at];
        let (now, set_back) = (queue.now, queue.lanes.set_back);
        let waiting = queue.lanes.waiting(lane, queue.in_line()).max(0).unsigned_abs();
        if waiting >= u64::from(gate.size) {
            return Ok(true);
        }
        let since = self.first_due(at, lane, set_back).await?.unwrap_or(now);
        if gate.is_open(waiting, since, now) {
            return Ok(true);
        }
        self.queues[at].lanes.hold(lane, gate, since);
        Ok(false)
    }

    /// When the first of those jobs of a lane's line came due at which its gate looks.
    pub(crate) async fn first_due(
        &mut self,
        at: usize,
        lane: i64,
        set_back: Option<SetBack>,
    ) -> Result<Option<Timestamp>, StorageError> {
        let queue = self.queues[at].number;
        let line = place(queue, JobState::Waiting, Slot::Lane, lane);
        let SetBack { seq, from, to } = set_back.unwrap_or(SetBack { seq: -1, from: MIN, to: MIN });
        let (from, to) = (from.as_micros(), to.as_micros());
        let values = [key(queue, 0), seq, to, from, to, line].map(Into::into).into_iter();
        let values = values.chain([limit(GATE_LOOKS_MAX).into()]).collect();
        let [answer] = self.ask([(FIRST_DUE, values)]).await?;
        Ok(first_int(&answer).map(Timestamp::from_micros))
    }

    /// The first job of a lane's line.
    async fn head_of(&mut self, at: usize, lane: i64) -> Result<Vec<Row>, StorageError> {
        let number = self.queues[at].number;
        let line = place(number, JobState::Waiting, Slot::Lane, lane);
        let inline = limit(INLINE_BYTES_MAX);
        let delayed = self.queues[at].place(JobState::Delayed);
        let values = vec![inline.into(), inline.into(), delayed.into(), line.into(), limit(1).into()];
        let [answer] = self.ask([(CLAIMABLE, values)]).await?;
        read_line(&answer)
    }

    /// Makes the job that was just claimed through a gate the leader of a new batch, and gathers its first members.
    async fn open_batch(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        gate: &BatchGate,
        (lane, leader, kind): (i64, i64, i64),
        looked: &mut Looked,
    ) -> Result<(), StorageError> {
        self.hand_out(at, claim, looked);
        let number = self.queues[at].lanes.next_batch();
        let Some(claimed) = looked.claims.last_mut() else { return Ok(()) };
        claimed.batch = Some(BatchNumber(number));
        let lease = claimed.lease;
        let counters = Spent { attempts: claimed.attempts, crashes: claimed.crashes, runs: claimed.run };
        self.script.add(LEADS, [number.into(), leader.into()]);
        let remembered = self.active.get_mut(&self.queues[at].name);
        if let Some(row) = remembered.and_then(|active| active.get_mut(&lease.id)) {
            row.batch = Some(number);
        }
        let worker = claim.worker.as_str().to_owned();
        let whom = Leader { kind, epoch: lease.epoch, worker, lane };
        let growth = Growth { size: gate.size, gathered: 1, members: 0, formed: false };
        let most = GATHER_ITEMS_MAX - looked.gathered;
        let (growth, looked_at) = self.gather_into(at, number, &whom, growth, most).await?;
        looked.gathered += looked_at;
        let values = [
            key(self.queues[at].number, number).into(),
            leader.into(),
            i64::from(growth.size).into(),
            i64::from(growth.gathered).into(),
            growth.members.into(),
            i64::from(growth.formed).into(),
            opened(counters).into(),
        ];
        self.script.add(OPEN, values);
        Ok(())
    }

    /// Gathers members out of the line of the leader's lane, looking at up to so many jobs. Answers at how many, too.
    async fn gather_into(
        &mut self,
        at: usize,
        number: i64,
        leader: &Leader,
        mut growth: Growth,
        max_items: usize,
    ) -> Result<(Growth, usize), StorageError> {
        let Some(kind) = self.kind_name(leader.kind).await? else { return Ok((growth, 0)) };
        let (queue, name) = (self.queues[at].number, self.queues[at].name.clone());
        let line = place(queue, JobState::Waiting, Slot::Lane, leader.lane);
        let fits = |row: &Row| row.batch.is_none() && row.kind == leader.kind && row.epoch < leader.epoch;
        let (mut looked_at, mut rows, mut is_all) = (0, VecDeque::new(), false);
        let mut members = Members::default();
        loop {
            if growth.gathered >= growth.size {
                growth.formed = true;
                break;
            }
            if rows.is_empty() && !is_all {
                self.write_members(at, number, leader, &mut members);
                let wanted = usize::try_from(growth.size - growth.gathered).unwrap_or(usize::MAX);
                let wanted = wanted.min(max_items - looked_at).saturating_add(1);
                let [answer] = self.ask([(HEADS, vec![line.into(), limit(wanted).into()])]).await?;
                rows = self.rows(&answer, false).await?.into();
                is_all = rows.len() < wanted;
            }
            if !rows.front().is_some_and(fits) {
                growth.formed = true;
                break;
            }
            if looked_at == max_items {
                break;
            }
            let Some(row) = rows.pop_front() else { break };
            looked_at += 1;
            if self.take_member(at, &name, &kind, row, &mut members).await? {
                growth.gathered += 1;
                growth.members += 1;
            }
        }
        self.write_members(at, number, leader, &mut members);
        Ok((growth, looked_at))
    }

    /// Looks at a job that is to be a member, and answers whether it is.
    async fn take_member(
        &mut self,
        at: usize,
        name: &QueueName,
        kind: &JobKind,
        row: Row,
        members: &mut Members,
    ) -> Result<bool, StorageError> {
        let read = row.spec(name, kind).and_then(|spec| row.read_notes().map(|_| spec));
        let spec = match read {
            Ok(spec) => spec,
            Err(Unreadable(part)) => {
                self.quarantine(at, row, part);
                return Ok(false);
            }
        };
        if is_expired(row.expires_at, self.queues[at].now) {
            self.expire(at, row).await?;
            return Ok(false);
        }
        if let Some(dedup) = spec.dedup.as_ref().filter(|dedup| row.runs == 0 && dedup.mode.frees(Exit::Started)) {
            let mut holder = String::new();
            hex(&row.id, &mut holder);
            members.freed.push((row.queue(), dedup.key.as_str().to_owned(), holder));
        }
        let queue = &mut self.queues[at];
        queue.leave(&row);
        queue.shift(JobState::Blocked, Slot::Lane, 1);
        queue.event(EventKind::Started, row.id);
        members.keys.push(row.key);
        Ok(true)
    }

    fn write_members(&mut self, at: usize, number: i64, leader: &Leader, members: &mut Members) {
        let Members { keys, freed } = std::mem::take(members);
        if keys.is_empty() {
            return;
        }
        let queue = &self.queues[at];
        let values = [
            queue.place(JobState::Blocked).into(),
            number.into(),
            number.into(),
            leader.epoch.into(),
            queue.now.as_micros().into(),
            leader.worker.as_str().into(),
            numbers_json(keys).into(),
        ];
        self.script.add(GATHER, values);
        if !freed.is_empty() {
            self.script.add(FREE_KEYS, [serde_json::to_string(&freed).unwrap_or_default().into()]);
        }
    }

    /// Gathers more members of a batch.
    pub(crate) async fn gather(
        &mut self,
        queue: &QueueName,
        lease: Lease,
        max_items: usize,
    ) -> Result<GatherAnswer, StorageError> {
        let Some(at) = self.queue(queue).await? else { return Ok(GatherAnswer::Gone) };
        let Some(row) = self.by_ids(at, [&lease.id]).await?.remove(&lease.id) else { return Ok(GatherAnswer::Gone) };
        let Some(number) = led(&row, lease) else { return Ok(GatherAnswer::LeaseLost) };
        let batch_key = key(self.queues[at].number, number);
        let [found] = self.ask([(BATCH, vec![batch_key.into()])]).await?;
        let Some(mut growth) = found.first().map(read_growth).transpose()? else {
            return Ok(GatherAnswer::Gathered { members: 0, formed: true });
        };
        if !growth.formed {
            let lane = row.lane();
            self.load_lanes(at, std::slice::from_ref(&lane)).await?;
            let before = growth;
            growth = match self.queues[at].lanes.known_number(&lane) {
                Some(lane) => {
                    let worker = row.worker.as_deref().unwrap_or_default().to_owned();
                    let leader = Leader { kind: row.kind, epoch: row.epoch, worker, lane };
                    self.gather_into(at, number, &leader, growth, max_items).await?.0
                }
                None => Growth { formed: true, ..growth },
            };
            let came = growth.members - before.members;
            let values = [i64::from(growth.gathered), came, i64::from(growth.formed), batch_key];
            self.script.add(GROW, values.map(Into::into));
        }
        self.place_heirs().await?;
        self.post().await?;
        Ok(GatherAnswer::Gathered { members: growth.members.max(0).unsigned_abs(), formed: growth.formed })
    }

    /// Reads members of a batch.
    pub(crate) async fn members(&mut self, request: &MembersRequest) -> Result<MembersAnswer, StorageError> {
        if request.max_items == 0 {
            return Err(invalid("a page of members holds one at least"));
        }
        let Some(at) = self.queue(&request.queue).await? else { return Ok(MembersAnswer::Gone) };
        let lease = request.lease;
        let Some(leader) = self.by_ids(at, [&lease.id]).await?.remove(&lease.id) else {
            return Ok(MembersAnswer::Gone);
        };
        let Some(number) = led(&leader, lease) else { return Ok(MembersAnswer::LeaseLost) };
        let queue = self.queues[at].number;
        let [found] = self.ask([(BATCH, vec![key(queue, number).into()])]).await?;
        let growth = found.first().map(read_growth).transpose()?;
        let (then, before) = found.first().map(|row| read_past(row, 4)).unwrap_or_default();
        let spent = Spent::grown(leader.counters(), then, before);
        let mut page = MembersPage { formed: growth.is_none_or(|growth| growth.formed), ..MembersPage::default() };
        let standing = place(queue, JobState::Blocked, Slot::Lane, 0);
        let mut after = request.after.map_or(i64::MIN, |seq| key(queue, seq));
        let (mut bytes, mut last) = (0_usize, None);
        loop {
            let wanted = (request.max_items - page.members.len()).saturating_add(1).min(MEMBERS_READ);
            let values = vec![standing.into(), number.into(), after.into(), limit(wanted).into()];
            let [answer] = self.ask([(MEMBERS, values)]).await?;
            let rows = self.rows(&answer, true).await?;
            let is_all = rows.len() < wanted;
            for row in rows {
                bytes = bytes.saturating_add(row.payload_len);
                let is_full = page.members.len() == request.max_items;
                if is_full || (!page.members.is_empty() && bytes > request.max_bytes) {
                    page.next = last;
                    return Ok(MembersAnswer::Page(page));
                }
                (after, last) = (row.key, Some(row.seq()));
                let kind = self.kind_name(row.kind).await?;
                page.members.extend(kind.and_then(|kind| member(&row, &request.queue, &kind, lease.epoch, spent)));
            }
            if is_all {
                return Ok(MembersAnswer::Page(page));
            }
        }
    }
}

/// The batch that a job leads under this lease.
fn led(row: &Row, lease: Lease) -> Option<i64> {
    row.batch.filter(|_| row.state() == JobState::Active && row.epoch == lease.epoch)
}

fn read_growth(row: &SqliteRow) -> Result<Growth, StorageError> {
    let int = |column: usize| row.try_get_unchecked::<i64, _>(column).map_err(|_| unexpected("a batch"));
    let count = |column: usize| Ok(u32::try_from(int(column)?).unwrap_or(u32::MAX));
    Ok(Growth { size: count(0)?, gathered: count(1)?, members: int(2)?, formed: int(3)? != 0 })
}

/// A member as its leader's worker gets it, if it can be read.
fn member(row: &Row, queue: &QueueName, kind: &JobKind, epoch: i64, spent: Spent) -> Option<Claim> {
    let spec = row.spec(queue, kind).ok()?;
    let notes = row.read_notes().ok()?;
    let counters = spent.borne(row.counters(), &spec.options);
    Some(Claim {
        lease: Lease { id: row.id, epoch },
        spec: spec.into(),
        attempts: counters.attempts,
        crashes: counters.crashes,
        run: counters.runs,
        coalesced: row.coalesced(),
        created_at: row.created_at,
        started_at: row.started_at.unwrap_or_default(),
        checkpoint: notes.checkpoint,
        solo: false,
        batch: None,
    })
}
