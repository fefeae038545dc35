//! What jobs do to lanes. It is noted in its order while jobs move, and done once the rows of the lanes are there.

use ferroq_core::job::LaneKey;

use super::{Came, Gate, Lanes, OWN, Standing};

/// What a job did to lanes.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A job came to the line of a lane.
    Stand(LaneKey, Came),
    /// Jobs left the line of a lane.
    Leave {
        /// The lane's number.
        lane: i64,
        /// How many.
        jobs: i64,
    },
    /// A job of a lane became Active.
    Start(LaneKey),
    /// It no longer is.
    Stop(LaneKey),
    /// It no longer is because its run is over.
    Release(LaneKey),
}

impl Lanes {
    /// A job came to the line of a lane; so many are in line with it.
    pub(crate) fn stand(&mut self, lane: LaneKey, job: i64, in_line: i64, came: Came) {
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
        if let Some(Step::Leave { jobs, .. }) = self.steps.last_mut()
            && self.left.last() == Some(&job)
        {
            self.left.pop();
            *jobs -= 1;
            if *jobs == 0 {
                self.steps.pop();
            }
            return;
        }
        self.steps.push(Step::Stand(lane, came));
    }

    /// A job left the line of a lane.
    pub(crate) fn leave(&mut self, number: i64, job: i64) {
        if number == OWN && self.is_trivial() {
            return;
        }
        self.left.push(job);
        match self.steps.last_mut() {
            Some(Step::Leave { lane, jobs }) if *lane == number => *jobs += 1,
            _ => self.steps.push(Step::Leave { lane: number, jobs: 1 }),
        }
    }

    /// A job of a lane became Active.
    pub(crate) fn start(&mut self, lane: &LaneKey) {
        if self.counting && !lane.is_default() {
            self.steps.push(Step::Start(lane.clone()));
        }
    }

    /// A job of a lane is Active no longer; which lane, if that can be read.
    pub(crate) fn stop(&mut self, lane: Option<&LaneKey>) {
        match lane {
            _ if !self.counting => {}
            None => self.distrust(),
            Some(lane) if lane.is_default() => {}
            Some(lane) => self.steps.push(Step::Stop(lane.clone())),
        }
    }

    /// A run of a job of this lane is over. Where no lane is closed, that brings none back.
    pub(crate) fn release(&mut self, lane: LaneKey) {
        let closed = if lane.is_default() {
            self.own.standing == Standing::Closed || !self.steps.is_empty()
        } else {
            self.count(Standing::Closed) > 0
        };
        if closed {
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
                Step::Leave { lane, .. } => {
                    if *lane != OWN && !self.lanes.contains_key(lane) {
                        numbers.push(*lane);
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
        self.left.clear();
    }

    /// Does what was noted, now that all rows are there; `in_line` jobs are in line after it.
    pub(crate) fn apply(&mut self, in_line: i64) {
        if self.steps.is_empty() {
            return;
        }
        let mut steps = std::mem::take(&mut self.steps);
        self.left.clear();
        self.changed = true;
        // What is in the default lane's line is what the others leave of all.
        let (mut own, mut named) = (0, 0);
        for step in &steps {
            match step {
                Step::Stand(lane, _) if lane.is_default() => own += 1,
                Step::Stand(..) => named += 1,
                Step::Leave { lane: OWN, jobs } => own -= jobs,
                Step::Leave { jobs, .. } => named -= jobs,
                Step::Start(_) | Step::Stop(_) | Step::Release(_) => {}
            }
        }
        let mut own = in_line - self.named_waiting - named - own;
        for step in steps.drain(..) {
            match step {
                Step::Stand(lane, came) if lane.is_default() => {
                    own += 1;
                    if own == 1 {
                        self.join(OWN, self.named());
                    } else if self.own.gate.is_opened_by(own, came) {
                        self.rejoin(OWN);
                    }
                }
                Step::Stand(lane, came) => {
                    let number = self.number(&lane);
                    self.named_waiting += 1;
                    let lane = self.lane_mut(number);
                    lane.waiting += 1;
                    if lane.waiting == 1 {
                        self.join(number, self.named() + i64::from(own > 0));
                    } else if lane.gate.is_opened_by(lane.waiting, came) {
                        self.rejoin(number);
                    }
                }
                Step::Leave { lane: OWN, jobs } => {
                    own -= jobs;
                    if own == 0 {
                        (self.own.standing, self.own.gate) = (Standing::Ring, Gate::default());
                    }
                }
                Step::Leave { lane: number, jobs } => {
                    self.named_waiting -= jobs;
                    let lane = self.lane_mut(number);
                    lane.waiting -= jobs;
                    if lane.waiting <= 0 {
                        lane.gate = Gate::default();
                        self.set_standing(number, Standing::Out);
                    }
                }
                Step::Start(lane) => self.count_active(&lane, 1),
                Step::Stop(lane) => self.count_active(&lane, -1),
                Step::Release(lane) => {
                    if let Some(number) = self.known_number(&lane)
                        && self.lane(number).is_some_and(|lane| lane.standing == Standing::Closed)
                    {
                        self.rejoin(number);
                    }
                }
            }
        }
        // Its room is for the next ones.
        self.steps = steps;
    }

    fn count_active(&mut self, key: &LaneKey, by: i64) {
        if !self.counting {
            return;
        }
        let number = self.number(key);
        let lane = self.lane_mut(number);
        if lane.active + by < 0 {
            // A job whose lane was misread when it started or now.
            self.distrust();
            return;
        }
        lane.active += by;
        self.named_active += by;
        if let Some(class) = key.class()
            && let Some(active) = self.active_of_class.get_mut(&class)
        {
            *active += by;
        }
    }
}
