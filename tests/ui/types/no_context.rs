//! A handler takes the context, even if it has no use for it.
use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.welcome")]
struct Welcome {
    to: String,
}

async fn welcome(_job: Welcome) -> JobResult {
    Ok(())
}

async fn run(jobs: &Client) {
    Worker::new(jobs).handle(welcome).run_until_idle().await.unwrap();
}

fn main() {}
