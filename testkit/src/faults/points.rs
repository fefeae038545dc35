//! The points of a job's way at which a process may die with the most to lose, each by a name that a test's command
//! line can carry. Dying there is [`std::process::abort`]: no destructor runs and nothing is flushed, as under SIGKILL.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use ferroq_core::storage::{ErrorCode, StorageError};

use super::wrapper::{Faults, Stage, Visit};

/// A point of a job's way through the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// Jobs are about to be enqueued.
    BeforeEnqueue,
    /// Jobs are enqueued, and the client does not know.
    AfterEnqueue,
    /// A worker is about to ask for jobs.
    BeforeClaim,
    /// Jobs are leased to a worker that does not know them yet.
    AfterClaim,
    /// Runs have ended, and the storage does not know.
    BeforeSettle,
    /// Runs are settled, and the worker does not know.
    AfterSettle,
}

impl FaultPoint {
    /// Every point.
    pub const ALL: [FaultPoint; 6] = [
        FaultPoint::BeforeEnqueue,
        FaultPoint::AfterEnqueue,
        FaultPoint::BeforeClaim,
        FaultPoint::AfterClaim,
        FaultPoint::BeforeSettle,
        FaultPoint::AfterSettle,
    ];

    /// The point's name, such as `after_claim`.
    pub const fn name(self) -> &'static str {
        match self {
            FaultPoint::BeforeEnqueue => "before_enqueue",
            FaultPoint::AfterEnqueue => "after_enqueue",
            FaultPoint::BeforeClaim => "before_claim",
            FaultPoint::AfterClaim => "after_claim",
            FaultPoint::BeforeSettle => "before_settle",
            FaultPoint::AfterSettle => "after_settle",
        }
    }

    /// Whether this call is at the point.
    fn is_at(self, visit: Visit) -> bool {
        let (method, stage) = match self {
            FaultPoint::BeforeEnqueue => ("enqueue", Stage::Before),
            FaultPoint::AfterEnqueue => ("enqueue", Stage::After),
            FaultPoint::BeforeClaim | FaultPoint::BeforeSettle => ("exchange", Stage::Before),
            FaultPoint::AfterClaim | FaultPoint::AfterSettle => ("exchange", Stage::After),
        };
        let carries = match self {
            FaultPoint::BeforeEnqueue | FaultPoint::AfterEnqueue => true,
            FaultPoint::BeforeClaim | FaultPoint::AfterClaim => visit.claims > 0,
            FaultPoint::BeforeSettle | FaultPoint::AfterSettle => visit.settlements > 0,
        };
        visit.method == method && visit.stage == stage && carries
    }
}

impl fmt::Display for FaultPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no point of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPoint(String);

impl fmt::Display for UnknownPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = FaultPoint::ALL.iter().map(|point| point.name()).collect();
        write!(f, "there is no fault point {:?}; there are {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownPoint {}

impl FromStr for FaultPoint {
    type Err = UnknownPoint;

    fn from_str(name: &str) -> Result<Self, UnknownPoint> {
        FaultPoint::ALL.into_iter().find(|point| point.name() == name).ok_or_else(|| UnknownPoint(name.to_owned()))
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Abort,
    Error,
}

/// Lets the n-th call that comes to a point end there.
#[derive(Debug)]
pub struct FaultPoints {
    point: FaultPoint,
    /// How many calls pass before it happens.
    left: AtomicU64,
    ending: Ending,
}

impl FaultPoints {
    /// The process dies when a call comes to `point` for the `nth` time, counting from 1.
    pub fn abort_at(point: FaultPoint, nth: u64) -> Self {
        FaultPoints { point, left: AtomicU64::new(nth), ending: Ending::Abort }
    }

    /// The call fails when one comes to `point` for the `nth` time, counting from 1; later ones pass. Before a call, the
    /// error is without effect; after it, the effect is unknown to the caller.
    pub fn error_at(point: FaultPoint, nth: u64) -> Self {
        FaultPoints { point, left: AtomicU64::new(nth), ending: Ending::Error }
    }
}

impl Faults for FaultPoints {
    fn visit(&self, visit: Visit) -> Result<(), StorageError> {
        if !self.point.is_at(visit) {
            return Ok(());
        }
        // Zero means that it has happened; it stays there.
        let is_now = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1);
        if !is_now {
            return Ok(());
        }
        match self.ending {
            Ending::Abort => std::process::abort(),
            Ending::Error => {
                let error = StorageError::new(ErrorCode::Unavailable, format!("a fault was injected: {}", self.point));
                Err(if visit.stage == Stage::After { error.effect_unknown() } else { error })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_found_by_its_name() {
        for point in FaultPoint::ALL {
            assert_eq!(point.name().parse(), Ok(point));
        }
        let unknown = "after_lunch".parse::<FaultPoint>().expect_err("no such point").to_string();
        assert!(unknown.contains("after_lunch") && unknown.contains("after_claim"), "{unknown}");
    }

    #[test]
    fn only_the_nth_call_at_the_point_fails() {
        let plan = FaultPoints::error_at(FaultPoint::AfterSettle, 2);
        let visit =
            |stage, settlements| Visit { method: "exchange", stage, call: None, writes: true, settlements, claims: 0 };
        assert!(plan.visit(visit(Stage::After, 1)).is_ok(), "the first");
        assert!(plan.visit(visit(Stage::After, 0)).is_ok(), "nothing is settled");
        assert!(plan.visit(visit(Stage::Before, 1)).is_ok(), "the other side");
        let error = plan.visit(visit(Stage::After, 1)).expect_err("the second");
        assert_eq!(error.effect(), ferroq_core::storage::Effect::Unknown);
        assert!(plan.visit(visit(Stage::After, 1)).is_ok(), "the third");
    }
}
