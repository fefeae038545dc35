//! `docs/redis-layout.md` says what the code does: the keys that it names are those that there are, its commands run and tell
//! the truth, and the bounds of the scripts are those of their headers. `FERROQ_BLESS=1` writes the bounds anew.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ferroq_core::job::{DedupKey, ErrorKind, LaneKey, WorkerId};
use ferroq_core::policy::batch::BatchGate;
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::policy::lanes::{LanePolicy, Say};
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{ClaimSpec, Control, EnqueueRequest, Jobs, Outcome, RunError, Settlement, StorageExt};

use super::*;
use crate::script;

const START: &str =
    "<!-- work: generated from the headers in backend-redis/src/lua by backend-redis/src/inspect/tests/layout.rs -->\n";
const END: &str = "<!-- end of work -->";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/redis-layout.md")
}

fn page() -> String {
    std::fs::read_to_string(path()).expect("the page is there")
}

/// What a script's header says of its work.
fn work(script: &Script) -> String {
    let header = script.source.rsplit("-- Work: ").next().expect("a header");
    let mut lines = header.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let more = lines.map_while(|line| line.strip_prefix("--   "));
    more.fold(first, |text, line| text + " " + line)
}

#[test]
fn the_page_has_the_bounds_of_every_script() {
    let rows = script::all().into_iter().map(|script| format!("| `{}` | {} |\n", script.name, work(script)));
    let table = format!("| script | work of one call |\n|---|---|\n{}", rows.collect::<String>());
    let page = page();
    let start = page.find(START).expect("the start marker is there") + START.len();
    let end = start + page[start..].find(END).expect("the end marker is there");
    if std::env::var_os("FERROQ_BLESS").is_some() {
        std::fs::write(path(), format!("{}{table}{}", &page[..start], &page[end..])).expect("it can be written");
        return;
    }
    assert_eq!(&page[start..end], table, "run it with FERROQ_BLESS=1 to write the table anew");
}

#[test]
fn the_page_names_every_key_and_no_other() {
    let keys = crate::keys::QueueKeys::new("ferroq", &queue());
    let sessions = [keys.answers(Some(uuid::Uuid::nil())), keys.answers(None), keys.answers_to(&queue())];
    let mut parts: Vec<String> =
        keys.names().iter().chain(&sessions).map(|key| key.split("}:").nth(1).unwrap_or_default().to_owned()).collect();
    let count = parts.len();
    parts[count - 3] = "answers:<session>".to_owned();
    parts[count - 1] = "answers:from:<queue>".to_owned();
    let page = page();
    let table = page.split("| key | type |").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the table");
    let named: Vec<&str> = table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(named, parts);
}

/// The commands of the page, as their words.
fn commands(page: &str) -> Vec<Vec<String>> {
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let starts = blocks.flat_map(|block| block.split("redis-cli ").skip(1));
    starts.map(words).collect()
}

/// Splits as a shell does, as far as the page uses one.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut quoted) = (Vec::new(), command.trim().trim_start_matches("--no-raw "));
    while !quoted.is_empty() {
        let (word, rest) = match quoted.strip_prefix('\'') {
            Some(rest) => rest.split_once('\'').expect("a closing quote"),
            None => quoted.split_once(' ').unwrap_or((quoted, "")),
        };
        words.push(word.to_owned());
        quoted = rest.trim_start();
    }
    words
}

fn told(value: &Value) -> String {
    match value {
        Value::Array(values) => values.iter().map(told).collect::<Vec<_>>().join("\n"),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Int(number) => number.to_string(),
        Value::Nil => String::new(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn the_pages_commands_run_and_tell_the_truth() {
    let store = store().await;
    let key = DedupKey::new("welcome:42").expect("a good key");
    let failing = JobSpec { dedup: Some(Dedup { key, mode: DedupMode::WhileKept }), ..job() };
    let failed = put(&store, [failing]).await[0];
    let claim = ClaimSpec {
        kinds: vec![job().kind].into(),
        max_items: 1,
        max_bytes: usize::MAX,
        term: Duration::from_secs(60),
        worker: WorkerId::new("the worker").expect("a good name"),
        alone: false,
    };
    let lease = store.claim(None, &queue(), claim.clone()).await.expect("claim").claims[0].lease;
    let outcome = Outcome::Abort { error: RunError::new(ErrorKind::Panic, "out of paper") };
    let settlement = Settlement { lease, outcome, follow_ups: Vec::new() };
    let laned = QueueName::new("laned").expect("a good name");
    store.settle(None, &queue(), vec![settlement]).await.expect("settle");
    let waiting = put(&store, [job(), JobSpec { lifo: true, ..job() }]).await;
    let delayed = put(&store, [at(never_yet())]).await;
    let ada = LaneKey::new("twitter/ada").expect("a good lane");
    let rate = Say::Limit(Rate::sliding(1, Duration::from_secs(60)));
    let policy = LanePolicy { rate, concurrency: Say::Limit(2), ..LanePolicy::default() };
    store.configure_lane(&laned, &ada, Some(policy.clone())).await.expect("configure_lane");
    let in_lane = || JobSpec { queue: laned.clone(), lane: ada.clone(), ..job() };
    let jobs = vec![in_lane().into(), in_lane().into()];
    store.enqueue(EnqueueRequest { call: None, queue: laned.clone(), jobs }).await.expect("enqueue");
    store.claim(None, &laned, ClaimSpec { max_items: 2, ..claim.clone() }).await.expect("claim");

    let batched = QueueName::new("batched").expect("a good name");
    let batch = Say::Limit(BatchGate::new(3, Duration::from_secs(60)));
    let gate = LanePolicy { batch, ..LanePolicy::default() };
    store.configure_lane(&batched, &LaneKey::DEFAULT, Some(gate)).await.expect("configure_lane");
    let jobs = (0..3).map(|_| JobSpec { queue: batched.clone(), ..job() }.into()).collect();
    store.enqueue(EnqueueRequest { call: None, queue: batched.clone(), jobs }).await.expect("enqueue");
    store.claim(None, &batched, claim).await.expect("claim");

    let mut answers = Vec::new();
    for words in commands(&page()) {
        let is_about_lanes = words.iter().any(|word| word.ends_with(":lanes"));
        let is_about_batches = words.iter().any(|word| word.ends_with(":batches") || word.ends_with(":failing"));
        let words = words.iter().map(|word| {
            let of_lanes = [":lanes", ":ring", ":aside", ":usage", ":policies"].iter().any(|key| word.ends_with(key));
            // The lines that the page shows are of a queue without lanes.
            let of_lanes = of_lanes || is_about_lanes && word.ends_with(":waiting");
            let emails = format!("{{{}:laned}}", store.options.namespace);
            let word = if is_about_batches {
                word.replace("{ferroq:emails}", &format!("{{{}:batched}}", store.options.namespace))
            } else if of_lanes {
                word.replace("{ferroq:emails}", &emails)
            } else {
                word.clone()
            };
            let word = word.replace("{ferroq:emails}", &format!("{{{}:q}}", store.options.namespace));
            let word = word.replace("{ferroq}", &format!("{{{}}}", store.options.namespace));
            word.replace("01a1fbc3-9350-763d-8ab1-c757db8c51cd", &failed.to_string())
        });
        let words: Vec<String> = words.collect();
        let mut cmd = Cmd::new();
        cmd.arg(&words);
        let answer = store.link.call(&cmd).await;
        let answer = answer.unwrap_or_else(|error| panic!("{words:?}: {}", StorageError::from(error)));
        answers.push((words.join(" "), told(&answer)));
    }
    let answer_to = |part: &str| {
        let found: Vec<_> = answers.iter().filter(|(words, _)| words.contains(part)).collect();
        assert_eq!(found.len(), 1, "one command has {part}");
        found[0].1.as_str()
    };
    let hex = |id: JobId| id.to_string().replace('-', "");
    assert_eq!(answer_to("layout"), "1");
    assert_eq!(answer_to("SMEMBERS").lines().collect::<BTreeSet<_>>(), BTreeSet::from(["batched", "laned", "q"]));
    let stands = answer_to(":lanes");
    assert!(stands.starts_with("number 1 standing 1 left of its turn"), "{stands}");
    assert!(stands.ends_with(" jobs 1"), "{stands}");
    assert_eq!((answer_to(":ring"), answer_to(":aside")), ("", "1"));
    assert_eq!(answer_to(":batches"), "standing 1 size 3 gathered 3 members 2");
    let starts = answer_to("no starts");
    assert!(starts.starts_with("until ") && starts.ends_with(": 1") && starts.lines().count() == 2, "{starts}");
    assert_eq!(answer_to("atwitter/ada"), "1");
    assert_eq!(serde_json::from_str::<LanePolicy>(answer_to(":policies")).expect("a policy"), policy);
    assert_eq!(answer_to("for i, member"), format!("{} seq -3\n{} seq 2", hex(waiting[1]), hex(waiting[0])));
    assert!(answer_to(":delayed").ends_with(&never_yet().to_string()), "{}", answer_to(":delayed"));
    assert_eq!(answer_to(":dedup"), format!("{} until 0", hex(failed)));
    let about = answer_to("no such job");
    for line in [
        "kind k",
        "priority 128",
        "payload bytes 1",
        "traits 1",
        "now: state 5",
        "now: failure 3",
        "now: runs 1",
        "now: attempts 1",
        "now: notes 1",
        "now: worker the worker",
    ] {
        assert!(about.lines().any(|one| one == line), "{line} is not in:\n{about}");
    }
    assert!(about.contains(&format!("now: epoch {}", lease.epoch)), "{about}");
    let errors = answer_to(":notes");
    assert!(errors.ends_with(", run 1, kind 1: out of paper") && errors.lines().count() == 1, "{errors}");
    let events: Vec<&str> = answer_to("XREVRANGE").lines().collect();
    assert_eq!(events.len(), 5, "{events:?}");
    assert!(
        events[0].starts_with("0-5 at ")
            && events[0].ends_with(&format!(": kind 0, 1 jobs, first {}", hex(delayed[0])))
    );
    assert!(events[2].ends_with(&format!(": kind 7, 1 jobs, first {}", hex(failed))), "{events:?}");
}
