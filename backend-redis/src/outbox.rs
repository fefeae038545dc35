//! The outbox: what a settlement has for other queues. It is written by the settlement's own script, in the settlement's
//! own slot, and relayed from there: by the call itself, and by any client's sweep after a crash. A destination takes
//! each number of a source once, in order, so a relay that is repeated, or done by two, doubles nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use ferroq_core::job::QueueName;
use ferroq_core::storage::{EnqueueAnswer, ErrorCode, StorageError};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::enqueue::enqueue_answer;
use crate::exchange::strange;
use crate::keys::QueueKeys;
use crate::record::bytes_of;
use crate::script::DELIVER;
use crate::spec::Reader;

/// How many entries are read at a time; with payloads of a mebibyte that is at most as many mebibytes.
const ENTRIES_MAX: usize = 100;
/// How many entries for queues that can't be reached are passed over, to get at those behind them.
const STUCK_MAX: usize = 1000;

/// One job on its way to another queue.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) number: i64,
    pub(crate) destination: QueueName,
    pub(crate) id: [u8; 16],
    pub(crate) tail: Vec<u8>,
}

/// What became of parcels, by destination and number.
pub(crate) type Delivered = HashMap<(QueueName, i64), EnqueueAnswer>;

/// What one relay has come to.
#[derive(Debug, Default)]
struct Relay {
    delivered: Delivered,
    failed: HashMap<QueueName, StorageError>,
}

impl Parcel {
    fn address(&self) -> (QueueName, i64) {
        (self.destination.clone(), self.number)
    }

    /// Reads an entry of the outbox.
    fn read(entry: &[u8]) -> Option<Self> {
        let mut from = Reader(entry);
        let number = from.i64().ok()?;
        let destination = QueueName::new(from.text().ok()?).ok()?;
        Some(Parcel { number, destination, id: from.array().ok()?, tail: from.0.to_vec() })
    }
}

/// Which queues could not be reached when this handle last relayed what others had for them; so that it is logged once,
/// and tried again by sweeps and not with each call.
#[derive(Debug, Default)]
pub(crate) struct HeldUp(Mutex<HashMap<QueueName, Standing>>);

/// How it stands with one source.
#[derive(Debug, Default)]
struct Standing {
    is_down: bool,
    destinations: HashSet<QueueName>,
}

impl HeldUp {
    pub(crate) fn has(&self, source: &QueueName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(source)
    }

    fn note(&self, source: &QueueName, failed: &HashMap<QueueName, StorageError>, down: Option<StorageError>) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sources.remove(source).unwrap_or_default();
        if let Some(error) = &down
            && !before.is_down
        {
            tracing::warn!(queue = %source, %error, "follow-ups wait in the outbox until the storage answers");
        }
        for (destination, error) in failed.iter().filter(|(queue, _)| !before.destinations.contains(*queue)) {
            tracing::warn!(queue = %source, %destination, %error, "follow-ups wait in the outbox until their queue can be reached");
        }
        if down.is_none() {
            for destination in before.destinations.iter().filter(|queue| !failed.contains_key(*queue)) {
                tracing::info!(queue = %source, %destination, "follow-ups get to their queue again");
            }
        }
        let is_down = down.is_some();
        let mut destinations: HashSet<QueueName> = failed.keys().cloned().collect();
        if is_down {
            destinations.extend(before.destinations);
        }
        if is_down || !destinations.is_empty() {
            sources.insert(source.clone(), Standing { is_down, destinations });
        }
    }
}

impl RedisStorage {
    /// Relays what is in a queue's outbox, in its order. Answers what became of `own`, whoever relayed them. A queue that
    /// can't be reached keeps its entries where they are, and does not hold up the others.
    pub(crate) async fn relay(&self, keys: &QueueKeys, own: &[Parcel]) -> Delivered {
        let mut relay = Relay::default();
        let mut ended = self.relay_all(keys, &mut relay).await;
        if let Ok(true) = ended {
            // Some of the call's own may have been relayed by somebody else: the destination still knows their answers.
            let missing = |parcel: &&Parcel| !relay.delivered.contains_key(&parcel.address());
            let missing: Vec<Parcel> = own.iter().filter(missing).cloned().collect();
            ended = self.deliver_all(keys, &missing, false, &mut relay).await.map(|()| true);
        }
        self.held_up.note(&keys.queue, &relay.failed, ended.err());
        relay.delivered
    }

    /// Whether the whole outbox was looked at. It is read from its head each time, so that nobody's entry is delivered
    /// before an older one for the same queue.
    async fn relay_all(&self, keys: &QueueKeys, relay: &mut Relay) -> Result<bool, StorageError> {
        // How many of the first are for queues that can't be reached.
        let mut stuck = 0;
        while stuck <= STUCK_MAX {
            let mut cmd = redis::cmd("ZRANGE");
            cmd.arg(keys.outbox()).arg(0).arg(stuck + ENTRIES_MAX - 1);
            let Value::Array(entries) = self.link.call(&cmd).await? else { return Err(strange("the outbox")) };
            let entries = entries.into_iter().map(bytes_of).collect::<Result<Vec<_>, _>>();
            let entries = entries.map_err(|_| strange("the outbox"))?;
            let is_last = entries.len() < stuck + ENTRIES_MAX;
            let entries: Vec<_> = entries.into_iter().map(|entry| (Parcel::read(&entry), entry)).collect();
            if entries.iter().any(|(parcel, _)| parcel.is_none()) {
                tracing::error!(queue = %keys.queue, "an entry of the outbox can't be read, and was dropped");
            }
            let stays = |(parcel, _): &&(Option<Parcel>, _), relay: &Relay| {
                parcel.as_ref().is_some_and(|parcel| relay.failed.contains_key(&parcel.destination))
            };
            let new: Vec<Parcel> =
                entries.iter().filter(|entry| !stays(entry, relay)).filter_map(|(parcel, _)| parcel.clone()).collect();
            if !new.is_empty() {
                self.step("read");
                self.deliver_all(keys, &new, true, relay).await?;
                self.step("delivered");
            }
            let done: Vec<_> = entries.iter().filter(|entry| !stays(entry, relay)).map(|(_, entry)| entry).collect();
            stuck = entries.len() - done.len();
            if !done.is_empty() {
                let mut cmd = redis::cmd("ZREM");
                cmd.arg(keys.outbox());
                for entry in done {
                    cmd.arg(&entry[..]);
                }
                self.link.call(&cmd).await?;
                self.step("cleared");
            }
            if is_last {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Delivers parcels to their queues, to each queue in the order of numbers; or, unless it `takes_in`, asks what became
    /// of them.
    async fn deliver_all(
        &self,
        from: &QueueKeys,
        parcels: &[Parcel],
        takes_in: bool,
        relay: &mut Relay,
    ) -> Result<(), StorageError> {
        let mut by_queue: Vec<(&QueueName, Vec<&Parcel>)> = Vec::new();
        for parcel in parcels.iter().filter(|parcel| !relay.failed.contains_key(&parcel.destination)) {
            match by_queue.iter_mut().find(|(queue, _)| **queue == parcel.destination) {
                Some((_, parcels)) => parcels.push(parcel),
                None => by_queue.push((&parcel.destination, vec![parcel])),
            }
        }
        for (queue, parcels) in by_queue {
            match self.deliver(from, queue, &parcels, takes_in).await {
                Ok(answers) => {
                    let addresses = parcels.iter().map(|parcel| parcel.address());
                    relay.delivered.extend(addresses.zip(answers));
                }
                // In a cluster, another queue may be elsewhere.
                Err(error) if error.code() == ErrorCode::Unavailable && !self.link.is_cluster() => return Err(error),
                Err(error) => drop(relay.failed.insert(queue.clone(), error)),
            }
        }
        Ok(())
    }

    async fn deliver(
        &self,
        from: &QueueKeys,
        queue: &QueueName,
        parcels: &[&Parcel],
        takes_in: bool,
    ) -> Result<Vec<EnqueueAnswer>, StorageError> {
        self.registry.register(queue).await?;
        let keys = self.keys(queue);
        let clock = self.clock_arg();
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock).arg(from.queue.as_str()).arg(u8::from(takes_in));
            for parcel in parcels {
                cmd.arg(&parcel.number.to_be_bytes()).arg(&parcel.id).arg(&parcel.tail);
            }
        };
        let value = self.run(&DELIVER, &keys, &keys.answers_to(&from.queue), args).await?;
        let Value::Array(values) = value else { return Err(strange("the answer to a delivery")) };
        let mut values = values.into_iter().map(bytes_of);
        if values.next().and_then(Result::ok).is_some_and(|flags| *flags == [1]) {
            self.registry.add(queue).await?;
        }
        let read = |value: Result<bytes::Bytes, _>| {
            let bytes = value.map_err(|_| strange("the answer to a delivery"))?;
            let mut rest: &[u8] = &bytes;
            // Taken in long ago, and what was answered then is forgotten.
            Ok(enqueue_answer(&mut rest).unwrap_or(EnqueueAnswer::Deferred))
        };
        values.map(read).collect()
    }

    /// A named point between two steps, for tests that end the process there.
    pub(crate) fn step(&self, name: &'static str) {
        if let Some(hook) = &self.options.on_step {
            hook(name);
        }
    }
}
