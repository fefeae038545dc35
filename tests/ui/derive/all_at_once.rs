//! Every mistake is shown, each at its own place, and no trail of others behind them.
use ferroq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(
    nmae = "email.welcome",
    queue = "emails{1}",
    queue = "emails",
    max_attempts = 0,
    timeout = "30",
    expires_in = 3600,
    backoff = "quadratic(1s)",
    jitter = "some",
    codec = "xml",
    priority = 300
)]
struct Welcome {
    to: String,
}

async fn welcome(_job: Welcome, _cx: Context) -> JobResult {
    Ok(())
}

async fn run(jobs: &Client) {
    Worker::new(jobs).handle(welcome).start().await.unwrap();
}

fn main() {}
