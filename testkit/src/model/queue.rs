//! One queue of the model: its records in no particular order, its dedup keys, settings, counter and times, and the
//! rules that every call shares: what a clock reading means, who counts as attending, and how a job comes in.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::event::EventKind;
use ferroq_core::job::Start;
use ferroq_core::job::{BatchNumber, ErrorEntry, ErrorKind, JobId, JobRecord, JobSpec, JobState, Notes, Slot};
use ferroq_core::policy::dedup::{DedupMode, Holder};
use ferroq_core::storage::{DedupEntry, EnqueueAnswer, Lease, QueueConfig};

use super::batches::BatchModel;
use super::lanes::LanesModel;

/// The lag from which on the clock is taken to have stepped back.
const STEP_BACK_MIN: Duration = Duration::from_secs(60);

/// What one queue holds.
#[derive(Clone, Debug, Default)]
pub struct QueueModel {
    /// The records.
    pub jobs: Vec<JobRecord>,
    /// The held dedup keys, holds that ran out among them.
    pub dedup: Vec<DedupEntry>,
    /// The settings.
    pub config: QueueConfig,
    /// Everything that happened, oldest first.
    pub events: Vec<(EventKind, Option<JobId>)>,
    /// The storage time of the last call that writes.
    pub(super) now: Timestamp,
    pub(super) begun: bool,
    pub(super) attended_at: Timestamp,
    pub(super) counter: i64,
    /// The counter when the clock last stepped back, whence it ever did at the latest, and where to at the earliest.
    pub(super) set_back: Option<(i64, Timestamp, Timestamp)>,
    pub(super) lanes: LanesModel,
    pub(super) batches: Vec<BatchModel>,
    pub(super) last_batch: i64,
    /// Batches that a job has left for good in the present call.
    pub(super) bereft: Vec<BatchNumber>,
    /// Pending jobs that hold their key now, and still are where they were.
    pub(super) heirs: Vec<JobId>,
    /// The jobs that the present call ended and whose records were kept.
    pub(super) ended: Vec<JobId>,
    /// Jobs for other queues, to be enqueued there before anything else happens.
    pub(super) letters: Vec<Arc<JobSpec>>,
}

impl QueueModel {
    /// Storage time as of the last call that writes.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The record of a job.
    pub fn job(&self, id: JobId) -> Option<&JobRecord> {
        self.jobs.iter().find(|job| job.spec.id == id)
    }

    /// Whether the lease is current.
    pub fn holds(&self, lease: Lease) -> bool {
        self.job(lease.id).is_some_and(|job| job.state == JobState::Active && job.epoch == lease.epoch)
    }

    pub(super) fn find(&mut self, id: JobId) -> Option<&mut JobRecord> {
        self.jobs.iter_mut().find(|job| job.spec.id == id)
    }

    pub(super) fn log(&mut self, kind: EventKind, job: JobId) {
        self.events.push((kind, Some(job)));
    }

    /// What storage time would be, with the clock at this reading.
    pub fn time_at(&self, clock: Timestamp) -> Timestamp {
        if !self.begun || (clock < self.now && self.now.since(clock) >= STEP_BACK_MIN) {
            clock
        } else {
            clock.max(self.now)
        }
    }

    /// Begins a call that writes: storage time goes on, or back if the clock stepped.
    pub(super) fn begin(&mut self, clock: Timestamp) {
        let now = self.time_at(clock);
        let (before, stepped_back) = (self.now, self.begun && now < self.now);
        self.begun = true;
        self.now = now;
        self.ended.clear();
        if stepped_back {
            for job in self.jobs.iter_mut().filter(|job| job.state == JobState::Active) {
                job.lease_until = job.lease_term.map(|term| now.after(term));
            }
            self.attended_at = now;
            self.starts_not_later_than(before, now);
            let (_, from, to) = self.set_back.unwrap_or((0, before, now));
            self.set_back = Some((self.counter, from.max(before), to.min(now)));
            self.lane_rules_changed();
            self.events.push((EventKind::ClockSteppedBack, None));
        }
    }

    /// An exchange, renew or sweep begins: leases that nobody attended to for more than half their term are extended.
    pub(super) fn attend(&mut self) {
        let now = self.now;
        let gap = now.since(self.attended_at);
        let mut any_active = false;
        let mut any_extended = false;
        for job in self.jobs.iter_mut().filter(|job| job.state == JobState::Active) {
            any_active = true;
            let term = job.lease_term.unwrap_or_default();
            let full = now.after(term);
            if gap > term / 2 && job.lease_until.is_some_and(|until| until < full) {
                job.lease_until = Some(full);
                any_extended = true;
            }
        }
        if any_extended {
            self.events.push((EventKind::LeasesExtended, None));
        }
        if any_active {
            self.attended_at = now;
        }
    }

    /// An exchange, renew or sweep ends.
    pub(super) fn leave_attended(&mut self) {
        if self.jobs.iter().any(|job| job.state == JobState::Active) {
            self.attended_at = self.now;
        }
    }

    /// Inserts one job, or says whose place it would have taken.
    pub(super) fn insert(&mut self, spec: &Arc<JobSpec>) -> EnqueueAnswer {
        let now = self.now;
        if self.job(spec.id).is_some() {
            return EnqueueAnswer::Duplicate(spec.id);
        }
        let mut pending = false;
        if let Some(dedup) = &spec.dedup
            && let Some(holder) = self.holder(&dedup.key)
        {
            match self.meet(spec, dedup, holder) {
                Some(answer) => return answer,
                None => pending = true,
            }
        } else if let Some(dedup) = &spec.dedup {
            let until = match dedup.mode {
                DedupMode::For(span) => Some(now.after(span)),
                _ => None,
            };
            self.dedup.retain(|entry| entry.key != dedup.key);
            self.dedup
                .push(DedupEntry { key: dedup.key.clone(), holder: Holder { id: spec.id, until, pending: None } });
        }
        self.counter += 1;
        let start = match spec.dedup.as_ref().map(|dedup| dedup.mode) {
            Some(DedupMode::Debounce(span)) => Start::After(span),
            Some(DedupMode::Coalesce { count, max_wait }) if count > 1 => Start::After(max_wait),
            Some(DedupMode::Coalesce { .. }) => Start::Now,
            _ => spec.start,
        };
        let due_at = super::leave::due(start, now);
        let state = match (pending, due_at > now) {
            (true, _) => JobState::Blocked,
            (false, true) => JobState::Delayed,
            (false, false) => JobState::Waiting,
        };
        self.jobs.push(JobRecord {
            spec: spec.clone(),
            seq: if spec.lifo { -self.counter } else { self.counter },
            state,
            slot: if state == JobState::Waiting { line_of(0, spec) } else { Slot::Lane },
            priority: spec.priority,
            epoch: 0,
            attempts: 0,
            crashes: 0,
            runs: 0,
            coalesced: 1,
            batch: None,
            cancel_requested: false,
            created_at: now,
            due_at,
            expires_at: spec.options.expires_in.map(|span| now.after(span)),
            started_at: None,
            finished_at: None,
            prune_at: None,
            lease_until: None,
            lease_term: None,
            worker: None,
            failure: None,
            waited_on: false,
            notes: Notes::default(),
        });
        self.see_lanes();
        self.log(EventKind::Enqueued, spec.id);
        EnqueueAnswer::Inserted
    }

    /// Who holds a key at the present storage time.
    pub(super) fn holder(&self, key: &ferroq_core::job::DedupKey) -> Option<JobId> {
        let entry = self.dedup.iter().find(|entry| entry.key == *key)?;
        let holds = match entry.holder.until {
            Some(until) => self.now < until,
            None => true,
        };
        holds.then_some(entry.holder.id)
    }
}

/// The line of a Waiting job: alone, if losing one more lease would be the last one that it may lose.
pub(super) fn line_of(crashes: u32, spec: &JobSpec) -> Slot {
    if crashes + 1 >= spec.options.max_crashes { Slot::Solo } else { Slot::Lane }
}

/// The epoch that follows.
pub(super) fn epoch_after(epoch: i64, now: Timestamp) -> i64 {
    (epoch + 1).max(now.as_micros())
}

/// Adds an error to a record, which keeps the last five of at most 2,048 bytes each.
pub(super) fn add_error(job: &mut JobRecord, at: Timestamp, kind: ErrorKind, message: &str) {
    let entry = ErrorEntry { at, run: job.runs, kind, message: cut(message, 2048) };
    job.notes.errors.push(entry);
    while job.notes.errors.len() > 5 {
        job.notes.errors.remove(0);
    }
}

/// The longest beginning of a text that has at most so many bytes.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    let mut kept = String::new();
    for character in text.chars() {
        if kept.len() + character.len_utf8() > bytes_max {
            break;
        }
        kept.push(character);
    }
    kept
}
