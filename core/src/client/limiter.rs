//! A limiter as its caller holds it: a name and a rate. It keeps nothing; all that is remembered is in the storage.

use std::time::Duration;

use tokio::time::Instant;

use super::{Client, ClientError};
use crate::job::{LimiterName, NameError};
use crate::policy::rate::Rate;
use crate::storage::{AcquireAnswer, AcquireRequest};

/// How often something may be done. Cheap to make for each question.
#[derive(Clone, Debug)]
pub struct Limiter {
    client: Client,
    name: Result<LimiterName, NameError>,
    rate: Rate,
}

impl Limiter {
    pub(super) fn new(client: Client, name: &str, rate: Rate) -> Self {
        Limiter { client, name: LimiterName::new(name), rate }
    }

    /// The rate.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Takes so many permits now, all or none. A repeat after a lost answer, which happens by itself, takes none twice.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] with all that is wrong with the name, the rate and the number; [`ClientError::Storage`].
    pub async fn acquire(&self, permits: u32) -> Result<AcquireAnswer, ClientError> {
        let limiter = self.check(permits)?;
        let storage = self.client.storage();
        let acquired = self.client.session().call(|call| {
            let (limiter, rate) = (limiter.clone(), self.rate.clone());
            storage.acquire(AcquireRequest { call: Some(call), limiter, rate, permits })
        });
        Ok(acquired.await?)
    }

    /// Takes so many permits as soon as they can be had, and waits for that no longer than `patience`. If it would take
    /// longer, it answers the refusal at once. Callers who wait are not served in order: whoever asks first once there are
    /// permits gets them. Cancel safe while it waits; if it is dropped while it asks, the permits may be taken.
    ///
    /// # Errors
    /// As for [`acquire`](Self::acquire).
    pub async fn until_granted(&self, permits: u32, patience: Duration) -> Result<AcquireAnswer, ClientError> {
        // None if it is too far ahead to be told.
        let deadline = Instant::now().checked_add(patience);
        loop {
            let answer = self.acquire(permits).await?;
            let Some(wait) = answer.retry_after.filter(|_| !answer.granted) else { return Ok(answer) };
            let now = Instant::now();
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
            if wait > left || (wait.is_zero() && left.is_zero()) {
                return Ok(answer);
            }
            // The storage's clock is not this one: one that stands still must not be asked without a pause.
            tokio::time::sleep(wait.max(WAIT_MIN)).await;
        }
    }

    /// What [`acquire`](Self::acquire) would answer, except that nothing is taken.
    ///
    /// # Errors
    /// As for [`acquire`](Self::acquire).
    pub async fn peek(&self, permits: u32) -> Result<AcquireAnswer, ClientError> {
        let limiter = self.check(permits)?;
        Ok(self.client.storage().peek(&limiter, &self.rate, permits).await?)
    }

    /// Forgets all that was given, for everybody.
    ///
    /// # Errors
    /// [`ClientError::Name`] if the name is not one; [`ClientError::Storage`].
    pub async fn reset(&self) -> Result<(), ClientError> {
        let limiter = self.name.clone()?;
        Ok(self.client.storage().reset(&limiter).await?)
    }

    fn check(&self, permits: u32) -> Result<LimiterName, ClientError> {
        let mut problems = Vec::new();
        problems.extend(self.name.as_ref().err().map(ToString::to_string));
        problems.extend(self.rate.check().err().map(|error| error.to_string()));
        if permits == 0 {
            problems.push("0 permits were asked for; ask for 1 at least".to_owned());
        } else if self.rate.limit() > 0 && permits > self.rate.limit() {
            problems.push(format!("{permits} permits were asked for, and the limit is {}", self.rate.limit()));
        }
        match &self.name {
            Ok(name) if problems.is_empty() => Ok(name.clone()),
            _ => Err(ClientError::Invalid { problems }),
        }
    }
}

/// The shortest pause between two questions of one who waits.
const WAIT_MIN: Duration = Duration::from_millis(1);
