//! A value of the wrong form is answered with the right one.
use ferroq::Job;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", timeout = "30", expires_in = "1 fortnight", keep_completed = "0s", keep_failed = "forever")]
struct Durations;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", timeout = "0s", expires_in = 30)]
struct MoreDurations;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", max_attempts = 0, max_crashes = -1, version = "2", priority = 256)]
struct Numbers;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", backoff = "exponential(10m, 2.0, 1s)")]
struct FallingBackoff;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", backoff = "exponential(1s, 0.5, 10m)")]
struct ShrinkingBackoff;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", backoff = "linear(1s)")]
struct ShortBackoff;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", output = Vec<u8>, upcast = "not a path", version = 2)]
struct Code;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "a", upcast = "Upcast::read")]
struct Upcast;

impl Upcast {
    fn read(from: u16, _old: serde_json::Value) -> Result<Self, ferroq::UpcastError> {
        Err(ferroq::UpcastError { from, why: String::new() })
    }
}

fn main() {}
