//! Limiters: groups of past permits, written out as the contract tells it. Calendars are those of UTC only, where every
//! minute, hour and day is as long as the next.

use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::job::LimiterName;
use ferroq_core::policy::rate::{CalendarUnit, Per, Rate};
use ferroq_core::storage::{AcquireAnswer, AcquireRequest};

use super::Model;

const LAG_S: i64 = 60;
const GROUPS_MAX: usize = 128;

/// A limiter as the contract describes it. Times are in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct LimiterModel {
    groups: Vec<(i64, u64)>,
    gone_at: i64,
}

impl LimiterModel {
    /// The limiter's time, and whether the clock stepped back so far that what came later is counted as of now.
    fn begin(&mut self, clock: i64) -> (i64, bool) {
        if clock >= self.gone_at {
            self.groups.clear();
        }
        let Some(&(last, _)) = self.groups.last() else { return (clock, false) };
        if clock >= last {
            return (clock, false);
        }
        if last - clock < LAG_S * 1_000_000 {
            return (last, false);
        }
        let later: u64 = self.groups.iter().filter(|(at, _)| *at > clock).map(|(_, count)| count).sum();
        self.groups.retain(|(at, _)| *at <= clock);
        self.groups.push((clock, later));
        (clock, true)
    }

    /// When a group no longer counts; in the past if it doesn't already.
    fn ends(rate: &Rate, at: i64, now: i64) -> i64 {
        match rate.per() {
            Per::Sliding(window) => at + window.as_micros() as i64,
            Per::Calendar { unit, zone } => {
                assert_eq!(zone.as_str(), "UTC", "the model knows no other zone");
                let length = match unit {
                    CalendarUnit::Minute => 60,
                    CalendarUnit::Hour => 3600,
                    CalendarUnit::Day => 86_400,
                } * 1_000_000;
                let (window, present) = (at.div_euclid(length), now.div_euclid(length));
                if window == present { (present + 1) * length } else { i64::MIN }
            }
        }
    }

    fn counting(&self, rate: &Rate, now: i64) -> Vec<(i64, u64)> {
        self.groups.iter().copied().filter(|(at, _)| Self::ends(rate, *at, now) > now).collect()
    }

    fn acquire(&mut self, rate: &Rate, clock: i64, permits: u32, take: bool) -> AcquireAnswer {
        let (now, stepped) = self.begin(clock);
        let counting = self.counting(rate, now);
        let used: u64 = counting.iter().map(|(_, count)| count).sum();
        let (limit, wanted) = (u64::from(rate.limit()), u64::from(permits));
        let free = limit.saturating_sub(used);
        let granted = wanted <= free;
        if granted && take {
            self.groups = counting.clone();
            let sliding = matches!(rate.per(), Per::Sliding(_));
            let mut left = wanted;
            if let Some((at, count)) = self.groups.last_mut() {
                let room = limit.div_ceil(100).saturating_sub(*count);
                let joined = if *at == now || !sliding { left } else { room.min(left) };
                if joined > 0 {
                    (*at, *count) = (now, *count + joined);
                }
                left -= joined;
            }
            if left > 0 {
                self.groups.push((now, left));
            }
            while self.groups.len() > GROUPS_MAX {
                let (_, count) = self.groups.remove(0);
                self.groups[0].1 += count;
            }
        }
        if (granted && take) || stepped {
            let last = self.groups.last().map_or(now, |(at, _)| *at);
            self.gone_at = Self::ends(rate, last, now) + LAG_S * 1_000_000;
        }
        let mut sum = limit as i64 - used as i64;
        let enough = counting.iter().find(|(_, count)| {
            sum += *count as i64;
            sum >= wanted as i64
        });
        let wait = enough.map_or(0, |(at, _)| Self::ends(rate, *at, now) - now);
        let taken = if granted && take { wanted } else { 0 };
        AcquireAnswer {
            granted,
            remaining: (free - taken) as u32,
            retry_after: (!granted).then(|| Duration::from_micros(wait as u64)),
        }
    }
}

impl Model {
    /// What a limiter has to answer, with the clock at this reading.
    pub fn acquire(&mut self, clock: Timestamp, request: &AcquireRequest) -> AcquireAnswer {
        let known = |kept: &&(AcquireRequest, AcquireAnswer)| {
            kept.0.call.map(|call| (call.session, call.number)) == request.call.map(|call| (call.session, call.number))
        };
        if let Some((_, answer)) = self.acquired.iter().find(known).filter(|_| request.call.is_some()) {
            return *answer;
        }
        let limiter = self.limiters.entry(request.limiter.clone()).or_default();
        let answer = limiter.acquire(&request.rate, clock.as_micros(), request.permits, true);
        if answer.granted && request.call.is_some() {
            self.acquired.push((request.clone(), answer));
        }
        answer
    }

    /// What a limiter has to answer to a peek.
    pub fn peek(&self, clock: Timestamp, limiter: &LimiterName, rate: &Rate, permits: u32) -> AcquireAnswer {
        let mut limiter = self.limiters.get(limiter).cloned().unwrap_or_default();
        limiter.acquire(rate, clock.as_micros(), permits, false)
    }

    /// The limiters of which nothing counts any more, so that a store may have dropped them.
    pub fn limiters_gone(&self, clock: Timestamp) -> Vec<LimiterName> {
        let gone = self.limiters.iter().filter(|(_, limiter)| clock.as_micros() >= limiter.gone_at);
        gone.map(|(name, _)| name.clone()).collect()
    }

    /// A limiter forgets all.
    pub fn reset(&mut self, limiter: &LimiterName) {
        self.limiters.remove(limiter);
    }
}
