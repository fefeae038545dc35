//! What is said of a queue and its lanes is kept by every claim: nothing starts of what is paused, never are more Active than
//! may be, and no window has more starts than its rate allows. Works from the calls that stored settings and policies and
//! from what the claims answered, and reads the policies in its own way.

use std::collections::HashMap;

use ferroq_core::Timestamp;
use ferroq_core::clock::LAG_MAX;
use ferroq_core::job::{JobRecord, JobState, LaneKey, QueueName};
use ferroq_core::policy::lanes::{LanePolicy, Say, StartLimits};
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{ClaimAnswer, ObliterateAnswer, QueueConfig, Reconfigured};

use super::limits::check_rate;
use super::{History, Step};
use crate::model::{Answer, Call, Snapshot};

/// What starts are counted together; a class by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Queue,
    Class(String),
    Lane(LaneKey),
}

impl Whose {
    /// Everything that a job of this lane counts for.
    fn of(lane: &LaneKey) -> Vec<Whose> {
        let class = class_of(lane).map(|class| Whose::Class(class.to_owned()));
        [Whose::Queue, Whose::Lane(lane.clone())].into_iter().chain(class).collect()
    }

    fn counts(&self, job: &JobRecord) -> bool {
        match self {
            Whose::Queue => true,
            Whose::Class(class) => class_of(&job.spec.lane) == Some(class),
            Whose::Lane(lane) => job.spec.lane == *lane,
        }
    }
}

fn class_of(lane: &LaneKey) -> Option<&str> {
    let (class, _) = lane.name()?.split_once('/')?;
    (!class.is_empty()).then_some(class)
}

/// What was said of a queue, and what started under it.
#[derive(Default)]
struct Known {
    config: QueueConfig,
    own: HashMap<LaneKey, LanePolicy>,
    /// The starts under the present rate of each, in their order.
    starts: HashMap<Whose, (Rate, Vec<Timestamp>)>,
}

impl Known {
    /// The policies that speak of a lane, the nearest first.
    fn policies(&self, lane: &LaneKey) -> Vec<&LanePolicy> {
        let classes = self.config.lanes.classes.iter();
        let class = classes.filter(|(class, _)| Some(class.as_str()) == class_of(lane)).map(|(_, policy)| &policy.each);
        self.own.get(lane).into_iter().chain(class).chain([&self.config.lanes.every]).collect()
    }

    fn is_paused(&self, lane: &LaneKey) -> bool {
        self.config.paused || self.policies(lane).iter().any(|policy| policy.paused)
    }

    fn limits(&self, whose: &Whose) -> StartLimits {
        match whose {
            Whose::Queue => self.config.limits.clone(),
            Whose::Class(name) => {
                let mut classes = self.config.lanes.classes.iter();
                let found = classes.find(|(class, _)| class.as_str() == name);
                found.map(|(_, class)| class.total.clone()).unwrap_or_default()
            }
            Whose::Lane(lane) => {
                let policies = self.policies(lane);
                let slots = policies.iter().map(|policy| &policy.concurrency).find(|say| **say != Say::Inherit);
                let rate = policies.iter().map(|policy| &policy.rate).find(|say| **say != Say::Inherit);
                StartLimits { concurrency: slots.and_then(said), rate: rate.and_then(said) }
            }
        }
    }

    /// Rates that are not what they were forget what started under them.
    fn forget_other_rates(&mut self) {
        let starts = std::mem::take(&mut self.starts);
        let same =
            |(whose, (rate, _)): &(Whose, (Rate, Vec<Timestamp>))| self.limits(whose).rate.as_ref() == Some(rate);
        self.starts = starts.into_iter().filter(same).collect();
    }

    /// The jobs of a claim start.
    fn start(&mut self, claimed: &ClaimAnswer) -> Result<(), String> {
        for claim in &claimed.claims {
            let lane = &claim.spec.lane;
            if self.is_paused(lane) {
                return Err(format!("{} was started in {lane:?}, which is paused", claim.lease.id));
            }
            for whose in Whose::of(lane) {
                let Some(rate) = self.limits(&whose).rate else { continue };
                let (rate, starts) = self.starts.entry(whose).or_insert((rate, Vec::new()));
                starts.push(claim.started_at);
                check_rate(rate, starts.iter().copied()).map_err(|what| format!("{lane:?}: {what}"))?;
            }
        }
        Ok(())
    }

    /// Of nothing that a claim has just started more is Active than may be. What was Active before a limit was lowered may
    /// stay so; but then nothing starts.
    fn check_slots(&self, claimed: &ClaimAnswer, jobs: &[JobRecord]) -> Result<(), String> {
        for whose in claimed.claims.iter().flat_map(|claim| Whose::of(&claim.spec.lane)) {
            let Some(most) = self.limits(&whose).concurrency else { continue };
            let active = jobs.iter().filter(|job| job.state == JobState::Active && whose.counts(job)).count();
            if active > most as usize {
                return Err(format!("{active} are Active of {whose:?}, where {most} may be"));
            }
        }
        Ok(())
    }
}

fn said<T: Clone>(say: &Say<T>) -> Option<T> {
    match say {
        Say::Limit(limit) => Some(limit.clone()),
        Say::Inherit | Say::Unlimited => None,
    }
}

fn jobs_of<'a>(snapshot: &'a Snapshot, queue: &QueueName) -> &'a [JobRecord] {
    snapshot.queues.get(queue).map_or(&[], |queue| &queue.jobs)
}

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut queues: HashMap<QueueName, Known> = HashMap::new();
    let mut last = Timestamp::from_micros(i64::MIN);
    for (step, one) in history.steps.iter().enumerate() {
        let Step::Call { at, call, answer, repeat } = one else { continue };
        // A clock that stepped back makes starts count as of another time than they happened.
        if last.since(*at) >= LAG_MAX {
            queues.values_mut().for_each(|known| known.starts.clear());
        }
        last = *at;
        if *repeat {
            continue;
        }
        let known = queues.entry(call.queue().clone()).or_default();
        match (call, answer) {
            (Call::Configure { config, .. }, Answer::Configure) => known.config = config.clone(),
            (Call::Reconfigure { to, .. }, Answer::Reconfigure(Reconfigured::Stored)) => known.config = (**to).clone(),
            (Call::ConfigureLane { lane, policy, .. }, Answer::Configure)
            | (Call::ReconfigureLane { lane, to: policy, .. }, Answer::ReconfigureLane(Reconfigured::Stored)) => {
                known.own.remove(lane);
                known.own.extend(policy.clone().map(|policy| (lane.clone(), policy)));
            }
            (Call::SetPaused { paused, .. }, Answer::SetPaused(_)) => known.config.paused = *paused,
            (Call::Obliterate { .. }, Answer::Obliterate(ObliterateAnswer::Done)) => *known = Known::default(),
            (Call::Exchange(_), Answer::Exchange(answer)) => {
                let Some(claimed) = &answer.claimed else { continue };
                known.start(claimed).map_err(|what| (step, what))?;
                if let Some(Step::Seen(after)) = history.steps.get(step + 1) {
                    let held = known.check_slots(claimed, jobs_of(after, call.queue()));
                    held.map_err(|what| (step, what))?;
                }
                continue;
            }
            _ => continue,
        }
        known.forget_other_rates();
    }
    Ok(())
}
