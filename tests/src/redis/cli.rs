//! Talking to a server as an operator would with `redis-cli`: one command, one answer, as text. It needs no tool to be
//! installed, and no right that a test may have taken from the default user.

use std::time::Duration;

use redis::Value;

use super::options::TOOLS;
use super::server::Server;

/// How long an answer is waited for. `DEBUG SLEEP` and the like are waited out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn connect(port: u16) -> redis::RedisResult<redis::Connection> {
    let client = redis::Client::open(format!("redis://{TOOLS}:{TOOLS}@127.0.0.1:{port}"))?;
    let connection = client.get_connection_with_timeout(ANSWER_TIMEOUT)?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(connection)
}

pub(crate) fn as_command(words: &[&str]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

pub(crate) fn info_field(info: &str, field: &str) -> Option<String> {
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(|value| value.trim().to_owned())
}

/// An answer as text.
pub fn text(value: &Value) -> String {
    let lines = |values: &[Value]| values.iter().map(text).collect::<Vec<_>>().join("\n");
    match value {
        Value::Nil => String::new(),
        Value::Int(number) => number.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".to_owned(),
        Value::Array(values) | Value::Set(values) => lines(values),
        Value::Map(pairs) => {
            pairs.iter().map(|(key, value)| format!("{} {}", text(key), text(value))).collect::<Vec<_>>().join("\n")
        }
        Value::VerbatimString { text, .. } => text.clone(),
        other => format!("{other:?}"),
    }
}

/// Whether a replica gets every write of its master, which is one of these. The replica's own word is not enough: it says
/// that it is in step up to a second before the master begins to send it writes.
pub(crate) fn is_in_step(replica: &Server, servers: &[Server]) -> bool {
    let of_replica = |field| replica.info(field);
    let port = of_replica("master_port").and_then(|port| port.parse::<u16>().ok());
    let Some(master) = servers.iter().find(|server| server.is_running() && Some(server.port()) == port) else {
        return false;
    };
    let line = format!("port={},state=online", replica.port());
    let of_master = master.ask(&["INFO", "replication"]).map(|info| text(&info)).unwrap_or_default();
    of_replica("master_link_status").as_deref() == Some("up") && of_master.contains(&line)
}
