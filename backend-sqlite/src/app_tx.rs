//! Work inside the app's own transaction on the same database: its rows and ferroq's jobs are committed together or
//! not at all. Each call stands in a savepoint, so one that fails leaves nothing behind in the app's transaction; nothing
//! else here begins, commits or rolls back. Hints come from the watcher once the app has committed.

use std::sync::Arc;

use ferroq_core::job::{JobSpec, QueueName};
use ferroq_core::storage::{EnqueueAnswer, ExchangeRequest, SettleAnswer, Settlement, StorageError};
use sqlx::SqliteConnection;

use crate::jobs;
use crate::names::Names;
use crate::script::Script;
use crate::storage::SqliteStorage;
use crate::unit::{Begin, Unit};
use crate::writer::new_stamp;

impl SqliteStorage {
    /// Inserts jobs, of any queues, inside the transaction that is open on the app's connection. The connection must be
    /// one to the same database file; begin the transaction with `BEGIN IMMEDIATE`, or SQLite may answer `Busy`.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`](ferroq_core::storage::Jobs::enqueue). After one, the transaction is as it was before the call
    /// and may go on, unless SQLite ended it (as it may where the disk is full or fails): then committing it fails. If the
    /// future is dropped before it answers, roll the transaction back.
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
        let work = async {
            for group in jobs.chunk_by(|a, b| a.queue == b.queue) {
                answers.extend(unit.enqueue(&group[0].queue, group).await?);
            }
            release(&mut unit).await
        };
        let done = work.await;
        end(unit, done).await?;
        Ok(answers)
    }

    /// Settles runs of one queue inside the transaction that is open on the app's connection; as for
    /// [`enqueue_in`](Self::enqueue_in).
    ///
    /// # Errors
    /// As for [`Jobs::exchange`](ferroq_core::storage::Jobs::exchange); otherwise as for
    /// [`enqueue_in`](Self::enqueue_in).
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
        let work = async {
            let answer = unit.exchange(queue, &request.settlements, None).await?;
            release(&mut unit).await?;
            Ok(answer.settled)
        };
        let done = work.await;
        end(unit, done).await
    }
}

/// Sends what the unit still holds, and ends its savepoint.
async fn release(unit: &mut Unit<'_>) -> Result<(), StorageError> {
    unit.finish(new_stamp()).await?;
    unit.script.add("RELEASE ferroq_unit", []);
    let [] = unit.ask([]).await?;
    Ok(())
}

/// Undoes what a unit that failed has done, and nothing else.
async fn end<T>(mut unit: Unit<'_>, done: Result<T, StorageError>) -> Result<T, StorageError> {
    if done.is_err() && unit.begun {
        let mut script = Script::default();
        script.add("ROLLBACK TO ferroq_unit", []);
        script.add("RELEASE ferroq_unit", []);
        match script.run(unit.connection(), 0).await {
            Ok(_) => {}
            // SQLite itself has ended the transaction, and the savepoint with it.
            Err(error) if crate::error::primary_code(&error) == Some(1) => {}
            Err(error) => {
                tracing::warn!(%error, "a failed call can't be undone in the app's transaction; roll it back")
            }
        }
    }
    done
}
