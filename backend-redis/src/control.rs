//! The role of the operator: acts on jobs, and on queues as a whole.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use ferroq_core::clock::micros;
use ferroq_core::job::{JobState, LaneKey, QueueName, Start};
use ferroq_core::policy::lanes::{LanePolicy, LaneRules, Say, StartLimits};
use ferroq_core::policy::rate::{Per, Rate};
use ferroq_core::storage::{
    Act, ActAnswer, ActReport, ActRequest, Control, ErrorCode, ObliterateAnswer, QueueConfig, Reconfigured, Selection,
    StorageError,
};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::error::{CallError, invalid, unsupported};
use crate::exchange::{FLAG_OUTBOX, strange};
use crate::inspect::{array, count};
use crate::outbox::Relayer;
use crate::record::{bytes_of, id_of};
use crate::script::{ACT, CONFIGURE, LANE, OBLITERATE, POLICIES, SETTINGS};
use crate::spec::{Reader, Unreadable};
use crate::walk;

#[async_trait]
impl Control for RedisStorage {
    async fn act(&self, request: ActRequest) -> Result<ActReport, StorageError> {
        let ActRequest { call, queue, on, act } = request;
        if matches!(on, Selection::Filter { max_items: 0, .. }) {
            return Err(invalid("a step of an act by filter looks at one record at least"));
        }
        let act = act_bytes(&act)?;
        let (keys, clock) = (self.keys(&queue), self.clock_arg());
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock);
            match call {
                Some(call) => cmd.arg(call.number).arg(call.acknowledged_below),
                None => cmd.arg("").arg(""),
            };
            cmd.arg(&act);
            match &on {
                Selection::Ids(ids) => {
                    cmd.arg("i");
                    for id in ids {
                        cmd.arg(id.as_bytes());
                    }
                }
                Selection::Filter { filter, after, max_items } => {
                    cmd.arg("f");
                    walk::step(cmd, filter, *after, *max_items);
                }
            }
        };
        let report = self.run(&ACT, &keys, &keys.answers(call.map(|call| call.session)), args).await?;
        let (report, outbox) = report_of(report).map_err(|Unreadable| strange("the report of an act"))?;
        if outbox && !self.held_up.has(&queue) {
            self.step("settled");
            self.relay(&keys, &[], Relayer::Call { letters: report.answers.len() }).await;
        }
        Ok(report)
    }

    async fn config(&self, queue: &QueueName) -> Result<QueueConfig, StorageError> {
        Ok(settings_of(self.look(&SETTINGS, queue, |cmd| cmd).await?)?.1)
    }

    async fn configure(&self, queue: &QueueName, config: QueueConfig) -> Result<(), StorageError> {
        config.check(queue)?;
        let (.., stored) = stored_settings(self.look(&SETTINGS, queue, |cmd| cmd).await?)?;
        let json = json_of(&config, &stored);
        self.store_config(queue, |cmd| config_args(cmd, Some((&config, &json)))).await.map(drop)
    }

    async fn reconfigure(
        &self,
        queue: &QueueName,
        from: QueueConfig,
        to: QueueConfig,
    ) -> Result<Reconfigured<QueueConfig>, StorageError> {
        to.check(queue)?;
        // Settings are compared here, as values, and the script sees to it that they still are what was compared. Where they
        // are not, somebody else's change went through, and they are compared anew.
        loop {
            let stored = self.look(&SETTINGS, queue, |cmd| cmd).await?;
            let (_, was_paused, json) = stored_settings(stored.clone())?;
            let (_, present) = settings_of(stored)?;
            if present != from && present != to {
                return Ok(Reconfigured::Conflict(present));
            }
            let new = json_of(&to, &json);
            let args = |cmd: &mut Cmd| {
                config_args(cmd, Some((&to, &new))).arg(u8::from(was_paused)).arg(&json[..]);
            };
            if self.store_settings(queue, args).await?.is_some() {
                return Ok(Reconfigured::Stored);
            }
        }
    }

    async fn configure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: Option<LanePolicy>,
    ) -> Result<(), StorageError> {
        check_policy(policy.as_ref())?;
        self.store_policy(queue, lane, policy.as_ref(), None).await.map(drop)
    }

    async fn reconfigure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        from: Option<LanePolicy>,
        to: Option<LanePolicy>,
    ) -> Result<Reconfigured<Option<LanePolicy>>, StorageError> {
        check_policy(to.as_ref())?;
        // As for the settings of a queue.
        loop {
            let json = self.stored_policy(queue, lane).await?;
            let present = policy_of(&json)?;
            if present != from && present != to {
                return Ok(Reconfigured::Conflict(present));
            }
            if self.store_policy(queue, lane, to.as_ref(), Some(&json)).await? {
                return Ok(Reconfigured::Stored);
            }
        }
    }

    async fn lane_policy(&self, queue: &QueueName, lane: &LaneKey) -> Result<Option<LanePolicy>, StorageError> {
        policy_of(&self.stored_policy(queue, lane).await?)
    }

    async fn lane_policies(
        &self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Result<Vec<(LaneKey, LanePolicy)>, StorageError> {
        if max_items == 0 {
            return Err(invalid("a page of lane policies holds one at least"));
        }
        let all = self.look(&POLICIES, queue, |cmd| cmd).await?;
        let mut all = policies_of(all).map_err(|Unreadable| strange("the lanes' policies"))?;
        all.retain(|(lane, _)| after.is_none_or(|after| lane > after));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.truncate(max_items);
        Ok(all)
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, StorageError> {
        self.store_config(queue, |cmd| cmd.arg(u8::from(paused))).await
    }

    async fn obliterate(
        &self,
        queue: &QueueName,
        force: bool,
        max_items: usize,
    ) -> Result<ObliterateAnswer, StorageError> {
        if max_items == 0 {
            return Err(invalid("a step of an obliteration removes one job at least"));
        }
        // Asked first, so that a list that is somebody else's is found out before anything is removed.
        self.registry.lists(queue).await?;
        let (keys, clock) = (self.keys(queue), self.clock_arg());
        let args = |cmd: &mut Cmd| {
            cmd.arg(&clock).arg(u8::from(force)).arg(walk::items(max_items));
        };
        let answer = self.run(&OBLITERATE, &keys, &keys.answers(None), args).await?;
        match obliterated(answer).map_err(|Unreadable| strange("the answer to an obliteration"))? {
            (ObliterateAnswer::Done, is_outbox_left) => {
                // Nobody may ever come for what the queue owes to others. Where that can't be delivered now, the name stays in
                // the registry, so that somebody can find it.
                if !is_outbox_left || self.relay(&keys, &[], Relayer::Sweep).await.is_empty {
                    self.unregister(queue).await?;
                }
                Ok(ObliterateAnswer::Done)
            }
            (answer, _) => Ok(answer),
        }
    }
}

impl RedisStorage {
    /// Stores settings, and answers whether that paused or resumed the queue.
    async fn store_config(
        &self,
        queue: &QueueName,
        config: impl Fn(&mut Cmd) -> &mut Cmd + Send + Sync,
    ) -> Result<bool, StorageError> {
        let args = |cmd: &mut Cmd| {
            config(cmd);
        };
        let stored = self.store_settings(queue, args).await?;
        stored.ok_or_else(|| strange("the answer to a change of settings"))
    }

    /// Stores settings, and answers whether that paused or resumed the queue; none if they are not those any more that the
    /// arguments say they were.
    async fn store_settings(
        &self,
        queue: &QueueName,
        config: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<Option<bool>, StorageError> {
        self.registry.register(queue).await?;
        let (keys, clock) = (self.keys(queue), self.clock_arg());
        let args = |cmd: &mut Cmd| config(cmd.arg(&clock));
        let flags = self.run(&CONFIGURE, &keys, &keys.answers(None), args).await?;
        match bytes_of(flags).as_deref() {
            Ok(&[2, _]) => Ok(None),
            Ok(&[created, changed]) => {
                if created == 1 {
                    self.registry.add(queue).await.map_err(after_the_fact)?;
                }
                Ok(Some(changed == 1))
            }
            _ => Err(strange("the answer to a change of settings")),
        }
    }

    /// Stores or removes a lane's own policy; whether it did, which it did not if the policy is not `from` any more.
    async fn store_policy(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: Option<&LanePolicy>,
        from: Option<&Bytes>,
    ) -> Result<bool, StorageError> {
        self.registry.register(queue).await?;
        let (keys, clock) = (self.keys(queue), self.clock_arg());
        let args = |cmd: &mut Cmd| {
            policy_args(cmd.arg(&clock), lane, policy);
            if let Some(from) = from {
                cmd.arg(&from[..]);
            }
        };
        let flags = self.run(&LANE, &keys, &keys.answers(None), args).await?;
        match bytes_of(flags).as_deref() {
            Ok(&[2]) => Ok(false),
            Ok(&[created]) => {
                if created == 1 {
                    self.registry.add(queue).await.map_err(after_the_fact)?;
                }
                Ok(true)
            }
            _ => Err(strange("the answer to a change of a lane's policy")),
        }
    }

    /// A lane's own policy as it is stored; empty if it has none.
    async fn stored_policy(&self, queue: &QueueName, lane: &LaneKey) -> Result<Bytes, StorageError> {
        let policy = self.look(&POLICIES, queue, |cmd| cmd.arg(lane.name().unwrap_or_default())).await?;
        bytes_of(policy).map_err(|Unreadable| strange("a lane's policy"))
    }

    /// Takes a queue's name out of the registry, unless somebody made the queue anew.
    pub(crate) async fn unregister(&self, queue: &QueueName) -> Result<(), StorageError> {
        self.registry.remove(queue).await.map_err(after_the_fact)?;
        if self.exists(queue).await.map_err(StorageError::effect_unknown)? {
            self.registry.add(queue).await.map_err(after_the_fact)?;
        }
        Ok(())
    }
}

/// A failure to keep the registry, after the call itself took effect.
pub(crate) fn after_the_fact(error: CallError) -> StorageError {
    StorageError::from(error).effect_unknown()
}

/// An act as `act.lua` takes it.
fn act_bytes(act: &Act) -> Result<Vec<u8>, StorageError> {
    Ok(match act {
        Act::Cancel => vec![0],
        Act::Retry { reset } => vec![1, u8::from(*reset)],
        Act::Promote => vec![2],
        Act::Reschedule(start) => {
            let (tag, at) = match start {
                Start::Now => (0, 0),
                Start::After(delay) => (1, micros(*delay)),
                Start::At(at) => (2, at.as_micros()),
            };
            [&[3, tag][..], &at.to_be_bytes()].concat()
        }
        Act::SetPriority(priority) => vec![4, priority.0],
        Act::Remove => vec![5],
        Act::Redrive => vec![6],
        _ => return Err(unsupported("this version of the Redis backend does not know this act")),
    })
}

/// The report of an act, and whether there is something in the outbox.
fn report_of(report: Value) -> Result<(ActReport, bool), Unreadable> {
    let mut values = array(report)?.into_iter().map(bytes_of);
    let mut value = || values.next().ok_or(Unreadable)?;
    let (next, answers, flags) = (value()?, value()?, value()?);
    let mut report = ActReport { answers: Vec::new(), next: walk::next(&next)? };
    let mut from = Reader(&answers);
    while !from.0.is_empty() {
        let id = id_of(from.bytes(16)?)?;
        let (answer, state) = (from.u8()?, JobState::from_number(from.u8()?).ok_or(Unreadable)?);
        let answer = match answer {
            0 => ActAnswer::Done(state),
            1 => ActAnswer::Requested,
            2 => ActAnswer::Unchanged(state),
            3 => ActAnswer::Refused(state),
            4 => ActAnswer::DedupHeld(id_of(from.bytes(16)?)?),
            5 => ActAnswer::NotFound,
            _ => return Err(Unreadable),
        };
        report.answers.push((id, answer));
    }
    Ok((report, Reader(&flags).u8()? & FLAG_OUTBOX != 0))
}

/// Settings as JSON, with what a newer library keeps beside those that this one knows.
pub(crate) fn json_of(config: &QueueConfig, stored: &[u8]) -> String {
    // Numbers and a flag: there is nothing in them that JSON can't say.
    let known = serde_json::to_value(config).unwrap_or_default();
    let mut all: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(stored).unwrap_or_default();
    if let serde_json::Value::Object(known) = known {
        all.extend(known);
    }
    serde_json::Value::Object(all).to_string()
}

/// Adds the ten arguments of a queue's settings; see `config.lua`.
pub(crate) fn config_args<'a>(cmd: &'a mut Cmd, config: Option<(&QueueConfig, &str)>) -> &'a mut Cmd {
    let Some((config, json)) = config else {
        return (0..14).fold(cmd, |cmd, _| cmd.arg(""));
    };
    cmd.arg(u8::from(config.paused)).arg(json);
    let retention = &config.retention;
    for rule in [retention.completed, retention.failed, retention.cancelled] {
        cmd.arg(micros(rule.age)).arg(rule.count);
    }
    // The server counts entries in a signed number.
    cmd.arg(i64::try_from(config.event_entries_kept).unwrap_or(i64::MAX));
    cmd.arg(config.dead_letter.as_ref().map_or("", |queue| queue.as_str()));
    let said = serde_json::to_string(&config.lanes).unwrap_or_default();
    let is_plain = config.limits.is_none() && config.lanes == LaneRules::default();
    let rules = serde_json::json!({ "limits": config.limits, "lanes": config.lanes }).to_string();
    cmd.arg(if is_plain { "" } else { rules.as_str() });
    // A queue that was never configured has said nothing.
    cmd.arg(if config.lanes == LaneRules::default() { "" } else { said.as_str() });
    let (policies, totals) = policies_in(config);
    let counts = policies.iter().any(|policy| matches!(policy.concurrency, Say::Limit(_)))
        || totals.iter().any(|total| total.concurrency.is_some());
    let of_lanes = policies.iter().filter_map(|policy| match &policy.rate {
        Say::Limit(rate) => calendar_of(rate),
        Say::Inherit | Say::Unlimited => None,
    });
    let of_totals = totals.iter().copied().chain([&config.limits]);
    let of_totals = of_totals.filter_map(|total| calendar_of(total.rate.as_ref()?));
    let calendars: BTreeSet<String> = of_lanes.chain(of_totals).collect();
    cmd.arg(u8::from(counts)).arg(serde_json::json!(calendars).to_string())
}

/// Adds the four arguments of a lane's own policy; see `lane.lua`.
pub(crate) fn policy_args<'a>(cmd: &'a mut Cmd, lane: &LaneKey, policy: Option<&LanePolicy>) -> &'a mut Cmd {
    let json = policy.map(|policy| serde_json::to_string(policy).unwrap_or_default()).unwrap_or_default();
    let counts = policy.is_some_and(|policy| matches!(policy.concurrency, Say::Limit(_)));
    let calendar = match policy {
        Some(LanePolicy { rate: Say::Limit(rate), .. }) => calendar_of(rate).unwrap_or_default(),
        _ => String::new(),
    };
    cmd.arg(lane.name().unwrap_or_default()).arg(json).arg(u8::from(counts)).arg(calendar)
}

/// Every lane policy and every class's limits in the settings.
fn policies_in(config: &QueueConfig) -> (Vec<&LanePolicy>, Vec<&StartLimits>) {
    let classes = config.lanes.classes.values();
    let policies = classes.clone().map(|class| &class.each).chain([&config.lanes.every]).collect();
    (policies, classes.map(|class| &class.total).collect())
}

/// How scripts call a rate's calendar, if it has one: unit and zone.
fn calendar_of(rate: &Rate) -> Option<String> {
    match rate.per() {
        Per::Sliding(_) => None,
        Per::Calendar { unit, zone } => {
            let unit = serde_json::to_value(unit).ok()?;
            Some(format!("{} {zone}", unit.as_str()?))
        }
    }
}

/// Refuses a lane's policy that makes no sense.
fn check_policy(policy: Option<&LanePolicy>) -> Result<(), StorageError> {
    let problems = policy.map_or_else(Vec::new, |policy| policy.problems("the lane"));
    if problems.is_empty() { Ok(()) } else { Err(invalid(problems.join("; "))) }
}

/// A lane's policy from what is stored.
pub(crate) fn policy_of(json: &[u8]) -> Result<Option<LanePolicy>, StorageError> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json).map(Some).map_err(|error| {
        let damaged = "an entry of the queue's `policies` key is not what ferroq wrote; configure the lane anew";
        StorageError::new(ErrorCode::Corrupt, damaged).because(error)
    })
}

/// A lane's name as scripts know it.
pub(crate) fn lane_of(name: &[u8]) -> Result<LaneKey, Unreadable> {
    let name = std::str::from_utf8(name).map_err(|_| Unreadable)?;
    if name.is_empty() { Ok(LaneKey::DEFAULT) } else { LaneKey::new(name).map_err(|_| Unreadable) }
}

fn policies_of(all: Value) -> Result<Vec<(LaneKey, LanePolicy)>, Unreadable> {
    let mut values = match all {
        Value::Map(pairs) => pairs.into_iter().flat_map(|(lane, policy)| [lane, policy]).collect(),
        all => array(all)?,
    }
    .into_iter()
    .map(bytes_of);
    let mut policies = Vec::new();
    while let (Some(lane), Some(policy)) = (values.next(), values.next()) {
        let (lane, policy) = (lane_of(&lane?)?, policy?);
        policies.push((lane, serde_json::from_slice(&policy).map_err(|_| Unreadable)?));
    }
    Ok(policies)
}

/// What `settings.lua` answers: whether the queue exists, whether it is paused, and its settings as JSON.
fn stored_settings(settings: Value) -> Result<(bool, bool, Bytes), StorageError> {
    let read = || {
        let mut values = array(settings)?.into_iter();
        let (exists, paused) = (count(values.next())? == 1, count(values.next())? == 1);
        Ok((exists, paused, values.next().map_or(Err(Unreadable), bytes_of)?))
    };
    read().map_err(|Unreadable| strange("the settings of a queue"))
}

/// Whether the queue exists, and its settings, from what `settings.lua` answers.
pub(crate) fn settings_of(settings: Value) -> Result<(bool, QueueConfig), StorageError> {
    let (exists, paused, json) = stored_settings(settings)?;
    Ok((exists, config_of(paused, &json)?))
}

/// A queue's settings, from whether it is paused and the JSON that is stored; those it has by default if none is.
pub(crate) fn config_of(paused: bool, json: &[u8]) -> Result<QueueConfig, StorageError> {
    let mut config = QueueConfig::default();
    if !json.is_empty() {
        config = serde_json::from_slice(json).map_err(|error| {
            let damaged =
                "the field `config` of the queue's `meta` key is not what ferroq wrote; configure the queue anew";
            StorageError::new(ErrorCode::Corrupt, damaged).because(error)
        })?;
    }
    config.paused = paused;
    Ok(config)
}

/// What `obliterate.lua` answers, and whether the outbox is left.
fn obliterated(answer: Value) -> Result<(ObliterateAnswer, bool), Unreadable> {
    let mut values = array(answer)?.into_iter();
    let (answer, number) = (count(values.next())?, count(values.next())?);
    Ok(match answer {
        0 => (ObliterateAnswer::Done, number == 1),
        1 => (ObliterateAnswer::Active(number), false),
        2 => (ObliterateAnswer::More(number as usize), false),
        _ => return Err(Unreadable),
    })
}

#[cfg(test)]
mod tests;
