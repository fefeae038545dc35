//! The walk over a queue's jobs as scripts take and answer it (see `lua/walk.lua`): a set by its number, the score there,
//! and the seq. A score is a double; what it holds of a rank is told back exactly, so a cursor goes on where it was made.

use ferroq_core::clock::micros;
use ferroq_core::job::{JobState, Slot};
use ferroq_core::storage::{JobFilter, ListCursor};
use redis::Cmd;

use crate::record::seq_of;
use crate::spec::{Reader, Unreadable};

/// The number of the set that all shelves share. Before it stand the set of all lanes and the solo line, after it every other
/// state's set.
const SHELVES: u8 = 3;
/// The scores of a lane, and of a shelf, are its number times this, and the priority.
const LINE: i64 = 256;
/// More than anybody holds in memory; scripts count exactly to well beyond it.
const ITEMS_MAX: usize = u32::MAX as usize;

/// A place between the jobs of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    set: u8,
    score: i64,
    seq: i64,
}

impl Place {
    /// Where the walk goes on after a cursor, which users may have made up.
    fn after(cursor: ListCursor) -> Self {
        let ListCursor { state, slot, line, rank, seq } = cursor;
        if state == JobState::Waiting && slot != Slot::Solo {
            let set = if slot == Slot::Shelf { SHELVES } else { 1 };
            let from = line.saturating_mul(LINE);
            return match rank {
                ..0 => Place { set, score: from.saturating_sub(1), seq: i64::MAX },
                0..LINE => Place { set, score: from.saturating_add(rank), seq },
                LINE.. => Place { set, score: from.saturating_add(LINE - 1), seq: i64::MAX },
            };
        }
        let (set, slot) = match (state, slot) {
            (JobState::Waiting, _) => (2, Slot::Lane),
            (state, slot) => (state.number() + SHELVES, slot),
        };
        // Lines of a set come in the order of (slot, line), and each set here is line 0 of the first slot.
        match (slot, line).cmp(&(Slot::Lane, 0)) {
            std::cmp::Ordering::Less => Place { set, score: i64::MIN, seq: i64::MIN },
            std::cmp::Ordering::Equal => Place { set, score: rank, seq },
            std::cmp::Ordering::Greater => Place { set, score: i64::MAX, seq: i64::MAX },
        }
    }

    fn cursor(self) -> Option<ListCursor> {
        let Place { set, score, seq } = self;
        let (state, slot) = match set {
            1 => (JobState::Waiting, Slot::Lane),
            2 => (JobState::Waiting, Slot::Solo),
            SHELVES => (JobState::Waiting, Slot::Shelf),
            _ => (JobState::from_number(set.checked_sub(SHELVES)?)?, Slot::Lane),
        };
        let (line, rank) = match (state, slot) {
            (JobState::Waiting, Slot::Lane | Slot::Shelf) => (score.div_euclid(LINE), score.rem_euclid(LINE)),
            _ => (0, score),
        };
        Some(ListCursor { state, slot, line, rank, seq })
    }
}

/// Adds a step's nine arguments.
pub(crate) fn step<'a>(
    cmd: &'a mut Cmd,
    filter: &JobFilter,
    after: Option<ListCursor>,
    max_items: usize,
) -> &'a mut Cmd {
    let states = JobState::ALL.into_iter().filter(|state| filter.allows(*state));
    cmd.arg(states.fold(0_u8, |bits, state| bits | 1 << state.number()));
    cmd.arg(filter.kind.as_deref().unwrap_or_default());
    cmd.arg(filter.lane.as_ref().map(|lane| format!("={}", lane.name().unwrap_or_default())).unwrap_or_default());
    cmd.arg(filter.tag.as_deref().unwrap_or_default());
    cmd.arg(filter.ended_before.map(|age| micros(age).to_string()).unwrap_or_default());
    match after.map(Place::after) {
        Some(Place { set, score, seq }) => cmd.arg(set).arg(score).arg(seq),
        None => cmd.arg("").arg("").arg(""),
    };
    cmd.arg(items(max_items))
}

/// How many to look at, as scripts can count.
pub(crate) fn items(max_items: usize) -> usize {
    max_items.min(ITEMS_MAX)
}

/// Reads where the next step goes on; nothing if the walk is over.
pub(crate) fn next(bytes: &[u8]) -> Result<Option<ListCursor>, Unreadable> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut from = Reader(bytes);
    let (set, score, seq) = (from.u8()?, from.i64()?, seq_of(from.0)?);
    Place { set, score, seq }.cursor().ok_or(Unreadable).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(state: JobState, slot: Slot, line: i64, rank: i64) -> ListCursor {
        ListCursor { state, slot, line, rank, seq: -7 }
    }

    #[test]
    fn a_cursor_that_a_walk_answered_leads_back_to_its_place() {
        let mut cursors = vec![
            cursor(JobState::Waiting, Slot::Lane, 0, 128),
            cursor(JobState::Waiting, Slot::Lane, 7, 3),
            cursor(JobState::Waiting, Slot::Solo, 0, 0),
            cursor(JobState::Waiting, Slot::Shelf, 1, 0),
            cursor(JobState::Waiting, Slot::Shelf, 9, 255),
        ];
        cursors.extend(JobState::ALL[1..].iter().map(|state| cursor(*state, Slot::Lane, 0, i64::MAX)));
        for cursor in cursors {
            assert_eq!(Place::after(cursor).cursor(), Some(cursor));
        }
    }

    #[test]
    fn a_made_up_cursor_skips_what_comes_before_it_and_no_more() {
        let place = |set, score, seq| Place { set, score, seq };
        let high = i64::MAX;
        let cases = [
            (cursor(JobState::Waiting, Slot::Lane, -1, 5), place(1, -251, -7)),
            (cursor(JobState::Waiting, Slot::Lane, 1, 256), place(1, 511, high)),
            (cursor(JobState::Waiting, Slot::Solo, 1, 5), place(2, high, high)),
            (cursor(JobState::Failed, Slot::Shelf, -1, 5), place(8, high, high)),
            (cursor(JobState::Waiting, Slot::Shelf, 3, -1), place(3, 767, high)),
            (cursor(JobState::Waiting, Slot::Shelf, 3, 256), place(3, 1023, high)),
            (cursor(JobState::Waiting, Slot::Shelf, high, 5), place(3, high, -7)),
        ];
        for (cursor, expected) in cases {
            assert_eq!(Place::after(cursor), expected, "{cursor}");
        }
    }
}
