//! Lanes: a queue's jobs by tenant, user or platform, served in turn, so that none waits for another's backlog. What a
//! lane, a class of lanes or the whole queue may do at once is said here, and what those words come to for one lane. The
//! ring in which lanes take their turns is the storage's; `docs/contract.md` says how it moves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::batch::BatchGate;
use super::rate::{CALENDAR_WINDOW_MAX, Rate, RateState, StateError};
use crate::clock::Timestamp;
use crate::job::{LaneClass, LaneKey};

/// How many jobs a lane is served in one turn, times its weight, unless the queue says otherwise.
pub const QUANTUM_DEFAULT: u32 = 8;

/// What may start: of a queue, or of all lanes of a class together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartLimits {
    /// How many may be Active at once, in all processes; none: as many as workers take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How many may start in a span of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl StartLimits {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == StartLimits::default()
    }
}

/// How many lanes that nothing may start of one claim sets aside beyond the jobs that it looks at.
pub const LANES_SET_ASIDE_MAX: usize = 100;
/// How many lanes of each sort one claim brings back.
pub const LANES_BACK_MAX: usize = 1000;

/// How much may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// How many jobs.
    pub free: u32,
    /// When there will be room for one, if there is none now and only the rate stands in the way.
    pub opens_at: Option<Timestamp>,
}

/// What a limit is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    /// The queue.
    Queue,
    /// All lanes of a class together.
    Class(LaneClass),
    /// One lane.
    Lane(LaneKey),
}

/// What is remembered of the starts of a queue, a class or a lane, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    state: RateState,
    /// When the rate under which the last of them started forgets it. Then all of it is forgotten, also if a rate with a
    /// longer window has come since: so nobody needs to know the rate to throw it away.
    until: Timestamp,
}

impl Starts {
    /// Takes note of `n` starts at `now`, under this rate.
    pub fn take(&mut self, rate: &Rate, now: Timestamp, n: u32) {
        if n == 0 {
            return;
        }
        if self.is_over(now) {
            self.state = RateState::default();
        }
        let bound = rate.bound_at(now);
        self.state.take(&bound, now, n);
        self.until = self.state.idle_at(&bound).unwrap_or(now);
    }

    /// Whether nothing of it counts any more, so that it may be thrown away.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// When nothing of it counts any more.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// How many are remembered, those among them that no longer count, and when the last of them was.
    pub fn count(&self) -> (u32, Option<Timestamp>) {
        (self.state.count(), self.state.last())
    }

    /// As scripts keep them: until when (8 bytes, microseconds, big-endian), and the state.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.until.as_micros().to_be_bytes()[..], &self.state.to_bytes()].concat()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`StateError`] for a length that none have.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let (until, state) = bytes.split_first_chunk().ok_or_else(|| StateError::of(bytes))?;
        Ok(Starts { state: RateState::from_bytes(state)?, until: Timestamp::from_micros(i64::from_be_bytes(*until)) })
    }

    /// The clock stepped back from `before` to `now`: starts that were later than that count as of now. What was forgotten
    /// before stays so. The rest is remembered for as long as a window lasts that may hold the present, so that a day of which
    /// all was used up does not begin anew; but not until a time to which only a wrong clock came.
    pub fn anchor(&mut self, before: Timestamp, now: Timestamp) {
        if self.is_over(before) {
            *self = Starts::default();
        }
        if let Some(last) = self.state.last().filter(|last| *last > now) {
            let counted = self.until.since(last).max(CALENDAR_WINDOW_MAX);
            self.until = self.until.min(now.after(counted));
            self.state.anchor(now);
        }
    }
}

impl Room {
    /// The room under these limits, with so many jobs Active and these starts remembered.
    pub fn new(limits: &StartLimits, active: u64, starts: Option<&Starts>, now: Timestamp) -> Self {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        let slots = limits.concurrency.map_or(u32::MAX, |most| most.saturating_sub(active));
        let Some(rate) = &limits.rate else { return Room { free: slots, opens_at: None } };
        let bound = rate.bound_at(now);
        let none = RateState::default();
        let starts = starts.filter(|starts| !starts.is_over(now)).map_or(&none, |starts| &starts.state);
        let free = starts.free(&bound, now).min(slots);
        let opens_at = (free == 0 && slots > 0).then(|| starts.retry_at(&bound, now, 1));
        Room { free, opens_at }
    }

    /// The room where this and another one must both have some.
    #[must_use]
    pub fn and(self, other: Room) -> Room {
        let opens_at = match (self.free, other.free) {
            (0, 0) => self.opens_at.zip(other.opens_at).map(|(one, other)| one.max(other)),
            (0, _) => self.opens_at,
            (_, _) => other.opens_at,
        };
        Room { free: self.free.min(other.free), opens_at }
    }
}

/// One thing that a lane's policy says, or leaves to the policy above it: of the lane to its class, of the class to the
/// queue's for every lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say<T> {
    /// What the policy above says; no limit if that says nothing either.
    #[default]
    Inherit,
    /// No limit, whatever the policy above says.
    Unlimited,
    /// This limit.
    Limit(T),
}

impl<T> From<T> for Say<T> {
    fn from(limit: T) -> Self {
        Say::Limit(limit)
    }
}

impl<T> Say<T> {
    fn is_inherited(&self) -> bool {
        matches!(self, Say::Inherit)
    }

    fn limit(&self) -> Option<&T> {
        match self {
            Say::Limit(limit) => Some(limit),
            Say::Inherit | Say::Unlimited => None,
        }
    }
}

/// What one lane may do: said for every lane, for the lanes of a class, or for one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LanePolicy {
    /// How many times the quantum its turn is; none: as the policy above says, or 1.
    pub weight: Option<u32>,
    /// How many of its jobs may be Active at once, in all processes.
    pub concurrency: Say<u32>,
    /// How many of its jobs may start in a span of time.
    pub rate: Say<Rate>,
    /// When its jobs run, together with others of it; see [`super::batch`].
    pub batch: Say<BatchGate>,
    /// Whether nothing of it starts. A lane is paused if its own policy, its class's or the one for every lane says so.
    pub paused: bool,
}

/// What the lanes of a class may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassPolicy {
    /// Each of them.
    pub each: LanePolicy,
    /// All of them together.
    pub total: StartLimits,
}

/// What the lanes of a queue may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneRules {
    /// How many jobs a lane of weight 1 is served in one turn.
    pub quantum: u32,
    /// Every lane, the default lane too.
    pub every: LanePolicy,
    /// The lanes `class/key` of these classes.
    pub classes: BTreeMap<LaneClass, ClassPolicy>,
}

impl Default for LaneRules {
    fn default() -> Self {
        LaneRules { quantum: QUANTUM_DEFAULT, every: LanePolicy::default(), classes: BTreeMap::new() }
    }
}

/// What all policies together come to for one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneTerms {
    /// How many jobs it is served in one turn; 1 or more.
    pub turn_jobs: u32,
    /// What may start of it.
    pub limits: StartLimits,
    /// When its jobs run, in batches, if they do.
    pub batch: Option<BatchGate>,
    /// Whether nothing of it starts.
    pub paused: bool,
}

impl LaneRules {
    /// What the rules, with the lane's own policy if it has one, come to for this lane.
    pub fn terms(&self, lane: &LaneKey, own: Option<&LanePolicy>) -> LaneTerms {
        let class = lane.class().and_then(|class| self.classes.get(&class)).map(|class| &class.each);
        // The first that says something has its way.
        let said = || own.into_iter().chain(class).chain([&self.every]);
        let concurrency = said().map(|policy| &policy.concurrency).find(|said| !said.is_inherited());
        let rate = said().map(|policy| &policy.rate).find(|said| !said.is_inherited());
        let batch = said().map(|policy| &policy.batch).find(|said| !said.is_inherited());
        LaneTerms {
            turn_jobs: self.quantum.saturating_mul(said().find_map(|policy| policy.weight).unwrap_or(1)).max(1),
            limits: StartLimits {
                concurrency: concurrency.and_then(Say::limit).copied(),
                rate: rate.and_then(Say::limit).cloned(),
            },
            batch: batch.and_then(|said| said.limit().copied()),
            paused: said().any(|policy| policy.paused),
        }
    }

    /// What the lanes of this lane's class may do together; nothing is said of a lane without a class.
    pub fn class_total(&self, lane: &LaneKey) -> Option<(LaneClass, &StartLimits)> {
        let class = lane.class()?;
        let total = &self.classes.get(&class)?.total;
        (!total.is_none()).then_some((class, total))
    }

    /// Everything in the rules that makes no sense.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.quantum == 0 {
            problems.push("a quantum of 0 would serve no lane; give 1 or more".to_owned());
        }
        problems.extend(self.every.problems("every lane"));
        for (class, policy) in &self.classes {
            if class.contains('/') {
                problems.push(format!("no lane is in the class {class:?}: a class ends before the first '/'"));
            }
            problems.extend(policy.each.problems(&format!("the lanes of {class:?}")));
            problems.extend(policy.total.problems(&format!("the class {class:?}")));
        }
        problems
    }
}

impl LanePolicy {
    /// Everything in the policy of `whom` that makes no sense.
    pub fn problems(&self, whom: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.weight == Some(0) {
            problems.push(format!("a weight of 0 for {whom} would never serve it; give 1 or more, or pause it"));
        }
        if self.batch.limit().is_some_and(|gate| gate.size == 0) {
            problems.push(format!("a batch of 0 jobs for {whom} holds none; give a size of 1 or more"));
        }
        let concurrency = self.concurrency.limit().copied();
        let rate = self.rate.limit().cloned();
        problems.extend(StartLimits { concurrency, rate }.problems(whom));
        problems
    }
}

impl StartLimits {
    /// Everything in the limits of `whom` that makes no sense.
    pub fn problems(&self, whom: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.concurrency == Some(0) {
            problems
                .push(format!("a concurrency of 0 for {whom} would let nothing start; give 1 or more, or pause it"));
        }
        if let Some(Err(error)) = self.rate.as_ref().map(Rate::check) {
            problems.push(format!("the rate for {whom}: {error}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> LaneKey {
        LaneKey::new(name).unwrap_or_else(|error| panic!("{error}"))
    }

    fn rules() -> LaneRules {
        let twitter = LaneClass::new("twitter").unwrap_or_else(|error| panic!("{error}"));
        let each = LanePolicy { concurrency: Say::Limit(1), weight: Some(3), ..LanePolicy::default() };
        let total = StartLimits { concurrency: Some(5), rate: None };
        LaneRules {
            every: LanePolicy { rate: Say::Limit(Rate::per_second(10)), ..LanePolicy::default() },
            classes: BTreeMap::from([(twitter, ClassPolicy { each, total })]),
            ..LaneRules::default()
        }
    }

    #[test]
    fn a_lane_says_more_than_its_class_and_that_more_than_the_queue() {
        let rules = rules();
        let plain = rules.terms(&LaneKey::DEFAULT, None);
        assert_eq!(
            (plain.turn_jobs, plain.limits.concurrency, plain.limits.rate),
            (8, None, Some(Rate::per_second(10)))
        );
        let classed = rules.terms(&lane("twitter/ada"), None);
        assert_eq!(
            (classed.turn_jobs, classed.limits.concurrency, classed.limits.rate),
            (24, Some(1), Some(Rate::per_second(10)))
        );
        let own = LanePolicy { concurrency: Say::Unlimited, rate: Say::Unlimited, ..LanePolicy::default() };
        let owned = rules.terms(&lane("twitter/ada"), Some(&own));
        assert_eq!((owned.turn_jobs, owned.limits.concurrency, owned.limits.rate), (24, None, None));
    }

    #[test]
    fn a_pause_anywhere_above_a_lane_pauses_it() {
        let mut rules = rules();
        rules.every.paused = true;
        assert!(rules.terms(&lane("x"), Some(&LanePolicy::default())).paused);
    }

    #[test]
    fn only_a_class_with_limits_of_its_own_counts_its_lanes_together() {
        let mut rules = rules();
        assert!(rules.class_total(&lane("twitter/ada")).is_some());
        assert!(rules.class_total(&lane("mail/ada")).is_none() && rules.class_total(&LaneKey::DEFAULT).is_none());
        rules.classes.values_mut().for_each(|class| class.total = StartLimits::default());
        assert!(rules.class_total(&lane("twitter/ada")).is_none());
    }

    #[test]
    fn only_a_rate_says_when_there_will_be_room() {
        let now = Timestamp::from_micros(1_000_000);
        let limits = StartLimits { concurrency: Some(2), rate: Some(Rate::per_second(1)) };
        assert_eq!(Room::new(&limits, 0, None, now), Room { free: 1, opens_at: None });
        let mut starts = Starts::default();
        starts.take(&Rate::per_second(1), now, 1);
        let later = Timestamp::from_micros(2_000_000);
        assert_eq!(Room::new(&limits, 1, Some(&starts), now), Room { free: 0, opens_at: Some(later) });
        assert_eq!(Room::new(&limits, 2, Some(&starts), now), Room { free: 0, opens_at: None });
        assert_eq!(Room::new(&limits, 1, Some(&starts), later), Room { free: 1, opens_at: None });
    }

    #[test]
    fn rules_under_which_nothing_could_start_are_all_named() {
        let mut rules = rules();
        rules.quantum = 0;
        rules.every.weight = Some(0);
        rules.every.concurrency = Say::Limit(0);
        rules.classes.values_mut().for_each(|class| class.total.rate = Some(Rate::per_second(0)));
        assert_eq!(rules.problems().len(), 4, "{:?}", rules.problems());
    }
}
