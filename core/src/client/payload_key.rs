//! A dedup key made from what a job carries. Two jobs get the same key if they are of one kind and their payloads are the
//! same bytes; for JSON, if they are the same value: the order of an object's members, white space and the way in which a
//! text's characters are escaped don't count. Numbers count as they are written, so that 1 and 1.0 differ and no digit of
//! a long one is lost. The key depends on nothing but that, so it is the same on every machine and in every version.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::job::{CodecTag, JobKind, Payload};

/// What the hash begins with: another way to hash would begin with another text.
const DOMAIN: &[u8] = b"ferroq payload key 1\n";
/// How deep values are taken apart. What lies deeper counts as it is written, which makes no stack overflow.
const DEPTH_MAX: usize = 64;

/// The key of a job by its kind and payload.
pub(super) fn key_of(kind: &JobKind, payload: &Payload) -> String {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update((kind.len() as u64).to_be_bytes());
    hash.update(kind.as_bytes());
    hash.update([payload.codec.number()]);
    match canonical(payload) {
        Some(json) => hash.update(json),
        None => hash.update(&payload.bytes),
    }
    let mut key = String::from("payload:");
    for byte in hash.finalize() {
        key.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    key
}

/// A JSON payload in the one form that all of its forms share; `None` if it is none.
fn canonical(payload: &Payload) -> Option<String> {
    if payload.codec != CodecTag::Json {
        return None;
    }
    let text = std::str::from_utf8(&payload.bytes).ok()?;
    let mut json = String::with_capacity(text.len());
    write(serde_json::from_str(text).ok()?, 0, &mut json)?;
    Some(json)
}

fn write(value: &RawValue, depth: usize, to: &mut String) -> Option<()> {
    let text = value.get().trim();
    match text.as_bytes().first()? {
        _ if depth >= DEPTH_MAX => to.push_str(text),
        b'{' => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            to.push('{');
            for (place, (name, member)) in members.into_iter().enumerate() {
                to.push_str(if place > 0 { "," } else { "" });
                to.push_str(&serde_json::to_string(&name).ok()?);
                to.push(':');
                write(member, depth + 1, to)?;
            }
            to.push('}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            to.push('[');
            for (place, item) in items.into_iter().enumerate() {
                to.push_str(if place > 0 { "," } else { "" });
                write(item, depth + 1, to)?;
            }
            to.push(']');
        }
        b'"' => {
            let plain: String = serde_json::from_str(text).ok()?;
            to.push_str(&serde_json::to_string(&plain).ok()?);
        }
        _ => to.push_str(text),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::DedupKey;

    fn key(kind: &str, json: &str) -> String {
        key_of(&kind.parse().expect("a kind"), &Payload::json(json.as_bytes().to_vec()))
    }

    #[test]
    fn the_form_of_json_does_not_count() {
        let one = key("k", r#"{"a":1,"b":{"x":[1,"é"],"y":null}}"#);
        assert_eq!(one, key("k", "{ \"b\": {\"y\": null, \"x\": [ 1, \"\\u00e9\" ]},\n \"a\": 1 }"));
    }

    #[test]
    fn kind_values_digits_and_the_order_of_a_list_count() {
        let forms =
            [("k", "[1,2]"), ("k", "[2,1]"), ("l", "[1,2]"), ("k", "[1.0,2]"), ("k", "[12]"), ("k", "[\"1\",2]")];
        let keys: std::collections::BTreeSet<_> = forms.iter().map(|(kind, json)| key(kind, json)).collect();
        assert_eq!(keys.len(), forms.len());
        let long = "340282366920938463463374607431768211455";
        assert_ne!(key("k", long), key("k", &long.replace("455", "454")), "no digit is lost");
    }

    #[test]
    fn a_key_is_the_same_in_every_version() {
        let expected = "payload:55c74e21cf7859ed98761b7585be4613b2760ec06165a811e7cefecebdfa7cb5";
        let key = key("email.welcome", r#"{"to":"ada@example.org"}"#);
        assert_eq!(key, expected, "a key that changes lets jobs in twice while versions are mixed");
        assert!(DedupKey::new(&key).is_ok());
    }

    #[test]
    fn bytes_that_are_no_json_and_deep_values_have_keys_too() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for odd in ["", "{", "\u{0}", &deep] {
            assert_eq!(key("k", odd), key("k", odd));
        }
        assert_ne!(key("k", "{"), key("k", "["));
    }
}
