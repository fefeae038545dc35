//! When two jobs of a queue are the same job. A job with a dedup key holds that key for as long as its mode says; what an
//! enqueue under a held key does is said by both jobs' modes: nothing, a new payload for the holder, one more for the
//! holder's count, or a place as the job that comes next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;
use crate::clock::Timestamp;
use crate::job::{DedupKey, JobId, JobSpec, Start};

/// A dedup key and for how long the job holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dedup {
    /// What makes two jobs the same.
    pub key: DedupKey,
    /// For how long, and what an enqueue under the held key does.
    pub mode: DedupMode,
}

/// For how long a job holds its dedup key, and what becomes of an enqueue under a key that is held. Where the two jobs'
/// modes or kinds differ, the second inserts nothing and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DedupMode {
    /// Until the job ends, however it ends. A second job inserts nothing.
    UntilFinished,
    /// For this long after it was enqueued, even if it ends sooner; cancelling or removing it while it is live frees
    /// the key at once. A second job inserts nothing.
    For(#[serde(with = "micros")] Duration),
    /// For as long as its record exists. A second job inserts nothing.
    WhileKept,
    /// Until it starts, which is this long after it was enqueued. A second job gives it its payload and restarts the
    /// delay. The mode gives the start, so a job in it has no delay of its own.
    Debounce(#[serde(with = "micros")] Duration),
    /// Until the job ends, however it ends; at most one is started and one pending. A second job gives the holder its
    /// payload as long as that has not started; after, it is inserted and waits (Blocked) until the holder has ended, and
    /// later ones give it their payload.
    KeepLatest,
    /// Until it starts, which is once this many were enqueued, or `max_wait` after the first. Later ones only count, and
    /// the job is told how many there were. The mode gives the start, so a job in it has no delay of its own.
    Coalesce {
        /// How many make it due at once; with 0 or 1 the first does.
        count: u32,
        /// How long the first waits for others at most.
        #[serde(with = "micros")]
        max_wait: Duration,
    },
}

/// What happened to a job: the occasions on which a key may come free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was claimed for the first time.
    Started,
    /// It ended by itself: completed, failed, expired, quarantined.
    Ended,
    /// It was cancelled.
    Cancelled,
    /// Its record was removed while it was live.
    RemovedLive,
    /// Its record was removed after it had ended.
    RemovedEnded,
}

impl Exit {
    /// Every occasion.
    pub const ALL: [Exit; 5] = [Exit::Started, Exit::Ended, Exit::Cancelled, Exit::RemovedLive, Exit::RemovedEnded];
}

impl DedupMode {
    /// Whether this way out frees the key, given that the job still holds it.
    pub const fn frees(self, exit: Exit) -> bool {
        match (self, exit) {
            (DedupMode::Debounce(_) | DedupMode::Coalesce { .. }, _) => true,
            (_, Exit::Started) => false,
            (DedupMode::UntilFinished | DedupMode::KeepLatest, _) => true,
            (DedupMode::For(_), Exit::Cancelled | Exit::RemovedLive) => true,
            (DedupMode::For(_), Exit::Ended | Exit::RemovedEnded) => false,
            (DedupMode::WhileKept, Exit::RemovedLive | Exit::RemovedEnded) => true,
            (DedupMode::WhileKept, Exit::Ended | Exit::Cancelled) => false,
        }
    }

    /// Whether an operator's retry takes the key again. A hold for a time began with the enqueue, and one until the start
    /// ended with it, so those are left as they are.
    pub const fn is_taken_again(self) -> bool {
        matches!(self, DedupMode::UntilFinished | DedupMode::WhileKept | DedupMode::KeepLatest)
    }

    /// Whether an enqueue in this mode may change the job that holds its key.
    pub const fn changes_holder(self) -> bool {
        matches!(self, DedupMode::Debounce(_) | DedupMode::KeepLatest | DedupMode::Coalesce { .. })
    }

    /// The start that the mode gives a new job, whatever else is said about it.
    pub const fn start(self) -> Option<Start> {
        match self {
            DedupMode::Debounce(span) => Some(Start::After(span)),
            DedupMode::Coalesce { count: 0 | 1, .. } => Some(Start::Now),
            DedupMode::Coalesce { max_wait, .. } => Some(Start::After(max_wait)),
            DedupMode::UntilFinished | DedupMode::For(_) | DedupMode::WhileKept | DedupMode::KeepLatest => None,
        }
    }
}

/// What is wrong with a start of the job's own in this mode, if anything is.
pub(crate) fn problem(mode: DedupMode, start: Start) -> Option<String> {
    (start != Start::Now && mode.start().is_some()).then(|| {
        let name = if matches!(mode, DedupMode::Debounce(_)) { "Debounce" } else { "Coalesce" };
        format!("a delay or run_at and DedupMode::{name} exclude each other: the mode says when the job starts")
    })
}

/// When a new job may start: what its mode says, or else what it says itself.
pub fn start(spec: &JobSpec) -> Start {
    spec.dedup.as_ref().and_then(|dedup| dedup.mode.start()).unwrap_or(spec.start)
}

/// What is known of a key's holder when another job comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The holder's mode.
    pub mode: DedupMode,
    /// Whether the two jobs are of one kind.
    pub same_kind: bool,
    /// Whether the holder was ever claimed.
    pub started: bool,
    /// For how many enqueues the holder stands.
    pub coalesced: u32,
    /// Whether a job waits for the holder to end.
    pub has_pending: bool,
}

/// What an enqueue under a held key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Nothing: `Duplicate` of the holder.
    Nothing,
    /// The holder gets the new payload, and waits as `start` says: `Replaced`.
    Restart(Start),
    /// The holder gets the new payload, and its time stays: `Replaced`.
    Replace,
    /// The pending job gets the new payload, and its time stays: `Replaced` of that one.
    ReplacePending,
    /// The new job is inserted, Blocked, as the pending one.
    Follow,
    /// The holder stands for so many enqueues from now on: `Coalesced`.
    Count {
        /// How many.
        coalesced: u32,
        /// Whether that makes it due, if it is Delayed.
        is_due: bool,
    },
}

/// Decides what an enqueue in this mode does under a key that is held.
pub fn meet(mode: DedupMode, held: Held) -> Meeting {
    if !held.same_kind {
        return Meeting::Nothing;
    }
    match (mode, held.mode) {
        (DedupMode::Debounce(span), DedupMode::Debounce(_)) if !held.started => Meeting::Restart(Start::After(span)),
        (DedupMode::KeepLatest, DedupMode::KeepLatest) if held.has_pending => Meeting::ReplacePending,
        (DedupMode::KeepLatest, DedupMode::KeepLatest) if held.started => Meeting::Follow,
        (DedupMode::KeepLatest, DedupMode::KeepLatest) => Meeting::Replace,
        (DedupMode::Coalesce { .. }, DedupMode::Coalesce { count, .. }) if !held.started => {
            let coalesced = held.coalesced.saturating_add(1);
            Meeting::Count { coalesced, is_due: coalesced >= count }
        }
        _ => Meeting::Nothing,
    }
}

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The job.
    pub id: JobId,
    /// Until when, for [`DedupMode::For`]; otherwise until the job lets go.
    pub until: Option<Timestamp>,
    /// The job that becomes the holder when this one lets go, for [`DedupMode::KeepLatest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<JobId>,
}

impl Holder {
    /// The hold that `id` takes under `mode` at `now`.
    pub fn take(id: JobId, mode: DedupMode, now: Timestamp) -> Self {
        let until = match mode {
            DedupMode::For(span) => Some(now.after(span)),
            _ => None,
        };
        Holder { id, until, pending: None }
    }

    /// Whether the key is still held at `now`. A hold for a time ends with the instant itself.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// What is left of the hold once `id` let go of it: as it was, held by the pending job, without one, or nothing.
    pub fn without(self, id: JobId) -> Option<Holder> {
        if self.pending == Some(id) {
            Some(Holder { pending: None, ..self })
        } else if self.id == id {
            self.pending.map(|heir| Holder { id: heir, until: None, pending: None })
        } else {
            Some(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(5);
    const COALESCE: DedupMode = DedupMode::Coalesce { count: 3, max_wait: SPAN };
    const EACH: [DedupMode; 6] = [
        DedupMode::UntilFinished,
        DedupMode::For(SPAN),
        DedupMode::WhileKept,
        DedupMode::Debounce(SPAN),
        DedupMode::KeepLatest,
        COALESCE,
    ];

    fn held(mode: DedupMode) -> Held {
        Held { mode, same_kind: true, started: false, coalesced: 1, has_pending: false }
    }

    #[test]
    fn every_live_job_that_is_removed_frees_its_key() {
        for mode in EACH {
            assert!(mode.frees(Exit::RemovedLive), "{mode:?}");
        }
    }

    #[test]
    fn only_jobs_of_one_mode_and_kind_change_each_other() {
        for mode in EACH {
            for other in EACH {
                let meeting = meet(mode, held(other));
                let changes = mode == other && mode.frees(Exit::Ended) && mode != DedupMode::UntilFinished;
                assert_eq!(meeting != Meeting::Nothing, changes, "{mode:?} meets {other:?}");
                assert_eq!(meet(mode, Held { same_kind: false, ..held(other) }), Meeting::Nothing);
            }
        }
    }

    #[test]
    fn keep_latest_replaces_until_the_holder_starts_and_then_has_one_pending() {
        let started = Held { started: true, ..held(DedupMode::KeepLatest) };
        assert_eq!(meet(DedupMode::KeepLatest, held(DedupMode::KeepLatest)), Meeting::Replace);
        assert_eq!(meet(DedupMode::KeepLatest, started), Meeting::Follow);
        assert_eq!(meet(DedupMode::KeepLatest, Held { has_pending: true, ..started }), Meeting::ReplacePending);
    }

    #[test]
    fn a_count_makes_the_holder_due_when_it_is_reached_and_goes_on_after() {
        let dues: Vec<_> = (1..=4).map(|coalesced| meet(COALESCE, Held { coalesced, ..held(COALESCE) })).collect();
        let count = |coalesced, is_due| Meeting::Count { coalesced, is_due };
        assert_eq!(dues, [count(2, false), count(3, true), count(4, true), count(5, true)]);
    }

    #[test]
    fn a_hold_goes_to_the_pending_job_and_is_not_touched_by_others() {
        let [a, b, c] = [JobId::new(), JobId::new(), JobId::new()];
        let hold = Holder { pending: Some(b), ..Holder::take(a, DedupMode::KeepLatest, Timestamp::default()) };
        assert_eq!(hold.without(c), Some(hold));
        assert_eq!(hold.without(b), Some(Holder { pending: None, ..hold }));
        assert_eq!(hold.without(a), Some(Holder { id: b, until: None, pending: None }));
        assert_eq!(hold.without(a).and_then(|hold| hold.without(b)), None);
    }
}
