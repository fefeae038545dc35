//! A handler's first argument is a job.
use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Welcome {
    to: String,
}

async fn welcome(_job: Welcome, _cx: Context) -> JobResult {
    Ok(())
}

async fn run(jobs: &Client) {
    Worker::new(jobs).handle(welcome).run_until_idle().await.unwrap();
}

fn main() {}
