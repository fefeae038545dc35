//! A slip of the pen in one setting hides no mistake in the others.
use ferroq::Job;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a" queue = "b", timeout, jitter =, , "full", retries = 3)]
struct Slips;

fn main() {}
