//! ferroq's in-memory backend: the whole storage contract in one process, for tests and for jobs that may die with it.
//! It calls core's policies directly and does no I/O, so it is also the backend to read first: each file mirrors a
//! part of `docs/contract.md`, and the other backends have the same files in the same order.
//!
//! ```
//! use ferroq_core::storage::Storage;
//! use ferroq_memory::MemoryStorage;
//!
//! let storage = MemoryStorage::new();
//! assert_eq!(storage.capabilities().backend, "memory");
//! ```

mod across;
mod batches;
mod claim;
mod control;
mod enqueue;
mod events;
mod exchange;
mod inspect;
mod jobs;
mod keys;
mod lanes;
mod limits;
mod queue;
mod renew;
mod roster;
mod settle;
mod storage;
mod sweep;
mod terms;
mod time;
mod transfer;
mod turn;
mod usage;

#[cfg(test)]
mod tests;

pub use storage::{MemoryStorage, MemoryStorageBuilder};
