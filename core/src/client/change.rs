//! Changes of what is stored with a queue: read, changed, and stored if nobody else has changed it meanwhile, else once
//! more. So that two who change different things at the same moment don't undo each other.

use super::{ClientError, QueueHandle};
use crate::job::LaneKey;
use crate::policy::lanes::LanePolicy;
use crate::storage::{ErrorCode, QueueConfig, Reconfigured, StorageError};

/// How often a change is made anew because somebody else's came between. Whoever loses loses to one who went through, so
/// many processes that change one queue at once don't come near it.
const TRIES_MAX: usize = 100;

impl QueueHandle {
    /// Changes some of its settings, for every process; the others stay as they are, whatever others change at the same
    /// moment. `change` is called again with the present settings if somebody else's change came between. Answers whether
    /// that changed anything.
    ///
    /// # Errors
    /// [`ClientError::Storage`]: `Invalid` if the settings make no sense then; `Busy` if others changed them so often that
    /// this change did not get through. Neither changed anything. After any other failure the call can be repeated.
    pub async fn change(&self, change: impl Fn(&mut QueueConfig) + Send + Sync) -> Result<bool, ClientError> {
        let mut from = self.config().await?;
        for _ in 0..TRIES_MAX {
            let mut to = from.clone();
            change(&mut to);
            if to == from {
                return Ok(false);
            }
            match self.client.storage().reconfigure(&self.name, from, to).await? {
                Reconfigured::Stored => return Ok(true),
                Reconfigured::Conflict(present) => from = present,
            }
        }
        Err(self.gave_up("the settings"))
    }

    /// The same for one lane's own policy, of which nothing is left stored if it says nothing.
    pub(super) async fn change_lane(
        &self,
        lane: &LaneKey,
        change: impl Fn(&mut LanePolicy) + Send + Sync,
    ) -> Result<bool, ClientError> {
        let mut from = self.client.storage().lane_policy(&self.name, lane).await?;
        for _ in 0..TRIES_MAX {
            let mut policy = from.clone().unwrap_or_default();
            change(&mut policy);
            let to = (policy != LanePolicy::default()).then_some(policy);
            if to == from {
                return Ok(false);
            }
            match self.client.storage().reconfigure_lane(&self.name, lane, from, to).await? {
                Reconfigured::Stored => return Ok(true),
                Reconfigured::Conflict(present) => from = present,
            }
        }
        Err(self.gave_up("the policy of a lane"))
    }

    fn gave_up(&self, what: &str) -> ClientError {
        let message = format!(
            "others changed {what} of the queue {} {TRIES_MAX} times while this call tried to; try again",
            self.name
        );
        StorageError::new(ErrorCode::Busy, message).into()
    }
}
