//! The names of a queue's keys. All of a queue's keys carry the same hash tag, `{namespace:queue}`, so that they live on
//! one node of a cluster and one script can work on them; every script gets all of them, in one order, and makes none.

use std::sync::Arc;

use ferroq_core::job::{LimiterName, QueueName};
use uuid::Uuid;

/// What comes after the tag, in the order in which the scripts know the keys (see `lua/names.lua`).
const PARTS: [&str; 30] = [
    "meta",
    "spec",
    "run",
    "notes",
    "waiting",
    "solo",
    "shelves",
    "kinds",
    "delayed",
    "blocked",
    "active",
    "completed",
    "failed",
    "cancelled",
    "dedup",
    "holds",
    "events",
    "wake",
    "outbox",
    "ledger",
    "lanes",
    "ring",
    "aside",
    "held",
    "parked",
    "usage",
    "fades",
    "policies",
    "batches",
    "failing",
];

/// How many keys a script gets: those of the queue, and the answers of one session.
pub(crate) const COUNT: usize = PARTS.len() + 1;

/// A queue and the names of its keys. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct QueueKeys {
    pub(crate) queue: QueueName,
    names: Arc<[String]>,
    prefix: Arc<str>,
}

impl QueueKeys {
    pub(crate) fn new(namespace: &str, queue: &QueueName) -> Self {
        let prefix = format!("ferroq:{{{namespace}:{queue}}}:");
        let names = PARTS.iter().map(|part| format!("{prefix}{part}")).collect();
        QueueKeys { queue: queue.clone(), names, prefix: prefix.into() }
    }

    /// The queue's own names, without the answers.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The queue's settings, counters and time; also the name of the channel for its hints.
    pub(crate) fn meta(&self) -> &str {
        &self.names[0]
    }

    /// The token list that idle workers block on.
    pub(crate) fn wake(&self) -> &str {
        &self.names[17]
    }

    /// What waits to be relayed to other queues.
    pub(crate) fn outbox(&self) -> &str {
        &self.names[18]
    }

    /// The answers kept for a session.
    pub(crate) fn answers(&self, session: Option<Uuid>) -> String {
        match session {
            Some(session) => format!("{}answers:{session}", self.prefix),
            None => format!("{}answers:none", self.prefix),
        }
    }

    /// The answers kept for another queue's outbox.
    pub(crate) fn answers_to(&self, source: &QueueName) -> String {
        format!("{}answers:from:{source}", self.prefix)
    }
}

/// The names of a limiter's keys. A limiter has a tag of its own, so that in a cluster limiters are spread over the nodes; a
/// queue of the name `limiter:..` has the same tag, and no key of the same name.
#[derive(Clone, Debug)]
pub(crate) struct LimiterKeys {
    /// What it gave.
    pub(crate) state: String,
    /// The answers kept for a session.
    pub(crate) given: String,
}

impl LimiterKeys {
    pub(crate) fn new(namespace: &str, limiter: &LimiterName, session: Option<Uuid>) -> Self {
        let state = format!("ferroq:{{{namespace}:limiter:{limiter}}}:limiter");
        let given = match session {
            Some(session) => format!("ferroq:{{{namespace}:limiter:{limiter}}}:given:{session}"),
            None => format!("ferroq:{{{namespace}:limiter:{limiter}}}:given:none"),
        };
        LimiterKeys { state, given }
    }
}

/// The set of all queues' names. It lives wherever its own tag puts it.
pub(crate) fn registry(namespace: &str) -> String {
    format!("ferroq:{{{namespace}}}:queues")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_queue_carry_its_tag() {
        let Ok(queue) = QueueName::new("app:tasks") else { panic!("a good name") };
        let keys = QueueKeys::new("ferroq", &queue);
        let all = keys.names().iter().cloned().chain([keys.answers(None), keys.answers_to(&queue)]);
        for key in all {
            assert!(key.starts_with("ferroq:{ferroq:app:tasks}:"), "{key}");
        }
        assert!(keys.wake().ends_with(":wake") && keys.outbox().ends_with(":outbox") && keys.meta().ends_with(":meta"));
    }
}
