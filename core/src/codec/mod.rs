//! From a typed value to bytes and back. The bytes carry the codec's tag, so reading picks the codec that wrote them.

#[cfg(feature = "bincode")]
mod compact;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::{CodecTag, Job, Payload};

/// A value could not be written or read. The payload itself is not part of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value can't be written in this codec.
    #[error("the value can't be encoded as {codec:?}: {why}")]
    Encode {
        /// The codec.
        codec: CodecTag,
        /// What the codec said.
        why: String,
    },
    /// The bytes don't hold such a value.
    #[error("the {codec:?} payload can't be decoded: {why}")]
    Decode {
        /// The codec.
        codec: CodecTag,
        /// What the codec said.
        why: String,
    },
    /// The bytes are more than allowed.
    #[error(
        "the {what} is {bytes} bytes, and at most {bytes_max} are allowed; store large data elsewhere and enqueue its address, or raise the limit"
    )]
    TooLarge {
        /// "payload", "result" or "checkpoint".
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The codec is not built in.
    #[error("the payload was written with {codec:?}, which this build can't read; enable ferroq's `{feature}` feature")]
    NotBuiltIn {
        /// The codec.
        codec: CodecTag,
        /// The feature to enable.
        feature: &'static str,
    },
    /// The payload is of a newer version than this program's type.
    #[error("the payload has version {found}, and this program reads up to {known}; deploy the newer program")]
    TooNew {
        /// The payload's version.
        found: u16,
        /// This program's.
        known: u16,
    },
    /// An old payload could not be brought up to date.
    #[error(transparent)]
    Upcast(#[from] crate::job::UpcastError),
}

/// Writes a value.
///
/// # Errors
/// [`CodecError::Encode`] if the codec can't write it, [`CodecError::TooLarge`] beyond `bytes_max`.
pub fn encode<T: Serialize>(
    what: &'static str,
    value: &T,
    codec: CodecTag,
    version: u16,
    bytes_max: usize,
) -> Result<Payload, CodecError> {
    let bytes = match codec {
        CodecTag::Json => serde_json::to_vec(value).map_err(|e| CodecError::Encode { codec, why: e.to_string() })?,
        #[cfg(feature = "bincode")]
        CodecTag::Bincode => compact::encode(value)?,
        #[cfg(not(feature = "bincode"))]
        CodecTag::Bincode => return Err(CodecError::NotBuiltIn { codec, feature: "bincode" }),
    };
    if bytes.len() > bytes_max {
        return Err(CodecError::TooLarge { what, bytes: bytes.len(), bytes_max });
    }
    Ok(Payload { codec, version, bytes: bytes.into() })
}

/// Reads a value, after checking its size.
///
/// # Errors
/// [`CodecError::TooLarge`] beyond `bytes_max`, [`CodecError::Decode`] if the bytes don't hold such a value (JSON nested
/// more than 128 deep among them), [`CodecError::NotBuiltIn`] if the codec is missing.
pub fn decode<T: DeserializeOwned>(what: &'static str, payload: &Payload, bytes_max: usize) -> Result<T, CodecError> {
    let codec = payload.codec;
    if payload.bytes.len() > bytes_max {
        return Err(CodecError::TooLarge { what, bytes: payload.bytes.len(), bytes_max });
    }
    match codec {
        CodecTag::Json => {
            serde_json::from_slice(&payload.bytes).map_err(|e| CodecError::Decode { codec, why: plain(&e) })
        }
        #[cfg(feature = "bincode")]
        CodecTag::Bincode => compact::decode(&payload.bytes),
        #[cfg(not(feature = "bincode"))]
        CodecTag::Bincode => Err(CodecError::NotBuiltIn { codec, feature: "bincode" }),
    }
}

/// What serde_json says, without the value that it may quote: payloads never appear in errors.
fn plain(error: &serde_json::Error) -> String {
    format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column())
}

/// Writes a job's payload with the job's codec and version.
///
/// # Errors
/// As [`encode`].
pub fn encode_job<J: Job>(job: &J, bytes_max: usize) -> Result<Payload, CodecError> {
    encode("payload", job, J::CODEC, J::VERSION, bytes_max)
}

/// Reads a job's payload, bringing an old version up to date with [`Job::upcast`].
///
/// # Errors
/// As [`decode`]; [`CodecError::TooNew`] and [`CodecError::Upcast`] for other versions.
pub fn decode_job<J: Job>(payload: &Payload, bytes_max: usize) -> Result<J, CodecError> {
    match payload.version {
        found if found == J::VERSION => decode("payload", payload, bytes_max),
        found if found > J::VERSION => Err(CodecError::TooNew { found, known: J::VERSION }),
        found if payload.codec == CodecTag::Json => {
            let old: serde_json::Value = decode("payload", payload, bytes_max)?;
            Ok(J::upcast(found, old)?)
        }
        found => Err(CodecError::Upcast(crate::job::UpcastError {
            from: found,
            why: format!("only JSON payloads describe themselves well enough, and this one is {:?}", payload.codec),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Greeting {
        name: String,
        loud: bool,
    }

    impl Job for Greeting {
        const NAME: &'static str = "greeting";
        const VERSION: u16 = 2;
        type Output = ();

        fn upcast(from: u16, payload: serde_json::Value) -> Result<Self, crate::job::UpcastError> {
            match payload.get("name").and_then(|name| name.as_str()) {
                Some(name) if from == 1 => Ok(Greeting { name: name.to_owned(), loud: false }),
                _ => Err(crate::job::UpcastError { from, why: "no name".to_owned() }),
            }
        }
    }

    #[test]
    fn an_old_version_is_upcast_and_a_newer_one_is_refused() {
        let old = Payload::json(&br#"{"name":"Ada"}"#[..]);
        let read: Greeting = decode_job(&old, 100).expect("version 1 is upcast");
        assert_eq!(read, Greeting { name: "Ada".into(), loud: false });
        let newer = Payload { version: 3, ..old };
        assert!(matches!(decode_job::<Greeting>(&newer, 100), Err(CodecError::TooNew { found: 3, known: 2 })));
    }

    #[test]
    fn the_size_limit_holds_to_the_byte() {
        let text = "x".repeat(8);
        assert!(encode("payload", &text, CodecTag::Json, 1, 10).is_ok(), "two quotes and eight letters");
        assert!(matches!(encode("payload", &text, CodecTag::Json, 1, 9), Err(CodecError::TooLarge { bytes: 10, .. })));
        let payload = Payload::json(&b"\"xxxxxxxx\""[..]);
        assert!(decode::<String>("payload", &payload, 10).is_ok());
        assert!(matches!(decode::<String>("payload", &payload, 9), Err(CodecError::TooLarge { .. })));
    }

    #[test]
    fn json_nested_ten_thousand_deep_is_an_error_and_not_an_overflow() {
        let deep = Payload::json("[".repeat(10_000) + &"]".repeat(10_000));
        assert!(decode::<serde_json::Value>("payload", &deep, 1 << 20).is_err());
    }

    #[test]
    fn an_error_does_not_quote_the_payload() {
        let payload = Payload::json(&br#"{"name":"hunter2","loud":"hunter2"}"#[..]);
        let payload = Payload { version: 2, ..payload };
        let error = decode_job::<Greeting>(&payload, 100).expect_err("loud is no bool");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
