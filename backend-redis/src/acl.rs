//! The rights that ferroq needs on a server, and no more: taken from the scripts themselves and from the list of what the
//! client sends. `docs/redis-acl.md` is generated from here by a test.

use std::collections::BTreeSet;

use crate::script;

/// What the client sends outside of scripts.
const CLIENT_COMMANDS: [&str; 16] = [
    "blpop",
    "evalsha",
    "eval",
    "exists",
    "info",
    "lpush",
    "ping",
    "role",
    "sadd",
    "select",
    "smembers",
    "srem",
    "subscribe",
    "unsubscribe",
    "zrange",
    "zrem",
];

/// How a script names a command: directly, or through a helper of `pack.lua`.
const CALLS: [&str; 2] = ["call('", "many('"];

/// The commands that a user for ferroq needs, in lower case.
pub fn acl_commands() -> Vec<String> {
    let mut commands: BTreeSet<String> = CLIENT_COMMANDS.into_iter().map(str::to_owned).collect();
    // The helpers of `pack.lua` name these themselves.
    for script in script::all() {
        for call in CALLS {
            for after in script.body.split(call).skip(1) {
                let name: String = after.chars().take_while(char::is_ascii_alphabetic).collect();
                let rest = &after[name.len()..];
                // XINFO has subcommands, and one is all that is needed.
                let sub = rest.strip_prefix("', 'STREAM'").filter(|_| name == "XINFO").map(|_| "|stream");
                commands.insert(name.to_ascii_lowercase() + sub.unwrap_or_default());
            }
        }
    }
    commands.into_iter().filter(|name| !name.is_empty()).collect()
}

/// The rule for a user that may work in a namespace and nowhere else: what follows `ACL SETUSER name on >password`.
///
/// `WAIT` and `WAITAOF` are needed only where enqueue waits for replicas; `CONFIG GET` is not needed, but makes the report
/// on durability exact.
pub fn acl_rule(namespace: &str) -> String {
    let keys = format!(
        "resetkeys resetchannels -@all ~ferroq:{{{namespace}:* ~ferroq:{{{namespace}}}:* &ferroq:{{{namespace}:*"
    );
    let commands = acl_commands().into_iter().map(|name| format!(" +{name}"));
    commands.fold(keys, |rule, name| rule + &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_the_client_sends_is_in_the_list() {
        const SOURCES: [&str; 6] = [
            include_str!("enqueue.rs"),
            include_str!("outbox.rs"),
            include_str!("signals.rs"),
            include_str!("storage.rs"),
            include_str!("script.rs"),
            include_str!("inspect.rs"),
        ];
        let commands = acl_commands();
        for source in SOURCES {
            for after in source.split("redis::cmd(\"").skip(1) {
                let name: String = after.chars().take_while(|c| *c != '"').collect();
                assert!(commands.contains(&name.to_ascii_lowercase()), "{name} is missing");
            }
        }
    }
}
