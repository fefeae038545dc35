//! StartLimits at a turn: how much room a lane, its class and the queue have, and which lanes must stand aside.

use ferroq_core::job::{JobState, LaneKey};
use ferroq_core::policy::lanes::{LANES_BACK_MAX, LaneTerms, Room};

use crate::lanes::Standing;
use crate::turn::Turn;

impl Turn<'_> {
    /// The room of the queue.
    pub(crate) fn room(&self) -> Room {
        let roster = &self.queue.roster;
        roster.usage.room(&self.queue.config.limits, roster.count(JobState::Active), self.now)
    }

    /// What the rules come to for a lane.
    pub(crate) fn terms(&self, lane: &LaneKey) -> LaneTerms {
        self.queue.config.lanes.terms(lane, self.queue.lane_policies.get(lane))
    }

    fn room_of_lane(&self, lane: &LaneKey, terms: &LaneTerms) -> Room {
        let roster = &self.queue.roster;
        roster.usage.room_of_lane(lane, &terms.limits, roster.count(JobState::Active), self.now)
    }

    /// How many jobs of a lane may start now, under every limit.
    pub(crate) fn room_for(&self, lane: &LaneKey, terms: &LaneTerms) -> u32 {
        if terms.paused {
            return 0;
        }
        let of_class = self.queue.config.lanes.class_total(lane);
        let usage = &self.queue.roster.usage;
        let of_class = of_class.map_or(u32::MAX, |(class, limits)| usage.room_of_class(&class, limits, self.now).free);
        self.room().free.min(of_class).min(self.room_of_lane(lane, terms).free)
    }

    /// What every limit together leaves to a lane; no more is looked at where the queue leaves nothing.
    pub(crate) fn room_under_all(&self, lane: &LaneKey) -> Room {
        let of_queue = self.room();
        if of_queue.free == 0 {
            return of_queue;
        }
        let terms = self.terms(lane);
        if terms.paused {
            return Room { free: 0, opens_at: None };
        }
        let of_class = self.queue.config.lanes.class_total(lane);
        let usage = &self.queue.roster.usage;
        let of_class = of_class.map(|(class, limits)| usage.room_of_class(&class, limits, self.now));
        let rooms = [Some(of_queue), of_class, Some(self.room_of_lane(lane, &terms))];
        rooms.into_iter().flatten().reduce(Room::and).unwrap_or(of_queue)
    }

    /// Where a lane stands that nothing may start of, whatever room the queue has.
    pub(crate) fn stands_aside(&self, lane: &LaneKey, terms: &LaneTerms) -> Option<Standing> {
        if terms.paused {
            return Some(Standing::Closed);
        }
        let room = self.room_of_lane(lane, terms);
        if room.free == 0 {
            return Some(room.opens_at.map_or(Standing::Closed, Standing::Held));
        }
        let (class, limits) = self.queue.config.lanes.class_total(lane)?;
        let room = self.queue.roster.usage.room_of_class(&class, limits, self.now);
        (room.free == 0).then_some(Standing::Parked(class))
    }

    /// Takes note of starts.
    pub(crate) fn started(&mut self, lane: &LaneKey, terms: &LaneTerms, n: u32) {
        if n > 0 {
            self.queue.roster.usage.started(lane, &self.queue.config, terms, self.now, n);
        }
    }

    /// Brings back lanes that were set aside and need no longer be.
    pub(crate) fn bring_back(&mut self) {
        self.queue.roster.lanes.bring_back(self.now, LANES_BACK_MAX);
        for class in self.queue.roster.lanes.parked_classes() {
            let limits = self.queue.config.lanes.classes.get(&class).map(|class| class.total.clone());
            let limits = limits.unwrap_or_default();
            let room = self.queue.roster.usage.room_of_class(&class, &limits, self.now);
            let room = usize::try_from(room.free).unwrap_or(usize::MAX);
            self.queue.roster.lanes.unpark(&class, room.min(LANES_BACK_MAX));
        }
    }

    /// The room of each class with parked lanes.
    pub(crate) fn rooms_of_parked(&self) -> Vec<Room> {
        let roster = &self.queue.roster;
        let room = |class| {
            let limits = self.queue.config.lanes.classes.get(&class).map(|class| class.total.clone());
            roster.usage.room_of_class(&class, &limits.unwrap_or_default(), self.now)
        };
        roster.lanes.parked_classes().into_iter().map(room).collect()
    }

    /// A job of this lane has left Active: if the lane waited for that, it takes its turn again.
    pub(crate) fn released(&mut self, lane: &LaneKey) {
        let config = &self.queue.config;
        // Whoever waits for room is told that there is some.
        self.hints.work |= !config.limits.is_none() || config.lanes != Default::default();
        self.hints.work |= !self.queue.lane_policies.is_empty();
        if let Some(number) = self.queue.roster.lanes.closed(lane) {
            self.queue.roster.lanes.rejoin(number);
        }
    }
}
