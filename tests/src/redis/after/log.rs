//! The event log, replayed. It is written by the scripts themselves, so its order is the order in which things took
//! effect, whatever clients saw of it: a job that is handed out while a run of it is under way, or ends twice, shows here
//! and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use ferroq_core::event::{EventCursor, EventKind};
use ferroq_core::job::{FailReason, JobId, JobRecord, JobState, QueueName};
use ferroq_core::storage::Storage;
use ferroq_testkit::model::Snapshot;

/// The jobs that this log says ended or were removed.
pub(super) fn ended(events: &[(EventKind, Option<JobId>)]) -> BTreeSet<JobId> {
    use EventKind::{Cancelled, Completed, Failed, Removed};
    let is_end = |kind| matches!(kind, Completed | Failed | Cancelled | Removed);
    events.iter().filter(|(kind, _)| is_end(*kind)).filter_map(|(_, job)| *job).collect()
}

/// Where a job is, as far as the log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    InLine,
    Active,
    Ended(JobState),
}

/// One life of a job.
#[derive(Clone, Debug)]
struct Life {
    place: Place,
    runs: u32,
    failed_runs: u32,
    crashes: u32,
    /// An operator put it back, so that its budgets may have begun anew.
    retried: bool,
    events: Vec<EventKind>,
}

impl Life {
    fn new() -> Self {
        Life { place: Place::Nowhere, runs: 0, failed_runs: 0, crashes: 0, retried: false, events: Vec::new() }
    }

    /// The job after an event; nothing if it can't happen there.
    fn follow(&mut self, kind: EventKind) -> Option<()> {
        use Place::{Active, Ended, InLine, Nowhere};
        self.events.push(kind);
        let goes = |right: bool, to: Place| right.then_some(to);
        let place = self.place;
        let live = matches!(place, InLine | Active);
        self.place = match kind {
            EventKind::Enqueued => {
                *self = Life { events: std::mem::take(&mut self.events), ..Life::new() };
                goes(matches!(place, Nowhere | Ended(_)), InLine)
            }
            EventKind::Promoted | EventKind::Rescheduled | EventKind::Shelved => goes(place == InLine, InLine),
            EventKind::Started => {
                self.runs += 1;
                goes(place == InLine, Active)
            }
            EventKind::Progress | EventKind::CancelRequested => goes(place == Active, Active),
            EventKind::Completed => goes(place == Active, Ended(JobState::Completed)),
            EventKind::Retrying => {
                self.failed_runs += 1;
                goes(place == Active, InLine)
            }
            EventKind::Snoozed | EventKind::Released => goes(place == Active, InLine),
            EventKind::Stalled => {
                self.crashes += 1;
                goes(place == Active, InLine)
            }
            // Also from a line: what is too old, what can't be read, what has crashed once too often.
            EventKind::Failed => goes(live, Ended(JobState::Failed)),
            EventKind::Cancelled => goes(live, Ended(JobState::Cancelled)),
            EventKind::Retried => {
                self.retried = true;
                goes(matches!(place, Ended(_)), InLine)
            }
            EventKind::Removed => goes(place != Active, Nowhere),
            // Of later kinds nothing is known.
            _ => Some(place),
        }?;
        Some(())
    }

    /// What is wrong with a record that should be the end of this life.
    fn differs(&self, job: &JobRecord) -> Option<String> {
        let place = match job.state {
            JobState::Active => Place::Active,
            state if state.is_terminal() => Place::Ended(state),
            _ => Place::InLine,
        };
        if place != self.place {
            return Some(format!("the log leaves it {:?}", self.place));
        }
        if job.runs != self.runs {
            return Some(format!("the log tells of {} runs", self.runs));
        }
        if self.retried {
            return None;
        }
        if job.crashes != self.crashes {
            return Some(format!("the log tells of {} lost leases", self.crashes));
        }
        let last_failed = matches!(job.failure, Some(FailReason::AttemptsExhausted | FailReason::Aborted));
        let failed_runs = self.failed_runs + u32::from(last_failed);
        // A run that failed and was to be cancelled is logged as cancelled only.
        if job.attempts != failed_runs && job.state != JobState::Cancelled {
            return Some(format!("the log tells of {failed_runs} failed runs"));
        }
        None
    }
}

/// Replays the log of every queue.
pub(super) async fn check(storage: &dyn Storage, snapshot: &Snapshot) {
    for (name, queue) in &snapshot.queues {
        // A log that has lost its beginning tells nothing of the jobs that were there before; of those that came later, all.
        let is_whole = !storage.events(name, EventCursor::default(), 1).await.expect("events").missed;
        let lives = replay(name, &queue.events, is_whole);
        for job in &queue.jobs {
            let wrong = match lives.get(&job.id()) {
                Some(life) => life.differs(job).map(|wrong| format!("{wrong}: {:?}", life.events)),
                None => is_whole.then(|| "the log does not know it".to_owned()),
            };
            assert!(wrong.is_none(), "queue {name:?}: {}\n{job:#?}", wrong.unwrap_or_default());
        }
        let there: BTreeSet<JobId> = queue.jobs.iter().map(JobRecord::id).collect();
        let gone =
            lives.iter().find(|(id, life)| matches!(life.place, Place::InLine | Place::Active) && !there.contains(id));
        assert!(gone.is_none(), "queue {name:?}: the log ends with a job that is live, and it is not there: {gone:?}");
    }
}

fn replay(queue: &QueueName, events: &[(EventKind, Option<JobId>)], is_whole: bool) -> BTreeMap<JobId, Life> {
    let mut lives: BTreeMap<JobId, Life> = BTreeMap::new();
    for (kind, job) in events {
        let Some(job) = job else { continue };
        if !is_whole && *kind != EventKind::Enqueued && !lives.contains_key(job) {
            continue;
        }
        let life = lives.entry(*job).or_insert_with(Life::new);
        let before = life.place;
        assert!(
            life.follow(*kind).is_some(),
            "queue {queue:?}: {job} was {before:?}, and then {kind:?}: {:?}",
            life.events
        );
    }
    lives
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed(kinds: &[EventKind]) -> Option<Life> {
        let mut life = Life::new();
        kinds.iter().try_for_each(|kind| life.follow(*kind)).map(|()| life)
    }

    #[test]
    fn a_job_that_is_handed_out_or_ends_twice_is_seen() {
        use EventKind::{Completed, Enqueued, Failed, Removed, Retried, Retrying, Stalled, Started};
        let life =
            replayed(&[Enqueued, Started, Retrying, Started, Stalled, Started, Completed]).expect("an honest life");
        assert_eq!((life.place, life.runs), (Place::Ended(JobState::Completed), 3));
        assert_eq!((life.failed_runs, life.crashes), (1, 1));
        assert!(replayed(&[Enqueued, Started, Completed, Retried, Started, Completed, Removed, Enqueued]).is_some());
        for lie in [
            &[Enqueued, Started, Started][..],
            &[Enqueued, Enqueued],
            &[Started],
            &[Enqueued, Completed],
            &[Enqueued, Started, Completed, Completed],
            &[Enqueued, Started, Completed, Failed],
            &[Enqueued, Started, Completed, Started],
            &[Enqueued, Started, Removed],
        ] {
            assert!(replayed(lie).is_none(), "{lie:?}");
        }
    }
}
