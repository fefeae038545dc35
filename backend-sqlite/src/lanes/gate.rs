//! What a lane with a gate goes by, and what a queue knows of its batches.

use ferroq_core::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::Lanes;

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
}
