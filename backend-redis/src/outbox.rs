//! The outbox: what a settlement has for other queues, dead letters, and jobs that are redriven. It is written by the
//! script that settles, sweeps or acts, in its own slot, and relayed from there: by the call itself, and by any client's sweep after a crash. A destination takes
//! each number of a source once, in order, so a relay that is repeated, or done by two, doubles nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use ferroq_core::job::{JobId, QueueName};
use ferroq_core::storage::{EnqueueAnswer, ErrorCode, StorageError};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::enqueue::enqueue_answer;
use crate::exchange::strange;
use crate::keys::QueueKeys;
use crate::record::bytes_of;
use crate::script::DELIVER;
use crate::spec::{self, Kinds, Reader};

/// How many entries are read at a time; with payloads of a mebibyte that is at most as many mebibytes.
const ENTRIES_MAX: usize = 100;
/// How many times one sweep reads; what is left is the next one's.
const SWEEP_ROUNDS_MAX: usize = 20;

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

/// What came of a relay.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) delivered: Delivered,
    /// There is more, and another relay goes on with it.
    pub(crate) more: bool,
    /// Nothing is left.
    pub(crate) is_empty: bool,
}

/// What one relay has come to.
#[derive(Debug, Default)]
struct Relay {
    delivered: Delivered,
    reached: HashSet<QueueName>,
    failed: HashMap<QueueName, StorageError>,
    /// Queues that were not tried.
    passed: HashSet<QueueName>,
    pass: Pass,
    saw_all: bool,
}

impl Relay {
    fn stays(&self, parcel: &Parcel) -> bool {
        let queue = &parcel.destination;
        self.failed.contains_key(queue) || self.passed.contains(queue) || self.pass.waits.contains(queue)
    }
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
        let id: [u8; 16] = from.array().ok()?;
        // A script takes what it is given, so a spec that can't be read is found out here.
        let stored = [&[0; spec::HEAD], from.0].concat().into();
        spec::read(&destination, JobId::from_bytes(id), &stored, &mut Kinds::default()).ok()?;
        Some(Parcel { number, destination, id, tail: from.0.to_vec() })
    }
}

/// What was in the way when this handle last relayed: so that it is logged once, and tried again by sweeps and not with
/// each call.
#[derive(Debug, Default)]
pub(crate) struct HeldUp(Mutex<HashMap<QueueName, Standing>>);

/// How it stands with one source.
#[derive(Clone, Debug, Default)]
struct Standing {
    is_down: bool,
    has_unreadable: bool,
    destinations: HashSet<QueueName>,
    /// Where the next sweep goes on.
    pass: Option<Pass>,
}

/// How far a walk through the outbox has come.
#[derive(Clone, Debug)]
struct Pass {
    after: String,
    /// Queues that have something before that place, and so must not get anything from behind it.
    waits: HashSet<QueueName>,
    has_unreadable: bool,
}

impl Default for Pass {
    fn default() -> Self {
        Pass { after: "-inf".to_owned(), waits: HashSet::new(), has_unreadable: false }
    }
}

impl HeldUp {
    pub(crate) fn has(&self, source: &QueueName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(source)
    }

    fn destinations(&self, source: &QueueName) -> HashSet<QueueName> {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(source).map(|standing| standing.destinations.clone()).unwrap_or_default()
    }

    /// Where the last sweep left off, if it did not come to the end.
    fn take_pass(&self, source: &QueueName) -> Option<Pass> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get_mut(source)?.pass.take()
    }

    fn note(&self, source: &QueueName, relay: &Relay, by: Relayer, down: Option<StorageError>) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sources.remove(source).unwrap_or_default();
        let (waits, unread) = (&relay.pass.waits, relay.pass.has_unreadable);
        if let Some(error) = &down
            && !before.is_down
        {
            tracing::warn!(queue = %source, %error, "follow-ups wait in the outbox until the storage answers");
        }
        if unread && !before.has_unreadable {
            tracing::error!(queue = %source, "an entry of the outbox can't be read, and stays there");
        }
        for (destination, error) in relay.failed.iter().filter(|(queue, _)| !before.destinations.contains(*queue)) {
            tracing::warn!(queue = %source, %destination, %error, "follow-ups wait in the outbox until their queue can be reached");
        }
        for destination in before.destinations.iter().filter(|queue| relay.reached.contains(*queue)) {
            tracing::info!(queue = %source, %destination, "follow-ups get to their queue again");
        }
        let mut destinations = before.destinations;
        // What nobody has anything for any more is no longer waited for.
        destinations.retain(|queue| !relay.reached.contains(queue) && (!relay.saw_all || waits.contains(queue)));
        destinations.extend(relay.failed.keys().cloned());
        let has_unreadable = unread || (before.has_unreadable && !relay.saw_all);
        let pass = match by {
            Relayer::Call { .. } => before.pass,
            Relayer::Sweep => (down.is_none() && !relay.saw_all).then(|| relay.pass.clone()),
        };
        let standing = Standing { is_down: down.is_some(), has_unreadable, destinations, pass };
        let Standing { is_down, has_unreadable, destinations, pass } = &standing;
        if *is_down || *has_unreadable || !destinations.is_empty() || pass.is_some() {
            sources.insert(source.clone(), standing);
        }
    }
}

/// Who relays, and so how much of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relayer {
    /// A call with follow-ups of its own, up to so many dead letters or redriven jobs besides, or that found some: it goes
    /// not much further than its own, and leaves queues that could not be reached to sweeps.
    Call { letters: usize },
    /// A sweep.
    Sweep,
}

impl RedisStorage {
    /// Relays what is in a queue's outbox, in its order. Answers what became of `own`, whoever relayed them. A queue that can't be reached keeps its entries where they are, and does not hold up the others.
    pub(crate) async fn relay(&self, keys: &QueueKeys, own: &[Parcel], by: Relayer) -> Relayed {
        let mut relay = Relay::default();
        let rounds = match by {
            Relayer::Call { letters } => (own.len() + letters) / ENTRIES_MAX + 2,
            Relayer::Sweep => SWEEP_ROUNDS_MAX,
        };
        match by {
            Relayer::Call { .. } => relay.passed = self.held_up.destinations(&keys.queue),
            Relayer::Sweep => relay.pass = self.held_up.take_pass(&keys.queue).unwrap_or_default(),
        }
        let mut ended = self.relay_all(keys, rounds, &mut relay).await;
        if ended.is_ok() && relay.saw_all {
            // Some of the call's own may have been relayed by somebody else: the destination still knows their answers.
            let missing = |parcel: &&Parcel| !relay.delivered.contains_key(&parcel.address());
            let missing: Vec<Parcel> = own.iter().filter(missing).cloned().collect();
            ended = self.deliver_all(keys, &missing, false, &mut relay).await;
        }
        let more = ended.is_ok() && !relay.saw_all;
        let is_empty = ended.is_ok() && relay.saw_all && relay.pass.waits.is_empty() && !relay.pass.has_unreadable;
        self.held_up.note(&keys.queue, &relay, by, ended.err());
        Relayed { delivered: relay.delivered, more, is_empty }
    }

    /// Goes through the outbox from its head. Numbers only rise in a source, so what comes in behind is met later, and
    /// nothing is delivered before an older one for the same queue: a queue that failed is left out for the rest.
    async fn relay_all(&self, keys: &QueueKeys, rounds: usize, relay: &mut Relay) -> Result<(), StorageError> {
        for _ in 0..rounds {
            let mut cmd = redis::cmd("ZRANGE");
            cmd.arg(keys.outbox()).arg(&relay.pass.after).arg("+inf").arg("BYSCORE");
            cmd.arg("LIMIT").arg(0).arg(ENTRIES_MAX).arg("WITHSCORES");
            let Value::Array(values) = self.link.call(&cmd).await? else { return Err(strange("the outbox")) };
            let values = values.into_iter().map(bytes_of).collect::<Result<Vec<_>, _>>();
            let values = values.map_err(|_| strange("the outbox"))?;
            let (entries, _) = values.as_chunks::<2>();
            if let Some([_, score]) = entries.last() {
                relay.pass.after = format!("({}", String::from_utf8_lossy(score));
            }
            let is_last = entries.len() < ENTRIES_MAX;
            let mut parcels = Vec::with_capacity(entries.len());
            for [entry, _] in entries {
                match Parcel::read(entry) {
                    Some(parcel) => parcels.push((parcel, entry)),
                    None => relay.pass.has_unreadable = true,
                }
            }
            let new: Vec<Parcel> =
                parcels.iter().filter(|(parcel, _)| !relay.stays(parcel)).map(|(parcel, _)| parcel.clone()).collect();
            if !new.is_empty() {
                self.step("read");
                self.deliver_all(keys, &new, true, relay).await?;
                self.step("delivered");
            }
            let (left, done): (Vec<_>, Vec<_>) = parcels.into_iter().partition(|(parcel, _)| relay.stays(parcel));
            relay.pass.waits.extend(left.into_iter().map(|(parcel, _)| parcel.destination));
            if !done.is_empty() {
                let mut cmd = redis::cmd("ZREM");
                cmd.arg(keys.outbox());
                for (_, entry) in done {
                    cmd.arg(&entry[..]);
                }
                self.link.call(&cmd).await?;
                self.step("cleared");
            }
            if is_last {
                relay.saw_all = true;
                break;
            }
        }
        Ok(())
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
        for parcel in parcels.iter().filter(|parcel| !relay.stays(parcel)) {
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
                    relay.reached.insert(queue.clone());
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
