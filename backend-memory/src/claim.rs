//! Claim: shelves, due jobs, the solo line, and then the line itself. Each job looked at leaves the head of its line
//! (claimed, failed, or put on a shelf), so a claim never looks at the same job twice and nobody scans past jobs that
//! can't be run here.

use std::collections::{HashMap, HashSet};

use ferroq_core::clock::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::{JobKind, JobRecord, JobState, LaneKey, Move, Slot, transition};
use ferroq_core::policy::batch::GATHER_ITEMS_MAX;
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::enqueue::next_epoch;
use ferroq_core::policy::lanes::{LANES_SET_ASIDE_MAX, Room};
use ferroq_core::storage::{Claim, ClaimAnswer, ClaimSpec, PROMOTE_ITEMS_MAX, SOLO_ITEMS_MAX};

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
        self.bring_back();
        let kinds = Kinds::new(&spec.kinds);
        let mut answer = ClaimAnswer::default();
        if spec.alone {
            self.claim_solo(spec, &kinds, &mut answer);
        }
        // Before the lanes are served: they may take the room that a solo job would have had.
        let solo_opens_at = self.look_at_solo_line(&mut answer);
        if answer.claims.is_empty() {
            self.serve(spec, &kinds, &mut answer);
        }
        self.place_heirs();
        self.look_ahead(spec, solo_opens_at, &mut answer);
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

    /// Looks at up to `max_items` jobs of the solo line that no limit holds back, and claims one at most.
    fn claim_solo(&mut self, spec: &ClaimSpec, kinds: &Kinds<'_>, answer: &mut ClaimAnswer) {
        let mut rooms = HashMap::new();
        let may_start = |key: &Key| self.solo_room(*key, &mut rooms).free > 0;
        let first: Vec<Key> = self.first_solo().filter(may_start).take(spec.max_items).collect();
        for key in first {
            let lane = self.queue.roster.get(key).spec.lane.clone();
            if let Look::Claimed(claim) = self.look_at(key, spec, kinds, true, 0) {
                let terms = self.terms(&lane);
                self.started(&lane, &terms, 1);
                answer.claims.push(claim);
                break;
            }
        }
    }

    /// Says whether a job of the solo line may start, or else, when one that a rate holds back may, as far as can be told.
    fn look_at_solo_line(&self, answer: &mut ClaimAnswer) -> Option<Timestamp> {
        let (mut rooms, mut opens_at) = (HashMap::new(), None);
        for key in self.first_solo() {
            let room = self.solo_room(key, &mut rooms);
            if room.free > 0 {
                (answer.solo_waiting, answer.solo_held) = (true, false);
                return None;
            }
            answer.solo_held = true;
            opens_at = [opens_at, room.opens_at].into_iter().flatten().min();
        }
        opens_at
    }

    /// The jobs of the solo line that a claim goes through.
    fn first_solo(&self) -> impl Iterator<Item = Key> {
        let line = self.queue.roster.line(JobState::Waiting, Slot::Solo).into_iter().flatten();
        line.map(|(_, key)| *key).take(SOLO_ITEMS_MAX)
    }

    /// What limits leave to a job of the solo line. `rooms` has what they leave to the lanes asked about so far.
    fn solo_room<'a>(&'a self, key: Key, rooms: &mut HashMap<&'a LaneKey, Room>) -> Room {
        let lane = &self.queue.roster.get(key).spec.lane;
        *rooms.entry(lane).or_insert_with(|| self.room_under_all(lane))
    }

    /// Serves the lanes in their turn.
    fn serve(&mut self, spec: &ClaimSpec, kinds: &Kinds<'_>, answer: &mut ClaimAnswer) {
        let (mut looked_at, mut bytes, mut gathered) = (0, 0, 0);
        for _ in 0..spec.max_items.saturating_add(LANES_SET_ASIDE_MAX) {
            if looked_at == spec.max_items || self.room().free == 0 {
                return;
            }
            let Some((number, lane)) = self.queue.roster.lanes.head() else { return };
            let lane = lane.clone();
            let terms = self.terms(&lane);
            if let Some(standing) = self.stands_aside(&lane, &terms) {
                self.queue.roster.lanes.set_aside(number, standing);
                continue;
            }
            let mut room = self.room_for(&lane, &terms);
            let credit = self.queue.roster.lanes.credit(number, terms.turn_jobs);
            let (mut looked_at_here, mut started, mut is_full, mut held) = (0, 0, false, false);
            while looked_at_here < credit && looked_at < spec.max_items && room > 0 {
                let Some(key) = self.queue.roster.lanes.first(number) else { break };
                if let Some(gate) = &terms.batch
                    && !self.queue.roster.is_open(number, gate, key, self.now)
                {
                    held = true;
                    break;
                }
                match self.look_at(key, spec, kinds, answer.claims.is_empty(), bytes) {
                    Look::Claimed(mut claim) => {
                        if let Some(gate) = terms.batch.filter(|_| claim.batch.is_none()) {
                            gathered += self.open_batch(&mut claim, &gate, GATHER_ITEMS_MAX - gathered);
                        }
                        bytes += claim.spec.payload.len();
                        answer.claims.push(claim);
                        room -= 1;
                        started += 1;
                    }
                    Look::Passed => {}
                    Look::TooLarge => {
                        is_full = true;
                        break;
                    }
                }
                looked_at += 1;
                looked_at_here += 1;
                if gathered >= GATHER_ITEMS_MAX {
                    is_full = true;
                    break;
                }
            }
            self.started(&lane, &terms, started);
            if !held {
                self.queue.roster.lanes.visited(number, looked_at_here);
            }
            if is_full {
                return;
            }
        }
    }

    fn look_at(&mut self, key: Key, spec: &ClaimSpec, kinds: &Kinds<'_>, is_first: bool, bytes: usize) -> Look {
        let now = self.now;
        if self.expire(key) {
            return Look::Passed;
        }
        let record = self.queue.roster.get(key);
        let id = record.id();
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
                batch: record.batch,
            }
        }))
    }

    /// Says when to ask again.
    fn look_ahead(&self, spec: &ClaimSpec, solo_opens_at: Option<Timestamp>, answer: &mut ClaimAnswer) {
        let roster = &self.queue.roster;
        let due = roster.first_rank(JobState::Delayed).map(Timestamp::from_micros);
        let is_due = due.is_some_and(|due| due <= self.now);
        let room = self.room();
        let ring = !roster.lanes.is_ring_empty();
        let parked = self.rooms_of_parked();
        let class_opens_at = parked.iter().filter_map(|room| room.opens_at).min();
        // Lanes that came back and had nothing to start leave the room of their class to the ones still parked. And of
        // those whose rules changed one claim brings back no more than it may.
        let to_serve = ring || roster.lanes.is_reopening() || parked.iter().any(|room| room.free > 0);
        let opens_at = room.opens_at.filter(|_| to_serve);
        let instants = [due, opens_at, roster.lanes.held_until(), class_opens_at, solo_opens_at];
        answer.look_again = instants.into_iter().flatten().min().map(|at| at.since(self.now));
        answer.more =
            (to_serve && room.free > 0) || is_due || spec.kinds.iter().any(|kind| roster.shelf(kind).is_some());
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
