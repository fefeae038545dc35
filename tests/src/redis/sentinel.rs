//! A Sentinel group of a test's own: a master, a replica, and three Sentinels that watch them and agree on who is the
//! master. Their periods are far below what anybody would run, so that a failover takes a second or two.

use std::time::{Duration, Instant};

use super::cli::{is_in_step, text};
use super::options::{ServerOptions, TOOLS};
use super::server::{Server, namespace};
use crate::wait::{DEADLINE, until};

/// What the Sentinels call the master.
pub const MASTER: &str = "mymaster";
const SENTINELS: usize = 3;
const QUORUM: &str = "2";
/// After so long without an answer the master counts as gone, while a test waits for a failover; and at all other times:
/// on a busy machine a master may well not answer for half a second, and what it acknowledges after another was chosen
/// is lost.
const DOWN_AFTER_MS: &str = "500";
const PATIENT_MS: &str = "60000";
/// A failover that does not come to an end is tried again after twice as long.
const FAILOVER_TIMEOUT_MS: &str = "2000";
/// Their periods, instead of one second, ten, one and two. After four times the last, a Sentinel that has not heard of a
/// failover yet makes the new master a replica again: so it can't be as short as the others.
const PERIODS_MS: [(&str, &str); 4] =
    [("ping-period", "200"), ("info-period", "200"), ("ask-period", "200"), ("publish-period", "750")];

/// A running Sentinel group.
#[derive(Debug)]
pub struct SentinelGroup {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
    password: Option<String>,
}

impl SentinelGroup {
    /// A master, a replica in step with it, and three Sentinels that know both and each other.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn start() -> SentinelGroup {
        SentinelGroup::start_with(ServerOptions::new()).await
    }

    /// The same, with servers with these options.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn start_with(options: ServerOptions) -> SentinelGroup {
        let password = options.password.clone();
        let options = options.set("repl-diskless-sync-delay", "0");
        let master = Server::start(options.clone());
        let replica = Server::start(options.set("replicaof", &format!("127.0.0.1 {}", master.port())));
        let mut group = SentinelGroup { servers: vec![master, replica], sentinels: Vec::new(), password };
        // A Sentinel asks the master for its replicas when it starts, and then not for a while.
        group.is_in_step().await;
        let watched = group.servers[0].port().to_string();
        group.sentinels = (0..SENTINELS).map(|_| start_sentinel(&watched)).collect();
        group.is_ok().await;
        group
    }

    /// The servers, first the one that was the master at the start; running or not.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The Sentinels.
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// `redis+sentinel://a,b,c/mymaster`.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(Server::address).collect();
        let password = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis+sentinel://{password}{}/{MASTER}", hosts.join(","))
    }

    /// The URL with parameters: `namespace=a&call_timeout=1s`.
    pub fn url_with(&self, parameters: &str) -> String {
        format!("{}?{parameters}", self.url())
    }

    /// The URL with a namespace that no other test of this process has.
    pub fn url_alone(&self) -> String {
        self.url_with(&format!("namespace={}", namespace()))
    }

    /// The server that all running Sentinels take for the master, if they agree and it does so too.
    pub fn master(&self) -> Option<&Server> {
        self.named().filter(|named| is_master(named))
    }

    /// The server that all running Sentinels take for the master, if they agree.
    fn named(&self) -> Option<&Server> {
        let mut named = self.sentinels.iter().filter(|sentinel| sentinel.is_running()).map(|sentinel| {
            let address = text(&sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).ok()?);
            address.lines().last().and_then(|port| port.parse::<u16>().ok())
        });
        let first = named.next()??;
        if !named.all(|port| port == Some(first)) {
            return None;
        }
        self.servers.iter().find(|server| server.port() == first)
    }

    /// Waits until the Sentinels agree on a master and know each other, and every running replica is in step with it.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn is_ok(&self) {
        until("the Sentinels know each other, the master and its replica", async || {
            self.master()?;
            let running = self.sentinels.iter().filter(|sentinel| sentinel.is_running());
            let mut known = running.map(|sentinel| {
                let state = sentinel.ask(&["SENTINEL", "MASTER", MASTER]).map(|state| text(&state)).unwrap_or_default();
                let count = |field| field_of(&state, field).and_then(|count| count.parse::<usize>().ok());
                let is_well = field_of(&state, "flags") == Some("master");
                is_well
                    && count("num-slaves") == Some(self.servers.len() - 1)
                    && count("num-other-sentinels") == Some(SENTINELS - 1)
            });
            known.all(|all| all).then_some(())
        })
        .await;
        self.is_in_step().await;
    }

    async fn is_in_step(&self) {
        until("the replica is in step with its master", async || {
            let running = || self.servers.iter().filter(|server| server.is_running());
            let masters = running().filter(|server| server.info("role").as_deref() == Some("master")).count();
            let in_step = running().filter(|server| is_in_step(server, &self.servers)).count();
            // An old master that comes back takes itself for one until it is told.
            (masters == 1 && masters + in_step == running().count()).then_some(())
        })
        .await;
    }

    /// Kills the master, and waits until the replica has taken over. Answers the new master.
    ///
    /// # Panics
    /// If there is no master or no running replica, or that does not come about.
    pub async fn fail_over(&self) -> &Server {
        let old = self.master().expect("a master");
        assert!(self.servers.iter().all(Server::is_running), "there is a replica to take over");
        self.fail_over_from(old, Server::kill).await
    }

    /// Does something to the master that makes it seem gone, and waits until the replica has taken over.
    ///
    /// # Panics
    /// As [`fail_over`](Self::fail_over).
    pub async fn fail_over_from(&self, old: &Server, gone: impl FnOnce(&Server)) -> &Server {
        gone(old);
        self.set_down_after(DOWN_AFTER_MS);
        let new = self.other_than(old).await;
        self.set_down_after(PATIENT_MS);
        new
    }

    fn set_down_after(&self, ms: &str) {
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_running()) {
            sentinel.cli(&["SENTINEL", "SET", MASTER, "down-after-milliseconds", ms]);
        }
    }

    /// A number that rises whenever the Sentinels choose another master.
    ///
    /// # Panics
    /// If the first Sentinel does not answer.
    pub fn elections(&self) -> u64 {
        let state = text(&self.sentinels[0].ask(&["SENTINEL", "MASTER", MASTER]).expect("the Sentinel answers"));
        field_of(&state, "config-epoch").and_then(|epoch| epoch.parse().ok()).expect("a Sentinel numbers them")
    }

    /// Has the replica take over in good order, and waits for it. Answers the new master.
    ///
    /// # Panics
    /// As [`fail_over`](Self::fail_over).
    pub async fn switch_over(&self) -> &Server {
        let old = self.master().expect("a master");
        self.sentinels[0].cli(&["SENTINEL", "FAILOVER", MASTER]);
        let new = self.other_than(old).await;
        self.is_ok().await;
        new
    }

    async fn other_than(&self, old: &Server) -> &Server {
        let start = Instant::now();
        loop {
            // The old one is not asked: it may be one that never answers.
            if let Some(new) = self.named().filter(|named| named.port() != old.port() && is_master(named)) {
                return new;
            }
            if start.elapsed() > DEADLINE {
                let roles: Vec<_> = self.servers.iter().map(|server| (server.port(), server.ask(&["ROLE"]))).collect();
                let logs: Vec<String> = self.servers.iter().chain(&self.sentinels).map(Server::log).collect();
                panic!("waited {DEADLINE:?} in vain for the replica to take over: {roles:?}\n{}", logs.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Starts what was killed, and waits until all is in order: the old master is the replica of the new one.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn heal(&self) {
        self.servers.iter().chain(&self.sentinels).filter(|server| !server.is_running()).for_each(Server::restart);
        self.is_ok().await;
    }
}

fn is_master(server: &Server) -> bool {
    server.is_running() && server.info("role").as_deref() == Some("master")
}

fn start_sentinel(watched: &str) -> Server {
    let directive = |words: &[&str]| words.join(" ");
    let sentinel = ServerOptions::new()
        .sentinel()
        .set("sentinel", &directive(&["monitor", MASTER, "127.0.0.1", watched, QUORUM]))
        .set("sentinel", &directive(&["down-after-milliseconds", MASTER, PATIENT_MS]))
        .set("sentinel", &directive(&["failover-timeout", MASTER, FAILOVER_TIMEOUT_MS]))
        .set("sentinel", &directive(&["auth-user", MASTER, TOOLS]))
        .set("sentinel", &directive(&["auth-pass", MASTER, TOOLS]));
    let sentinel = Server::start(sentinel);
    for (period, ms) in PERIODS_MS {
        sentinel.cli(&["SENTINEL", "DEBUG", period, ms]);
    }
    sentinel
}

/// A field of an answer that names and values alternate in.
fn field_of<'a>(answer: &'a str, field: &str) -> Option<&'a str> {
    let mut lines = answer.lines();
    loop {
        let name = lines.next()?;
        let value = lines.next()?;
        if name == field {
            return Some(value);
        }
    }
}
