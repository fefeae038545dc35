//! The scripts: what the server runs for each call of the contract, put together from shared parts, and how they are
//! called. A script is called by its hash; where the server does not know it (it restarted, its cache was flushed, another
//! node took over), the same call goes out once more with the script itself, which runs and teaches it in one step.

mod fold;

use std::fmt;
use std::sync::LazyLock;

use redis::{Cmd, Value};

use self::fold::Constants;
use crate::error::CallError;
use crate::keys::{self, QueueKeys};
use crate::link::{Link, Reached};
use crate::options::WaitFor;
use crate::record::bytes_of;

/// A script and its hash.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    /// The file of that name, with its header.
    #[allow(dead_code, reason = "the page about the layout is made from it, by a test")]
    pub(crate) source: &'static str,
    pub(crate) body: String,
    hash: String,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("name", &self.name).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Script {
    /// A script of these parts, with constants' values in the places of their names (see `fold`).
    ///
    /// The server makes every function of a script anew for each call, and looks for each name that a function takes from the
    /// one right around it by walking through all that were taken from there already; what comes from further out costs
    /// nothing. So what all scripts share stands on a level of its own, the turn on the next, and what is needed now and then
    /// is in functions which make it when the first of it is asked for (`open` in `turn.lua`).
    fn new(name: &'static str, flags: &str, parts: &Parts) -> Self {
        let mut constants = Constants::default();
        let mut fold = |files: &[&'static str]| files.iter().map(|file| constants.fold(file)).collect::<String>();
        let mut body = if flags.is_empty() { "#!lua\n".to_owned() } else { format!("#!lua flags={flags}\n") };
        for level in parts.before {
            body += &fold(level);
            body += "return (function()\n";
        }
        body += &fold(parts.always);
        for (acts, files) in parts.seldom {
            body += &format!("open.{acts} = function()\n{}end\n", fold(files));
        }
        body += &fold(&[parts.script]);
        body += &"end)()\n".repeat(parts.before.len());
        let hash = redis::Script::new(&body).get_hash().to_owned();
        Script { name, source: parts.script, body, hash }
    }

    /// Calls the script on a queue's keys; `args` adds the arguments, and may be asked to do so twice.
    pub(crate) async fn call(
        &self,
        link: &Link,
        queue: &QueueKeys,
        answers: &str,
        args: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<Value, CallError> {
        let answer = match link.call(&self.command("EVALSHA", &self.hash, queue, answers, &args)).await {
            Err(error) if error.is_noscript() => {
                link.call(&self.command("EVAL", &self.body, queue, answers, &args)).await
            }
            answer => answer,
        };
        named(answer, link, queue, answers).await
    }

    /// Calls a script that is about no queue, on these keys.
    pub(crate) async fn call_on(
        &self,
        link: &Link,
        on: &[&str],
        args: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<Value, CallError> {
        let command = |verb: &str, script: &str| {
            let mut cmd = redis::cmd(verb);
            cmd.arg(script).arg(on.len()).arg(on);
            args(&mut cmd);
            cmd
        };
        let answer = match link.call(&command("EVALSHA", &self.hash)).await {
            Err(error) if error.is_noscript() => link.call(&command("EVAL", &self.body)).await,
            answer => answer,
        };
        // Nobody else writes to the others: they are named by a session.
        answer.map_err(|error| error.about_key(on.first().copied().unwrap_or_default()))
    }

    /// The same, and then waits until what it wrote has got as far as asked.
    pub(crate) async fn call_and_wait(
        &self,
        link: &Link,
        queue: &QueueKeys,
        answers: &str,
        args: impl Fn(&mut Cmd) + Send + Sync,
        wait: &WaitFor,
    ) -> Result<(Value, Result<Reached, CallError>), CallError> {
        let by_hash = self.command("EVALSHA", &self.hash, queue, answers, &args);
        let answer = match link.call_and_wait(queue.meta(), &by_hash, wait).await {
            Err(error) if error.is_noscript() => {
                let whole = self.command("EVAL", &self.body, queue, answers, &args);
                link.call_and_wait(queue.meta(), &whole, wait).await
            }
            answer => answer,
        };
        named(answer, link, queue, answers).await
    }

    fn command(&self, verb: &str, script: &str, queue: &QueueKeys, answers: &str, args: impl Fn(&mut Cmd)) -> Cmd {
        let mut cmd = redis::cmd(verb);
        cmd.arg(script).arg(keys::COUNT);
        for key in queue.names() {
            cmd.arg(key);
        }
        cmd.arg(answers);
        args(&mut cmd);
        cmd
    }
}

/// An answer whose error, if it is about a foreign key, names the key.
async fn named<T>(answer: Result<T, CallError>, link: &Link, queue: &QueueKeys, answers: &str) -> Result<T, CallError> {
    match answer {
        Err(error) if error.is_foreign_key() => Err(name_foreign_key(error, link, queue, answers).await),
        answer => answer,
    }
}

/// The server does not say which of a script's keys is of the wrong type; whoever has to do something about it wants to
/// know.
async fn name_foreign_key(error: CallError, link: &Link, queue: &QueueKeys, answers: &str) -> CallError {
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(&FOREIGN.body).arg(keys::COUNT).arg(queue.names()).arg(answers);
    match link.call(&cmd).await.map(bytes_of) {
        Ok(Ok(key)) if !key.is_empty() => error.about_key(&String::from_utf8_lossy(&key)),
        _ => error,
    }
}

/// The name of a table of acts, and the files that make them.
type Seldom = (&'static str, &'static [&'static str]);

/// The files that a script is made of.
struct Parts {
    /// What comes before, each on a level of its own.
    before: &'static [&'static [&'static str]],
    /// What every call of the script needs.
    always: &'static [&'static str],
    /// What only some calls need.
    seldom: &'static [Seldom],
    /// The script itself.
    script: &'static str,
}

macro_rules! files {
    ($($file:literal)*) => { &[$(include_str!(concat!("../lua/", $file, ".lua"))),*] };
}

/// What comes before a script that is about a queue's turn, and before one that isn't.
macro_rules! before {
    (turn) => { &[files!("names" "pack"), files!("turn")] };
    (bare) => { &[] };
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $flags:literal, $before:ident [$($file:literal)*], [$($seldom:ident)*];)*) => {
        $(
            $(#[$doc])*
            pub(crate) static $constant: LazyLock<Script> = LazyLock::new(|| {
                let parts = Parts {
                    before: before!($before),
                    always: files!($($file)*),
                    seldom: &[$($seldom),*],
                    script: include_str!(concat!("../lua/", $name, ".lua")),
                };
                Script::new($name, $flags, &parts)
            });
        )*

        /// Every script there is.
        #[allow(dead_code, reason = "the list of rights is made from it, by a test")]
        pub(crate) fn all() -> Vec<&'static Script> {
            vec![$(&$constant),*]
        }
    };
}

/// What scripts need of jobs apart from the steady state, by what they do with them.
const READS: Seldom = ("job", files!("record"));
const KEEPS: Seldom = ("job", files!("record" "leases" "leave"));
const PUTS: Seldom = ("job", files!("record" "leases" "leave" "meet" "insert"));
const SETTLES: Seldom = ("job", files!("record" "leases" "leave" "letter" "outcome" "due"));
const EXCHANGES: Seldom =
    ("job", files!("record" "leases" "leave" "letter" "meet" "insert" "outcome" "done" "due" "solo"));
const ACTS: Seldom = ("job", files!("record" "leases" "leave" "letter"));
/// What they need of lanes, and of batches.
const LANES: Seldom = ("lanes", files!("rate" "gates" "lane_rules" "lanes" "lane_room" "lane_starts" "lane_settings"));
const SERVES: Seldom =
    ("lanes", files!("rate" "gates" "lane_rules" "lanes" "lane_room" "lane_starts" "lane_turns" "serve"));
const GATES: Seldom = ("lanes", files!("gates"));
const BATCHES: Seldom = ("batches", files!("batches"));

scripts! {
    // Refused when the server is at its memory limit; everything else works on, so that a full server can be emptied.
    ENQUEUE = "enqueue", "", turn ["finish" "put"], [PUTS LANES];
    EXCHANGE = "exchange", "allow-oom", turn ["finish" "put" "settle" "claim"], [EXCHANGES SERVES BATCHES];
    RENEW = "renew", "allow-oom", turn ["finish"], [KEEPS LANES];
    ANNOTATE = "annotate", "allow-oom", turn ["finish"], [KEEPS LANES];
    SWEEP = "sweep", "allow-oom", turn ["finish"], [SETTLES LANES BATCHES];
    WATCH = "watch", "allow-oom", turn [], [READS LANES];
    GATHER = "gather", "allow-oom", turn ["finish"], [SETTLES LANES BATCHES];
    QUARANTINE = "quarantine", "allow-oom", turn ["finish"], [SETTLES LANES BATCHES];
    DELIVER = "deliver", "allow-oom", turn ["finish" "put"], [PUTS LANES];
    ACT = "act", "allow-oom", turn ["finish" "walk"], [ACTS LANES BATCHES];
    CONFIGURE = "configure", "allow-oom", turn ["finish" "config"], [KEEPS LANES BATCHES];
    LANE = "lane", "allow-oom", turn ["finish"], [KEEPS LANES BATCHES];
    WINDOWS = "windows", "allow-oom", turn [], [];
    OBLITERATE = "obliterate", "allow-oom", turn ["finish" "walk"], [KEEPS LANES BATCHES];
    RESTORE = "restore", "", turn ["finish" "config"], [KEEPS LANES BATCHES];
    ACQUIRE = "acquire", "", bare ["names" "pack" "rate" "limiter"], [];
    TOKEN = "token", "allow-oom", bare ["names" "pack"], [];
    // These only read, and run on a server that takes no writes.
    PEEK = "peek", "no-writes", bare ["names" "pack" "rate" "limiter"], [];
    FIND = "find", "no-writes", turn ["walk"], [READS];
    EXPLAIN = "explain", "no-writes", turn ["walk"], [READS GATES];
    LIST = "list", "no-writes", turn ["walk"], [READS];
    MEMBERS = "members", "no-writes", turn ["walk"], [READS BATCHES];
    COUNTS = "counts", "no-writes", turn ["walk"], [READS];
    EVENTS = "events", "no-writes", turn [], [];
    POLICIES = "policies", "no-writes", turn [], [];
    STARTS = "starts", "no-writes", turn [], [];
    SETTINGS = "settings", "no-writes", turn [], [];
    HELD = "held", "no-writes", turn [], [];
    SEQS = "seqs", "no-writes", turn [], [];
    TIME = "time", "no-writes", turn [], [];
    FOREIGN = "foreign", "no-writes", bare [], [];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name in capitals that is left is a constant that some file uses and none before it declares.
    #[test]
    fn no_constant_is_left_in_any_script() {
        for script in all() {
            let left: Vec<&str> = fold::tokens(&script.body)
                .into_iter()
                .filter(|token| token.starts_with(|c: char| c.is_ascii_uppercase()) && !token.starts_with("KEYS["))
                .filter(|word| !["KEYS", "ARGV", "WALK"].contains(word))
                .collect();
            assert!(left.is_empty(), "{}: {left:?}", script.name);
        }
    }
}
