//! What can't be a job says why, and what to do instead.
use ferroq::Job;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a")]
struct Generic<T> {
    value: T,
}

#[derive(Serialize, Job)]
#[job(name = "b")]
struct Borrows<'a> {
    value: &'a str,
}

#[derive(Job)]
#[job(name = "c")]
union Union {
    byte: u8,
}

fn main() {}
