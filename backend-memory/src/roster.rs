//! The records of a queue, and the lines that they stand in. A record stands in exactly one line, the one that
//! [`place`] names, and every change of a record goes through [`Roster::change`], so a record can't be in the
//! wrong line or in two. Counts are the lengths of lines and can't drift. A line is ordered by (rank, seq), where the
//! rank is what the state is served by: priority, due time, lease end or prune time.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{BatchNumber, JobId, JobKind, JobRecord, JobState, Slot};
use ferroq_core::policy::batch::{BatchGate, GATE_LOOKS_MAX, SetBack};
use ferroq_core::storage::ListCursor;

use crate::lanes::{LaneNumber, Lanes};
use crate::usage::Usage;

/// Where a record lies in memory, for as long as it exists.
pub(crate) type Key = u32;

/// Keys by (rank, seq).
pub(crate) type Line = BTreeMap<(i64, i64), Key>;

/// Memory for this many records is kept when a queue runs empty; a larger backlog's is given back.
const SPARE_RECORDS_MAX: usize = 16_384;

/// All records of a queue, by id and in their lines.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    records: Vec<Option<JobRecord>>,
    free: Vec<Key>,
    by_id: HashMap<JobId, Key, BuildHasherDefault<IdHasher>>,
    /// Waiting, by lane.
    pub(crate) lanes: Lanes,
    /// Who is Active, by lane, and what has started.
    pub(crate) usage: Usage,
    /// Waiting, on their last crash.
    solo: Line,
    /// Waiting for a worker with a handler, by the number of their kind's shelf.
    shelves: BTreeMap<i64, Line>,
    shelf_numbers: HashMap<JobKind, i64>,
    /// Every other state's line, by the state's number.
    states: [Line; JobState::ALL.len()],
}

impl Roster {
    /// The key of the job with this id.
    pub(crate) fn key(&self, id: JobId) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    /// A record.
    pub(crate) fn get(&self, key: Key) -> &JobRecord {
        present(&self.records, key)
    }

    /// A record, to change what its place does not depend on: anything but state, slot, priority and times.
    pub(crate) fn get_mut(&mut self, key: Key) -> &mut JobRecord {
        match &mut self.records[key as usize] {
            Some(record) => record,
            None => unreachable!("a line names a record that was removed"),
        }
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Every record, in no order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &JobRecord> {
        self.records.iter().flatten()
    }

    /// Adds a record whose id is new, and puts it in its line.
    pub(crate) fn insert(&mut self, record: JobRecord) {
        let id = record.id();
        let place = place(&record, &mut self.shelf_numbers, &mut self.lanes);
        let key = match self.free.pop() {
            Some(key) => {
                self.records[key as usize] = Some(record);
                key
            }
            None => {
                let key = self.records.len() as Key;
                self.records.push(Some(record));
                key
            }
        };
        self.by_id.insert(id, key);
        self.stand(place, key);
        self.arrived(place, key);
    }

    /// Changes a record and moves it to the line, and the place in it, where it belongs afterwards.
    pub(crate) fn change<T>(&mut self, key: Key, change: impl FnOnce(&mut JobRecord) -> T) -> T {
        let before = self.place_of(key);
        let answer = change(self.get_mut(key));
        let after = self.place_of(key);
        if before != after {
            // In this order, so that a lane whose only job moves in it is not forgotten in between.
            self.stand(after, key);
            self.leave(before, key);
            if (before.state, before.slot, before.line) != (after.state, after.slot, after.line) {
                self.arrived(after, key);
            }
        }
        answer
    }

    /// Takes a record out of its line and away.
    pub(crate) fn remove(&mut self, key: Key) -> Option<JobRecord> {
        let place = self.place_of(key);
        self.leave(place, key);
        let record = self.records[key as usize].take()?;
        self.by_id.remove(&record.id());
        self.free.push(key);
        if self.by_id.is_empty() && self.records.len() > SPARE_RECORDS_MAX {
            (self.records, self.free, self.by_id) = Default::default();
        }
        Some(record)
    }

    /// The key of the first job of a line, if its rank is at most `rank_max`.
    pub(crate) fn first(&self, state: JobState, slot: Slot, rank_max: i64) -> Option<Key> {
        let (&(rank, _), &key) = self.line(state, slot)?.first_key_value()?;
        (rank <= rank_max).then_some(key)
    }

    /// The rank of the first job of a state's line.
    pub(crate) fn first_rank(&self, state: JobState) -> Option<i64> {
        self.line(state, Slot::Lane)?.first_key_value().map(|(&(rank, _), _)| rank)
    }

    /// A state's line; of Waiting, the solo line. Lanes and shelves have lines of their own.
    pub(crate) fn line(&self, state: JobState, slot: Slot) -> Option<&Line> {
        match (state, slot) {
            (JobState::Waiting, Slot::Solo) => Some(&self.solo),
            (JobState::Waiting, Slot::Lane | Slot::Shelf) => None,
            _ => self.states.get(usize::from(state.number())),
        }
    }

    /// The members of a batch, by seq.
    pub(crate) fn members(&self, batch: BatchNumber) -> impl Iterator<Item = Key> {
        self.members_after(batch, None)
    }

    /// The members of a batch after the one with this seq.
    pub(crate) fn members_after(&self, batch: BatchNumber, after: Option<i64>) -> impl Iterator<Item = Key> {
        let from = after.map_or(Bound::Included((batch.0, i64::MIN)), |seq| Bound::Excluded((batch.0, seq)));
        let line = &self.states[usize::from(JobState::Blocked.number())];
        line.range((from, Bound::Included((batch.0, i64::MAX)))).map(|(_, key)| *key)
    }

    /// How many jobs are in a state.
    pub(crate) fn count(&self, state: JobState) -> u64 {
        match state {
            JobState::Waiting => (self.lanes.len() + self.solo.len()) as u64 + self.shelved_jobs(),
            _ => self.states[usize::from(state.number())].len() as u64,
        }
    }

    /// The jobs on a kind's shelf.
    pub(crate) fn shelf(&self, kind: &JobKind) -> Option<&Line> {
        self.shelves.get(self.shelf_numbers.get(kind)?)
    }

    /// How many jobs are on shelves.
    pub(crate) fn shelved_jobs(&self) -> u64 {
        self.shelves.values().map(BTreeMap::len).sum::<usize>() as u64
    }

    /// How many jobs, counted up to `max`, are ahead of a Waiting one in its line.
    pub(crate) fn ahead(&self, record: &JobRecord, max: usize) -> usize {
        let line = match (record.state, record.slot) {
            (JobState::Waiting, Slot::Lane) => self.lanes.line(&record.spec.lane),
            (JobState::Waiting, Slot::Solo) => Some(&self.solo),
            (JobState::Waiting, Slot::Shelf) => self.shelf(&record.spec.kind),
            _ => None,
        };
        let at = (i64::from(record.priority.0), record.seq);
        line.map_or(0, |line| line.range(..at).take(max).count())
    }

    /// The shelves that hold jobs, and how many, in the order of kinds.
    pub(crate) fn shelved(&self) -> Vec<(JobKind, u64)> {
        let shelf = |(kind, number)| self.shelves.get(number).map(|line| (JobKind::clone(kind), line.len() as u64));
        let mut shelved: Vec<_> = self.shelf_numbers.iter().filter_map(shelf).collect();
        shelved.sort();
        shelved
    }

    /// The next records of the walk that [`Inspect::list`](ferroq_core::storage::Inspect::list) describes, at most
    /// `max_items`, in the states that `allows` names.
    pub(crate) fn walk(
        &self,
        allows: impl Fn(JobState) -> bool,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Vec<(ListCursor, Key)> {
        let lanes = self.lanes.lines().map(|(number, line)| (JobState::Waiting, Slot::Lane, number, line));
        let solo = [(JobState::Waiting, Slot::Solo, 0, &self.solo)];
        let shelves = self.shelves.iter().map(|(number, line)| (JobState::Waiting, Slot::Shelf, *number, line));
        let rest = JobState::ALL.into_iter().skip(1).zip(&self.states[1..]);
        let rest = rest.map(|(state, line)| (state, Slot::Lane, 0, line));
        let mut found = Vec::new();
        for (state, slot, line_number, line) in lanes.chain(solo).chain(shelves).chain(rest) {
            let from = match after {
                Some(after) if (state, slot, line_number) < (after.state, after.slot, after.line) => continue,
                Some(after) if (state, slot, line_number) == (after.state, after.slot, after.line) => {
                    Bound::Excluded((after.rank, after.seq))
                }
                _ => Bound::Unbounded,
            };
            if !allows(state) {
                continue;
            }
            for (&(rank, seq), &key) in line.range((from, Bound::Unbounded)) {
                if found.len() >= max_items {
                    return found;
                }
                found.push((ListCursor { state, slot, line: line_number, rank, seq }, key));
            }
        }
        found
    }

    /// Whether a gate lets the job at the head of a lane's line start. If it doesn't, the lane is held.
    pub(crate) fn is_open(&mut self, lane: LaneNumber, gate: &BatchGate, head: Key, now: Timestamp) -> bool {
        let Some(line) = self.lanes.line_of(lane).filter(|_| self.get(head).batch.is_none()) else { return true };
        let Some(since) = self.first_due(line, self.lanes.set_back) else { return true };
        if gate.is_open(line.len() as u64, since, now) {
            return true;
        }
        self.lanes.hold(lane, gate, since);
        false
    }

    /// When the first of those jobs of a line came due at which a gate looks.
    pub(crate) fn first_due(&self, line: &Line, set_back: Option<SetBack>) -> Option<Timestamp> {
        let looked_at = line.iter().take(GATE_LOOKS_MAX);
        looked_at.map(|((_, seq), key)| SetBack::due(set_back, *seq, self.get(*key).due_at)).min()
    }

    fn place_of(&mut self, key: Key) -> ListCursor {
        place(present(&self.records, key), &mut self.shelf_numbers, &mut self.lanes)
    }

    fn stand(&mut self, place: ListCursor, key: Key) {
        let line = match (place.state, place.slot) {
            (JobState::Waiting, Slot::Lane) => {
                let lane = &present(&self.records, key).spec.lane;
                return self.lanes.stand(place.line, lane, (place.rank, place.seq), key);
            }
            (JobState::Waiting, Slot::Solo) => &mut self.solo,
            (JobState::Waiting, Slot::Shelf) => self.shelves.entry(place.line).or_default(),
            (state, _) => &mut self.states[usize::from(state.number())],
        };
        line.insert((place.rank, place.seq), key);
        if place.state == JobState::Active {
            self.usage.count(&present(&self.records, key).spec.lane, true);
        }
    }

    /// A lane that waits for a batch to form is told that a job came to its line.
    fn arrived(&mut self, place: ListCursor, key: Key) {
        if place.state == JobState::Waiting && place.slot == Slot::Lane {
            let record = present(&self.records, key);
            let due = SetBack::due(self.lanes.set_back, record.seq, record.due_at);
            self.lanes.arrived(place.line, record.batch.is_some(), due);
        }
    }

    fn leave(&mut self, place: ListCursor, key: Key) {
        let at = (place.rank, place.seq);
        if place.state == JobState::Active {
            self.usage.count(&present(&self.records, key).spec.lane, false);
        }
        match (place.state, place.slot) {
            (JobState::Waiting, Slot::Lane) => self.lanes.leave(place.line, at),
            (JobState::Waiting, Slot::Solo) => drop(self.solo.remove(&at)),
            (JobState::Waiting, Slot::Shelf) => {
                let Some(shelf) = self.shelves.get_mut(&place.line) else { return };
                shelf.remove(&at);
                if shelf.is_empty() {
                    self.shelves.remove(&place.line);
                }
            }
            (state, _) => drop(self.states[usize::from(state.number())].remove(&at)),
        }
    }
}

fn present(records: &[Option<JobRecord>], key: Key) -> &JobRecord {
    match &records[key as usize] {
        Some(record) => record,
        None => unreachable!("a line names a record that was removed"),
    }
}

/// Where a record belongs, as a place of the walk. A kind gets the number of its shelf the first time it needs one, and
/// keeps it, so that a cursor stays good.
fn place(record: &JobRecord, shelf_numbers: &mut HashMap<JobKind, i64>, lanes: &mut Lanes) -> ListCursor {
    let (mut slot, mut line) = (Slot::Lane, 0);
    let rank = match record.state {
        JobState::Waiting => {
            slot = record.slot;
            if slot == Slot::Lane {
                line = lanes.number(&record.spec.lane);
            } else if slot == Slot::Shelf {
                let next = shelf_numbers.len() as i64 + 1;
                line = *shelf_numbers.entry(record.spec.kind.clone()).or_insert(next);
            }
            i64::from(record.priority.0)
        }
        JobState::Delayed => record.due_at.as_micros(),
        JobState::Blocked => record.batch.map_or(0, |batch| batch.0),
        JobState::Active => record.lease_until.unwrap_or_default().as_micros(),
        JobState::Completed | JobState::Failed | JobState::Cancelled => {
            record.prune_at.unwrap_or(Timestamp::MAX).as_micros()
        }
    };
    ListCursor { state: record.state, slot, line, rank, seq: record.seq }
}

/// Hashes a job id by multiplying: its bytes are random or count up already, and ids are looked up once per act.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = self.0.rotate_left(32) ^ u64::from_be_bytes(word);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        // The table takes its bucket from the low bits and a tag from the high ones, so both must depend on all bits.
        let product = u128::from(self.0) * 0x9E37_79B9_7F4A_7C15;
        (product as u64) ^ ((product >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    use super::*;

    #[test]
    fn ids_that_differ_anywhere_spread_over_buckets_and_tags() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        for shift in (0..=112).step_by(8) {
            let hash = |number: u128| hasher.hash_one(JobId::from_bytes((number << shift).to_be_bytes()));
            let buckets: HashSet<u64> = (0..1024).map(|number| hash(number) % 1024).collect();
            let tags: HashSet<u64> = (0..1024).map(|number| hash(number) >> 57).collect();
            assert!(buckets.len() > 256 && tags.len() > 32, "{} {} at {shift}", buckets.len(), tags.len());
        }
    }

    #[test]
    fn the_length_of_an_id_is_no_part_of_its_hash() {
        let mut hasher = IdHasher::default();
        16_usize.hash(&mut hasher);
        assert_eq!(hasher.finish(), 0);
    }
}
