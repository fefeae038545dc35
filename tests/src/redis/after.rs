//! After a fault: everything that is left is worked off by a worker, and then every checker looks. What the store tells
//! is held against the invariants of the testkit, its event log is replayed job by job, and its keys are read with plain
//! commands, since a record may look right to its own library and still stand in two lines. A test says besides what was
//! acknowledged, and none of that may be lost.

mod keys;
mod log;
mod witness;

use std::collections::BTreeSet;
use std::sync::Arc;

use ferroq_core::client::Client;
use ferroq_core::job::{JobId, JobState, Slot};
use ferroq_core::storage::{JobFilter, Storage, SweepRequest};
use ferroq_core::worker::WorkerBuilder;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::audit;
use ferroq_testkit::invariants::{self, History, Step};
use ferroq_testkit::model::Snapshot;

pub use self::witness::Witness;
use super::server::Server;
use crate::wait::within;

/// One namespace, and the servers that hold it.
pub struct Site<'a> {
    nodes: Vec<&'a Server>,
    namespace: String,
    database: u32,
    storage: Arc<dyn Storage>,
}

impl<'a> Site<'a> {
    /// A namespace on one server, looked at through a handle of its own that no fault is in the way of.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn open(server: &'a Server, namespace: &str) -> Site<'a> {
        Site::in_database(server, namespace, 0).await
    }

    /// The same in another database of the server.
    ///
    /// # Panics
    /// As [`open`](Self::open).
    pub async fn in_database(server: &'a Server, namespace: &str, database: u32) -> Site<'a> {
        let options = RedisOptions::from_url(&server.url()).expect("the server's URL");
        let options = options.namespace(namespace).database(database).accept_eviction(true);
        let storage = RedisStorage::open(options).await.expect("the server answers");
        Site { database, ..Site::of(vec![server], namespace, Arc::new(storage)) }
    }

    /// A namespace on these servers, the masters of a Cluster or the one behind Sentinels, looked at through this handle.
    pub fn of(nodes: Vec<&'a Server>, namespace: &str, storage: Arc<dyn Storage>) -> Site<'a> {
        Site { nodes, namespace: namespace.to_owned(), database: 0, storage }
    }

    /// The same, with the calls that are made here noted by a witness, so that it knows of jobs that come into being in the
    /// drain.
    #[must_use]
    pub fn witnessed_by(self, witness: &Witness) -> Self {
        let storage = witness.beside(self.storage.clone());
        Site { storage, ..self }
    }

    /// The handle.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// A client of that handle.
    pub fn client(&self) -> Client {
        Client::new(self.storage.clone())
    }

    /// Works off everything: queues are resumed, Delayed jobs brought forward, follow-ups on their way relayed, until no
    /// job is left that has not ended. `worker` makes a worker with the handlers; the queues are given to it here.
    /// Jobs that run on behalf of a worker that is gone are waited for until their leases are over.
    ///
    /// # Panics
    /// If that does not come to an end, or a job is left that the worker has no handler for.
    pub async fn drain<S: Send + Sync + 'static>(&self, worker: impl Fn(&Client) -> WorkerBuilder<S>) {
        let client = self.client();
        within("everything is worked off", async {
            loop {
                let queues = client.queues().await.expect("queues");
                let mut builder = worker(&client);
                for name in &queues {
                    let queue = client.queue(name).expect("a queue's name");
                    queue.resume().await.expect("resume");
                    queue.promote(JobFilter::states([JobState::Delayed])).await.expect("promote");
                    builder = builder.queue(name);
                }
                self.relay().await;
                builder.run_until_idle().await.expect("run");
                // What ended last may have had something for another queue.
                self.relay().await;
                if self.live().await == 0 {
                    return;
                }
            }
        })
        .await;
    }

    /// Sweeps every queue; that sends what is in its outbox on its way.
    async fn relay(&self) {
        for queue in self.storage.queues().await.expect("queues") {
            self.storage.sweep(SweepRequest { queue, max_items: 1 }).await.expect("sweep");
        }
    }

    async fn live(&self) -> u64 {
        let mut live = 0;
        for queue in self.storage.queues().await.expect("queues") {
            let counts = self.storage.counts(&queue).await.expect("counts");
            assert!(counts.shelved.is_empty(), "the worker that drains has no handler for {:?}", counts.shelved);
            live += counts.live();
        }
        live
    }

    /// Checks everything that must hold of a store that nobody works on, and answers what it holds. Jobs may be left.
    ///
    /// # Panics
    /// If something does not hold; the message says what.
    pub async fn check(&self) -> Snapshot {
        self.look().await.0
    }

    /// Checks, and answers how many follow-ups are on their way besides.
    async fn look(&self) -> (Snapshot, usize) {
        let storage = self.storage.as_ref();
        for queue in storage.queues().await.expect("queues") {
            audit(storage, &queue).await;
        }
        let snapshot = Snapshot::take(storage).await.expect("everything can be read");
        self.invariants(vec![Step::Seen(snapshot.clone())]);
        log::check(storage, &snapshot).await;
        let on_the_way = keys::check(&self.nodes, &self.namespace, self.database, &snapshot);
        (snapshot, on_the_way)
    }

    /// [Drains](Self::drain) and [checks](Self::check), and looks for each job that was acknowledged: its record is there
    /// and has ended, or the log tells of its end.
    ///
    /// # Panics
    /// As those two, or if a job is lost.
    pub async fn drain_and_check<S: Send + Sync + 'static>(
        &self,
        acknowledged: impl IntoIterator<Item = JobId>,
        worker: impl Fn(&Client) -> WorkerBuilder<S>,
    ) -> Snapshot {
        let before = Snapshot::take(self.storage.as_ref()).await.expect("everything can be read");
        self.drain(worker).await;
        let (snapshot, on_the_way) = self.look().await;
        assert_eq!(on_the_way, 0, "follow-ups are left in an outbox");
        self.invariants(vec![Step::Seen(before), Step::Drained, Step::Seen(snapshot.clone())]);
        let left = snapshot.records().find(|(_, job)| !job.state.is_terminal() || job.slot != Slot::Lane);
        assert!(left.is_none(), "not worked off: {left:#?}");
        conserved(&snapshot, acknowledged);
        snapshot
    }

    /// Every invariant of the testkit but conservation, which needs the calls and has a check of its own here.
    fn invariants(&self, steps: Vec<Step>) {
        // What happened between two snapshots is not recorded here, so the moves between them are not judged.
        let judged = |name: &str| !name.starts_with("conservation") && !name.starts_with("legal transitions");
        let history = History { steps };
        for (name, checker) in invariants::ALL.iter().filter(|(name, _)| judged(name)) {
            if let Err((step, what)) = checker(&history) {
                panic!("in namespace {}, at step {step}, broken: {name}: {what}", self.namespace);
            }
        }
    }
}

/// Nothing that was acknowledged is lost: it is there, or it ended and was removed.
///
/// # Panics
/// If a job is lost; the message names it.
pub fn conserved(snapshot: &Snapshot, acknowledged: impl IntoIterator<Item = JobId>) {
    let there: BTreeSet<JobId> = snapshot.records().map(|(_, job)| job.id()).collect();
    let ended: BTreeSet<JobId> = snapshot.queues.values().flat_map(|queue| log::ended(&queue.events)).collect();
    let is_lost = |id: &JobId| !there.contains(id) && !ended.contains(id);
    let lost: Vec<JobId> = acknowledged.into_iter().filter(is_lost).collect();
    assert!(lost.is_empty(), "{} acknowledged jobs are lost: {lost:?}", lost.len());
}
