//! What a failed command means to a caller: what happened to the data, and what to do about it. [`CallError`] is the
//! failure itself, before anyone decides what it means for a queue; turning it into a [`StorageError`] decides that.
//!
//! Scripts validate before they write, so an error that a script raises itself, and one that Redis gives before running
//! anything, changed nothing. Whether a command whose answer was lost took effect is unknown, and so is what a script had
//! done before its user lacked a right.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::storage::{ErrorCode, StorageError};
use redis::{ErrorKind, RedisError, ServerError, Value};

/// A command that failed.
#[derive(Clone, Debug)]
pub(crate) struct CallError {
    cause: Cause,
    /// The server it was for, or all that were tried.
    place: Arc<str>,
}

#[derive(Clone, Debug)]
enum Cause {
    /// The handle was closed.
    Closed,
    /// The server answered with an error.
    Answer { code: String, text: String },
    /// The user lacks these rights; a script may have found that out half way.
    Lacking { missing: String, in_script: bool },
    /// No connection could be made, so nothing was sent.
    Connect { code: ErrorCode, message: String },
    /// The connection was lost after the command may have been sent.
    Lost(RedisError),
    /// The server did not answer within this time.
    Silent(Duration),
    /// The answer is not what the protocol or the caller expects.
    Unexpected(&'static str),
}

impl CallError {
    pub(crate) fn closed() -> Self {
        CallError { cause: Cause::Closed, place: "".into() }
    }

    pub(crate) fn answer(place: &Arc<str>, error: &ServerError) -> Self {
        let text = plain(error.details().unwrap_or_default());
        CallError { cause: Cause::Answer { code: error.code().to_owned(), text }, place: place.clone() }
    }

    /// What the redis crate made of an answer, or of there being none.
    pub(crate) fn from_redis(place: &Arc<str>, error: RedisError) -> Self {
        match ServerError::try_from(error) {
            Ok(answer) => Self::answer(place, &answer),
            Err(error) => Self::lost(place, error),
        }
    }

    pub(crate) fn lost(place: &Arc<str>, error: RedisError) -> Self {
        CallError { cause: Cause::Lost(error), place: place.clone() }
    }

    pub(crate) fn silent(place: &Arc<str>, waited: Duration) -> Self {
        CallError { cause: Cause::Silent(waited), place: place.clone() }
    }

    pub(crate) fn unexpected(place: &Arc<str>, what: &'static str) -> Self {
        CallError { cause: Cause::Unexpected(what), place: place.clone() }
    }

    /// Nothing was sent, since there is no connection.
    pub(crate) fn not_connected(place: &Arc<str>, code: ErrorCode, why: impl fmt::Display) -> Self {
        let message = format!("can't connect to Redis at {place}: {why}");
        CallError { cause: Cause::Connect { code, message }, place: place.clone() }
    }

    /// Nothing was sent, since connecting failed like this.
    pub(crate) fn connecting(place: &Arc<str>, error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::not_connected(
                place,
                ErrorCode::Denied,
                "the server refused the user or password; check both (`ACL LIST` on the server shows its users)",
            ),
            _ => Self::not_connected(place, ErrorCode::Unavailable, error),
        }
    }

    /// Nothing was sent, since the server answered the greeting like this.
    pub(crate) fn greeting(place: &Arc<str>, error: &ServerError) -> Self {
        let StorageText { code, message } = meaning(error.code(), &plain(error.details().unwrap_or_default()));
        Self::not_connected(place, code, message)
    }

    /// What the server called the error: `NOSCRIPT`, `OOM`, `FERROQ_SCHEMA`.
    pub(crate) fn server_code(&self) -> Option<&str> {
        match &self.cause {
            Cause::Answer { code, .. } => Some(code),
            _ => None,
        }
    }

    /// What the server said after its code.
    pub(crate) fn server_text(&self) -> Option<&str> {
        match &self.cause {
            Cause::Answer { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The same failure with the key's name, where it says that a key is not ferroq's.
    pub(crate) fn about_key(mut self, key: &str) -> Self {
        if let Cause::Answer { code, text } = &mut self.cause
            && code == "WRONGTYPE"
        {
            key.clone_into(text);
        }
        self
    }

    /// Whether a key holds something that ferroq did not put there.
    pub(crate) fn is_foreign_key(&self) -> bool {
        self.server_code() == Some("WRONGTYPE")
    }

    /// Whether the script has to be sent as a whole.
    pub(crate) fn is_noscript(&self) -> bool {
        self.server_code() == Some("NOSCRIPT")
    }

    /// The same failure for a call that was not even sent because of it.
    pub(crate) fn not_sent(self) -> Self {
        let StorageText { code, message } = self.told();
        CallError { cause: Cause::Connect { code, message }, place: self.place }
    }

    fn may_have_effect(&self) -> bool {
        match &self.cause {
            Cause::Closed | Cause::Connect { .. } => false,
            Cause::Answer { code, text } => !comes_before_effects(code, text),
            Cause::Lacking { in_script, .. } => *in_script,
            Cause::Lost(_) | Cause::Silent(_) | Cause::Unexpected(_) => true,
        }
    }

    fn told(&self) -> StorageText {
        let place = &self.place;
        let (code, message) = match &self.cause {
            Cause::Closed => (ErrorCode::Closed, CLOSED.into()),
            Cause::Connect { code, message } => (*code, message.clone()),
            Cause::Lost(_) => {
                (ErrorCode::Unavailable, format!("the connection to Redis at {place} was lost before it answered"))
            }
            Cause::Silent(waited) => (
                ErrorCode::Unavailable,
                format!("Redis at {place} did not answer within {waited:?}; its connection was given up"),
            ),
            Cause::Unexpected(what) => (ErrorCode::Corrupt, format!("Redis at {place} answered {what}")),
            Cause::Answer { code, text } => return meaning(code, text),
            Cause::Lacking { missing, .. } => (ErrorCode::Denied, denied(missing)),
        };
        StorageText { code, message }
    }

    /// Whether the server refused because of what this user may not do.
    pub(crate) fn lacks_a_right(&self) -> bool {
        match &self.cause {
            Cause::Answer { code, text } => code == "NOPERM" || is_denied_in_script(text),
            Cause::Lacking { .. } => true,
            _ => false,
        }
    }

    /// The same, once it is known which rights those are.
    pub(crate) fn lacking(self, missing: String) -> Self {
        let in_script = self.server_text().is_some_and(is_denied_in_script);
        CallError { cause: Cause::Lacking { missing, in_script }, place: self.place }
    }

    /// Whether this says that the connection leads to a server that can't serve now, rather than anything about the
    /// command.
    pub(crate) fn is_about_the_server(&self) -> bool {
        matches!(self.server_code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "UNBLOCKED"))
    }

    /// Whether nothing was run and another server may be the right one by now.
    pub(crate) fn may_be_elsewhere(&self) -> bool {
        self.is_about_the_server() || matches!(self.cause, Cause::Connect { .. })
    }

    /// Whether the server does not let this user in.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self.cause, Cause::Connect { code: ErrorCode::Denied, .. })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told().message)
    }
}

/// The server's error in an answer, if it is one.
pub(crate) fn checked(place: &Arc<str>, answer: Value) -> Result<Value, CallError> {
    match answer {
        Value::ServerError(error) => Err(CallError::answer(place, &error)),
        answer => Ok(answer),
    }
}

impl From<CallError> for StorageError {
    fn from(error: CallError) -> Self {
        let StorageText { code, message } = error.told();
        let told = StorageError::new(code, message);
        let told = if error.may_have_effect() { told.effect_unknown() } else { told };
        match error.cause {
            Cause::Lost(why) => told.because(why),
            _ => told,
        }
    }
}

/// Whether an error reply says that nothing was written: Redis refused before it ran anything, a script refused by
/// itself (`FERROQ_..`), or a script's first look at a key failed, which comes before its first write.
fn comes_before_effects(code: &str, text: &str) -> bool {
    const BEFORE: [&str; 21] = [
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "CROSSSLOT",
        "NOPERM",
        "NOAUTH",
        "WRONGPASS",
        "MISCONF",
        "NOREPLICAS",
        "BUSY",
        "UNKILLABLE",
        "WRONGTYPE",
        "NOPROTO",
        "DENIED",
        "UNBLOCKED",
    ];
    // A script finds out what its user may not do when it gets there. Nothing undoes what came before.
    if is_denied_in_script(text) {
        return false;
    }
    BEFORE.contains(&code)
        || code.starts_with("FERROQ_")
        || is_unknown_command(text)
        || text.contains("cluster support disabled")
}

fn is_unknown_command(text: &str) -> bool {
    text.starts_with("unknown command") || text.starts_with("Unknown Redis command")
}

/// How Redis words a missing right inside a script: 7.0 without a code of its own, later versions likewise.
fn is_denied_in_script(text: &str) -> bool {
    text.starts_with("The user executing the script can't") || text.starts_with("ACL failure in script")
}

struct StorageText {
    code: ErrorCode,
    message: String,
}

/// What an error reply means.
fn meaning(code: &str, text: &str) -> StorageText {
    let (code, message) = match code {
        "OOM" => (
            ErrorCode::Full,
            "Redis is at its maxmemory and takes no more; raise maxmemory or let workers remove jobs".into(),
        ),
        "MISCONF" if text.contains("disk") || text.contains("AOF") || text.contains("RDB") => (
            ErrorCode::ReadOnly,
            format!("Redis takes no writes because it can't save to disk; look at its log and disk: {text}"),
        ),
        "MISCONF" => (ErrorCode::ReadOnly, format!("Redis takes no writes: {text}")),
        "READONLY" => (
            ErrorCode::Unavailable,
            "this Redis server is a replica now and takes no writes; looking for the master".into(),
        ),
        "UNBLOCKED" => (ErrorCode::Unavailable, "this Redis server has become a replica while the call waited".into()),
        "LOADING" => (ErrorCode::Unavailable, "Redis is still loading its data".into()),
        "MASTERDOWN" => (ErrorCode::Unavailable, "this Redis replica has lost its master".into()),
        "CLUSTERDOWN" => (ErrorCode::Unavailable, format!("the Redis cluster is down: {text}")),
        "TRYAGAIN" | "MOVED" | "ASK" => {
            (ErrorCode::Unavailable, "the keys are being moved between Redis nodes; try again".into())
        }
        "NOREPLICAS" => (
            ErrorCode::Unavailable,
            "Redis has fewer replicas than its min-replicas-to-write asks for, so it takes no writes".into(),
        ),
        "BUSY" | "UNKILLABLE" => {
            (ErrorCode::Busy, "Redis is busy with a script that has run for too long; `SCRIPT KILL` ends it".into())
        }
        "NOPERM" => (ErrorCode::Denied, denied(text)),
        "NOAUTH" => (ErrorCode::Denied, "Redis wants a password; give user and password in the URL".into()),
        "WRONGPASS" => (ErrorCode::Denied, "Redis refused the user or password".into()),
        "DENIED" => (ErrorCode::Denied, format!("Redis refuses connections from here: {text}")),
        "WRONGTYPE" if text.starts_with("ferroq:") => (
            ErrorCode::Corrupt,
            format!(
                "the key {text} holds something that ferroq did not put there; use another namespace, or remove that key"
            ),
        ),
        "WRONGTYPE" => (
            ErrorCode::Corrupt,
            "a key of this namespace holds something that ferroq did not put there; use another namespace, or remove \
             that key"
                .into(),
        ),
        "CROSSSLOT" => (ErrorCode::Other, format!("keys of one call lie in different cluster slots: {text}")),
        "FERROQ_SCHEMA" => (ErrorCode::SchemaTooNew, text.to_owned()),
        "FERROQ_INVALID" => (ErrorCode::Invalid, text.to_owned()),
        "FERROQ_CORRUPT" => (ErrorCode::Corrupt, text.to_owned()),
        "FERROQ_FORGOTTEN" => (ErrorCode::Forgotten, text.to_owned()),
        _ if is_unknown_command(text) => {
            (ErrorCode::Unsupported, format!("this server lacks a command that is needed: {text}"))
        }
        _ if text.contains("cluster support disabled") => (
            ErrorCode::Unsupported,
            "this Redis server is not part of a cluster; begin the URL with redis:// or rediss://".into(),
        ),
        _ if is_denied_in_script(text) => (ErrorCode::Denied, denied(text)),
        _ => (ErrorCode::Other, format!("Redis refused a command: {code} {text}")),
    };
    StorageText { code, message }
}

/// What to do about a right that a user lacks.
pub(crate) fn denied(text: &str) -> String {
    format!("this Redis user lacks a right: {text}; docs/redis-acl.md has the rule that grants all that is needed")
}

/// An error's text without what Redis puts around the ones that come out of a script:
/// `text script: <sha1>, on @user_script:1.`
fn plain(text: &str) -> String {
    let text = text.trim_end();
    let end = text.rfind(" script: ").filter(|at| {
        let tail = &text[at + " script: ".len()..];
        tail.split(',').next().is_some_and(|sha| sha.len() == 40 && sha.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    end.map_or(text, |at| &text[..at]).trim_end().to_owned()
}

const CLOSED: &str = "this handle was closed; open another one";

/// The handle was closed.
pub(crate) fn closed() -> StorageError {
    StorageError::new(ErrorCode::Closed, CLOSED)
}

/// The request makes no sense.
pub(crate) fn invalid(message: impl Into<String>) -> StorageError {
    StorageError::new(ErrorCode::Invalid, message)
}

/// A server or setting that can't be used.
pub(crate) fn unsupported(message: impl Into<String>) -> StorageError {
    StorageError::new(ErrorCode::Unsupported, message)
}

#[cfg(test)]
mod tests;
