//! One run of a batch: gather its members, read them, call the handler once for all, settle the members with what became of
//! each, and leave the first job, whose lease held for all of them, to the worker's loop.

use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::task::AbortHandle;
use tracing::warn;

use super::run::{EndGuard, Ended, ErasedHandler, Shared, panic_text, within};
use crate::batch::{BatchHandler, BatchJob};
use crate::codec::{self, CodecError};
use crate::context::{Context, Run};
use crate::handler::JobResult;
use crate::job::{ErrorKind, Job};
use crate::policy::batch::GATHER_ITEMS_MAX;
use crate::storage::{
    Claim, GatherAnswer, MembersAnswer, MembersRequest, Outcome, RunError, Settlement, StorageError, StorageExt,
};
use crate::worker::WorkerReport;

/// How many members are read, and settled, at once.
const PAGE_ITEMS: usize = 1000;
/// How many bytes of payload are read at once.
const PAGE_BYTES: usize = 4 << 20;

/// A batch handler with its job type.
pub(super) struct Batched<J, H> {
    handler: Arc<H>,
    job: PhantomData<fn() -> J>,
}

impl<J, H> Batched<J, H> {
    pub(super) fn new(handler: H) -> Self {
        Batched { handler: Arc::new(handler), job: PhantomData }
    }
}

impl<S, J, H> ErasedHandler<S> for Batched<J, H>
where
    S: Send + Sync + 'static,
    J: Job,
    H: BatchHandler<J, S>,
{
    fn start(&self, shared: Arc<Shared<S>>, run: Arc<Run>, queue: usize) -> AbortHandle {
        let handler = self.handler.clone();
        tokio::spawn(async move {
            let mut guard = EndGuard::new(shared.clone(), run.clone(), queue);
            let (settlement, members) = execute::<S, J, H>(&*handler, &shared, &run).await;
            guard.disarm();
            // The receiver is gone only when the worker was dropped; then the lease runs out and the batch is run again.
            let _worker_dropped = shared.ended.send(Ended { queue, settlement, members }).is_err();
        })
        .abort_handle()
    }
}

/// Why a batch could not be run, or its members not be settled.
enum Trouble {
    /// Its lease is lost, so it is another's.
    Lost,
    Storage(StorageError),
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Trouble::Storage(error)
    }
}

/// A job of the batch: in the handler's hands, or settled already because it can't be read.
enum Fit {
    Handed,
    Unfit(Outcome),
}

async fn execute<S, J, H>(handler: &H, shared: &Arc<Shared<S>>, run: &Arc<Run>) -> (Settlement, WorkerReport)
where
    S: Send + Sync + 'static,
    J: Job,
    H: BatchHandler<J, S>,
{
    let mut report = WorkerReport::default();
    let settlement = match attempt::<S, J, H>(handler, shared, run, &mut report).await {
        Ok(settlement) => settlement,
        // The outcome will be refused, which the loop tells.
        Err(Trouble::Lost) => run.settlement(Outcome::Release),
        Err(Trouble::Storage(error)) => {
            warn!(job = %run.lease().id, %error, "a batch could not be settled; what is left of it runs again");
            shared.failed(run, ErrorKind::Error, format!("the storage failed: {error}"), None)
        }
    };
    (settlement, report)
}

async fn attempt<S, J, H>(
    handler: &H,
    shared: &Arc<Shared<S>>,
    run: &Arc<Run>,
    report: &mut WorkerReport,
) -> Result<Settlement, Trouble>
where
    S: Send + Sync + 'static,
    J: Job,
    H: BatchHandler<J, S>,
{
    let members = match members(run).await {
        Err(Trouble::Storage(error)) => {
            // Nothing was run, so that is no failure of the batch.
            warn!(job = %run.lease().id, %error, "the members of a batch could not be read; it is given back");
            return Ok(run.settlement(Outcome::Release));
        }
        read => read?,
    };
    let claims: Vec<&Claim> = [&run.claim].into_iter().chain(&members).collect();
    let result = {
        // Everything that the app wrote is inside the catch: how payloads are read, and the handler.
        let work = AssertUnwindSafe(handle::<S, J, H>(handler, shared, run, &claims)).catch_unwind();
        let timed = match run.claim.spec.options.timeout {
            None => Some(work.await),
            Some(timeout) => within(timeout, work).await,
        };
        match timed {
            Some(Ok(result)) => result,
            Some(Err(panic)) => return Ok(shared.failed(run, ErrorKind::Panic, panic_text(panic.as_ref()), None)),
            None => {
                let timeout = run.claim.spec.options.timeout.unwrap_or_default();
                let message = format!("the run took longer than its timeout of {timeout:?}");
                return Ok(shared.failed(run, ErrorKind::Timeout, message, None));
            }
        }
    };
    let outcomes = match result {
        Ok(outcomes) => outcomes,
        Err(error) => return Ok(run.settlement(shared.outcome_of(run, &run.claim, error))),
    };
    // Follow-ups come into being with the first job that completes, for without any there is nothing they follow from.
    let first_done = outcomes.iter().position(|outcome| matches!(outcome, Outcome::Completed { .. }));
    let mut settlements: Vec<Settlement> = Vec::with_capacity(outcomes.len());
    for (place, (claim, outcome)) in claims.iter().zip(outcomes).enumerate() {
        let follow_ups = if first_done == Some(place) { run.follow_ups() } else { Vec::new() };
        settlements.push(Settlement { lease: claim.lease, outcome, follow_ups });
    }
    let of_members = settlements.split_off(1);
    for group in of_members.chunks(PAGE_ITEMS) {
        settle(run, group, report).await?;
    }
    settlements.pop().ok_or(Trouble::Lost)
}

/// Reads the jobs and hands them to the handler; what becomes of each.
async fn handle<S, J, H>(
    handler: &H,
    shared: &Arc<Shared<S>>,
    run: &Arc<Run>,
    claims: &[&Claim],
) -> JobResult<Vec<Outcome>>
where
    S: Send + Sync + 'static,
    J: Job,
    H: BatchHandler<J, S>,
{
    let bytes_max = run.client.payload_bytes_max();
    let mut batch = Vec::with_capacity(claims.len());
    let mut fits = Vec::with_capacity(claims.len());
    for claim in claims {
        fits.push(match codec::decode_job::<J>(&claim.spec.payload, bytes_max) {
            Ok(job) => {
                batch.push(BatchJob::new(job, claim));
                Fit::Handed
            }
            // A newer program can read it; the pauses grow with the number of runs, as for single jobs.
            Err(CodecError::TooNew { .. }) => Fit::Unfit(Outcome::Snooze { delay: shared.backoff(claim, claim.run) }),
            Err(error) => Fit::Unfit(Outcome::Abort { error: RunError::new(ErrorKind::Payload, error.to_string()) }),
        });
    }
    let handed = batch.len();
    let each = if batch.is_empty() {
        Vec::new()
    } else {
        handler.call(batch, Context::new(shared.state.clone(), run.clone())).await?.of_each(handed)?
    };
    let mut each = each.into_iter();
    let outcome = |(fit, claim): (Fit, &&Claim)| match fit {
        Fit::Unfit(outcome) => outcome,
        Fit::Handed => match each.next() {
            Some(Err(error)) => shared.outcome_of(run, claim, error),
            Some(Ok(())) | None => Outcome::Completed { result: None },
        },
    };
    Ok(fits.into_iter().zip(claims).map(outcome).collect())
}

/// All members, once the batch has all of them.
async fn members(run: &Run) -> Result<Vec<Claim>, Trouble> {
    let (storage, queue, lease) = (run.client.storage(), run.queue(), run.lease());
    let mut members: Vec<Claim> = Vec::new();
    let mut after = None;
    if run.claim.batch.is_none() {
        return Ok(members);
    }
    loop {
        let request =
            MembersRequest { queue: queue.clone(), lease, after, max_items: PAGE_ITEMS, max_bytes: PAGE_BYTES };
        let page = match storage.members(request).await? {
            MembersAnswer::Page(page) => page,
            MembersAnswer::LeaseLost | MembersAnswer::Gone => return Err(Trouble::Lost),
        };
        if !page.formed {
            gather(run).await?;
            members.clear();
            after = None;
            continue;
        }
        members.extend(page.members);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(members),
        }
    }
}

async fn gather(run: &Run) -> Result<(), Trouble> {
    loop {
        match run.client.storage().gather(run.queue(), run.lease(), GATHER_ITEMS_MAX).await? {
            GatherAnswer::Gathered { formed: true, .. } => return Ok(()),
            GatherAnswer::Gathered { .. } => {}
            GatherAnswer::LeaseLost | GatherAnswer::Gone => return Err(Trouble::Lost),
        }
    }
}

async fn settle(run: &Run, group: &[Settlement], report: &mut WorkerReport) -> Result<(), Trouble> {
    let storage = run.client.storage();
    let settle = |call| storage.settle(Some(call), run.queue(), group.to_vec());
    let answers = run.client.session().call(settle).await?;
    for (settlement, answer) in group.iter().zip(&answers) {
        report.count(settlement, answer);
    }
    // A member that is gone, or was cancelled meanwhile, is its own affair. If the lease is lost, the leader's outcome is
    // refused as well, which the loop tells.
    Ok(())
}
