//! Why a job is not running, on the model: everything is counted anew, from the list of jobs.

use ferroq_core::Timestamp;
use ferroq_core::job::{JobId, JobRecord, JobState, LaneKey, QueueName, Slot};
use ferroq_core::policy::explain::{Count, Explanation, PausedBy, Place, Reason};
use ferroq_core::policy::lanes::Limited;
use ferroq_core::policy::rate::{Per, Rate};

use super::diff::debug_differences;
use super::lanes::{Whose, class_of};
use super::queue::line_of;
use super::{Model, QueueModel, Refusal};

/// How many due jobs a claim brings into line.
const PROMOTED: u64 = 1000;

/// What an explanation has to say.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    at: Option<Timestamp>,
    state: Option<JobState>,
    reasons: Vec<Reason>,
    place: Option<Place>,
    expires_at: Option<Timestamp>,
    is_ready: bool,
}

impl Model {
    /// Compares what a backend says of a job, with the clock at this reading.
    ///
    /// # Errors
    /// [`Refusal`] if the contract demands another explanation.
    pub fn check_explanation(
        &self,
        clock: Timestamp,
        queue: &QueueName,
        id: JobId,
        seen: &Explanation,
    ) -> Result<(), Refusal> {
        let expected = self.queue(queue).and_then(|queue| queue.told(clock, id)).unwrap_or_else(|| Told {
            at: None,
            state: None,
            reasons: vec![Reason::Unknown],
            place: None,
            expires_at: None,
            is_ready: false,
        });
        let seen = Told {
            at: seen.at,
            state: seen.state,
            reasons: seen.reasons.clone(),
            place: seen.place.clone(),
            expires_at: seen.expires_at,
            is_ready: seen.is_ready,
        };
        let differences = debug_differences("explanation", &expected, &seen);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Refusal { what: format!("the explanation of {id}"), differences })
    }
}

impl QueueModel {
    fn told(&self, clock: Timestamp, id: JobId) -> Option<Told> {
        // As if a call began now; nothing else of it happens.
        let mut then = self.clone();
        then.begin(clock);
        let job = then.job(id)?;
        let starts_yet = matches!(job.state, JobState::Waiting | JobState::Delayed | JobState::Blocked);
        let reasons = then.reasons(job);
        Some(Told {
            at: Some(then.now),
            state: Some(job.state),
            is_ready: reasons.is_empty() && then.is_ready(job),
            reasons,
            place: (job.state == JobState::Waiting).then(|| then.place_in_line(job)),
            expires_at: job.expires_at.filter(|_| starts_yet),
        })
    }

    fn reasons(&self, job: &JobRecord) -> Vec<Reason> {
        match job.state {
            JobState::Active => {
                return vec![Reason::Active {
                    since: job.started_at.unwrap_or_default(),
                    worker: job.worker.clone(),
                    lease_until: job.lease_until.unwrap_or_default(),
                    cancel_requested: job.cancel_requested,
                }];
            }
            JobState::Completed | JobState::Failed | JobState::Cancelled => {
                let at = job.finished_at.unwrap_or_default();
                return vec![Reason::Ended { state: job.state, at, failure: job.failure }];
            }
            JobState::Waiting | JobState::Delayed | JobState::Blocked => {}
        }
        let mut reasons = Vec::new();
        if let Some(at) = job.expires_at
            && self.now > at
        {
            reasons.push(Reason::Expired { at });
        }
        if job.state == JobState::Blocked {
            let key = job.spec.dedup.as_ref().map(|dedup| dedup.key.clone());
            let entry = self.dedup.iter().find(|entry| Some(&entry.key) == key.as_ref() && entry.holder.id != job.id());
            reasons.push(match (job.batch, entry) {
                (Some(batch), _) => Reason::InBatch { batch, leader: self.leader_of(batch) },
                (None, Some(entry)) => Reason::Pending { key: entry.key.clone(), holder: entry.holder.id },
                (None, None) => Reason::Blocked,
            });
        }
        reasons.extend(self.pauses(&job.spec.lane).into_iter().map(|by| Reason::Paused { by }));
        if job.state == JobState::Waiting && job.slot == Slot::Shelf {
            reasons.push(Reason::Shelved { kind: job.spec.kind.clone() });
        }
        for whose in all_of(&job.spec.lane) {
            let active = self.active(&whose);
            if let Some(most) = self.limits(&whose).concurrency.filter(|most| active >= u64::from(*most)) {
                reasons.push(Reason::AtConcurrency { of: limited(&whose), active, most });
            }
        }
        let mut timed = Vec::new();
        if job.state == JobState::Delayed && job.due_at > self.now {
            timed.push((job.due_at, Reason::Delayed { until: job.due_at }));
        }
        for whose in all_of(&job.spec.lane) {
            let Some(rate) = self.limits(&whose).rate else { continue };
            if let Some(until) = self.next_start(&whose, &rate) {
                timed.push((until, Reason::AtRate { of: limited(&whose), rate, until }));
            }
        }
        if job.state == JobState::Waiting
            && job.slot == Slot::Lane
            && let Some((waiting, size, until)) = self.held_at_gate(&job.spec.lane)
        {
            timed.push((until, Reason::AtGate { waiting, size, until }));
        }
        timed.sort_by_key(|(until, _)| std::cmp::Reverse(*until));
        reasons.extend(timed.into_iter().map(|(_, reason)| reason));
        reasons
    }

    fn pauses(&self, lane: &LaneKey) -> Vec<PausedBy> {
        let rules = &self.config.lanes;
        let class = class_of(lane).filter(|class| rules.classes.get(class).is_some_and(|class| class.each.paused));
        let own = self.lane_policies().into_iter().any(|(key, policy)| key == *lane && policy.paused);
        let queue = self.config.paused.then_some(PausedBy::Queue);
        let every = rules.every.paused.then_some(PausedBy::EveryLane);
        let own = own.then(|| PausedBy::Lane(lane.clone()));
        queue.into_iter().chain(every).chain(class.map(PausedBy::Class)).chain(own).collect()
    }

    /// When the next may start, if a rate lets none start now.
    fn next_start(&self, whose: &Whose, rate: &Rate) -> Option<Timestamp> {
        let mut leaving = self.counted(whose, rate);
        leaving.sort();
        let over = leaving.len().checked_sub(rate.limit() as usize)?;
        // Under a calendar's all leave together.
        debug_assert!(matches!(rate.per(), Per::Sliding(_)) || leaving.first() == leaving.last());
        leaving.get(over).copied()
    }

    fn place_in_line(&self, job: &JobRecord) -> Place {
        let rooms = all_of(&job.spec.lane).into_iter().filter_map(|whose| self.free_under(&whose)).min();
        Place {
            line: job.slot,
            lane: job.spec.lane.clone(),
            ahead: Count::new(self.ahead(job)),
            lanes_before: Count::new(if job.slot == Slot::Lane { self.lanes_before(&job.spec.lane) } else { 0 }),
            room: rooms.map(|room| u32::try_from(room).unwrap_or(u32::MAX)),
        }
    }

    fn free_under(&self, whose: &Whose) -> Option<u64> {
        (!self.limits(whose).is_none()).then(|| self.room(whose).free)
    }

    fn ahead(&self, job: &JobRecord) -> u64 {
        let same_line = |other: &&JobRecord| {
            other.state == JobState::Waiting
                && other.slot == job.slot
                && match job.slot {
                    Slot::Lane => other.spec.lane == job.spec.lane,
                    Slot::Solo => true,
                    Slot::Shelf => other.spec.kind == job.spec.kind,
                }
        };
        let before = |other: &&JobRecord| (other.priority, other.seq) < (job.priority, job.seq);
        self.jobs.iter().filter(same_line).filter(before).count() as u64
    }

    fn is_ready(&self, job: &JobRecord) -> bool {
        let count = |which: &dyn Fn(&JobRecord) -> bool| self.jobs.iter().filter(|other| which(other)).count() as u64;
        let in_slot = |slot: Slot| count(&|other| other.state == JobState::Waiting && other.slot == slot);
        let (shelved, delayed) = (in_slot(Slot::Shelf), count(&|other| other.state == JobState::Delayed));
        let others = in_slot(Slot::Lane) + shelved + delayed;
        let fits = |whose: &Whose, before: u64| self.free_under(whose).is_none_or(|free| free > before);
        let fits_all = |ahead: u64| {
            all_of(&job.spec.lane).iter().all(|whose| match whose {
                Whose::Lane(_) => fits(whose, ahead),
                Whose::Queue | Whose::Class(_) => fits(whose, others - 1),
            })
        };
        let gated = job.slot == Slot::Lane && self.gate_of(&job.spec.lane).is_some();
        if gated && (self.ahead(job) > 0 || shelved > 0 || delayed > 0) {
            return false;
        }
        match (job.state, job.slot) {
            (JobState::Waiting, Slot::Lane) => fits_all(self.ahead(job) + shelved + delayed),
            (JobState::Waiting, Slot::Solo) => self.ahead(job) == 0 && shelved == 0 && delayed == 0,
            (JobState::Delayed, _) => {
                delayed <= PROMOTED && line_of(job.crashes, &job.spec) == Slot::Lane && fits_all(others - 1)
            }
            _ => false,
        }
    }
}

fn all_of(lane: &LaneKey) -> Vec<Whose> {
    let class = class_of(lane).map(Whose::Class);
    [Whose::Queue].into_iter().chain(class).chain([Whose::Lane(lane.clone())]).collect()
}

fn limited(whose: &Whose) -> Limited {
    match whose {
        Whose::Queue => Limited::Queue,
        Whose::Class(class) => Limited::Class(class.clone()),
        Whose::Lane(lane) => Limited::Lane(lane.clone()),
    }
}
