//! What a storage can do, as one set of values instead of a type per backend; and what it may lose, said truthfully.
//! A worker logs both at start, and tests take them as an argument.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What may be lost of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// The last commits; what is left is consistent.
    LastCommits,
    /// Everything.
    Everything,
    /// Does not apply.
    NotApplicable,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Nothing => "nothing",
            Loss::LastCommits => "the last commits",
            Loss::Everything => "everything",
            Loss::NotApplicable => "does not apply",
        })
    }
}

/// What is lost when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurabilityReport {
    /// When a process that uses the store dies.
    pub process_crash: Loss,
    /// When the store's machine loses power.
    pub power_loss: Loss,
    /// When the store fails over to a replica.
    pub failover: Loss,
}

impl fmt::Display for DurabilityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DurabilityReport { process_crash, power_loss, failover } = self;
        write!(f, "process crash loses {process_crash}; power loss loses {power_loss}; failover: {failover}")
    }
}

/// What a storage can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The backend's name: `memory`, `sqlite`, `redis`.
    pub backend: &'static str,
    /// Whether what is stored outlives the handle.
    pub persistent: bool,
    /// Whether other processes can use the same store.
    pub shared_across_processes: bool,
    /// Whether no hint is ever missed, so that nobody needs to poll.
    pub reliable_signals: bool,
    /// Whether time is the runtime's own clock, so that under a paused clock everything must be a task of that runtime.
    pub virtual_time: bool,
    /// What may be lost.
    pub durability: DurabilityReport,
}

impl Capabilities {
    /// Those of a storage that keeps nothing, shares nothing and promises nothing; backends say what they add.
    pub const fn none(backend: &'static str) -> Self {
        Capabilities {
            backend,
            persistent: false,
            shared_across_processes: false,
            reliable_signals: false,
            virtual_time: false,
            durability: DurabilityReport {
                process_crash: Loss::Everything,
                power_loss: Loss::Everything,
                failover: Loss::NotApplicable,
            },
        }
    }
}
