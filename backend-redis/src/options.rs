//! How a server is reached: options by builder or by URL ([`RedisOptions::from_url`]). Nothing is checked until all is
//! said, and then everything that is wrong is named at once; neither an error nor `Debug` ever shows a password or a key.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::Clock;
use ferroq_core::storage::StorageError;

use crate::error::{invalid, unsupported};

/// How to reach a server, a group of servers or a cluster, and what to ask of it.
#[derive(Clone)]
pub struct RedisOptions {
    pub(crate) servers: Servers,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
    pub(crate) namespace: String,
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) connect_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) replicas_wait: Option<WaitFor>,
    pub(crate) accept_eviction: bool,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    /// Called between the steps of a relay, with the step's name.
    pub(crate) on_step: Option<Arc<dyn Fn(&'static str) + Send + Sync>>,
}

/// Where the servers are and how they belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// One server.
    One(Address),
    /// The server that sentinels call the master of this name.
    Sentinel { sentinels: Vec<Address>, master: String, user: Option<String>, password: Option<Secret> },
    /// A cluster, found through any of these.
    Cluster(Vec<Address>),
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How many copies of a write to wait for before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitFor {
    /// The replicas that must have it.
    pub replicas: u32,
    /// Whether they, and the server itself, must have synced it to disk (`WAITAOF`, Redis 7.2 or later).
    pub fsync: bool,
    /// How long to wait at most. A write that did not get that far in time stays; what was reached is reported.
    pub timeout: Duration,
}

/// Certificates for a connection by TLS. Without any, the system's trusted certificates are used. There is no way to
/// turn the check of the server's certificate off.
#[derive(Clone, Default)]
pub struct TlsOptions {
    pub(crate) ca: Option<Pem>,
    pub(crate) client: Option<(Pem, Pem)>,
}

/// PEM text, or the file that holds it.
#[derive(Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "read only where TLS is built in"))]
pub(crate) enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

impl TlsOptions {
    /// TLS as the system trusts it.
    pub fn new() -> Self {
        TlsOptions::default()
    }

    /// Trusts the authorities in this PEM file, and no others.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Pem::File(path.into()));
        self
    }

    /// Trusts the authorities in this PEM text, and no others.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Pem::Text(pem.into()));
        self
    }

    /// Shows the server this certificate (chain) and key, from PEM files.
    pub fn client_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// Shows the server this certificate (chain) and key, from PEM texts.
    pub fn client_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.client = Some((Pem::Text(certificate.into()), Pem::Text(key.into())));
        self
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("own_ca", &self.ca.is_some())
            .field("client_certificate", &self.client.is_some())
            .finish()
    }
}

impl RedisOptions {
    /// The server at this host and port, without a password, namespace `ferroq`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        RedisOptions::at(Servers::One(Address::Tcp { host: host.into(), port }))
    }

    /// The server that listens on this Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        RedisOptions::at(Servers::One(Address::Unix(path.into())))
    }

    /// The master of this name, as these sentinels know it.
    pub fn sentinel(sentinels: impl IntoIterator<Item = (impl Into<String>, u16)>, master: impl Into<String>) -> Self {
        let (user, password) = (None, None);
        RedisOptions::at(Servers::Sentinel { sentinels: addresses(sentinels), master: master.into(), user, password })
    }

    /// The cluster that any of these nodes belongs to.
    pub fn cluster(nodes: impl IntoIterator<Item = (impl Into<String>, u16)>) -> Self {
        RedisOptions::at(Servers::Cluster(addresses(nodes)))
    }

    pub(crate) fn at(servers: Servers) -> Self {
        RedisOptions {
            servers,
            user: None,
            password: None,
            database: 0,
            namespace: "ferroq".into(),
            tls: None,
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(5),
            replicas_wait: None,
            accept_eviction: false,
            clock: None,
            on_step: None,
        }
    }

    /// The user to log in as; `default` if none is named.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The password to log in with.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The user to log in as at the sentinels, if they want one. Has no effect without sentinels.
    pub fn sentinel_user(mut self, name: impl Into<String>) -> Self {
        if let Servers::Sentinel { user, .. } = &mut self.servers {
            *user = Some(name.into());
        }
        self
    }

    /// The password for the sentinels, if they want one. Has no effect without sentinels.
    pub fn sentinel_password(mut self, text: impl Into<String>) -> Self {
        if let Servers::Sentinel { password, .. } = &mut self.servers {
            *password = Some(Secret(text.into()));
        }
        self
    }

    /// The number of the database: 0 by default. A cluster has no other.
    pub fn database(mut self, database: u32) -> Self {
        self.database = database;
        self
    }

    /// The name under which this app keeps its queues, so that several apps can share a database: `ferroq` by default.
    /// One to 32 of `a` to `z`, digits, `_` and `-`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Connects by TLS, with these certificates. Needs the feature `tls`.
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long one attempt to connect may take: 2 seconds by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may take to answer a call before its connection is given up and made anew: 5 seconds by
    /// default. A socket that has gone silent is noticed within this time.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Makes each enqueue wait until this many copies of it exist. By default it waits for none.
    pub fn replicas_wait(mut self, wait: WaitFor) -> Self {
        self.replicas_wait = Some(wait);
        self
    }

    /// Opens a server even if it may evict keys when its memory is full (a `maxmemory-policy` other than `noeviction`),
    /// which may lose jobs. Refused by default.
    pub fn accept_eviction(mut self, accept: bool) -> Self {
        self.accept_eviction = accept;
        self
    }

    /// Where the time comes from: the server's own clock by default, so that hosts need not agree on the time.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Calls `hook` between the steps by which an effect gets from one queue to another, with the step's name. For tests
    /// that end a process there.
    #[doc(hidden)]
    pub fn on_step(mut self, hook: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        self.on_step = Some(Arc::new(hook));
        self
    }

    /// Whether sentinels are asked for the master.
    pub(crate) fn has_sentinels(&self) -> bool {
        matches!(self.servers, Servers::Sentinel { .. })
    }

    /// Says everything that is wrong with these options.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        let mut wrong = Vec::new();
        self.find_wrong(&mut wrong);
        say("the Redis options", wrong)?;
        self.check_features()
    }

    /// Everything that makes no sense, whatever is built in.
    pub(crate) fn find_wrong(&self, wrong: &mut Vec<String>) {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !(1..=32).contains(&self.namespace.len()) || !self.namespace.chars().all(good) {
            wrong.push("the namespace must be 1 to 32 of a-z, 0-9, _ and -".into());
        }
        let hosts: &[Address] = match &self.servers {
            Servers::One(address) => std::slice::from_ref(address),
            Servers::Sentinel { sentinels, .. } => sentinels,
            Servers::Cluster(nodes) => nodes,
        };
        if hosts.is_empty() {
            wrong.push("there is no host; name at least one, as in localhost:6379".into());
        }
        for address in hosts {
            match address {
                Address::Tcp { host, .. } if host.is_empty() => wrong.push("a host is empty".into()),
                Address::Tcp { port: 0, .. } => wrong.push("a port is 0; it must be 1 to 65535".into()),
                Address::Unix(path) if path.as_os_str().is_empty() => {
                    wrong.push("the path of the Unix socket is empty".into());
                }
                Address::Unix(_) if self.tls.is_some() => wrong.push("a Unix socket has no TLS".into()),
                _ => {}
            }
        }
        if matches!(&self.servers, Servers::Sentinel { master, .. } if master.is_empty()) {
            wrong.push("the master has no name; it is what the sentinels call it, often `mymaster`".into());
        }
        if matches!(self.servers, Servers::Cluster(_)) && self.database != 0 {
            wrong.push("a cluster has only database 0; separate apps by namespace".into());
        }
        if self.user.is_some() && self.password.is_none() {
            wrong.push("there is a user, but no password".into());
        }
        if let Servers::Sentinel { user: Some(_), password: None, .. } = self.servers {
            wrong.push("there is a user for the sentinels, but no password".into());
        }
        for (name, timeout) in [("connect_timeout", self.connect_timeout), ("call_timeout", self.call_timeout)] {
            if timeout < Duration::from_millis(1) {
                wrong.push(format!("{name} must be at least 1 ms"));
            }
        }
        if let Some(wait) = &self.replicas_wait {
            if wait.replicas == 0 && !wait.fsync {
                wrong.push("to wait for no replica and no fsync is to wait for nothing; leave it out".into());
            }
            // WAIT takes 0 for "for ever", which would hold the connection.
            if wait.timeout < Duration::from_millis(1) {
                wrong.push("wait_timeout must be at least 1 ms".into());
            }
        }
    }

    /// What these options need and this build lacks: an error of its own, since the options are not to blame.
    fn check_features(&self) -> Result<(), StorageError> {
        if self.tls.is_none() || cfg!(feature = "tls") {
            return Ok(());
        }
        Err(unsupported(
            "this program was built without TLS towards Redis; enable ferroq's `redis-tls` feature (`tls` of ferroq-redis)",
        ))
    }
}

/// One error of all that is wrong.
pub(crate) fn say(what: &str, wrong: Vec<String>) -> Result<(), StorageError> {
    if wrong.is_empty() { Ok(()) } else { Err(invalid(format!("{what} can't be used: {}", wrong.join("; ")))) }
}

fn addresses(hosts: impl IntoIterator<Item = (impl Into<String>, u16)>) -> Vec<Address> {
    hosts.into_iter().map(|(host, port)| Address::Tcp { host: host.into(), port }).collect()
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("servers", &self.servers)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("namespace", &self.namespace)
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("replicas_wait", &self.replicas_wait)
            .field("accept_eviction", &self.accept_eviction)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
