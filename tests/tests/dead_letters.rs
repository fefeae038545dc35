//! Dead letters as an app meets them, on each backend: named with a client, read and sent back by an operator, or by two at
//! once, while workers work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ferroq::testing::{Performed, perform};
use ferroq::{
    ActAnswer, Client, ClientError, Context, FailReason, Job, JobError, JobFilter, JobId, JobResult, JobState, Origin,
    Timestamp, Worker,
};
use ferroq_core::storage::ErrorCode;
use ferroq_testkit::harness::Fixture;
use ferroq_tests::fixtures;
use ferroq_tests::wait::until;
use serde::{Deserialize, Serialize};

const DEAD: &str = "orders:dead";

#[derive(Serialize, Deserialize, Job)]
#[job(name = "order", queue = "orders", max_attempts = 2)]
struct Order {
    n: u32,
}

/// How often each order was given up, and how often it was done.
type Book = Arc<Mutex<HashMap<u32, (u32, u32)>>>;

/// Gives an order up until it was sent back twice.
async fn order(job: Order, cx: Context<Book>) -> JobResult {
    let mut book = cx.state().lock().expect("nobody panicked with the book");
    let (given_up, done) = book.entry(job.n).or_default();
    if *given_up == 2 {
        let origin = cx.origin().ok_or_else(|| JobError::abort("it was sent back, and does not know from where"))?;
        assert_eq!((origin.queue.as_str(), origin.reason), ("orders", FailReason::Aborted));
        *done += 1;
        return Ok(());
    }
    *given_up += 1;
    Err(JobError::abort(format!("given up for the {given_up}th time")))
}

async fn each() -> [(&'static str, Fixture); 3] {
    [("memory", fixtures::memory().await), ("sqlite", fixtures::sqlite().await), ("redis", fixtures::redis().await)]
}

#[tokio::test]
async fn a_dead_letter_queue_that_makes_no_sense_is_refused() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        let orders = client.queue("orders").expect("a name");
        let refused = orders.dead_letter(Some("orders")).await;
        let is_invalid =
            |error: &ClientError| matches!(error, ClientError::Storage(e) if e.code() == ErrorCode::Invalid);
        assert!(refused.as_ref().is_err_and(is_invalid), "{name}: {refused:?}");
        let refused = orders.dead_letter(Some("a{brace")).await;
        assert!(matches!(refused, Err(ClientError::Invalid { .. })), "{name}: {refused:?}");
        assert_eq!(orders.config().await.expect("config").dead_letter, None, "{name}");
        orders.pause().await.expect("pause");
        orders.dead_letter(Some(DEAD)).await.expect("a good one");
        let config = orders.config().await.expect("config");
        assert_eq!((config.dead_letter.as_deref(), config.paused), (Some(DEAD), true), "{name}: the rest stays");
        orders.dead_letter(None).await.expect("none");
        assert_eq!(orders.config().await.expect("config").dead_letter, None, "{name}");
        client.close().await;
    }
}

#[tokio::test]
async fn one_letter_is_sent_back_by_its_id() {
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        client.queue("orders").expect("a name").dead_letter(Some(DEAD)).await.expect("configure");
        let handles = client.enqueue_all((0..2).map(|n| Order { n })).await.expect("enqueue");
        let work = async || {
            Worker::new(&client).state(Book::default()).handle(order).run_until_idle().await.expect("run");
        };
        work().await;
        let dead = client.queue(DEAD).expect("a name");
        let letters = dead.all(JobFilter::default()).await.expect("letters");
        assert_eq!(letters.len(), 2, "{name}");
        let letter = letters.iter().find(|letter| letter.spec.origin.as_ref().is_some_and(|o| o.id == handles[1].id()));
        let id = letter.expect("a letter of the second").id();
        assert_eq!(client.redrive(id).await.expect("redrive"), ActAnswer::Done(JobState::Waiting), "{name}");
        assert_eq!(client.redrive(id).await.expect("redrive"), ActAnswer::NotFound, "{name}");
        assert_eq!(client.redrive(handles[0].id()).await.expect("redrive"), ActAnswer::Refused(JobState::Failed));
        let counts = client.queue("orders").expect("a name").counts().await.expect("counts");
        assert_eq!((counts.waiting, dead.counts().await.expect("counts").waiting), (1, 1), "{name}");
        client.close().await;
    }
}

#[tokio::test]
async fn a_handler_can_be_tried_with_a_made_up_origin() {
    let client = Client::new(fixtures::memory().await.storage);
    let origin = Origin {
        queue: "orders".parse().expect("a name"),
        id: JobId::new(),
        reason: FailReason::Aborted,
        failed_at: Timestamp::default(),
        attempts: 1,
        crashes: 0,
        errors: Vec::new(),
    };
    let book: Book = Arc::new(Mutex::new(HashMap::from([(7, (2, 0))])));
    let tried = perform(&client, Order { n: 7 }).state(book.clone());
    assert!(matches!(tried.run(order).await.expect("run").ended, Performed::Aborted { .. }), "it has no origin");
    perform(&client, Order { n: 7 }).state(book).origin(origin).run(order).await.expect("run").completed();
}

/// Each order is given up twice, sent back twice by whichever of two operators comes first, and done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_operators_send_back_while_workers_work_is_done_once() {
    const ORDERS: u32 = 150;
    for (name, fixture) in each().await {
        let client = Client::new(fixture.storage.clone());
        client.queue("orders").expect("a name").dead_letter(Some(DEAD)).await.expect("configure");
        let book = Book::default();
        let mut workers = Vec::new();
        for _ in 0..3 {
            let worker = Worker::new(&client).state(book.clone()).concurrency(8).handle(order);
            workers.push(worker.start().await.expect("start"));
        }
        client.enqueue_all((0..ORDERS).map(|n| Order { n })).await.expect("enqueue");
        let operator = |client: Client| async move {
            let (orders, dead) = (client.queue("orders").expect("a name"), client.queue(DEAD).expect("a name"));
            until("all orders are done", async || {
                dead.redrive(JobFilter::default()).await.expect("redrive");
                (orders.counts().await.expect("counts").completed == u64::from(ORDERS)).then_some(())
            })
            .await;
        };
        tokio::join!(operator(client.clone()), operator(client.clone()));
        for worker in workers {
            worker.shutdown().await;
        }
        let book = book.lock().expect("nobody panicked with the book").clone();
        let odd: Vec<_> = (0..ORDERS).filter(|n| book.get(n) != Some(&(2, 1))).collect();
        assert_eq!(odd, [0; 0], "{name}: {book:?}");
        let counts = client.queue("orders").expect("a name").counts().await.expect("counts");
        assert_eq!((counts.failed, counts.live()), (2 * u64::from(ORDERS), 0), "{name}");
        let left = client.queue(DEAD).expect("a name").counts().await.expect("counts");
        assert_eq!(left.live(), 0, "{name}: nothing is left among the dead");
        client.close().await;
    }
}
