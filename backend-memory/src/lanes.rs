//! The lanes of a queue: the lines in which jobs wait, the ring in which lanes take their turns, and those that are set
//! aside because nothing of them may start now. A lane is here while a job stands in its line, and leaves nothing behind;
//! what is remembered of its starts is kept with the queue.

use std::collections::{BTreeMap, HashMap};

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{LaneClass, LaneKey};
use ferroq_core::policy::batch::{BatchGate, SetBack};

use crate::roster::{Key, Line};

/// Names a lane within its queue, for as long as it is there. The default lane is always 0.
pub(crate) type LaneNumber = i64;

/// Where a lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In the ring.
    Ring,
    /// Set aside until an instant.
    Held(Timestamp),
    /// Set aside until its class has room.
    Parked(LaneClass),
    /// Set aside until one of its jobs leaves Active, or rules change.
    Closed,
}

/// One lane with jobs in its line.
#[derive(Debug)]
struct Lane {
    key: LaneKey,
    line: Line,
    turn: i64,
    /// How many jobs are left of its turn; `None` while the turn has not begun.
    credit: Option<u32>,
    standing: Standing,
    /// While its gate holds it: how many jobs open that, else 0; and when the first of its line came due.
    wants: u32,
    since: Timestamp,
}

/// The lanes of a queue that have jobs in line.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: BTreeMap<LaneNumber, Lane>,
    waiting: usize,
    numbers: HashMap<LaneKey, LaneNumber>,
    last_number: LaneNumber,
    turns: i64,
    ring: BTreeMap<i64, LaneNumber>,
    held: BTreeMap<(Timestamp, i64), LaneNumber>,
    parked: BTreeMap<LaneClass, BTreeMap<i64, LaneNumber>>,
    /// All that are not in the ring, by turn.
    aside: BTreeMap<i64, LaneNumber>,
    /// Set-aside lanes of this turn and earlier ones come back, because rules changed.
    reopen_to: i64,
    /// What gates know of a clock that stepped back.
    pub(crate) set_back: Option<SetBack>,
}

impl Lanes {
    /// The number of a lane, given now if it has none.
    pub(crate) fn number(&mut self, key: &LaneKey) -> LaneNumber {
        if key.is_default() {
            return 0;
        }
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        // It is entered with the first job. Numbers only rise, so that a cursor of a walk stays good.
        self.last_number + 1
    }

    /// Puts a job in a lane's line.
    pub(crate) fn stand(&mut self, number: LaneNumber, key: &LaneKey, at: (i64, i64), job: Key) {
        self.waiting += 1;
        if let Some(lane) = self.lanes.get_mut(&number) {
            lane.line.insert(at, job);
            return;
        }
        if number > 0 {
            self.numbers.insert(key.clone(), number);
            self.last_number = self.last_number.max(number);
        }
        if self.lanes.len() == 1 {
            // A lane alone has its full credit, and now it no longer is.
            self.lanes.values_mut().for_each(|lane| lane.credit = None);
        }
        let line = Line::from([(at, job)]);
        let (standing, since) = (Standing::Closed, Timestamp::default());
        let lane = Lane { key: key.clone(), line, turn: 0, credit: None, standing, wants: 0, since };
        self.lanes.insert(number, lane);
        self.rejoin(number);
    }

    /// A job that came due then came to a lane's line. If its gate holds that, and the job fills it, needs none because it has
    /// a batch, or waits for longer than the others, the lane takes its turn.
    pub(crate) fn arrived(&mut self, number: LaneNumber, in_batch: bool, due: Timestamp) {
        let Some(lane) = self.lanes.get(&number).filter(|lane| lane.wants > 0) else { return };
        if in_batch || due < lane.since || lane.line.len() as u64 >= u64::from(lane.wants) {
            self.rejoin(number);
        }
    }

    /// Its gate holds a lane in whose line the first job came due then.
    pub(crate) fn hold(&mut self, number: LaneNumber, gate: &BatchGate, since: Timestamp) {
        self.set_aside(number, Standing::Held(gate.opens_at(since)));
        if let Some(lane) = self.lanes.get_mut(&number) {
            (lane.wants, lane.since) = (gate.size, since);
        }
    }

    /// Takes a job out of a lane's line.
    pub(crate) fn leave(&mut self, number: LaneNumber, at: (i64, i64)) {
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        self.waiting -= usize::from(lane.line.remove(&at).is_some());
        if lane.line.is_empty() {
            self.step_out(number);
            if let Some(lane) = self.lanes.remove(&number) {
                self.numbers.remove(&lane.key);
            }
        }
    }

    /// How many jobs are in line.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// The lines by number.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (LaneNumber, &Line)> {
        self.lanes.iter().map(|(number, lane)| (*number, &lane.line))
    }

    /// The first job of a lane.
    pub(crate) fn first(&self, number: LaneNumber) -> Option<Key> {
        self.lanes.get(&number)?.line.first_key_value().map(|(_, key)| *key)
    }

    /// Whether the ring is empty.
    pub(crate) fn is_ring_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The lane whose turn it is.
    pub(crate) fn head(&self) -> Option<(LaneNumber, &LaneKey)> {
        let number = *self.ring.first_key_value()?.1;
        self.lanes.get(&number).map(|lane| (number, &lane.key))
    }

    /// How many lanes of the ring, counted up to `max`, come before this one; all of them if it is set aside.
    pub(crate) fn before(&self, key: &LaneKey, max: usize) -> usize {
        let number = if key.is_default() { Some(&0) } else { self.numbers.get(key) };
        let lane = number.and_then(|number| self.lanes.get(number));
        let turn = lane.filter(|lane| lane.standing == Standing::Ring).map_or(i64::MAX, |lane| lane.turn);
        self.ring.range(..turn).take(max).count()
    }

    /// The line of the lane with this number.
    pub(crate) fn line_of(&self, number: LaneNumber) -> Option<&Line> {
        self.lanes.get(&number).map(|lane| &lane.line)
    }

    /// The line of a lane.
    pub(crate) fn line(&self, key: &LaneKey) -> Option<&Line> {
        let number = if key.is_default() { Some(&0) } else { self.numbers.get(key) };
        number.and_then(|number| self.lanes.get(number)).map(|lane| &lane.line)
    }

    /// How many jobs are left of a lane's turn, which begins now if it has not begun.
    pub(crate) fn credit(&mut self, number: LaneNumber, full: u32) -> u32 {
        if self.lanes.len() == 1 {
            return u32::MAX;
        }
        self.lanes.get_mut(&number).map_or(0, |lane| *lane.credit.get_or_insert(full))
    }

    /// Ends a visit in which so many jobs of the lane were looked at. Without credit it goes to the ring's end.
    pub(crate) fn visited(&mut self, number: LaneNumber, looked_at: u32) {
        let alone = self.lanes.len() == 1;
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        if alone {
            lane.credit = None;
            return;
        }
        let left = lane.credit.map(|credit| credit.saturating_sub(looked_at));
        lane.credit = left;
        if left == Some(0) {
            self.rejoin(number);
        }
    }

    /// Takes a lane out of the ring.
    pub(crate) fn set_aside(&mut self, number: LaneNumber, standing: Standing) {
        self.step_out(number);
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        if standing != Standing::Ring {
            self.aside.insert(lane.turn, number);
        }
        match &standing {
            Standing::Ring => drop(self.ring.insert(lane.turn, number)),
            Standing::Held(until) => drop(self.held.insert((*until, lane.turn), number)),
            Standing::Parked(class) => {
                self.parked.entry(class.clone()).or_default().insert(lane.turn, number);
            }
            Standing::Closed => {}
        }
        lane.standing = standing;
    }

    /// Puts a lane at the end of the ring, with a new turn.
    pub(crate) fn rejoin(&mut self, number: LaneNumber) {
        self.step_out(number);
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        self.turns += 1;
        (lane.turn, lane.credit, lane.standing, lane.wants) = (self.turns, None, Standing::Ring, 0);
        self.ring.insert(lane.turn, number);
    }

    /// Rules changed: every lane that is set aside now is to come back.
    pub(crate) fn reopen(&mut self) {
        self.reopen_to = self.turns;
    }

    /// One lane's rules changed.
    pub(crate) fn reopen_lane(&mut self, key: &LaneKey) {
        if let Some((number, standing)) = self.find(key)
            && *standing != Standing::Ring
        {
            self.rejoin(number);
        }
    }

    /// The lane, if it waits for one of its jobs to leave Active.
    pub(crate) fn closed(&self, key: &LaneKey) -> Option<LaneNumber> {
        self.find(key).filter(|(_, standing)| **standing == Standing::Closed).map(|(number, _)| number)
    }

    fn find(&self, key: &LaneKey) -> Option<(LaneNumber, &Standing)> {
        let number = if key.is_default() { 0 } else { *self.numbers.get(key)? };
        self.lanes.get(&number).map(|lane| (number, &lane.standing))
    }

    /// Brings back lanes that were set aside before the rules changed, by turn, and those whose instant has come, by that.
    pub(crate) fn bring_back(&mut self, now: Timestamp, max: usize) {
        if self.reopen_to > 0 {
            let old = self.aside.range(..=self.reopen_to).take(max.saturating_add(1));
            let old: Vec<LaneNumber> = old.map(|(_, number)| *number).collect();
            if old.len() <= max {
                self.reopen_to = 0;
            }
            old.iter().take(max).for_each(|number| self.rejoin(*number));
        }
        let due = self.held.range(..=(now, i64::MAX)).take(max);
        let due: Vec<LaneNumber> = due.map(|(_, number)| *number).collect();
        due.into_iter().for_each(|number| self.rejoin(number));
    }

    /// Whether lanes that were set aside before the rules changed are still to come back.
    pub(crate) fn is_reopening(&self) -> bool {
        self.reopen_to > 0
    }

    /// The classes with parked lanes.
    pub(crate) fn parked_classes(&self) -> Vec<LaneClass> {
        self.parked.keys().cloned().collect()
    }

    /// Brings back the first parked lanes of a class.
    pub(crate) fn unpark(&mut self, class: &LaneClass, max: usize) {
        let parked = self.parked.get(class).into_iter().flatten().take(max);
        let back: Vec<LaneNumber> = parked.map(|(_, number)| *number).collect();
        back.into_iter().for_each(|number| self.rejoin(number));
    }

    /// The first instant until which a lane is held.
    pub(crate) fn held_until(&self) -> Option<Timestamp> {
        self.held.first_key_value().map(|((until, _), _)| *until)
    }

    fn step_out(&mut self, number: LaneNumber) {
        let Some(lane) = self.lanes.get(&number) else { return };
        self.aside.remove(&lane.turn);
        match &lane.standing {
            Standing::Ring => drop(self.ring.remove(&lane.turn)),
            Standing::Held(until) => drop(self.held.remove(&(*until, lane.turn))),
            Standing::Parked(class) => {
                if let Some(parked) = self.parked.get_mut(class) {
                    parked.remove(&lane.turn);
                    if parked.is_empty() {
                        self.parked.remove(class);
                    }
                }
            }
            Standing::Closed => {}
        }
    }
}
