//! One of many processes that work until they are killed.

use ferroq_tests::crowd::{Failure, Order};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let order = std::env::args().nth(1).ok_or("give an order as JSON")?;
    let order: Order = serde_json::from_str(&order)?;
    order.obey().await
}
