//! Work inside the app's own transaction on the same database: its rows and ferroq's jobs are committed together or
//! not at all. Nothing here begins, commits or rolls back. Hints come from the watcher once the app has committed.

use std::sync::Arc;

use ferroq_core::job::{JobSpec, QueueName};
use ferroq_core::storage::{EnqueueAnswer, ExchangeRequest, SettleAnswer, Settlement, StorageError};
use sqlx::SqliteConnection;

use crate::jobs;
use crate::names::Names;
use crate::storage::SqliteStorage;
use crate::unit::{Begin, Unit};

impl SqliteStorage {
    /// Inserts jobs, of any queues, inside the transaction that is open on the app's connection. The connection must be
    /// one to the same database file; begin the transaction with `BEGIN IMMEDIATE`, or SQLite may answer `Busy`.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](ferroq_core::storage::Jobs::enqueue). After one, roll the transaction back.
    pub async fn enqueue_in(
        &self,
        tx: &mut SqliteConnection,
        jobs: &[Arc<JobSpec>],
    ) -> Result<Vec<EnqueueAnswer>, StorageError> {
        for job in jobs {
            jobs::check_jobs(&job.queue, [job])?;
        }
        // Names of its own: what this transaction adds may be rolled back, so no one else may learn it.
        let names = Names::default();
        let mut unit = Unit::new(tx, &names, self.common.clock.now(), Begin::Foreign);
        let mut answers = Vec::with_capacity(jobs.len());
        for group in jobs.chunk_by(|a, b| a.queue == b.queue) {
            answers.extend(unit.enqueue(&group[0].queue, group).await?);
        }
        end(unit).await?;
        Ok(answers)
    }

    /// Settles runs of one queue inside the transaction that is open on the app's connection; as for
    /// [`enqueue_in`](Self::enqueue_in).
    ///
    /// # Errors
    /// As for [`Jobs::exchange`](ferroq_core::storage::Jobs::exchange). After one, roll the transaction back.
    pub async fn settle_in(
        &self,
        tx: &mut SqliteConnection,
        queue: &QueueName,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<SettleAnswer>, StorageError> {
        let request = ExchangeRequest { call: None, queue: queue.clone(), settlements, claim: None };
        jobs::check_exchange(&request)?;
        let names = Names::default();
        let mut unit = Unit::new(tx, &names, self.common.clock.now(), Begin::Foreign);
        let answer = unit.exchange(queue, &request.settlements, None).await?;
        end(unit).await?;
        Ok(answer.settled)
    }
}

/// Sends what the unit still holds.
async fn end(mut unit: Unit<'_>) -> Result<(), StorageError> {
    unit.finish(0).await?;
    let [] = unit.ask([]).await?;
    Ok(())
}
