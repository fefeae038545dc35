//! A handler returns a JobResult of its job's output.
use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.welcome")]
struct Welcome {
    to: String,
}

async fn welcome(job: Welcome, _cx: Context) -> JobResult<String> {
    Ok(job.to)
}

async fn run(jobs: &Client) {
    Worker::new(jobs).handle(welcome).run_until_idle().await.unwrap();
}

fn main() {}
