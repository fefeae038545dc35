//! The lanes of a queue while a transaction works on them. What must be known in any case stands in the queue's row: the
//! default lane, how many lanes stand where, what has started of the queue and its classes. A lane that has a name has a row
//! of its own, read when a job comes to it or leaves it, or when its turn comes. Jobs move without waiting for those rows: what
//! they do to lanes is noted in its order, and done once the rows are there. A writer keeps the rows of some lanes between its
//! commits, and the order of the ring's first ones, for as long as nobody else writes.

mod gate;
mod room;
mod steps;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{LaneClass, LaneKey};
use ferroq_core::policy::batch::SetBack;
use ferroq_core::policy::lanes::{LanePolicy, Starts};
use serde::{Deserialize, Serialize};

pub(crate) use gate::{Came, Gate};
use steps::Step;

/// The rows of so many lanes are kept between commits at most.
const LANES_KEPT_MAX: usize = 4096;

/// The number of the default lane.
pub(crate) const OWN: i64 = 0;

/// Maps by the numbers of lanes, which are looked up several times for each visit. The numbers are given here, so that nobody
/// can choose them to collide.
pub(crate) type ByNumber<T> = HashMap<i64, T, BuildHasherDefault<NumberHasher>>;

/// See [`ByNumber`].
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i64(i64::from(*byte));
        }
    }

    fn write_i64(&mut self, number: i64) {
        // Numbers follow one another; the upper bits have to tell them apart as well.
        self.0 = (self.0 ^ number.cast_unsigned()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Where a lane stands. The numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// No job is in its line.
    Out = 0,
    #[default]
    Ring = 1,
    /// Set aside until an instant.
    Held = 2,
    /// Set aside until its class has room.
    Parked = 3,
    /// Set aside until one of its jobs leaves Active, or rules change.
    Closed = 4,
}

impl Standing {
    pub(crate) fn from_number(number: i64) -> Standing {
        match number {
            1 => Standing::Ring,
            2 => Standing::Held,
            3 => Standing::Parked,
            4 => Standing::Closed,
            _ => Standing::Out,
        }
    }
}

/// One lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lane {
    #[serde(skip)]
    pub(crate) key: LaneKey,
    /// How many jobs are in its line; of the default lane not kept, because it is what the others leave.
    #[serde(skip)]
    pub(crate) waiting: i64,
    /// How many are Active; of the default lane not kept either.
    #[serde(skip)]
    pub(crate) active: i64,
    pub(crate) turn: i64,
    /// How many jobs are left of its turn; `None` while the turn has not begun.
    pub(crate) credit: Option<u32>,
    pub(crate) standing: Standing,
    /// The instant until which it is held.
    pub(crate) until: i64,
    pub(crate) starts: Option<Starts>,
    pub(crate) policy: Option<LanePolicy>,
    #[serde(skip_serializing_if = "Gate::is_nothing")]
    pub(crate) gate: Gate,
    #[serde(skip)]
    pub(crate) dirty: bool,
    /// What its row says.
    #[serde(skip)]
    pub(crate) stored: Stored,
}

/// What a lane's row says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stored {
    /// There is none.
    #[default]
    Nothing,
    /// Its counts and its turn.
    Turn,
    /// More: an instant, a class to wait for, starts, a policy or a gate.
    All,
}

impl Lane {
    /// What its row is to say.
    fn to_store(&self) -> Stored {
        let aside = matches!(self.standing, Standing::Held | Standing::Parked);
        match self.is_nothing() {
            true => Stored::Nothing,
            false if aside || self.starts.is_some() || self.policy.is_some() => Stored::All,
            false if !self.gate.is_nothing() => Stored::All,
            false => Stored::Turn,
        }
    }

    /// Whether nothing is to be said of it, so that it needs no row.
    pub(crate) fn is_nothing(&self) -> bool {
        self.waiting <= 0 && self.active <= 0 && self.starts.is_none() && self.policy.is_none()
    }
}

/// What is to be written of lanes' rows, each part in the order of numbers.
#[derive(Debug)]
pub(crate) struct Changed<'a> {
    /// Rows in which counts, turn and credit changed and nothing else.
    pub(crate) turned: Vec<(i64, &'a Lane)>,
    /// New rows, and others.
    pub(crate) other: Vec<(i64, &'a Lane)>,
    /// Rows to drop, because nothing is to be said of their lanes.
    pub(crate) dropped: Vec<i64>,
}

/// What is known of a queue's lanes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lanes {
    last_number: i64,
    turns: i64,
    /// Set-aside lanes of this turn and earlier ones come back, because rules changed.
    pub(crate) reopen_to: i64,
    /// Credits of turns before this one are full again, because their lane was alone. The first turn of all may be 0.
    full_below: i64,
    /// How many lanes with names stand where.
    standing: [i64; 5],
    named_waiting: i64,
    named_active: i64,
    /// How many lanes with names have policies of their own.
    pub(crate) policies: i64,
    /// Whether starts of lanes with names were ever remembered.
    pub(crate) has_starts: bool,
    /// Whether the Active jobs are counted by their lanes, because a limit asks for it. Otherwise rows say nothing of them.
    counting: bool,
    /// How many batches were opened, how many are failing, and which a sweep looked at last.
    #[serde(skip_serializing_if = "gate::is_zero")]
    batches: i64,
    #[serde(skip_serializing_if = "gate::is_zero")]
    failing: i64,
    #[serde(skip_serializing_if = "gate::is_zero")]
    mended: i64,
    /// What gates know of a clock that stepped back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) set_back: Option<SetBack>,
    own: Lane,
    starts: Option<Starts>,
    starts_of_class: BTreeMap<LaneClass, Starts>,
    #[serde(skip)]
    lanes: ByNumber<Lane>,
    #[serde(skip)]
    numbers: HashMap<LaneKey, i64>,
    /// Those lanes whose rows are to be written.
    #[serde(skip)]
    dirty: Vec<i64>,
    /// Those whose rows were dropped by this transaction.
    #[serde(skip)]
    dropped: Vec<i64>,
    /// The lanes of the ring by their turns, as far as they are known; their rows are here.
    #[serde(skip)]
    ring: BTreeMap<i64, i64>,
    /// All of those with turns up to this are known; `i64::MAX` if all are.
    #[serde(skip)]
    ring_to: Option<i64>,
    #[serde(skip)]
    steps: Vec<Step>,
    /// The keys of the jobs that left, in their order.
    #[serde(skip)]
    left: Vec<i64>,
    /// How many jobs of a class are Active, where that was counted.
    #[serde(skip)]
    pub(crate) active_of_class: HashMap<LaneClass, i64>,
    /// Whether something changed that stands in the queue's row.
    #[serde(skip)]
    pub(crate) changed: bool,
    /// The time before the clock stepped back, while starts have not followed it.
    #[serde(skip)]
    pub(crate) stepped_back_from: Option<Timestamp>,
}

impl Lanes {
    /// As the queue's row says it, if it says anything.
    pub(crate) fn read(text: &str) -> Result<Lanes, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// As the queue's row is to say it.
    pub(crate) fn write(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// As a commit leaves it, for whoever makes sure that nobody else wrote since.
    pub(crate) fn committed(mut self) -> Lanes {
        for number in std::mem::take(&mut self.dropped) {
            if self.lanes.get(&number).is_some_and(Lane::is_nothing)
                && let Some(lane) = self.lanes.remove(&number)
            {
                self.numbers.remove(&lane.key);
            }
        }
        self.forget_steps();
        self.changed = false;
        self.shed();
        self
    }

    /// Forgets lanes' rows if they are many and nothing of them is to be written; they can be read again.
    pub(crate) fn shed(&mut self) {
        if self.lanes.len() > LANES_KEPT_MAX && self.dirty.is_empty() {
            self.lanes.clear();
            self.numbers.clear();
            self.ring.clear();
            self.ring_to = None;
        }
    }

    fn named(&self) -> i64 {
        self.standing[1..].iter().sum()
    }

    /// How many lanes with names stand so.
    pub(crate) fn count(&self, standing: Standing) -> i64 {
        self.standing[standing as usize]
    }

    /// Takes in a lane's row. One that is known already is at least as new.
    pub(crate) fn learn(&mut self, number: i64, lane: Lane) {
        self.numbers.insert(lane.key.clone(), number);
        self.lanes.entry(number).or_insert(lane);
    }

    /// A lane came to be, beside so many others.
    fn join(&mut self, number: i64, others: i64) {
        if others == 1 {
            // The one that was alone has its full credit, and now it no longer is.
            self.full_below = self.turns + 1;
        }
        self.rejoin(number);
    }

    /// Puts a lane at the end of the ring, with a new turn.
    pub(crate) fn rejoin(&mut self, number: i64) {
        self.turns += 1;
        let turn = self.turns;
        self.set_standing(number, Standing::Ring);
        let lane = self.lane_mut(number);
        (lane.turn, lane.credit, lane.gate) = (turn, None, Gate::default());
        if number == OWN {
            return;
        }
        // It is behind all others, so it is known to be next only where those are known.
        if self.knows_ring_but(1) {
            self.ring_to = Some(i64::MAX);
            self.ring.insert(turn, number);
        }
    }

    /// Notes where a lane stands.
    pub(crate) fn set_standing(&mut self, number: i64, standing: Standing) {
        self.changed = true;
        let lane = self.lane_mut(number);
        let (before, turn) = (std::mem::replace(&mut lane.standing, standing), lane.turn);
        if number != OWN {
            if before == Standing::Ring {
                self.ring.remove(&turn);
            }
            self.standing[before as usize] -= 1;
            self.standing[standing as usize] += 1;
        }
    }

    /// Whether all lanes of the ring are known but for so many.
    fn knows_ring_but(&self, unknown: i64) -> bool {
        i64::try_from(self.ring.len()).is_ok_and(|known| known + unknown == self.count(Standing::Ring))
    }

    /// The first lanes of the ring with their turns, if that many are known, or all.
    pub(crate) fn ring_heads(&mut self, most: usize) -> Option<Vec<(i64, i64)>> {
        if self.knows_ring_but(0) {
            self.ring_to = Some(i64::MAX);
        }
        let known = self.ring.len() >= most || self.ring_to == Some(i64::MAX);
        known.then(|| self.ring.iter().take(most).map(|(turn, number)| (*turn, *number)).collect())
    }

    /// Takes note of the first lanes of the ring; whether these are all.
    pub(crate) fn learn_ring(&mut self, first: &[i64], are_all: bool) {
        self.ring.clear();
        for number in first {
            if let Some(lane) = self.lanes.get(number) {
                self.ring.insert(lane.turn, *number);
            }
        }
        self.ring_to = if are_all { Some(i64::MAX) } else { self.ring.last_key_value().map(|(turn, _)| *turn) };
    }

    /// The number of a lane that has a name, given now if it has none.
    pub(crate) fn number(&mut self, key: &LaneKey) -> i64 {
        if let Some(number) = self.known_number(key) {
            return number;
        }
        self.changed = true;
        self.last_number += 1;
        let number = self.last_number;
        self.standing[Standing::Out as usize] += 1;
        self.numbers.insert(key.clone(), number);
        self.dirty.push(number);
        let lane = Lane { key: key.clone(), standing: Standing::Out, dirty: true, ..Lane::default() };
        self.lanes.insert(number, lane);
        number
    }

    /// The number of a lane, if its row is here.
    pub(crate) fn known_number(&self, key: &LaneKey) -> Option<i64> {
        if key.is_default() { Some(OWN) } else { self.numbers.get(key).copied() }
    }

    /// A lane whose row is here.
    pub(crate) fn lane(&self, number: i64) -> Option<&Lane> {
        if number == OWN { Some(&self.own) } else { self.lanes.get(&number) }
    }

    /// A lane, to change it.
    pub(crate) fn lane_mut(&mut self, number: i64) -> &mut Lane {
        if number == OWN {
            self.changed = true;
            return &mut self.own;
        }
        let lane = self.lanes.entry(number).or_default();
        if !std::mem::replace(&mut lane.dirty, true) {
            self.dirty.push(number);
        }
        lane
    }

    /// What is to be written of lanes' rows.
    pub(crate) fn take_dirty(&mut self) -> Changed<'_> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        let (mut turned, mut other, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        for number in dirty {
            let Some(lane) = self.lanes.get_mut(&number) else { continue };
            lane.dirty = false;
            let now = lane.to_store();
            let before = std::mem::replace(&mut lane.stored, now);
            match (before, lane.stored) {
                (Stored::Nothing, Stored::Nothing) => self.dropped.push(number),
                (_, Stored::Nothing) => dropped.push(number),
                (Stored::Turn, Stored::Turn) => turned.push(number),
                _ => other.push(number),
            }
        }
        self.dropped.extend_from_slice(&dropped);
        let lanes = &self.lanes;
        let lanes =
            |numbers: Vec<i64>| numbers.into_iter().filter_map(|number| Some((number, lanes.get(&number)?))).collect();
        Changed { turned: lanes(turned), other: lanes(other), dropped }
    }

    /// How many jobs are in a lane's line.
    pub(crate) fn waiting(&self, number: i64, in_line: i64) -> i64 {
        if number == OWN { in_line - self.named_waiting } else { self.lane(number).map_or(0, |lane| lane.waiting) }
    }

    /// The default lane's turn, if it is in the ring.
    pub(crate) fn own_turn(&self, in_line: i64) -> Option<i64> {
        (self.waiting(OWN, in_line) > 0 && self.own.standing == Standing::Ring).then_some(self.own.turn)
    }

    /// The turn of a lane that has a name and whose row is here, if it is in the ring.
    pub(crate) fn turn_in_ring(&self, number: i64) -> Option<i64> {
        self.lane(number).filter(|lane| lane.standing == Standing::Ring).map(|lane| lane.turn)
    }

    /// The default lane, if it is set aside.
    pub(crate) fn own_aside(&self, in_line: i64) -> Option<&Lane> {
        (self.waiting(OWN, in_line) > 0 && self.own.standing != Standing::Ring).then_some(&self.own)
    }

    /// Whether there is one lane alone.
    pub(crate) fn is_alone(&self, in_line: i64) -> bool {
        self.named() + i64::from(self.waiting(OWN, in_line) > 0) == 1
    }

    /// How many jobs are left of a lane's turn, which begins now if it has not begun.
    pub(crate) fn credit(&mut self, number: i64, full: u32, in_line: i64) -> u32 {
        if self.is_alone(in_line) {
            return u32::MAX;
        }
        let full_below = self.full_below;
        let lane = self.lane_mut(number);
        if lane.turn < full_below {
            lane.credit = None;
            self.full_below = 0;
        }
        *self.lane_mut(number).credit.get_or_insert(full)
    }

    /// What is left of a turn, without beginning it.
    pub(crate) fn credit_left(&self, number: i64, full: u32) -> u32 {
        let lane = self.lane(number).filter(|lane| lane.turn >= self.full_below);
        lane.and_then(|lane| lane.credit).unwrap_or(full)
    }

    /// Ends a visit in which so many jobs of the lane were looked at; whether the lane went to the ring's end.
    pub(crate) fn visited(&mut self, number: i64, looked_at: u32, in_line: i64) -> bool {
        if self.waiting(number, in_line) <= 0 {
            return false;
        }
        if self.is_alone(in_line) {
            self.lane_mut(number).credit = None;
            return false;
        }
        let lane = self.lane_mut(number);
        lane.credit = lane.credit.map(|credit| credit.saturating_sub(looked_at));
        let is_over = lane.credit == Some(0);
        if is_over {
            self.rejoin(number);
        }
        is_over
    }

    /// Rules changed: every lane that is set aside now is to come back.
    pub(crate) fn reopen(&mut self) {
        // The default lane alone may stand there with turn 0, and none must not look like nothing to reopen.
        self.turns = self.turns.max(1);
        self.changed |= self.reopen_to != self.turns;
        self.reopen_to = self.turns;
    }
}
