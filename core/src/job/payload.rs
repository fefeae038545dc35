//! What a job carries: bytes, the codec that wrote them, and the version of the type that they were written from.
//! Storages keep the three and never decode; so a reader never guesses.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The largest payload or result, in bytes, unless the client is told otherwise: 1 MiB.
pub const PAYLOAD_BYTES_MAX_DEFAULT: usize = 1 << 20;

/// Which codec wrote some bytes. The number is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CodecTag {
    /// JSON, by serde_json: the default.
    #[default]
    Json = 0,
    /// bincode 2, standard configuration; needs the `bincode` feature to read.
    Bincode = 1,
}

impl CodecTag {
    /// The stored number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The codec with this stored number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(CodecTag::Json),
            1 => Some(CodecTag::Bincode),
            _ => None,
        }
    }
}

/// Bytes with the codec and the type version that they were written with. Cloning shares the bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Payload {
    /// The codec that wrote the bytes.
    pub codec: CodecTag,
    /// The version of the job's type at the time ([`Job::VERSION`](crate::job::Job::VERSION)).
    pub version: u16,
    /// The bytes.
    pub bytes: Bytes,
}

impl Payload {
    /// JSON bytes of version 1, as they are.
    pub fn json(bytes: impl Into<Bytes>) -> Self {
        Payload { codec: CodecTag::Json, version: 1, bytes: bytes.into() }
    }

    /// The length of the bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Payloads may hold anything, secrets included, so Debug shows their size only.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({:?} v{}, {} bytes)", self.codec, self.version, self.bytes.len())
    }
}
