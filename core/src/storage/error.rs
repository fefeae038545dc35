//! What a storage call answers when it fails as a whole. The two questions a caller has are answered by methods: may
//! the call have had an effect, and is it worth repeating?

use std::error::Error as StdError;
use std::fmt;

/// Whether a failed call changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It did not.
    None,
    /// It may have; a repeat with the same call id finds out and does no harm.
    Unknown,
}

/// What sort of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The store can't be reached, or stopped answering.
    Unavailable,
    /// The store is locked by somebody else for longer than the timeout.
    Busy,
    /// There is no room: disk full, memory limit.
    Full,
    /// The store can't be written to.
    ReadOnly,
    /// The store's own structure is damaged.
    Corrupt,
    /// The store was written by a newer version of the library. It was not touched.
    SchemaTooNew,
    /// The store's engine or version can't be used.
    Unsupported,
    /// The request itself makes no sense.
    Invalid,
    /// Something refused the right to do this.
    Denied,
    /// The handle was closed.
    Closed,
    /// The same call was repeated, but its answer is no longer known.
    Forgotten,
    /// Anything else.
    Other,
}

/// A storage call failed as a whole. Payloads and credentials are never part of it.
#[derive(Debug)]
pub struct StorageError {
    code: ErrorCode,
    effect: Effect,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl StorageError {
    /// A failure that changed nothing.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        StorageError { code, effect: Effect::None, message: message.into(), source: None }
    }

    /// The same failure, after which it is unknown whether the call had its effect.
    pub fn effect_unknown(mut self) -> Self {
        self.effect = Effect::Unknown;
        self
    }

    /// The same failure with its cause.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What sort of failure.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Whether the call may have had an effect.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether the same call may succeed later without anybody doing anything about it.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::Full)
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        f.write_str(match self.effect {
            Effect::None => " (nothing was changed)",
            Effect::Unknown => " (it is unknown whether the call took effect)",
        })
    }
}

impl StdError for StorageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
