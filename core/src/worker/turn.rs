//! The worker's loop. A turn settles what ended and claims what there is room for, in one storage call; then it waits
//! for the next thing to happen. Settlements are grouped: a group goes out when half of the worker's room has ended,
//! when nothing runs any more, or a millisecond after the first of it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::WorkerReport;
use super::builder::Figures;
use super::ending::out_of_patience;
use super::heartbeat::{Beating, Heartbeat};
use super::line::{Line, SoloLine, hints};
use super::pick::Entry;
use super::run::{Ended, Shared};
use super::shutdown::Phases;
use super::sweeper::Sweeper;
use crate::client::Client;
use crate::context::{Run, StopReason};
use crate::job::{JobKind, QueueName, WorkerId};
use crate::storage::{
    Claim, ClaimSpec, ErrorCode, ExchangeRequest, Outcome, SettleAnswer, Settlement, Storage, StorageError,
};

/// How long the first settlement of a group waits for others.
pub(super) const GROUP_WAIT: Duration = Duration::from_millis(1);
/// The largest group, and the largest claim.
pub(super) const GROUP_ITEMS_MAX: usize = 1000;
/// How often to ask a closed gate, should its own hint be missed.
const GATE_POLL: Duration = Duration::from_millis(50);
/// How often a worker that should end when idle looks whether others still work.
const IDLE_POLL: Duration = Duration::from_millis(10);

/// The loop and all that it holds.
pub(super) struct Turn<S> {
    pub(super) client: Client,
    pub(super) storage: Arc<dyn Storage>,
    shared: Arc<Shared<S>>,
    pub(super) ends: UnboundedReceiver<Ended>,
    pub(super) lines: Vec<Line>,
    /// Which line is claimed from first, so that none is always last.
    pub(super) next_line: usize,
    kinds: Arc<[JobKind]>,
    id: WorkerId,
    pub(super) figures: Figures,
    pub(super) phases: Phases,
    pub(super) until_idle: bool,
    pub(super) running: usize,
    /// The job that runs now runs alone.
    pub(super) solo: bool,
    pub(super) wants_solo: bool,
    /// The room taken for a claim that is under way.
    pub(super) entered: Option<Entry>,
    /// Set once handlers were told to stop: when to drop them.
    pub(super) drop_at: Option<Instant>,
    /// Whether handlers were dropped, so that what is left will not end by itself.
    pub(super) dropped: bool,
    look: Arc<Notify>,
    /// Rung when jobs were claimed: for the heartbeat and for the sweeping.
    claimed: [Arc<Notify>; 2],
    beating: Option<Beating>,
    sweeping: Option<tokio::task::JoinHandle<()>>,
    helpers_stop: CancellationToken,
    report: WorkerReport,
}

impl<S: Send + Sync + 'static> Turn<S> {
    pub(super) async fn start(
        client: Client,
        shared: Arc<Shared<S>>,
        ends: UnboundedReceiver<Ended>,
        queues: Vec<QueueName>,
        id: WorkerId,
        figures: Figures,
        phases: Phases,
    ) -> Result<Self, StorageError> {
        let storage = client.storage().clone();
        let capabilities = storage.capabilities();
        info!(
            worker = %id,
            backend = capabilities.backend,
            durability = %capabilities.durability,
            queues = ?queues,
            concurrency = figures.concurrency,
            "worker starts"
        );
        let lines: Vec<Line> = queues.iter().map(|name| Line::new(name, &storage)).collect();
        let look = Arc::new(Notify::new());
        let busy = Arc::new(Notify::new());
        let helpers_stop = CancellationToken::new();
        let heartbeat = Heartbeat {
            queues: lines.iter().map(|line| (line.name.clone(), line.registry.clone())).collect(),
            term: figures.term,
            look: look.clone(),
            claimed: busy.clone(),
            stop: helpers_stop.clone(),
        };
        // Should this future be dropped while the heartbeat starts, nobody else would stop it.
        let guard = helpers_stop.clone().drop_guard();
        let beating = heartbeat.start(storage.clone()).await?;
        let helpers_stop = guard.disarm();
        // Where nobody needs to poll, sweeping often would only keep a virtual clock from jumping far.
        let interval = if capabilities.reliable_signals {
            figures.term.max(Duration::from_secs(600))
        } else {
            (figures.term / 4).clamp(Duration::from_millis(2), Duration::from_secs(5))
        };
        let claimed = Arc::new(Notify::new());
        let sweeper = Sweeper {
            storage: storage.clone(),
            queues,
            interval,
            claimed: claimed.clone(),
            term: figures.term,
            stop: helpers_stop.clone(),
        };
        let kinds: Arc<[JobKind]> = shared.handlers.keys().cloned().collect();
        Ok(Turn {
            client,
            storage,
            shared,
            ends,
            lines,
            next_line: 0,
            kinds,
            id,
            figures,
            phases,
            until_idle: false,
            running: 0,
            solo: false,
            wants_solo: false,
            entered: None,
            drop_at: None,
            dropped: false,
            look,
            claimed: [busy, claimed],
            beating: Some(beating),
            sweeping: Some(tokio::spawn(sweeper.run())),
            helpers_stop,
            report: WorkerReport::default(),
        })
    }

    pub(super) fn until_idle(mut self) -> Self {
        self.until_idle = true;
        self
    }

    pub(super) async fn run(mut self) -> WorkerReport {
        loop {
            self.collect();
            self.follow_phases();
            if let Some(line) = self.pick() {
                self.exchange(line).await;
            } else if self.is_finished().await {
                break;
            } else {
                self.wait().await;
            }
        }
        self.helpers_stop.cancel();
        if let Some(beating) = self.beating.take() {
            beating.ended().await;
        }
        if let Some(sweeping) = self.sweeping.take() {
            // It leaves off where it is, also in the middle of a call.
            let _panicked = sweeping.await.is_err();
        }
        info!(worker = %self.id, report = ?self.report, "worker ended");
        self.report
    }

    /// Takes in the runs that have ended.
    pub(super) fn collect(&mut self) {
        while let Ok(ended) = self.ends.try_recv() {
            self.take_in(ended);
        }
    }

    pub(super) fn take_in(&mut self, ended: Ended) {
        self.lines[ended.queue].add_done(ended.settlement);
        self.report.add(ended.members);
        self.running = self.running.saturating_sub(1);
        if self.solo {
            self.solo = false;
            self.client.gate().leave_solo();
        } else {
            self.client.gate().leave(1);
        }
        if self.running == 0 {
            self.ask_for_solo();
        }
    }

    /// Now that nothing runs here, jobs that must run alone can be asked for. Those that are held back are not: whatever lets them
    /// start makes the line ready.
    fn ask_for_solo(&mut self) {
        for line in self.lines.iter_mut().filter(|line| line.solo == SoloLine::Waiting) {
            line.ready = true;
        }
    }

    async fn exchange(&mut self, place: usize) {
        let entry = self.enter(place);
        let line = &mut self.lines[place];
        let settlements = std::mem::take(&mut line.done);
        if settlements.is_empty() && entry.is_none() {
            // The gate is closed for now. It says when to ask again; should that be missed, this does.
            line.ready = false;
            line.look_at = Some(Instant::now() + GATE_POLL);
            return;
        }
        let first_done_at = line.first_done_at.take();
        let claim = entry.map(|entry| ClaimSpec {
            kinds: self.kinds.clone(),
            max_items: match entry {
                Entry::Shared(room) => room,
                Entry::Solo => (self.figures.concurrency - self.running).min(GROUP_ITEMS_MAX),
            },
            max_bytes: self.figures.claim_bytes_max,
            term: self.figures.term,
            worker: self.id.clone(),
            alone: entry == Entry::Solo,
        });
        let queue = line.name.clone();
        let storage = &self.storage;
        let exchange = |call| {
            storage.exchange(ExchangeRequest {
                call: Some(call),
                queue: queue.clone(),
                settlements: settlements.clone(),
                claim: claim.clone(),
            })
        };
        // While an exchange is repeated nothing else happens on this line, so this is where an outage is noticed.
        let exchanged = self.client.session().call_telling(exchange, |error| line.went_down(error));
        let answer = tokio::select! {
            answer = exchanged => answer,
            () = out_of_patience(&self.phases) => {
                let message = "the storage did not answer before the worker had to end";
                Err(StorageError::new(ErrorCode::Unavailable, message).effect_unknown())
            }
        };
        match answer {
            Err(error) => {
                let line = &mut self.lines[place];
                line.done = settlements;
                line.first_done_at = first_done_at;
                line.went_down(&error);
                self.leave(0, false);
            }
            Ok(answer) => {
                self.lines[place].came_up();
                self.settled(place, &settlements, &answer.settled);
                let claimed = answer.claimed.unwrap_or_default();
                if entry.is_some() {
                    let line = &mut self.lines[place];
                    line.ready = claimed.more;
                    line.looked(claimed.claims.is_empty() && !claimed.more && !claimed.solo_waiting);
                    line.note_solo(&claimed);
                    let poll = (!self.storage.capabilities().reliable_signals).then_some(self.figures.poll);
                    line.look_at = match (claimed.look_again, poll) {
                        (Some(due), Some(poll)) => Some(due.min(poll)),
                        (due, poll) => due.or(poll),
                    }
                    // A due time that can't be represented is too far off to matter.
                    .and_then(|span| Instant::now().checked_add(span));
                    let solo = claimed.claims.first().is_some_and(|claim| claim.solo);
                    self.leave(claimed.claims.len(), solo);
                    self.start_runs(place, claimed.claims);
                    if self.running == 0 {
                        self.ask_for_solo();
                    }
                }
            }
        }
    }

    fn settled(&mut self, place: usize, settlements: &[Settlement], answers: &[SettleAnswer]) {
        for (settlement, answer) in settlements.iter().zip(answers) {
            self.report.count(settlement, answer);
            match answer {
                SettleAnswer::LeaseLost => {
                    warn!(job = %settlement.lease.id, "a run's outcome was refused: its lease was lost");
                }
                SettleAnswer::Gone => {
                    warn!(job = %settlement.lease.id, "a run's outcome was refused: its job is gone from the storage");
                }
                SettleAnswer::Settled { .. } | SettleAnswer::AlreadyDone => {}
            }
        }
        self.lines[place].registry.remove(settlements.iter().map(|settlement| settlement.lease));
    }

    fn start_runs(&mut self, place: usize, claims: Vec<Claim>) {
        let mut started = Vec::with_capacity(claims.len());
        for claim in claims {
            let Some(handler) = self.shared.handlers.get(&claim.spec.kind).cloned() else {
                // A storage that keeps the contract hands out no such job; give it back rather than lose it.
                warn!(kind = %claim.spec.kind, "a job was handed out for which there is no handler");
                let lease = claim.lease;
                self.client.gate().leave(1);
                let release = Settlement { lease, outcome: Outcome::Release, follow_ups: Vec::new() };
                self.lines[place].add_done(release);
                continue;
            };
            let run = Run::new(claim, self.client.clone());
            let task = handler.start(self.shared.clone(), run.clone(), place);
            self.running += 1;
            started.push((run, task));
        }
        if !started.is_empty() {
            self.claimed.iter().for_each(|bell| bell.notify_one());
        }
        self.lines[place].registry.add(started);
    }

    /// Waits until something may have changed.
    async fn wait(&mut self) {
        let now = Instant::now();
        let has_room = self.has_room();
        let mut wake_at: Option<Instant> = None;
        let mut by = |at: Option<Instant>| wake_at = [wake_at, at].into_iter().flatten().min();
        for line in &self.lines {
            let wants = !line.done.is_empty() || (has_room && line.ready);
            match line.down {
                Some((until, _)) if now < until => by(wants.then_some(until)),
                _ => {
                    by(line.first_done_at.map(|at| at + GROUP_WAIT));
                    by(line.look_at.filter(|_| has_room));
                }
            }
        }
        if !self.dropped {
            by(self.drop_at);
        }
        if self.until_idle && self.running == 0 {
            by(Some(now + IDLE_POLL));
        }
        let timer = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let phases = self.phases.clone();
        let next_phase = async {
            if !phases.drain.is_cancelled() {
                phases.drain.cancelled().await;
            } else if !phases.stop.is_cancelled() {
                tokio::select! {
                    () = phases.stop.cancelled() => {}
                    () = phases.abort.cancelled() => {}
                }
            } else {
                phases.abort.cancelled().await;
            }
        };
        let closed = self.ends.is_closed();
        let ended = tokio::select! {
            ended = self.ends.recv(), if !closed => ended,
            () = hints(&mut self.lines, &self.look) => None,
            () = timer => None,
            () = next_phase, if !self.phases.abort.is_cancelled() => None,
            () = self.client.gate().changed() => {
                self.lines.iter_mut().for_each(|line| line.ready = true);
                None
            }
        };
        if let Some(ended) = ended {
            self.take_in(ended);
            // The loop is a task next to the handlers. Those that are about to end do so first, instead of waking it one
            // by one. And a chain of tasks that wake each other stays on its thread: after the third, tokio would hand the
            // next one (the connection's) to another thread, which takes longer than to begin a new round here.
            tokio::task::yield_now().await;
        }
    }
}

impl<S> Drop for Turn<S> {
    /// A loop that is dropped in the middle (its future was) leaves nothing running behind.
    fn drop(&mut self) {
        self.helpers_stop.cancel();
        for line in &self.lines {
            line.registry.stop_all(StopReason::Shutdown);
            line.registry.abort_all();
        }
        // The room for a claim that was under way, and the room of the runs.
        self.leave(0, false);
        let gate = self.client.gate();
        if self.wants_solo {
            gate.unwant_solo();
        }
        if self.solo {
            gate.leave_solo();
        } else {
            gate.leave(self.running);
        }
        self.phases.ended.cancel();
    }
}
