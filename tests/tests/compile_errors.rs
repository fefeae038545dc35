//! What the compiler says to someone who gets a job or a handler wrong: the texts are part of the product, so they are
//! held word for word. `TRYBUILD=overwrite cargo test -p ferroq-tests --test compile_errors` writes them anew; read the
//! difference before committing it. The README's program is compiled and run here as well.

use std::process::Command;

/// The compiler whose own words are in `ui/types/*.stderr`; other versions say the same a little differently.
const RECORDED_WITH: &str = "rustc 1.95.";

#[test]
fn a_wrong_derive_says_what_is_wrong_and_how_to_write_it() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/derive/*.rs");
}

#[test]
fn a_wrong_type_says_what_shape_it_should_have() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.starts_with(RECORDED_WITH) {
        eprintln!("not compared: the texts are those of {RECORDED_WITH}x, and this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("ui/types/*.rs");
}

#[test]
fn the_program_in_the_readme_runs() {
    let readme = include_str!("../../README.md");
    let program = readme
        .split_once("```rust\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(program, _)| program)
        .expect("the README holds a Rust program");
    let lines = program.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 20, "the README's program has {lines} lines, and 20 are promised");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("readme.rs");
    // In the temporary directory, so that the test leaves nothing behind.
    let program = program.replace("app.db", &folder.path().join("app.db").to_string_lossy());
    std::fs::write(&file, format!("//! The README's program.\n{program}")).expect("written");
    trybuild::TestCases::new().pass(file);
}
