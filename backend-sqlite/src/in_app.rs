//! What only SQLite can do, in the words of the client and the handler: enqueue inside the app's own transaction, and
//! complete a job in the same transaction as the handler's own writes. Either both take effect or neither does.

use std::future::Future;
use std::sync::Arc;

use ferroq_core::client::{Client, ClientError, Enqueue, JobHandle};
use ferroq_core::codec::CodecError;
use ferroq_core::context::{Context, ContextError};
use ferroq_core::job::{Job, JobSpec};
use ferroq_core::storage::{EnqueueAnswer, ErrorCode, SettleAnswer, Storage, StorageError};
use serde::Serialize;
use sqlx::SqliteConnection;

use crate::SqliteStorage;

/// Enqueues inside the app's own transaction.
///
/// ```
/// use ferroq_core::client::Client;
/// use ferroq_core::job::Job;
/// use ferroq_sqlite::{EnqueueIn, SqliteOptions, SqliteStorage};
/// use serde::{Deserialize, Serialize};
/// use sqlx::Connection;
///
/// #[derive(Serialize, Deserialize)]
/// struct Welcome {
///     to: String,
/// }
///
/// impl Job for Welcome {
///     const NAME: &'static str = "email.welcome";
///     type Output = ();
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("app.db");
/// let jobs = Client::new(std::sync::Arc::new(SqliteStorage::open(SqliteOptions::new(&path)).await?));
/// let mut app = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await?;
/// sqlx::query("CREATE TABLE users (email TEXT)").execute(&mut app).await?;
///
/// let mut tx = app.begin_with("BEGIN IMMEDIATE").await?;
/// sqlx::query("INSERT INTO users VALUES ('ada@example.org')").execute(&mut *tx).await?;
/// let handle = jobs.enqueue(Welcome { to: "ada@example.org".into() }).enqueue_in(&mut tx).await?;
/// assert!(handle.record().await?.is_none(), "nothing is there before the commit");
/// tx.commit().await?;
/// assert!(handle.record().await?.is_some());
/// # Ok(())
/// # }
/// ```
pub trait EnqueueIn<J> {
    /// Enqueues the job in `tx`, a transaction on the same database file that is open for writing: begin it with
    /// `BEGIN IMMEDIATE`, since SQLite can't turn a reading transaction into a writing one while others write.
    ///
    /// The job is there once the app commits, and leaves no trace if it rolls back.
    ///
    /// # Errors
    /// [`ClientError`]; the transaction is as it was before, and may go on, unless SQLite ended it (as it may where the disk
    /// is full or fails): then committing it fails. If this future is dropped before it answers, roll the transaction back.
    fn enqueue_in(self, tx: &mut SqliteConnection) -> impl Future<Output = Result<JobHandle<J>, ClientError>> + Send;
}

impl<J: Job> EnqueueIn<J> for Enqueue<J> {
    async fn enqueue_in(self, tx: &mut SqliteConnection) -> Result<JobHandle<J>, ClientError> {
        let (client, spec) = self.into_spec()?;
        let answers = sqlite(&client)?.enqueue_in(tx, std::slice::from_ref(&spec)).await?;
        Ok(JobHandle::from_answer(client, &spec, first(answers)))
    }
}

/// Enqueues ready specifications inside the app's own transaction.
pub trait EnqueueSpecsIn {
    /// Enqueues jobs of any queues in `tx`; see [`EnqueueIn::enqueue_in`].
    ///
    /// # Errors
    /// [`ClientError`]; the transaction is then as for [`EnqueueIn::enqueue_in`].
    fn enqueue_specs_in(
        &self,
        tx: &mut SqliteConnection,
        specs: Vec<Arc<JobSpec>>,
    ) -> impl Future<Output = Result<Vec<EnqueueAnswer>, ClientError>> + Send;
}

impl EnqueueSpecsIn for Client {
    async fn enqueue_specs_in(
        &self,
        tx: &mut SqliteConnection,
        specs: Vec<Arc<JobSpec>>,
    ) -> Result<Vec<EnqueueAnswer>, ClientError> {
        Ok(sqlite(self)?.enqueue_in(tx, &specs).await?)
    }
}

/// Completes the running job inside the app's own transaction.
pub trait CompleteIn {
    /// Completes this job with `output` in `tx`, together with the follow-ups enqueued so far: once the app commits, the
    /// handler's own writes and the completion are there, exactly once, whatever crashes when. The handler then commits
    /// and returns the same output; the worker finds the job settled.
    ///
    /// ```
    /// # use ferroq_core::context::Context;
    /// # use ferroq_core::handler::JobResult;
    /// # use ferroq_sqlite::CompleteIn;
    /// # struct Charge { order: i64 }
    /// struct App {
    ///     db: sqlx::SqlitePool,
    /// }
    ///
    /// async fn charge(job: Charge, cx: Context<App>) -> JobResult {
    ///     let mut tx = cx.state().db.begin_with("BEGIN IMMEDIATE").await?;
    ///     sqlx::query("INSERT INTO charges VALUES (?)").bind(job.order).execute(&mut *tx).await?;
    ///     cx.complete_in(&mut tx, &()).await?;
    ///     tx.commit().await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ContextError::LeaseLost`] or [`ContextError::Gone`] if this run no longer holds its job, because another run has
    /// it or this one was settled already (timed out, given back, or completed by an earlier call of this): roll back.
    /// [`ContextError::Codec`], [`ContextError::Storage`]. In every case nothing was completed.
    fn complete_in<T: Serialize + Send + Sync + 'static>(
        &self,
        tx: &mut SqliteConnection,
        output: &T,
    ) -> impl Future<Output = Result<(), ContextError>> + Send;
}

impl<S: Send + Sync> CompleteIn for Context<S> {
    async fn complete_in<T: Serialize + Send + Sync + 'static>(
        &self,
        tx: &mut SqliteConnection,
        output: &T,
    ) -> Result<(), ContextError> {
        let settlement = self.completion(output).map_err(|error: CodecError| ContextError::Codec(error))?;
        let storage = sqlite(self.client()).map_err(ContextError::Storage)?;
        let answers = storage.settle_in(tx, self.queue(), vec![settlement]).await.map_err(ContextError::Storage)?;
        match answers.into_iter().next() {
            Some(SettleAnswer::Settled { .. }) => Ok(()),
            Some(SettleAnswer::Gone) => Err(ContextError::Gone),
            // A run that was timed out or given back under a task of its handler's own keeps its epoch until the job is
            // claimed again: the job is no longer this run's all the same, and another run will write its rows.
            Some(SettleAnswer::AlreadyDone | SettleAnswer::LeaseLost) | None => Err(ContextError::LeaseLost),
        }
    }
}

fn first(answers: Vec<EnqueueAnswer>) -> EnqueueAnswer {
    answers.into_iter().next().unwrap_or(EnqueueAnswer::Inserted)
}

fn sqlite(client: &Client) -> Result<&SqliteStorage, StorageError> {
    let storage: &dyn Storage = client.storage().as_ref();
    let any: &dyn std::any::Any = storage;
    any.downcast_ref().ok_or_else(|| {
        let message = "this client's jobs are not on SQLite, so they can't take part in a SQLite transaction";
        StorageError::new(ErrorCode::Unsupported, message)
    })
}
