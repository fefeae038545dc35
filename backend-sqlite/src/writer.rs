//! The one writer of a handle. Calls that arrive while a transaction runs share the next one (group commit), and
//! enqueues of one queue that stand next to each other share a statement as well. A call that fails takes no other
//! with it: the group is rolled back and its calls are run one by one. Callers only wait for answers, so a caller that
//! is dropped leaves its call whole.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferroq_core::job::{LaneKey, LimiterName};
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::storage::{
    AcquireAnswer, AcquireRequest, ActReport, ActRequest, AnswerBook, CallAnswer, CallId, DumpPage, Effect,
    EnqueueAnswer, EnqueueRequest, ErrorCode, ExchangeAnswer, ExchangeRequest, GatherAnswer, Lease, Note, NoteAnswer,
    ObliterateAnswer, QueueConfig, Reconfigured, RenewAnswer, RenewRequest, RestoreAnswer, StorageError, SweepAnswer,
    SweepRequest,
};
use ferroq_core::{JobId, JobState, QueueName, Timestamp};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::common::Common;
use crate::error::{closed, invalid, unexpected};
use crate::memory::{Ahead, Known, Memory, foresee, read_oldest};
use crate::queue::Queue;
use crate::record::WAITED_ON_FLAG;
use crate::row::{Row, key_range};
use crate::script::Script;
use crate::trace::Trace;
use crate::unit::{Begin, Unit};

/// How many calls share a transaction at most.
const CALLS_MAX: usize = 256;
/// How many jobs, leases or settlements the calls of a transaction are about at most (a single call may be larger).
const ITEMS_MAX: usize = 4096;

const WATCH: &str =
    "UPDATE ferroq_jobs INDEXED BY ferroq_jobs_by_id SET flags=flags|? WHERE id=? AND key BETWEEN ? AND ?";
/// Tells writers that remember the queue's jobs that one of them was changed.
const NEW_STAMP: &str = "UPDATE ferroq_queues SET stamp=random() WHERE number=?";

/// A call that writes.
#[derive(Debug)]
pub(crate) enum Call {
    Enqueue(EnqueueRequest),
    Exchange(ExchangeRequest),
    Renew(RenewRequest),
    Annotate(QueueName, Vec<(Lease, Note)>),
    Sweep(SweepRequest),
    Gather(QueueName, Lease, usize),
    Watch(QueueName, JobId),
    Act(ActRequest),
    /// The new settings; what they were made from, if that counts.
    Configure(QueueName, Box<QueueConfig>, Option<Box<QueueConfig>>),
    /// One lane's new policy; what it was made from, if that counts.
    ConfigureLane(QueueName, LaneKey, Option<LanePolicy>, Option<Option<LanePolicy>>),
    SetPaused(QueueName, bool),
    Obliterate(QueueName, bool, usize),
    Restore(QueueName, DumpPage),
    Acquire(AcquireRequest),
    Reset(LimiterName),
    /// Ends the writer, after the calls before it.
    Close,
}

/// Its answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Enqueue(Vec<EnqueueAnswer>),
    Exchange(ExchangeAnswer),
    Renew(Vec<RenewAnswer>),
    Annotate(Vec<NoteAnswer>),
    Sweep(SweepAnswer),
    Gather(GatherAnswer),
    Act(ActReport),
    Configure(Reconfigured<QueueConfig>),
    ConfigureLane(Reconfigured<Option<LanePolicy>>),
    SetPaused(bool),
    Obliterate(ObliterateAnswer),
    Restore(RestoreAnswer),
    Acquire(AcquireAnswer),
    Done,
}

impl Call {
    fn id(&self) -> Option<CallId> {
        match self {
            Call::Enqueue(request) => request.call,
            Call::Exchange(request) => request.call,
            Call::Act(request) => request.call,
            Call::Acquire(request) => request.call,
            _ => None,
        }
    }

    fn items(&self) -> usize {
        match self {
            Call::Enqueue(request) => request.jobs.len(),
            Call::Exchange(request) => {
                request.settlements.len() + request.claim.as_ref().map_or(0, |claim| claim.max_items)
            }
            Call::Renew(request) => request.leases.len(),
            Call::Annotate(_, notes) => notes.len(),
            Call::Sweep(request) => request.max_items,
            Call::Gather(_, _, max_items) => *max_items,
            Call::Restore(_, page) => page.jobs.len(),
            _ => 1,
        }
    }
}

type Reply = oneshot::Sender<Result<Answer, StorageError>>;

/// The way to the writer.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    calls: mpsc::UnboundedSender<(Call, Reply)>,
    book: Arc<Mutex<AnswerBook>>,
}

impl Writer {
    /// Starts a writer as a task of the runtime that calls this.
    pub(crate) fn start(conn: SqliteConnection, common: Arc<Common>) -> Writer {
        let (calls, inbox) = mpsc::unbounded_channel();
        let stamp = new_stamp();
        let book = Arc::<Mutex<AnswerBook>>::default();
        let task = Task { conn, common, book: book.clone(), stamp, memory: Memory::default() };
        drop(tokio::spawn(task.run(inbox)));
        Writer { calls, book }
    }

    /// Whether this very call was answered before.
    pub(crate) fn knows(&self, call: CallId) -> bool {
        open(&self.book).recall(Some(call)).is_some()
    }

    /// Keeps an answer that a reader found.
    pub(crate) fn keep(&self, call: Option<CallId>, at: Timestamp, answer: &ExchangeAnswer) {
        open(&self.book).keep(call, at, || CallAnswer::Exchange(answer.clone()));
    }

    /// Makes a call.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, StorageError> {
        let (reply, answer) = oneshot::channel();
        self.calls.send((call, reply)).map_err(|_| closed())?;
        // The task drops a reply unanswered only with its runtime, in whatever state the transaction then is.
        answer.await.unwrap_or_else(|_| Err(closed().effect_unknown()))
    }
}

fn open(book: &Mutex<AnswerBook>) -> MutexGuard<'_, AnswerBook> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stamp that nobody else's is like, with room to count on from it.
pub(crate) fn new_stamp() -> i64 {
    let mut part = [0; 8];
    part.copy_from_slice(&JobId::new().as_bytes()[8..]);
    i64::from_be_bytes(part) & (i64::MAX >> 1)
}

struct Task {
    conn: SqliteConnection,
    common: Arc<Common>,
    book: Arc<Mutex<AnswerBook>>,
    /// Written to the queues' rows, so that a commit whose answer was lost can be recognised.
    stamp: i64,
    memory: Memory,
}

/// A group failed.
struct Failure {
    error: StorageError,
    /// Whether calls of the group may succeed without the others.
    one_by_one: bool,
    /// Whether what was remembered was no longer true. Nothing was changed.
    outdated: bool,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<(Call, Reply)>) {
        let mut arrived = Vec::with_capacity(CALLS_MAX);
        let mut waiting: VecDeque<(Call, Reply)> = VecDeque::new();
        let mut closing = Vec::new();
        loop {
            if waiting.is_empty() && inbox.recv_many(&mut arrived, CALLS_MAX).await == 0 {
                break;
            }
            waiting.extend(arrived.drain(..));
            let (mut calls, mut replies, mut items) = (Vec::new(), Vec::new(), 0);
            while let Some((call, reply)) = waiting.pop_front() {
                if matches!(call, Call::Close) {
                    inbox.close();
                    closing.push(reply);
                    continue;
                }
                items += call.items();
                calls.push(call);
                replies.push(reply);
                if items >= ITEMS_MAX || calls.len() >= CALLS_MAX {
                    break;
                }
            }
            self.group(calls, replies).await;
            if waiting.is_empty() {
                while let Ok(call) = inbox.try_recv() {
                    waiting.push_back(call);
                    if waiting.len() >= CALLS_MAX {
                        break;
                    }
                }
            }
        }
        // Everything acknowledged is committed; what closing itself could still do (a checkpoint) the next opener does.
        drop(self.conn.close().await);
        for reply in closing {
            drop(reply.send(Ok(Answer::Done)));
        }
    }

    async fn group(&mut self, calls: Vec<Call>, replies: Vec<Reply>) {
        if calls.is_empty() {
            return;
        }
        match self.attempt(&calls).await {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    drop(reply.send(Ok(answer)));
                }
            }
            Err(failure) if calls.len() > 1 && failure.one_by_one => {
                for (call, reply) in calls.iter().zip(replies) {
                    let answer = self.attempt(std::slice::from_ref(call)).await;
                    let answer = answer.map_err(|failure| failure.error);
                    drop(
                        reply.send(answer.and_then(|mut answers| answers.pop().ok_or_else(|| unexpected("an answer")))),
                    );
                }
            }
            Err(failure) => {
                let (code, effect) = (failure.error.code(), failure.error.effect());
                let cause = Arc::new(failure.error);
                for reply in replies {
                    let message = cause.to_string();
                    let message = message.split(" (nothing was changed)").next().unwrap_or_default();
                    let message = message.split(" (it is unknown").next().unwrap_or_default();
                    let mut error = StorageError::new(code, message).because(cause.clone());
                    if effect == Effect::Unknown {
                        error = error.effect_unknown();
                    }
                    drop(reply.send(Err(error)));
                }
            }
        }
    }

    /// Runs calls as one transaction, from memory if that may do.
    async fn attempt(&mut self, calls: &[Call]) -> Result<Vec<Answer>, Failure> {
        let leaves_queues = |call: &Call| matches!(call, Call::Acquire(_) | Call::Reset(_));
        if !calls.iter().all(|call| leaves_queues(call) || matches!(call, Call::Enqueue(_) | Call::Exchange(_))) {
            self.memory.forget();
        } else if self.memory.is_trusted() {
            match self.transact(calls, true).await {
                Err(Failure { outdated: true, .. }) => self.memory.failed(),
                done => return done,
            }
        }
        self.transact(calls, false).await
    }

    async fn transact(&mut self, calls: &[Call], from_memory: bool) -> Result<Vec<Answer>, Failure> {
        self.stamp += 1;
        let clock = self.common.clock.now();
        let mut unit = Unit::new(&mut self.conn, &self.common.names, clock, Begin::Own);
        unit.known = from_memory.then(|| self.memory.take());
        let mut answers = Vec::with_capacity(calls.len());
        let work = async {
            let mut at = 0;
            while at < calls.len() {
                let kept = open(&self.book).recall(calls[at].id()).cloned();
                if let Some(kept) = kept {
                    answers.push(repeat(&mut unit, &calls[at], kept).await?);
                    at += 1;
                    continue;
                }
                let alike = enqueues_alike(&calls[at..], &self.book);
                if alike > 1 {
                    answers.extend(enqueue_together(&mut unit, &calls[at..at + alike]).await?);
                    at += alike;
                    continue;
                }
                answers.push(run(&mut unit, &calls[at], self.stamp).await?);
                unit.end_call().await?;
                at += 1;
            }
            unit.finish(self.stamp).await
        };
        let worked: Result<(), StorageError> = work.await;
        if let Err(error) = worked {
            let one_by_one = unit.request_at_fault || is_about_a_call(&error);
            let outdated = unit.guard_failed;
            self.roll_back().await;
            return Err(Failure { error, one_by_one, outdated });
        }
        let mut ahead = None;
        let commit = std::mem::take(&mut unit.script);
        if unit.begun || !commit.is_empty() {
            let mut script = Script::default();
            if !unit.begun {
                script.add("BEGIN IMMEDIATE", []);
            }
            script.append(commit);
            script.add("COMMIT", []);
            let skip = script.statements();
            let foreseen = if from_memory { foresee(&unit, calls, &answers) } else { None };
            let items = foreseen.as_ref().map_or(0, |(items, _)| *items);
            for (sql, values) in foreseen.into_iter().flat_map(|(_, asks)| asks) {
                script.add(sql, values);
            }
            let sent = script.run(unit.connection(), skip).await.map(|found| {
                let mut found = found.into_iter();
                ahead = found.next().map(|line| {
                    let oldest = found.next().map_or_else(Vec::new, |rows| read_oldest(&rows));
                    Ahead { items, line, oldest }
                });
            });
            if let Err(error) = sent {
                if unit.guarded && crate::error::is_guard(&error) {
                    let error = crate::error::storage_error(error);
                    drop(unit);
                    self.roll_back().await;
                    return Err(Failure { error, one_by_one: false, outdated: true });
                }
                let request_at_fault = crate::error::is_about_the_request(&error);
                let trace = Trace::of(&unit.queues, unit.limiter_mark.take(), self.stamp, calls);
                let error = crate::error::storage_error(error);
                let one_by_one = request_at_fault || is_about_a_call(&error);
                let unit_queues = std::mem::take(&mut unit.queues);
                drop(unit);
                self.roll_back().await;
                match self.was_committed(trace).await {
                    Some(true) => {
                        self.after_commit(&unit_queues, calls, &answers);
                        return Ok(answers);
                    }
                    Some(false) => return Err(Failure { error, one_by_one, outdated: false }),
                    None => {
                        let error = error.effect_unknown();
                        return Err(Failure { error, one_by_one: false, outdated: false });
                    }
                }
            }
        }
        unit.learn();
        let (queues, known) = (std::mem::take(&mut unit.queues), unit.known.take());
        let mut active = std::mem::take(&mut unit.active);
        drop(unit);
        self.after_commit(&queues, calls, &answers);
        if let Some(known) = known {
            self.memory.put_back(known);
            for queue in queues {
                if !queue.removed && (queue.stamp == self.stamp || queue.recalled) {
                    let active = active.remove(&queue.name).unwrap_or_default();
                    self.memory.keep(Known { queue: queue.committed(), active, ahead: ahead.take() });
                }
            }
        }
        Ok(answers)
    }

    fn after_commit(&mut self, queues: &[Queue], calls: &[Call], answers: &[Answer]) {
        for queue in queues {
            self.common.hint(queue);
        }
        let at = self.common.clock.now();
        let mut book = open(&self.book);
        for (call, answer) in calls.iter().zip(answers) {
            let id = call.id();
            if let (Call::Exchange(request), Answer::Exchange(answer)) = (call, answer)
                && answer.claimed.as_ref().is_some_and(|claimed| !claimed.more)
            {
                self.common.take_work(&request.queue);
            }
            match answer {
                _ if id.is_none() || book.recall(id).is_some() => {}
                Answer::Enqueue(answer) => book.keep(id, at, || CallAnswer::Enqueue(answer.clone())),
                Answer::Exchange(answer) => book.keep(id, at, || CallAnswer::Exchange(answer.clone())),
                Answer::Act(answer) => book.keep(id, at, || CallAnswer::Act(answer.clone())),
                Answer::Acquire(answer) if answer.granted => book.keep(id, at, || CallAnswer::Acquire(*answer)),
                _ => {}
            }
        }
    }

    /// Ends a transaction that failed. A connection that can't is replaced.
    async fn roll_back(&mut self) {
        let mut script = Script::default();
        script.add("ROLLBACK", []);
        match script.run(&mut self.conn, 0).await {
            Ok(_) => return,
            // SQLite itself rolls back after some errors, and then there is no transaction to end.
            Err(error) if crate::error::primary_code(&error) == Some(1) => return,
            Err(error) => {
                tracing::warn!(%error, "a failed transaction can't be rolled back; the connection is replaced")
            }
        }
        match crate::open::writer(&self.common.options).await {
            Ok(conn) => self.conn = conn,
            Err(error) => tracing::error!(%error, "the connection can't be replaced yet"),
        }
    }

    /// Whether the transaction with the present stamp is durable; `None` if that can't be told.
    async fn was_committed(&mut self, trace: Trace) -> Option<bool> {
        for _ in 0..3 {
            if let Ok(happened) = trace.look(&mut self.conn).await {
                return happened;
            }
            self.roll_back().await;
        }
        None
    }
}

/// Whether an error may be one call's own: it is not if the database as a whole can't be written to now.
fn is_about_a_call(error: &StorageError) -> bool {
    use ErrorCode::{Busy, Full, ReadOnly, Unavailable};
    !matches!(error.code(), Busy | Full | ReadOnly | Unavailable)
}

/// How many enqueues of the same queue stand at the head, none of them answered before.
fn enqueues_alike(calls: &[Call], book: &Mutex<AnswerBook>) -> usize {
    let book = open(book);
    let Some(Call::Enqueue(first)) = calls.first() else { return 0 };
    let alike = |call: &&Call| match call {
        Call::Enqueue(next) => next.queue == first.queue && book.recall(next.call).is_none(),
        _ => false,
    };
    calls.iter().take_while(alike).count()
}

async fn enqueue_together(unit: &mut Unit<'_>, calls: &[Call]) -> Result<Vec<Answer>, StorageError> {
    let mut jobs = Vec::new();
    let mut queue = None;
    for call in calls {
        if let Call::Enqueue(request) = call {
            jobs.extend(request.jobs.iter().cloned());
            queue = Some(&request.queue);
        }
    }
    let Some(queue) = queue else { return Ok(Vec::new()) };
    let mut all = unit.enqueue(queue, &jobs).await?.into_iter();
    let share = |call: &Call| Answer::Enqueue(all.by_ref().take(call.items()).collect());
    Ok(calls.iter().map(share).collect())
}

async fn run(unit: &mut Unit<'_>, call: &Call, stamp: i64) -> Result<Answer, StorageError> {
    Ok(match call {
        Call::Enqueue(request) => Answer::Enqueue(unit.enqueue(&request.queue, &request.jobs).await?),
        Call::Exchange(request) => {
            let claim = request.claim.as_ref();
            Answer::Exchange(unit.exchange(&request.queue, &request.settlements, claim).await?)
        }
        Call::Renew(request) => Answer::Renew(unit.renew(request).await?),
        Call::Annotate(queue, notes) => Answer::Annotate(unit.annotate(queue, notes).await?),
        Call::Sweep(request) => Answer::Sweep(unit.sweep(&request.queue, request.max_items).await?),
        Call::Gather(queue, lease, max_items) => Answer::Gather(unit.gather(queue, *lease, *max_items).await?),
        Call::Watch(queue, id) => {
            // Not by way of the queue's row: a watch leaves the queue's time alone.
            if let Some(number) = unit.number(queue).await? {
                let (low, high) = key_range(number);
                let id = id.as_bytes().to_vec();
                unit.flush();
                unit.script.add(WATCH, [WAITED_ON_FLAG.into(), id.into(), low.into(), high.into()]);
                unit.script.add(NEW_STAMP, [number.into()]);
            }
            Answer::Done
        }
        Call::Act(request) => Answer::Act(unit.act(request).await?),
        Call::Configure(queue, config, from) => {
            Answer::Configure(unit.configure(queue, config, from.as_deref()).await?)
        }
        Call::ConfigureLane(queue, lane, policy, from) => {
            Answer::ConfigureLane(unit.configure_lane(queue, lane, policy, from.as_ref()).await?)
        }
        Call::SetPaused(queue, paused) => Answer::SetPaused(unit.set_paused(queue, *paused).await?),
        Call::Obliterate(queue, force, max_items) => {
            Answer::Obliterate(unit.obliterate(queue, *force, *max_items).await?)
        }
        Call::Restore(queue, page) => Answer::Restore(unit.restore(queue, page).await?),
        Call::Acquire(request) => Answer::Acquire(unit.acquire(request, stamp).await?),
        Call::Reset(limiter) => {
            unit.reset(limiter);
            Answer::Done
        }
        Call::Close => Answer::Done,
    })
}

/// The answer that was given before; of its claims, those whose lease is still current, with their present checkpoints.
async fn repeat(unit: &mut Unit<'_>, call: &Call, kept: CallAnswer) -> Result<Answer, StorageError> {
    Ok(match (kept, call) {
        (CallAnswer::Enqueue(answer), Call::Enqueue(_)) => Answer::Enqueue(answer),
        (CallAnswer::Act(report), Call::Act(_)) => Answer::Act(report),
        (CallAnswer::Acquire(answer), Call::Acquire(_)) => Answer::Acquire(answer),
        (CallAnswer::Exchange(mut answer), Call::Exchange(request)) => {
            if let Some(claimed) = &mut answer.claimed
                && !claimed.claims.is_empty()
            {
                let number = unit.names.queue_number(&request.queue);
                let ids = claimed.claims.iter().map(|claim| &claim.lease.id);
                let rows = match number {
                    Some(number) => {
                        let [rows] = unit.ask([crate::unit::ids_ask(number, ids)]).await?;
                        unit.rows(&rows, false).await?
                    }
                    None => Vec::new(),
                };
                claimed.claims.retain_mut(|claim| {
                    let is_current = |row: &&Row| {
                        row.id == claim.lease.id && row.state() == JobState::Active && row.epoch == claim.lease.epoch
                    };
                    let Some(row) = rows.iter().find(is_current) else { return false };
                    claim.checkpoint = row.read_notes().ok().and_then(|notes| notes.checkpoint);
                    true
                });
            }
            Answer::Exchange(answer)
        }
        _ => return Err(invalid("a call id was used again for another sort of call")),
    })
}
