//! How a test's server is set up. Without any option it keeps nothing on disk, refuses writes when its memory is full,
//! and lets everybody in.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The user as whom the tests' tools look at a server, whatever rights it leaves to others.
pub(crate) const TOOLS: &str = "ferroq-tests";

/// The files of a server that speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority that signed both certificates, as PEM.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The client's certificate and key, where the server asks for them.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Lines of its configuration.
    lines: Vec<(String, String)>,
    pub(crate) password: Option<String>,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) cluster: bool,
    pub(crate) sentinel: bool,
}

impl ServerOptions {
    /// A server that keeps nothing on disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Any directive, as in `redis.conf`.
    #[must_use]
    pub fn set(mut self, directive: &str, value: &str) -> Self {
        self.lines.push((directive.to_owned(), value.to_owned()));
        self
    }

    /// Keeps an append-only file, written through `always`, `everysec` or `no`.
    #[must_use]
    pub fn aof(self, fsync: &str) -> Self {
        self.set("appendonly", "yes").set("appendfsync", fsync)
    }

    /// Takes snapshots: `3600 1`, as in `redis.conf`.
    #[must_use]
    pub fn save(self, when: &str) -> Self {
        self.set("save", when)
    }

    /// Limits its memory: `10mb`, as in `redis.conf`.
    #[must_use]
    pub fn max_memory(self, bytes: &str) -> Self {
        self.set("maxmemory", bytes)
    }

    /// What it does when its memory is full: `allkeys-lru` and the like.
    #[must_use]
    pub fn eviction(self, policy: &str) -> Self {
        self.set("maxmemory-policy", policy)
    }

    /// A user: `app on >password ~* +@all`, as in an ACL file.
    #[must_use]
    pub fn user(self, rule: &str) -> Self {
        self.set("user", rule)
    }

    /// The default user's password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        // A replica shows it to its master.
        self.set("requirepass", password).set("masterauth", password)
    }

    /// Speaks TLS, on a port of its own besides the plain one, which stays for the tests' tools.
    #[must_use]
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.tls = Some(files);
        self
    }

    /// One node of a Cluster.
    #[must_use]
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self.set("cluster-enabled", "yes")
    }

    /// A Sentinel instead of a server that holds data.
    #[must_use]
    pub(crate) fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// The configuration file.
    pub(crate) fn config(&self, directory: &Path, ports: &Ports) -> String {
        let mut config = String::new();
        let mut line = |directive: &str, value: &str| {
            writeln!(config, "{directive} {value}").expect("writing to a string");
        };
        let file = |name: &str| quoted(&directory.join(name));
        line("bind", "127.0.0.1");
        line("port", &ports.plain.to_string());
        line("dir", &quoted(directory));
        line("logfile", &file("redis.log"));
        line("unixsocket", &file("redis.sock"));
        line("daemonize", "no");
        line("enable-debug-command", "yes");
        line("user", &format!("{TOOLS} on >{TOOLS} ~* &* +@all"));
        if !self.lines.iter().any(|(directive, _)| directive == "save") {
            line("save", "\"\"");
        }
        if let (Some(tls), Some(port)) = (&self.tls, ports.tls) {
            line("tls-port", &port.to_string());
            line("tls-ca-cert-file", &quoted(&tls.ca));
            line("tls-cert-file", &quoted(&tls.cert));
            line("tls-key-file", &quoted(&tls.key));
            line("tls-auth-clients", if tls.client.is_some() { "yes" } else { "no" });
        }
        if let Some(bus) = ports.cluster {
            line("cluster-port", &bus.to_string());
        }
        for (directive, value) in &self.lines {
            line(directive, value);
        }
        config
    }
}

/// The ports of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) plain: u16,
    pub(crate) tls: Option<u16>,
    /// The Cluster's bus. Its usual place, ten thousand above the plain port, need not be a port at all.
    pub(crate) cluster: Option<u16>,
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}
