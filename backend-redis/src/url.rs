//! Reads Redis URLs. The usual URL parsers take one host, and these name several, so they are read by hand. All that is
//! wrong is said at once. A password with an unescaped `/`, `?`, `#` or `@` spills into whatever follows it, so no text
//! is repeated from where it could have gone.

use std::path::PathBuf;
use std::time::Duration;

use ferroq_core::storage::StorageError;

use crate::error::invalid;
use crate::options::{Address, Pem, RedisOptions, Secret, Servers, TlsOptions, WaitFor, say};

/// The parameters there are.
const KNOWN: &str = "db, namespace, connect_timeout, call_timeout, wait_replicas, wait_fsync, wait_timeout, \
                     accept_eviction, ca, cert, key, sentinel_user and sentinel_password";

/// What the scheme says: which servers, and whether by TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    One,
    Unix,
    Sentinel,
    Cluster,
}

impl RedisOptions {
    /// Reads a URL:
    ///
    /// - `redis://user:password@host:6379/0`: one server, with a database number;
    /// - `redis+sentinel://user:password@a:26379,b:26379/mymaster/0`: the master that sentinels name;
    /// - `redis+cluster://user:password@a:6379,b:6379`: a cluster, found through any of its nodes;
    /// - `redis+unix:///run/redis.sock?db=0`: a Unix socket;
    /// - `rediss://`, `rediss+sentinel://`, `rediss+cluster://`: the same by TLS.
    ///
    /// User, password and port may be missing. What is not a plain letter or digit in a user or password is written as
    /// `%` and two hexadecimal digits. Parameters, all optional: `db`, `namespace`, `connect_timeout=2s`,
    /// `call_timeout=5s`, `wait_replicas=1`, `wait_fsync=true`, `wait_timeout=500ms`, `accept_eviction=true`,
    /// `sentinel_user`, `sentinel_password`; and by TLS `ca=/path.pem`, `cert=/path.pem`, `key=/path.pem`.
    ///
    /// # Errors
    /// `Invalid` says everything that is wrong with the URL; `Unsupported` names the feature that it needs and this
    /// build lacks. No error shows the password.
    pub fn from_url(url: &str) -> Result<Self, StorageError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (kind, tls) = match scheme {
            "redis" => (Kind::One, false),
            "rediss" => (Kind::One, true),
            "redis+unix" => (Kind::Unix, false),
            "redis+sentinel" => (Kind::Sentinel, false),
            "rediss+sentinel" => (Kind::Sentinel, true),
            "redis+cluster" => (Kind::Cluster, false),
            "rediss+cluster" => (Kind::Cluster, true),
            _ => {
                return Err(invalid(
                    "the URL is not one of a Redis server; it begins with redis://, rediss:// (TLS), redis+sentinel://, \
                     rediss+sentinel://, redis+cluster://, rediss+cluster:// or redis+unix://",
                ));
            }
        };
        let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // Either the password holds a character that ends the authority, or everything after it is suspect anyway.
        if after.contains(['@', '#']) {
            return Err(invalid(
                "the Redis URL has an @ or # after its hosts; in a user or password write / as %2F, ? as %3F, # as %23 \
                 and @ as %40, and in a path write @ as %40",
            ));
        }
        let (path, query) = after.split_once('?').unwrap_or((after, ""));
        let mut reader = Reader { kind, tls, wrong: Vec::new() };
        let mut options = reader.authority_and_path(authority, path);
        reader.parameters(&mut options, query);
        options.find_wrong(&mut reader.wrong);
        say("the Redis URL", reader.wrong)?;
        options.check()?;
        Ok(options)
    }
}

struct Reader {
    kind: Kind,
    tls: bool,
    wrong: Vec<String>,
}

impl Reader {
    fn authority_and_path(&mut self, authority: &str, path: &str) -> RedisOptions {
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let path = path.strip_prefix('/').unwrap_or(path);
        let mut database = "";
        let servers = match self.kind {
            Kind::One => {
                database = path;
                let mut hosts = self.hosts(hosts, 6379);
                if hosts.len() > 1 {
                    self.wrong.push(
                        "several hosts need redis+sentinel:// or redis+cluster://; redis:// is one server".into(),
                    );
                }
                Servers::One(hosts.swap_remove(0))
            }
            Kind::Unix => {
                if !hosts.is_empty() {
                    self.wrong.push("a Unix socket has no host; write redis+unix:///path, with three slashes".into());
                }
                let path = self.decoded("the path of the Unix socket", path);
                let path = if path.is_empty() { path } else { format!("/{path}") };
                Servers::One(Address::Unix(PathBuf::from(path)))
            }
            Kind::Sentinel => {
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                database = db;
                let master = self.decoded("the master's name", master);
                Servers::Sentinel { sentinels: self.hosts(hosts, 26379), master, user: None, password: None }
            }
            Kind::Cluster => {
                database = path;
                Servers::Cluster(self.hosts(hosts, 6379))
            }
        };
        let mut options = RedisOptions::at(servers);
        if self.tls {
            options.tls = Some(TlsOptions::new());
        }
        if let Some(login) = login {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            options.user = (!user.is_empty()).then(|| self.decoded("the user", user));
            options.password = password.map(|password| self.decoded("the password", password));
        }
        if !database.is_empty() {
            self.database(&mut options, database);
        }
        options
    }

    /// `a:1,b,[::1]:2`; at least one, if only an empty one.
    fn hosts(&mut self, text: &str, port: u16) -> Vec<Address> {
        text.split(',').map(|host| self.host(host, port)).collect()
    }

    fn host(&mut self, text: &str, default: u16) -> Address {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').or((!port.is_empty()).then_some(port))),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        // What stands where the port should be may be a password whose `@host` was forgotten.
        let port = port.map_or(Some(default), |port| port.parse().ok()).unwrap_or_else(|| {
            self.wrong.push(
                "a port is not a number from 1 to 65535; write user:password@host:port, an IPv6 address in brackets, \
                 and / ? # in a password as %2F %3F %23"
                    .into(),
            );
            default
        });
        Address::Tcp { host: self.decoded("a host", host), port }
    }

    fn parameters(&mut self, options: &mut RedisOptions, query: &str) {
        let (mut ca, mut cert, mut key) = (None, None, None);
        let mut wait = WaitFor { replicas: 0, fsync: false, timeout: Duration::from_secs(1) };
        let (mut waits, mut waits_for) = (false, false);
        let mut seen = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if seen.contains(&name) {
                self.wrong.push(format!("the parameter {name} is there twice"));
            }
            let value = self.decoded("a parameter", value);
            match name {
                "db" => self.database(options, &value),
                "namespace" => options.namespace = value,
                "connect_timeout" => self.span(name, &value, &mut options.connect_timeout),
                "call_timeout" => self.span(name, &value, &mut options.call_timeout),
                "wait_replicas" => {
                    (waits, waits_for) = (true, true);
                    match value.parse() {
                        Ok(replicas) => wait.replicas = replicas,
                        Err(_) => self.wrong.push("wait_replicas is not a number".into()),
                    }
                }
                "wait_fsync" => {
                    (waits, waits_for) = (true, true);
                    self.flag(name, &value, &mut wait.fsync);
                }
                "wait_timeout" => {
                    waits = true;
                    self.span(name, &value, &mut wait.timeout);
                }
                "accept_eviction" => self.flag(name, &value, &mut options.accept_eviction),
                "ca" => ca = Some(value),
                "cert" => cert = Some(value),
                "key" => key = Some(value),
                "sentinel_user" | "sentinel_password" => match &mut options.servers {
                    Servers::Sentinel { user, .. } if name == "sentinel_user" => *user = Some(value),
                    Servers::Sentinel { password, .. } => *password = Some(Secret(value)),
                    _ => self.wrong.push(format!("{name} is for redis+sentinel:// only")),
                },
                other => self.wrong.push(format!("the parameter {other:?} is not known; there are {KNOWN}")),
            }
            seen.push(name);
        }
        if waits && !waits_for {
            self.wrong.push("wait_timeout needs wait_replicas or wait_fsync".into());
        } else if waits {
            options.replicas_wait = Some(wait);
        }
        self.certificates(options, ca, cert, key);
    }

    fn certificates(
        &mut self,
        options: &mut RedisOptions,
        ca: Option<String>,
        cert: Option<String>,
        key: Option<String>,
    ) {
        let file = |path: String| Pem::File(PathBuf::from(path));
        match &mut options.tls {
            None if ca.is_some() || cert.is_some() || key.is_some() => {
                self.wrong.push("ca, cert and key are for TLS; begin the URL with rediss".into());
            }
            None => {}
            Some(tls) => {
                tls.ca = ca.map(file);
                match (cert, key) {
                    (Some(cert), Some(key)) => tls.client = Some((file(cert), file(key))),
                    (None, None) => {}
                    _ => self.wrong.push("cert and key belong together; one is missing".into()),
                }
            }
        }
    }

    fn database(&mut self, options: &mut RedisOptions, text: &str) {
        match text.parse() {
            Ok(database) => options.database = database,
            Err(_) => self.wrong.push("the database is not a number, as in redis://host:6379/0".into()),
        }
    }

    fn span(&mut self, name: &str, text: &str, into: &mut Duration) {
        match humantime::parse_duration(text) {
            Ok(span) => *into = span,
            Err(_) => self.wrong.push(format!("{name}={text} is not a time; write `500ms` or `5s`")),
        }
    }

    fn flag(&mut self, name: &str, text: &str, into: &mut bool) {
        match text {
            "true" => *into = true,
            "false" => *into = false,
            _ => self.wrong.push(format!("{name}={text} is not known; use `true` or `false`")),
        }
    }

    /// `%2F` and the like stand for the bytes that they name.
    fn decoded(&mut self, what: &str, text: &str) -> String {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, tail @ ..] = rest {
            rest = tail;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
            let Some(byte) = byte else {
                self.wrong
                    .push(format!("{what} holds a % that no two hexadecimal digits follow; write % itself as %25"));
                return String::new();
            };
            bytes.push(byte);
            rest = &tail[2..];
        }
        String::from_utf8(bytes).unwrap_or_else(|_| {
            self.wrong.push(format!("{what} is not UTF-8"));
            String::new()
        })
    }
}

#[cfg(test)]
mod tests;
