//! A store's life as a script: every kind of write, one acknowledged call after another, with a stop after each at which
//! a test can take note of what the store holds. So a test that brings back a part of what was written can tell which
//! part of history that is.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{ErrorKind, Job, JobKind, JobOptions, JobState, Progress, QueueName, WorkerId};
use ferroq_core::policy::backoff::Backoff;
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{Claim, ClaimSpec, Note, Outcome, RunError, Settlement, Storage, StorageExt};
use ferroq_core::worker::Worker;
use ferroq_testkit::harness::{QueueDump, audit, dump_queue};
use serde::{Deserialize, Serialize};

use crate::wait::within;

/// The queue of the script.
pub const QUEUE: &str = "scripted";

/// The job of the script.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    /// Anything.
    pub text: String,
}

impl Job for Item {
    const NAME: &'static str = "test.item";
    const QUEUE: &'static str = QUEUE;
    type Output = ();

    fn options() -> JobOptions {
        JobOptions { backoff: Backoff::fixed(Duration::from_millis(1)), ..JobOptions::default() }
    }
}

async fn handle(_job: Item, _cx: Context) -> JobResult {
    Ok(())
}

/// A store that a script is played on.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its client.
    pub client: Client,
    /// The script's queue.
    pub queue: QueueName,
}

impl Script {
    /// A script for this store.
    ///
    /// # Panics
    /// Never: the queue's name is one.
    pub fn on(storage: Arc<dyn Storage>) -> Self {
        Script { client: Client::new(storage), queue: QueueName::new(QUEUE).expect("a name") }
    }

    /// What the store holds of the script's queue.
    pub async fn dump(&self) -> QueueDump {
        dump_queue(self.client.storage().as_ref(), &self.queue, 1000).await
    }

    /// Claims so many of the script's jobs.
    ///
    /// # Panics
    /// If the call fails.
    pub async fn claim(&self, max_items: usize) -> Vec<Claim> {
        let claim = ClaimSpec {
            kinds: Arc::new([JobKind::new(Item::NAME).expect("a kind")]),
            max_items,
            max_bytes: usize::MAX,
            term: Duration::from_millis(50),
            worker: WorkerId::new("scripted").expect("a name"),
            alone: false,
        };
        self.client.storage().claim(None, &self.queue, claim).await.expect("claim").claims
    }

    async fn settle(&self, claim: &Claim, outcome: Outcome, follow_ups: usize) {
        let follow_ups = (0..follow_ups)
            .map(|_| self.client.enqueue(Item { text: "a follow-up".into() }).into_spec().expect("a spec").1)
            .collect();
        let settlement = Settlement { lease: claim.lease, outcome, follow_ups };
        self.client.storage().settle(None, &self.queue, vec![settlement]).await.expect("settle");
    }

    /// Plays the script, and stops after each call that was acknowledged.
    ///
    /// # Panics
    /// If a call fails.
    pub async fn play(&self, mut stop: impl AsyncFnMut()) {
        for n in 0..6 {
            let enqueue = self.client.enqueue(Item { text: "x".repeat(n * 900) });
            enqueue.dedup(format!("key-{n}"), DedupMode::UntilFinished).await.expect("enqueue");
            stop().await;
        }
        self.client.enqueue_all((0..30).map(|n| Item { text: n.to_string() })).await.expect("enqueue");
        stop().await;
        let delayed = self.client.enqueue(Item { text: "later".into() }).delay(Duration::from_secs(3600));
        let delayed = delayed.await.expect("enqueue");
        stop().await;
        for round in 0..4 {
            let claims = self.claim(4).await;
            stop().await;
            let note = Note {
                progress: Some(Progress { done: round, total: 4, note: None }),
                log: vec!["a line".to_owned()],
                checkpoint: None,
            };
            let notes = vec![(claims[0].lease, note)];
            self.client.storage().annotate(&self.queue, notes).await.expect("annotate");
            stop().await;
            self.settle(&claims[0], Outcome::Completed { result: None }, 2).await;
            stop().await;
            let error = RunError::new(ErrorKind::Error, "it failed");
            self.settle(&claims[1], Outcome::Retry { error: error.clone(), delay: Duration::from_millis(1) }, 0).await;
            stop().await;
            self.settle(&claims[2], Outcome::Abort { error }, 0).await;
            stop().await;
            // The fourth stays Active, so that what is brought back holds leases as well.
        }
        delayed.cancel().await.expect("cancel");
        stop().await;
        self.client.queue(QUEUE).expect("a name").pause().await.expect("pause");
        stop().await;
        self.client.queue(QUEUE).expect("a name").resume().await.expect("resume");
        stop().await;
    }

    /// Shows that a store that was brought back is fit for use: takes a job more, and works everything off.
    ///
    /// # Panics
    /// If something is left, or lost on the way.
    pub async fn work_off(&self, what: &str) {
        let before = self.dump().await.jobs.len();
        self.client.queue(QUEUE).expect("a name").resume().await.expect("resume");
        self.client.enqueue(Item { text: "one more".into() }).await.expect("usable");
        let worker =
            Worker::new(&self.client).lease(Duration::from_millis(50)).poll_interval(Duration::from_millis(10));
        within(what, worker.handle(handle).run_until_idle()).await.expect("run");
        let dump = audit(self.client.storage().as_ref(), &self.queue).await;
        let is_left = |state| matches!(state, JobState::Waiting | JobState::Active);
        let left: Vec<_> = dump.jobs.iter().filter(|record| is_left(record.state)).collect();
        assert!(left.is_empty(), "{what}: {left:#?}");
        assert_eq!(dump.jobs.len(), before + 1, "{what}: nothing is lost on the way");
    }
}
