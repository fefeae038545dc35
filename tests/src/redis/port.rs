//! Ports for servers that are killed and started again at the same place. A port that the system hands out for 0 comes
//! from the range that it also uses for outgoing connections: while the server is down, a client that knocks at its port
//! again and again is some day given this very port as its own, talks to itself, and the server can't have it back. So
//! ports are drawn at random below that range.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

const LOWEST: u16 = 10_000;
const TRIES: u32 = 1_000;

/// Where outgoing connections begin: Linux tells; elsewhere what IANA says.
fn outgoing() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let start = range.split_whitespace().next().and_then(|start| start.parse().ok());
    start.unwrap_or(49_152)
}

/// A port on which nothing listens, and that this process was never given before. Another process may be quicker to
/// take it; who starts a server must look.
///
/// # Panics
/// If there is none.
pub fn free() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    // Where the range for outgoing connections leaves nothing below it, there is no better choice than from it.
    let end = outgoing().max(LOWEST + 10_000);
    for _ in 0..TRIES {
        let port = rand::random_range(LOWEST..end);
        if !GIVEN.lock().expect("nobody panicked with the ports").insert(port) {
            continue;
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {LOWEST} and {end} on 127.0.0.1 in {TRIES} tries");
}
