//! Pages and code say the same: the state diagram in ARCHITECTURE.md is generated from the transition table, so it can't say anything else than the
//! code does. `FERROQ_BLESS=1 cargo test -p ferroq-tests --test architecture` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::fmt::Write;
use std::path::PathBuf;

use ferroq::JobState;
use ferroq_core::job::{Move, transition};

const START: &str = "<!-- states: generated from core/src/job/state.rs by tests/tests/architecture.rs -->\n";
const END: &str = "<!-- end of states -->";

fn diagram() -> String {
    let mut text =
        "```mermaid\nstateDiagram-v2\n    [*] --> Waiting: enqueue\n    [*] --> Delayed: enqueue with a delay\n    [*] --> Blocked: enqueue behind a dedup key's holder\n"
            .to_owned();
    for from in JobState::ALL {
        for to in JobState::ALL {
            let moves: Vec<String> = Move::ALL
                .into_iter()
                .filter(|what| transition(from, *what) == Some(to))
                .map(|what| words(&format!("{what:?}")))
                .collect();
            if !moves.is_empty() {
                writeln!(text, "    {from:?} --> {to:?}: {}", moves.join(", ")).unwrap();
            }
        }
    }
    for state in JobState::ALL.into_iter().filter(|state| state.is_terminal()) {
        writeln!(text, "    {state:?} --> [*]: retention").unwrap();
    }
    text + "```\n"
}

/// "RetryByOperator" as "retry by operator".
fn words(name: &str) -> String {
    let mut text = String::new();
    for (place, letter) in name.char_indices() {
        if place > 0 && letter.is_uppercase() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[test]
fn the_state_diagram_shows_exactly_the_legal_moves() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let page = std::fs::read_to_string(&path).expect("ARCHITECTURE.md is there");
    let start = page.find(START).expect("the start marker is there") + START.len();
    let end = start + page[start..].find(END).expect("the end marker is there");
    if std::env::var_os("FERROQ_BLESS").is_some() {
        std::fs::write(&path, format!("{}{}{}", &page[..start], diagram(), &page[end..])).expect("it can be written");
        return;
    }
    assert_eq!(&page[start..end], diagram(), "run it with FERROQ_BLESS=1 to write the diagram anew");
}

#[test]
fn every_method_of_the_contract_is_documented_under_the_same_headings() {
    const HEADINGS: [&str; 4] = ["# Guarantees", "# Repeating", "# Errors", "# Backends"];
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../core/src/storage");
    let mut methods = 0;
    for file in ["mod", "jobs", "inspect", "control", "limits", "events", "transfer"] {
        let text = std::fs::read_to_string(folder.join(file).with_extension("rs")).expect("the contract is there");
        let contract = text.split("pub trait ").filter(|part| !part.starts_with("StorageExt")).skip(1);
        for body in contract.map(|part| part.split("\n}\n").next().unwrap_or(part)) {
            let mut docs = String::new();
            for line in body.lines() {
                if let Some(doc) = line.strip_prefix("    /// ") {
                    docs.push_str(doc);
                    docs.push('\n');
                } else if line.starts_with("    fn ") || line.starts_with("    async fn ") {
                    let places: Vec<_> = HEADINGS.iter().map(|heading| docs.find(heading)).collect();
                    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{file}.rs: {line}\n{docs}");
                    docs.clear();
                    methods += 1;
                }
            }
        }
    }
    assert!(methods >= 24, "only {methods} methods were found, so the test reads the files wrongly");
}
