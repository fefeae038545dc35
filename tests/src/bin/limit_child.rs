//! The child process of the limiter tests: it asks a limiter from four tasks at once until it is killed.

use ferroq_tests::jobs::say;
use ferroq_tests::limits::Order;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let order = std::env::args().nth(1).ok_or("give an order as JSON")?;
    let order: Order = serde_json::from_str(&order)?;
    let client = order.client().await;
    say("open");
    let ask = || order.ask_for_ever(client.clone());
    tokio::try_join!(ask(), ask(), ask(), ask())?;
    Ok(())
}
