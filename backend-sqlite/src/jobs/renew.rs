//! Keeping leases, and attendance: what a queue that nobody attended to for a while owes the leases in it.

use ferroq_core::clock::micros;
use ferroq_core::event::EventKind;
use ferroq_core::job::JobState;
use ferroq_core::storage::{RenewAnswer, RenewRequest, StorageError};

use crate::error::invalid;
use crate::unit::Unit;

/// Extends the leases whose term is so short that the gap was an outage, by `ferroq_jobs_by_place`.
const EXTEND: &str = "UPDATE ferroq_jobs SET rank=max(rank,min(lease_term,9223372036854775807-?)+?) \
    WHERE place=? AND lease_term<? RETURNING 1";

pub(crate) fn check(request: &RenewRequest) -> Result<(), StorageError> {
    if request.term < std::time::Duration::from_millis(1) {
        return Err(invalid("a renewal asks for a lease of less than a millisecond"));
    }
    Ok(())
}

impl Unit<'_> {
    /// Attends to a queue: extends leases first, if nobody did for too long.
    pub(super) async fn attend(&mut self, at: usize) -> Result<(), StorageError> {
        if let Some(gap) = self.queues[at].outage() {
            let queue = &self.queues[at];
            let now = queue.now.as_micros();
            let term_below = micros(gap).saturating_mul(2);
            let values = vec![now.into(), now.into(), queue.place(JobState::Active).into(), term_below.into()];
            let [extended] = self.ask([(EXTEND, values)]).await?;
            if !extended.is_empty() {
                self.queues[at].queue_event(EventKind::LeasesExtended);
            }
        }
        self.queues[at].attend();
        Ok(())
    }

    /// Renews leases.
    pub(crate) async fn renew(&mut self, request: &RenewRequest) -> Result<Vec<RenewAnswer>, StorageError> {
        let Some(at) = self.queue(&request.queue).await? else {
            return Ok(request.leases.iter().map(|_| RenewAnswer::Gone).collect());
        };
        self.attend(at).await?;
        let mut rows = self.by_ids(at, request.leases.iter().map(|lease| &lease.id)).await?;
        let until = self.queues[at].now.after(request.term).as_micros();
        let term = micros(request.term);
        let mut answers = Vec::with_capacity(request.leases.len());
        for lease in &request.leases {
            let Some(row) = rows.get_mut(&lease.id) else {
                answers.push(RenewAnswer::Gone);
                continue;
            };
            if row.state() != JobState::Active || row.epoch != lease.epoch {
                answers.push(RenewAnswer::LeaseLost);
                continue;
            }
            row.rank = until;
            row.lease_term = Some(term);
            self.queues[at].note_term(term);
            answers.push(RenewAnswer::Renewed { cancel_requested: row.cancel_requested() });
            let row = row.clone();
            self.save_in_place(at, row);
        }
        self.queues[at].attend();
        Ok(answers)
    }
}
