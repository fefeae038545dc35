//! The order in which a store walks over a queue's jobs. The contract leaves open in which order lanes and shelves come, so
//! a walk is not predicted but checked: everything that it must hold is there, and nothing is out of order.

use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, JobRecord, JobState, QueueName, Slot};
use ferroq_core::storage::ListCursor;

use super::control::NO_LINE;
use super::{Model, QueueModel, Refusal};

/// The place at which a walk finds this record. The number of a lane or shelf is the backend's own, and 0 here.
pub(super) fn place_of(job: &JobRecord) -> ListCursor {
    let micros = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_micros);
    let rank = match job.state {
        JobState::Waiting => i64::from(job.priority.0),
        JobState::Delayed => job.due_at.as_micros(),
        JobState::Blocked => job.batch.map_or(0, |batch| batch.0),
        JobState::Active => micros(job.lease_until),
        JobState::Completed | JobState::Failed | JobState::Cancelled => micros(job.prune_at),
    };
    let slot = if job.state == JobState::Waiting { job.slot } else { NO_LINE };
    ListCursor { state: job.state, slot, line: 0, rank, seq: job.seq }
}

/// A place without the backend's own number of the lane or shelf.
pub(super) fn plain(mut place: ListCursor) -> ListCursor {
    place.line = 0;
    place
}

/// Whether there are several lines of this sort.
fn has_lines(place: ListCursor) -> bool {
    place.state == JobState::Waiting && place.slot != Slot::Solo
}

fn is_same_sort(a: ListCursor, b: ListCursor) -> bool {
    (a.state, a.slot) == (b.state, b.slot)
}

/// What the line of a Waiting job goes by.
fn line_of(job: &JobRecord) -> &str {
    if job.slot == Slot::Shelf { job.spec.kind.as_str() } else { job.spec.lane.name().unwrap_or_default() }
}

impl Model {
    /// Checks that a backend's walk over the jobs in these states (all, if there are none), from a cursor on, holds
    /// every job once and in a legal order.
    ///
    /// # Errors
    /// [`Refusal`] naming what is missing, doubled or out of order.
    pub fn check_walk(
        &self,
        queue: &QueueName,
        states: &[JobState],
        after: Option<ListCursor>,
        seen: &[JobId],
    ) -> Result<(), Refusal> {
        let empty = QueueModel::default();
        let differences = self.queues.get(queue).unwrap_or(&empty).check_walk(states, after, seen);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Refusal {
            what: format!("the walk over queue {queue:?} (states {states:?}, after {after:?})"),
            differences,
        })
    }
}

impl QueueModel {
    pub(super) fn check_walk(&self, states: &[JobState], after: Option<ListCursor>, seen: &[JobId]) -> Vec<String> {
        let mut wrong = Vec::new();
        let allowed = |job: &JobRecord| states.is_empty() || states.contains(&job.state);
        for (place, id) in seen.iter().enumerate() {
            match self.job(*id) {
                None => wrong.push(format!("{id} is walked over and does not exist")),
                Some(job) if !allowed(job) => wrong.push(format!("{id} is walked over and is {}", job.state)),
                Some(_) if seen[..place].contains(id) => wrong.push(format!("{id} is walked over twice")),
                Some(_) => {}
            }
        }
        for job in self.jobs.iter().filter(|job| allowed(job)) {
            let must = match after {
                None => true,
                // The order of lanes and of shelves is open, so a cursor on one says nothing certain about another.
                Some(after) if has_lines(after) && is_same_sort(after, place_of(job)) => continue,
                Some(after) => place_of(job) > plain(after),
            };
            if must != seen.contains(&job.spec.id) {
                let word = if must { "left out" } else { "walked over again" };
                wrong.push(format!("{} at {} is {word}", job.spec.id, place_of(job)));
            }
        }
        let mut lines: Vec<&str> = Vec::new();
        let walked: Vec<&JobRecord> = seen.iter().filter_map(|id| self.job(*id)).collect();
        for pair in walked.windows(2) {
            let (first, second) = (place_of(pair[0]), place_of(pair[1]));
            let both = has_lines(first) && is_same_sort(first, second);
            let (a, b) = (line_of(pair[0]), line_of(pair[1]));
            if both && a != b {
                lines.push(a);
                if lines.contains(&b) {
                    wrong.push(format!("the line of {b:?} is walked over in two parts"));
                }
            } else if second <= first {
                wrong.push(format!("{} at {second} comes after {} at {first}", pair[1].spec.id, pair[0].spec.id));
            }
        }
        wrong
    }
}
