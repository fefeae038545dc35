//! The keys of a namespace, read with plain commands and held against each other: each job stands in exactly the line
//! that its state names, under the score and seq that its entries say, and nothing is left of a job that is gone. The
//! bytes are taken apart here anew, so that a mistake in the library's own reading does not hide one in its writing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ferroq_core::job::{JobState, QueueName, Slot};
use ferroq_testkit::model::{QueueSnapshot, Snapshot};

use crate::redis::server::Server;

/// What one key holds.
#[derive(Debug)]
enum Content {
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Sorted(Vec<(Vec<u8>, f64)>),
    Other,
}

#[derive(Debug)]
struct Key {
    content: Content,
    size: usize,
    /// In milliseconds; negative if it never ends.
    ttl_ms: i64,
}

/// The keys of one queue, by what comes after the tag.
type Keys = BTreeMap<String, Key>;

/// The sorted sets in which jobs stand, with the state and slot that each is for.
const LINES: [(&str, JobState, Slot); 9] = [
    ("waiting", JobState::Waiting, Slot::Lane),
    ("solo", JobState::Waiting, Slot::Solo),
    ("shelves", JobState::Waiting, Slot::Shelf),
    ("delayed", JobState::Delayed, Slot::Lane),
    ("blocked", JobState::Blocked, Slot::Lane),
    ("active", JobState::Active, Slot::Lane),
    ("completed", JobState::Completed, Slot::Lane),
    ("failed", JobState::Failed, Slot::Lane),
    ("cancelled", JobState::Cancelled, Slot::Lane),
];

/// All other keys, with their types.
const OTHERS: [(&str, &str); 11] = [
    ("meta", "hash"),
    ("spec", "hash"),
    ("run", "hash"),
    ("notes", "hash"),
    ("kinds", "hash"),
    ("dedup", "hash"),
    ("holds", "zset"),
    ("events", "stream"),
    ("wake", "list"),
    ("outbox", "zset"),
    ("ledger", "hash"),
];

/// How long a spec is at least, and an entry in `run`.
const SPEC_BYTES_MIN: usize = 34;
const ENTRY_BYTES_MIN: usize = 74;
/// Seqs are stored with this added.
const SEQ_BIAS: i64 = 1 << 52;

/// Reads and checks all keys of the namespace on these servers. Answers how many follow-ups are on their way between queues.
pub(super) fn check(nodes: &[&Server], namespace: &str, database: u32, snapshot: &Snapshot) -> usize {
    let (mut queues, mut registered) = (BTreeMap::new(), BTreeSet::new());
    for node in nodes {
        read(node, namespace, database, &mut queues, &mut registered);
    }
    for (name, queue) in &snapshot.queues {
        assert!(registered.contains(&**name), "the queue {name:?} is not in the registry");
        let keys = queues.get(&**name).unwrap_or_else(|| panic!("the queue {name:?} has no keys"));
        Queue { name, keys }.check(queue);
    }
    for (name, keys) in &queues {
        // Of a queue that was obliterated, what it has sent and answered may be remembered.
        let exists = QueueName::new(name).is_ok_and(|name| snapshot.queues.contains_key(&name));
        let orphan = keys.keys().find(|part| !exists && *part != "ledger" && !part.starts_with("answers:"));
        assert!(orphan.is_none(), "a key without a queue: {orphan:?} of {name:?}");
    }
    queues.values().filter_map(|keys| keys.get("outbox")).map(|key| key.size).sum()
}

fn read(
    node: &Server,
    namespace: &str,
    database: u32,
    queues: &mut BTreeMap<String, Keys>,
    registered: &mut BTreeSet<String>,
) {
    let mut connection = node.connection();
    if database > 0 {
        redis::cmd("SELECT").arg(database).query::<()>(&mut connection).expect("SELECT");
    }
    let mut ask = |words: &[&str]| {
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query::<redis::Value>(&mut connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    };
    fn as_type<T: redis::FromRedisValue>(value: redis::Value) -> T {
        redis::from_redis_value(value).unwrap_or_else(|_| panic!("an answer of another type"))
    }
    // In a Cluster, one node has it, and the others would not answer.
    for registry in as_type::<Vec<String>>(ask(&["KEYS", &format!("ferroq:{{{namespace}}}:queues")])) {
        registered.extend(as_type::<Vec<String>>(ask(&["SMEMBERS", &registry])));
    }
    let prefix = format!("ferroq:{{{namespace}:");
    for key in as_type::<Vec<String>>(ask(&["KEYS", &format!("{prefix}*")])) {
        let (queue, part) = key[prefix.len()..].split_once("}:").unwrap_or_else(|| panic!("a foreign key: {key}"));
        let kind: String = as_type(ask(&["TYPE", &key]));
        if kind == "none" {
            // A token that somebody took meanwhile, or answers whose time was over.
            continue;
        }
        let expected = match part {
            _ if part.starts_with("answers:") => "zset",
            _ if LINES.iter().any(|(line, ..)| *line == part) => "zset",
            _ => OTHERS.iter().find(|(other, _)| *other == part).map_or("", |(_, kind)| kind),
        };
        assert_eq!(kind, expected, "the type of {key}");
        let (content, size) = match kind.as_str() {
            "hash" => {
                let fields: BTreeMap<Vec<u8>, Vec<u8>> = as_type(ask(&["HGETALL", &key]));
                let size = fields.len();
                (Content::Hash(fields), size)
            }
            "zset" => {
                let members: Vec<(Vec<u8>, f64)> = as_type(ask(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]));
                let size = members.len();
                (Content::Sorted(members), size)
            }
            "list" => (Content::Other, as_type(ask(&["LLEN", &key]))),
            _ => (Content::Other, as_type(ask(&["XLEN", &key]))),
        };
        let ttl_ms = as_type(ask(&["PTTL", &key]));
        let twice = queues.entry(queue.to_owned()).or_default().insert(part.to_owned(), Key { content, size, ttl_ms });
        assert!(twice.is_none(), "{key} is on two nodes");
    }
}

struct Queue<'a> {
    name: &'a QueueName,
    keys: &'a Keys,
}

/// A line in which a job stands: the name of its key, and the score and the seq there.
#[derive(Clone, Copy, Debug)]
struct Standing {
    line: usize,
    score: f64,
    seq: i64,
}

impl Queue<'_> {
    fn hash(&self, part: &str) -> BTreeMap<&[u8], &[u8]> {
        match self.keys.get(part).map(|key| &key.content) {
            Some(Content::Hash(fields)) => fields.iter().map(|(name, value)| (&name[..], &value[..])).collect(),
            _ => BTreeMap::new(),
        }
    }

    fn sorted(&self, part: &str) -> &[(Vec<u8>, f64)] {
        match self.keys.get(part).map(|key| &key.content) {
            Some(Content::Sorted(members)) => members,
            _ => &[],
        }
    }

    fn size(&self, part: &str) -> usize {
        self.keys.get(part).map_or(0, |key| key.size)
    }

    fn check(&self, told: &QueueSnapshot) {
        let name = self.name;
        let standings = self.standings();
        self.jobs(&standings, told);
        self.meta(&standings);
        self.kinds(&standings);
        self.dedup();
        assert!(self.size("wake") <= 1, "queue {name:?}: tokens pile up: {}", self.size("wake"));
        assert!(self.size("events") > 0 || told.events.is_empty(), "queue {name:?}: there is no log");
        for (part, key) in self.keys {
            let ends = part.starts_with("answers:");
            assert_eq!(key.ttl_ms >= 0, ends, "queue {name:?}: the time to live of {part} is {}", key.ttl_ms);
        }
    }

    /// Which jobs stand in which lines.
    fn standings(&self) -> HashMap<&[u8], Standing> {
        let mut standings = HashMap::new();
        for (line, (part, ..)) in LINES.iter().enumerate() {
            for (member, score) in self.sorted(part) {
                assert_eq!(member.len(), 23, "queue {:?}: a member of {part}", self.name);
                let (seq, id) = member.split_at(7);
                let standing = Standing { line, score: *score, seq: seq_of(seq) };
                let before = standings.insert(id, standing);
                assert!(before.is_none(), "queue {:?}: a job is in two places: {before:?}, {standing:?}", self.name);
            }
        }
        standings
    }

    /// Each job has its parts, and each part its job.
    fn jobs(&self, standings: &HashMap<&[u8], Standing>, told: &QueueSnapshot) {
        let name = self.name;
        let (specs, runs, notes) = (self.hash("spec"), self.hash("run"), self.hash("notes"));
        for id in runs.keys() {
            assert!(specs.contains_key(id), "queue {name:?}: a run entry without its spec: {id:02x?}");
        }
        for id in standings.keys() {
            assert!(specs.contains_key(id), "queue {name:?}: a job in a line without its spec: {id:02x?}");
        }
        let mut noted: BTreeMap<&[u8], u8> = BTreeMap::new();
        for field in notes.keys() {
            let (id, letter) = field.split_at(16);
            let bit = match letter {
                b"e" => 1,
                b"p" => 2,
                b"c" => 4,
                b"r" => 8,
                b"l" => 16,
                other => panic!("queue {name:?}: a note {other:02x?}"),
            };
            assert!(specs.contains_key(id), "queue {name:?}: a note without its job: {id:02x?}");
            *noted.entry(id).or_default() |= bit;
        }
        assert_eq!(told.jobs.len(), specs.len(), "queue {name:?}: records and specs");
        for job in &told.jobs {
            let id = job.id();
            let spec = specs.get(&id.as_bytes()[..]).unwrap_or_else(|| panic!("queue {name:?}: {id} has no spec"));
            let entry = runs.get(&id.as_bytes()[..]);
            let at = standings.get(&id.as_bytes()[..]);
            let at = at.unwrap_or_else(|| panic!("queue {name:?}: {id} stands nowhere\n{job:#?}"));
            let (part, state, slot) = LINES[at.line];
            assert_eq!((job.state, job.slot), (state, slot), "queue {name:?}: {id} stands in {part}");
            assert_eq!(job.seq, at.seq, "queue {name:?}: the seq of {id} in {part}");
            let mask = noted.get(&id.as_bytes()[..]).copied().unwrap_or_default();
            match entry {
                Some(entry) if entry.len() >= ENTRY_BYTES_MIN => {
                    let parts = Entry::read(entry);
                    assert_eq!(parts.state, job.state.number(), "queue {name:?}: the state of {id}");
                    assert_eq!(parts.seq, at.seq, "queue {name:?}: the seq of {id}");
                    assert_eq!(parts.mask, mask, "queue {name:?}: the notes of {id}");
                    let expected = match part {
                        "shelves" => at.score - (at.score % 256.0) + f64::from(parts.priority),
                        "waiting" | "solo" => f64::from(parts.priority),
                        "delayed" => parts.due as f64,
                        "blocked" => 0.0,
                        "active" => parts.till as f64,
                        // A record that is kept for ever says zero, and stands at the end.
                        _ if parts.term == 0 => i64::MAX as f64,
                        _ => parts.term as f64,
                    };
                    assert_eq!(at.score, expected, "queue {name:?}: the score of {id} in {part}");
                }
                None if spec.len() >= SPEC_BYTES_MIN => {
                    assert_eq!(part, "waiting", "queue {name:?}: {id} was never changed");
                    assert_eq!(mask, 0, "queue {name:?}: {id} was never changed and has notes");
                    assert_eq!(at.score, f64::from(spec[23]), "queue {name:?}: the score of {id} in {part}");
                    assert_eq!(at.seq, seq_of(&spec[..7]), "queue {name:?}: the seq of {id}");
                }
                // What can't be read has been quarantined, or will be once its turn comes.
                _ => {}
            }
        }
    }

    fn meta(&self, standings: &HashMap<&[u8], Standing>) {
        let (name, meta) = (self.name, self.hash("meta"));
        let field = |field: &str| {
            let value = meta.get(field.as_bytes()).unwrap_or_else(|| panic!("queue {name:?}: meta has no {field}"));
            std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok())
        };
        assert_eq!(field("layout"), Some(1), "queue {name:?}: the layout");
        let seq = field("seq").unwrap_or_else(|| panic!("queue {name:?}: the seq is no number"));
        let highest = standings.values().map(|at| at.seq.abs()).max().unwrap_or_default();
        assert!(highest <= seq, "queue {name:?}: {highest} was given, and the last seq is {seq}");
        let distinct: BTreeSet<i64> = standings.values().map(|at| at.seq.abs()).collect();
        assert_eq!(distinct.len(), standings.len(), "queue {name:?}: a seq was given twice");
    }

    fn kinds(&self, standings: &HashMap<&[u8], Standing>) {
        let (name, kinds) = (self.name, self.hash("kinds"));
        let numbers: BTreeSet<u64> = kinds
            .values()
            .map(|value| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("a shelf's number"))
            .collect();
        assert_eq!(numbers.len(), kinds.len(), "queue {name:?}: two kinds share a shelf: {kinds:?}");
        for at in standings.values().filter(|at| LINES[at.line].0 == "shelves") {
            let shelf = (at.score / 256.0) as u64;
            assert!(numbers.contains(&shelf), "queue {name:?}: shelf {shelf} is of no kind");
        }
    }

    fn dedup(&self) {
        let holds: BTreeSet<&[u8]> = self.sorted("holds").iter().map(|(key, _)| &key[..]).collect();
        for (key, hold) in self.hash("dedup") {
            assert!(matches!(hold.len(), 24 | 40), "queue {:?}: a hold", self.name);
            let ends = hold[16..24] != [0; 8];
            let blocked = |id: &[u8]| self.sorted("blocked").iter().any(|(member, _)| member.ends_with(id));
            assert!(
                hold.len() == 24 || blocked(&hold[24..]),
                "queue {:?}: a pending job that is not Blocked",
                self.name
            );
            assert!(!ends || holds.contains(key), "queue {:?}: a hold with an end that nobody drops", self.name);
        }
    }
}

/// What of an entry in `run` says where its job stands.
struct Entry {
    state: u8,
    seq: i64,
    due: i64,
    priority: u8,
    mask: u8,
    till: i64,
    term: i64,
}

impl Entry {
    fn read(bytes: &[u8]) -> Self {
        let number = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Entry {
            state: bytes[0],
            seq: seq_of(&bytes[9..16]),
            due: number(16),
            priority: bytes[32],
            mask: bytes[36],
            till: number(58),
            term: number(66),
        }
    }
}

fn seq_of(bytes: &[u8]) -> i64 {
    let mut wide = [0; 8];
    wide[1..].copy_from_slice(&bytes[..7]);
    i64::from_be_bytes(wide) - SEQ_BIAS
}
