//! The name is required: it is stored with every job.
use ferroq::Job;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
struct NoAttribute;

#[derive(Serialize, Deserialize, Job)]
#[job(queue = "emails")]
struct NoName;

#[derive(Serialize, Deserialize, Job)]
#[job]
struct NoParentheses;

fn main() {}
