//! The ends of runs: each settlement against the record that its lease names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferroq_core::event::EventKind;
use ferroq_core::job::{JobId, JobOptions, JobSpec, JobState, Move, Payload, QueueName};
use ferroq_core::policy::settle::{Verdict, error_of, settle};
use ferroq_core::storage::{Outcome, SettleAnswer, Settlement, StorageError};

use crate::row::Row;
use crate::unit::Unit;

/// What the settlements of a call did besides their answers.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) answers: Vec<SettleAnswer>,
    /// Whether a job was put back in line, Delayed or inserted, so that what was read before is no longer the line.
    pub(crate) line_changed: bool,
}

impl Unit<'_> {
    /// Applies settlements to the rows that were read for them.
    pub(crate) async fn settle(
        &mut self,
        at: usize,
        settlements: &[Settlement],
        mut rows: HashMap<JobId, Row>,
    ) -> Result<Settled, StorageError> {
        let mut settled = Settled::default();
        settled.answers.reserve(settlements.len());
        // What an earlier settlement of this call did to a job, for a second one of the same.
        let mut gone: HashSet<JobId> = HashSet::new();
        if self.has_dead_letter(at) {
            self.complete_failing(at, settlements, &mut rows).await?;
        }
        self.meet_batches(at, rows.values()).await?;
        for settlement in settlements {
            let lease = settlement.lease;
            let Some(row) = rows.get(&lease.id).filter(|_| !gone.contains(&lease.id)) else {
                settled.answers.push(SettleAnswer::Gone);
                continue;
            };
            let of_batch = self.queues[at].batches.spent_under(row, lease.epoch);
            if of_batch.is_none() && (row.epoch != lease.epoch || row.is_member()) {
                settled.answers.push(SettleAnswer::LeaseLost);
                continue;
            }
            if of_batch.is_none() && row.state() != JobState::Active {
                settled.answers.push(SettleAnswer::AlreadyDone);
                continue;
            }
            let Some(mut row) = rows.remove(&lease.id) else { continue };
            if let Some(spent) = of_batch {
                row.epoch = lease.epoch;
                row.bear(spent.borne(row.counters(), &row_options(&row)));
            }
            let now = self.queues[at].now;
            let verdict = settle(row.standing(&row_options(&row)), &settlement.outcome, now);
            let state = verdict.state;
            let result = match &settlement.outcome {
                Outcome::Completed { result } => result.clone(),
                _ => None,
            };
            let error = error_of(&settlement.outcome);
            if let Some((kind, message)) = error {
                let runs = row.runs;
                row.change_notes(|notes| notes.push_error(now, runs, kind, message));
            }
            settled.line_changed |= !state.is_terminal();
            match self.apply(at, row, verdict, result, None) {
                Some(row) => drop(rows.insert(lease.id, row)),
                None => drop(gone.insert(lease.id)),
            }
            settled.line_changed |= !self.place_heirs().await?.is_empty();
            let mut follow_ups = Vec::with_capacity(settlement.follow_ups.len());
            if !settlement.follow_ups.is_empty() {
                settled.line_changed = true;
                self.post().await?;
                follow_ups = self.follow_ups(&settlement.follow_ups).await?;
            }
            settled.answers.push(SettleAnswer::Settled { state, follow_ups });
        }
        self.post().await?;
        self.queues[at].batches.forget();
        Ok(settled)
    }

    /// Reads what the copies of those jobs need that these settlements let fail.
    async fn complete_failing(
        &mut self,
        at: usize,
        settlements: &[Settlement],
        rows: &mut HashMap<JobId, Row>,
    ) -> Result<(), StorageError> {
        let now = self.queues[at].now;
        let fails = |one: &&Settlement| {
            let Some(row) = rows.get(&one.lease.id) else { return false };
            if row.is_member() {
                // What its batch has spent is not known yet, so this may read a payload too many.
                return !matches!(one.outcome, Outcome::Completed { .. });
            }
            row.epoch == one.lease.epoch && settle(row.standing(&row_options(row)), &one.outcome, now).failure.is_some()
        };
        let failing: HashSet<JobId> = settlements.iter().filter(fails).map(|one| one.lease.id).collect();
        let mut failing: Vec<&mut Row> = rows.values_mut().filter(|row| failing.contains(&row.id)).collect();
        self.complete_rows(&mut failing).await
    }

    /// Inserts follow-ups, each on its own queue, in their order.
    async fn follow_ups(
        &mut self,
        specs: &[Arc<JobSpec>],
    ) -> Result<Vec<ferroq_core::storage::EnqueueAnswer>, StorageError> {
        let mut answers = Vec::with_capacity(specs.len());
        for group in specs.chunk_by(|a, b| a.queue == b.queue) {
            let queue: &QueueName = &group[0].queue;
            answers.extend(self.enqueue(queue, group).await?);
        }
        Ok(answers)
    }

    /// Writes a verdict on an Active job, or a member of a batch, and answers the row as it stands now if its record remains. A crash also
    /// raises the epoch, which the caller has done; its event goes first.
    pub(crate) fn apply(
        &mut self,
        at: usize,
        mut row: Row,
        verdict: Verdict,
        result: Option<Payload>,
        first: Option<EventKind>,
    ) -> Option<Row> {
        let active = (row.state() == JobState::Active).then(|| row.lane());
        self.queues[at].leave(&row);
        row.attempts = verdict.attempts;
        row.crashes = verdict.crashes;
        if let Some(first) = first {
            self.queues[at].event(first, row.id);
        }
        let event = match verdict.made {
            Move::Complete => Some(EventKind::Completed),
            Move::Cancel => Some(EventKind::Cancelled),
            Move::Fail => Some(EventKind::Failed),
            Move::Retry => Some(EventKind::Retrying),
            Move::Snooze => Some(EventKind::Snoozed),
            Move::Release => Some(EventKind::Released),
            _ => None,
        };
        if let Some(event) = event {
            self.queues[at].event(event, row.id);
        }
        if verdict.state.is_terminal() {
            if let Some(result) = result.filter(|_| verdict.state == JobState::Completed) {
                row.change_notes(|notes| notes.result = Some(result));
            }
            let row = self.end(at, row, verdict.state, verdict.failure);
            if let Some(lane) = active {
                self.queues[at].release(lane);
            }
            return row;
        }
        row.batch = self.step_back(at, &row);
        row.lease_term = None;
        if let Some(due_at) = verdict.due_at {
            row.due_at = due_at;
        }
        match verdict.state {
            JobState::Waiting => row.wait(verdict.slot),
            state => {
                let due = row.due_at.as_micros();
                row.stand(state, ferroq_core::job::Slot::Lane, due);
            }
        }
        self.save(at, row.clone());
        if let Some(lane) = active {
            self.queues[at].release(lane);
        }
        Some(row)
    }
}

fn row_options(row: &Row) -> Arc<JobOptions> {
    if row.extra.is_none() { JobOptions::shared_default() } else { row.options() }
}
