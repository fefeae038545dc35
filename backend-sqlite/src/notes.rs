//! Notes as they are stored: JSON, in which the bytes of a result or a checkpoint are text where they are JSON
//! themselves, as with the default codec, and base64 where they are not. Serde's own form of bytes, an array of
//! numbers, is several times as long.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ferroq_core::job::{CodecTag, ErrorEntry, LogLine, Notes, Payload, Progress};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored<'a> {
    #[serde(skip_serializing_if = "is_empty")]
    errors: Cow<'a, [ErrorEntry]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Cow<'a, Progress>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<StoredPayload<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<StoredPayload<'a>>,
    #[serde(skip_serializing_if = "is_empty")]
    log: Cow<'a, [LogLine]>,
}

fn is_empty<T: Clone>(list: &[T]) -> bool {
    list.is_empty()
}

#[derive(Serialize, Deserialize)]
struct StoredPayload<'a> {
    codec: CodecTag,
    version: u16,
    #[serde(flatten)]
    bytes: Bytes<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Bytes<'a> {
    Text(Cow<'a, str>),
    Base64(String),
}

impl<'a> StoredPayload<'a> {
    fn of(payload: &'a Payload) -> Self {
        let text = std::str::from_utf8(&payload.bytes).ok().filter(|_| payload.codec == CodecTag::Json);
        let bytes = match text {
            Some(text) => Bytes::Text(Cow::Borrowed(text)),
            None => Bytes::Base64(BASE64.encode(&payload.bytes)),
        };
        StoredPayload { codec: payload.codec, version: payload.version, bytes }
    }

    fn read(self) -> Option<Payload> {
        let bytes = match self.bytes {
            Bytes::Text(text) => text.into_owned().into_bytes(),
            Bytes::Base64(text) => BASE64.decode(text).ok()?,
        };
        Some(Payload { codec: self.codec, version: self.version, bytes: bytes.into() })
    }
}

/// Notes as they are stored.
pub(crate) fn write(notes: &Notes) -> Option<Vec<u8>> {
    let stored = Stored {
        errors: Cow::Borrowed(&notes.errors),
        progress: notes.progress.as_ref().map(Cow::Borrowed),
        checkpoint: notes.checkpoint.as_ref().map(StoredPayload::of),
        result: notes.result.as_ref().map(StoredPayload::of),
        log: Cow::Borrowed(&notes.log),
    };
    serde_json::to_vec(&stored).ok()
}

/// Stored notes; `None` if they can't be read.
pub(crate) fn read(bytes: &[u8]) -> Option<Notes> {
    let stored: Stored<'_> = serde_json::from_slice(bytes).ok()?;
    let payload = |stored: Option<StoredPayload<'_>>| match stored {
        Some(stored) => stored.read().map(Some),
        None => Some(None),
    };
    Some(Notes {
        errors: stored.errors.into_owned(),
        progress: stored.progress.map(Cow::into_owned),
        checkpoint: payload(stored.checkpoint)?,
        result: payload(stored.result)?,
        log: stored.log.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_come_back_and_are_not_much_longer() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
        let notes = Notes {
            checkpoint: Some(Payload { codec: CodecTag::Bincode, version: 7, bytes: bytes.into() }),
            result: Some(Payload::json(br#"{"name":"a \"quoted\" one"}"#.to_vec())),
            ..Notes::default()
        };
        let stored = write(&notes).expect("notes");
        assert!(stored.len() < 3000 * 4 / 3 + 200, "{} bytes", stored.len());
        assert_eq!(read(&stored), Some(notes));
    }

    #[test]
    fn bytes_that_claim_to_be_json_and_are_no_text_come_back() {
        let notes = Notes { result: Some(Payload::json(vec![0xff, 0])), ..Notes::default() };
        assert_eq!(read(&write(&notes).expect("notes")), Some(notes));
    }

    #[test]
    fn damaged_notes_are_told_from_none() {
        assert_eq!(read(b"{\"result\":{\"codec\":\"json\",\"version\":1,\"base64\":\"*\"}}"), None);
        assert_eq!(read(b"{}"), Some(Notes::default()));
    }
}
