//! The state comes before the first handler.
use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.welcome")]
struct Welcome {
    to: String,
}

async fn welcome(_job: Welcome, _cx: Context<String>) -> JobResult {
    Ok(())
}

async fn run(jobs: &Client) {
    Worker::new(jobs).handle(welcome).state(String::new()).run_until_idle().await.unwrap();
}

fn main() {}
