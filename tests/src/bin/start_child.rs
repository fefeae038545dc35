//! A process of the tests of limits: it works on queues with limits until it is killed.

use ferroq_tests::starts::Order;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let order = std::env::args().nth(1).ok_or("give an order as JSON")?;
    let order: Order = serde_json::from_str(&order)?;
    let storage = order.open().await;
    order.toil(storage.as_ref()).await
}
