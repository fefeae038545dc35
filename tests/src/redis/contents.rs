//! What the keys of a database hold, so that a test can say that nothing was changed. `DUMP` alone would not do: two
//! hashes of the same fields may be written out in another order, and a read may be what reorders them. The server's own
//! digest of a value does not depend on it.

use std::collections::BTreeMap;

use redis::Value;

use super::server::Server;

/// Every key, with what it holds as one text.
pub type Contents = BTreeMap<String, String>;

/// Reads all keys of a database.
///
/// # Panics
/// If the server does not answer.
pub fn contents(server: &Server, database: u32) -> Contents {
    contents_of(server, database, "*")
}

/// Reads the keys whose names match a pattern, as `KEYS` takes it.
///
/// # Panics
/// If the server does not answer.
pub fn contents_of(server: &Server, database: u32, pattern: &str) -> Contents {
    let mut connection = server.connection();
    redis::cmd("SELECT").arg(database).query::<()>(&mut connection).expect("SELECT");
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query(&mut connection).expect("KEYS");
    if keys.is_empty() {
        return Contents::new();
    }
    let mut look = redis::pipe();
    for key in &keys {
        look.cmd("TYPE").arg(key).cmd("DEBUG").arg("DIGEST-VALUE").arg(key).cmd("DUMP").arg(key);
    }
    let found: Vec<Value> = look.query(&mut connection).expect("TYPE, DEBUG DIGEST-VALUE and DUMP");
    let told = |values: &[Value]| {
        let kind = super::cli::text(&values[0]);
        let digest = super::cli::text(&values[1]);
        match kind.as_str() {
            "hash" | "set" | "zset" => format!("{kind} {digest}"),
            // Of a stream, the digest leaves out the number of the last entry.
            _ => format!("{kind} {digest} {:?}", values[2]),
        }
    };
    keys.into_iter().zip(found.chunks(3).map(told)).collect()
}

/// The keys that came, went or hold something else now.
pub fn changes(before: &Contents, after: &Contents) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let word = |key: &String| match (before.get(key), after.get(key)) {
        (None, Some(_)) => Some(format!("{key} came into being")),
        (Some(_), None) => Some(format!("{key} is gone")),
        (before, after) => (before != after).then(|| format!("{key} was changed")),
    };
    keys.into_iter().filter_map(word).collect()
}
