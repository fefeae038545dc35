//! The scripts: what the server runs for each call of the contract, put together from shared parts, and how they are
//! called. A script is called by its hash; where the server does not know it (it restarted, its cache was flushed, another
//! node took over), the same call goes out once more with the script itself, which runs and teaches it in one step.

use std::fmt;
use std::sync::LazyLock;

use redis::{Cmd, Value};

use crate::error::CallError;
use crate::keys::{self, QueueKeys};
use crate::link::{Link, Reached};
use crate::options::WaitFor;
use crate::record::bytes_of;

/// A script and its hash.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) body: String,
    hash: String,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("name", &self.name).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Script {
    /// A script of these parts. The first two are declared outside, the others within a function of their own: Lua looks for
    /// each name that a function takes from the one around it by walking through all that were taken from there already, and
    /// with everything on one level that alone would take half of a short call's time.
    fn new(name: &'static str, flags: &str, parts: &[&str]) -> Self {
        let shebang = if flags.is_empty() { "#!lua\n".to_owned() } else { format!("#!lua flags={flags}\n") };
        let (outer, inner) = parts.split_at(parts.len().saturating_sub(1).min(2));
        let body = shebang + &outer.concat() + "return (function()\n" + &inner.concat() + "end)()\n";
        let hash = redis::Script::new(&body).get_hash().to_owned();
        Script { name, body, hash }
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

macro_rules! parts {
    ($($part:literal)*) => { &[$(include_str!(concat!("lua/", $part, ".lua"))),*] };
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $flags:literal, [$($part:literal)*];)*) => {
        $(
            $(#[$doc])*
            pub(crate) static $constant: LazyLock<Script> =
                LazyLock::new(|| Script::new($name, $flags, parts!($($part)* $name)));
        )*

        /// Every script there is.
        #[allow(dead_code, reason = "the list of rights is made from it, by a test")]
        pub(crate) fn all() -> Vec<&'static Script> {
            vec![$(&$constant),*]
        }
    };
}

scripts! {
    // Refused when the server is at its memory limit; everything else works on, so that a full server can be emptied.
    ENQUEUE = "enqueue", "", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "finish" "meet" "put"];
    EXCHANGE = "exchange", "allow-oom",
        ["names" "pack" "turn" "record" "rate" "lanes" "leave" "batches" "letter" "finish" "meet" "put" "settle" "claim"];
    RENEW = "renew", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "finish"];
    ANNOTATE = "annotate", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "finish"];
    SWEEP = "sweep", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "batches" "letter" "finish" "settle" "claim"];
    WATCH = "watch", "allow-oom", ["names" "pack" "turn" "record"];
    GATHER = "gather", "allow-oom",
        ["names" "pack" "turn" "record" "rate" "lanes" "leave" "batches" "letter" "finish" "settle" "claim"];
    QUARANTINE = "quarantine", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "batches" "finish" "settle" "claim"];
    DELIVER = "deliver", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "finish" "meet" "put"];
    ACT = "act", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "batches" "letter" "finish" "walk"];
    CONFIGURE = "configure", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "finish" "config"];
    LANE = "lane", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "finish"];
    WINDOWS = "windows", "allow-oom", ["names" "pack" "turn"];
    OBLITERATE = "obliterate", "allow-oom", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "batches" "finish" "walk"];
    RESTORE = "restore", "", ["names" "pack" "turn" "record" "rate" "lanes" "leave" "finish" "config"];
    ACQUIRE = "acquire", "", ["pack" "rate" "limiter"];
    TOKEN = "token", "allow-oom", ["names" "pack"];
    // These only read, and run on a server that takes no writes.
    PEEK = "peek", "no-writes", ["pack" "rate" "limiter"];
    FIND = "find", "no-writes", ["names" "pack" "turn" "record" "walk"];
    EXPLAIN = "explain", "no-writes", ["names" "pack" "turn" "record" "walk"];
    LIST = "list", "no-writes", ["names" "pack" "turn" "record" "walk"];
    MEMBERS = "members", "no-writes", ["names" "pack" "turn" "record" "batches" "walk"];
    COUNTS = "counts", "no-writes", ["names" "pack" "turn" "record" "walk"];
    EVENTS = "events", "no-writes", ["names" "pack" "turn"];
    POLICIES = "policies", "no-writes", ["names" "pack" "turn"];
    STARTS = "starts", "no-writes", ["names" "pack" "turn"];
    SETTINGS = "settings", "no-writes", ["names" "pack" "turn"];
    HELD = "held", "no-writes", ["names" "pack" "turn"];
    SEQS = "seqs", "no-writes", ["names" "pack" "turn"];
    TIME = "time", "no-writes", ["names" "pack" "turn"];
    FOREIGN = "foreign", "no-writes", [];
}
