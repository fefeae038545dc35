//! The lanes of a queue while a transaction works on them. What must be known in any case stands in the queue's row: the
//! default lane, how many lanes stand where, what has started of the queue and its classes. A lane that has a name has a row
//! of its own, read when a job comes to it or leaves it, or when its turn comes. Jobs move without waiting for those rows: what
//! they do to lanes is noted in its order, and done once the rows are there.

use std::collections::{BTreeMap, HashMap};

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{LaneClass, LaneKey};
use ferroq_core::policy::lanes::{LanePolicy, LaneTerms, Room, StartLimits, Starts};
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::QueueConfig;
use serde::{Deserialize, Serialize};

/// The number of the default lane.
pub(crate) const OWN: i64 = 0;

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

/// What the gate of a lane goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Gate {
    /// Since when the first of the jobs waits that the next batch is to hold, once somebody asked.
    pub(crate) since: Option<Timestamp>,
    /// How many jobs open it, while the lane is held for them; 0 while it isn't.
    pub(crate) wants: u32,
}

impl Gate {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Gate::default()
    }

    /// Whether a job that came, so that so many are in line, ends the waiting for them.
    fn is_opened_by(&self, in_line: i64, in_batch: bool) -> bool {
        self.wants > 0 && (in_batch || in_line >= i64::from(self.wants))
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
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
}

impl Lane {
    /// Whether nothing is to be said of it, so that it needs no row.
    pub(crate) fn is_nothing(&self) -> bool {
        self.waiting <= 0 && self.active <= 0 && self.starts.is_none() && self.policy.is_none()
    }
}

/// What a job did to lanes.
#[derive(Clone, Debug)]
enum Step {
    /// A job came to the line of a lane; whether it is in a batch already.
    Stand(LaneKey, bool),
    /// The job with this key left the line of the lane with this number.
    Leave(i64, i64),
    /// A job of a lane became Active.
    Start(LaneKey),
    /// It no longer is.
    Stop(LaneKey),
    /// It no longer is because its run is over.
    Release(LaneKey),
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
    /// How many batches were opened, and how many are failing.
    #[serde(skip_serializing_if = "is_zero")]
    batches: i64,
    #[serde(skip_serializing_if = "is_zero")]
    failing: i64,
    own: Lane,
    starts: Option<Starts>,
    starts_of_class: BTreeMap<LaneClass, Starts>,
    #[serde(skip)]
    lanes: HashMap<i64, Lane>,
    #[serde(skip)]
    numbers: HashMap<LaneKey, i64>,
    #[serde(skip)]
    steps: Vec<Step>,
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

    /// As a commit leaves it: rows may be changed by others then.
    pub(crate) fn committed(self) -> Lanes {
        Lanes {
            lanes: HashMap::new(),
            numbers: HashMap::new(),
            steps: Vec::new(),
            active_of_class: HashMap::new(),
            changed: false,
            ..self
        }
    }

    /// Whether jobs are served by one line without limits, and no lane needs a look, given these settings.
    pub(crate) fn is_plain(&self, config: &QueueConfig) -> bool {
        self.is_trivial() && self.reopen_to == 0 && !self.has_rules(config)
    }

    /// Whether anything but order may hold jobs back.
    pub(crate) fn has_rules(&self, config: &QueueConfig) -> bool {
        self.policies > 0
            || self.own.policy.is_some()
            || !config.limits.is_none()
            || config.lanes != ferroq_core::policy::lanes::LaneRules::default()
    }

    /// Whether there is the default lane alone, in the ring, so that its coming and going says nothing.
    fn is_trivial(&self) -> bool {
        let own = &self.own;
        self.named() == 0 && own.standing == Standing::Ring && own.gate.since.is_none() && self.steps.is_empty()
    }

    fn named(&self) -> i64 {
        self.standing[1..].iter().sum()
    }

    /// How many lanes with names stand so.
    pub(crate) fn count(&self, standing: Standing) -> i64 {
        self.standing[standing as usize]
    }

    /// A job came to the line of a lane; so many are in line with it.
    pub(crate) fn stand(&mut self, lane: LaneKey, job: i64, in_line: i64, in_batch: bool) {
        if lane.is_default() && self.is_trivial() {
            if in_line == 1 {
                // A turn like the last one is as good as the next while nobody else has one, unless old turns are to end.
                self.turns += i64::from(self.reopen_to > 0);
                self.changed |= self.own.turn != self.turns;
                self.own.turn = self.turns;
            }
            return;
        }
        // A job that only moves in its line does not leave its lane in between.
        if matches!(self.steps.last(), Some(Step::Leave(_, left)) if *left == job) {
            self.steps.pop();
            return;
        }
        self.steps.push(Step::Stand(lane, in_batch));
    }

    /// A job left the line of a lane.
    pub(crate) fn leave(&mut self, number: i64, job: i64) {
        if number != OWN || !self.is_trivial() {
            self.steps.push(Step::Leave(number, job));
        }
    }

    /// A job of a lane became Active.
    pub(crate) fn start(&mut self, lane: LaneKey) {
        if !lane.is_default() {
            self.steps.push(Step::Start(lane));
        }
    }

    /// A job of a lane is Active no longer.
    pub(crate) fn stop(&mut self, lane: LaneKey) {
        if !lane.is_default() {
            self.steps.push(Step::Stop(lane));
        }
    }

    /// A run of a job of this lane is over.
    pub(crate) fn release(&mut self, lane: LaneKey) {
        if !lane.is_default() || !self.is_trivial() {
            self.steps.push(Step::Release(lane));
        }
    }

    /// The lanes whose rows must be there before what was noted can be done: by name, and by number.
    pub(crate) fn wanted(&self) -> (Vec<&LaneKey>, Vec<i64>) {
        let (mut names, mut numbers) = (Vec::new(), Vec::new());
        for step in &self.steps {
            match step {
                Step::Stand(lane, _) | Step::Start(lane) | Step::Stop(lane) | Step::Release(lane) => {
                    if !lane.is_default() && !self.numbers.contains_key(lane) {
                        names.push(lane);
                    }
                }
                Step::Leave(number, _) => {
                    if *number != OWN && !self.lanes.contains_key(number) {
                        numbers.push(*number);
                    }
                }
            }
        }
        (names, numbers)
    }

    pub(crate) fn has_steps(&self) -> bool {
        !self.steps.is_empty()
    }

    /// A queue that was removed has nothing to do.
    pub(crate) fn forget_steps(&mut self) {
        self.steps.clear();
    }

    /// Takes in a lane's row. One that is known already is at least as new.
    pub(crate) fn learn(&mut self, number: i64, lane: Lane) {
        self.numbers.insert(lane.key.clone(), number);
        self.lanes.entry(number).or_insert(lane);
    }

    /// Does what was noted, now that all rows are there; `in_line` jobs are in line after it.
    pub(crate) fn apply(&mut self, in_line: i64) {
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return;
        }
        self.changed = true;
        // What is in the default lane's line is what the others leave of all.
        let is_own = |step: &Step| match step {
            Step::Stand(lane, _) => i64::from(lane.is_default()),
            Step::Leave(OWN, _) => -1,
            _ => 0,
        };
        let is_named = |step: &Step| match step {
            Step::Stand(lane, _) => i64::from(!lane.is_default()),
            Step::Leave(number, _) => -i64::from(*number != OWN),
            _ => 0,
        };
        let named: i64 = steps.iter().map(is_named).sum();
        let mut own = in_line - self.named_waiting - named - steps.iter().map(is_own).sum::<i64>();
        for step in steps {
            match step {
                Step::Stand(lane, in_batch) if lane.is_default() => {
                    own += 1;
                    if own == 1 {
                        self.join(OWN, self.named());
                    } else if self.own.gate.is_opened_by(own, in_batch) {
                        self.rejoin(OWN);
                    }
                }
                Step::Stand(lane, in_batch) => {
                    let number = self.number(&lane);
                    self.named_waiting += 1;
                    let lane = self.lane_mut(number);
                    lane.waiting += 1;
                    if lane.waiting == 1 {
                        self.join(number, self.named() + i64::from(own > 0));
                    } else if lane.gate.is_opened_by(lane.waiting, in_batch) {
                        self.rejoin(number);
                    }
                }
                Step::Leave(OWN, _) => {
                    own -= 1;
                    if own == 0 {
                        (self.own.standing, self.own.gate) = (Standing::Ring, Gate::default());
                    }
                }
                Step::Leave(number, _) => {
                    self.named_waiting -= 1;
                    let lane = self.lane_mut(number);
                    lane.waiting -= 1;
                    if lane.waiting <= 0 {
                        lane.gate = Gate::default();
                        self.set_standing(number, Standing::Out);
                    }
                }
                Step::Start(lane) => self.count_active(&lane, 1),
                Step::Stop(lane) => self.count_active(&lane, -1),
                Step::Release(lane) => {
                    let number = if lane.is_default() { Some(OWN) } else { self.numbers.get(&lane).copied() };
                    if let Some(number) = number
                        && self.lane(number).is_some_and(|lane| lane.standing == Standing::Closed)
                    {
                        self.rejoin(number);
                    }
                }
            }
        }
    }

    fn count_active(&mut self, key: &LaneKey, by: i64) {
        let number = self.number(key);
        self.lane_mut(number).active += by;
        self.named_active += by;
        if let Some(class) = key.class()
            && let Some(active) = self.active_of_class.get_mut(&class)
        {
            *active += by;
        }
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
        (lane.turn, lane.credit, lane.gate.wants) = (turn, None, 0);
    }

    /// Notes where a lane stands.
    pub(crate) fn set_standing(&mut self, number: i64, standing: Standing) {
        self.changed = true;
        let lane = self.lane_mut(number);
        let before = std::mem::replace(&mut lane.standing, standing);
        if number != OWN {
            self.standing[before as usize] -= 1;
            self.standing[standing as usize] += 1;
        }
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
        lane.dirty = true;
        lane
    }

    /// The lanes whose rows are to be written.
    pub(crate) fn take_dirty(&mut self) -> Vec<(i64, Lane)> {
        let dirty = self.lanes.iter_mut().filter(|(_, lane)| lane.dirty);
        let mut dirty: Vec<_> = dirty
            .map(|(number, lane)| {
                lane.dirty = false;
                (*number, lane.clone())
            })
            .collect();
        dirty.sort_by_key(|(number, _)| *number);
        dirty
    }

    /// How many jobs are in a lane's line.
    pub(crate) fn waiting(&self, number: i64, in_line: i64) -> i64 {
        if number == OWN { in_line - self.named_waiting } else { self.lane(number).map_or(0, |lane| lane.waiting) }
    }

    /// The default lane's turn, if it is in the ring.
    pub(crate) fn own_turn(&self, in_line: i64) -> Option<i64> {
        (self.waiting(OWN, in_line) > 0 && self.own.standing == Standing::Ring).then_some(self.own.turn)
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

    /// The number of a batch that is opened now.
    pub(crate) fn next_batch(&mut self) -> i64 {
        self.changed = true;
        self.batches += 1;
        self.batches
    }

    /// How many batches are failing.
    pub(crate) fn failing(&self) -> i64 {
        self.failing
    }

    /// So many more are.
    pub(crate) fn fails(&mut self, by: i64) {
        self.changed |= by != 0;
        self.failing += by;
    }

    /// What the rules come to for a lane.
    pub(crate) fn terms(&self, key: &LaneKey, config: &QueueConfig) -> LaneTerms {
        let lane = self.known_number(key).and_then(|number| self.lane(number));
        config.lanes.terms(key, lane.and_then(|lane| lane.policy.as_ref()))
    }

    /// The room of the queue, with so many jobs Active.
    pub(crate) fn room(&self, limits: &StartLimits, active: i64, now: Timestamp) -> Room {
        Room::new(limits, active.max(0).unsigned_abs(), self.starts.as_ref(), now)
    }

    /// The room of a lane, with so many jobs of the queue Active.
    pub(crate) fn room_of_lane(&self, key: &LaneKey, limits: &StartLimits, active: i64, now: Timestamp) -> Room {
        let lane = self.known_number(key).and_then(|number| self.lane(number));
        let active = if key.is_default() { active - self.named_active } else { lane.map_or(0, |lane| lane.active) };
        Room::new(limits, active.max(0).unsigned_abs(), lane.and_then(|lane| lane.starts.as_ref()), now)
    }

    /// The room of a class.
    pub(crate) fn room_of_class(&self, class: &LaneClass, limits: &StartLimits, now: Timestamp) -> Room {
        let active = self.active_of_class.get(class).copied().unwrap_or_default();
        Room::new(limits, active.max(0).unsigned_abs(), self.starts_of_class.get(class), now)
    }

    /// Takes note of starts in a lane.
    pub(crate) fn started(&mut self, key: &LaneKey, config: &QueueConfig, terms: &LaneTerms, now: Timestamp, n: u32) {
        if n == 0 {
            return;
        }
        let take = |starts: &mut Starts, rate: &Rate| starts.take(rate, now, n);
        if let Some(rate) = &config.limits.rate {
            take(self.starts.get_or_insert_default(), rate);
            self.changed = true;
        }
        if let Some(rate) = &terms.limits.rate {
            let number = if key.is_default() { OWN } else { self.number(key) };
            take(self.lane_mut(number).starts.get_or_insert_default(), rate);
            self.has_starts |= number != OWN;
            self.changed = true;
        }
        if let Some((class, StartLimits { rate: Some(rate), .. })) = config.lanes.class_total(key) {
            take(self.starts_of_class.entry(class).or_default(), rate);
            self.changed = true;
        }
    }

    /// The clock stepped back: starts that were later than now count as of now. The rows of all lanes with starts are here.
    pub(crate) fn anchor(&mut self, before: Timestamp, now: Timestamp) {
        for lane in self.lanes.values_mut() {
            if let Some(starts) = &mut lane.starts {
                starts.anchor(before, now);
                lane.dirty = true;
            }
        }
        let own = self.own.starts.iter_mut().chain(&mut self.starts).chain(self.starts_of_class.values_mut());
        for starts in own {
            starts.anchor(before, now);
            self.changed = true;
        }
    }
}
