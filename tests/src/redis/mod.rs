//! Real Redis servers for the tests, alone, as a Cluster and behind Sentinels, and a TCP proxy that treats connections
//! cruelly. Everything is on loopback, in directories of its own, and gone when the test process is gone, even by
//! SIGKILL. Waits are bounded, and say what they waited for.

pub mod after;
pub mod cli;
pub mod cluster;
pub mod contents;
pub mod guard;
pub mod holding;
pub mod letters;
pub mod load;
pub mod monitor;
pub mod options;
pub mod port;
pub mod proxy;
pub mod relay;
pub mod sentinel;
pub mod server;
pub mod tally;
pub mod tls;

use std::time::{Duration, Instant};

use crate::wait::DEADLINE;

/// As [`wait::until`](crate::wait::until), for those who are not in a future: it blocks the thread.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
