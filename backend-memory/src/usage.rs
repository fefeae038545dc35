//! What limits need to know of a queue: how many jobs of each lane and class are Active, what is remembered of starts, and
//! the lanes' own policies.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{LaneClass, LaneKey};
use ferroq_core::policy::lanes::{LaneTerms, Limited, Room, StartLimits, Starts};
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{QueueConfig, StartsEntry};

/// Who is at work, and what has started.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Active jobs of lanes that have a name; all others are in the default lane.
    active: HashMap<LaneKey, u64>,
    active_named: u64,
    active_of_class: BTreeMap<LaneClass, u64>,
    starts: Starts,
    starts_of_lane: BTreeMap<LaneKey, Starts>,
    starts_of_class: BTreeMap<LaneClass, Starts>,
    /// The lane and the class at which the last look for starts that may be forgotten ended.
    looked_to: (Option<LaneKey>, Option<LaneClass>),
}

/// At how many starts one sweep looks at least: it goes round them all, sweep by sweep, so that no sweep is long.
const STARTS_LOOKED_AT: usize = 1000;

impl Usage {
    /// A job of this lane became Active, or left that state.
    pub(crate) fn count(&mut self, lane: &LaneKey, active: bool) {
        if lane.is_default() {
            return;
        }
        change(&mut self.active_named, active);
        let count = self.active.entry(lane.clone()).or_default();
        change(count, active);
        if *count == 0 {
            self.active.remove(lane);
        }
        // There may be as many classes as lanes, so only this one is looked at.
        if let Some(class) = lane.class() {
            let count = self.active_of_class.entry(class.clone()).or_default();
            change(count, active);
            if *count == 0 {
                self.active_of_class.remove(&class);
            }
        }
    }

    /// The room of the queue, with so many jobs Active.
    pub(crate) fn room(&self, limits: &StartLimits, active: u64, now: Timestamp) -> Room {
        Room::new(limits, active, Some(&self.starts), now)
    }

    /// The room of a lane.
    pub(crate) fn room_of_lane(&self, lane: &LaneKey, limits: &StartLimits, active: u64, now: Timestamp) -> Room {
        let own = if lane.is_default() { active.saturating_sub(self.active_named) } else { 0 };
        let own = self.active.get(lane).copied().unwrap_or(own);
        Room::new(limits, own, self.starts_of_lane.get(lane), now)
    }

    /// How many jobs of a lane's class and of the lane are Active, with so many of the queue.
    pub(crate) fn active(&self, lane: &LaneKey, active: u64) -> (u64, u64) {
        let of_class = lane.class().and_then(|class| self.active_of_class.get(&class).copied());
        let own = if lane.is_default() { active.saturating_sub(self.active_named) } else { 0 };
        (of_class.unwrap_or_default(), self.active.get(lane).copied().unwrap_or(own))
    }

    /// The starts of the queue, of a lane's class and of the lane.
    pub(crate) fn starts(&self, lane: &LaneKey) -> (Option<Starts>, Option<Starts>, Option<Starts>) {
        let of_class = lane.class().and_then(|class| self.starts_of_class.get(&class).cloned());
        (Some(self.starts.clone()), of_class, self.starts_of_lane.get(lane).cloned())
    }

    /// The room of a class.
    pub(crate) fn room_of_class(&self, class: &LaneClass, limits: &StartLimits, now: Timestamp) -> Room {
        let active = self.active_of_class.get(class).copied().unwrap_or_default();
        Room::new(limits, active, self.starts_of_class.get(class), now)
    }

    /// Takes note of starts in a lane.
    pub(crate) fn started(&mut self, lane: &LaneKey, config: &QueueConfig, terms: &LaneTerms, now: Timestamp, n: u32) {
        let take = |state: &mut Starts, rate: &Rate| state.take(rate, now, n);
        if let Some(rate) = &config.limits.rate {
            take(&mut self.starts, rate);
        }
        if let Some(rate) = &terms.limits.rate {
            take(self.starts_of_lane.entry(lane.clone()).or_default(), rate);
        }
        if let Some((class, StartLimits { rate: Some(rate), .. })) = config.lanes.class_total(lane) {
            take(self.starts_of_class.entry(class).or_default(), rate);
        }
    }

    /// The clock stepped back: starts that were later than now count as of now.
    pub(crate) fn anchor(&mut self, before: Timestamp, now: Timestamp) {
        let states = self.starts_of_lane.values_mut().chain(self.starts_of_class.values_mut());
        states.chain([&mut self.starts]).for_each(|state| state.anchor(before, now));
    }

    /// Everything that is remembered, in the order of [`Limited`].
    pub(crate) fn entries(&self) -> Vec<StartsEntry> {
        let own = (self.starts != Starts::default()).then_some((Limited::Queue, &self.starts));
        let of_class = self.starts_of_class.iter().map(|(class, starts)| (Limited::Class(class.clone()), starts));
        let of_lane = self.starts_of_lane.iter().map(|(lane, starts)| (Limited::Lane(lane.clone()), starts));
        let all = own.into_iter().chain(of_class).chain(of_lane);
        all.map(|(of, starts)| StartsEntry { of, starts: starts.clone() }).collect()
    }

    /// Takes in starts of a dump, where none that count are remembered. None of them is later than `now`.
    pub(crate) fn restore(&mut self, entries: Vec<StartsEntry>, now: Timestamp) {
        for StartsEntry { of, mut starts } in entries {
            starts.anchor(now, now);
            if starts.is_over(now) {
                continue;
            }
            let known = match of {
                Limited::Queue => &mut self.starts,
                Limited::Class(class) => self.starts_of_class.entry(class).or_default(),
                Limited::Lane(lane) => self.starts_of_lane.entry(lane).or_default(),
            };
            if known.is_over(now) {
                *known = starts;
            }
        }
    }

    /// Throws away up to `max` lanes' states with nothing to remember, among those that it is the turn of, and as many of
    /// classes.
    pub(crate) fn forget(&mut self, now: Timestamp, max: usize) {
        let (lane, class) = &mut self.looked_to;
        forget(&mut self.starts_of_lane, lane, now, max);
        forget(&mut self.starts_of_class, class, now, max);
    }
}

fn forget<K: Ord + Clone>(states: &mut BTreeMap<K, Starts>, looked_to: &mut Option<K>, now: Timestamp, max: usize) {
    let after = looked_to.take().map_or(Bound::Unbounded, Bound::Excluded);
    let mut over = Vec::new();
    for (whose, starts) in states.range((after, Bound::Unbounded)).take(max.max(STARTS_LOOKED_AT)) {
        if over.len() == max {
            break;
        }
        if starts.is_over(now) {
            over.push(whose.clone());
        }
        *looked_to = Some(whose.clone());
    }
    if looked_to.as_ref() == states.last_key_value().map(|(last, _)| last) {
        *looked_to = None;
    }
    for whose in over {
        states.remove(&whose);
    }
}

fn change(count: &mut u64, up: bool) {
    *count = if up { *count + 1 } else { count.saturating_sub(1) };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_start_is_forgotten_in_time_by_sweeps_that_each_do_little() {
        let second = Duration::from_secs(1);
        let (mut usage, now) = (Usage::default(), Timestamp::from_micros(1_000_000));
        for n in 0..5 * STARTS_LOOKED_AT {
            let lane = LaneKey::new(format!("user/{n}")).unwrap_or_else(|error| panic!("{error}"));
            // Every fifth counts for a year.
            let window = if n % 5 == 0 { second * 3600 * 24 * 365 } else { second };
            usage.starts_of_lane.entry(lane).or_default().take(&Rate::sliding(1, window), now, 1);
        }
        let mut left = usage.starts_of_lane.len();
        for _ in 0..50 {
            usage.forget(now.after(second), 100);
            let dropped = left - usage.starts_of_lane.len();
            assert!(dropped <= 100, "{dropped} at once");
            left -= dropped;
        }
        assert_eq!(left, STARTS_LOOKED_AT, "those that still count");
        usage.forget(now.after(second * 3600 * 24 * 365), usize::MAX);
        assert!(usage.starts_of_lane.is_empty());
    }

    #[test]
    fn a_lane_and_a_class_with_nothing_active_are_not_remembered() {
        let mut usage = Usage::default();
        for name in ["c/a", "c/b", "d/a", "a"] {
            let lane = LaneKey::new(name).unwrap_or_else(|error| panic!("{error}"));
            usage.count(&lane, true);
            usage.count(&lane, true);
            usage.count(&lane, false);
            assert_eq!(usage.active(&lane, 1).1, 1);
            usage.count(&lane, false);
        }
        assert!(usage.active.is_empty() && usage.active_of_class.is_empty() && usage.active_named == 0);
    }
}
