//! What the compiler says to someone who gets a job or a handler wrong: the texts are part of the product, so they are
//! held word for word. `TRYBUILD=overwrite cargo test -p ferroq-tests --test compile_errors` writes them anew; read the
//! difference before committing it.

// A comparison that is left out is said so.
#![allow(clippy::print_stderr)]

use std::process::Command;

/// The compiler whose own words are in `ui/types/*.stderr`; other versions say the same a little differently.
const RECORDED_WITH: &str = "rustc 1.95.";

#[test]
fn a_wrong_derive_says_what_is_wrong_and_how_to_write_it() {
    trybuild::TestCases::new().compile_fail("ui/derive/*.rs");
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
