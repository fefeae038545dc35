//! The names of the queue world, checked once at the door and trusted after. All follow one rule: 1 to 128 bytes of
//! printable text, `:` included; control characters and braces are refused, because braces mark a key's hash slot in
//! Redis and control characters have no business in a log line.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;

/// Why a name was refused. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} {name:?} is refused: {why}")]
pub struct NameError {
    /// What the name was for: "queue name", "lane", "tag".
    pub what: &'static str,
    /// The name, cut after 40 characters.
    pub name: String,
    /// What is wrong with it, and what is allowed.
    pub why: String,
}

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    let why = if name.is_empty() {
        "it is empty; give it 1 to 128 bytes of printable text".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("it is {} bytes long, and at most {NAME_BYTES_MAX} are allowed", name.len())
    } else if let Some((at, c)) = name.char_indices().find(|(_, c)| c.is_control()) {
        format!("it holds the control character {:?} at byte {at}; use printable text", c)
    } else if let Some((at, c)) = name.char_indices().find(|(_, c)| matches!(c, '{' | '}')) {
        format!("it holds {c:?} at byte {at}; braces are reserved")
    } else {
        return Ok(());
    };
    Err(NameError { what, name: name.chars().take(40).collect(), why })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the name and takes it.
            ///
            /// # Errors
            /// [`NameError`] for an empty name, more than 128 bytes, a control character or a brace.
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                check($what, name.as_ref())?;
                Ok($type(name.as_ref().into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $type {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                $type::new(name)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;
            fn try_from(name: &str) -> Result<Self, NameError> {
                $type::new(name)
            }
        }

        impl TryFrom<&String> for $type {
            type Error = NameError;
            fn try_from(name: &String) -> Result<Self, NameError> {
                $type::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                $type::new(name)
            }
        }

        impl TryFrom<&$type> for $type {
            type Error = NameError;
            fn try_from(name: &$type) -> Result<Self, NameError> {
                Ok(name.clone())
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// The name of a queue, such as `emails` or `app:tasks:create`.
    QueueName, "queue name"
}
name! {
    /// The wire name of a kind of job, such as `email.welcome`: always given by hand, never a Rust type name.
    JobKind, "job name"
}
name! {
    /// A label on a job, to find and filter it by.
    Tag, "tag"
}
name! {
    /// What makes two jobs of a queue the same job, as far as deduplication is concerned.
    DedupKey, "dedup key"
}
name! {
    /// Ties together the jobs (and log lines) that one request caused.
    CorrelationId, "correlation id"
}
name! {
    /// Names a limiter that callers ask themselves, such as `signup:203.0.113.7`.
    LimiterName, "limiter name"
}
name! {
    /// Names a worker: one run of one worker in one process.
    WorkerId, "worker id"
}

/// A key within a queue (a tenant, a user, a platform) whose jobs are served in turn with the other lanes' jobs.
/// The default lane is the lane of jobs that name none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LaneKey(Option<LaneName>);

name! {
    /// The name of a lane that is not the default one: `key`, or `class/key`.
    LaneName, "lane"
}

name! {
    /// The class of lanes named `class/key`: what comes before the first `/`.
    LaneClass, "lane class"
}

impl LaneKey {
    /// The lane of jobs that name none.
    pub const DEFAULT: LaneKey = LaneKey(None);

    /// A named lane.
    ///
    /// # Errors
    /// [`NameError`], as for every name.
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        LaneName::new(name).map(|name| LaneKey(Some(name)))
    }

    /// The lane's name; `None` for the default lane.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The class of a lane named `class/key`.
    pub fn class(&self) -> Option<LaneClass> {
        let (class, _) = self.name()?.split_once('/')?;
        // A part of a good name is a good one, unless it is empty: `/key` is in no class.
        LaneClass::new(class).ok()
    }

    /// Whether this is the default lane.
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_any_printable_text_up_to_128_bytes() {
        for name in
            ["a", "app:tasks:create", "it's \"quoted\"", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "日本", &"x".repeat(128)]
        {
            assert_eq!(QueueName::new(name).map(|n| n.as_str().to_owned()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn a_refused_name_says_which_and_why() {
        let cases = [
            ("", "it is empty"),
            ("a\nb", "control character '\\n' at byte 1"),
            ("a\0", "control character '\\0' at byte 1"),
            ("{a}", "braces are reserved"),
            (&"x".repeat(129), "129 bytes long"),
        ];
        for (name, why) in cases {
            let error = QueueName::new(name).expect_err(name).to_string();
            assert!(error.contains(why) && error.starts_with("the queue name"), "{error}");
        }
    }

    #[test]
    fn a_stored_name_is_checked_again_when_it_is_read() {
        assert!(serde_json::from_str::<QueueName>("\"a{b\"").is_err());
    }
}
