//! Who is served next, on the model: lanes in their turn, and the limits that hold them back. Nothing is kept that can be
//! counted anew: the model knows every start that ever was and counts those that still matter.

use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, JobRecord, JobState, LaneClass, LaneKey, Slot};
use ferroq_core::policy::lanes::{LanePolicy, Limited, Say, StartLimits};
use ferroq_core::policy::rate::{Per, Rate};

use super::batches::Gate;
use super::queue::QueueModel;
use super::snapshot::Remembered;

/// How many lanes one claim sets aside beyond the jobs that it looks at, and brings back of each sort.
const SET_ASIDE: usize = 100;
const BACK: usize = 1000;
/// At how many jobs of a line a gate looks for the one that came due first.
const GATE_LOOKS: usize = 1000;

/// How long a window of a calendar may be.
const WINDOW_MAX: Duration = Duration::from_secs(48 * 3600);

/// Whether a claim goes on after it looked at a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    GoOn,
    /// It ends before this job.
    NoRoom,
    /// It ends after it.
    Enough,
}

/// Where a lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    InRing,
    HeldUntil(Timestamp),
    WithItsClass,
    Closed,
}

/// A lane with jobs in its line.
#[derive(Clone, Debug)]
pub(super) struct LaneModel {
    key: LaneKey,
    turn: u64,
    /// How many jobs of its turn were looked at.
    served: u32,
    /// How many it may be served; none while its turn has not begun.
    turn_jobs: Option<u32>,
    place: Place,
    /// If its gate holds it: how many jobs it waits for, and when the first of those that were in line came due.
    at_gate: Option<(u32, Timestamp)>,
    /// The jobs in its line.
    line: Vec<JobId>,
}

/// Whose starts are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Queue,
    Class(LaneClass),
    Lane(LaneKey),
}

/// A start that a rate may count: as of the last start of its group.
#[derive(Clone, Debug)]
struct Start {
    of: Whose,
    at: Timestamp,
    /// Later groups have higher numbers; starts of a visit that is not over yet have none.
    group: Option<u64>,
}

/// All that a queue knows of lanes.
#[derive(Clone, Debug, Default)]
pub(super) struct LanesModel {
    pub(super) policies: Vec<(LaneKey, LanePolicy)>,
    lanes: Vec<LaneModel>,
    turns: u64,
    reopen_to: u64,
    starts: Vec<Start>,
    /// When all starts of one are forgotten, whatever rate it has then.
    until: Vec<(Whose, Timestamp)>,
}

/// What may start, and when something may if nothing may now and only a rate is in the way.
pub(super) struct Room {
    pub(super) free: u64,
    opens_at: Option<Timestamp>,
}

impl QueueModel {
    /// Lanes come and go with the jobs in their lines.
    pub(super) fn see_lanes(&mut self) {
        let waits = |job: &&JobRecord| job.state == JobState::Waiting && job.slot == Slot::Lane;
        let jobs = &self.jobs;
        self.lanes.lanes.retain(|lane| jobs.iter().filter(waits).any(|job| job.spec.lane == lane.key));
        let new: Vec<LaneKey> = jobs
            .iter()
            .filter(waits)
            .map(|job| job.spec.lane.clone())
            .filter(|key| self.lanes.lanes.iter().all(|lane| lane.key != *key))
            .collect();
        for key in new {
            if self.lanes.lanes.iter().any(|lane| lane.key == key) {
                continue;
            }
            if let [alone] = self.lanes.lanes.as_mut_slice() {
                (alone.served, alone.turn_jobs) = (0, None);
            }
            let lane = LaneModel {
                key: key.clone(),
                turn: 0,
                served: 0,
                turn_jobs: None,
                place: Place::InRing,
                at_gate: None,
                line: Vec::new(),
            };
            self.lanes.lanes.push(lane);
            self.rejoin(&key);
        }
        self.see_gates();
    }

    /// A lane that its gate holds takes its turn once as many jobs are in its line as it waits for, or one came that has a
    /// batch, or that came due before those that were there.
    fn see_gates(&mut self) {
        let keys: Vec<LaneKey> = self.lanes.lanes.iter().map(|lane| lane.key.clone()).collect();
        for key in keys {
            let line = self.in_line(&key);
            let Some(lane) = self.lane(&key) else { continue };
            let before = std::mem::replace(&mut lane.line, line.clone());
            let Some((wants, since)) = lane.at_gate else { continue };
            let came = line.iter().filter(|id| !before.contains(id)).filter_map(|id| self.job(*id));
            let mut urgent = came.filter(|job| job.batch.is_some() || self.came_due(job) < since);
            if urgent.next().is_some() || line.len() >= wants as usize {
                self.rejoin(&key);
            }
        }
    }

    /// When a job came due, as its gate takes it: those that were there when the clock stepped back can't have come due later
    /// than that.
    fn came_due(&self, job: &JobRecord) -> Timestamp {
        match self.set_back {
            Some((counter, from, to)) if job.seq.abs() <= counter && (to..=from).contains(&job.due_at) => to,
            _ => job.due_at,
        }
    }

    /// The jobs of a lane's line, in their order.
    pub(super) fn in_line(&self, key: &LaneKey) -> Vec<JobId> {
        let waits =
            |job: &&JobRecord| job.state == JobState::Waiting && job.slot == Slot::Lane && job.spec.lane == *key;
        let mut line: Vec<&JobRecord> = self.jobs.iter().filter(waits).collect();
        line.sort_by_key(|job| (job.priority, job.seq));
        line.iter().map(|job| job.spec.id).collect()
    }

    /// Until when a closed gate holds the jobs of a lane, how many there are, and how many it waits for.
    pub(super) fn held_at_gate(&self, key: &LaneKey) -> Option<(u64, u32, Timestamp)> {
        let gate = self.gate_of(key)?;
        let line = self.in_line(key);
        let since = self.waits_since(key, gate)?;
        Some((line.len() as u64, gate.0, since.after(gate.1)))
    }

    /// Since when the first of a lane's line waits, unless its gate is open.
    fn waits_since(&self, key: &LaneKey, gate: Gate) -> Option<Timestamp> {
        let line = self.in_line(key);
        let jobs: Vec<&JobRecord> = line.iter().take(GATE_LOOKS).filter_map(|id| self.job(*id)).collect();
        let since = jobs.iter().map(|job| self.came_due(job)).min()?;
        let is_led = jobs.first().is_some_and(|head| head.batch.is_some());
        let is_open = is_led || line.len() >= gate.0 as usize || since.after(gate.1) <= self.now;
        (!is_open).then_some(since)
    }

    /// The gate of a lane, if it has one.
    pub(super) fn gate_of(&self, key: &LaneKey) -> Option<Gate> {
        let policies = self.policies_of(key);
        match policies.iter().map(|policy| policy.batch).find(|batch| *batch != Say::Inherit)? {
            Say::Limit(gate) => Some((gate.size, gate.max_wait)),
            _ => None,
        }
    }

    fn lane(&mut self, key: &LaneKey) -> Option<&mut LaneModel> {
        self.lanes.lanes.iter_mut().find(|lane| lane.key == *key)
    }

    fn rejoin(&mut self, key: &LaneKey) {
        self.lanes.turns += 1;
        let turn = self.lanes.turns;
        if let Some(lane) = self.lane(key) {
            (lane.turn, lane.served, lane.turn_jobs, lane.place) = (turn, 0, None, Place::InRing);
            lane.at_gate = None;
        }
    }

    /// The policies that speak of a lane, the nearest first.
    fn policies_of(&self, key: &LaneKey) -> Vec<LanePolicy> {
        let own = self.lanes.policies.iter().find(|(lane, _)| lane == key).map(|(_, policy)| policy.clone());
        let class =
            class_of(key).and_then(|class| self.config.lanes.classes.get(&class)).map(|class| class.each.clone());
        own.into_iter().chain(class).chain([self.config.lanes.every.clone()]).collect()
    }

    fn is_paused(&self, key: &LaneKey) -> bool {
        self.policies_of(key).iter().any(|policy| policy.paused)
    }

    fn limits_of_lane(&self, key: &LaneKey) -> StartLimits {
        let policies = self.policies_of(key);
        let concurrency = policies.iter().find(|policy| policy.concurrency != Say::Inherit);
        let rate = policies.iter().find(|policy| policy.rate != Say::Inherit);
        StartLimits {
            concurrency: match concurrency.map(|policy| policy.concurrency) {
                Some(Say::Limit(most)) => Some(most),
                _ => None,
            },
            rate: match rate.map(|policy| policy.rate.clone()) {
                Some(Say::Limit(rate)) => Some(rate),
                _ => None,
            },
        }
    }

    pub(super) fn limits(&self, whose: &Whose) -> StartLimits {
        match whose {
            Whose::Queue => self.config.limits.clone(),
            Whose::Class(class) => {
                self.config.lanes.classes.get(class).map(|class| class.total.clone()).unwrap_or_default()
            }
            Whose::Lane(key) => self.limits_of_lane(key),
        }
    }

    /// How many jobs of it are Active.
    pub(super) fn active(&self, whose: &Whose) -> u64 {
        let belongs = |job: &&JobRecord| match whose {
            Whose::Queue => true,
            Whose::Class(class) => class_of(&job.spec.lane).as_ref() == Some(class),
            Whose::Lane(key) => job.spec.lane == *key,
        };
        self.jobs.iter().filter(|job| job.state == JobState::Active).filter(belongs).count() as u64
    }

    /// How many lanes of the ring come before this one; all of them if it is set aside.
    pub(super) fn lanes_before(&self, key: &LaneKey) -> u64 {
        let ring = || self.lanes.lanes.iter().filter(|lane| lane.place == Place::InRing);
        let own = ring().find(|lane| lane.key == *key).map(|lane| lane.turn);
        ring().filter(|lane| own.is_none_or(|own| lane.turn < own)).count() as u64
    }

    pub(super) fn room(&self, whose: &Whose) -> Room {
        let limits = self.limits(whose);
        let active = self.active(whose);
        let slots = limits.concurrency.map_or(u64::from(u32::MAX), |most| u64::from(most).saturating_sub(active));
        let Some(rate) = limits.rate else { return Room { free: slots, opens_at: None } };
        let mut leaving: Vec<Timestamp> = self.counted(whose, &rate);
        leaving.sort();
        let most = u64::from(rate.limit());
        let free = most.saturating_sub(leaving.len() as u64);
        // With more remembered than the limit allows, that many have to leave before one may start.
        let over = (leaving.len() as u64 + 1).saturating_sub(most);
        let opens_at = if free == 0 && slots > 0 { leaving.get(over as usize - 1).copied() } else { None };
        Room { free: free.min(slots), opens_at }
    }

    /// When each of the starts that count now no longer does.
    pub(super) fn counted(&self, whose: &Whose, rate: &Rate) -> Vec<Timestamp> {
        let now = self.now;
        if self.lanes.until.iter().any(|(of, until)| of == whose && *until <= now) {
            return Vec::new();
        }
        let own = self.lanes.starts.iter().filter(|start| start.of == *whose).map(|start| start.at.min(now));
        match rate.per() {
            Per::Sliding(window) => own.map(|at| at.after(*window)).filter(|end| *end > now).collect(),
            Per::Calendar { unit, zone } => {
                let window = zone.window(*unit, now);
                own.filter(|at| *at >= window.start).map(|_| window.end).collect()
            }
        }
    }

    /// The starts that are not all forgotten at the present storage time.
    pub(super) fn remembered(&self) -> Vec<Remembered> {
        let counting = self.lanes.until.iter().filter(|(_, until)| *until > self.now);
        let mut all: Vec<Remembered> = counting
            .filter_map(|(whose, until)| {
                let own = self.lanes.starts.iter().filter(|start| start.of == *whose);
                let own: Vec<Timestamp> = own.map(|start| start.at).collect();
                let of = match whose {
                    Whose::Queue => Limited::Queue,
                    Whose::Class(class) => Limited::Class(class.clone()),
                    Whose::Lane(lane) => Limited::Lane(lane.clone()),
                };
                // Where the clock stepped back after all were forgotten, there are none.
                let last = own.iter().max().copied()?;
                Some((of, *until, own.len() as u32, Some(last)))
            })
            .collect();
        all.sort();
        all
    }

    /// The lanes' own policies.
    pub fn lane_policies(&self) -> Vec<(LaneKey, LanePolicy)> {
        self.lanes.policies.clone()
    }

    /// One lane's own policy.
    pub fn lane_policy(&self, lane: &LaneKey) -> Option<LanePolicy> {
        self.lanes.policies.iter().find(|(key, _)| key == lane).map(|(_, policy)| policy.clone())
    }

    /// When a job of this lane that is held back may start, if that is only a matter of time and as far as can be told.
    pub(super) fn opens_at(&self, key: &LaneKey) -> Option<Timestamp> {
        let queue = self.room(&Whose::Queue);
        if queue.free == 0 {
            return queue.opens_at;
        }
        if self.is_paused(key) {
            return None;
        }
        let mut all = vec![Whose::Lane(key.clone())];
        all.extend(class_of(key).map(Whose::Class));
        let full = all.iter().map(|whose| self.room(whose)).filter(|room| room.free == 0);
        let instants: Option<Vec<Timestamp>> = full.map(|room| room.opens_at).collect();
        instants?.into_iter().max()
    }

    /// Whether nothing holds a job of this lane back.
    pub(super) fn may_start(&self, key: &LaneKey) -> bool {
        let mut all = vec![Whose::Queue, Whose::Lane(key.clone())];
        all.extend(class_of(key).map(Whose::Class));
        !self.is_paused(key) && all.iter().all(|whose| self.room(whose).free > 0)
    }

    /// A job of this lane starts.
    pub(super) fn note_start(&mut self, key: &LaneKey) {
        let mut all = vec![Whose::Queue, Whose::Lane(key.clone())];
        all.extend(class_of(key).map(Whose::Class));
        let now = self.now;
        for whose in all {
            let Some(rate) = self.limits(&whose).rate else { continue };
            let over = self.lanes.until.iter().any(|(of, until)| *of == whose && *until <= now);
            if over {
                self.lanes.starts.retain(|start| start.of != whose);
            }
            let until = match rate.per() {
                Per::Sliding(window) => now.after(*window),
                Per::Calendar { unit, zone } => zone.window(*unit, now).end,
            };
            self.lanes.until.retain(|(of, _)| *of != whose);
            self.lanes.until.push((whose.clone(), until));
            // What a limiter has forgotten does not come back when its window grows.
            let keeps = |at: Timestamp| match rate.per() {
                Per::Sliding(window) => at.min(now).after(*window) > now,
                Per::Calendar { unit, zone } => at.min(now) >= zone.window(*unit, now).start,
            };
            self.lanes.starts.retain(|start| start.of != whose || keeps(start.at));
            self.lanes.starts.push(Start { of: whose, at: now, group: None });
        }
    }

    /// A visit is over: the starts of which it took note join the last group, as far as that has room, and the others are one.
    pub(super) fn group_starts(&mut self, key: &LaneKey) {
        let mut all = vec![Whose::Queue, Whose::Lane(key.clone())];
        all.extend(class_of(key).map(Whose::Class));
        let now = self.now;
        for whose in all {
            let Some(rate) = self.limits(&whose).rate else { continue };
            let most = match rate.per() {
                Per::Sliding(_) => rate.limit().div_ceil(100) as usize,
                Per::Calendar { .. } => usize::MAX,
            };
            let mut own: Vec<&mut Start> = self.lanes.starts.iter_mut().filter(|start| start.of == whose).collect();
            let new = own.iter().filter(|start| start.group.is_none()).count();
            let last = own.iter().filter_map(|start| start.group).max();
            let in_last = own.iter().filter(|start| last.is_some() && start.group == last);
            let (size, is_of_now) = in_last.fold((0, false), |(size, _), start| (size + 1, start.at == now));
            let joining = match last {
                Some(_) if is_of_now => new,
                Some(_) => new.min(most.saturating_sub(size)),
                None => 0,
            };
            if joining > 0 {
                own.iter_mut().filter(|start| start.group == last).for_each(|start| start.at = now);
            }
            let new = own.into_iter().filter(|start| start.group.is_none());
            for (nth, start) in new.enumerate() {
                start.group = if nth < joining { last } else { Some(last.map_or(0, |last| last + 1)) };
            }
        }
    }

    /// What a lane is set aside for, if nothing of it may start whatever room the queue has.
    fn set_aside(&self, key: &LaneKey) -> Option<Place> {
        if self.is_paused(key) {
            return Some(Place::Closed);
        }
        let room = self.room(&Whose::Lane(key.clone()));
        if room.free == 0 {
            return Some(room.opens_at.map_or(Place::Closed, Place::HeldUntil));
        }
        let class = class_of(key)?;
        (self.room(&Whose::Class(class)).free == 0).then_some(Place::WithItsClass)
    }

    /// Set-aside lanes that need no longer be take their turn again.
    pub(super) fn bring_lanes_back(&mut self) {
        let aside = |lane: &&LaneModel| lane.place != Place::InRing;
        let mut old: Vec<(u64, LaneKey)> = self.lanes.lanes.iter().filter(aside).map(turn_of).collect();
        old.retain(|(turn, _)| *turn <= self.lanes.reopen_to);
        old.sort();
        if old.len() <= BACK {
            self.lanes.reopen_to = 0;
        }
        old.iter().take(BACK).for_each(|(_, key)| self.rejoin(key));
        let mut held: Vec<(Timestamp, u64, LaneKey)> = Vec::new();
        for lane in &self.lanes.lanes {
            if let Place::HeldUntil(until) = lane.place
                && until <= self.now
            {
                held.push((until, lane.turn, lane.key.clone()));
            }
        }
        held.sort();
        held.iter().take(BACK).for_each(|(_, _, key)| self.rejoin(key));
        let mut classes: Vec<LaneClass> = Vec::new();
        for lane in self.lanes.lanes.iter().filter(|lane| lane.place == Place::WithItsClass) {
            classes.extend(class_of(&lane.key));
        }
        classes.sort();
        classes.dedup();
        for class in classes {
            let room = usize::try_from(self.room(&Whose::Class(class.clone())).free).unwrap_or(usize::MAX);
            let parked = self.lanes.lanes.iter().filter(|lane| lane.place == Place::WithItsClass);
            let parked = parked.filter(|lane| class_of(&lane.key).as_ref() == Some(&class));
            let mut parked: Vec<(u64, LaneKey)> = parked.map(turn_of).collect();
            parked.sort();
            parked.iter().take(room.min(BACK)).for_each(|(_, key)| self.rejoin(key));
        }
    }

    /// A job of this lane has left Active.
    pub(super) fn release(&mut self, key: &LaneKey) {
        let closed = self.lanes.lanes.iter().any(|lane| lane.key == *key && lane.place == Place::Closed);
        if closed {
            self.rejoin(key);
        }
    }

    /// The queue's rules for lanes changed.
    pub(super) fn lane_rules_changed(&mut self) {
        self.lanes.reopen_to = self.lanes.turns;
    }

    /// The clock stepped back.
    pub(super) fn starts_not_later_than(&mut self, before: Timestamp, now: Timestamp) {
        let until = &self.lanes.until;
        let is_over = |whose: &Whose| until.iter().any(|(of, until)| of == whose && *until <= before);
        self.lanes.starts.retain(|start| !is_over(&start.of));
        for (whose, until) in &mut self.lanes.until {
            let own = || self.lanes.starts.iter().filter(|start| start.of == *whose);
            let group = own().filter_map(|start| start.group).max();
            if let Some(last) = own().map(|start| start.at).max().filter(|last| *last > now) {
                let own = self.lanes.starts.iter_mut().filter(|start| start.of == *whose);
                own.filter(|start| start.at > now).for_each(|start| (start.at, start.group) = (now, group));
                *until = now.after(until.since(last).max(WINDOW_MAX)).min(*until);
            }
        }
    }

    /// One lane's policy.
    pub(super) fn set_lane_policy(&mut self, key: &LaneKey, policy: Option<LanePolicy>) {
        let before = self.lanes.policies.iter().find(|(lane, _)| lane == key).map(|(_, policy)| policy.clone());
        self.lanes.policies.retain(|(lane, _)| lane != key);
        self.lanes.policies.extend(policy.clone().map(|policy| (key.clone(), policy)));
        self.lanes.policies.sort_by(|a, b| a.0.cmp(&b.0));
        let is_aside = self.lane(key).is_some_and(|lane| lane.place != Place::InRing);
        if before != policy && is_aside {
            self.rejoin(key);
        }
    }

    /// Serves lanes in their turn: `look_at` is given the next job, and says whether the claim goes on.
    pub(super) fn serve(
        &mut self,
        max_items: usize,
        mut look_at: impl FnMut(&mut Self, JobId, Option<Gate>) -> Served,
    ) {
        let mut looked_at = 0;
        'visits: for _ in 0..max_items + SET_ASIDE {
            if looked_at == max_items || self.room(&Whose::Queue).free == 0 {
                return;
            }
            let ring = self.lanes.lanes.iter().filter(|lane| lane.place == Place::InRing);
            let Some((_, key)) = ring.map(turn_of).min() else { return };
            if let Some(place) = self.set_aside(&key) {
                self.lane(&key).into_iter().for_each(|lane| lane.place = place.clone());
                continue;
            }
            let weight = self.policies_of(&key).iter().find_map(|policy| policy.weight).unwrap_or(1);
            let full = self.config.lanes.quantum.saturating_mul(weight).max(1);
            let alone = self.lanes.lanes.len() == 1;
            let Some(lane) = self.lane(&key) else { return };
            let turn_jobs = *lane.turn_jobs.get_or_insert(full);
            let credit = if alone { u32::MAX } else { turn_jobs.saturating_sub(lane.served) };
            let mut served = 0;
            while served < credit && looked_at < max_items && self.may_start(&key) {
                let Some(id) = self.first_of(&key) else { break };
                let gate = self.gate_of(&key);
                if let Some(gate) = gate
                    && let Some(since) = self.waits_since(&key, gate)
                    && let Some(lane) = self.lane(&key)
                {
                    lane.place = Place::HeldUntil(since.after(gate.1));
                    lane.at_gate = Some((gate.0, since));
                    self.group_starts(&key);
                    self.see_lanes();
                    continue 'visits;
                }
                let went_on = look_at(self, id, gate);
                served += u32::from(went_on != Served::NoRoom);
                looked_at += 1;
                if went_on != Served::GoOn {
                    self.end_visit(&key, served);
                    return;
                }
            }
            self.end_visit(&key, served);
        }
    }

    fn end_visit(&mut self, key: &LaneKey, served: u32) {
        self.group_starts(key);
        self.see_lanes();
        let alone = self.lanes.lanes.len() == 1;
        let Some(lane) = self.lane(key) else { return };
        lane.served = lane.served.saturating_add(served);
        if alone {
            (lane.served, lane.turn_jobs) = (0, None);
        } else if lane.turn_jobs.is_some_and(|turn_jobs| lane.served >= turn_jobs) {
            self.rejoin(key);
        }
    }

    /// The first job of a lane's line.
    fn first_of(&self, key: &LaneKey) -> Option<JobId> {
        let line = self.jobs.iter().filter(|job| job.state == JobState::Waiting && job.slot == Slot::Lane);
        let first = line.filter(|job| job.spec.lane == *key).min_by_key(|job| (job.priority, job.seq));
        first.map(|job| job.spec.id)
    }

    /// Whether asking again at once may find a lane to serve; and when one can be served at the latest.
    pub(super) fn look_at_lanes_again(&self) -> (bool, Option<Timestamp>) {
        let ring = self.lanes.lanes.iter().any(|lane| lane.place == Place::InRing);
        let queue = self.room(&Whose::Queue);
        let mut instants: Vec<Timestamp> = Vec::new();
        let mut parked_may = false;
        for lane in &self.lanes.lanes {
            match (&lane.place, class_of(&lane.key)) {
                (Place::HeldUntil(until), _) => instants.push(*until),
                (Place::WithItsClass, Some(class)) => {
                    let room = self.room(&Whose::Class(class));
                    instants.extend(room.opens_at);
                    parked_may |= room.free > 0;
                }
                _ => {}
            }
        }
        let to_serve = ring || parked_may || self.lanes.reopen_to > 0;
        instants.extend(queue.opens_at.filter(|_| to_serve));
        (to_serve && queue.free > 0, instants.into_iter().min())
    }
}

/// What comes before the first slash of a lane's name.
pub(super) fn class_of(key: &LaneKey) -> Option<LaneClass> {
    let name = key.name()?;
    let at = name.find('/').filter(|at| *at > 0)?;
    LaneClass::new(&name[..at]).ok()
}

fn turn_of(lane: &LaneModel) -> (u64, LaneKey) {
    (lane.turn, lane.key.clone())
}
