//! Adds up what the records say, and prints it: the largest files, the failures with their reasons, and the line that
//! scripts read, last.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use ferroq::codec;
use ferroq::job::PAYLOAD_BYTES_MAX_DEFAULT;
use ferroq::{JobFilter, JobRecord, JobState, QueueHandle};

use crate::digest::{DigestFile, FileDigest};
use crate::walk::Walked;

/// How many records are read at once.
const PAGE_RECORDS: usize = 500;
/// How many of the largest files are shown.
const LARGEST_SHOWN: usize = 10;
/// How many failures are shown.
const FAILURES_SHOWN: usize = 20;

/// The sum of all records.
#[derive(Default)]
pub(crate) struct Totals {
    files: u64,
    completed: u64,
    failed: u64,
    executions: u64,
    largest: Vec<(FileDigest, DigestFile)>,
    failures: Vec<(DigestFile, String)>,
}

/// Reads every record of the queue, page by page.
pub(crate) async fn collect(queue: &QueueHandle) -> Result<Totals, Box<dyn Error>> {
    let mut totals = Totals::default();
    let mut after = None;
    loop {
        let page = queue.list(JobFilter::default(), after, PAGE_RECORDS).await?;
        for record in &page.jobs {
            totals.add(record)?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(totals);
        }
    }
}

impl Totals {
    fn add(&mut self, record: &JobRecord) -> Result<(), Box<dyn Error>> {
        self.files += 1;
        // One per time that a worker started it, kills included.
        self.executions += u64::from(record.runs);
        let file = || codec::decode_job::<DigestFile>(&record.spec.payload, PAYLOAD_BYTES_MAX_DEFAULT);
        match (record.state, &record.notes.result) {
            (JobState::Completed, Some(result)) => {
                self.completed += 1;
                let found: FileDigest = codec::decode("result", result, PAYLOAD_BYTES_MAX_DEFAULT)?;
                let place = self.largest.partition_point(|(other, _)| other.bytes >= found.bytes);
                if place < LARGEST_SHOWN {
                    self.largest.insert(place, (found, file()?));
                    self.largest.truncate(LARGEST_SHOWN);
                }
            }
            (JobState::Failed, _) => {
                self.failed += 1;
                if self.failures.len() < FAILURES_SHOWN {
                    let reason = record.notes.errors.last().map_or("unknown", |error| &error.message);
                    self.failures.push((file()?, reason.to_owned()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Prints the tables, and then the totals as the very last line.
    pub(crate) fn print(&self, root: &Path, walked: &Walked, to: &mut impl Write) -> io::Result<()> {
        if !self.largest.is_empty() {
            writeln!(to, "{:>14}  {:>10}  {:<16}  largest files", "bytes", "lines", "sha256")?;
            for (found, file) in &self.largest {
                let FileDigest { sha256, bytes, lines } = found;
                writeln!(to, "{bytes:>14}  {lines:>10}  {:.16}  {}", sha256, shown(root, file.path()))?;
            }
        }
        if !self.failures.is_empty() {
            writeln!(to, "\nfailed:")?;
            for (file, reason) in &self.failures {
                writeln!(to, "  {}: {reason}", shown(root, file.path()))?;
            }
            let more = self.failed - self.failures.len() as u64;
            if more > 0 {
                writeln!(to, "  and {more} more")?;
            }
        }
        self.print_left_out(root, walked, to)?;
        let Totals { files, completed, failed, executions, .. } = self;
        writeln!(to, "\nfiles={files} completed={completed} failed={failed} executions={executions}")?;
        to.flush()
    }

    fn print_left_out(&self, root: &Path, walked: &Walked, to: &mut impl Write) -> io::Result<()> {
        let Walked { skipped, unreadable, symlinks, special } = walked;
        if !unreadable.is_empty() {
            writeln!(to, "\nnot listed:")?;
            for (directory, why) in unreadable {
                writeln!(to, "  {}: {why}", shown(root, directory))?;
            }
        }
        let mut left_out: Vec<String> = skipped.iter().map(|path| shown(root, path)).collect();
        if *symlinks > 0 {
            left_out.push(format!("{symlinks} symlinks"));
        }
        if *special > 0 {
            left_out.push(format!("{special} pipes, sockets or devices"));
        }
        if !left_out.is_empty() {
            writeln!(to, "\nleft out: {}", left_out.join(", "))?;
        }
        Ok(())
    }
}

/// A path for a person to read, on one line whatever its name holds.
fn shown(root: &Path, path: &Path) -> String {
    let path = match path.strip_prefix(root) {
        Ok(inside) if inside.as_os_str().is_empty() => Path::new("."),
        Ok(inside) => inside,
        Err(_) => path,
    };
    let mut text = String::new();
    for letter in path.to_string_lossy().chars() {
        match letter {
            '\'' | '"' | '\\' => text.push(letter),
            other => text.extend(other.escape_debug()),
        }
    }
    text
}
