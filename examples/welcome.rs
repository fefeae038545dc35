//! The README's program, word for word below the first line of code: kept here so that it is compiled and run by the
//! tests. It enqueues a job in `app.db`, in the current directory, and works it off.
#![allow(clippy::print_stdout)]

use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.welcome", queue = "emails", max_attempts = 5, timeout = "30s")]
struct Welcome {
    to: String,
}

async fn welcome(job: Welcome, cx: Context) -> JobResult {
    println!("attempt {}: welcome, {}!", cx.attempt(), job.to);
    Ok(()) // any error, with `?`, means: try again after the backoff
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let jobs = ferroq::connect("sqlite://app.db").await?; // or "redis://..", "memory://"
    jobs.enqueue(Welcome { to: "ada@example.org".into() }).await?;
    Worker::new(&jobs).handle(welcome).run_until_idle().await?; // a service: run_until_signal()
    Ok(())
}
