//! The type that an app writes for a kind of job. `#[derive(Job)]` implements it; so can a hand.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CodecTag, JobOptions, Priority};

/// A payload of an old version could not be brought up to date. The job is Failed, since no retry can help.
#[derive(Debug, thiserror::Error)]
#[error("the payload of version {from} could not be upcast: {why}")]
pub struct UpcastError {
    /// The version found.
    pub from: u16,
    /// What was wrong.
    pub why: String,
}

/// A kind of job: its wire name, its queue, its settings, and the type that its payload is read into.
///
/// ```
/// use ferroq_core::job::Job;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Welcome {
///     to: String,
/// }
///
/// impl Job for Welcome {
///     const NAME: &'static str = "email.welcome";
///     const QUEUE: &'static str = "emails";
///     type Output = ();
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    label = "not a job",
    note = "add `#[derive(Serialize, Deserialize, Job)]` and `#[job(name = \"...\")]` to `{Self}`, or implement `ferroq::Job` by hand"
)]
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The wire name. It is stored with every job, so it must outlive renames of the Rust type.
    const NAME: &'static str;
    /// The queue that such jobs go to, unless the one who enqueues says otherwise.
    const QUEUE: &'static str = "default";
    /// How soon such jobs are served, unless the one who enqueues says otherwise.
    const PRIORITY: Priority = Priority(128);
    /// The version of the payload's shape. Raise it when old payloads would no longer be read, and write [`Job::upcast`].
    const VERSION: u16 = 1;
    /// The codec that new payloads are written with.
    const CODEC: CodecTag = CodecTag::Json;
    /// What a successful run returns, for the one who waits for it; `()` if nothing.
    type Output: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The settings of such jobs, unless the one who enqueues says otherwise.
    fn options() -> JobOptions {
        JobOptions::default()
    }

    /// Reads a payload of an older version, given as JSON.
    ///
    /// # Errors
    /// [`UpcastError`] if this version can't be read; the job is then Failed. The default refuses every version.
    fn upcast(from: u16, _payload: serde_json::Value) -> Result<Self, UpcastError> {
        Err(UpcastError { from, why: format!("{} has no upcast from that version", Self::NAME) })
    }
}
