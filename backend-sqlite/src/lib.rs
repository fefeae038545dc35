//! ferroq's SQLite backend: durable jobs in the app's own database file. One writer with group commit, a few readers,
//! one table of jobs with two indexes, and a watcher for what other processes do. Decisions are made by the policies
//! in [`ferroq_core::policy`]; this crate reads what they need and writes what they say, set-based, in as few commands
//! as it can.

mod app_tx;
mod aside;
mod batches;
mod common;
mod control;
mod error;
mod events;
mod explain;
mod in_app;
mod inspect;
mod jobs;
mod lane_rows;
mod lanes;
mod letters;
mod limits;
mod memory;
mod names;
mod notes;
mod open;
mod options;
#[cfg(test)]
mod plans;
mod queue;
mod reader;
mod record;
mod row;
mod schema;
mod script;
mod storage;
mod trace;
mod transfer;
mod unit;
mod watcher;
mod writer;
mod writes;

pub use in_app::{CompleteIn, EnqueueIn, EnqueueSpecsIn};
pub use options::{Durability, SqliteOptions};
pub use storage::SqliteStorage;
