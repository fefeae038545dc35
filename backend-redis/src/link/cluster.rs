//! The way to a cluster: one line per node, and a map of who has which slot. Redirects are followed here, because a node
//! that redirects has run nothing; a call whose answer was lost is not sent again, which is why this is not left to the
//! redis crate's cluster connection. The map is asked for anew whenever a node redirects or can't be reached.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferroq_core::storage::ErrorCode;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::dial::Dialer;
use super::line::{Line, Target};
use super::live::Live;
use super::slots::{SlotMap, redirect, slot_of, slot_of_command};
use crate::error::CallError;
use crate::options::Address;

/// How often a call may be sent somewhere else. A failover takes one or two, a moving slot a few more.
pub(super) const HOPS: u32 = 8;
/// How old a map must be before it is asked for again, so that a hundred calls that fail together ask once.
const MAP_AGE: Duration = Duration::from_millis(50);

/// The way to a cluster.
pub(super) struct Cluster {
    dialer: Arc<Dialer>,
    place: Arc<str>,
    seeds: Vec<Address>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    map: Arc<SlotMap>,
    read_at: Option<Instant>,
    /// What nodes have said since the map was read.
    moved: HashMap<u16, Address>,
    lines: HashMap<Address, Arc<Line>>,
    reading: Option<Reading>,
    closed: bool,
}

type Reading = Shared<BoxFuture<'static, Result<(), CallError>>>;

/// Where to send a call next.
pub(super) enum Next {
    /// To this node, after `ASKING` if so.
    To { address: Address, asking: bool },
    /// Nowhere: the error is the answer.
    Nowhere,
}

impl Cluster {
    /// Reads the map from any of the nodes.
    pub(super) async fn open(dialer: Arc<Dialer>, seeds: &[Address]) -> Result<Arc<Self>, CallError> {
        let names: Vec<String> = seeds.iter().map(Address::to_string).collect();
        let place = names.join(",").into();
        let cluster = Arc::new(Cluster { dialer, place, seeds: seeds.to_vec(), state: Mutex::default() });
        cluster.read_map().await?;
        Ok(cluster)
    }

    /// Sends one command to the node that has its key.
    pub(super) async fn call(self: &Arc<Self>, cmd: &Cmd) -> Result<Value, CallError> {
        let Some(slot) = slot_of_command(cmd) else { return self.any_line().await?.call(cmd, false).await };
        let (mut address, mut asking) = (self.owner(slot).await?, false);
        let mut hop = 0;
        loop {
            let line = self.line(&address)?;
            let error = match line.call(cmd, asking).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            hop += 1;
            match self.next(slot, &address, &error, hop).await {
                Next::To { address: to, asking: ask } => (address, asking) = (to, ask),
                Next::Nowhere => return Err(error),
            }
        }
    }

    /// Where to send a call that failed at `address`, if nothing was run there.
    pub(super) async fn next(self: &Arc<Self>, slot: u16, address: &Address, error: &CallError, hop: u32) -> Next {
        let redirected = error.server_text().and_then(|text| redirect(text, address));
        match (error.server_code(), redirected) {
            _ if hop >= HOPS => Next::Nowhere,
            (Some("MOVED"), Some(to)) => {
                self.state().moved.insert(slot, to.clone());
                self.start_reading();
                Next::To { address: to, asking: false }
            }
            (Some("ASK"), Some(to)) => Next::To { address: to, asking: true },
            // Some of the keys are here and some are there; it does not take long.
            (Some("TRYAGAIN"), _) => {
                tokio::time::sleep(Duration::from_millis(5 << hop.min(5))).await;
                match self.owner(slot).await {
                    Ok(address) => Next::To { address, asking: false },
                    Err(_) => Next::Nowhere,
                }
            }
            _ if error.server_code() == Some("CLUSTERDOWN") || error.may_be_elsewhere() => {
                let was = address.clone();
                match self.read_map().await.and_then(|()| self.known_owner(slot)) {
                    Ok(address) if address != was => Next::To { address, asking: false },
                    _ => Next::Nowhere,
                }
            }
            _ => {
                if error.server_code().is_none() {
                    self.start_reading();
                }
                Next::Nowhere
            }
        }
    }

    /// The line to the node that has a key.
    pub(super) async fn line_of(self: &Arc<Self>, key: &str) -> Result<Arc<Line>, CallError> {
        let address = self.owner(slot_of(key.as_bytes())).await?;
        self.line(&address)
    }

    /// The lines to all masters, as they are now.
    pub(super) async fn all_lines(self: &Arc<Self>) -> Result<Vec<Arc<Line>>, CallError> {
        self.read_map().await?;
        let map = self.state().map.clone();
        map.masters().into_iter().map(|address| self.line(address)).collect()
    }

    /// A line to any node that can be reached.
    pub(super) async fn any_line(self: &Arc<Self>) -> Result<Arc<Line>, CallError> {
        let lines: Vec<Arc<Line>> = self.state().lines.values().cloned().collect();
        if let Some(line) = lines.iter().find(|line| line.is_up()) {
            return Ok(line.clone());
        }
        self.read_map().await?;
        let lines: Vec<Arc<Line>> = self.state().lines.values().cloned().collect();
        let up = lines.into_iter().find(|line| line.is_up());
        up.ok_or_else(|| CallError::not_connected(&self.place, ErrorCode::Unavailable, "no node can be reached"))
    }

    /// A connection to any node that can be reached.
    pub(super) async fn any_live(self: &Arc<Self>) -> Result<Arc<Live>, CallError> {
        self.any_line().await?.live().await
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for (_, line) in state.lines.drain() {
            line.close();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Who has a slot, by the map or, if it does not say, by a new one.
    async fn owner(self: &Arc<Self>, slot: u16) -> Result<Address, CallError> {
        match self.known_owner(slot) {
            Ok(address) => Ok(address),
            Err(error) if self.is_closed() => Err(error),
            Err(_) => {
                self.read_map().await?;
                self.known_owner(slot)
            }
        }
    }

    fn known_owner(&self, slot: u16) -> Result<Address, CallError> {
        let state = self.state();
        if state.closed {
            return Err(CallError::closed());
        }
        state.moved.get(&slot).or_else(|| state.map.owner(slot)).cloned().ok_or_else(|| {
            let why = format!("no node has slot {slot}; `redis-cli --cluster check` says more");
            CallError::not_connected(&self.place, ErrorCode::Unavailable, why)
        })
    }

    fn line(&self, address: &Address) -> Result<Arc<Line>, CallError> {
        let mut state = self.state();
        if state.closed {
            return Err(CallError::closed());
        }
        let line = state
            .lines
            .entry(address.clone())
            .or_insert_with(|| Line::new(self.dialer.clone(), Target::Fixed(address.clone())));
        Ok(line.clone())
    }

    /// Waits for a map that is new, read by one task for all who want it.
    async fn read_map(self: &Arc<Self>) -> Result<(), CallError> {
        match self.start_reading() {
            Some(reading) => reading.await,
            None => Ok(()),
        }
    }

    /// Reads the map, unless it has just been read.
    fn start_reading(self: &Arc<Self>) -> Option<Reading> {
        let mut state = self.state();
        if state.closed || state.read_at.is_some_and(|at| at.elapsed() < MAP_AGE) {
            return None;
        }
        if state.reading.is_none() {
            let (cluster, place) = (self.clone(), self.place.clone());
            let task = tokio::spawn(async move {
                let _end = EndReading(&cluster);
                cluster.ask_all().await
            });
            let lost =
                move |_| Err(CallError::not_connected(&place, ErrorCode::Unavailable, "its runtime was shut down"));
            state.reading = Some(task.map(|outcome| outcome.unwrap_or_else(lost)).boxed().shared());
        }
        state.reading.clone()
    }

    /// Asks all nodes that were ever heard of at once, and takes the first map that comes.
    async fn ask_all(self: &Arc<Self>) -> Result<(), CallError> {
        let mut addresses: Vec<Address> = self.state().lines.keys().cloned().collect();
        addresses.extend(self.seeds.iter().filter(|seed| !addresses.contains(seed)).cloned().collect::<Vec<_>>());
        let mut asked: FuturesUnordered<_> = addresses.iter().map(|address| self.ask(address)).collect();
        let mut first = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(map) => {
                    self.take(map);
                    return Ok(());
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(CallError::closed))
    }

    async fn ask(&self, address: &Address) -> Result<SlotMap, CallError> {
        let line = self.line(address)?;
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let answer = line.call(&slots, false).await?;
        let place: Arc<str> = address.to_string().into();
        let map = SlotMap::read(&answer, address);
        let map = map.ok_or_else(|| CallError::unexpected(&place, "something that is no map of slots"))?;
        if map.masters().is_empty() {
            return Err(CallError::not_connected(&place, ErrorCode::Unavailable, "it knows no node that has slots"));
        }
        Ok(map)
    }

    fn take(&self, map: SlotMap) {
        let mut state = self.state();
        let gone: Vec<Address> = {
            let masters = map.masters();
            let known = state.lines.keys();
            known.filter(|address| !masters.contains(address) && !self.seeds.contains(address)).cloned().collect()
        };
        for address in gone {
            state.lines.remove(&address);
        }
        state.map = Arc::new(map);
        state.moved.clear();
        state.read_at = Some(Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // As in `Line`: no change can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a reading, even one whose task was dropped with its runtime.
struct EndReading<'a>(&'a Cluster);

impl Drop for EndReading<'_> {
    fn drop(&mut self) {
        self.0.state().reading = None;
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Cluster").field("nodes", &self.place).field("map", &state.map).finish_non_exhaustive()
    }
}
