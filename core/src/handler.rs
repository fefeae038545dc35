//! What a handler is and what it may end in: a plain async function of one fixed shape, `async fn(Job, Context<State>) ->
//! JobResult<Output>`, whose errors say whether to retry, retry after a time of its own, snooze, or give up.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::context::Context;
use crate::job::Job;

/// What a handler returns.
pub type JobResult<T = ()> = Result<T, JobError>;

/// Why a run did not succeed, and what to do about it.
///
/// Any error converts into one with `?` (own enums, `anyhow::Error`, `Box<dyn Error + Send + Sync>`) and means: retry with
/// the job's backoff. The other endings are made by [`abort`](JobError::abort), [`retry_after`](JobError::retry_after) and
/// [`snooze`](JobError::snooze).
///
/// A plain `Box<dyn Error>`, which can't be sent to another thread, is the exception: say
/// `.map_err(|error| error.to_string())?`, or return `Box<dyn Error + Send + Sync>`.
///
/// It does not implement [`std::error::Error`] itself, for then it could not convert from every type that does.
pub struct JobError {
    pub(crate) ending: Ending,
}

pub(crate) enum Ending {
    Retry { error: BoxError, delay: Option<Duration> },
    Abort { error: BoxError },
    Snooze { delay: Duration },
}

/// Any error, as handlers may return it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

impl JobError {
    /// The run failed: try again after the job's backoff, if attempts are left.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        JobError { ending: Ending::Retry { error: error.into(), delay: None } }
    }

    /// The run failed: try again after `delay` instead of the job's backoff, if attempts are left.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        JobError { ending: Ending::Retry { error: error.into(), delay: Some(delay) } }
    }

    /// The run failed, and trying again is of no use: the job is Failed now.
    pub fn abort(error: impl Into<BoxError>) -> Self {
        JobError { ending: Ending::Abort { error: error.into() } }
    }

    /// Not yet: run again after `delay`. Uses up no attempt.
    pub fn snooze(delay: Duration) -> Self {
        JobError { ending: Ending::Snooze { delay } }
    }
}

impl<E: Into<BoxError>> From<E> for JobError {
    fn from(error: E) -> Self {
        JobError::retry(error)
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ending {
            Ending::Retry { error, delay: None } => write!(f, "retry: {error}"),
            Ending::Retry { error, delay: Some(delay) } => write!(f, "retry after {delay:?}: {error}"),
            Ending::Abort { error } => write!(f, "abort: {error}"),
            Ending::Snooze { delay } => write!(f, "snooze for {delay:?}"),
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Turns any result into one that aborts the job instead of retrying it.
pub trait OrAbort<T> {
    /// On an error: the job is Failed now, without further attempts.
    ///
    /// # Errors
    /// The error, as [`JobError::abort`].
    fn or_abort(self) -> JobResult<T>;
}

impl<T, E: Into<BoxError>> OrAbort<T> for Result<T, E> {
    fn or_abort(self) -> JobResult<T> {
        self.map_err(JobError::abort)
    }
}

/// The text of an error with its sources, as it is kept on the record.
pub(crate) fn text_of(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors already repeat their source in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A handler of jobs of type `J` with a state of type `S`: implemented by every
/// `async fn(J, Context<S>) -> JobResult<J::Output>`.
#[diagnostic::on_unimplemented(
    message = "this is not a handler of `{J}` jobs for a worker whose state is `{S}`",
    label = "not a handler of this shape",
    note = "a handler is `async fn name(job: {J}, cx: Context<{S}>) -> JobResult<Output>`, where `Output` is the job's output type (`()` unless `#[job(output = \"...\")]` says otherwise)",
    note = "the worker's state is set by `.state(..)` before `.handle(..)`; without it, the state is `()`"
)]
pub trait Handler<J: Job, S>: Send + Sync + 'static {
    /// Handles one job.
    fn call(&self, job: J, cx: Context<S>) -> impl Future<Output = JobResult<J::Output>> + Send + 'static;
}

impl<J, S, F, Fut> Handler<J, S> for F
where
    J: Job,
    F: Fn(J, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = JobResult<J::Output>> + Send + 'static,
{
    fn call(&self, job: J, cx: Context<S>) -> impl Future<Output = JobResult<J::Output>> + Send + 'static {
        self(job, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    fn fails() -> JobResult {
        Err(Outer(std::io::Error::other("inner")))?;
        Ok(())
    }

    fn fails_boxed() -> JobResult {
        let boxed: Box<dyn StdError + Send + Sync> = "boxed".into();
        Err(boxed)?;
        Ok(())
    }

    #[test]
    fn any_error_converts_and_keeps_its_sources() {
        let Err(JobError { ending: Ending::Retry { error, delay: None } }) = fails() else { panic!("a plain retry") };
        assert_eq!(text_of(&error), "outer: inner");
        assert!(fails_boxed().is_err());
    }

    #[test]
    fn or_abort_gives_up_at_once() {
        let result: JobResult<u32> = "x".parse::<u32>().or_abort();
        assert!(matches!(result, Err(JobError { ending: Ending::Abort { .. } })));
    }
}
