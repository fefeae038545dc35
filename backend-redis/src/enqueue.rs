//! Enqueue: the calls of this process that are in flight together go out in one script (see [`crate::combine`]), each with
//! an answer of its own.

use std::sync::Arc;

use ferroq_core::clock::Clock;
use ferroq_core::job::{JobId, JobSpec, QueueName};
use ferroq_core::storage::{EnqueueAnswer, EnqueueRequest, ErrorCode, StorageError};
use redis::{Cmd, Value};
use tokio::runtime::Handle;

use crate::RedisStorage;
use crate::combine::{Answer, Batch, Call, Entry, Gate, Refused};
use crate::error::{CallError, invalid};
use crate::keys::QueueKeys;
use crate::link::{Link, Reached};
use crate::options::WaitFor;
use crate::record::id_of;
use crate::registry::Registry;
use crate::script::ENQUEUE;

/// One answer per call.
type Answers = Vec<Result<Vec<EnqueueAnswer>, Refused>>;

/// What an enqueue script needs, for whoever sends it.
#[derive(Clone, Debug)]
struct Road {
    link: Link,
    keys: QueueKeys,
    clock: Option<Arc<dyn Clock>>,
    registry: Registry,
    gate: Arc<Gate>,
    /// What a write has to reach before it is acknowledged.
    wait: Option<WaitFor>,
    /// The runtime that the handle was opened on, which outlives whoever leaves the gate.
    runtime: Handle,
}

/// Whoever sent a script leaves the gate when this is dropped, also by giving up, and what gathered goes on its way.
struct Leaving(Road);

impl Drop for Leaving {
    fn drop(&mut self) {
        let road = self.0.clone();
        if let Some(batch) = road.gate.leave() {
            let runtime = road.runtime.clone();
            runtime.spawn(carry(road, batch));
        }
    }
}

impl RedisStorage {
    /// Inserts jobs as [`Jobs::enqueue`](ferroq_core::storage::Jobs::enqueue) does, and tells how far they had got when
    /// the wait that the handle was opened with ([`RedisOptions::replicas_wait`](crate::RedisOptions::replicas_wait)) was
    /// over; `None` if the handle waits for nothing. A job that did not get so far is stored all the same.
    ///
    /// # Errors
    /// As for an enqueue; but that too few replicas have the jobs is no error here.
    pub async fn enqueue_replicated(
        &self,
        request: EnqueueRequest,
    ) -> Result<(Vec<EnqueueAnswer>, Option<Reached>), StorageError> {
        let EnqueueRequest { call, queue, jobs } = request;
        check_jobs(&queue, &jobs)?;
        if jobs.is_empty() {
            return Ok((Vec::new(), None));
        }
        self.registry.register(&queue).await?;
        let mut call = Call { call, jobs: Vec::with_capacity(jobs.len()), bytes: 0 };
        for spec in &jobs {
            let mut tail = Vec::with_capacity(spec.payload.len() + 64);
            crate::spec::write(spec, &mut tail);
            call.bytes += tail.len();
            call.jobs.push((*spec.id.as_bytes(), tail));
        }
        let road = Road {
            link: self.link.clone(),
            keys: self.keys(&queue),
            clock: self.options.clock.clone(),
            registry: self.registry.clone(),
            gate: self.gates.of(&queue),
            wait: self.options.replicas_wait,
            runtime: self.runtime.clone(),
        };
        let answer = match road.gate.enter(call) {
            Entry::Go(call) => {
                let leaving = Leaving(road);
                let sent = leaving.0.send(std::slice::from_ref(&call)).await;
                sent.and_then(|(mut answers, reached)| {
                    let answer = answers.pop();
                    let answer = answer.ok_or_else(|| CallError::unexpected(&"redis".into(), "no answer to a call"))?;
                    Ok((answer, reached))
                })
            }
            Entry::Wait(answer) => answer.await.map_err(|_| {
                // The carrier went down with its runtime, and with it whoever could tell what it had sent.
                let gone = "the runtime that this handle was opened on has ended, and the call with it";
                StorageError::new(ErrorCode::Unavailable, gone).effect_unknown()
            })?,
        };
        let (answers, reached) = answer?;
        Ok((answers?, reached))
    }

    pub(crate) async fn enqueue_now(&self, request: EnqueueRequest) -> Result<Vec<EnqueueAnswer>, StorageError> {
        let (answers, reached) = self.enqueue_replicated(request).await?;
        let (Some(wait), Some(reached)) = (&self.options.replicas_wait, reached) else { return Ok(answers) };
        if reached.is_enough(wait) {
            return Ok(answers);
        }
        let synced = if wait.fsync { " with the write synced to disk" } else { "" };
        let text = format!(
            "the jobs are stored, but within {:?} only {} of {} replicas had them{synced}; what the server loses before \
             they catch up is lost",
            wait.timeout, reached.replicas, wait.replicas
        );
        Err(StorageError::new(ErrorCode::Other, text).effect_unknown())
    }
}

/// Sends calls that gathered, and what gathers meanwhile, until there is nothing left.
async fn carry(road: Road, mut batch: Batch) {
    loop {
        let (calls, to): (Vec<Call>, Vec<_>) = std::mem::take(&mut batch).into_iter().unzip();
        let answers = road.send(&calls).await;
        for (place, to) in to.into_iter().enumerate() {
            let answer: Answer = match &answers {
                Ok((answers, reached)) => Ok((answers[place].clone(), *reached)),
                Err(error) => Err(error.clone()),
            };
            // Whoever gave up waiting doesn't want to know.
            let _gave_up = to.send(answer).is_err();
        }
        match road.gate.leave() {
            Some(next) => batch = next,
            None => return,
        }
    }
}

impl Road {
    /// One script for these calls; one answer each, in their order, and how far what was written has got.
    async fn send(&self, calls: &[Call]) -> Result<(Answers, Option<Reached>), CallError> {
        let session = calls.first().and_then(|call| call.call).map(|call| call.session);
        // The lowest number that is still open is the lowest that any of the calls knows of.
        let acknowledged_below = calls.iter().filter_map(|call| call.call).map(|call| call.acknowledged_below).max();
        let clock = self.clock.as_ref().map(|clock| clock.now().as_micros().to_string()).unwrap_or_default();
        let answers = self.keys.answers(session);
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock);
            match acknowledged_below {
                Some(number) => cmd.arg(number),
                None => cmd.arg(""),
            };
            cmd.arg(calls.len());
            for call in calls {
                match call.call {
                    Some(call) => cmd.arg(call.number),
                    None => cmd.arg(""),
                };
                cmd.arg(call.jobs.len());
                for (id, tail) in &call.jobs {
                    cmd.arg(id).arg(tail);
                }
            }
        };
        let (value, reached) = match &self.wait {
            None => (ENQUEUE.call(&self.link, &self.keys, &answers, args).await?, None),
            Some(wait) => {
                let (value, reached) = ENQUEUE.call_and_wait(&self.link, &self.keys, &answers, args, wait).await?;
                // Nobody knows how far it got, which is not far enough for anybody who asked.
                (value, Some(reached.unwrap_or(Reached { replicas: 0, fsynced_local: false })))
            }
        };
        let strange = || CallError::unexpected(&"redis".into(), "the enqueue script's answer");
        let Value::Array(values) = value else { return Err(strange()) };
        let mut values = values.into_iter();
        if matches!(values.next(), Some(Value::BulkString(flags)) if flags == [1]) {
            // The jobs are there, whatever comes of this; the name most likely is, too.
            if let Err(error) = self.registry.add(&self.keys.queue).await {
                tracing::warn!(queue = %self.keys.queue, %error, "a new queue may not be listed until the next call");
            }
        }
        let answers = calls.iter().zip(values).map(|(call, value)| match value {
            Value::BulkString(bytes) => answers_of(&bytes, call).map(Ok).ok_or_else(strange),
            Value::ServerError(error) => Ok(Err(Refused(error.details().unwrap_or("it was refused").to_owned()))),
            _ => Err(strange()),
        });
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        if answers.len() == calls.len() { Ok((answers, reached)) } else { Err(strange()) }
    }
}

fn answers_of(bytes: &[u8], call: &Call) -> Option<Vec<EnqueueAnswer>> {
    let mut rest = bytes;
    let answers = (0..call.jobs.len()).map(|_| enqueue_answer(&mut rest)).collect::<Option<Vec<_>>>()?;
    rest.is_empty().then_some(answers)
}

/// Reads one answer: a zero for inserted, a one and an id for a duplicate, a three and an id for replaced, a four, an id and
/// a count for coalesced.
pub(crate) fn enqueue_answer(rest: &mut &[u8]) -> Option<EnqueueAnswer> {
    match rest.split_first()? {
        (0, tail) => {
            *rest = tail;
            Some(EnqueueAnswer::Inserted)
        }
        (1, tail) => {
            let (id, tail) = tail.split_at_checked(16)?;
            *rest = tail;
            Some(EnqueueAnswer::Duplicate(id_of(id).unwrap_or_else(|_| JobId::from_bytes([0; 16]))))
        }
        (3, tail) => {
            let (id, tail) = tail.split_at_checked(16)?;
            *rest = tail;
            Some(EnqueueAnswer::Replaced(id_of(id).ok()?))
        }
        (4, tail) => {
            let (id, tail) = tail.split_at_checked(16)?;
            let (coalesced, tail) = tail.split_first_chunk()?;
            *rest = tail;
            Some(EnqueueAnswer::Coalesced(id_of(id).ok()?, u32::from_be_bytes(*coalesced)))
        }
        _ => None,
    }
}

fn check_jobs(queue: &QueueName, jobs: &[Arc<JobSpec>]) -> Result<(), StorageError> {
    match jobs.iter().find(|spec| spec.queue != *queue) {
        Some(stray) => Err(invalid(format!("a job of the queue {} can't be enqueued on {queue}", stray.queue))),
        None => Ok(()),
    }
}
