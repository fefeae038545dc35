//! Which slot of a cluster a command goes to, and which node has it. See
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

use redis::{Arg, Cmd, Value};

use crate::options::Address;

/// How many slots a cluster has.
const SLOTS: u16 = 16384;

/// The slot of a key: of what is between its first braces, if there is something.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let inside = key.get(open + 1..)?;
        let close = inside.iter().position(|byte| *byte == b'}')?;
        inside.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC16 as XMODEM does it: polynomial 0x1021, starting at 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

/// The slot that a command is for; `None` if any node will do.
pub(super) fn slot_of_command(cmd: &Cmd) -> Option<u16> {
    let argument = |index| match cmd.args_iter().nth(index) {
        Some(Arg::Simple(bytes)) => Some(bytes),
        _ => None,
    };
    let name = argument(0)?.to_ascii_uppercase();
    let key = match name.as_slice() {
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => {
            if argument(2)? == b"0" {
                return None;
            }
            argument(3)
        }
        b"OBJECT" | b"MEMORY" => argument(2),
        b"ACL" | b"CLIENT" | b"CLUSTER" | b"CONFIG" | b"DBSIZE" | b"FUNCTION" | b"INFO" | b"PING" | b"PUBLISH"
        | b"ROLE" | b"SCRIPT" | b"TIME" | b"WAIT" | b"WAITAOF" => None,
        _ => argument(1),
    };
    key.map(slot_of)
}

/// Which masters have which slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// First slot, last slot and master, in order.
    ranges: Vec<(u16, u16, Address)>,
}

impl SlotMap {
    /// Reads the answer to `CLUSTER SLOTS` of the node at `asked`.
    pub(super) fn read(answer: &Value, asked: &Address) -> Option<SlotMap> {
        let Value::Array(entries) = answer else { return None };
        let mut ranges = Vec::with_capacity(entries.len());
        for entry in entries {
            let Value::Array(entry) = entry else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = entry.as_slice() else { return None };
            let [host, Value::Int(port), ..] = master.as_slice() else { return None };
            // A node that does not know its own name leaves it out; a name that nobody knows is `?`.
            let host = match host {
                Value::BulkString(host) => std::str::from_utf8(host).ok()?,
                Value::SimpleString(host) => host,
                _ => "",
            };
            if host == "?" {
                continue;
            }
            let address = beside(asked, host, u16::try_from(*port).ok()?);
            ranges.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, address));
        }
        ranges.sort_by_key(|(first, ..)| *first);
        Some(SlotMap { ranges })
    }

    /// Who has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let after = self.ranges.partition_point(|(first, ..)| *first <= slot);
        let (_, last, address) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(address)
    }

    /// All masters that have slots, each once.
    pub(super) fn masters(&self) -> Vec<&Address> {
        let mut masters = Vec::new();
        for (.., address) in &self.ranges {
            if !masters.contains(&address) {
                masters.push(address);
            }
        }
        masters
    }
}

/// Where a `MOVED` or `ASK` from the node at `asked` leads: `3999 127.0.0.1:6381`.
pub(super) fn redirect(text: &str, asked: &Address) -> Option<Address> {
    let (_, at) = text.split_once(' ')?;
    let (host, port) = at.split_whitespace().next()?.rsplit_once(':')?;
    Some(beside(asked, host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// An address that a node gave, which means its own host if it names none.
fn beside(asked: &Address, host: &str, port: u16) -> Address {
    let host = match (host, asked) {
        ("", Address::Tcp { host, .. }) => host,
        (host, _) => host,
    };
    Address::Tcp { host: host.to_owned(), port }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn a_key_has_the_slot_that_the_specification_says() {
        // The check value of the specification's appendix, and slots that redis-cli says.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn a_command_goes_where_its_first_key_is() {
        let command = |words: &[&str]| {
            let mut cmd = redis::cmd(words[0]);
            cmd.arg(&words[1..]);
            slot_of_command(&cmd)
        };
        assert_eq!(command(&["GET", "foo"]), Some(12182));
        assert_eq!(command(&["evalsha", "abc", "2", "foo", "bar", "x"]), Some(12182));
        assert_eq!(command(&["EVALSHA", "abc", "0", "foo"]), None);
        assert_eq!(command(&["MEMORY", "USAGE", "foo"]), Some(12182));
        assert_eq!(command(&["PUBLISH", "foo", "x"]), None);
        assert_eq!(command(&["INFO"]), None);
    }

    #[test]
    fn a_map_is_read_and_a_redirect_understood() {
        let text = "*2\r\n*3\r\n:5461\r\n:16383\r\n*3\r\n$1\r\nb\r\n:2\r\n$2\r\nid\r\n\
                    *4\r\n:0\r\n:5460\r\n*4\r\n$-1\r\n:1\r\n$2\r\nid\r\n*0\r\n*3\r\n$1\r\nc\r\n:3\r\n$2\r\nid\r\n";
        let answer = redis::parse_redis_value(text.as_bytes()).expect("an answer");
        let map = SlotMap::read(&answer, &tcp("a", 9)).expect("a map");
        assert_eq!(map.owner(0), Some(&tcp("a", 1)));
        assert_eq!(map.owner(5461), Some(&tcp("b", 2)));
        assert_eq!(map.owner(16383), Some(&tcp("b", 2)));
        assert_eq!(map.masters(), [&tcp("a", 1), &tcp("b", 2)]);
        assert_eq!(SlotMap::default().owner(1), None);
        assert_eq!(redirect("3999 127.0.0.1:6381", &tcp("a", 1)), Some(tcp("127.0.0.1", 6381)));
        assert_eq!(redirect("3999 :6381", &tcp("a", 1)), Some(tcp("a", 6381)));
        assert_eq!(redirect("3999 2001:db8::1:6381", &tcp("a", 1)), Some(tcp("2001:db8::1", 6381)));
        assert_eq!(redirect("nonsense", &tcp("a", 1)), None);
    }
}
