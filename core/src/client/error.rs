//! What a client's calls answer when they fail.

use crate::codec::CodecError;
use crate::job::NameError;
use crate::storage::{Effect, StorageError};

/// A client's call failed. Payloads and credentials are never part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Some settings make no sense; all of them are listed. Nothing was stored.
    #[error("refused: {}", problems.join("; "))]
    Invalid {
        /// Everything that is wrong.
        problems: Vec<String>,
    },
    /// A name is not one. Nothing was stored.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The payload can't be written or is too large. Nothing was stored.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl ClientError {
    /// Refuses what makes no sense, if there is anything.
    pub(super) fn refuse(problems: Vec<String>) -> Result<(), ClientError> {
        if problems.is_empty() { Ok(()) } else { Err(ClientError::Invalid { problems }) }
    }

    /// Whether the call may have had an effect.
    pub fn effect(&self) -> Effect {
        match self {
            ClientError::Storage(error) => error.effect(),
            _ => Effect::None,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything about it.
    pub fn is_retryable(&self) -> bool {
        matches!(self, ClientError::Storage(error) if error.is_retryable())
    }
}
