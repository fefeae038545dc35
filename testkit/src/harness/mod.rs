//! What every proof in this kit stands on: a [`StorageBuilder`] that hands out fresh stores on a clock that only the
//! test moves, a [`Scene`] with the shorthands that make a case read as one sentence, and an [`audit`](audit()) that checks
//! after each case that the store's indexes, counts and keys agree with its records.

pub mod audit;
mod fixture;
mod scene;
mod spec;

pub use audit::audit;
pub use fixture::{Fixture, Reopen, StorageBuilder};
pub use scene::{QueueDump, Scene, TERM, abort, completed, dump_queue, fail, queue_name, released, settled, snoozed};
pub use spec::{KIND, SpecExt, kind, spec};
