//! The bincode codec. It stands alone in this file because the crate is at its end (3.0.0 is an empty release):
//! replacing it must not touch anything else.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CodecError;
use crate::job::CodecTag;

const CODEC: CodecTag = CodecTag::Bincode;

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|e| CodecError::Encode { codec: CODEC, why: e.to_string() })
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let why = |why: String| CodecError::Decode { codec: CODEC, why };
    // The limit keeps a damaged length prefix from asking for more memory than the payload could fill.
    let config = bincode::config::standard().with_limit::<{ 64 << 20 }>();
    let (value, read) = bincode::serde::decode_from_slice(bytes, config).map_err(|e| why(e.to_string()))?;
    if read == bytes.len() { Ok(value) } else { Err(why(format!("{} bytes are left over", bytes.len() - read))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_and_left_over_bytes_are_refused() {
        let bytes = encode(&("a", 7u32)).expect("encodes");
        assert_eq!(decode::<(String, u32)>(&bytes).expect("decodes"), ("a".to_owned(), 7));
        assert!(decode::<(String, u32)>(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}
