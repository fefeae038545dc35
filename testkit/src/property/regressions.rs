//! Counterexamples on disk: the shrunk operations themselves as JSON, one file each, and not the seed alone, because a
//! seed means something else as soon as the generator changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Op;

/// A stored counterexample.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    /// What went wrong when it was found, for a reader.
    pub(super) failure: String,
    /// The operations.
    pub(super) ops: Vec<Op>,
}

/// Every stored counterexample, in the order of file names.
///
/// # Errors
/// If a file can't be read, or is none: a regression that is skipped in silence protects nobody.
pub(super) fn load(directory: &Path) -> io::Result<Vec<(PathBuf, Stored)>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let stored = serde_json::from_slice(&fs::read(&path)?).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is no stored counterexample: {error}", path.display()),
            )
        })?;
        all.push((path, stored));
    }
    Ok(all)
}

/// Stores a counterexample.
///
/// # Errors
/// If it can't be written.
pub(super) fn store(directory: &Path, name: &str, seed: u64, stored: &Stored) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{name}-{seed:016x}.json"));
    fs::write(&path, serde_json::to_vec_pretty(stored)?)?;
    Ok(path)
}
