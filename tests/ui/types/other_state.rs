//! A handler's context is of the worker's state.
use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.welcome")]
struct Welcome {
    to: String,
}

struct App;

async fn welcome(_job: Welcome, _cx: Context<App>) -> JobResult {
    Ok(())
}

async fn run(jobs: &Client) {
    Worker::new(jobs).handle(welcome).run_until_idle().await.unwrap();
    Worker::new(jobs).state(String::new()).handle(welcome).run_until_idle().await.unwrap();
}

fn main() {}
