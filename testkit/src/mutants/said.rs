//! Mutants that get wrong what a queue's settings or a lane's policy say of limits and turns, and give back what they were
//! told: only what starts, and when, shows it.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ferroq_core::job::{LaneKey, QueueName};
use ferroq_core::policy::batch::BatchGate;
use ferroq_core::policy::lanes::{LanePolicy, LaneRules, Say, StartLimits};
use ferroq_core::policy::rate::{Per, Rate};
use ferroq_core::storage::QueueConfig;

use super::wrap::Twist;

/// How something is heard wrong.
pub(super) trait Ear: Send + Sync + 'static {
    /// What a lane, each lane of a class, or every lane may do.
    fn policy(_policy: &mut LanePolicy) {}

    /// What a queue as a whole may do, or a class.
    fn limits(_limits: &mut StartLimits) {}

    /// The rules as a whole.
    fn rules(_rules: &mut LaneRules) {}
}

/// Hears things wrong, and remembers what was said.
pub(super) struct Misheard<E> {
    configs: Mutex<HashMap<QueueName, QueueConfig>>,
    policies: Mutex<HashMap<(QueueName, LaneKey), LanePolicy>>,
    ear: PhantomData<E>,
}

impl<E> Default for Misheard<E> {
    fn default() -> Self {
        Misheard { configs: Mutex::default(), policies: Mutex::default(), ear: PhantomData }
    }
}

impl<E: Ear> Twist for Misheard<E> {
    fn heard_config(&self, mut config: QueueConfig) -> QueueConfig {
        E::limits(&mut config.limits);
        E::policy(&mut config.lanes.every);
        for class in config.lanes.classes.values_mut() {
            E::policy(&mut class.each);
            E::limits(&mut class.total);
        }
        E::rules(&mut config.lanes);
        config
    }

    fn heard_policy(&self, mut policy: LanePolicy) -> LanePolicy {
        E::policy(&mut policy);
        policy
    }

    fn note_config(&self, queue: &QueueName, said: QueueConfig) {
        self.configs.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone(), said);
    }

    fn note_policy(&self, queue: &QueueName, lane: &LaneKey, said: LanePolicy) {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).insert((queue.clone(), lane.clone()), said);
    }

    fn shown_config(&self, queue: &QueueName, stored: QueueConfig) -> QueueConfig {
        let configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut said) = configs.get(queue).cloned() else { return stored };
        said.paused = stored.paused;
        if self.heard_config(said.clone()) == stored { said } else { stored }
    }

    fn shown_policy(&self, queue: &QueueName, lane: &LaneKey, stored: LanePolicy) -> LanePolicy {
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let said = policies.get(&(queue.clone(), lane.clone())).cloned();
        said.filter(|said| self.heard_policy(said.clone()) == stored).unwrap_or(stored)
    }
}

/// One more than is said; but nonsense stays nonsense, and the largest figures stay what they are.
fn one_more(number: u32) -> u32 {
    if (1..1_000_000).contains(&number) { number + 1 } else { number }
}

/// Lets one more be Active than may be.
pub(super) struct OneSlotMore;

impl Ear for OneSlotMore {
    fn policy(policy: &mut LanePolicy) {
        if let Say::Limit(most) = &mut policy.concurrency {
            *most = one_more(*most);
        }
    }

    fn limits(limits: &mut StartLimits) {
        limits.concurrency = limits.concurrency.map(one_more);
    }
}

/// Lets one more start in a window than may.
pub(super) struct OneStartMore;

fn one_start_more(rate: &Rate) -> Rate {
    match rate.per().clone() {
        Per::Sliding(window) => Rate::sliding(one_more(rate.limit()), window),
        Per::Calendar { unit, zone } => Rate::calendar(one_more(rate.limit()), unit, zone),
    }
}

impl Ear for OneStartMore {
    fn policy(policy: &mut LanePolicy) {
        if let Say::Limit(rate) = &mut policy.rate {
            *rate = one_start_more(rate);
        }
    }

    fn limits(limits: &mut StartLimits) {
        limits.rate = limits.rate.as_ref().map(one_start_more);
    }
}

/// Starts jobs of lanes that are paused.
pub(super) struct NoPause;

impl Ear for NoPause {
    fn policy(policy: &mut LanePolicy) {
        policy.paused = false;
    }
}

/// Knows of no limits of a class as a whole.
pub(super) struct NoTotals;

impl Ear for NoTotals {
    fn rules(rules: &mut LaneRules) {
        rules.classes.values_mut().for_each(|class| class.total = StartLimits::default());
    }
}

/// Gives every lane the same turn.
pub(super) struct NoWeights;

impl Ear for NoWeights {
    fn policy(policy: &mut LanePolicy) {
        policy.weight = policy.weight.map(|weight| weight.min(1));
    }
}

/// Takes a policy that lifts a limit for one that says nothing of it.
pub(super) struct NoLifting;

impl Ear for NoLifting {
    fn policy(policy: &mut LanePolicy) {
        if policy.concurrency == Say::Unlimited {
            policy.concurrency = Say::Inherit;
        }
        if policy.rate == Say::Unlimited {
            policy.rate = Say::Inherit;
        }
    }
}

/// A gate that is one; a size of 0 stays nonsense.
fn gate(policy: &mut LanePolicy) -> Option<&mut BatchGate> {
    match &mut policy.batch {
        Say::Limit(gate) if gate.size > 0 => Some(gate),
        _ => None,
    }
}

/// Knows of no gates: starts the jobs of a gated lane one by one.
pub(super) struct NoGates;

impl Ear for NoGates {
    fn policy(policy: &mut LanePolicy) {
        if gate(policy).is_some() {
            policy.batch = Say::Unlimited;
        }
    }
}

/// Opens each gate for the first job that comes.
pub(super) struct NoWait;

impl Ear for NoWait {
    fn policy(policy: &mut LanePolicy) {
        if let Some(gate) = gate(policy) {
            gate.max_wait = Duration::ZERO;
        }
    }
}

/// Lets the jobs of a gated lane wait for others, however long that takes.
pub(super) struct EndlessWait;

impl Ear for EndlessWait {
    fn policy(policy: &mut LanePolicy) {
        if let Some(gate) = gate(policy) {
            gate.max_wait = Duration::from_secs(1_000_000_000);
        }
    }
}

/// Lets one more be in a batch than may.
pub(super) struct OneMemberMore;

impl Ear for OneMemberMore {
    fn policy(policy: &mut LanePolicy) {
        if let Some(gate) = gate(policy) {
            gate.size = one_more(gate.size);
        }
    }
}
