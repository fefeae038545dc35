//! What a lane with a gate goes by, and what a queue knows of its batches.

use ferroq_core::clock::Timestamp;
use ferroq_core::policy::batch::BatchGate;
use serde::{Deserialize, Serialize};

use super::{Lanes, Standing};

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
    pub(super) fn is_opened_by(&self, in_line: i64, in_batch: bool) -> bool {
        self.wants > 0 && (in_batch || in_line >= i64::from(self.wants))
    }
}

pub(super) fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Lanes {
    /// Whether a gate lets the jobs of a lane start, of which the first was due then. If it doesn't, the lane is held.
    pub(crate) fn is_open(
        &mut self,
        number: i64,
        gate: &BatchGate,
        due_at: Timestamp,
        now: Timestamp,
        in_line: i64,
    ) -> bool {
        let waiting = self.waiting(number, in_line).max(0).unsigned_abs();
        let lane = self.lane_mut(number);
        let since = lane.gate.since.unwrap_or(due_at).min(now);
        lane.gate.since = Some(since);
        if gate.is_open(waiting, since, now) {
            return true;
        }
        lane.gate.wants = gate.size;
        lane.until = gate.opens_at(since).as_micros();
        self.set_standing(number, Standing::Held);
        false
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
