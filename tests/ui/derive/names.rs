//! Names follow the rule that holds at run time: 1 to 128 bytes, no control characters, no braces.
use ferroq::Job;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "")]
struct Empty;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email\nwelcome")]
struct ControlCharacter;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.{welcome}")]
struct Braces;

#[derive(Serialize, Deserialize, Job)]
#[job(name = WELCOME)]
struct NotText;

fn main() {}
