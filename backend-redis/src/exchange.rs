//! Exchange: settlements with their follow-ups, and a claim, in one script. Follow-ups for other queues leave through the
//! outbox (see [`crate::outbox`]) before the call answers.

use std::collections::BTreeMap;
use std::time::Duration;

use ferroq_core::clock::{Timestamp, micros};
use ferroq_core::job::{ERROR_TEXT_BYTES_MAX, JobState, QueueName, clip};
use ferroq_core::policy::rate::{CalendarUnit, TimeZoneName};
use ferroq_core::storage::{
    ClaimAnswer, EnqueueAnswer, ExchangeAnswer, ExchangeRequest, Lease, Outcome, SettleAnswer, Settlement, StorageError,
};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::enqueue::enqueue_answer;
use crate::error::{CallError, invalid};
use crate::keys::QueueKeys;
use crate::outbox::{Parcel, Relayer};
use crate::record::{bytes_of, claimed, error_number, id_of};
use crate::script::{EXCHANGE, QUARANTINE, WINDOWS};
use crate::spec::{self, Kinds, Reader, Unreadable};

/// How often windows are stored for one exchange: once, unless it takes so long that they end meanwhile.
const WINDOWS_MAX: usize = 5;
/// How many windows of a calendar are stored at a time.
const WINDOWS_AHEAD: usize = 60;
/// The shortest lease that may be asked for.
pub(crate) const TERM_MIN: Duration = Duration::from_millis(1);
/// The outbox holds something.
pub(crate) const FLAG_OUTBOX: u8 = 2;

pub(crate) fn strange(what: &'static str) -> StorageError {
    CallError::unexpected(&"redis".into(), what).into()
}

impl RedisStorage {
    pub(crate) async fn exchange_now(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        let ExchangeRequest { call, queue, settlements, claim } = request;
        if claim.as_ref().is_some_and(|claim| claim.max_items == 0 || claim.term < TERM_MIN) {
            return Err(invalid("a claim asks for at least one job and a lease of at least a millisecond"));
        }
        let keys = self.keys(&queue);
        let clock = self.clock_arg();
        let settled: Vec<Vec<u8>> = settlements.iter().map(settlement_bytes).collect();
        let follow_ups = follow_up_args(&queue, &settlements);
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock);
            match call {
                Some(call) => cmd.arg(call.number).arg(call.acknowledged_below),
                None => cmd.arg("").arg(""),
            };
            cmd.arg(settled.len());
            for settlement in &settled {
                cmd.arg(settlement);
            }
            cmd.arg(follow_ups.len());
            for (place, queue, id, tail) in &follow_ups {
                cmd.arg(place).arg(queue).arg(id).arg(tail);
            }
            let Some(claim) = &claim else {
                cmd.arg("");
                return;
            };
            cmd.arg(claim.max_items).arg(claim.max_bytes).arg(&micros(claim.term).to_be_bytes());
            cmd.arg(if claim.alone { "1" } else { "0" }).arg(claim.worker.as_str());
            for kind in claim.kinds.iter() {
                cmd.arg(kind.as_str());
            }
        };
        let answers = keys.answers(call.map(|call| call.session));
        let mut value = self.run(&EXCHANGE, &keys, &answers, args).await?;
        for _ in 0..WINDOWS_MAX {
            let Some((now, calendars)) = windows_wanted(&value) else { break };
            let windows = windows(now, &calendars);
            self.run(&WINDOWS, &keys, &answers, |cmd| {
                cmd.arg(&windows);
            })
            .await?;
            value = self.run(&EXCHANGE, &keys, &answers, args).await?;
        }
        let mut answered = Answered::read(value).map_err(|Unreadable| strange("the exchange script's answer"))?;
        let claimed = match &claim {
            None => None,
            Some(asked) => {
                let (answer, unreadable) = answered.claimed(&queue)?;
                for lease in unreadable {
                    // The call itself took effect. A job that stays Active is met again once its lease is over.
                    if let Err(error) = self.quarantine(&keys, lease).await {
                        tracing::warn!(%queue, job = %lease.id, %error, "a job that can't be read could not be failed yet");
                    }
                }
                self.listener.claimed(&keys, asked, &answer);
                Some(answer)
            }
        };
        let mut settled = answered.settled(&settlements)?;
        let has_own = settled.iter().any(|(_, sent)| !sent.is_empty());
        if has_own || (answered.outbox && !self.held_up.has(&queue)) {
            self.step("settled");
            // Each settlement and each job looked at may have left a dead letter.
            let letters = settlements.len() + claim.as_ref().map_or(0, |claim| claim.max_items);
            self.relay_own(&keys, &settlements, follow_ups, &mut settled, letters).await;
        }
        Ok(ExchangeAnswer { settled: settled.into_iter().map(|(answer, _)| answer).collect(), claimed })
    }

    /// Fails a job that was claimed and can't be read.
    async fn quarantine(&self, keys: &QueueKeys, lease: Lease) -> Result<(), StorageError> {
        let clock = self.clock_arg();
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock).arg(lease_bytes(lease).as_slice());
        };
        tracing::error!(queue = %keys.queue, job = %lease.id, "the stored job can't be read; it is Failed as quarantined");
        self.run(&QUARANTINE, keys, &keys.answers(None), args).await.map(drop)
    }

    /// Sends what is in the outbox on its way, and fills in what became of this call's own follow-ups. What can't be
    /// delivered now stays in the outbox, and is answered as deferred.
    async fn relay_own(
        &self,
        keys: &QueueKeys,
        settlements: &[Settlement],
        follow_ups: Vec<FollowUpArg>,
        settled: &mut [(SettleAnswer, Vec<Sent>)],
        letters: usize,
    ) {
        let mut parcels = Vec::new();
        let mut written = follow_ups.into_iter();
        for ((_, sent), settlement) in settled.iter().zip(settlements) {
            let own = written.by_ref().take(settlement.follow_ups.len());
            for (place, ((_, _, id, tail), spec)) in own.zip(&settlement.follow_ups).enumerate() {
                if let Some(sent) = sent.iter().find(|sent| sent.place == place) {
                    parcels.push(Parcel { number: sent.number, destination: spec.queue.clone(), id, tail });
                }
            }
        }
        let delivered = self.relay(keys, &parcels, Relayer::Call { letters }).await.delivered;
        for ((answer, sent), settlement) in settled.iter_mut().zip(settlements) {
            let SettleAnswer::Settled { follow_ups, .. } = answer else { continue };
            for sent in sent {
                let destination = &settlement.follow_ups[sent.place].queue;
                if let Some(answer) = delivered.get(&(destination.clone(), sent.number)) {
                    follow_ups[sent.place] = *answer;
                }
            }
        }
    }
}

/// The storage time at which an exchange found the windows of calendars wanting, and these, if that is its answer.
fn windows_wanted(value: &Value) -> Option<(Timestamp, Vec<String>)> {
    let Value::BulkString(bytes) = value else { return None };
    let mut from = Reader(bytes.strip_prefix(b"W")?);
    let now = Timestamp::from_micros(from.i64().ok()?);
    Some((now, serde_json::from_slice(from.0).ok()?))
}

/// The windows of calendars around `now`, as scripts keep them: the instants at which one ends and the next begins.
fn windows(now: Timestamp, calendars: &[String]) -> String {
    let mut all = BTreeMap::new();
    for calendar in calendars {
        let Some((unit, zone)) = calendar.split_once(' ') else { continue };
        let unit: Option<CalendarUnit> = serde_json::from_value(unit.into()).ok();
        let (Some(unit), Ok(zone)) = (unit, TimeZoneName::new(zone)) else { continue };
        let mut window = zone.window(unit, now);
        let mut instants = vec![window.start.as_micros()];
        for _ in 0..WINDOWS_AHEAD {
            instants.push(window.end.as_micros());
            window = zone.window(unit, window.end);
        }
        all.insert(calendar, instants);
    }
    serde_json::json!(all).to_string()
}

/// A follow-up that went to the outbox: which of its settlement's, and under which number.
#[derive(Clone, Copy, Debug)]
struct Sent {
    place: usize,
    number: i64,
}

/// The exchange script's answer, taken apart.
struct Answered {
    outbox: bool,
    now: Timestamp,
    settled: bytes::Bytes,
    rest: bytes::Bytes,
    claims: Vec<Value>,
}

impl Answered {
    fn read(value: Value) -> Result<Self, Unreadable> {
        let Value::Array(values) = value else { return Err(Unreadable) };
        let mut values = values.into_iter();
        let mut next = || bytes_of(values.next().ok_or(Unreadable)?);
        let head = next()?;
        let mut from = Reader(&head);
        let (flags, now) = (from.u8()?, from.i64()?);
        let (settled, rest) = (next()?, next()?);
        let claims = values.collect();
        Ok(Answered { outbox: flags & FLAG_OUTBOX != 0, now: Timestamp::from_micros(now), settled, rest, claims })
    }

    /// The answers to settlements, with those of their follow-ups; the ones in the outbox are deferred so far.
    fn settled(&self, settlements: &[Settlement]) -> Result<Vec<(SettleAnswer, Vec<Sent>)>, StorageError> {
        let mut from: &[u8] = &self.settled;
        let one =
            |settlement| settle_answer(&mut from, settlement).ok_or_else(|| strange("the answer to a settlement"));
        settlements.iter().map(one).collect()
    }

    /// The claim's answer, and the leases of jobs that can't be read. It takes the claims: their payloads are not copied.
    fn claimed(&mut self, queue: &QueueName) -> Result<(ClaimAnswer, Vec<Lease>), StorageError> {
        let claims = std::mem::take(&mut self.claims);
        let read = || -> Result<(ClaimAnswer, Vec<Lease>), Unreadable> {
            let mut from = Reader(&self.rest);
            let (solo, more, solo_line, wait) = (from.u8()? == 1, from.u8()? == 1, from.u8()?, from.i64()?);
            let look_again = (wait != -1).then(|| match wait {
                i64::MAX => Timestamp::MAX.since(self.now),
                wait => Duration::from_micros(wait.max(0).unsigned_abs()),
            });
            let (solo_waiting, solo_held) = (solo_line == 1, solo_line == 2);
            let mut answer = ClaimAnswer { claims: Vec::new(), more, look_again, solo_waiting, solo_held };
            let (mut unreadable, mut kinds) = (Vec::new(), Kinds::default());
            answer.claims.reserve(claims.len() / 3);
            let mut values = claims.into_iter();
            while let (Some(id), Some(stored), Some(extra)) = (values.next(), values.next(), values.next()) {
                let (id, stored, extra) = (id_of(&bytes_of(id)?)?, bytes_of(stored)?, bytes_of(extra)?);
                match claimed(queue, id, &stored, &extra, self.now, solo, &mut kinds) {
                    Ok(claim) => answer.claims.push(claim),
                    Err(Unreadable) => {
                        let epoch = Reader(extra.get(1..).unwrap_or_default()).i64();
                        let epoch = epoch.unwrap_or_else(|_| self.now.as_micros().max(1));
                        unreadable.push(Lease { id, epoch });
                    }
                }
            }
            Ok((answer, unreadable))
        };
        read().map_err(|Unreadable| strange("the answer to a claim"))
    }
}

fn settle_answer(from: &mut &[u8], settlement: &Settlement) -> Option<(SettleAnswer, Vec<Sent>)> {
    let (tag, rest) = from.split_first()?;
    *from = rest;
    let answer = match tag {
        1 => SettleAnswer::AlreadyDone,
        2 => SettleAnswer::LeaseLost,
        3 => SettleAnswer::Gone,
        0 => {
            let (state, rest) = from.split_first()?;
            *from = rest;
            let state = JobState::from_number(*state)?;
            let (mut follow_ups, mut sent) = (Vec::new(), Vec::new());
            for place in 0..settlement.follow_ups.len() {
                if from.first() == Some(&2) {
                    let (number, rest) = from[1..].split_first_chunk::<8>()?;
                    *from = rest;
                    sent.push(Sent { place, number: i64::from_be_bytes(*number) });
                    follow_ups.push(EnqueueAnswer::Deferred);
                } else {
                    follow_ups.push(enqueue_answer(from)?);
                }
            }
            return Some((SettleAnswer::Settled { state, follow_ups }, sent));
        }
        _ => return None,
    };
    Some((answer, Vec::new()))
}

/// A lease as scripts take it.
pub(crate) fn lease_bytes(lease: Lease) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(25);
    bytes.extend(lease.id.as_bytes());
    bytes.extend(lease.epoch.to_be_bytes());
    bytes
}

/// A settlement as `settle.lua` takes it.
fn settlement_bytes(settlement: &Settlement) -> Vec<u8> {
    let mut bytes = lease_bytes(settlement.lease);
    match &settlement.outcome {
        Outcome::Completed { result: None } => bytes.push(0),
        Outcome::Completed { result: Some(result) } => {
            bytes.push(1);
            spec::write_payload(result, &mut bytes);
        }
        Outcome::Retry { error, delay } => {
            bytes.push(2);
            bytes.extend(micros(*delay).to_be_bytes());
            bytes.push(error_number(error.kind));
            bytes.extend_from_slice(clip(&error.message, ERROR_TEXT_BYTES_MAX).as_bytes());
        }
        Outcome::Abort { error } => {
            bytes.extend([3, error_number(error.kind)]);
            bytes.extend_from_slice(clip(&error.message, ERROR_TEXT_BYTES_MAX).as_bytes());
        }
        Outcome::Snooze { delay } => {
            bytes.push(4);
            bytes.extend(micros(*delay).to_be_bytes());
        }
        Outcome::Cancelled => bytes.push(6),
        // Release, and what a later version may add: the job goes back, and nothing is used up.
        _ => bytes.push(5),
    }
    bytes
}

type FollowUpArg = (usize, String, [u8; 16], Vec<u8>);

fn follow_up_args(home: &QueueName, settlements: &[Settlement]) -> Vec<FollowUpArg> {
    let mut args = Vec::new();
    for (place, settlement) in settlements.iter().enumerate() {
        for spec in &settlement.follow_ups {
            let queue = if spec.queue == *home { String::new() } else { spec.queue.to_string() };
            let mut tail = Vec::new();
            spec::write(spec, &mut tail);
            args.push((place + 1, queue, *spec.id.as_bytes(), tail));
        }
    }
    args
}
