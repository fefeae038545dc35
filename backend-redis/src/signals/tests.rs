//! Who takes a token, and who leaves it to others.

use std::sync::Arc;

use ferroq_core::job::{JobKind, JobSpec, Payload, WorkerId};
use ferroq_core::storage::{ClaimSpec, EnqueueRequest, Jobs, StorageExt};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::Server;
use ferroq_tests::wait::{until_so, within};

use super::*;
use crate::{RedisOptions, RedisStorage};

fn queue() -> QueueName {
    QueueName::new("queue").expect("a name")
}

fn kind() -> JobKind {
    JobKind::new("kind").expect("a kind")
}

async fn claim(storage: &RedisStorage) -> usize {
    let claim = ClaimSpec {
        kinds: [kind()].into(),
        max_items: 10,
        max_bytes: usize::MAX,
        term: Duration::from_secs(30),
        worker: WorkerId::new("worker").expect("a name"),
        alone: false,
    };
    storage.claim(None, &queue(), claim).await.expect("claim").claims.len()
}

async fn enqueue(storage: &RedisStorage) {
    let jobs = vec![Arc::new(JobSpec::new(queue(), kind(), Payload::json("1")))];
    storage.enqueue(EnqueueRequest { call: None, queue: queue(), jobs }).await.expect("enqueue");
}

/// Once a process whose last worker had stopped took the token, gave it back, and took it again, seven thousand times a
/// second, for as long as nobody else wanted it.
#[tokio::test]
async fn a_token_that_nobody_here_wants_is_given_back_once() {
    let server = Server::start(ServerOptions::new());
    let open = async || {
        let options = RedisOptions::from_url(&server.url()).expect("a good URL");
        RedisStorage::open(options).await.expect("the server answers")
    };
    let (stopped, other) = (open().await, open().await);
    let wake = stopped.keys(&queue()).wake().to_owned();
    let tokens = || server.cli(&["LLEN", &wake]);
    let blocked = || server.info("blocked_clients").expect("a server counts");
    let signals = stopped.signals(&queue());
    assert_eq!(claim(&stopped).await, 0, "and from here on it is idle");
    until_so("it waits for a token", || blocked() == "1").await;
    drop(signals);

    enqueue(&other).await;
    until_so("the token was taken and is back", || tokens() == "1" && blocked() == "0").await;
    for _ in 0..1000 {
        assert_eq!(tokens(), "1", "it was taken again");
    }

    let mut signals = other.signals(&queue());
    assert_eq!((claim(&other).await, claim(&other).await), (1, 0));
    assert!(within("the token that was given back wakes another", signals.changed()).await.0);
}
