//! A real server of a test's own: started on a free port of loopback, killed, stopped, continued, started again on the
//! same port and files, and gone with the test. Its methods block for some milliseconds; they are meant for tests, which
//! may call them from a future too.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use redis::Value;
use tempfile::TempDir;

use super::cli::{as_command, connect, info_field, text};
use super::guard::{Guarded, base};
use super::options::{Ports, ServerOptions, TOOLS};
use super::{port, until};

/// How often a port that was free may be taken by somebody else before the server has it.
const PORTS_TRIED: u32 = 20;

/// The lowest version that the backend works with.
const LOWEST_MAJOR: u32 = 7;

/// A running server, or one that was killed and may be started again.
pub struct Server {
    options: ServerOptions,
    ports: Ports,
    process: Mutex<Option<Guarded>>,
    // Connections with a command on its way that nobody waits for.
    waiting: Mutex<Vec<redis::Connection>>,
    // After the process, which writes into it.
    directory: TempDir,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("ports", &self.ports).field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// What came of a start.
enum Started {
    Ready(Guarded),
    PortTaken,
}

/// The program: `FERROQ_REDIS_SERVER`, or `redis-server` from the path.
///
/// # Panics
/// If there is none; the message says how to get it.
pub fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = std::env::var("FERROQ_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let version = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
        // `Redis server v=7.0.15 sha=...`
        let version = version.map(|version| String::from_utf8_lossy(&version.stdout).into_owned()).unwrap_or_default();
        let major = version.split_once(" v=").and_then(|(_, number)| number.split('.').next()?.parse::<u32>().ok());
        assert!(
            major.is_some_and(|major| major >= LOWEST_MAJOR),
            "this test needs Redis {LOWEST_MAJOR}.0 or later, and {program:?} is missing or older ({version:?}). ./test.sh \
             installs it; or do so by hand: apt-get install redis-server. FERROQ_REDIS_SERVER names another program, \
             such as a valkey-server."
        );
        program
    })
}

/// One server for all tests of this process that don't harm it. Each of them takes a [`namespace`] of its own.
///
/// # Panics
/// As [`Server::start`].
pub fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(ServerOptions::new()))
}

/// A namespace that no other test of this process has.
pub fn namespace() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// If it does not start; the message holds its log.
    pub fn start(options: ServerOptions) -> Server {
        let directory = TempDir::new_in(base()).expect("a directory for the server");
        for _ in 0..PORTS_TRIED {
            let ports = Ports {
                plain: port::free(),
                tls: options.tls.as_ref().map(|_| port::free()),
                cluster: options.cluster.then(port::free),
            };
            std::fs::write(directory.path().join("redis.conf"), options.config(directory.path(), &ports))
                .expect("write the server's configuration");
            if let Started::Ready(process) = launch(directory.path(), ports.plain, options.sentinel) {
                let process = Mutex::new(Some(process));
                return Server { options, ports, process, waiting: Mutex::default(), directory };
            }
        }
        panic!("{PORTS_TRIED} free ports were all taken before the server had them");
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.ports.plain
    }

    /// Its TLS port.
    ///
    /// # Panics
    /// If it does not speak TLS.
    pub fn tls_port(&self) -> u16 {
        self.ports.tls.expect("a server with TLS")
    }

    /// The port of its Cluster bus.
    ///
    /// # Panics
    /// If it is no node of a Cluster.
    pub fn cluster_port(&self) -> u16 {
        self.ports.cluster.expect("a node of a Cluster")
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Its Unix socket.
    pub fn unix_socket(&self) -> PathBuf {
        self.directory().join("redis.sock")
    }

    /// The URL of the default user.
    pub fn url(&self) -> String {
        let password = self.options.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{password}{}", self.address())
    }

    /// The URL with parameters: `namespace=a&call_timeout=1s`.
    pub fn url_with(&self, parameters: &str) -> String {
        format!("{}?{parameters}", self.url())
    }

    /// The URL of another user.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@{}", self.address())
    }

    /// The URL with a namespace that no other test of this process has.
    pub fn url_alone(&self) -> String {
        self.url_with(&format!("namespace={}", namespace()))
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        log(self.directory())
    }

    fn process(&self) -> MutexGuard<'_, Option<Guarded>> {
        self.process.lock().expect("nobody panicked with the process")
    }

    fn signal(&self, name: &str) {
        self.process().as_ref().expect("a running server").signal(name);
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it is not running.
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("a running server").pid()
    }

    /// Whether it was started and not killed since.
    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// Kills it with SIGKILL, and returns when it is dead. Nothing happens if it is.
    pub fn kill(&self) {
        drop(self.process().take());
        self.waiting.lock().expect("nobody panicked with the connections").clear();
    }

    /// Starts it again on the same port and files, after killing it if it runs, and waits until it answers.
    ///
    /// # Panics
    /// As [`Server::start`], or if somebody else has taken the port.
    pub fn restart(&self) {
        self.kill();
        match launch(self.directory(), self.port(), self.options.sentinel) {
            Started::Ready(process) => *self.process() = Some(process),
            Started::PortTaken => panic!("while the server was down, somebody took its port {}", self.port()),
        }
    }

    /// Stops it with SIGSTOP: connections stay open, and from when this returns nothing is answered.
    ///
    /// # Panics
    /// If it is not running.
    pub fn stop(&self) {
        self.signal("STOP");
        let state = format!("/proc/{}/stat", self.pid());
        until("the server has stopped", || {
            // `<pid> (<name>) T ...`; only Linux tells, and elsewhere it takes as long as it takes.
            std::fs::read_to_string(&state).map_or(Some(()), |state| state.contains(") T ").then_some(()))
        });
    }

    /// Continues it after [`stop`](Self::stop).
    ///
    /// # Panics
    /// If it is not running.
    pub fn cont(&self) {
        self.signal("CONT");
    }

    /// A connection as a user who may do everything.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn connection(&self) -> redis::Connection {
        connect(self.port()).unwrap_or_else(|error| panic!("no connection to the test's server: {error}"))
    }

    /// Its answer to a command.
    ///
    /// # Errors
    /// The server's, or that it can't be reached.
    pub fn ask(&self, command: &[&str]) -> redis::RedisResult<Value> {
        as_command(command).query(&mut connect(self.port())?)
    }

    /// Its answer to a command as text: of a list, one line each; nothing as an empty text.
    ///
    /// # Panics
    /// If the answer is an error, or there is none.
    pub fn cli(&self, command: &[&str]) -> String {
        text(&self.ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// A field of `INFO`. Nothing if it has none, or can't be reached.
    pub fn info(&self, field: &str) -> Option<String> {
        info_field(&text(&self.ask(&["INFO", "everything"]).ok()?), field)
    }

    /// The memory that its data takes, in bytes.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn memory_bytes(&self) -> u64 {
        self.info("used_memory").and_then(|bytes| bytes.parse().ok()).expect("a server tells its memory")
    }

    /// How many commands clients have sent. The server's own count includes those that scripts run, so this one is of the
    /// commands that ferroq sends and no script of it runs.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn commands(&self) -> u64 {
        const SENT: [&str; 8] = ["evalsha", "eval", "blpop", "ping", "subscribe", "sadd", "sismember", "exists"];
        let stats = self.cli(&["INFO", "commandstats"]);
        let calls = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            rest.split(',').next()?.parse::<u64>().ok().filter(|_| SENT.contains(&name))
        };
        stats.lines().filter_map(calls).sum()
    }

    /// Changes a directive while it runs.
    ///
    /// # Panics
    /// If it can't be changed.
    pub fn config_set(&self, directive: &str, value: &str) {
        self.cli(&["CONFIG", "SET", directive, value]);
    }

    /// Closes the connections of all clients but the tests' own tools; answers how many there were.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn client_kill_all(&self) -> u64 {
        let mut connection = self.connection();
        let mut killed = 0;
        for kind in ["normal", "pubsub"] {
            let clients: String = as_command(&["CLIENT", "LIST", "TYPE", kind])
                .query(&mut connection)
                .unwrap_or_else(|error| panic!("CLIENT LIST: {error}"));
            let of_tools = format!("user={TOOLS}");
            let mut kill = redis::pipe();
            for client in clients.lines().filter(|client| !client.split(' ').any(|field| field == of_tools)) {
                let id = client.strip_prefix("id=").and_then(|rest| rest.split(' ').next()).expect("a client's id");
                kill.cmd("CLIENT").arg("KILL").arg("ID").arg(id);
            }
            if kill.is_empty() {
                continue;
            }
            // Those that have left by themselves meanwhile count for nothing.
            let killed_of_kind: Vec<u64> =
                kill.query(&mut connection).unwrap_or_else(|error| panic!("CLIENT KILL: {error}"));
            killed += killed_of_kind.iter().sum::<u64>();
        }
        killed
    }

    /// Takes commands and leaves them unanswered for so long; then answers them.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn client_pause(&self, duration: Duration) {
        self.cli(&["CLIENT", "PAUSE", &duration.as_millis().to_string(), "ALL"]);
    }

    /// Makes the server sleep, deaf and dumb, for so long. Returns when it has been told.
    ///
    /// # Panics
    /// If the server can't be told.
    pub fn debug_sleep(&self, duration: Duration) {
        let mut connection = self.connection();
        let sleep = as_command(&["DEBUG", "SLEEP", &format!("{:.3}", duration.as_secs_f64())]);
        connection.send_packed_command(&sleep.get_packed_command()).expect("tell the server to sleep");
        // A connection that is closed before the server reads from it might take the command along.
        self.waiting.lock().expect("nobody panicked with the connections").push(connection);
    }

    /// Its append-only files, the one that is being written last.
    ///
    /// # Panics
    /// If it keeps none.
    pub fn aof_files(&self) -> Vec<PathBuf> {
        let directory = self.directory().join("appendonlydir");
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry of the directory").path())
            .filter(|path| path.extension().is_some_and(|kind| kind != "manifest"))
            .collect();
        // `appendonly.aof.<n>.base.rdb` and `appendonly.aof.<n>.incr.aof`: the increments come after the base.
        files.sort_by_key(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number: Option<u64> = name.split('.').nth(2).and_then(|number| number.parse().ok());
            (name.contains(".incr."), number)
        });
        files
    }

    /// The append-only file that is being written.
    ///
    /// # Panics
    /// If it keeps none.
    pub fn aof_tail(&self) -> PathBuf {
        self.aof_files().pop().expect("an append-only file")
    }

    /// How long the append-only file that is being written is, in bytes.
    ///
    /// # Panics
    /// If it keeps none.
    pub fn aof_len_bytes(&self) -> u64 {
        std::fs::metadata(self.aof_tail()).expect("the append-only file").len()
    }

    /// Cuts that file off after so many bytes, as a crash of the machine might. The server must be dead.
    ///
    /// # Panics
    /// If it is not, or keeps no such file.
    pub fn truncate_aof(&self, bytes: u64) {
        assert!(!self.is_running(), "a running server would go on writing behind the cut");
        let file = std::fs::OpenOptions::new().write(true).open(self.aof_tail()).expect("the append-only file");
        file.set_len(bytes).expect("cut the append-only file");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the server whose configuration is in this directory, and waits until it answers.
fn launch(directory: &Path, port: u16, sentinel: bool) -> Started {
    let config = directory.join("redis.conf");
    // What an earlier process has logged is not about this one.
    drop(std::fs::rename(directory.join("redis.log"), directory.join("redis.log.before")));
    let config = config.to_string_lossy();
    let arguments: &[&str] = if sentinel { &[&config, "--sentinel"] } else { &[&config] };
    let mut process = Guarded::start(program(), arguments);
    let pid = process.pid().to_string();
    let ready = until("the server answers", || {
        if process.has_ended() {
            return Some(false);
        }
        // It is asked who it is: the port might be another server's. While it loads its files, it answers that.
        let mut connection = connect(port).ok()?;
        redis::cmd("PING").query::<()>(&mut connection).ok()?;
        let info: String = redis::cmd("INFO").arg("server").query(&mut connection).ok()?;
        (info_field(&info, "process_id")? == pid).then_some(true)
    });
    if ready {
        return Started::Ready(process);
    }
    let log = log(directory);
    if log.contains("Address already in use") {
        return Started::PortTaken;
    }
    panic!("{} ended instead of starting. Its log:\n{log}", program());
}

fn log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("redis.log")).unwrap_or_default()
}
