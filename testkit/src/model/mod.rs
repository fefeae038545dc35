//! A queue store written as naively as possible: a plain list of records per queue, searched from end to end, and the
//! rules of the storage contract spelled out where they apply. It shares no policy code with core, so a mistake there
//! is not repeated here. Given the same calls at the same clock readings it predicts every answer and every record,
//! and so accepts or refuses what a backend was seen to do.
//!
//! ```
//! use ferroq_core::Timestamp;
//! use ferroq_core::storage::SweepRequest;
//! use ferroq_testkit::model::{Answer, Call, Model};
//!
//! let mut model = Model::new();
//! let call = Call::Sweep(SweepRequest { queue: "emails".parse()?, max_items: 10 });
//! // A backend was asked to sweep an empty queue and said that it promoted a job.
//! let seen = Answer::Sweep(ferroq_core::storage::SweepAnswer { promoted: 1, ..Default::default() });
//! assert!(model.check(Timestamp::from_micros(1), &call, &seen).is_err());
//! # Ok::<(), ferroq_core::job::NameError>(())
//! ```

mod batches;
mod call;
mod control;
mod dedup;
mod diff;
mod exchange;
mod explain;
mod lanes;
mod leave;
mod letters;
mod limits;
mod queue;
mod snapshot;
mod sweep;
#[cfg(test)]
mod tests;
mod walks;

use std::collections::BTreeMap;
use std::fmt;

use ferroq_core::Timestamp;
use ferroq_core::job::{JobRecord, JobSpec, LimiterName, QueueName};
use ferroq_core::storage::{AcquireAnswer, AcquireRequest, CallId, EnqueueAnswer, Reconfigured};

pub use call::{Answer, Call};
pub use diff::{differences, record_differences};
pub use queue::QueueModel;
pub(crate) use snapshot::walk;
pub use snapshot::{QueueSnapshot, Snapshot};

/// What a backend was seen to do is not what the contract says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was looked at: the call's answer, or a part of a queue's contents.
    pub what: String,
    /// The differences, one a line: what the model has, and what was seen.
    pub differences: Vec<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not what the contract says:", self.what)?;
        self.differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
    }
}

impl std::error::Error for Refusal {}

/// The reference model of a whole store.
#[derive(Clone, Debug, Default)]
pub struct Model {
    queues: BTreeMap<QueueName, QueueModel>,
    kept: Vec<(CallId, Answer)>,
    limiters: BTreeMap<LimiterName, limits::LimiterModel>,
    /// The limiters' answers that are kept for repeats.
    acquired: Vec<(AcquireRequest, AcquireAnswer)>,
}

impl Model {
    /// An empty store.
    pub fn new() -> Self {
        Model::default()
    }

    /// A queue of the store, if it exists.
    pub fn queue(&self, name: &QueueName) -> Option<&QueueModel> {
        self.queues.get(name)
    }

    /// The names of the queues that exist, in their order.
    pub fn queue_names(&self) -> impl Iterator<Item = &QueueName> {
        self.queues.keys()
    }

    /// Makes the call on the model, with the clock at this reading, and says what the answer has to be.
    pub fn predict(&mut self, clock: Timestamp, call: &Call) -> Answer {
        if let Some(answer) = self.recall(call.id()) {
            return answer;
        }
        let answer = self.apply(clock, call);
        if let Some(id) = call.id() {
            self.kept.retain(|(kept, _)| kept.session != id.session || kept.number >= id.acknowledged_below);
            self.kept.push((id, answer.clone()));
        }
        answer
    }

    /// Makes the call on the model and compares the answer that a backend gave to the same call.
    ///
    /// # Errors
    /// [`Refusal`] if the contract demands another answer. The model went on as the contract says.
    pub fn check(&mut self, clock: Timestamp, call: &Call, seen: &Answer) -> Result<(), Refusal> {
        let expected = self.predict(clock, call);
        let differences = differences(&expected, seen);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Refusal { what: format!("the answer to {}", call.name()), differences })
    }

    /// Compares everything that a backend holds with what the model holds.
    ///
    /// # Errors
    /// [`Refusal`] with the first queue that differs.
    pub fn check_snapshot(&self, seen: &Snapshot) -> Result<(), Refusal> {
        let names: Vec<_> = self.queues.keys().collect();
        let seen_names: Vec<_> = seen.queues.keys().collect();
        if names != seen_names {
            let differences = vec![format!("model: {names:?}"), format!("seen:  {seen_names:?}")];
            return Err(Refusal { what: "the list of queues".to_owned(), differences });
        }
        for (name, queue) in &self.queues {
            let differences = queue.compare(&seen.queues[name]);
            if !differences.is_empty() {
                return Err(Refusal { what: format!("the content of queue {name:?}"), differences });
            }
        }
        Ok(())
    }

    /// The store was closed and opened again: the answers kept for repeats are gone, everything else is as it was.
    pub fn reopen(&mut self) {
        self.kept.clear();
        self.acquired.clear();
    }

    fn recall(&self, id: Option<CallId>) -> Option<Answer> {
        let id = id?;
        let (_, answer) = self.kept.iter().find(|(kept, _)| (kept.session, kept.number) == (id.session, id.number))?;
        let mut answer = answer.clone();
        // A claim repeated hands over the same jobs, those whose lease is still current, with what they have saved since.
        if let Answer::Exchange(exchange) = &mut answer
            && let Some(claimed) = &mut exchange.claimed
        {
            claimed.claims.retain_mut(|claim| {
                let queue = self.queues.get(&claim.spec.queue).filter(|queue| queue.holds(claim.lease));
                let job = queue.and_then(|queue| queue.job(claim.lease.id));
                claim.checkpoint = job.and_then(|job| job.notes.checkpoint.clone());
                job.is_some()
            });
        }
        Some(answer)
    }

    fn apply(&mut self, clock: Timestamp, call: &Call) -> Answer {
        match call {
            Call::Enqueue(request) => Answer::Enqueue(self.enqueue(clock, &request.queue, &request.jobs)),
            Call::Exchange(request) => Answer::Exchange(self.exchange(clock, request)),
            Call::Renew(request) => Answer::Renew(self.renew(clock, request)),
            Call::Annotate { queue, notes } => Answer::Annotate(self.annotate(clock, queue, notes)),
            Call::Gather { queue, lease, max_items } => Answer::Gather(self.gather(clock, queue, *lease, *max_items)),
            Call::Members(request) => Answer::Members(self.members(request)),
            Call::Sweep(request) => Answer::Sweep(self.sweep(clock, request)),
            Call::Act { request, order } => Answer::Act(self.act(clock, request, order)),
            Call::Configure { queue, config } => {
                self.configure(clock, queue, config);
                Answer::Configure
            }
            Call::ConfigureLane { queue, lane, policy } => {
                let queue = self.queues.entry(queue.clone()).or_default();
                queue.begin(clock);
                queue.set_lane_policy(lane, policy.clone());
                Answer::Configure
            }
            Call::Reconfigure { queue, from, to } => {
                let present = self.queues.get(queue).map(|queue| queue.config.clone()).unwrap_or_default();
                if present != **from && present != **to {
                    return Answer::Reconfigure(Reconfigured::Conflict(present));
                }
                self.configure(clock, queue, to);
                Answer::Reconfigure(Reconfigured::Stored)
            }
            Call::ReconfigureLane { queue, lane, from, to } => {
                let present = self.queues.get(queue).and_then(|queue| queue.lane_policy(lane));
                if present != *from && present != *to {
                    return Answer::ReconfigureLane(Reconfigured::Conflict(present));
                }
                let queue = self.queues.entry(queue.clone()).or_default();
                queue.begin(clock);
                queue.set_lane_policy(lane, to.clone());
                Answer::ReconfigureLane(Reconfigured::Stored)
            }
            Call::SetPaused { queue, paused } => Answer::SetPaused(self.set_paused(clock, queue, *paused)),
            Call::Watch { queue, id } => {
                // Nothing else changes: not even the queue's time.
                if let Some(queue) = self.queues.get_mut(queue) {
                    queue.jobs.iter_mut().filter(|job| job.spec.id == *id).for_each(|job| job.waited_on = true);
                }
                Answer::Watch
            }
            Call::Obliterate { queue, force, max_items, order } => {
                Answer::Obliterate(self.obliterate(clock, queue, *force, *max_items, order))
            }
        }
    }

    /// Inserts jobs on their queue; each queue has its own time, so follow-ups on another queue come through here too.
    fn enqueue(&mut self, clock: Timestamp, queue: &QueueName, jobs: &[std::sync::Arc<JobSpec>]) -> Vec<EnqueueAnswer> {
        if jobs.is_empty() {
            return Vec::new();
        }
        let queue = self.queues.entry(queue.clone()).or_default();
        queue.begin(clock);
        jobs.iter().map(|job| queue.insert(job)).collect()
    }

    /// Every record of every queue.
    pub fn records(&self) -> impl Iterator<Item = (&QueueName, &JobRecord)> {
        self.queues.iter().flat_map(|(name, queue)| queue.jobs.iter().map(move |job| (name, job)))
    }
}
