//! What lanes, classes and the queue have room for, and what of them is counted and remembered to know it.

use std::collections::HashMap;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{LaneClass, LaneKey};
use ferroq_core::policy::lanes::{LaneRules, LaneTerms, Limited, Room, Say, StartLimits, Starts};
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{QueueConfig, StartsEntry};

use super::{Lanes, OWN, Standing};

impl Lanes {
    /// Whether jobs are served by one line without limits, and no lane needs a look, given these settings.
    pub(crate) fn is_plain(&self, config: &QueueConfig) -> bool {
        self.is_trivial() && self.reopen_to == 0 && !self.has_rules(config)
    }

    /// Whether anything but order may hold jobs back.
    pub(crate) fn has_rules(&self, config: &QueueConfig) -> bool {
        self.policies > 0
            || self.own.policy.is_some()
            || !config.limits.is_none()
            || config.lanes != LaneRules::default()
    }

    /// Whether there is the default lane alone, in the ring, so that its coming and going says nothing.
    pub(super) fn is_trivial(&self) -> bool {
        let own = &self.own;
        self.named() == 0 && own.standing == Standing::Ring && self.steps.is_empty()
    }

    /// Whether Active jobs are to be counted by their lanes: only where one may have a limit, because each job that starts
    /// or ends would change its lane's row.
    pub(crate) fn needs_count(&self, config: &QueueConfig) -> bool {
        let limits = |said: &Say<u32>| matches!(said, Say::Limit(_));
        let classes = || config.lanes.classes.values();
        self.policies > 0
            || self.own.policy.is_some()
            || limits(&config.lanes.every.concurrency)
            || classes().any(|class| limits(&class.each.concurrency) || class.total.concurrency.is_some())
    }

    /// How many Active jobs are counted to lanes with names, if they are counted.
    pub(crate) fn counted(&self) -> Option<i64> {
        self.counting.then_some(self.named_active)
    }

    /// How many lanes' rows say in all.
    pub(crate) fn named_active(&self) -> i64 {
        self.named_active
    }

    /// The Active jobs were counted anew: so many of these lanes, whose rows are here like those of all lanes that had any;
    /// or they are to be counted no longer.
    pub(crate) fn set_active(&mut self, counts: Option<HashMap<LaneKey, i64>>) {
        let had: Vec<i64> = self.lanes.iter().filter(|(_, lane)| lane.active > 0).map(|(number, _)| *number).collect();
        for number in had {
            self.lane_mut(number).active = 0;
        }
        self.named_active = 0;
        self.counting = counts.is_some();
        self.active_of_class.clear();
        for (key, count) in counts.into_iter().flatten() {
            let number = self.number(&key);
            self.lane_mut(number).active = count;
            self.named_active += count;
        }
        self.changed = true;
    }

    /// A job's lane was misread, because it is damaged: what was counted is not to be relied on, and lanes that are set aside
    /// may have been for no reason.
    pub(crate) fn distrust(&mut self) {
        self.counting = false;
        self.reopen();
        self.changed = true;
    }

    /// What the rules come to for a lane.
    pub(crate) fn terms(&self, key: &LaneKey, config: &QueueConfig) -> LaneTerms {
        let lane = self.known_number(key).and_then(|number| self.lane(number));
        config.lanes.terms(key, lane.and_then(|lane| lane.policy.as_ref()))
    }

    /// The room of the queue, with so many jobs Active.
    pub(crate) fn room(&self, limits: &StartLimits, active: i64, now: Timestamp) -> Room {
        Room::new(limits, active.max(0).unsigned_abs(), self.starts.as_ref(), now)
    }

    /// The room of a lane, with so many jobs of the queue Active.
    pub(crate) fn room_of_lane(&self, key: &LaneKey, limits: &StartLimits, active: i64, now: Timestamp) -> Room {
        let lane = self.known_number(key).and_then(|number| self.lane(number));
        let active = if key.is_default() { active - self.named_active } else { lane.map_or(0, |lane| lane.active) };
        Room::new(limits, active.max(0).unsigned_abs(), lane.and_then(|lane| lane.starts.as_ref()), now)
    }

    /// The room of a class.
    pub(crate) fn room_of_class(&self, class: &LaneClass, limits: &StartLimits, now: Timestamp) -> Room {
        let active = self.active_of_class.get(class).copied().unwrap_or_default();
        Room::new(limits, active.max(0).unsigned_abs(), self.starts_of_class.get(class), now)
    }

    /// Takes note of starts in a lane.
    pub(crate) fn started(&mut self, key: &LaneKey, config: &QueueConfig, terms: &LaneTerms, now: Timestamp, n: u32) {
        if n == 0 {
            return;
        }
        let take = |starts: &mut Starts, rate: &Rate| starts.take(rate, now, n);
        if let Some(rate) = &config.limits.rate {
            take(self.starts.get_or_insert_default(), rate);
            self.changed = true;
        }
        if let Some(rate) = &terms.limits.rate {
            let number = if key.is_default() { OWN } else { self.number(key) };
            take(self.lane_mut(number).starts.get_or_insert_default(), rate);
            self.has_starts |= number != OWN;
            self.changed = true;
        }
        if let Some((class, StartLimits { rate: Some(rate), .. })) = config.lanes.class_total(key) {
            take(self.starts_of_class.entry(class).or_default(), rate);
            self.changed = true;
        }
    }

    /// How many jobs of a class are Active, of the lanes whose rows are here.
    pub(crate) fn active_here(&self, class: &LaneClass) -> i64 {
        let of_class = self.lanes.values().filter(|lane| lane.key.class().as_ref() == Some(class));
        of_class.map(|lane| lane.active).sum()
    }

    /// The starts of the queue and of a lane's class.
    pub(crate) fn starts_above(&self, lane: &LaneKey) -> (Option<Starts>, Option<Starts>) {
        let of_class = lane.class().and_then(|class| self.starts_of_class.get(&class).cloned());
        (self.starts.clone(), of_class)
    }

    /// What is remembered of the starts of the queue, its classes and the default lane.
    pub(crate) fn starts(&self) -> Vec<StartsEntry> {
        let queue = self.starts.iter().map(|starts| (Limited::Queue, starts));
        let of_class = self.starts_of_class.iter().map(|(class, starts)| (Limited::Class(class.clone()), starts));
        let own = self.own.starts.iter().map(|starts| (Limited::Lane(LaneKey::DEFAULT), starts));
        let all = queue.chain(of_class).chain(own);
        all.map(|(of, starts)| StartsEntry { of, starts: starts.clone() }).collect()
    }

    /// Takes in starts of a dump, where none that count are remembered; a lane's row, if there is one, is here. None of them
    /// is later than now.
    pub(crate) fn restore_starts(&mut self, of: &Limited, starts: &Starts, now: Timestamp) {
        let mut starts = starts.clone();
        starts.anchor(now, now);
        if starts.is_over(now) {
            return;
        }
        self.changed = true;
        let known = match of {
            Limited::Queue => self.starts.get_or_insert_default(),
            Limited::Class(class) => self.starts_of_class.entry(class.clone()).or_default(),
            Limited::Lane(lane) => {
                let number = if lane.is_default() { OWN } else { self.number(lane) };
                self.has_starts |= number != OWN;
                self.lane_mut(number).starts.get_or_insert_default()
            }
        };
        if known.is_over(now) {
            *known = starts;
        }
    }

    /// Whether there are starts of classes of which nothing counts any more.
    pub(crate) fn has_lapsed_classes(&self, now: Timestamp) -> bool {
        self.starts_of_class.values().any(|starts| starts.is_over(now))
    }

    /// Drops those of up to so many classes.
    pub(crate) fn forget_classes(&mut self, now: Timestamp, max_items: usize) {
        let over = self.starts_of_class.iter().filter(|(_, starts)| starts.is_over(now)).take(max_items);
        let over: Vec<LaneClass> = over.map(|(class, _)| class.clone()).collect();
        self.changed |= !over.is_empty();
        for class in over {
            self.starts_of_class.remove(&class);
        }
    }

    /// The clock stepped back: starts that were later than now count as of now. Of the queue, its classes and the default lane.
    pub(crate) fn anchor_queue(&mut self, before: Timestamp, now: Timestamp) {
        let own = self.own.starts.iter_mut().chain(&mut self.starts).chain(self.starts_of_class.values_mut());
        for starts in own {
            starts.anchor(before, now);
            self.changed = true;
        }
    }

    /// The same of a lane.
    pub(crate) fn anchor_lane(&mut self, number: i64, before: Timestamp, now: Timestamp) {
        if let Some(starts) = &mut self.lane_mut(number).starts {
            starts.anchor(before, now);
        }
    }
}
