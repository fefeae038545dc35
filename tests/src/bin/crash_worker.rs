//! The child process of the fault tests: it opens a database, enqueues and works as its order says, until it is told to
//! stop, is killed, or dies at a fault point. What it says on its standard output is for the test to wait for.

use std::str::FromStr;
use std::sync::Arc;

use ferroq_core::client::Client;
use ferroq_core::storage::Storage;
use ferroq_testkit::faults::{FaultPoint, FaultPoints, Faulty};
use ferroq_tests::jobs::{Effect, Order, State, id_of, say, worker};
use ferroq_tests::store;
use ferroq_tests::trace::Trace;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let order = std::env::args().nth(1).ok_or("give an order as JSON")?;
    let order: Order = serde_json::from_str(&order)?;
    let sqlite: Arc<dyn Storage> = Arc::new(store::sqlite(&order.db).await);
    let storage: Arc<dyn Storage> = match &order.fault {
        None => sqlite,
        Some((point, nth)) => Arc::new(Faulty::new(sqlite, FaultPoints::abort_at(FaultPoint::from_str(point)?, *nth))),
    };
    let client = Client::new(storage);
    say("open");
    for n in order.enqueue.clone() {
        client.enqueue(Effect { n }).id(id_of(n)).await?;
    }
    say("enqueued");
    if order.work {
        let state = State {
            trace: Trace::open(&order.trace),
            app: Some(store::app(&order.db).await),
            neighbours: Default::default(),
            directory: order.db.parent().ok_or("a database in a directory")?.to_owned(),
        };
        let report = worker(&client, Arc::new(state), &order).run_until_signal().await?;
        say(&format!("report {report:?}"));
    }
    client.close().await;
    say("end");
    Ok(())
}
