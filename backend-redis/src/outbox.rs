//! The outbox: what a settlement has for other queues. It is written by the settlement's own script, in the settlement's
//! own slot, and relayed from there: by the call itself, and by any client's sweep after a crash. A destination takes
//! each number of a source once, in order, so a relay that is repeated, or done by two, doubles nothing.

use std::collections::HashMap;

use ferroq_core::job::QueueName;
use ferroq_core::storage::{EnqueueAnswer, StorageError};
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

impl Parcel {
    /// Reads an entry of the outbox.
    fn read(entry: &[u8]) -> Option<Self> {
        let mut from = Reader(entry);
        let number = from.i64().ok()?;
        let destination = QueueName::new(from.text().ok()?).ok()?;
        Some(Parcel { number, destination, id: from.array().ok()?, tail: from.0.to_vec() })
    }
}

impl RedisStorage {
    /// Relays everything in a queue's outbox, in its order. Answers what became of `own`, whoever relayed them.
    pub(crate) async fn relay(&self, keys: &QueueKeys, own: &[Parcel]) -> Result<Delivered, StorageError> {
        let mut delivered = Delivered::new();
        loop {
            let mut cmd = redis::cmd("ZRANGE");
            cmd.arg(keys.outbox()).arg(0).arg(ENTRIES_MAX - 1);
            let Value::Array(entries) = self.link.call(&cmd).await? else { return Err(strange("the outbox")) };
            if entries.is_empty() {
                break;
            }
            self.step("read");
            let entries = entries.into_iter().map(bytes_of).collect::<Result<Vec<_>, _>>();
            let entries = entries.map_err(|_| strange("the outbox"))?;
            let parcels: Vec<Parcel> = entries.iter().filter_map(|entry| Parcel::read(entry)).collect();
            if parcels.len() < entries.len() {
                tracing::error!(queue = %keys.queue, "an entry of the outbox can't be read, and was dropped");
            }
            self.deliver_all(keys, &parcels, true, &mut delivered).await?;
            self.step("delivered");
            let mut cmd = redis::cmd("ZREM");
            cmd.arg(keys.outbox());
            for entry in &entries {
                cmd.arg(&entry[..]);
            }
            self.link.call(&cmd).await?;
            self.step("cleared");
        }
        // Some of the call's own may have been relayed by somebody else: the destination still knows their answers.
        let missing = |parcel: &&Parcel| !delivered.contains_key(&(parcel.destination.clone(), parcel.number));
        let missing: Vec<Parcel> = own.iter().filter(missing).cloned().collect();
        self.deliver_all(keys, &missing, false, &mut delivered).await?;
        Ok(delivered)
    }

    /// Delivers parcels to their queues, to each queue in the order of numbers; or, unless it `takes_in`, asks what became
    /// of them.
    async fn deliver_all(
        &self,
        from: &QueueKeys,
        parcels: &[Parcel],
        takes_in: bool,
        delivered: &mut Delivered,
    ) -> Result<(), StorageError> {
        let mut by_queue: Vec<(QueueName, Vec<&Parcel>)> = Vec::new();
        for parcel in parcels {
            match by_queue.iter_mut().find(|(queue, _)| *queue == parcel.destination) {
                Some((_, parcels)) => parcels.push(parcel),
                None => by_queue.push((parcel.destination.clone(), vec![parcel])),
            }
        }
        for (queue, parcels) in by_queue {
            for (parcel, answer) in parcels.iter().zip(self.deliver(from, &queue, &parcels, takes_in).await?) {
                delivered.insert((queue.clone(), parcel.number), answer);
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
        self.register(queue).await?;
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
            self.created(queue).await?;
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
    fn step(&self, name: &'static str) {
        if let Some(hook) = &self.options.on_step {
            hook(name);
        }
    }
}
