//! Looks at a server before anything is stored on it: whether it can be used at all, and what may be lost on it. A server
//! that would lose jobs by design (one that evicts keys) is refused; one that keeps less than it could is reported as
//! what it is. Where the user may not ask, the weaker answer is taken.

use std::collections::HashMap;
use std::fmt;

use ferroq_core::storage::{DurabilityReport, ErrorCode, Loss, StorageError};
use redis::{Cmd, Value};

use crate::error::{denied, unsupported};
use crate::link::Link;
use crate::options::RedisOptions;

/// The oldest version whose scripts can declare what they are (`#!lua`) and that checks them by it.
const OLDEST: (u32, u32) = (7, 0);
/// The oldest version that has `WAITAOF`.
const OLDEST_WITH_WAITAOF: (u32, u32) = (7, 2);

/// What was found out.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) report: RedisReport,
}

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerKind {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServerKind::Redis => "Redis",
            ServerKind::Valkey => "Valkey",
        })
    }
}

/// How a server keeps its data on disk. The order is from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Persistence {
    /// Not at all.
    None,
    /// By snapshots now and then.
    Snapshots,
    /// By an append-only file that the system writes to disk when it likes (`appendfsync no`).
    AppendOnly,
    /// By an append-only file that is synced every second (`appendfsync everysec`).
    EverySecond,
    /// By an append-only file that is synced before each answer (`appendfsync always`).
    Always,
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Persistence::None => "nothing on disk",
            Persistence::Snapshots => "snapshots",
            Persistence::AppendOnly => "an append-only file, synced when the system likes",
            Persistence::EverySecond => "an append-only file, synced every second",
            Persistence::Always => "an append-only file, synced before each answer",
        })
    }
}

/// What a server is and what may be lost on it, as it was when the storage was opened. Of several servers, the weakest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisReport {
    /// Where it is: `host:port`, or all masters of a cluster.
    pub server: String,
    /// Which server.
    pub kind: ServerKind,
    /// Its version: `7.0.15`. Of several, the oldest.
    pub version: String,
    /// Whether it is a cluster.
    pub cluster: bool,
    /// How many replicas are connected; in a cluster, to the master with the fewest.
    pub replicas: u32,
    /// How it keeps data on disk.
    pub persistence: Persistence,
    /// What may be lost.
    pub durability: DurabilityReport,
    /// What an operator should know and may want to change, a sentence each. `docs/redis-operations.md` says more.
    pub warnings: Vec<String>,
}

/// What one server said.
#[derive(Debug)]
struct Server {
    place: String,
    kind: ServerKind,
    version: (u32, u32),
    version_text: String,
    replicas: u32,
    eviction: String,
    persistence: Persistence,
    has_aof: bool,
    warnings: Vec<String>,
}

/// Asks every master, and refuses what can't be used.
pub(crate) async fn probe(link: &Link, options: &RedisOptions) -> Result<Probe, StorageError> {
    // A user without the right to read the configuration, or a server that has no such command, is nothing unusual.
    let settings = link.call_everywhere(&config_get()).await.ok();
    let mut servers = Vec::new();
    let infos = match link.call_everywhere(&redis::cmd("INFO")).await {
        Ok(infos) => infos,
        Err(error) => return Err(link.explain(error).await.into()),
    };
    for (place, info) in infos {
        let settings = settings.as_ref().and_then(|all| all.iter().find(|(at, _)| *at == place));
        let settings = settings.and_then(|(_, answer)| read_settings(answer));
        let server = look(&place, &read_info(&info), settings.as_ref(), link.is_cluster())?;
        check(&server, options)?;
        servers.push(server);
    }
    // A script that lacks a right half way leaves half of its work, so none is begun.
    if let Some(missing) = link.missing_rights().await? {
        return Err(StorageError::new(ErrorCode::Denied, denied(&missing)));
    }
    let report = report(&servers, link, options);
    report
        .map(|report| Probe { report })
        .ok_or_else(|| StorageError::new(ErrorCode::Unavailable, "the Redis cluster has no master that holds slots"))
}

fn config_get() -> Cmd {
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("GET").arg(&["appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save"]);
    cmd
}

/// `name:value` lines.
fn read_info(answer: &Value) -> HashMap<String, String> {
    let text: String = redis::from_redis_value_ref(answer).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// Names and values in turn; nothing, if the server told nothing.
fn read_settings(answer: &Value) -> Option<HashMap<String, String>> {
    let settings: HashMap<String, String> = redis::from_redis_value_ref(answer).ok()?;
    settings.contains_key("appendonly").then_some(settings)
}

/// What one server is.
fn look(
    place: &str,
    info: &HashMap<String, String>,
    settings: Option<&HashMap<String, String>>,
    in_cluster: bool,
) -> Result<Server, StorageError> {
    let said = |name: &str| info.get(name).map_or("", String::as_str);
    // Valkey has another name for it.
    let mode = info.get("redis_mode").or_else(|| info.get("server_mode")).map_or("", String::as_str);
    match (mode, in_cluster) {
        ("cluster", false) => {
            return Err(unsupported(format!(
                "Redis at {place} is a node of a cluster; begin the URL with redis+cluster:// or rediss+cluster://"
            )));
        }
        ("sentinel", _) => {
            return Err(unsupported(format!(
                "Redis at {place} is a Sentinel; use redis+sentinel://{place}/mymaster, with your master's name"
            )));
        }
        _ => {}
    }
    if said("role") == "slave" {
        let master = format!("{}:{}", said("master_host"), said("master_port"));
        let message = format!("Redis at {place} is a replica and takes no writes; connect to its master at {master}");
        return Err(StorageError::new(ErrorCode::Unavailable, message));
    }
    let mut warnings = Vec::new();
    let persistence = match settings {
        Some(settings) => by_settings(settings, &mut warnings),
        None => by_info(info, &mut warnings),
    };
    if said("aof_last_write_status") == "err" || said("aof_last_bgrewrite_status") == "err" {
        warnings.push("this server could not write its append-only file; look at its log and its disk".into());
    }
    if said("rdb_last_bgsave_status") == "err" {
        warnings.push(
            "this server's last snapshot failed, for which it may refuse writes; look at its log and its disk".into(),
        );
    }
    let (kind, version_text) = match info.get("valkey_version") {
        Some(version) => (ServerKind::Valkey, version.as_str()),
        None if said("server_name") == "valkey" => (ServerKind::Valkey, said("redis_version")),
        None => (ServerKind::Redis, said("redis_version")),
    };
    Ok(Server {
        place: place.to_owned(),
        kind,
        // Valkey says here which Redis it is compatible with.
        version: version(said("redis_version")),
        version_text: version_text.to_owned(),
        replicas: said("connected_slaves").parse().unwrap_or(0),
        eviction: said("maxmemory_policy").to_owned(),
        persistence,
        has_aof: said("aof_enabled") == "1",
        warnings,
    })
}

fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn by_settings(settings: &HashMap<String, String>, warnings: &mut Vec<String>) -> Persistence {
    let set = |name: &str| settings.get(name).map_or("", String::as_str);
    if set("appendonly") == "yes" {
        if set("no-appendfsync-on-rewrite") == "yes" && set("appendfsync") != "no" {
            warnings.push(
                "no-appendfsync-on-rewrite is on: while this server rewrites its append-only file or takes a snapshot, power loss \
                 may lose half a minute of acknowledged work; turn it off"
                    .into(),
            );
            return Persistence::AppendOnly;
        }
        return match set("appendfsync") {
            "always" => Persistence::Always,
            "everysec" => Persistence::EverySecond,
            _ => {
                warnings.push(
                    "appendfsync is no: power loss may lose half a minute of acknowledged work; set it to everysec or \
                     always"
                        .into(),
                );
                Persistence::AppendOnly
            }
        };
    }
    if set("save").is_empty() {
        warnings.push(
            "this server keeps nothing on disk: when it stops, all jobs are lost; set appendonly yes, unless that is meant".into(),
        );
        return Persistence::None;
    }
    warnings.push(format!(
        "this server keeps snapshots only (save {}): when it stops unexpectedly, all work since the last snapshot is lost, and \
         done work is done again; set appendonly yes, unless that is meant",
        set("save")
    ));
    Persistence::Snapshots
}

/// What is known without the settings.
fn by_info(info: &HashMap<String, String>, warnings: &mut Vec<String>) -> Persistence {
    if info.get("aof_enabled").is_some_and(|enabled| enabled == "1") {
        warnings.push(
            "this user may not read the server's configuration, so how often it syncs its append-only file is not known; the \
             weakest is assumed"
                .into(),
        );
        return Persistence::AppendOnly;
    }
    warnings.push(
        "this server has no append-only file, and this user may not read its configuration, so whether it takes snapshots is not \
         known; nothing on disk is assumed"
            .into(),
    );
    Persistence::None
}

/// Refuses what can't be used.
fn check(server: &Server, options: &RedisOptions) -> Result<(), StorageError> {
    let Server { place, kind, version_text, .. } = server;
    if server.version < OLDEST {
        let (major, minor) = OLDEST;
        return Err(unsupported(format!(
            "{kind} at {place} is version {version_text}; {major}.{minor} or later is needed"
        )));
    }
    if !keeps_keys(server) && !options.accept_eviction {
        return Err(unsupported(format!(
            "{kind} at {place} removes keys by itself when its memory is full (maxmemory-policy {}), which would lose \
             jobs; set `maxmemory-policy noeviction` in its configuration (now: `CONFIG SET maxmemory-policy \
             noeviction`), or accept the loss with accept_eviction=true",
            server.eviction
        )));
    }
    if options.replicas_wait.is_some_and(|wait| wait.fsync) {
        if server.version < OLDEST_WITH_WAITAOF {
            return Err(unsupported(format!(
                "waiting for fsync (wait_fsync) needs Redis 7.2 or Valkey; {kind} at {place} is version {version_text}"
            )));
        }
        if !server.has_aof {
            return Err(unsupported(format!(
                "waiting for fsync (wait_fsync) needs an append-only file; {kind} at {place} has appendonly no"
            )));
        }
    }
    Ok(())
}

fn keeps_keys(server: &Server) -> bool {
    server.eviction == "noeviction"
}

/// All servers as one: as weak as the weakest.
fn report(servers: &[Server], link: &Link, options: &RedisOptions) -> Option<RedisReport> {
    let oldest = servers.iter().min_by_key(|server| server.version)?;
    let replicas = servers.iter().map(|server| server.replicas).min()?;
    let persistence = servers.iter().map(|server| server.persistence).min()?;
    let mut warnings: Vec<String> = Vec::new();
    for server in servers {
        // What holds for all is said once.
        let new = server.warnings.iter().filter(|warning| !warnings.contains(warning)).cloned().collect::<Vec<_>>();
        warnings.extend(new);
    }
    if let Some(server) = servers.iter().find(|server| !keeps_keys(server)) {
        warnings.push(format!(
            "this server removes keys by itself when its memory is full (maxmemory-policy {}), which was accepted: jobs may be \
             lost, and queues damaged",
            server.eviction
        ));
    }
    if let Some(wait) = options.replicas_wait.filter(|wait| wait.replicas > replicas) {
        warnings.push(format!(
            "each enqueue waits for {} replicas and {replicas} are connected, so each takes {:?} longer",
            wait.replicas, wait.timeout
        ));
    }
    let copies = servers.iter().any(|server| server.replicas > 0) || link.is_cluster() || options.has_sentinels();
    Some(RedisReport {
        server: servers.iter().map(|server| server.place.as_str()).collect::<Vec<_>>().join(","),
        kind: oldest.kind,
        version: oldest.version_text.clone(),
        cluster: link.is_cluster(),
        replicas,
        persistence,
        durability: durability(persistence, copies),
        warnings,
    })
}

/// What may be lost. Replicas get writes after they are acknowledged, so a failover may lose the last ones.
fn durability(persistence: Persistence, copies: bool) -> DurabilityReport {
    DurabilityReport {
        process_crash: Loss::Nothing,
        power_loss: match persistence {
            Persistence::Always => Loss::Nothing,
            Persistence::EverySecond | Persistence::AppendOnly | Persistence::Snapshots => Loss::LastCommits,
            Persistence::None => Loss::Everything,
        },
        failover: if copies { Loss::LastCommits } else { Loss::NotApplicable },
    }
}

#[cfg(test)]
mod tests;
