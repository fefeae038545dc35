//! Storages that misbehave on purpose, to show what an app (or ferroq itself) makes of it: [`FaultPoints`] ends the
//! process or fails at a named point of a call, [`LostAnswers`] does what it was asked to and loses the answer, and
//! [`Outage`] answers nothing for a while. Each is a plan that [`Faulty`] follows around any storage, its second handle
//! (the heartbeat's) included. [`polled`] is for the other side of a call: the caller who drops its future half way.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use std::sync::Arc;
//! use ferroq_core::storage::{ErrorCode, Inspect, Storage};
//! use ferroq_testkit::faults::{Faulty, Outage};
//! # async fn with(storage: Arc<dyn Storage>) {
//! let outage = Outage::new();
//! let storage = Faulty::new(storage, outage.clone());
//! outage.begin();
//! let error = storage.queues().await.expect_err("nothing is answered now");
//! assert_eq!(error.code(), ErrorCode::Unavailable);
//! outage.end();
//! # }
//! # }
//! ```

mod drops;
mod outage;
mod points;
mod wrapper;

pub use drops::{Polled, polled};
pub use outage::{LostAnswers, Outage};
pub use points::{FaultPoint, FaultPoints, UnknownPoint};
pub use wrapper::{Faults, Faulty, Stage, Visit};
