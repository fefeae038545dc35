//! What a lane with a gate goes by, and what a queue knows of its batches.

use ferroq_core::clock::Timestamp;
use ferroq_core::policy::batch::{BatchGate, SetBack};
use serde::{Deserialize, Serialize};

use super::{Lanes, Standing};

/// How the gate of a lane holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Gate {
    /// How many jobs open it, while the lane is held for them; 0 while it isn't.
    pub(crate) wants: u32,
    /// When the first of its line came due.
    pub(crate) since: Timestamp,
}

impl Gate {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Gate::default()
    }

    /// Whether a job that came, so that so many are in line, ends the waiting for them: it fills the gate, or needs none
    /// because it has a batch, or it waits for longer than the others.
    pub(super) fn is_opened_by(&self, in_line: i64, came: Came) -> bool {
        self.wants > 0 && (came.in_batch || came.due < self.since || in_line >= i64::from(self.wants))
    }
}

/// A job that comes to the line of a lane, as a gate takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    /// Whether it is in a batch already.
    pub(crate) in_batch: bool,
    /// When it came due.
    pub(crate) due: Timestamp,
}

pub(super) fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Lanes {
    /// Its gate holds a lane in whose line the first job came due then.
    pub(crate) fn hold(&mut self, number: i64, gate: &BatchGate, since: Timestamp) {
        let lane = self.lane_mut(number);
        lane.gate = Gate { wants: gate.size, since };
        lane.until = gate.opens_at(since).as_micros();
        self.set_standing(number, Standing::Held);
    }

    /// The clock is read, where storage time was `last` and the highest seq is this one.
    pub(crate) fn read_clock(&mut self, seq: i64, last: Timestamp, clock: Timestamp) {
        self.step_back_to(SetBack::read(self.set_back, seq, Some(last), clock));
    }

    /// What gates know of a clock that stepped back.
    pub(crate) fn step_back_to(&mut self, set_back: Option<SetBack>) {
        self.changed |= self.set_back != set_back;
        self.set_back = set_back;
    }

    /// The number of a batch that is opened now.
    pub(crate) fn next_batch(&mut self) -> i64 {
        self.changed = true;
        self.batches += 1;
        self.batches
    }

    /// Whether batches were ever opened.
    pub(crate) fn had_batches(&self) -> bool {
        self.batches > 0
    }

    /// The last batch that a sweep looked at; 0 if the next one is to begin with the first.
    pub(crate) fn mended(&self) -> i64 {
        self.mended
    }

    /// A sweep looked at batches up to this one.
    pub(crate) fn set_mended(&mut self, number: i64) {
        self.changed |= self.mended != number;
        self.mended = number;
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
}
