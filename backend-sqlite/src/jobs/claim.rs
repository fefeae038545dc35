//! The claim: off the shelves, promotion, the solo line, the line.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ferroq_core::Timestamp;
use ferroq_core::clock::micros;
use ferroq_core::event::EventKind;
use ferroq_core::job::{BatchNumber, ErrorKind, FailReason, JobKind, JobState, Slot};
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::enqueue::{is_expired, line, next_epoch};
use ferroq_core::policy::settle::EXPIRED_MESSAGE;
use ferroq_core::storage::{Claim, ClaimAnswer, ClaimSpec, Lease, PROMOTE_ITEMS_MAX, SOLO_ITEMS_MAX, StorageError};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::unexpected;
use crate::record::numbers_json;
use crate::row::{INLINE_BYTES_MAX, Row, place, select_heads, select_rows};
use crate::unit::{Ask, Unit, first_int};

/// The head of a line, how long a payload may be to be among it, and when the next Delayed job is due, by
/// `ferroq_jobs_by_place`.
pub(crate) const CLAIMABLE: &str = select_rows!(
    "?,(SELECT rank FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? ORDER BY rank LIMIT 1)",
    "(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? ORDER BY rank,key LIMIT ?+0)"
);
/// The same without payloads.
pub(super) const HEADS: &str = select_heads!(
    "(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? ORDER BY rank,key LIMIT ?+0)"
);
/// What is due, by `ferroq_jobs_by_place`.
pub(crate) const DUE: &str = select_heads!(
    "(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? AND rank<=? ORDER BY rank,key LIMIT ?+0)"
);
/// The lowest rank of a place, by `ferroq_jobs_by_place`.
pub(crate) const NEXT_RANK: &str =
    "SELECT rank FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? ORDER BY rank LIMIT 1";
pub(super) const SHELF_HAS: &str = "SELECT 1 FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place IN \
    (SELECT value FROM json_each(?)) LIMIT 1";
/// Hands jobs to a worker, by key; the epoch is `policy::enqueue::next_epoch`.
pub(super) const CLAIM: &str = "UPDATE ferroq_jobs SET place=?,rank=?,epoch=max(epoch+1,?),runs=runs+1,started_at=?,lease_term=?,\
    worker=? WHERE key IN (SELECT value FROM json_each(?))";

pub(super) fn limit(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

/// Payloads up to this length always come with the head of a line.
pub(super) const SHORT_BYTES: usize = 512;

/// Asks for the head of a line, and when the next Delayed job is due. Payloads come along as far as `max_bytes` allows
/// each of `max_items` its share; the others are fetched once it is their turn.
pub(crate) fn line_ask(queue: i64, slot: Slot, max_items: usize, max_bytes: usize) -> Ask {
    let (delayed, line) = (place(queue, JobState::Delayed, Slot::Lane, 0), place(queue, JobState::Waiting, slot, 0));
    let inline = limit((max_bytes / max_items.max(1)).clamp(SHORT_BYTES, INLINE_BYTES_MAX));
    (CLAIMABLE, vec![inline.into(), inline.into(), delayed.into(), line.into(), limit(max_items).into()])
}

/// When the next Delayed job is due, in the answer to [`line_ask`].
fn next_due(rows: &[SqliteRow]) -> Option<i64> {
    rows.first().and_then(|row| row.try_get_unchecked::<Option<i64>, _>(2).ok()).flatten()
}

/// The head of the line, in the answer to [`line_ask`].
pub(super) fn read_line(rows: &[SqliteRow]) -> Result<Vec<Row>, StorageError> {
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let bytes: Option<&[u8]> = row.try_get_unchecked(0).map_err(|_| unexpected("a row"))?;
    let inline: i64 = row.try_get_unchecked(1).map_err(|_| unexpected("a row"))?;
    let inline = usize::try_from(inline).unwrap_or(0);
    Row::unpack_all(bytes.unwrap_or_default(), inline).map_err(|_| unexpected("a row"))
}

/// What became of a job that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Claimed,
    /// It failed, or went to its shelf.
    Passed,
    /// It would make the answer too large.
    TooLarge,
}

/// What a claim has so far.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) claims: Vec<Claim>,
    /// The keys of those that are still to be written.
    keys: Vec<i64>,
    bytes: usize,
    /// How many jobs were looked at for batches.
    pub(super) gathered: usize,
}

impl Looked {
    pub(super) fn with_capacity(jobs: usize) -> Self {
        Looked { claims: Vec::with_capacity(jobs), keys: Vec::with_capacity(jobs), bytes: 0, gathered: 0 }
    }
}

impl Unit<'_> {
    /// Claims. `read` is the answer to [`line_ask`], if that was asked and nothing has changed since.
    pub(super) async fn claim(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        read: Option<Vec<SqliteRow>>,
    ) -> Result<ClaimAnswer, StorageError> {
        let (number, now) = (self.queues[at].number, self.queues[at].now);
        if self.queues[at].config.paused {
            return Ok(ClaimAnswer::default());
        }
        let mut kinds: HashMap<i64, &JobKind> = HashMap::with_capacity(claim.kinds.len());
        for kind in claim.kinds.iter() {
            kinds.insert(self.kind_number(kind).await?, kind);
        }
        self.follow_clock(at).await?;
        let plain = self.queues[at].lanes.is_plain(&self.queues[at].config);
        let shelved = self.queues[at].shelved > 0;
        let due = |next: Option<i64>| next.is_some_and(|due| due <= now.as_micros());
        let solo = claim.alone && self.queues[at].solo > 0;
        let (mut next, mut rows) = match read {
            Some(rows) if plain && !shelved && !due(next_due(&rows)) && !solo => {
                let next = next_due(&rows);
                let mut rows = read_line(&rows)?;
                // What was read ahead may be more than is asked for now.
                rows.truncate(claim.max_items);
                (next, rows)
            }
            _ => {
                if shelved {
                    self.unshelve(at, claim).await?;
                }
                self.promote_due(at, PROMOTE_ITEMS_MAX).await?;
                if !self.queues[at].lanes.is_plain(&self.queues[at].config) {
                    return self.claim_from_lanes(at, claim, &kinds).await;
                }
                if claim.alone
                    && self.queues[at].solo > 0
                    && let Some(answer) = self.claim_solo(at, claim, &kinds).await?
                {
                    return Ok(answer);
                }
                let [rows] = self.ask([line_ask(number, Slot::Lane, claim.max_items, claim.max_bytes)]).await?;
                (next_due(&rows), read_line(&rows)?)
            }
        };
        if self.queues[at].count(JobState::Delayed) == 0 {
            next = None;
        }
        let looked = self.look(at, claim, &kinds, std::mem::take(&mut rows), false).await?;
        self.post().await?;
        self.answer(at, claim, looked, next).await
    }

    /// The solo line's first job that can be claimed, alone.
    async fn claim_solo(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        kinds: &HashMap<i64, &JobKind>,
    ) -> Result<Option<ClaimAnswer>, StorageError> {
        let number = self.queues[at].number;
        let most = claim.max_items.min(SOLO_ITEMS_MAX);
        let [answer] = self.ask([line_ask(number, Slot::Solo, most, claim.max_bytes)]).await?;
        let rows = read_line(&answer)?;
        let claims = self.look(at, claim, kinds, rows, true).await?;
        self.post().await?;
        if claims.is_empty() {
            return Ok(None);
        }
        self.answer(at, claim, claims, next_due(&answer)).await.map(Some)
    }

    /// Looks at jobs in their order and claims what can be.
    async fn look(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        kinds: &HashMap<i64, &JobKind>,
        rows: Vec<Row>,
        solo: bool,
    ) -> Result<Vec<Claim>, StorageError> {
        let mut looked = Looked::with_capacity(if solo { 1 } else { rows.len() });
        for row in rows {
            match self.look_at(at, claim, kinds, row, solo, &mut looked).await? {
                Look::Claimed if solo => break,
                Look::Claimed | Look::Passed => {}
                Look::TooLarge => break,
            }
        }
        self.hand_out(at, claim, &mut looked);
        Ok(looked.claims)
    }

    /// Looks at one job, and claims it if that can be. What is claimed is written by [`hand_out`](Self::hand_out).
    pub(super) async fn look_at(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        kinds: &HashMap<i64, &JobKind>,
        mut row: Row,
        solo: bool,
        looked: &mut Looked,
    ) -> Result<Look, StorageError> {
        let now = self.queues[at].now;
        let name = self.queues[at].name.clone();
        let kind = match kinds.get(&row.kind) {
            Some(kind) => Some((*kind).clone()),
            None => self.kind_name(row.kind).await?,
        };
        let spec = match &kind {
            Some(kind) => row.spec(&name, kind),
            None => Err(crate::record::Unreadable("its kind")),
        };
        if row.notes_left_out {
            self.fetch_notes(&mut row).await?;
        }
        let notes = row.read_notes();
        let (mut spec, notes) = match (spec, notes) {
            (Ok(spec), Ok(notes)) => (spec, notes),
            (Err(part), _) | (_, Err(part)) => {
                self.quarantine(at, row, part.0);
                return Ok(Look::Passed);
            }
        };
        if is_expired(row.expires_at, now) {
            self.expire(at, row).await?;
            return Ok(Look::Passed);
        }
        if !kinds.contains_key(&row.kind) {
            self.queues[at].leave(&row);
            row.wait(Slot::Shelf);
            self.queues[at].shift(JobState::Waiting, Slot::Shelf, 1);
            self.queues[at].event(EventKind::Shelved, row.id);
            self.save_in_place(at, row);
            return Ok(Look::Passed);
        }
        if !looked.claims.is_empty() && looked.bytes.saturating_add(row.payload_len) > claim.max_bytes {
            return Ok(Look::TooLarge);
        }
        looked.bytes = looked.bytes.saturating_add(row.payload_len);
        if row.payload_left_out {
            spec.payload.bytes = self.fetch_payload(&row).await?;
        }
        if let Some(dedup) = spec.dedup.as_ref().filter(|dedup| row.runs == 0 && dedup.mode.frees(Exit::Started)) {
            self.free(row.queue(), dedup.key.as_str(), row.id);
        }
        self.queues[at].leave(&row);
        self.queues[at].shift(JobState::Active, Slot::Lane, 1);
        self.queues[at].lanes.start(&spec.lane);
        self.queues[at].event(EventKind::Started, row.id);
        looked.keys.push(row.key);
        looked.claims.push(Claim {
            lease: Lease { id: row.id, epoch: next_epoch(row.epoch, now) },
            spec: Arc::new(spec),
            attempts: row.attempts,
            crashes: row.crashes,
            run: row.runs.saturating_add(1),
            coalesced: row.coalesced(),
            created_at: row.created_at,
            started_at: now,
            checkpoint: notes.checkpoint,
            solo,
            batch: row.batch.map(BatchNumber),
        });
        if let Some(active) = self.active.get_mut(&name) {
            row.stand(JobState::Active, Slot::Lane, now.after(claim.term).as_micros());
            row.epoch = next_epoch(row.epoch, now);
            row.runs = row.runs.saturating_add(1);
            row.started_at = Some(now);
            row.lease_term = Some(micros(claim.term));
            row.worker = Some(claim.worker.as_str().into());
            row.payload = Bytes::new();
            row.payload_left_out = true;
            active.insert(row.id, row);
        }
        Ok(Look::Claimed)
    }

    /// Fails a job that can't be read.
    pub(super) fn quarantine(&mut self, at: usize, row: Row, part: &str) {
        tracing::warn!(queue = %self.queues[at].name, job = %row.id, "a job is quarantined: {part} can't be read");
        self.queues[at].leave(&row);
        let message = format!("the stored record can't be read: {part}");
        self.fail(at, row, FailReason::Quarantined, ErrorKind::Quarantine, &message);
    }

    /// Fails a job that is too old to start.
    pub(super) async fn expire(&mut self, at: usize, mut row: Row) -> Result<(), StorageError> {
        if self.has_dead_letter(at) {
            self.complete_rows(&mut [&mut row]).await?;
        }
        self.queues[at].leave(&row);
        self.fail(at, row, FailReason::Expired, ErrorKind::Expired, EXPIRED_MESSAGE);
        Ok(())
    }

    /// Writes what was claimed and not yet written.
    pub(super) fn hand_out(&mut self, at: usize, claim: &ClaimSpec, looked: &mut Looked) {
        let keys = std::mem::take(&mut looked.keys);
        if keys.is_empty() {
            return;
        }
        let queue = &mut self.queues[at];
        let (now, term) = (queue.now, micros(claim.term));
        queue.note_term(term);
        let values = [
            queue.place(JobState::Active).into(),
            now.after(claim.term).as_micros().into(),
            now.as_micros().into(),
            now.as_micros().into(),
            term.into(),
            claim.worker.as_str().into(),
            numbers_json(keys).into(),
        ];
        self.script.add(CLAIM, values);
    }

    async fn answer(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        claims: Vec<Claim>,
        mut next_due: Option<i64>,
    ) -> Result<ClaimAnswer, StorageError> {
        // Without limits none is held back.
        let solo_waiting = self.queues[at].solo > 0;
        if !self.place_heirs().await?.is_empty() {
            let [next] = self.ask([(NEXT_RANK, vec![self.queues[at].place(JobState::Delayed).into()])]).await?;
            next_due = first_int(&next);
        }
        let now = self.queues[at].now;
        let due = next_due.map(Timestamp::from_micros);
        let mut more = self.queues[at].in_line() > 0 || due.is_some_and(|due| due <= now);
        if !more && self.queues[at].shelved > 0 {
            let shelves = self.shelves(at, &claim.kinds).await?;
            let [rows] = self.ask([(SHELF_HAS, vec![numbers_json(shelves).into()])]).await?;
            more = !rows.is_empty();
        }
        Ok(ClaimAnswer { claims, more, look_again: due.map(|due| due.since(now)), solo_waiting, solo_held: false })
    }

    pub(super) async fn shelves(&mut self, at: usize, kinds: &[JobKind]) -> Result<Vec<i64>, StorageError> {
        let number = self.queues[at].number;
        let mut places = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let kind = self.kind_number(kind).await?;
            places.push(place(number, JobState::Waiting, Slot::Shelf, kind));
        }
        Ok(places)
    }

    /// Takes jobs of the asked kinds off their shelves.
    async fn unshelve(&mut self, at: usize, claim: &ClaimSpec) -> Result<(), StorageError> {
        let mut left = claim.max_items;
        for shelf in self.shelves(at, &claim.kinds).await? {
            if left == 0 || self.queues[at].shelved == 0 {
                break;
            }
            let [rows] = self.ask([(HEADS, vec![shelf.into(), limit(left).into()])]).await?;
            for mut row in self.rows(&rows, false).await? {
                left = left.saturating_sub(1);
                self.queues[at].leave(&row);
                row.wait(line(row.crashes, row.options().max_crashes));
                self.save(at, row);
            }
        }
        Ok(())
    }

    /// Brings due jobs forward, and says how many.
    pub(super) async fn promote_due(&mut self, at: usize, max_items: usize) -> Result<usize, StorageError> {
        if max_items == 0 || self.queues[at].count(JobState::Delayed) == 0 {
            return Ok(0);
        }
        let queue = &self.queues[at];
        let delayed = queue.place(JobState::Delayed).into();
        let [rows] = self.ask([(DUE, vec![delayed, queue.now.as_micros().into(), limit(max_items).into()])]).await?;
        let rows = self.rows(&rows, false).await?;
        let promoted = rows.len();
        for mut row in rows {
            self.queues[at].leave(&row);
            row.wait(line(row.crashes, row.options().max_crashes));
            self.queues[at].event(EventKind::Promoted, row.id);
            self.save(at, row);
        }
        Ok(promoted)
    }
}
