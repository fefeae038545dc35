//! What may start of a queue as a whole, in an operator's words. What is not said stays as it is.

use super::{ClientError, QueueHandle};
use crate::policy::lanes::StartLimits;
use crate::policy::rate::Rate;

/// What is to change of the limits of a queue, or of all lanes of a class together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsChange {
    concurrency: Option<Option<u32>>,
    rate: Option<Option<Rate>>,
}

impl LimitsChange {
    /// How many jobs may be Active at once, over all processes; `None`: as many as workers take.
    #[must_use]
    pub fn concurrency(mut self, jobs: impl Into<Option<u32>>) -> Self {
        self.concurrency = Some(jobs.into());
        self
    }

    /// How many jobs may start in a span of time; `None`: any number.
    #[must_use]
    pub fn rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.rate = Some(rate.into());
        self
    }

    pub(super) fn apply(&self, limits: &mut StartLimits) {
        if let Some(concurrency) = self.concurrency {
            limits.concurrency = concurrency;
        }
        if let Some(rate) = &self.rate {
            limits.rate.clone_from(rate);
        }
    }

    /// Everything that makes no sense in what is to change.
    pub(super) fn problems(&self, whom: &str) -> Vec<String> {
        let mut limits = StartLimits::default();
        self.apply(&mut limits);
        limits.problems(whom)
    }
}

/// The limits of a queue, to read and to change; made by [`QueueHandle::limits`].
#[derive(Clone, Debug)]
#[must_use = "limits change when `set` is awaited"]
pub struct QueueLimits {
    queue: QueueHandle,
    change: LimitsChange,
}

impl QueueHandle {
    /// What may start of it as a whole, over all processes: to read, or to change. What is not said stays as it is.
    ///
    /// ```
    /// # use ferroq_core::client::{Client, ClientError};
    /// use ferroq_core::policy::rate::Rate;
    ///
    /// # async fn limit(client: &Client) -> Result<(), ClientError> {
    /// // At most 5 at once, and at most 20 in any minute.
    /// client.queue("posts")?.limits().concurrency(5).rate(Rate::per_minute(20)).set().await?;
    /// // The rate goes, the other limit stays.
    /// client.queue("posts")?.limits().rate(None).set().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limits(&self) -> QueueLimits {
        QueueLimits { queue: self.clone(), change: LimitsChange::default() }
    }
}

impl QueueLimits {
    /// How many of its jobs may be Active at once, over all processes; `None`: as many as workers take.
    pub fn concurrency(mut self, jobs: impl Into<Option<u32>>) -> Self {
        self.change = self.change.concurrency(jobs);
        self
    }

    /// How many of its jobs may start in a span of time; `None`: any number.
    pub fn rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.change = self.change.rate(rate);
        self
    }

    /// Stores what was said, for every process, from its next claim on. Answers whether that changed anything.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] with all that makes no sense; as [`QueueHandle::change`]. Nothing was changed.
    pub async fn set(self) -> Result<bool, ClientError> {
        ClientError::refuse(self.change.problems("the queue"))?;
        self.queue.change(|config| self.change.apply(&mut config.limits)).await
    }

    /// The limits as they are stored.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn get(&self) -> Result<StartLimits, ClientError> {
        Ok(self.queue.config().await?.limits)
    }
}
