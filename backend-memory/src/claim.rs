//! Claim: shelves, due jobs, the solo line, and then the line itself. Each job looked at leaves the head of its line
//! (claimed, failed, or put on a shelf), so a claim never looks at the same job twice and nobody scans past jobs that
//! can't be run here.

use std::collections::HashSet;
use std::time::Duration;

use ferroq_core::clock::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{ErrorKind, FailReason, JobKind, JobRecord, JobState, Move, Slot, transition};
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::enqueue::{is_expired, next_epoch};
use ferroq_core::policy::settle::EXPIRED_MESSAGE;
use ferroq_core::storage::{Claim, ClaimAnswer, ClaimSpec, PROMOTE_ITEMS_MAX};

use crate::roster::Key;
use crate::turn::{Turn, wait};

/// Up to this many kinds are compared one by one, which is faster than hashing.
const KINDS_COMPARED_MAX: usize = 8;

/// What became of the job at the head of a line.
enum Look {
    Claimed(Claim),
    /// It expired or went to its shelf.
    Passed,
    /// It would make the answer too large.
    TooLarge,
}

impl Turn<'_> {
    /// Claims jobs as asked. A paused queue hands out nothing.
    pub(crate) fn claim(&mut self, spec: &ClaimSpec) -> ClaimAnswer {
        if self.queue.config.paused {
            return ClaimAnswer::default();
        }
        self.clear_shelves(spec);
        self.promote_due(PROMOTE_ITEMS_MAX);
        let kinds = Kinds::new(&spec.kinds);
        let mut answer = ClaimAnswer::default();
        if spec.alone {
            self.claim_from(Slot::Solo, spec, &kinds, &mut answer);
        }
        if answer.claims.is_empty() {
            self.claim_from(Slot::Lane, spec, &kinds, &mut answer);
        }
        self.place_heirs();
        self.look_ahead(spec, &mut answer);
        answer
    }

    /// Puts jobs of the kinds asked for back in line, up to the number asked for.
    fn clear_shelves(&mut self, spec: &ClaimSpec) {
        let roster = &mut self.queue.roster;
        let mut room = spec.max_items;
        for kind in spec.kinds.iter() {
            let Some(shelf) = roster.shelf(kind) else { continue };
            let keys: Vec<Key> = shelf.values().take(room).copied().collect();
            room -= keys.len();
            for key in keys {
                roster.change(key, wait);
            }
        }
    }

    /// Looks at up to `max_items` jobs of a line. Of the solo line, one at most is claimed.
    fn claim_from(&mut self, slot: Slot, spec: &ClaimSpec, kinds: &Kinds<'_>, answer: &mut ClaimAnswer) {
        let mut bytes = 0;
        for _ in 0..spec.max_items {
            let Some(key) = self.queue.roster.first(JobState::Waiting, slot, i64::MAX) else { break };
            match self.look_at(key, spec, kinds, answer.claims.is_empty(), bytes) {
                Look::Claimed(claim) => {
                    bytes += claim.spec.payload.len();
                    answer.claims.push(claim);
                }
                Look::Passed => {}
                Look::TooLarge => break,
            }
            if slot == Slot::Solo && !answer.claims.is_empty() {
                break;
            }
        }
    }

    fn look_at(&mut self, key: Key, spec: &ClaimSpec, kinds: &Kinds<'_>, is_first: bool, bytes: usize) -> Look {
        let now = self.now;
        let record = self.queue.roster.get_mut(key);
        let id = record.id();
        if is_expired(record.expires_at, now) {
            record.notes.push_error(now, record.runs, ErrorKind::Expired, EXPIRED_MESSAGE);
            self.events.job(EventKind::Failed, id);
            self.end(key, JobState::Failed, Some(FailReason::Expired));
            return Look::Passed;
        }
        if !kinds.contain(&record.spec.kind) {
            self.queue.roster.change(key, |record| record.slot = Slot::Shelf);
            self.events.job(EventKind::Shelved, id);
            return Look::Passed;
        }
        if !is_first && bytes.saturating_add(record.spec.payload.len()) > spec.max_bytes {
            return Look::TooLarge;
        }
        debug_assert!(transition(record.state, Move::Claim).is_some());
        self.queue.note_term(spec.term);
        if record_is_first(self.queue.roster.get(key)) {
            self.queue.keys.free(&self.queue.roster.get(key).spec, Exit::Started);
        }
        self.events.job(EventKind::Started, id);
        Look::Claimed(self.queue.roster.change(key, |record| {
            let solo = record.slot == Slot::Solo;
            record.state = JobState::Active;
            record.slot = Slot::Lane;
            record.epoch = next_epoch(record.epoch, now);
            record.runs = record.runs.saturating_add(1);
            record.started_at = Some(now);
            record.lease_until = Some(now.after(spec.term));
            record.lease_term = Some(spec.term);
            record.worker = Some(spec.worker.clone());
            Claim {
                lease: record.lease(),
                spec: record.spec.clone(),
                attempts: record.attempts,
                crashes: record.crashes,
                run: record.runs,
                coalesced: record.coalesced,
                created_at: record.created_at,
                started_at: now,
                checkpoint: record.notes.checkpoint.clone(),
                solo,
            }
        }))
    }

    /// Says when to ask again.
    fn look_ahead(&self, spec: &ClaimSpec, answer: &mut ClaimAnswer) {
        let roster = &self.queue.roster;
        let due = roster.first_rank(JobState::Delayed);
        answer.look_again = due.map(|due| Timestamp::from_micros(due).since(self.now));
        answer.more = roster.first(JobState::Waiting, Slot::Lane, i64::MAX).is_some()
            || answer.look_again == Some(Duration::ZERO)
            || spec.kinds.iter().any(|kind| roster.shelf(kind).is_some());
        answer.solo_waiting = roster.first(JobState::Waiting, Slot::Solo, i64::MAX).is_some();
    }
}

/// Whether a claim would be this record's first, and it has a key that may come free then.
fn record_is_first(record: &JobRecord) -> bool {
    record.runs == 0 && record.spec.dedup.is_some()
}

/// The kinds that a claim asks for.
enum Kinds<'a> {
    Few(&'a [JobKind]),
    Many(HashSet<&'a JobKind>),
}

impl<'a> Kinds<'a> {
    fn new(kinds: &'a [JobKind]) -> Self {
        if kinds.len() <= KINDS_COMPARED_MAX { Kinds::Few(kinds) } else { Kinds::Many(kinds.iter().collect()) }
    }

    fn contain(&self, kind: &JobKind) -> bool {
        match self {
            Kinds::Few(kinds) => kinds.contains(kind),
            Kinds::Many(kinds) => kinds.contains(kind),
        }
    }
}
