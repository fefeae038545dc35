//! The conformance suite: what any [`Storage`](ferroq_core::storage::Storage) must do, by topic, one case per claim.
//! [`conformance!`](crate::conformance!) makes a test of each case; [`run_all`] runs them all and collects what failed. No case asks which
//! backend it runs on: where the contract lets backends differ, the case asks the storage's capabilities.

#[macro_use]
mod topic;
mod lane_words;
mod prelude;

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::time::Duration;

use ferroq_core::storage::ErrorCode;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::{mpsc, oneshot};

use crate::harness::{Fixture, Scene, StorageBuilder, audit};

topics! {
    ($)
    enqueue, __conformance_enqueue;
    order, __conformance_order;
    claim, __conformance_claim;
    lease, __conformance_lease;
    settle, __conformance_settle;
    budgets, __conformance_budgets;
    shelves, __conformance_shelves;
    delay, __conformance_delay;
    expiry, __conformance_expiry;
    dedup, __conformance_dedup;
    dedup_changes, __conformance_dedup_changes;
    follow_ups, __conformance_follow_ups;
    dead_letter, __conformance_dead_letter;
    renew, __conformance_renew;
    annotate, __conformance_annotate;
    sweep, __conformance_sweep;
    retention, __conformance_retention;
    acts, __conformance_acts;
    queues, __conformance_queues;
    lists, __conformance_lists;
    explain, __conformance_explain;
    events, __conformance_events;
    watch, __conformance_watch;
    transfer, __conformance_transfer;
    time, __conformance_time;
    repeat, __conformance_repeat;
    limits, __conformance_limits;
    lanes, __conformance_lanes;
    lane_policies, __conformance_lane_policies;
    lanes_aside, __conformance_lanes_aside;
    start_slots, __conformance_start_slots;
    slots_freed, __conformance_slots_freed;
    start_rates, __conformance_start_rates;
    starts_remembered, __conformance_starts_remembered;
    solo_line, __conformance_solo_line;
    start_rates_changed, __conformance_start_rates_changed;
    batch_gates, __conformance_batch_gates;
    gate_waits, __conformance_gate_waits;
    batch_runs, __conformance_batch_runs;
    values, __conformance_values;
    handles, __conformance_handles;
}

/// A case that runs for this long hangs: it waits for something that the storage should have done.
const CASE_TIME_MAX: Duration = Duration::from_secs(180);

/// One claim about storages.
pub struct Case {
    /// The part of the contract that it belongs to.
    pub topic: &'static str,
    /// What it claims.
    pub name: &'static str,
    run: for<'a> fn(&'a mut Scene) -> BoxFuture<'a, ()>,
}

/// A case that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The case, as `topic::name`.
    pub case: String,
    /// What was found instead.
    pub message: String,
}

/// What became of a run over all cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many cases held.
    pub passed: usize,
    /// Those that did not.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Whether every case held.
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases held, {} did not", self.passed, self.failures.len())?;
        for failure in &self.failures {
            write!(f, "\n{}: {}", failure.case, failure.message)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.topic, self.name)
    }
}

impl Case {
    /// Runs the case on a fresh store, and audits every queue of the store after it. Needs a tokio runtime with its
    /// timer, not paused.
    ///
    /// # Errors
    /// [`Failure`] if the case, or the audit, did not hold, or the case did not end in three minutes.
    pub async fn run(&self, builder: &dyn StorageBuilder) -> Result<(), Failure> {
        let (others, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<Fixture>>();
        let play = async {
            let mut scene = Scene::with_others(builder.build().await, others);
            (self.run)(&mut scene).await;
            audit_all(&scene).await;
            scene.storage().close().await;
        };
        let build_others = async {
            while let Some(answer) = asked.recv().await {
                // A case that no longer waits needs no store.
                let _ = answer.send(builder.build().await);
            }
            future::pending::<()>().await;
        };
        let run = async {
            tokio::select! {
                () = play => {}
                () = build_others => {}
            }
        };
        let ended = tokio::time::timeout(CASE_TIME_MAX, AssertUnwindSafe(run).catch_unwind()).await;
        let message = match ended {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(panic)) => text_of(panic.as_ref()),
            Err(_) => format!("it did not end within {} s", CASE_TIME_MAX.as_secs()),
        };
        Err(Failure { case: format!("{self:?}"), message })
    }
}

async fn audit_all(scene: &Scene) {
    let queues = match scene.storage().queues().await {
        Ok(queues) => queues,
        Err(error) if error.code() == ErrorCode::Closed => return,
        Err(error) => panic!("queues: {error}"),
    };
    for queue in queues {
        audit(scene.storage(), &queue).await;
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}

/// Every case, by topic.
pub fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| TOPICS.iter().flat_map(|cases| cases()).collect())
}

/// Runs every case, each on a store of its own, and collects what failed.
pub async fn run_all(builder: &dyn StorageBuilder) -> Report {
    let mut report = Report::default();
    for case in cases() {
        match case.run(builder).await {
            Ok(()) => report.passed += 1,
            Err(failure) => report.failures.push(failure),
        }
    }
    report
}

/// Runs one case as a test of its own; what [`conformance!`](crate::conformance!) expands to calls it.
///
/// # Panics
/// If the case does not hold.
#[doc(hidden)]
#[track_caller]
pub fn test_case(builder: impl StorageBuilder, topic: &str, name: &str) {
    let case = cases().iter().find(|case| case.topic == topic && case.name == name).expect("a case of that name");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let held = runtime.expect("a runtime").block_on(case.run(&builder));
    if let Err(failure) = held {
        panic!("{}: {}", failure.case, failure.message);
    }
}
