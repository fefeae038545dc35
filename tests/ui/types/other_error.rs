//! A handler returns a JobResult, so that any error can be returned with `?`.
use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.welcome")]
struct Welcome {
    to: String,
}

async fn welcome(_job: Welcome, _cx: Context) -> Result<(), std::io::Error> {
    Ok(())
}

async fn run(jobs: &Client) {
    Worker::new(jobs).handle(welcome).run_until_idle().await.unwrap();
}

fn main() {}
