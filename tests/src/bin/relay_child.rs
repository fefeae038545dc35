//! The child process of the outbox tests: it settles jobs whose follow-ups go to several queues, or does something about
//! dead letters, and dies at the step of
//! the relay that its order names. If it comes to the end, the step was never come to.

use ferroq_tests::jobs::say;
use ferroq_tests::redis::relay::{Order, Series, open_with};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let order = std::env::args().nth(1).ok_or("give an order as JSON")?;
    let Order { url, namespace, step, visit, deed } = serde_json::from_str(&order)?;
    let hook = move |name: &'static str, times| {
        if name == step && times == visit {
            std::process::abort();
        }
    };
    match deed {
        Some(deed) => deed.run(&url, &namespace, hook).await,
        None => drop(Series(0).settle(open_with(&url, &namespace, hook).await.as_ref()).await?),
    }
    say("end");
    Ok(())
}
