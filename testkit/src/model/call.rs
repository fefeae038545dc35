//! The calls of the contract and their answers as values, so that a call can be made on a backend and on the model,
//! recorded, printed and repeated. A call whose order the contract leaves to the backend (which shelf comes first)
//! carries the order that the backend was seen to have.

use std::fmt;

use ferroq_core::job::{JobId, JobSpec, LaneKey, QueueName};
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::storage::{
    ActReport, ActRequest, CallId, EnqueueAnswer, EnqueueRequest, ErrorCode, ExchangeAnswer, ExchangeRequest, Lease,
    Note, NoteAnswer, ObliterateAnswer, QueueConfig, Reconfigured, RenewAnswer, RenewRequest, Storage, SweepAnswer,
    SweepRequest,
};

/// A call of the contract that may change something.
#[derive(Clone, Debug)]
pub enum Call {
    /// [`Jobs::enqueue`](ferroq_core::storage::Jobs::enqueue).
    Enqueue(EnqueueRequest),
    /// [`Jobs::exchange`](ferroq_core::storage::Jobs::exchange).
    Exchange(ExchangeRequest),
    /// [`Jobs::renew`](ferroq_core::storage::Jobs::renew).
    Renew(RenewRequest),
    /// [`Jobs::annotate`](ferroq_core::storage::Jobs::annotate).
    Annotate {
        /// The queue.
        queue: QueueName,
        /// The notes.
        notes: Vec<(Lease, Note)>,
    },
    /// [`Jobs::sweep`](ferroq_core::storage::Jobs::sweep).
    Sweep(SweepRequest),
    /// [`Control::act`](ferroq_core::storage::Control::act).
    Act {
        /// The request.
        request: ActRequest,
        /// For a filter: the jobs that the backend walks over from its cursor on, in its order, before the call.
        order: Vec<JobId>,
    },
    /// [`Control::configure`](ferroq_core::storage::Control::configure).
    Configure {
        /// The queue.
        queue: QueueName,
        /// Its new settings.
        config: QueueConfig,
    },
    /// [`Control::configure_lane`](ferroq_core::storage::Control::configure_lane).
    ConfigureLane {
        /// The queue.
        queue: QueueName,
        /// The lane.
        lane: LaneKey,
        /// Its policy, or none.
        policy: Option<LanePolicy>,
    },
    /// [`Control::reconfigure`](ferroq_core::storage::Control::reconfigure).
    Reconfigure {
        /// The queue.
        queue: QueueName,
        /// The settings that the new ones were made from.
        from: Box<QueueConfig>,
        /// Its new settings.
        to: Box<QueueConfig>,
    },
    /// [`Control::reconfigure_lane`](ferroq_core::storage::Control::reconfigure_lane).
    ReconfigureLane {
        /// The queue.
        queue: QueueName,
        /// The lane.
        lane: LaneKey,
        /// The policy that the new one was made from.
        from: Option<LanePolicy>,
        /// Its policy, or none.
        to: Option<LanePolicy>,
    },
    /// [`Control::set_paused`](ferroq_core::storage::Control::set_paused).
    SetPaused {
        /// The queue.
        queue: QueueName,
        /// Whether to pause it.
        paused: bool,
    },
    /// [`Jobs::watch`](ferroq_core::storage::Jobs::watch); the watch itself is dropped at once, its mark stays.
    Watch {
        /// The queue.
        queue: QueueName,
        /// The job.
        id: JobId,
    },
    /// [`Control::obliterate`](ferroq_core::storage::Control::obliterate).
    Obliterate {
        /// The queue.
        queue: QueueName,
        /// Whether Active jobs go as well.
        force: bool,
        /// How many jobs go at most.
        max_items: usize,
        /// The jobs that the backend walks over, in its order, before the call.
        order: Vec<JobId>,
    },
}

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Call::Enqueue`].
    Enqueue(Vec<EnqueueAnswer>),
    /// To [`Call::Exchange`].
    Exchange(ExchangeAnswer),
    /// To [`Call::Renew`].
    Renew(Vec<RenewAnswer>),
    /// To [`Call::Annotate`].
    Annotate(Vec<NoteAnswer>),
    /// To [`Call::Sweep`].
    Sweep(SweepAnswer),
    /// To [`Call::Act`].
    Act(ActReport),
    /// To [`Call::Configure`].
    Configure,
    /// To [`Call::Reconfigure`].
    Reconfigure(Reconfigured<QueueConfig>),
    /// To [`Call::ReconfigureLane`].
    ReconfigureLane(Reconfigured<Option<LanePolicy>>),
    /// To [`Call::SetPaused`].
    SetPaused(bool),
    /// To [`Call::Watch`].
    Watch,
    /// To [`Call::Obliterate`].
    Obliterate(ObliterateAnswer),
    /// The call failed as a whole.
    Error(ErrorCode, String),
}

impl Call {
    /// Makes the call on a storage. A failed call is an answer too.
    pub async fn make(&self, on: &dyn Storage) -> Answer {
        let answer = match self.clone() {
            Call::Enqueue(request) => on.enqueue(request).await.map(Answer::Enqueue),
            Call::Exchange(request) => on.exchange(request).await.map(Answer::Exchange),
            Call::Renew(request) => on.renew(request).await.map(Answer::Renew),
            Call::Annotate { queue, notes } => on.annotate(&queue, notes).await.map(Answer::Annotate),
            Call::Sweep(request) => on.sweep(request).await.map(Answer::Sweep),
            Call::Act { request, .. } => on.act(request).await.map(Answer::Act),
            Call::Configure { queue, config } => on.configure(&queue, config).await.map(|()| Answer::Configure),
            Call::ConfigureLane { queue, lane, policy } => {
                on.configure_lane(&queue, &lane, policy).await.map(|()| Answer::Configure)
            }
            Call::Reconfigure { queue, from, to } => on.reconfigure(&queue, *from, *to).await.map(Answer::Reconfigure),
            Call::ReconfigureLane { queue, lane, from, to } => {
                on.reconfigure_lane(&queue, &lane, from, to).await.map(Answer::ReconfigureLane)
            }
            Call::SetPaused { queue, paused } => on.set_paused(&queue, paused).await.map(Answer::SetPaused),
            Call::Watch { queue, id } => on.watch(&queue, id).await.map(|_| Answer::Watch),
            Call::Obliterate { queue, force, max_items, .. } => {
                on.obliterate(&queue, force, max_items).await.map(Answer::Obliterate)
            }
        };
        answer.unwrap_or_else(|error| Answer::Error(error.code(), error.to_string()))
    }

    /// The call's number, if it can be repeated under it.
    pub fn id(&self) -> Option<CallId> {
        match self {
            Call::Enqueue(request) => request.call,
            Call::Exchange(request) => request.call,
            Call::Act { request, .. } => request.call,
            _ => None,
        }
    }

    /// The queue that the call is about.
    pub fn queue(&self) -> &QueueName {
        match self {
            Call::Enqueue(request) => &request.queue,
            Call::Exchange(request) => &request.queue,
            Call::Renew(request) => &request.queue,
            Call::Sweep(request) => &request.queue,
            Call::Act { request, .. } => &request.queue,
            Call::Annotate { queue, .. }
            | Call::Configure { queue, .. }
            | Call::ConfigureLane { queue, .. }
            | Call::Reconfigure { queue, .. }
            | Call::ReconfigureLane { queue, .. }
            | Call::SetPaused { queue, .. }
            | Call::Watch { queue, .. }
            | Call::Obliterate { queue, .. } => queue,
        }
    }

    /// The method's name.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Enqueue(_) => "enqueue",
            Call::Exchange(_) => "exchange",
            Call::Renew(_) => "renew",
            Call::Annotate { .. } => "annotate",
            Call::Sweep(_) => "sweep",
            Call::Act { .. } => "act",
            Call::Configure { .. } => "configure",
            Call::ConfigureLane { .. } => "configure_lane",
            Call::Reconfigure { .. } => "reconfigure",
            Call::ReconfigureLane { .. } => "reconfigure_lane",
            Call::SetPaused { .. } => "set_paused",
            Call::Watch { .. } => "watch",
            Call::Obliterate { .. } => "obliterate",
        }
    }
}

/// The call in a few words, for the list of steps that a failure prints.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.queue())?;
        if let Some(id) = self.id() {
            write!(f, " (call {}, acknowledges below {})", id.number, id.acknowledged_below)?;
        }
        match self {
            Call::Enqueue(request) => request.jobs.iter().try_for_each(|job| write!(f, "\n      {}", Brief(job))),
            Call::Exchange(request) => {
                for settlement in &request.settlements {
                    write!(f, "\n      settle {:?} as {:?}", settlement.lease, settlement.outcome)?;
                    settlement.follow_ups.iter().try_for_each(|job| write!(f, "\n        then {}", Brief(job)))?;
                }
                match &request.claim {
                    Some(claim) => write!(
                        f,
                        "\n      claim {} of {:?}, {} bytes, term {:?}{}",
                        claim.max_items,
                        claim.kinds,
                        claim.max_bytes,
                        claim.term,
                        if claim.alone { ", alone" } else { "" }
                    ),
                    None => Ok(()),
                }
            }
            Call::Renew(request) => write!(f, " {:?} for {:?}", request.leases, request.term),
            Call::Annotate { notes, .. } => write!(f, " {notes:?}"),
            Call::Sweep(request) => write!(f, " up to {}", request.max_items),
            Call::Act { request, .. } => write!(f, " {:?} on {:?}", request.act, request.on),
            Call::Configure { config, .. } => write!(f, " {config:?}"),
            Call::ConfigureLane { lane, policy, .. } => write!(f, " {lane:?} {policy:?}"),
            Call::Reconfigure { from, to, .. } => write!(f, " from {from:?} to {to:?}"),
            Call::ReconfigureLane { lane, from, to, .. } => write!(f, " {lane:?} from {from:?} to {to:?}"),
            Call::SetPaused { paused, .. } => write!(f, " {paused}"),
            Call::Watch { id, .. } => write!(f, " {id}"),
            Call::Obliterate { force, max_items, .. } => write!(f, " force {force}, up to {max_items}"),
        }
    }
}

/// A job specification without what is at its default.
struct Brief<'a>(&'a JobSpec);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = self.0;
        write!(f, "{} of kind {} on {}, {} bytes", job.id, job.kind, job.queue, job.payload.len())?;
        write!(f, ", {:?}, {:?}", job.priority, job.start)?;
        if job.lifo {
            write!(f, ", lifo")?;
        }
        if let Some(dedup) = &job.dedup {
            write!(f, ", dedup {:?} {:?}", dedup.key, dedup.mode)?;
        }
        let options = &job.options;
        write!(f, ", attempts {}, crashes {}", options.max_attempts, options.max_crashes)?;
        if let Some(expires_in) = options.expires_in {
            write!(f, ", expires in {expires_in:?}")?;
        }
        if options.keep != Default::default() {
            write!(f, ", {:?}", options.keep)?;
        }
        if !options.tags.is_empty() {
            write!(f, ", tags {:?}", options.tags)?;
        }
        Ok(())
    }
}
