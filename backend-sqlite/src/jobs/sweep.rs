//! What time has made due: leases that ran out, Delayed jobs, old records.

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{ErrorKind, JobState, QueueName};
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::enqueue::next_epoch;
use ferroq_core::policy::settle::{CRASH_MESSAGE, crash};
use ferroq_core::storage::{StorageError, SweepAnswer};
use sqlx::sqlite::SqliteRow;

use crate::jobs::claim::{DUE, NEXT_RANK};
use crate::queue::Queue;
use crate::row::Row;
use crate::unit::{Ask, NOTHING, Unit, first_int};

/// Whether there are holds that [`PURGE`](super::enqueue::PURGE) removes, by `ferroq_dedup_by_until`.
pub(crate) const LAPSED: &str = "SELECT 1 FROM ferroq_dedup WHERE queue=? AND until<=? LIMIT 1 OFFSET 1024";
/// How many such holds a sweep removes at most.
const PURGE_KEYS_MAX: usize = 1000;

/// The states whose rank is a time, in the order in which a sweep sees to them.
const TIMED: [JobState; 5] =
    [JobState::Active, JobState::Delayed, JobState::Completed, JobState::Failed, JobState::Cancelled];

/// The earliest times at which something comes due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    ranks: [Option<i64>; 5],
    /// Whether there are holds or starts to drop, which no answer speaks of.
    lapsed: bool,
    /// Whether there are members of batches that fail.
    failing: bool,
}

impl Pending {
    /// Asks for them.
    pub(crate) fn asks(queue: &Queue) -> [Ask; 7] {
        let next = |i: usize| (NEXT_RANK, vec![queue.place(TIMED[i]).into()]);
        let lapsed = (LAPSED, vec![queue.number.into(), queue.now.as_micros().into()]);
        let over = match queue.lanes.has_starts {
            true => (crate::lane_rows::OVER, vec![queue.number.into(), queue.now.as_micros().into()]),
            false => (NOTHING, vec![]),
        };
        [next(0), next(1), next(2), next(3), next(4), lapsed, over]
    }

    /// Reads the answers.
    pub(crate) fn read(queue: &Queue, answers: &[Vec<SqliteRow>; 7]) -> Pending {
        Pending {
            ranks: [0, 1, 2, 3, 4].map(|i| first_int(&answers[i])),
            lapsed: !answers[5].is_empty() || !answers[6].is_empty() || queue.lanes.has_lapsed_classes(queue.now),
            failing: queue.lanes.failing() > 0,
        }
    }

    /// Whether a sweep has nothing to do at all.
    pub(crate) fn is_nothing(&self, now: Timestamp) -> bool {
        !self.more(now) && !self.lapsed
    }

    /// Whether anything is due.
    pub(crate) fn more(&self, now: Timestamp) -> bool {
        self.failing || self.earliest().is_some_and(|at| at <= now)
    }

    fn earliest(&self) -> Option<Timestamp> {
        self.ranks.iter().flatten().min().copied().map(Timestamp::from_micros)
    }

    /// The answer of a sweep that leaves this.
    pub(crate) fn answer(&self, now: Timestamp) -> SweepAnswer {
        let next = if self.failing { Some(now) } else { self.earliest() };
        SweepAnswer { more: self.more(now), next: next.map(|at| at.since(now)), ..SweepAnswer::default() }
    }
}

impl Unit<'_> {
    /// Sweeps a queue.
    pub(crate) async fn sweep(&mut self, queue: &QueueName, max_items: usize) -> Result<SweepAnswer, StorageError> {
        let Some(at) = self.queue(queue).await? else { return Ok(SweepAnswer::default()) };
        self.attend(at).await?;
        let now = self.queues[at].now;
        let failed = self.fail_members(at, max_items).await?;
        self.mend_batches(at).await?;
        let mut left = max_items - failed;
        let stalled = self.take_leases(at, left).await?;
        left -= stalled;
        let promoted = self.promote_due(at, left).await?;
        left -= promoted;
        let mut pruned = 0;
        for state in [JobState::Completed, JobState::Failed, JobState::Cancelled] {
            if left == 0 || self.queues[at].count(state) == 0 {
                continue;
            }
            let place = self.queues[at].place(state).into();
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            let [rows] = self.ask([(DUE, vec![place, now.as_micros().into(), limit.into()])]).await?;
            for row in self.rows(&rows, false).await? {
                self.queues[at].leave(&row);
                self.free_key(&row, &[Exit::RemovedEnded]);
                self.remove(row.key);
                pruned += 1;
                left = left.saturating_sub(1);
            }
        }
        self.post().await?;
        self.follow_clock(at).await?;
        self.purge_keys(at, PURGE_KEYS_MAX);
        self.forget_starts(at, max_items);
        self.queues[at].attend();
        let asks = Pending::asks(&self.queues[at]);
        let answers = self.ask(asks).await?;
        let pending = Pending::read(&self.queues[at], &answers);
        Ok(SweepAnswer { failed, stalled, promoted, pruned, ..pending.answer(now) })
    }

    async fn take_leases(&mut self, at: usize, max_items: usize) -> Result<usize, StorageError> {
        if max_items == 0 || self.queues[at].count(JobState::Active) == 0 {
            return Ok(0);
        }
        let now = self.queues[at].now;
        let active = self.queues[at].place(JobState::Active).into();
        let limit = i64::try_from(max_items).unwrap_or(i64::MAX);
        let [rows] = self.ask([(DUE, vec![active, now.as_micros().into(), limit.into()])]).await?;
        let mut rows = self.rows(&rows, false).await?;
        let stalled = rows.len();
        if self.has_dead_letter(at) {
            let fails = |row: &&mut Row| crash(row.standing(&row.options())).failure.is_some();
            let mut failing: Vec<&mut Row> = rows.iter_mut().filter(fails).collect();
            self.complete_rows(&mut failing).await?;
        }
        self.meet_batches(at, rows.iter()).await?;
        for mut row in rows {
            let verdict = crash(row.standing(&row.options()));
            row.epoch = next_epoch(row.epoch, now);
            let runs = row.runs;
            row.change_notes(|notes| notes.push_error(now, runs, ErrorKind::Crash, CRASH_MESSAGE));
            self.apply(at, row, verdict, None, Some(EventKind::Stalled));
            self.place_heirs().await?;
        }
        self.queues[at].batches.forget();
        Ok(stalled)
    }
}
