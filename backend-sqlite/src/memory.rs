//! What a writer remembers of its own last commits: queues' rows, the rows of jobs that it handed out, and the head of
//! a line. A command to a connection costs more than most statements, so a transaction that can rely on these reads
//! nothing and is one command. It begins with a guard: each commit leaves a stamp of its own in the row of every queue
//! it changes, and a guard fails the transaction if that stamp is no longer there; it is then done again without memory.

use std::collections::HashMap;

use ferroq_core::job::{JobId, JobState, QueueName, Slot};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::jobs::line_ask;
use crate::queue::Queue;
use crate::row::Row;
use crate::unit::{Ask, Unit};
use crate::writer::{Answer, Call};

/// Fails unless the queue's row has this stamp.
pub(crate) const STAMPED: &str =
    "SELECT 1 WHERE json(iif((SELECT stamp FROM ferroq_queues WHERE number=?)=?,'1','{')) IS NULL";
/// Fails if one of these ids exists in a queue, by `ferroq_jobs_by_id`.
pub(crate) const ABSENT: &str = "SELECT 1 WHERE json(iif(EXISTS(SELECT 1 FROM (SELECT unhex(value) AS wanted FROM \
    json_each(?)) CROSS JOIN ferroq_jobs INDEXED BY ferroq_jobs_by_id ON id=wanted AND key BETWEEN ? AND ?),'{','1')) \
    IS NULL";
/// The completed records that go soonest, and whether nothing speaks against it, by `ferroq_jobs_by_place`.
pub(crate) const OLDEST: &str = "SELECT group_concat(concat(key,',',rank,',',extra IS NULL AND flags&2=0),';') FROM (SELECT \
    key,rank,extra,flags FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? ORDER BY rank,key LIMIT ?+0)";

/// How many handed out jobs of a queue are remembered at most, and how many queues.
const ACTIVE_MAX: usize = 4096;
const QUEUES_MAX: usize = 64;
/// The largest claim for which the head of the line is read ahead: with larger ones a command more hardly counts.
const AHEAD_ITEMS_MAX: usize = 16;
/// How many transactions do without memory after a guard failed: others write as well, and may do so again.
const DISTRUST: u32 = 8;

/// What is remembered of all queues.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    queues: HashMap<QueueName, Known>,
    distrust: u32,
}

/// What is remembered of a queue.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) queue: Queue,
    /// The rows of Active jobs, without payloads.
    pub(crate) active: HashMap<JobId, Row>,
    /// What was read right after the commit.
    pub(crate) ahead: Option<Ahead>,
}

/// The head of a line.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// How many jobs were asked for.
    pub(crate) items: usize,
    pub(crate) line: Vec<SqliteRow>,
    pub(crate) oldest: Vec<Oldest>,
}

/// A record that may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Oldest {
    pub(crate) key: i64,
    pub(crate) rank: i64,
    /// It has no dedup key and nobody waits for it.
    pub(crate) plain: bool,
}

impl Memory {
    /// Whether the next transaction may rely on memory.
    pub(crate) fn is_trusted(&mut self) -> bool {
        self.distrust = self.distrust.saturating_sub(1);
        self.distrust == 0
    }

    /// A guard failed.
    pub(crate) fn failed(&mut self) {
        self.forget();
        self.distrust = DISTRUST;
    }

    pub(crate) fn forget(&mut self) {
        self.queues.clear();
    }

    pub(crate) fn take(&mut self) -> HashMap<QueueName, Known> {
        std::mem::take(&mut self.queues)
    }

    /// Keeps what was known and not touched by a transaction that was committed.
    pub(crate) fn put_back(&mut self, known: HashMap<QueueName, Known>) {
        self.queues = known;
    }

    /// Remembers a queue as a commit left it.
    pub(crate) fn keep(&mut self, mut known: Known) {
        if self.queues.len() >= QUEUES_MAX {
            self.queues.clear();
        }
        if known.active.len() > ACTIVE_MAX {
            known.active.clear();
        }
        self.queues.insert(known.queue.name.clone(), known);
    }
}

/// What the next transaction will most likely ask, if this one was an exchange of few jobs: up to how many, the
/// head of the line, and the records that may then have to go.
pub(crate) fn foresee(unit: &Unit<'_>, calls: &[Call], answers: &[Answer]) -> Option<(usize, Vec<Ask>)> {
    let ([Call::Exchange(request)], [Answer::Exchange(answer)]) = (calls, answers) else { return None };
    let claim = request.claim.as_ref()?;
    let items = claim.max_items;
    let claimed = answer.claimed.as_ref().is_some_and(|claimed| !claimed.claims.is_empty());
    let queue = unit.queues.first().filter(|queue| queue.name == request.queue)?;
    if !queue.lanes.is_plain(&queue.config) {
        return None;
    }
    let empty = queue.in_line() <= 0 && queue.count(JobState::Delayed) <= 0;
    if !claimed || empty || items > AHEAD_ITEMS_MAX {
        return None;
    }
    let items = if items == 1 { 1 } else { AHEAD_ITEMS_MAX };
    let mut asks = vec![line_ask(queue.number, Slot::Lane, items, claim.max_bytes)];
    if queue.may_prune(items) {
        asks.push(oldest_ask(queue, items));
    }
    Some((items, asks))
}

/// Asks for the completed records that go soonest.
pub(crate) fn oldest_ask(queue: &Queue, items: usize) -> Ask {
    (OLDEST, vec![queue.place(JobState::Completed).into(), i64::try_from(items).unwrap_or(i64::MAX).into()])
}

/// Reads the answer. What can't be read is left out, and then read in the ordinary way.
pub(crate) fn read_oldest(rows: &[SqliteRow]) -> Vec<Oldest> {
    let text = rows.first().and_then(|row| row.try_get_unchecked::<Option<&str>, _>(0).ok()).flatten();
    let mut oldest = Vec::new();
    for entry in text.unwrap_or_default().split(';').filter(|entry| !entry.is_empty()) {
        let mut parts = entry.split(',').map(|part| part.parse::<i64>().ok());
        let (Some(Some(key)), Some(Some(rank)), Some(Some(plain))) = (parts.next(), parts.next(), parts.next()) else {
            break;
        };
        oldest.push(Oldest { key, rank, plain: plain == 1 });
    }
    oldest
}
