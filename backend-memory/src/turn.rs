//! A turn is one call's work on one queue, under that queue's lock: it begins with the storage's time and ends with
//! pruning by count, one entry in the event log, and hints for those who wait. The other files add to it what each
//! call does in between; what several of them do to a job is here.

use std::sync::Arc;

use ferroq_core::clock::{self, TimeStep, Timestamp};
use ferroq_core::event::{EventBatch, EventKind};
use ferroq_core::job::{BatchNumber, FailReason, JobId, JobRecord, JobSpec, JobState, Move, Origin, Slot, transition};
use ferroq_core::policy::batch::SetBack;
use ferroq_core::policy::dead_letter;
use ferroq_core::policy::dedup::Exit;
use ferroq_core::policy::enqueue::{land, line};
use ferroq_core::policy::retention::{WAITED_ON_KEEP, prune_at, prune_quota};

use crate::queue::QueueState;
use crate::roster::Key;

/// The states that have a quota of records.
const ENDED: [JobState; 3] = [JobState::Completed, JobState::Failed, JobState::Cancelled];

/// One call's work on one queue.
#[derive(Debug)]
pub(crate) struct Turn<'q> {
    pub(crate) queue: &'q mut QueueState,
    /// Storage time, the same for the whole call.
    pub(crate) now: Timestamp,
    pub(crate) events: EventBatch,
    pub(crate) hints: Hints,
    /// Jobs for other queues, which whoever holds those has to enqueue.
    pub(crate) letters: Vec<Arc<JobSpec>>,
    /// Jobs that were pending behind the holder of their key and hold it now; they still have to get their place.
    heirs: Vec<JobId>,
    /// Batches that a job left for good.
    pub(crate) orphans: Vec<BatchNumber>,
    /// How many ended records the call added and kept, by state in the order of [`ENDED`].
    added: [u64; 3],
    /// Whether the call counts as attendance to the Active jobs.
    attends: bool,
}

/// What those who wait are told once the lock is free.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Something became Waiting or Delayed.
    pub(crate) work: bool,
    /// An operator changed something.
    pub(crate) control: bool,
    /// These jobs ended or went.
    pub(crate) ended: Vec<JobId>,
}

impl<'q> Turn<'q> {
    /// Begins a turn: storage time goes on, or back with a clock that stepped back.
    pub(crate) fn begin(queue: &'q mut QueueState, clock: Timestamp) -> Self {
        let before = queue.last.unwrap_or(clock);
        let lanes = &mut queue.roster.lanes;
        lanes.set_back = SetBack::read(lanes.set_back, queue.seq_last, queue.last, clock);
        let (now, step) = clock::advance(queue.last, clock);
        queue.last = Some(now);
        let (events, hints, letters, heirs, orphans) = Default::default();
        let mut turn = Turn { queue, now, events, hints, letters, heirs, orphans, added: [0; 3], attends: false };
        if let TimeStep::SteppedBack { .. } = step {
            turn.extend_leases(|_| true, |record| record.lease_until = record.lease_term.map(|term| now.after(term)));
            turn.queue.attended_at = now;
            turn.queue.roster.usage.anchor(before, now);
            turn.queue.roster.lanes.reopen();
            turn.events.queue(EventKind::ClockSteppedBack);
        }
        turn
    }

    /// Attends to the Active jobs: after an outage, their leases are extended before anything else can happen to them.
    pub(crate) fn attend(&mut self) {
        self.attends = true;
        if self.queue.roster.count(JobState::Active) == 0 {
            return;
        }
        let now = self.now;
        let gap = now.since(self.queue.attended_at);
        self.queue.attended_at = now;
        if !clock::is_outage(gap, self.queue.term_min) {
            return;
        }
        let full = |record: &JobRecord| record.lease_term.map(|term| now.after(term));
        let extended = self.extend_leases(
            |record| {
                record.lease_term.is_some_and(|term| clock::is_outage(gap, term)) && record.lease_until < full(record)
            },
            |record| record.lease_until = full(record),
        );
        if extended {
            self.events.queue(EventKind::LeasesExtended);
        }
    }

    /// Changes the leases of those Active jobs that `which` picks; whether there were any.
    fn extend_leases(&mut self, which: impl Fn(&JobRecord) -> bool, extend: impl Fn(&mut JobRecord)) -> bool {
        let roster = &mut self.queue.roster;
        let active: Vec<Key> =
            roster.walk(|state| state == JobState::Active, None, usize::MAX).into_iter().map(|(_, key)| key).collect();
        self.queue.term_min = active.iter().filter_map(|key| roster.get(*key).lease_term).min().unwrap_or_default();
        let mut any = false;
        for key in active {
            if which(roster.get(key)) {
                roster.change(key, &extend);
                any = true;
            }
        }
        any
    }

    /// Ends a job: its key comes free as its mode says, and its record is kept as retention says, or goes at once.
    /// Logs no event, because ends have different names.
    pub(crate) fn end(&mut self, key: Key, state: JobState, failure: Option<FailReason>) {
        self.leave_batch(key, failure);
        let QueueState { roster, keys, config, .. } = &mut *self.queue;
        let now = self.now;
        let record = roster.get(key);
        if let (Some(dead), Some(reason)) = (&config.dead_letter, failure)
            && dead_letter::is_copied(reason)
        {
            let origin = Origin {
                queue: record.spec.queue.clone(),
                id: record.id(),
                reason,
                failed_at: now,
                attempts: record.attempts,
                crashes: record.crashes,
                errors: record.notes.errors.clone(),
            };
            let copy = dead_letter::copy(&record.spec, record.priority, record.epoch, dead.clone(), origin);
            self.letters.push(Arc::new(copy));
        }
        let prune_at = prune_at(&record.spec.options.keep, &config.retention, state, now, record.waited_on);
        let exit = if state == JobState::Cancelled { Exit::Cancelled } else { Exit::Ended };
        self.heirs.extend(keys.free(&record.spec, exit));
        self.hints.ended.push(record.id());
        if prune_at.is_none() {
            self.heirs.extend(keys.free(&record.spec, Exit::RemovedEnded));
            roster.remove(key);
            return;
        }
        roster.change(key, |record| {
            record.state = state;
            record.slot = Slot::Lane;
            record.batch = None;
            record.lease_until = None;
            record.lease_term = None;
            record.finished_at = Some(now);
            record.failure = failure;
            record.prune_at = prune_at;
        });
        for (ended, added) in ENDED.iter().zip(&mut self.added) {
            *added += u64::from(*ended == state);
        }
    }

    /// Removes a record; its key comes free as its mode says.
    pub(crate) fn remove(&mut self, key: Key) -> Option<JobRecord> {
        self.leave_batch(key, None);
        let record = self.queue.roster.remove(key)?;
        let exit = if record.state.is_terminal() { Exit::RemovedEnded } else { Exit::RemovedLive };
        self.heirs.extend(self.queue.keys.free(&record.spec, exit));
        Some(record)
    }

    /// Gives those that were pending behind a key's holder the place that their start gives them, and batches that lost their
    /// leader the next one.
    pub(crate) fn place_heirs(&mut self) {
        for id in std::mem::take(&mut self.heirs) {
            let roster = &mut self.queue.roster;
            let Some(key) = roster.key(id).filter(|key| roster.get(*key).state == JobState::Blocked) else { continue };
            let state = land(roster.get(key).due_at, self.now);
            debug_assert!(transition(JobState::Blocked, Move::Unblock).is_some());
            roster.change(key, |record| {
                if state == JobState::Waiting {
                    wait(record);
                } else {
                    record.state = state;
                }
            });
            self.events.job(EventKind::Promoted, id);
            self.hints.work = true;
        }
        self.pass_on();
    }

    /// Brings up to `max_items` due jobs forward, by (due time, seq); how many there were.
    pub(crate) fn promote_due(&mut self, max_items: usize) -> usize {
        let roster = &mut self.queue.roster;
        let mut promoted = 0;
        while promoted < max_items
            && let Some(key) = roster.first(JobState::Delayed, Slot::Lane, self.now.as_micros())
        {
            roster.change(key, wait);
            self.events.job(EventKind::Promoted, roster.get(key).id());
            promoted += 1;
        }
        self.hints.work |= promoted > 0;
        promoted
    }

    /// Ends the turn.
    pub(crate) fn finish(mut self) -> Hints {
        for (state, added) in ENDED.into_iter().zip(self.added) {
            if added > 0 {
                self.prune_by_count(state, added);
            }
        }
        let queue = self.queue;
        if self.attends && queue.roster.count(JobState::Active) > 0 {
            queue.attended_at = self.now;
        }
        queue.log.append(self.now, self.events, queue.config.event_entries_kept);
        self.hints
    }

    /// Removes what is beyond the queue's count of records in a state, passing over those that somebody waits for.
    fn prune_by_count(&mut self, state: JobState, added: u64) {
        let rule = self.queue.config.retention.rule(state);
        let quota = prune_quota(self.queue.roster.count(state), rule.count, added);
        let Ok(quota @ 1..) = usize::try_from(quota) else { return };
        let roster = &self.queue.roster;
        let is_waited_on = |record: &JobRecord| {
            record.waited_on && record.finished_at.is_some_and(|at| self.now.since(at) < WAITED_ON_KEEP)
        };
        let line = roster.line(state, Slot::Lane).into_iter().flatten().map(|(_, key)| *key);
        let going: Vec<Key> = line.filter(|key| !is_waited_on(roster.get(*key))).take(quota).collect();
        for key in going {
            self.remove(key);
        }
    }
}

/// Makes a record wait in the line where its crashes put it.
pub(crate) fn wait(record: &mut JobRecord) {
    record.state = JobState::Waiting;
    record.slot = line(record.crashes, record.spec.options.max_crashes);
}
