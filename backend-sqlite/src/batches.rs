//! Batches that have not ended, as the database keeps them: a row for each, the members by their place, Blocked, in the order
//! of (batch, seq). What happens to a batch with its leader is here: it goes back with it, gets another, or fails with it.
//! Only the row and the next leader are looked at then, however many members there are. A call that meets no job of a batch
//! asks nothing.

use std::collections::{BTreeMap, HashMap};

use ferroq_core::event::EventKind;
use ferroq_core::job::{ErrorKind, FailReason, JobId, JobState};
use ferroq_core::policy::batch::{Doom, Fate, Spent, fate};
use ferroq_core::policy::enqueue::{line, next_epoch};
use ferroq_core::storage::StorageError;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::unexpected;
use crate::record::numbers_json;
use crate::row::{Row, key, key_range, select_heads, seq_of};
use crate::script::Script;
use crate::unit::{Ask, Unit};

/// Batches, and their leaders as far as they are Active, by key.
pub(crate) const LOAD: &str = "SELECT b.key,b.members,b.spent,j.place,j.epoch,j.attempts,j.crashes,j.runs FROM json_each(?) w \
    CROSS JOIN ferroq_batches b ON b.key=w.value LEFT JOIN ferroq_jobs j ON j.key=b.leader";
/// What is to become of a batch, by key.
pub(crate) const FATE: &str = "SELECT doom,spent,leader FROM ferroq_batches WHERE key=?";
/// The first members of a batch, by `ferroq_jobs_by_place`.
pub(crate) const FIRST_MEMBERS: &str = select_heads!(
    "(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? AND rank=? ORDER BY key LIMIT ?+0)"
);
/// The first batch that fails, by `ferroq_batches_failing`.
pub(crate) const FAILING: &str = "SELECT key,doom,spent FROM ferroq_batches INDEXED BY ferroq_batches_failing WHERE key BETWEEN ? \
    AND ? AND doom IS NOT NULL ORDER BY key LIMIT 1";
/// All batches of a queue that goes, by key.
pub(crate) const DROP_ALL: &str = "DELETE FROM ferroq_batches WHERE key BETWEEN ? AND ?";
/// The next batches with members, by `ferroq_jobs_by_place`, and whether nobody would ever come back to those: the row is gone,
/// or the leader's is, does not name the batch, or is in none of the states Waiting, Delayed and Active of the queue.
pub(crate) const MET: &str = "WITH RECURSIVE met(number) AS (SELECT min(rank) FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place \
    WHERE place=? AND rank>? UNION ALL SELECT (SELECT min(rank) FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE \
    place=? AND rank>number) FROM met WHERE number IS NOT NULL LIMIT ?+0) SELECT number,NOT EXISTS (SELECT 1 FROM \
    ferroq_batches b LEFT JOIN ferroq_jobs j ON j.key=b.leader WHERE b.key=?+number AND (b.doom IS NOT NULL OR \
    j.batch=number AND (j.place>>37)-(?<<3) IN (0,1,3))) FROM met WHERE number IS NOT NULL";
/// How many batches one sweep looks at to see whether they are whole.
const MEND_ITEMS: usize = 20;
/// Makes a batch whole as far as its row goes, by key; `ferroq_jobs_by_place` counts its members.
const MEND: &str = "INSERT INTO ferroq_batches (key,size,gathered,members,formed,spent) SELECT ?,0,0,count(*),1,? FROM \
    ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? AND rank=? ON CONFLICT (key) DO UPDATE SET leader=NULL,formed=1,\
    members=excluded.members";
const DROP: &str = "DELETE FROM ferroq_batches WHERE key=?";
const FORM: &str = "UPDATE ferroq_batches SET formed=1 WHERE key=?";
const LEAD: &str = "UPDATE ferroq_batches SET leader=?,formed=1,spent=? WHERE key=?";
const DOOM: &str = "UPDATE ferroq_batches SET leader=NULL,formed=1,spent=?,doom=? WHERE key=?";
/// Members that left, by key.
pub(crate) const LEFT: &str = "UPDATE ferroq_batches SET members=members-(v->>1) FROM (SELECT value AS v,value->>0 AS k FROM json_each(?)) \
    WHERE key=k";

/// What was spent: the leader's counters when it came to lead, and what there was before.
type Past = (Spent, Spent);

/// The batches of a queue while a transaction works on it.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    /// Those that the settlements, or the lost leases, of a call are about.
    known: HashMap<i64, Batch>,
    /// How many members left, where that is not written yet.
    left: BTreeMap<i64, i64>,
    /// Batches that a job left for good, and that are still to be seen to.
    orphans: Vec<i64>,
    /// What those of them that lost their leader had spent with it, and what becomes of their members.
    bereft: HashMap<i64, Bereft>,
}

#[derive(Debug)]
struct Batch {
    members: i64,
    past: Past,
    /// Its leader, if that is Active.
    active: Option<Leader>,
}

#[derive(Debug)]
struct Leader {
    epoch: i64,
    counters: Spent,
}

#[derive(Debug)]
struct Bereft {
    /// Who left it; `None` if that is not known.
    leader: Option<i64>,
    fate: Fate,
    counters: Spent,
}

/// Some batches with members.
#[derive(Debug)]
pub(crate) struct Met {
    /// Those that nobody would ever come back to.
    stray: Vec<i64>,
    /// Behind which one to go on; 0 if these were the last.
    last: i64,
}

impl Met {
    /// Whether these are all, and nothing is to be done about them.
    pub(crate) fn is_all_well(&self, began_at: i64) -> bool {
        self.stray.is_empty() && self.last == 0 && began_at == 0
    }
}

impl Batches {
    /// A member leaves.
    pub(crate) fn left(&mut self, number: i64) {
        *self.left.entry(number).or_default() += 1;
        if let Some(batch) = self.known.get_mut(&number) {
            batch.members -= 1;
        }
    }

    /// What its batch has spent, if this is the row of a member whose leader holds the lease with this epoch.
    pub(crate) fn spent_under(&self, row: &Row, epoch: i64) -> Option<Spent> {
        let batch = self.known.get(&row.batch.filter(|_| row.is_member())?)?;
        let leader = batch.active.as_ref().filter(|leader| leader.epoch == epoch)?;
        let (then, before) = batch.past;
        Some(Spent::grown(leader.counters, then, before))
    }

    /// Forgets what settlements are about.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    /// Writes how many members left.
    pub(crate) fn write(&mut self, queue: i64, script: &mut Script) {
        let left = std::mem::take(&mut self.left);
        let left: Vec<(i64, i64)> = left.into_iter().map(|(number, left)| (key(queue, number), left)).collect();
        script.add(LEFT, [serde_json::to_string(&left).unwrap_or_default().into()]);
    }

    pub(crate) fn has_to_write(&self) -> bool {
        !self.left.is_empty()
    }
}

impl Row {
    /// A job's counters.
    pub(crate) fn counters(&self) -> Spent {
        Spent { attempts: self.attempts, crashes: self.crashes, runs: self.runs }
    }

    /// Gives a member the counters that it has bearing what its batch spent.
    pub(crate) fn bear(&mut self, counters: Spent) {
        (self.attempts, self.crashes, self.runs) = (counters.attempts, counters.crashes, counters.runs);
    }
}

fn write_past(past: &Past) -> String {
    serde_json::to_string(past).unwrap_or_default()
}

/// Reads what was spent; nothing where that is damaged.
pub(crate) fn read_past(row: &SqliteRow, column: usize) -> Past {
    let text = row.try_get_unchecked::<&str, _>(column).ok();
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What is written for a batch whose leader's counters are these when it opens.
pub(crate) fn opened(counters: Spent) -> String {
    write_past(&(counters, Spent::default()))
}

fn read_doom(row: &SqliteRow, column: usize) -> Option<Doom> {
    let text = row.try_get_unchecked::<Option<&str>, _>(column).ok().flatten()?;
    let unreadable = || Doom { kind: ErrorKind::Error, message: String::new() };
    Some(serde_json::from_str(text).unwrap_or_else(|_| unreadable()))
}

impl Unit<'_> {
    /// Reads the batches of these rows, if any is of one.
    pub(crate) async fn meet_batches(
        &mut self,
        at: usize,
        rows: impl Iterator<Item = &Row>,
    ) -> Result<(), StorageError> {
        let mut numbers: Vec<i64> = rows.filter_map(|row| row.batch).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        numbers.sort_unstable();
        numbers.dedup();
        let queue = self.queues[at].number;
        let keys = numbers_json(numbers.into_iter().map(|number| key(queue, number)));
        let [found] = self.ask([(LOAD, vec![keys.into()])]).await?;
        let active = self.queues[at].place(JobState::Active);
        for row in &found {
            let int =
                |column: usize| row.try_get_unchecked::<Option<i64>, _>(column).map_err(|_| unexpected("a batch"));
            let count = |column: usize| Ok(u32::try_from(int(column)?.unwrap_or_default()).unwrap_or_default());
            let number = seq_of(int(0)?.unwrap_or_default());
            let counters = Spent { attempts: count(5)?, crashes: count(6)?, runs: count(7)? };
            let is_active = int(3)? == Some(active);
            let leader = int(4)?.filter(|_| is_active).map(|epoch| Leader { epoch, counters });
            let batch = Batch { members: int(1)?.unwrap_or_default(), past: read_past(row, 2), active: leader };
            self.queues[at].batches.known.insert(number, batch);
        }
        Ok(())
    }

    /// A job that is or was in a batch goes back in line, and is Active no longer. Answers the batch that it stays in.
    pub(crate) fn step_back(&mut self, at: usize, row: &Row) -> Option<i64> {
        let number = row.batch.filter(|_| row.state() == JobState::Active)?;
        let queue = &mut self.queues[at];
        let batch = queue.batches.known.get_mut(&number)?;
        batch.active = None;
        let has_members = batch.members > 0;
        self.script.add(if has_members { FORM } else { DROP }, [key(queue.number, number).into()]);
        has_members.then_some(number)
    }

    /// A job leaves its batch for good, ended (with this reason, if it failed) or removed.
    pub(crate) fn leave_batch(&mut self, at: usize, row: &Row, failure: Option<FailReason>) {
        let Some(number) = row.batch else { return };
        let batches = &mut self.queues[at].batches;
        let known = batches.known.get_mut(&number);
        if row.state() != JobState::Blocked {
            if let Some(batch) = known {
                batch.active = None;
            }
            let fate = fate(failure, &row.read_notes().unwrap_or_default().errors);
            batches.bereft.insert(number, Bereft { leader: Some(row.key), fate, counters: row.counters() });
        } else if known.is_some_and(|batch| batch.active.is_some()) {
            // A member that is settled leaves a batch that has its leader.
            return;
        }
        batches.orphans.push(number);
    }

    /// Gives batches that lost their leader another, or marks them as failing, and forgets those without members. Answers the
    /// new leaders.
    pub(crate) async fn pass_on(&mut self) -> Result<Vec<JobId>, StorageError> {
        let mut leaders = Vec::new();
        for at in 0..self.queues.len() {
            for number in std::mem::take(&mut self.queues[at].batches.orphans) {
                if !self.queues[at].removed {
                    leaders.extend(self.pass_on_one(at, number).await?);
                }
            }
        }
        Ok(leaders)
    }

    async fn pass_on_one(&mut self, at: usize, number: i64) -> Result<Option<JobId>, StorageError> {
        let (queue, now) = (self.queues[at].number, self.queues[at].now);
        let bereft = self.queues[at].batches.bereft.remove(&number);
        let batch_key = key(queue, number);
        let first = self.first_members(at, number, 1);
        let [found, first] = self.ask([(FATE, vec![batch_key.into()]), first]).await?;
        let Some(batch) = found.first() else { return Ok(None) };
        let is_failing = read_doom(batch, 0).is_some();
        // A batch that was damaged may have another leader by now.
        let led_by = batch.try_get_unchecked::<Option<i64>, _>(2).map_err(|_| unexpected("a batch"))?;
        let bereft = bereft.filter(|bereft| bereft.leader.is_none() || bereft.leader == led_by);
        if bereft.is_none() && !is_failing {
            return Ok(None);
        }
        let (then, before) = read_past(batch, 1);
        let Some(mut row) = self.rows(&first, false).await?.pop() else {
            self.script.add(DROP, [batch_key.into()]);
            self.queues[at].lanes.fails(-i64::from(is_failing));
            return Ok(None);
        };
        let Some(Bereft { fate, counters, .. }) = bereft.filter(|_| !is_failing) else { return Ok(None) };
        let before = Spent::grown(counters, then, before);
        if let Fate::Fail(doom) = fate {
            let doom = serde_json::to_string(&doom).unwrap_or_default();
            self.script.add(DOOM, [write_past(&(then, before)).into(), doom.into(), batch_key.into()]);
            self.queues[at].lanes.fails(1);
            return Ok(None);
        }
        let (id, options) = (row.id, row.options());
        row.batch = Some(number);
        self.queues[at].leave(&row);
        row.bear(before.borne(row.counters(), &options));
        row.epoch = next_epoch(row.epoch, now);
        row.due_at = now;
        row.wait(line(row.crashes, options.max_crashes));
        let past = write_past(&(row.counters(), before));
        self.script.add(LEAD, [row.key.into(), past.into(), batch_key.into()]);
        self.queues[at].event(EventKind::Promoted, id);
        self.save(at, row);
        Ok(Some(id))
    }

    /// Looks at some of the queue's batches with members, in turn.
    pub(crate) async fn met_batches(&mut self, at: usize) -> Result<Option<Met>, StorageError> {
        let queue = &self.queues[at];
        if !queue.lanes.had_batches() || queue.count(JobState::Blocked) == 0 {
            return Ok(None);
        }
        let members = queue.place(JobState::Blocked);
        let values = vec![
            members.into(),
            queue.lanes.mended().into(),
            members.into(),
            i64::try_from(MEND_ITEMS).unwrap_or(i64::MAX).into(),
            key(queue.number, 0).into(),
            queue.number.into(),
        ];
        let [found] = self.ask([(MET, values)]).await?;
        let int = |row: &SqliteRow, column: usize| row.try_get_unchecked::<i64, _>(column);
        let mut met = Met { stray: Vec::new(), last: 0 };
        for row in &found {
            let read = int(row, 0).and_then(|number| Ok((number, int(row, 1)? != 0)));
            let (number, is_stray) = read.map_err(|_| unexpected("a batch"))?;
            met.stray.extend(is_stray.then_some(number));
            met.last = if found.len() < MEND_ITEMS { 0 } else { number };
        }
        Ok(Some(met))
    }

    /// Sees to batches that nobody would ever come back to because something of them was destroyed: their row, or their
    /// leader's. The first member leads such a batch; what a leader had spent that is gone is not known any more.
    pub(crate) async fn mend_batches(&mut self, at: usize) -> Result<(), StorageError> {
        let Some(met) = self.met_batches(at).await? else { return Ok(()) };
        if self.queues[at].lanes.mended() != met.last {
            self.queues[at].lanes.set_mended(met.last);
            self.queues[at].dirty = true;
        }
        for number in met.stray {
            let queue = &mut self.queues[at];
            let members = queue.place(JobState::Blocked);
            let past = write_past(&Past::default());
            self.script.add(MEND, [key(queue.number, number).into(), past.into(), members.into(), number.into()]);
            let bereft = Bereft { leader: None, fate: Fate::GoOn, counters: Spent::default() };
            queue.batches.bereft.insert(number, bereft);
            queue.batches.orphans.push(number);
        }
        self.place_heirs().await.map(drop)
    }

    /// Asks for the first members of a batch.
    fn first_members(&self, at: usize, number: i64, max_items: usize) -> Ask {
        let limit = i64::try_from(max_items).unwrap_or(i64::MAX);
        (FIRST_MEMBERS, vec![self.queues[at].place(JobState::Blocked).into(), number.into(), limit.into()])
    }

    /// Fails up to so many members of batches that failed; how many there were.
    pub(crate) async fn fail_members(&mut self, at: usize, max_items: usize) -> Result<usize, StorageError> {
        let (low, high) = key_range(self.queues[at].number);
        let mut failed = 0;
        while failed < max_items && self.queues[at].lanes.failing() > 0 {
            let [found] = self.ask([(FAILING, vec![low.into(), high.into()])]).await?;
            let batch = found.first().and_then(|row| {
                Some((row.try_get_unchecked::<i64, _>(0).ok()?, read_doom(row, 1)?, read_past(row, 2).1))
            });
            let Some((batch_key, doom, spent)) = batch else {
                let lanes = &mut self.queues[at].lanes;
                lanes.fails(-lanes.failing());
                break;
            };
            let left = max_items - failed;
            let members = self.first_members(at, seq_of(batch_key), left.saturating_add(1));
            let [members] = self.ask([members]).await?;
            let mut members = self.rows(&members, false).await?;
            let is_over = members.len() <= left;
            members.truncate(left);
            if self.has_dead_letter(at) {
                let mut failing: Vec<&mut Row> = members.iter_mut().collect();
                self.complete_rows(&mut failing).await?;
            }
            failed += members.len();
            for row in members {
                self.fail_with_batch(at, row, spent, &doom);
                self.place_heirs().await?;
            }
            if is_over {
                self.script.add(DROP, [batch_key.into()]);
                self.queues[at].lanes.fails(-1);
            }
        }
        Ok(failed)
    }

    fn fail_with_batch(&mut self, at: usize, mut row: Row, spent: Spent, doom: &Doom) {
        let (now, reason) = (self.queues[at].now, FailReason::WithBatch);
        self.queues[at].leave(&row);
        row.batch = None;
        row.bear(spent.borne_to_the_end(row.counters()));
        row.epoch = next_epoch(row.epoch, now);
        let runs = row.runs;
        row.change_notes(|notes| notes.push_error(now, runs, doom.kind, &doom.message));
        self.queues[at].event(EventKind::Failed, row.id);
        self.end(at, row, JobState::Failed, Some(reason));
    }
}
