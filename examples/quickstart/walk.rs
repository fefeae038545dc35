//! Lists the regular files under a directory, in batches, without ever holding the whole list. What it leaves out it
//! counts or names, so that nobody has to guess why a file is missing.

use std::fs::{self, DirEntry, FileType};
use std::io;
use std::path::{Path, PathBuf};

/// A walk to be made.
pub(crate) struct Walk {
    root: PathBuf,
    own_files: Vec<PathBuf>,
    all: bool,
}

/// What a walk left out.
#[derive(Default)]
pub(crate) struct Walked {
    /// The database's own files, `.git`, and cache directories.
    pub(crate) skipped: Vec<PathBuf>,
    /// Directories (or entries of one) that could not be read, and why.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
    /// Symlinks, which are not followed.
    pub(crate) symlinks: u64,
    /// Pipes, sockets and devices.
    pub(crate) special: u64,
}

/// How a file that marks a cache directory begins: <https://bford.info/cachedir/>.
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

impl Walk {
    /// A walk from `root`, which leaves out the files of the database at `db`.
    pub(crate) fn new(root: &Path, db: &Path, all: bool) -> Self {
        let own_files = ["", "-wal", "-shm", "-journal"].map(|ending| {
            let mut path = db.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        });
        Walk { root: root.to_owned(), own_files: own_files.into(), all }
    }

    /// Hands out batches of up to `files` files, until all are out or `send` answers false.
    pub(crate) fn run(&self, files: usize, mut send: impl FnMut(Vec<PathBuf>) -> bool) -> Walked {
        let mut walked = Walked::default();
        let mut directories = vec![self.root.clone()];
        let mut batch = Vec::new();
        while let Some(directory) = directories.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) => {
                    walked.unreadable.push((directory, error));
                    continue;
                }
            };
            for entry in entries {
                match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
                    Err(error) => walked.unreadable.push((directory.clone(), error)),
                    Ok((kind, entry)) => self.sort(kind, &entry, &mut walked, &mut directories, &mut batch),
                }
                if batch.len() >= files && !send(std::mem::take(&mut batch)) {
                    return walked;
                }
            }
        }
        if !batch.is_empty() {
            send(batch);
        }
        walked
    }

    fn sort(
        &self,
        kind: FileType,
        entry: &DirEntry,
        walked: &mut Walked,
        directories: &mut Vec<PathBuf>,
        files: &mut Vec<PathBuf>,
    ) {
        let path = entry.path();
        if kind.is_symlink() {
            walked.symlinks += 1;
        } else if kind.is_dir() {
            if !self.all && (entry.file_name() == ".git" || is_cache(&path)) {
                walked.skipped.push(path);
            } else {
                directories.push(path);
            }
        } else if !kind.is_file() {
            walked.special += 1;
        } else if self.own_files.contains(&path) {
            walked.skipped.push(path);
        } else {
            files.push(path);
        }
    }
}

fn is_cache(directory: &Path) -> bool {
    let tag = directory.join("CACHEDIR.TAG");
    // A directory whose tag can't be read counts as none; listing it will say what is wrong.
    fs::symlink_metadata(&tag).is_ok_and(|tag| tag.is_file() && tag.len() < 64 * 1024)
        && fs::read(&tag).is_ok_and(|text| text.starts_with(CACHE_TAG))
}
