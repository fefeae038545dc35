//! RELIABILITY.md names the tests that show each promise. A promise whose test was renamed or removed is only a claim, so
//! every test named there must exist, and every promise must name one.

use std::collections::HashMap;
use std::path::Path;

/// The sources in which tests are looked for, by file name; several files may share one.
fn sources() -> HashMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut sources: HashMap<String, Vec<String>> = HashMap::new();
    for directory in ["tests/tests", "testkit/src/conformance"] {
        for entry in std::fs::read_dir(root.join(directory)).expect(directory) {
            let entry = entry.expect(directory);
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let name = entry.file_name().to_string_lossy().into_owned();
                sources.entry(name).or_default().push(std::fs::read_to_string(entry.path()).expect("a source"));
            }
        }
    }
    sources
}

fn reliability() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    std::fs::read_to_string(root.join("RELIABILITY.md")).expect("RELIABILITY.md")
}

/// The tests named in a text: `file.rs::name`, in backquotes.
fn named(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|quoted| quoted.split_once("::")).filter(|(file, _)| file.ends_with(".rs")).collect()
}

#[test]
fn every_test_named_in_the_reliability_page_exists() {
    let (sources, page) = (sources(), reliability());
    let named = named(&page);
    assert!(named.len() > 40, "only {} tests were found in the page", named.len());
    for (file, name) in named {
        let found = sources.get(file).into_iter().flatten().any(|source| source.contains(&format!("fn {name}(")));
        assert!(found, "RELIABILITY.md names {file}::{name}, which is not there");
    }
}

#[test]
fn every_promise_names_a_test_that_shows_it() {
    let page = reliability();
    let table = page.split("## The promises").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10, "only {} rows", rows.len());
    for row in rows {
        assert_eq!(row.matches(" | ").count(), 4, "five columns: {row}");
        assert!(!named(row).is_empty(), "no test shows this: {row}");
    }
}

#[test]
fn every_promise_on_redis_names_a_test_that_shows_it() {
    let page = reliability();
    let table = page.split("## On Redis").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10, "only {} rows", rows.len());
    for row in rows {
        assert_eq!(row.matches(" | ").count(), 2, "three columns: {row}");
        assert!(!named(row).is_empty(), "no test shows this: {row}");
    }
}
