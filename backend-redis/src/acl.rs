//! The rights that ferroq needs on a server, and no more: taken from the scripts themselves and from the list of what the
//! client sends. `docs/redis-acl.md` is generated from here by a test. A user that lacks one is told which: a script can
//! ask Redis what its user may do, so that takes no further right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use redis::{Cmd, Value};

use crate::keys;
use crate::options::{RedisOptions, Servers};
use crate::script;

/// Asks what the user may do. It stands on its own: it is run when something else could not.
const QUESTION: &str = concat!("#!lua flags=no-writes\n", include_str!("lua/rights.lua"));

/// What a command is used on, and so what else a user needs for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum On {
    Queues,
    Registry,
    Channels,
    Nothing,
}

/// What the client sends outside of scripts, and what for.
const CLIENT: [(&str, On, &str); 14] = [
    ("blpop", On::Queues, "an idle worker waits for a wake-up"),
    ("del", On::Queues, "a limiter that is reset"),
    ("eval", On::Queues, "every call whose script the server does not know yet"),
    ("evalsha", On::Queues, "every call"),
    ("exists", On::Queues, "which of the queues that are listed exist"),
    ("info", On::Nothing, "opening: version, memory policy, persistence, replicas"),
    // A refused ping is an answer too. But each would leave an entry in the server's ACL LOG.
    ("ping", On::Nothing, "whether a connection still leads to a server"),
    ("sadd", On::Registry, "the list of queues"),
    ("sismember", On::Registry, "the list of queues: whether one is in it already, since a full server takes no more"),
    ("smembers", On::Registry, "the list of queues"),
    ("srem", On::Registry, "the list of queues, when one is obliterated"),
    ("subscribe", On::Channels, "hints: something was changed by hand, a job ended that somebody waits for"),
    ("zrange", On::Queues, "follow-ups on their way to another queue"),
    ("zrem", On::Queues, "follow-ups that have got there"),
];

/// How a script names a command: directly, or through a helper of `pack.lua`.
const CALLS: [&str; 2] = ["call('", "many('"];

/// So many scripts are named on the page.
const NAMED_MAX: usize = 6;

/// A command that a user must be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Right {
    /// As ACL rules name it: `hset`, `xinfo|stream`.
    command: String,
    on: On,
}

/// What a user of these options must be allowed.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    namespace: String,
    commands: Vec<Right>,
}

impl RedisOptions {
    /// The rule for a user that can do all that these options ask for and nothing else: what follows
    /// `ACL SETUSER name on >password`. `docs/redis-acl.md` says what each right is for.
    pub fn acl_rule(&self) -> String {
        let rights = Rights::of(self);
        let commands = rights.commands.iter().map(|right| format!(" +{}", right.command));
        let places = [On::Registry, On::Queues, On::Channels].map(|on| rights.pattern(on));
        commands.fold(format!("resetkeys resetchannels -@all {}", places.join(" ")), |rule, command| rule + &command)
    }

    /// Each command of the [rule](Self::acl_rule), and what it is for. For the page that lists them.
    #[doc(hidden)]
    pub fn acl_uses(&self) -> Vec<(String, String)> {
        let (scripts, extra) = (&*SCRIPT_COMMANDS, self.extra_commands());
        let mut uses = Vec::new();
        for Right { command, .. } in Rights::of(self).commands {
            let mut what: Vec<String> = CLIENT
                .iter()
                .chain(&extra)
                .filter(|(name, ..)| *name == command)
                .map(|(.., what)| (*what).to_owned())
                .collect();
            if let Some(scripts) = scripts.get(&command) {
                what.push(match scripts.len() {
                    0..=NAMED_MAX => format!("scripts: {}", scripts.iter().copied().collect::<Vec<_>>().join(", ")),
                    _ => "many scripts".to_owned(),
                });
            }
            uses.push((command, what.join("; ")));
        }
        uses
    }

    /// What only some options need.
    fn extra_commands(&self) -> Vec<(&'static str, On, &'static str)> {
        let mut extra = Vec::new();
        if self.database != 0 {
            extra.push(("select", On::Nothing, "a database other than 0"));
        }
        match self.servers {
            Servers::One(_) => {}
            Servers::Sentinel { .. } => {
                extra.push(("role", On::Nothing, "behind Sentinels: whether this is the master"))
            }
            Servers::Cluster(_) => {
                extra.push(("asking", On::Nothing, "in a Cluster: a slot that is on its way to this node"));
                extra.push(("cluster|slots", On::Nothing, "in a Cluster: which node has what"));
            }
        }
        match self.replicas_wait {
            None => {}
            Some(wait) if wait.fsync => extra.push(("waitaof", On::Nothing, "waiting for copies on disk")),
            Some(_) => extra.push(("wait", On::Nothing, "waiting for copies")),
        }
        extra
    }
}

/// What [`script_commands`] finds. All scripts are read for it, which is too much for each opening.
static SCRIPT_COMMANDS: LazyLock<BTreeMap<String, BTreeSet<&'static str>>> = LazyLock::new(script_commands);

/// The commands that scripts call, in lower case, each with the names of the scripts.
fn script_commands() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut commands: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for script in script::all() {
        for call in CALLS {
            for after in script.body.split(call).skip(1) {
                let name: String = after.chars().take_while(char::is_ascii_alphabetic).collect();
                let rest = &after[name.len()..];
                // XINFO has subcommands, and one is all that is needed.
                let sub = rest.strip_prefix("', 'STREAM'").filter(|_| name == "XINFO").map(|_| "|stream");
                let name = name.to_ascii_lowercase() + sub.unwrap_or_default();
                if !name.is_empty() {
                    commands.entry(name).or_default().insert(script.name);
                }
            }
        }
    }
    commands
}

impl Rights {
    pub(crate) fn of(options: &RedisOptions) -> Self {
        let extra = options.extra_commands();
        let sent = CLIENT.iter().chain(&extra).map(|(name, on, _)| ((*name).to_owned(), *on));
        let called = SCRIPT_COMMANDS.keys().cloned().map(|name| {
            let on = match name.as_str() {
                "publish" => On::Channels,
                "time" => On::Nothing,
                _ => On::Queues,
            };
            (name, on)
        });
        let all: BTreeSet<(String, On)> = sent.chain(called).collect();
        // A script that publishes, or a list that is also kept of something else, makes no second right.
        let mut commands: Vec<Right> = Vec::new();
        for (command, on) in all {
            if commands.last().is_none_or(|last| last.command != command) {
                commands.push(Right { command, on });
            }
        }
        Rights { namespace: options.namespace.clone(), commands }
    }

    /// What a rule says about where the commands may be used.
    fn pattern(&self, on: On) -> String {
        let namespace = &self.namespace;
        match on {
            On::Queues => format!("~ferroq:{{{namespace}:*"),
            On::Registry => format!("~ferroq:{{{namespace}}}:*"),
            On::Channels => format!("&ferroq:{{{namespace}:*"),
            On::Nothing => String::new(),
        }
    }

    /// The command as it might be sent. Nothing is run: Redis only looks at the command and at which of its words are keys.
    fn sample(&self, right: &Right) -> Vec<String> {
        let key = match right.on {
            On::Queues | On::Channels => format!("ferroq:{{{}:queue}}:meta", self.namespace),
            On::Registry => keys::registry(&self.namespace),
            On::Nothing => String::new(),
        };
        let mut words: Vec<String> = right.command.split('|').map(str::to_owned).collect();
        match right.command.as_str() {
            // The words behind these would be keys as well.
            "del" | "exists" | "unlink" | "subscribe" => words.push(key),
            "eval" | "evalsha" => words.extend(["".to_owned(), "1".to_owned(), key]),
            _ if right.on == On::Nothing => {}
            _ => words.extend([key, "1".to_owned()]),
        }
        words
    }

    /// The command that asks which of these rights the user has.
    pub(crate) fn question(&self) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(QUESTION).arg(0);
        for right in &self.commands {
            let words = self.sample(right);
            cmd.arg(words.len()).arg(words);
        }
        cmd
    }

    /// What the answer says is missing, in the words of ACL rules; nothing if nothing is.
    pub(crate) fn missing(&self, answer: &Value) -> Option<String> {
        let Value::BulkString(allowed) = answer else { return None };
        if allowed.len() != self.commands.len() {
            return None;
        }
        let mut missing = Vec::new();
        for on in [On::Nothing, On::Registry, On::Queues, On::Channels] {
            let asked = self.commands.iter().zip(allowed).filter(|(right, _)| right.on == on);
            let refused: Vec<String> = asked
                .clone()
                .filter(|(_, allowed)| **allowed != 1)
                .map(|(right, _)| format!("+{}", right.command))
                .collect();
            if refused.is_empty() {
                continue;
            }
            missing.push(match on {
                On::Nothing => refused.join(" "),
                // If none of the many may be used there, it is the place that is not allowed.
                On::Queues if refused.len() == asked.count() => self.pattern(on),
                _ => format!("{} on {}", refused.join(" "), self.pattern(on)),
            });
        }
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights() -> Rights {
        Rights::of(&RedisOptions::new("here", 1).namespace("app"))
    }

    #[test]
    fn what_is_missing_is_named_as_rules_name_it() {
        let rights = rights();
        let lacking = |lacks: &dyn Fn(&Right) -> bool| {
            let answer = rights.commands.iter().map(|right| u8::from(!lacks(right))).collect();
            rights.missing(&Value::BulkString(answer))
        };
        assert_eq!(lacking(&|_| false), None);
        assert_eq!(lacking(&|right| right.command == "hset").as_deref(), Some("+hset on ~ferroq:{app:*"));
        assert_eq!(lacking(&|right| right.on == On::Queues).as_deref(), Some("~ferroq:{app:*"));
        let several = |right: &Right| ["info", "srem", "publish", "xinfo|stream"].contains(&right.command.as_str());
        assert_eq!(
            lacking(&several).as_deref(),
            Some("+info, +srem on ~ferroq:{app}:*, +xinfo|stream on ~ferroq:{app:*, +publish on &ferroq:{app:*")
        );
        assert_eq!(rights.missing(&Value::BulkString(vec![0])), None, "the answer to something else");
    }

    #[test]
    fn options_that_ask_for_more_need_more() {
        let options = RedisOptions::new("here", 1).namespace("app");
        let plain = options.acl_rule();
        assert!(
            plain.starts_with("resetkeys resetchannels -@all ~ferroq:{app}:* ~ferroq:{app:* &ferroq:{app:* +blpop +")
        );
        let more = |options: RedisOptions| {
            let had: BTreeSet<&str> = plain.split(' ').collect();
            let rule = options.acl_rule();
            rule.split(' ').filter(|word| !had.contains(word)).map(str::to_owned).collect::<Vec<_>>()
        };
        let wait = |fsync| crate::WaitFor { replicas: 1, fsync, timeout: std::time::Duration::from_secs(1) };
        assert_eq!(more(options.clone().database(3)), ["+select"]);
        assert_eq!(more(options.clone().replicas_wait(wait(false))), ["+wait"]);
        assert_eq!(more(options.clone().replicas_wait(wait(true))), ["+waitaof"]);
        assert_eq!(more(RedisOptions::sentinel([("here", 1)], "m").namespace("app")), ["+role"]);
        assert_eq!(more(RedisOptions::cluster([("here", 1)]).namespace("app")), ["+asking", "+cluster|slots"]);
    }

    #[test]
    fn every_command_that_the_client_sends_is_in_the_list() {
        // The link's own are what it takes to get to a server, and depend on the options.
        const SOURCES: [&str; 10] = [
            include_str!("control.rs"),
            include_str!("enqueue.rs"),
            include_str!("events.rs"),
            include_str!("inspect.rs"),
            include_str!("limits.rs"),
            include_str!("outbox.rs"),
            include_str!("registry.rs"),
            include_str!("signals.rs"),
            include_str!("storage.rs"),
            include_str!("transfer.rs"),
        ];
        for source in SOURCES {
            for after in source.split("redis::cmd(\"").skip(1) {
                let name: String = after.chars().take_while(|c| *c != '"').collect();
                assert!(CLIENT.iter().any(|(known, ..)| *known == name.to_ascii_lowercase()), "{name} is missing");
            }
        }
    }
}
