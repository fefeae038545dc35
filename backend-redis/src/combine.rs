//! Enqueues that are in flight together share a script: while one is on its way, the calls that come meanwhile gather, and
//! go out as one. A lone call goes out at once, from the task that makes it; so nobody ever waits for company.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferroq_core::job::QueueName;
use ferroq_core::storage::{CallId, EnqueueAnswer, StorageError};
use tokio::sync::oneshot;

use crate::error::CallError;
use crate::link::Reached;

/// How many scripts of one queue are under way at once: one runs while the next one travels.
const UNDER_WAY_MAX: usize = 2;
/// When a script is full: so many jobs, or so many bytes. A call that is larger goes out alone.
const JOBS_MAX: usize = 500;
const BYTES_MAX: usize = 256 * 1024;

/// What became of one call (its own error, or that of the script that carried it), and how far its writes have got.
pub(crate) type Answer = Result<(Result<Vec<EnqueueAnswer>, Refused>, Option<Reached>), CallError>;

/// A call was refused while others in the same script were not.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub(crate) String);

/// One enqueue: per job its id and its spec from the priority on.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) call: Option<CallId>,
    pub(crate) jobs: Vec<([u8; 16], Vec<u8>)>,
    pub(crate) bytes: usize,
}

/// The gates of all queues.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<HashMap<QueueName, Arc<Gate>>>);

impl Gates {
    pub(crate) fn of(&self, queue: &QueueName) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(queue) {
            return gate.clone();
        }
        gates.entry(queue.clone()).or_default().clone()
    }
}

/// Where the enqueues of one queue gather.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    under_way: usize,
    waiting: VecDeque<(Call, oneshot::Sender<Answer>)>,
}

/// Calls that share a script, each with where its answer goes.
pub(crate) type Batch = Vec<(Call, oneshot::Sender<Answer>)>;

/// What a call is to do.
pub(crate) enum Entry {
    /// Go out now, and [`leave`](Gate::leave) the gate after.
    Go(Call),
    /// Wait for the answer; another task carries it.
    Wait(oneshot::Receiver<Answer>),
}

impl Gate {
    pub(crate) fn enter(&self, call: Call) -> Entry {
        let mut gathered = self.lock();
        if gathered.under_way < UNDER_WAY_MAX && gathered.waiting.is_empty() {
            gathered.under_way += 1;
            return Entry::Go(call);
        }
        let (answer, receiver) = oneshot::channel();
        gathered.waiting.push_back((call, answer));
        Entry::Wait(receiver)
    }

    /// Ends a script's way. Answers the calls that gathered meanwhile: whoever gets them has to send them, as the next
    /// script under way.
    pub(crate) fn leave(&self) -> Option<Batch> {
        let mut gathered = self.lock();
        let next = gathered.next();
        if next.is_empty() {
            gathered.under_way -= 1;
            return None;
        }
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    /// The next calls that fit into one script: of one session, because a script gets one session's answers.
    fn next(&mut self) -> Batch {
        let session = |call: &Call| call.call.map(|call| call.session);
        let (mut jobs, mut bytes, mut taken) = (0, 0, Batch::new());
        while let Some((call, _)) = self.waiting.front() {
            let fits = jobs + call.jobs.len() <= JOBS_MAX && bytes + call.bytes <= BYTES_MAX;
            let same = taken.first().is_none_or(|(first, _)| session(first) == session(call));
            // The first goes, whatever its size.
            let goes = taken.is_empty() || (fits && same);
            if !goes {
                break;
            }
            jobs += call.jobs.len();
            bytes += call.bytes;
            taken.extend(self.waiting.pop_front());
        }
        taken
    }
}

impl From<Refused> for StorageError {
    fn from(Refused(text): Refused) -> Self {
        crate::error::invalid(text)
    }
}
