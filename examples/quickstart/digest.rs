//! The job: one file to read, and what reading it gave. The payload keeps the path's own bytes, because file names need
//! not be text.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ferroq::{Context, Job, JobResult};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file to read. It has three attempts a short while apart; a crash budget without end, because it is killed for show
/// here and no file can be the reason.
#[derive(Serialize, Deserialize, Job)]
#[job(name = "file.digest", output = "FileDigest")]
#[job(max_attempts = 3, backoff = "list(200ms, 1s)", max_crashes = 4294967295)]
pub(crate) struct DigestFile {
    path: FilePath,
}

/// A path as readable text where it is text, and as the system's own bytes where it is not.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum FilePath {
    Text(String),
    Other(OsString),
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct FileDigest {
    /// SHA-256 in hexadecimal digits.
    pub(crate) sha256: String,
    /// How many bytes were read.
    pub(crate) bytes: u64,
    /// How many newline bytes are among them, as `wc -l` counts.
    pub(crate) lines: u64,
}

impl DigestFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let path = path.into_os_string().into_string().map_or_else(FilePath::Other, FilePath::Text);
        DigestFile { path }
    }

    pub(crate) fn path(&self) -> &Path {
        match &self.path {
            FilePath::Text(path) => Path::new(path),
            FilePath::Other(path) => Path::new(path),
        }
    }
}

/// The handler. Any error means: try again after the backoff, if attempts are left.
pub(crate) async fn digest(job: DigestFile, cx: Context<Trace>) -> JobResult<FileDigest> {
    cx.state().executed(&job, &cx)?;
    let stop = cx.cancellation_token();
    // Files block, so they are read on a thread where that holds up nothing else.
    let read = tokio::task::spawn_blocking(move || read(job.path(), || stop.is_cancelled()));
    Ok(read.await??)
}

fn read(path: &Path, stop: impl Fn() -> bool) -> io::Result<FileDigest> {
    // It was a plain file when it was listed; to open what has become a pipe since would wait for ever.
    if !path.symlink_metadata()?.is_file() {
        return Err(io::Error::other("is not a regular file any more"));
    }
    let mut file = File::open(path)?;
    let mut sha256 = Sha256::new();
    let (mut bytes, mut lines) = (0, 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if stop() {
            return Err(io::Error::other("told to stop"));
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(FileDigest { sha256: hex(&sha256.finalize()), bytes, lines }),
            Ok(length) => {
                let part = &buffer[..length];
                sha256.update(part);
                bytes += length as u64;
                lines += part.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The worker's state: where to note that a file is run, for tests that count. Off unless QUICKSTART_TRACE names a file.
pub(crate) struct Trace {
    file: Option<File>,
}

impl Trace {
    pub(crate) fn from_env() -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Trace { file: std::env::var_os("QUICKSTART_TRACE").map(open).transpose()? })
    }

    /// Adds a line: job id, fencing token, path. One write, at the file's end, so that processes don't mix theirs.
    fn executed(&self, job: &DigestFile, cx: &Context<Trace>) -> io::Result<()> {
        match &self.file {
            None => Ok(()),
            Some(file) => {
                let line = format!("{} {} {:?}\n", cx.id(), cx.fencing_token(), job.path());
                (&*file).write_all(line.as_bytes())
            }
        }
    }
}
