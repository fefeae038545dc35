//! A file to which processes append what their handlers did: the effects that a queue can't take back. A line is
//! written by one `write` in append mode, so a process that is killed leaves whole lines, in the order of writing.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One thing that a handler did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What: `start`, `done`, or as the handler says.
    pub what: String,
    /// Which job, by the number in its payload.
    pub n: u64,
    /// Under which epoch.
    pub epoch: i64,
    /// In which process.
    pub pid: u32,
}

/// A trace to append to.
#[derive(Debug)]
pub struct Trace {
    file: File,
}

impl Trace {
    /// Opens or makes the file.
    ///
    /// # Panics
    /// If it can't be opened.
    pub fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).expect("the trace file");
        Trace { file }
    }

    /// Appends a line.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn write(&self, what: &str, n: u64, epoch: i64) {
        let line = format!("{what} {n} {epoch} {}\n", std::process::id());
        (&self.file).write_all(line.as_bytes()).expect("append to the trace");
    }
}

/// Everything in a trace.
///
/// # Panics
/// If a line can't be read.
pub fn read(path: &Path) -> Vec<Line> {
    // A trace that nobody wrote to yet is empty.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let mut parts = line.split(' ');
        Some(Line {
            what: parts.next()?.to_owned(),
            n: parts.next()?.parse().ok()?,
            epoch: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
        })
    };
    text.lines().map(|text| line(text).unwrap_or_else(|| panic!("a torn line in {path:?}: {text:?}"))).collect()
}

/// The trace beside a database.
pub fn path_beside(db: &Path) -> PathBuf {
    db.with_extension("trace")
}
