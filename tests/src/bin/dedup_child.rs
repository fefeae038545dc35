//! A process of the dedup tests: it enqueues under a few keys, in every mode, and works on what is there, until it is
//! killed.

use ferroq_tests::dedup::Order;
use ferroq_tests::jobs::say;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let order = std::env::args().nth(1).ok_or("give an order as JSON")?;
    let order: Order = serde_json::from_str(&order)?;
    let storage = order.place.open().await;
    say("ready");
    order.toil(storage.as_ref()).await?;
    Ok(())
}
