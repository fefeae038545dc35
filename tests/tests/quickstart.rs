//! The quickstart (and the README's program), run as its user runs it: a child process on a directory of files, killed and interrupted, with its
//! promises checked from outside. What it computed is compared with a computation of our own; what it executed is read from
//! the lines that it appends to QUICKSTART_TRACE; what it stored is read from its database while no process is running.
#![cfg(unix)]
// The seed of a run is printed, so that a failure can be replayed.
#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use ferroq::sqlite::{SqliteOptions, SqliteStorage};
use ferroq::{Client, JobFilter, JobId, JobRecord, JobState};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

/// How many kills the crash test makes at least.
const KILLS: usize = 24;

/// The quickstart.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("quickstart"))
}

/// An example, built with the profile and features that these tests were built with, into the same directory.
fn build(example: &str) -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    let profile = test.parent().and_then(Path::parent).expect("<target>/<profile>/deps/<test>");
    let name = profile.file_name().and_then(|name| name.to_str()).expect("a profile's directory");
    let target = profile.parent().expect("a profile's directory is in the target directory");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the workspace");
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--workspace", "--all-features", "--example", example])
        .args(["--profile", if name == "debug" { "dev" } else { name }])
        .args(["--message-format", "json"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace)
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "the example does not build");
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where the example is")
}

#[test]
fn the_program_in_the_readme_is_twenty_lines_that_run() {
    let program = |text: &'static str| text.split_once("use ferroq").expect("it uses ferroq").1;
    let readme = program(include_str!("../../README.md")).split_once("```").expect("a block of code").0;
    assert_eq!(readme, program(include_str!("../../examples/welcome.rs")), "README.md and examples/welcome.rs differ");
    let lines = readme.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 20, "{lines} lines");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(build("welcome")).current_dir(folder.path()).output().expect("the example runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "attempt 1: welcome, ada@example.org!\n");
    assert!(output.status.success());
}

/// A directory of files, and beside it the database and the trace.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Scene { folder: tempfile::tempdir().expect("a temporary directory") };
        fs::create_dir(scene.files()).expect("made");
        scene
    }

    fn files(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("it exists").join("files")
    }

    fn db(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }

    fn trace(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    fn write(&self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.files().join(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("made");
        fs::write(&path, contents).expect("written");
        path
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.arg(self.files()).arg("--db").arg(self.db()).env("QUICKSTART_TRACE", self.trace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self) -> Output {
        self.command().output().expect("the example runs")
    }

    /// (job id, fencing token) of each execution so far.
    fn executions(&self) -> Vec<(String, String)> {
        let trace = fs::read_to_string(self.trace()).unwrap_or_default();
        let words = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            (words.next().expect("an id"), words.next().expect("a token"))
        };
        trace.lines().map(words).collect()
    }

    /// Every record, by the file that it is for; more than one for a file is a failure.
    fn records(&self) -> BTreeMap<PathBuf, JobRecord> {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let records = runtime.block_on(async {
            let storage = SqliteStorage::open(SqliteOptions::new(self.db())).await.expect("the database opens");
            let jobs = Client::new(std::sync::Arc::new(storage));
            let mut records = Vec::new();
            for queue in jobs.queues().await.expect("queues") {
                let queue = jobs.queue(queue).expect("a queue's name");
                records.extend(queue.all(JobFilter::default()).await.expect("records"));
            }
            jobs.close().await;
            records
        });
        let mut by_path = BTreeMap::new();
        for record in records {
            let payload: serde_json::Value = serde_json::from_slice(&record.spec.payload.bytes).expect("JSON");
            let path = match &payload["path"] {
                serde_json::Value::String(text) => PathBuf::from(text),
                bytes => PathBuf::from(serde_json::from_value::<OsString>(bytes.clone()).expect("the path's bytes")),
            };
            let before = by_path.insert(path.clone(), record);
            assert!(before.is_none(), "{path:?} was enqueued twice");
        }
        by_path
    }
}

/// SHA-256, size and lines as the test computes them.
fn computed(path: &Path) -> serde_json::Value {
    let contents = fs::read(path).expect("readable");
    let sha256: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = contents.iter().filter(|byte| **byte == b'\n').count();
    serde_json::json!({ "sha256": sha256, "bytes": contents.len(), "lines": lines })
}

fn stored(record: &JobRecord) -> serde_json::Value {
    let result = record.notes.result.as_ref().expect("a completed file has a result");
    serde_json::from_slice(&result.bytes).expect("JSON")
}

/// The numbers of the last line on stdout: files, completed, failed, executions.
fn totals(output: &Output) -> [u64; 4] {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let last = stdout.lines().last().expect("a last line");
    let mut numbers = [0; 4];
    let words: Vec<&str> = last.split(' ').collect();
    assert_eq!(words.len(), 4, "{last}");
    for ((word, name), number) in words.iter().zip(["files=", "completed=", "failed=", "executions="]).zip(&mut numbers)
    {
        *number = word.strip_prefix(name).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{last}"));
    }
    numbers
}

#[test]
fn every_file_is_computed_whatever_its_name_and_the_totals_are_the_last_line() {
    let scene = Scene::new();
    let mut files = vec![
        scene.write("empty", ""),
        scene.write("no newline at the end", "a\nb"),
        scene.write("two\nlines in a name", "\n\n\n"),
        scene.write("quotes ' \" and {braces} \u{202e}right to left", "x\n"),
        scene.write("n".repeat(255), "long name"),
        scene.write("target/not a cache, for it has no tag", "x"),
        scene.write(format!("{}/deep", ["down"; 100].join("/")), "deep\n"),
        scene.write("large", vec![b'\n'; 3_000_000]),
    ];
    // Not every file system takes a name that is no text.
    let no_text = scene.files().join(OsString::from_vec(b"not \xff text".to_vec()));
    if fs::write(&no_text, "bytes").is_ok() {
        files.push(no_text);
    }
    // Left out: links, what is no file, the marked cache, .git.
    symlink(&files[0], scene.files().join("link")).expect("linked");
    symlink("..", scene.files().join("loop")).expect("linked");
    symlink("nowhere", scene.files().join("dangling")).expect("linked");
    std::os::unix::net::UnixListener::bind(scene.files().join("socket")).expect("bound");
    scene.write(".git/config", "x");
    scene.write("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    scene.write("cache/artefact", "x");

    let output = scene.run();
    let count = files.len() as u64;
    assert_eq!(totals(&output), [count, count, 0, count]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for said in ["3 symlinks", "1 pipes, sockets or devices", ".git", "cache", "two\\nlines in a name"] {
        assert!(shown.contains(said), "{said:?} is not in:\n{shown}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no progress bar where nobody watches");

    let records = scene.records();
    assert_eq!(records.keys().cloned().collect::<HashSet<_>>(), files.iter().cloned().collect());
    for (path, record) in &records {
        assert_eq!(stored(record), computed(path), "{path:?}");
    }
}

#[test]
fn a_second_run_executes_only_what_is_new() {
    let scene = Scene::new();
    for number in 0..50 {
        scene.write(format!("{number}"), format!("{number}\n"));
    }
    assert_eq!(totals(&scene.run()), [50, 50, 0, 50]);
    assert_eq!(totals(&scene.run()), [50, 50, 0, 50]);
    assert_eq!(scene.executions().len(), 50);
    scene.write("new", "x");
    assert_eq!(totals(&scene.run()), [51, 51, 0, 51]);
    assert_eq!(scene.executions().len(), 51);
}

#[test]
fn the_database_is_not_among_the_files_of_its_own_directory() {
    let scene = Scene::new();
    scene.write("file", "x");
    let run = || {
        let mut command = Command::new(program());
        command.current_dir(scene.files()).env_remove("QUICKSTART_TRACE").output().expect("the example runs")
    };
    assert_eq!(totals(&run()), [1, 1, 0, 1]);
    assert_eq!(totals(&run()), [1, 1, 0, 1]);
    assert!(scene.files().join("quickstart.db").exists(), "the default database is in the current directory");
}

#[test]
fn a_directory_that_is_not_there_is_an_error_that_names_it() {
    let scene = Scene::new();
    let output = Command::new(program()).arg(scene.files().join("nowhere")).output().expect("the example runs");
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere: No such file or directory"));
}

#[test]
fn unreadable_files_are_retried_and_end_failed_with_their_reason() {
    let scene = Scene::new();
    scene.write("readable", "x");
    let secret = scene.write("secret", "x");
    scene.write("closed/inside", "x");
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
    set_mode(&secret, 0o000);
    let closed = scene.files().join("closed");
    set_mode(&closed, 0o000);

    let output = as_nobody(&scene).output().expect("the example runs");
    set_mode(&closed, 0o755);
    // One run of the readable file, three attempts at the other.
    assert_eq!(totals(&output), [2, 1, 1, 4]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for said in ["secret: Permission denied", "closed: Permission denied"] {
        assert!(shown.contains(said), "{said:?} is not in:\n{shown}");
    }
    let records = scene.records();
    assert_eq!((records[&secret].state, records[&secret].attempts), (JobState::Failed, 3));
}

/// The example run by somebody who may not read everything: root can, so it becomes nobody, with a copy of the program
/// where nobody can reach it.
fn as_nobody(scene: &Scene) -> Command {
    const NOBODY: u32 = 65534;
    let id = Command::new("id").arg("-u").output().expect("id runs");
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return scene.command();
    }
    let copy = scene.folder.path().join("quickstart");
    fs::copy(program(), &copy).expect("copied");
    fs::set_permissions(scene.folder.path(), fs::Permissions::from_mode(0o755)).expect("mode set");
    std::os::unix::fs::chown(scene.folder.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let mut command = Command::new(copy);
    command.arg(scene.files()).arg("--db").arg(scene.db()).env("QUICKSTART_TRACE", scene.trace());
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
    command
}

#[test]
fn an_interrupted_run_stops_cleanly_and_the_next_one_continues() {
    let scene = Scene::new();
    scene.write("small", "x\n");
    // A hole of 64 GiB takes longer to read than anybody waits.
    let huge = scene.write("huge", "");
    fs::File::options().write(true).open(&huge).and_then(|file| file.set_len(64 << 30)).expect("a sparse file");

    let child = scene.command().spawn().expect("the example starts");
    wait_for(|| scene.executions().len() == 2);
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(130), 0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("run the same command again to continue"), "{said}");

    fs::write(&huge, "small now\n").expect("written");
    let [files, completed, failed, executions] = totals(&scene.run());
    assert_eq!((files, completed, failed, executions), (2, 2, 0, 3), "only the huge file ran twice");
    let records = scene.records();
    assert!(records.values().all(|record| record.attempts == 0 && record.crashes == 0), "given back, not failed");
}

#[test]
fn killed_at_random_moments_it_misses_nothing_and_repeats_nothing() {
    let seed = env::var("FERROQ_SEED").ok().and_then(|text| text.trim().parse().ok()).unwrap_or_else(rand::random);
    println!("replay with: FERROQ_SEED={seed} cargo test -p ferroq-tests --test quickstart killed");
    let mut random = StdRng::seed_from_u64(seed);
    let scene = Scene::new();
    let mut files = 0;
    let mut add_files = |random: &mut StdRng, count: usize| {
        for _ in 0..count {
            files += 1;
            let length = if files % 40 == 0 { 2_000_000 } else { random.random_range(0..20_000) };
            let contents: Vec<u8> = (0..length).map(|at: u32| (at.wrapping_mul(files) >> 3) as u8).collect();
            scene.write(format!("{}/{files}", files % 7), contents);
        }
        files
    };
    add_files(&mut random, 400);

    let mut kills = 0;
    // The files whose completion was committed when the last kill was over, and how many executions there were by then.
    let mut committed: HashSet<JobId> = HashSet::new();
    let mut executed = 0;
    while kills < KILLS {
        let mut child = scene.command().spawn().expect("the example starts");
        let ended_by_itself = !kill_at_some_moment(&mut child, &mut random, || scene.executions().len() - executed);
        kills += usize::from(!ended_by_itself);
        if scene.db().exists() {
            let executions = scene.executions();
            for (id, _) in &executions[executed..] {
                let id: JobId = id.parse().expect("a job id");
                assert!(!committed.contains(&id), "seed {seed}: a file ran again after its completion was committed");
            }
            executed = executions.len();
            let records = scene.records();
            assert!(records.values().all(|record| record.state != JobState::Failed), "seed {seed}: failed by a kill");
            let completed = |record: &&JobRecord| record.state == JobState::Completed;
            let now: HashSet<JobId> = records.values().filter(completed).map(JobRecord::id).collect();
            assert!(committed.is_subset(&now), "seed {seed}: a completion was lost");
            committed = now;
        }
        if ended_by_itself {
            // All files are done before all kills are made: more files.
            add_files(&mut random, 200);
        }
    }

    let [total, completed, failed, executions] = totals(&scene.run());
    let files = u64::from(add_files(&mut random, 0));
    assert_eq!((total, completed, failed), (files, files, 0), "seed {seed}");
    let traced = scene.executions();
    assert!(traced.len() as u64 <= executions, "seed {seed}: an execution that no record counts");
    assert_eq!(traced.iter().collect::<HashSet<_>>().len(), traced.len(), "seed {seed}: a lease was given out twice");
    let mut runs: HashMap<&str, u32> = HashMap::new();
    for (id, _) in &traced {
        *runs.entry(id).or_default() += 1;
    }
    let records = scene.records();
    assert_eq!(records.values().map(|record| u64::from(record.runs)).sum::<u64>(), executions);
    for (path, record) in &records {
        assert_eq!(stored(record), computed(path), "seed {seed}: {path:?}");
        let traced = runs.get(record.id().to_string().as_str()).copied().unwrap_or(0);
        assert!(1 <= traced && traced <= record.runs, "seed {seed}: {path:?} ran {traced} times of {}", record.runs);
    }
}

/// Kills the child after a random time since its start, or after a random number of executions; the first hits its start,
/// the second its work. Answers false if it ended by itself before that.
fn kill_at_some_moment(child: &mut Child, random: &mut StdRng, executed: impl Fn() -> usize) -> bool {
    let started = Instant::now();
    let moment: (Duration, usize) = if random.random_bool(0.3) {
        (Duration::from_micros(random.random_range(0..80_000)), usize::MAX)
    } else {
        (Duration::MAX, random.random_range(0..60))
    };
    loop {
        if let Some(status) = child.try_wait().expect("its status can be read") {
            assert!(status.success(), "it ended by itself with {status}");
            return false;
        }
        if started.elapsed() >= moment.0 || executed() >= moment.1 {
            child.kill().expect("killed");
            let status = child.wait().expect("it ends");
            return status.signal() == Some(9);
        }
        thread::sleep(Duration::from_micros(300));
    }
}

/// Looks until it is so. A test that would wait for ever fails after two minutes.
fn wait_for(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(120), "it did not come about");
        thread::sleep(Duration::from_millis(5));
    }
}
