//! ferroq's Redis backend.
#![allow(dead_code)] // Until the storage uses the link.

mod error;
mod link;
mod options;
mod url;

pub use options::{RedisOptions, TlsOptions, WaitFor};
