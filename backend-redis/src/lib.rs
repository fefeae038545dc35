//! ferroq's Redis backend: durable jobs on a Redis or Valkey server, behind Sentinels, or in a Cluster, with the semantics
//! of every other backend. Each call of the contract is one script on one queue's keys, so it is atomic, and one round
//! trip. The layout is written out in `docs/redis-layout.md`.

mod acl;
mod batches;
mod combine;
mod control;
mod enqueue;
mod error;
mod events;
mod exchange;
mod explain;
mod inspect;
mod jobs;
mod keys;
mod limits;
mod link;
mod options;
mod outbox;
mod probe;
mod record;
mod registry;
mod script;
mod signals;
mod spec;
mod storage;
mod transfer;
mod url;
mod walk;

pub use link::Reached;
pub use options::{RedisOptions, TlsOptions, WaitFor};
pub use probe::{Persistence, RedisReport, ServerKind};
pub use storage::RedisStorage;
