//! What is sent to a server, as `MONITOR` tells it: clients' commands and those that scripts run. The bytes are those that
//! were sent.

use std::sync::{Arc, Mutex};

use super::server::Server;

/// A command, word by word.
pub type Words = Vec<Vec<u8>>;

/// Everything that is sent to a server, word by word.
#[derive(Debug)]
pub struct Overheard {
    commands: Arc<Mutex<Vec<Words>>>,
}

impl Overheard {
    /// Listens from now on, for as long as the server lives.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn on(server: &Server) -> Self {
        let mut connection = server.connection();
        connection.send_packed_command(&redis::cmd("MONITOR").get_packed_command()).expect("MONITOR");
        connection.recv_response().expect("OK");
        let commands: Arc<Mutex<Vec<_>>> = Arc::default();
        let overheard = commands.clone();
        std::thread::spawn(move || {
            // It ends with the server.
            while let Ok(line) = connection.recv_response() {
                let line: String = redis::from_redis_value(line).expect("a line");
                overheard.lock().expect("the commands").push(words(&line));
            }
        });
        Overheard { commands }
    }

    /// The scripts that clients called.
    ///
    /// # Panics
    /// If the listening thread has panicked.
    pub fn scripts(&self) -> Vec<Words> {
        let is_script = |words: &&Words| words.first().is_some_and(|verb| verb.starts_with(b"EVAL"));
        self.commands.lock().expect("the commands").iter().filter(is_script).cloned().collect()
    }

    /// The numbers that scripts gave to what goes from queue to queue.
    ///
    /// # Panics
    /// If the listening thread has panicked.
    pub fn outbox_numbers(&self) -> Vec<i64> {
        let number = |words: &Words| match &words[..] {
            [verb, key, score, _] if verb == b"ZADD" && key.ends_with(b":outbox") => {
                std::str::from_utf8(score).ok()?.parse().ok()
            }
            _ => None,
        };
        self.commands.lock().expect("the commands").iter().filter_map(number).collect()
    }
}

/// The words of a line of MONITOR: `1700000000.123456 [0 127.0.0.1:1234] "EVALSHA" "a\x01\"b"`.
fn words(line: &str) -> Words {
    let (mut words, mut bytes) = (Vec::new(), line.bytes().skip_while(|byte| *byte != b']').skip(1));
    while let Some(byte) = bytes.next() {
        if byte != b'"' {
            continue;
        }
        let mut word = Vec::new();
        loop {
            match bytes.next().expect("a closing quote") {
                b'"' => break,
                b'\\' => word.push(match bytes.next().expect("an escaped byte") {
                    b'x' => {
                        let digits = [bytes.next(), bytes.next()].map(|digit| digit.expect("a digit") as char);
                        u8::from_str_radix(&digits.iter().collect::<String>(), 16).expect("a byte")
                    }
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    plain => plain,
                }),
                plain => word.push(plain),
            }
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overheard_is_understood() {
        let line = r#"1700000000.123456 [0 127.0.0.1:1234] "EVALSHA" "a\x01\"\\\n" """#;
        assert_eq!(words(line), [b"EVALSHA".to_vec(), b"a\x01\"\\\n".to_vec(), Vec::new()]);
    }
}
