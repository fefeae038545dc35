//! The queue's rules as pure functions of state, input and time: no clock, no I/O, no global randomness. A storage
//! that can call them does (memory, SQLite); one that can't repeats them (scripts), and the conformance suite holds
//! them together.

pub mod backoff;
pub mod batch;
pub mod dead_letter;
pub mod dedup;
pub mod enqueue;
pub mod explain;
pub mod lanes;
pub mod rate;
pub mod retention;
pub mod settle;

/// Durations stored as whole microseconds.
pub(crate) mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(crate::clock::micros(*span))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_micros)
    }

    pub(crate) mod option {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
            match span {
                Some(span) => to.serialize_some(&crate::clock::micros(*span)),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(from)?.map(Duration::from_micros))
        }
    }

    pub(crate) mod list {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(spans: &[Duration], to: S) -> Result<S::Ok, S::Error> {
            to.collect_seq(spans.iter().map(|span| crate::clock::micros(*span)))
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
            Ok(Vec::<u64>::deserialize(from)?.into_iter().map(Duration::from_micros).collect())
        }
    }
}
