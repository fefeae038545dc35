//! What must not outlive the test process: its servers and their directories. A process that is killed runs no
//! destructors, and Linux's parent-death signal comes when the *thread* that started a child ends, which is no use for
//! a server that several tests share. So a shell stands by, one per test process: it is told of each server through a
//! pipe, and the end of that pipe, however the test process came to its end, makes it kill them and remove the files.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Signals that a terminal or `timeout` sends to the whole process group must not end the guard before its work is
/// done.
const GUARD: &str = r#"
trap '' INT TERM HUP
base=$(mktemp -d) || exit
echo "$base"
pids=
while read -r act pid; do
    case $act in
    start) pids="$pids $pid" ;;
    end)
        left=
        for other in $pids; do [ "$other" = "$pid" ] || left="$left $other"; done
        pids=$left
        ;;
    esac
done
for pid in $pids; do kill -9 "$pid"; done
rm -rf "$base" || { sleep 1; rm -rf "$base"; }
"#;

/// A process starts to exist before the guard can be told of it; so it waits for a word, and ends if none comes.
const WAIT_FOR_A_WORD: &str = r#"read -r go && exec "$@" </dev/null"#;

struct Guard {
    // It ends after this process, and is nobody's to wait for.
    _shell: Child,
    pipe: Mutex<ChildStdin>,
    base: PathBuf,
}

impl Guard {
    fn of_this_process() -> &'static Guard {
        static GUARD_OF_THIS_PROCESS: OnceLock<Guard> = OnceLock::new();
        GUARD_OF_THIS_PROCESS.get_or_init(Guard::start)
    }

    fn start() -> Guard {
        let mut shell = Command::new("sh")
            .args(["-c", GUARD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell to guard the servers");
        let mut base = String::new();
        let stdout = shell.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut base).expect("the guard's directory");
        let base = PathBuf::from(base.trim_end());
        assert!(base.is_dir(), "the guard made no directory for the servers");
        let pipe = Mutex::new(shell.stdin.take().expect("stdin is piped"));
        Guard { _shell: shell, pipe, base }
    }

    fn tell(&self, act: &str, pid: u32) {
        let mut pipe = self.pipe.lock().expect("nobody panicked with the pipe");
        writeln!(pipe, "{act} {pid}").expect("the guard listens");
    }
}

/// The directory in which servers have theirs. It is removed when the test process has ended.
pub fn base() -> &'static Path {
    &Guard::of_this_process().base
}

/// A process that ends with the test process at the latest. Killed when dropped.
#[derive(Debug)]
pub struct Guarded {
    process: Child,
}

impl Guarded {
    /// Starts a program that reads nothing and whose output goes to its own files.
    ///
    /// # Panics
    /// If there is no shell to start it with.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let guard = Guard::of_this_process();
        let mut process = Command::new("sh")
            .args(["-c", WAIT_FOR_A_WORD, "sh", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} can't be started: {error}"));
        guard.tell("start", process.id());
        let mut word = process.stdin.take().expect("stdin is piped");
        word.write_all(b"go\n").expect("the shell reads the word");
        Guarded { process }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended by itself.
    ///
    /// # Panics
    /// If the system can't tell.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("look at the process").is_some()
    }

    /// Sends it a signal, such as `STOP` or `CONT`.
    ///
    /// # Panics
    /// If it can't be sent.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(status.success(), "no process {} to signal", self.pid());
    }

    fn end(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        drop(self.process.kill());
        // Before it is waited for: from then on the number may be somebody else's.
        Guard::of_this_process().tell("end", self.pid());
        drop(self.process.wait());
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}
