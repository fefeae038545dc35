//! A Cluster of a test's own: three masters, with a replica each where the test wants some to fail over to. It is put
//! together, resharded and failed over by the commands of the Cluster specification, one by one, so that a test may stop
//! in the middle: a slot that is half moved is what clients find hardest.

use std::time::{Duration, Instant};

use redis::Value;

use super::cli::{is_in_step, text};
use super::options::{ServerOptions, TOOLS};
use super::server::{Server, namespace};
use crate::wait::{DEADLINE, until};

/// How many slots a Cluster has.
pub const SLOTS: u16 = 16_384;
const MASTERS: usize = 3;
/// After so long without an answer a node counts as gone. Short, since each failover waits for it; long enough for a busy
/// machine not to take a slow node for a dead one.
const NODE_TIMEOUT_MS: &str = "1000";
const KEYS_PER_STEP: usize = 100;
const MIGRATE_TIMEOUT_MS: &str = "30000";

/// A running Cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    password: Option<String>,
}

/// The first and the last of a range of slots.
type Slots = (u16, u16);

/// What a node knows of another.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    port: u16,
    flags: String,
    /// Of which node it is a replica.
    master: String,
    connected: bool,
    slots: Vec<Slots>,
}

impl Cluster {
    /// Three masters with a third of the slots each, and as many replicas if wanted. Some of the time that it takes, two
    /// seconds, is what each new node waits by itself before it takes part.
    ///
    /// # Panics
    /// If it does not come about.
    pub async fn start(replicas: bool) -> Cluster {
        Cluster::start_with(ServerOptions::new(), replicas).await
    }

    /// The same, of servers with these options.
    ///
    /// # Panics
    /// If it does not come about.
    pub async fn start_with(options: ServerOptions, replicas: bool) -> Cluster {
        let password = options.password.clone();
        let options = options
            .cluster()
            .set("cluster-node-timeout", NODE_TIMEOUT_MS)
            // However long a replica was on its own: there is no other that could take over.
            .set("cluster-replica-validity-factor", "0")
            .set("cluster-allow-replica-migration", "no")
            .set("repl-diskless-sync-delay", "0");
        let count = if replicas { 2 * MASTERS } else { MASTERS };
        let cluster = Cluster { nodes: (0..count).map(|_| Server::start(options.clone())).collect(), password };
        cluster.join();
        until("the nodes of the Cluster know each other", async || {
            let known = cluster.nodes.iter().map(known_by);
            known.map(|known| known.iter().filter(|node| node.connected).count()).all(|met| met == count).then_some(())
        })
        .await;
        for (master, replica) in cluster.nodes.iter().take(MASTERS).zip(cluster.nodes.iter().skip(MASTERS)) {
            replica.cli(&["CLUSTER", "REPLICATE", &id(master)]);
        }
        cluster.is_ok().await;
        cluster
    }

    fn join(&self) {
        let share = usize::from(SLOTS) / MASTERS;
        for (index, node) in self.nodes.iter().enumerate() {
            // Nodes that start with the same epoch would take a while to settle who is right. It can't be set any more
            // once a node has met another.
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            if index < MASTERS {
                let last = if index == MASTERS - 1 { usize::from(SLOTS) } else { (index + 1) * share } - 1;
                node.cli(&["CLUSTER", "ADDSLOTSRANGE", &(index * share).to_string(), &last.to_string()]);
            }
        }
        for node in &self.nodes {
            // All of them, rather than one after the other: gossip takes its time.
            for other in self.nodes.iter().filter(|other| other.port() != node.port()) {
                let (port, bus) = (other.port().to_string(), other.cluster_port().to_string());
                node.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
    }

    /// All nodes, first those that were masters at the start; running or not.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    fn running(&self) -> impl Iterator<Item = &Server> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Any node that is running.
    ///
    /// # Panics
    /// If none is.
    pub fn any(&self) -> &Server {
        self.running().next().expect("a node of the Cluster that is running")
    }

    /// `redis+cluster://a,b,c` with all nodes.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(Server::address).collect();
        let password = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis+cluster://{password}{}", hosts.join(","))
    }

    /// The URL with parameters: `namespace=a&call_timeout=1s`.
    pub fn url_with(&self, parameters: &str) -> String {
        format!("{}?{parameters}", self.url())
    }

    /// The URL with a namespace that no other test of this process has.
    pub fn url_alone(&self) -> String {
        self.url_with(&format!("namespace={}", namespace()))
    }

    fn server(&self, known: &Known) -> &Server {
        self.nodes.iter().find(|node| node.port() == known.port).expect("a node of this Cluster")
    }

    /// The nodes that hold slots, as a node that is running sees it.
    ///
    /// # Panics
    /// If no node is running.
    pub fn masters(&self) -> Vec<&Server> {
        known_by(self.any()).iter().filter(|node| !node.slots.is_empty()).map(|node| self.server(node)).collect()
    }

    /// The replica of this node.
    ///
    /// # Panics
    /// If no node is running.
    pub fn replica_of(&self, master: &Server) -> Option<&Server> {
        let known = known_by(self.any());
        let id = &known.iter().find(|node| node.port == master.port())?.id;
        known.iter().find(|node| node.master == *id).map(|node| self.server(node))
    }

    /// The slot of a key.
    ///
    /// # Panics
    /// If no node is running.
    pub fn slot_of(&self, key: &str) -> u16 {
        self.any().cli(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot")
    }

    /// The node that holds a slot, as a node that is running sees it.
    ///
    /// # Panics
    /// If none does.
    pub fn node_of_slot(&self, slot: u16) -> &Server {
        let holds = |node: &&Known| node.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
        self.server(known_by(self.any()).iter().find(holds).expect("a node that holds the slot"))
    }

    /// The node that holds a key.
    ///
    /// # Panics
    /// If none does.
    pub fn node_of(&self, key: &str) -> &Server {
        self.node_of_slot(self.slot_of(key))
    }

    /// How many keys the Cluster holds.
    ///
    /// # Panics
    /// If a master does not answer.
    pub fn key_count(&self) -> u64 {
        self.masters().iter().map(|node| node.cli(&["DBSIZE"]).parse::<u64>().expect("a count")).sum()
    }

    /// Waits until every node that is running says that the Cluster is complete and in order, all agree on who holds
    /// what, and every replica is in step with its master.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn is_ok(&self) {
        let start = Instant::now();
        while let Some(trouble) = self.trouble() {
            assert!(
                start.elapsed() < DEADLINE,
                "waited {DEADLINE:?} in vain for the Cluster to be in order: {trouble}"
            );
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// What is not as it should be.
    fn trouble(&self) -> Option<String> {
        let known = known_by(self.any());
        let view = roles(&known);
        self.running().find_map(|node| {
            let port = node.port();
            let state = node.cli(&["CLUSTER", "INFO"]);
            if !state.contains("cluster_state:ok") || !state.contains("cluster_slots_ok:16384") {
                return Some(format!("{port} says {state}"));
            }
            let known = known_by(node);
            if roles(&known) != view {
                return Some(format!("{port} sees other masters than others do"));
            }
            let me = known.iter().find(|node| node.port == port)?;
            if me.slots.is_empty() && !me.flags.contains("slave") && self.nodes.len() > MASTERS {
                return Some(format!("{port} has no slots and is no replica yet"));
            }
            let is_well = !me.flags.contains("slave") || is_in_step(node, &self.nodes);
            (!is_well).then(|| format!("the replica {port} is not in step with its master"))
        })
    }

    /// Begins to move a slot to a node: from here on, keys that the old node has not are asked for at the new one.
    ///
    /// # Panics
    /// If the nodes refuse.
    pub fn begin_move<'a>(&'a self, slot: u16, to: &'a Server) -> SlotMove<'a> {
        let from = self.node_of_slot(slot);
        let (number, from_id, to_id) = (slot.to_string(), id(from), id(to));
        to.cli(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &from_id]);
        from.cli(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &to_id]);
        SlotMove { cluster: self, slot: number, from, to, to_id }
    }

    /// Moves a slot with all its keys to a node, unless it is there.
    ///
    /// # Panics
    /// If the nodes refuse.
    pub async fn move_slot(&self, slot: u16, to: &Server) {
        if self.node_of_slot(slot).port() == to.port() {
            return;
        }
        let moving = self.begin_move(slot, to);
        while moving.move_keys(KEYS_PER_STEP) > 0 {
            // Whoever works on this thread is to go on, that is what the test is about.
            tokio::task::yield_now().await;
        }
        moving.finish();
    }

    /// Moves so many slots, each to the next master: first those that hold keys. Answers which.
    ///
    /// # Panics
    /// If the nodes refuse.
    pub async fn reshard(&self, slots: usize) -> Vec<u16> {
        let masters = self.masters();
        let mut candidates: Vec<(bool, u16, usize)> = Vec::new();
        for (index, master) in masters.iter().enumerate() {
            let mut connection = master.connection();
            let known = known_by(master);
            let me = known.iter().find(|node| node.port == master.port()).expect("a node knows itself");
            for slot in me.slots.iter().flat_map(|(first, last)| *first..=*last) {
                let count = redis::cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(slot).query::<u64>(&mut connection);
                candidates.push((count.expect("a count") == 0, slot, index));
            }
        }
        candidates.sort_unstable();
        let mut moved = Vec::new();
        for (_is_empty, slot, index) in candidates.into_iter().take(slots) {
            self.move_slot(slot, masters[(index + 1) % masters.len()]).await;
            moved.push(slot);
        }
        moved
    }

    /// Kills a master, and waits until its replica has taken over. Answers the replica.
    ///
    /// # Panics
    /// If it has none, or that does not come about.
    pub async fn fail_over(&self, master: &Server) -> &Server {
        let replica = self.replica_of(master).expect("a master with a replica");
        let slots = slots_held(replica, master.port());
        master.kill();
        self.took_over(replica, &slots).await;
        replica
    }

    /// Has a replica take over from its master in good order, and waits for it. Answers the replica.
    ///
    /// # Panics
    /// If it has none, or that does not come about.
    pub async fn switch_over(&self, master: &Server) -> &Server {
        let replica = self.replica_of(master).expect("a master with a replica");
        let slots = slots_held(replica, master.port());
        replica.cli(&["CLUSTER", "FAILOVER"]);
        self.took_over(replica, &slots).await;
        replica
    }

    async fn took_over(&self, replica: &Server, slots: &[Slots]) {
        until("the replica has taken over", async || (slots_held(replica, replica.port()) == slots).then_some(()))
            .await;
        self.is_ok().await;
    }

    /// Starts the nodes that were killed, and waits until all is in order.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn heal(&self) {
        self.nodes.iter().filter(|node| !node.is_running()).for_each(Server::restart);
        self.is_ok().await;
    }
}

/// A slot on its way from one node to another.
#[derive(Debug)]
pub struct SlotMove<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: &'a Server,
    to: &'a Server,
    to_id: String,
}

impl SlotMove<'_> {
    /// Moves some keys; answers how many were there to be moved.
    ///
    /// # Panics
    /// If the nodes refuse.
    pub fn move_keys(&self, limit: usize) -> usize {
        let keys = ["CLUSTER", "GETKEYSINSLOT", &self.slot, &limit.to_string()];
        let Ok(Value::Array(keys)) = self.from.ask(&keys) else { panic!("the keys of slot {}", self.slot) };
        if keys.is_empty() {
            return 0;
        }
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.to.port()).arg("").arg(0).arg(MIGRATE_TIMEOUT_MS);
        migrate.arg("AUTH2").arg(TOOLS).arg(TOOLS).arg("KEYS");
        for key in &keys {
            let Value::BulkString(key) = key else { panic!("a key, and not {}", text(key)) };
            migrate.arg(key);
        }
        migrate.query::<Value>(&mut self.from.connection()).unwrap_or_else(|error| panic!("MIGRATE: {error}"));
        keys.len()
    }

    /// Moves what is left and makes the new node the owner, for all masters.
    ///
    /// # Panics
    /// If the nodes refuse.
    pub fn finish(self) {
        while self.move_keys(KEYS_PER_STEP) > 0 {}
        let rest = self
            .cluster
            .masters()
            .into_iter()
            .filter(|node| node.is_running() && node.port() != self.to.port() && node.port() != self.from.port());
        // The new owner first: should the other be told first and all stop here, nobody would hold the slot.
        for node in [self.to, self.from].into_iter().chain(rest) {
            node.cli(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.to_id]);
        }
    }
}

fn id(node: &Server) -> String {
    node.cli(&["CLUSTER", "MYID"])
}

/// Who holds what and who is whose replica, by port.
fn roles(known: &[Known]) -> Vec<(u16, &str, &[Slots])> {
    let mut roles: Vec<_> = known.iter().map(|node| (node.port, &*node.master, &*node.slots)).collect();
    roles.sort_unstable();
    roles
}

/// What a node thinks that the node with this port holds.
fn slots_held(node: &Server, port: u16) -> Vec<Slots> {
    known_by(node).into_iter().find(|node| node.port == port).map(|node| node.slots).unwrap_or_default()
}

/// What a node knows of all, itself included: a line each of
/// `<id> <ip:port@bus> <flags> <master> <ping> <pong> <epoch> <link> <slot> <first-last> ... [<slot on its way>]`.
fn known_by(node: &Server) -> Vec<Known> {
    let nodes = node.cli(&["CLUSTER", "NODES"]);
    let known = nodes.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_ip, ports) = fields.get(1)?.rsplit_once(':')?;
        let slots = fields.get(8..)?.iter().filter(|slots| !slots.starts_with('[')).map(|slots| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            (first.parse().expect("a slot"), last.parse().expect("a slot"))
        });
        Some(Known {
            id: fields[0].to_owned(),
            port: ports.split('@').next()?.parse().ok()?,
            flags: fields[2].to_owned(),
            master: fields[3].to_owned(),
            connected: fields[7] == "connected" && !fields[2].contains("handshake"),
            slots: slots.collect(),
        })
    });
    known.collect()
}
