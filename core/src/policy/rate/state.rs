//! What a limiter remembers: groups of past starts, each as the time of its last start and how many there were. A
//! sliding window counts a group until its last start is old enough, so that it may count a start too long and never too
//! short; a window of the calendar counts the groups since its beginning. Both read the same groups, so a rate that
//! changes applies at once to what was remembered under the old one.

use serde::{Deserialize, Serialize};

use super::Bound;
use crate::clock::{Timestamp, advance};

/// So many groups are kept at most. An unchanged rate needs 101; only rates that change again and again come here, and
/// then the two oldest groups become one, which counts as of the later.
const GROUPS_MAX: usize = 128;

/// The bytes of a group in the binary form: time and count, big-endian.
const GROUP_BYTES: usize = 12;

/// What a limiter remembers of past starts. It is at most about 1.5 kB, however many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RateState {
    /// The last start's time and the number of starts, in the order of time.
    groups: Vec<(Timestamp, u32)>,
}

/// Bytes that are not a limiter's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are no state of a limiter, which is groups of {GROUP_BYTES} bytes each")]
pub struct StateError(usize);

impl StateError {
    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        StateError(bytes.len())
    }
}

impl RateState {
    /// A limiter's own time for a call: a limiter without a queue takes its last start for the time last stored, and
    /// reads the clock by the rule of [`advance`]. A clock that stepped back [anchors](Self::anchor) the state, which is
    /// what the answer's second part says.
    pub fn time(&mut self, clock: Timestamp) -> (Timestamp, bool) {
        let (now, _) = advance(self.last(), clock);
        (now, self.anchor(now))
    }

    /// Gives up times later than `now`, which a clock that was wrong left behind: those starts count as of now. Answers
    /// whether there were any; then the state must be stored even if nothing starts, or it would never come to rest.
    pub fn anchor(&mut self, now: Timestamp) -> bool {
        let kept = self.groups.partition_point(|(at, _)| *at <= now);
        let later = self.groups.split_off(kept);
        let count = later.iter().fold(0, |sum: u32, (_, count)| sum.saturating_add(*count));
        if count > 0 {
            self.groups.push((now, count));
        }
        !later.is_empty()
    }

    /// How many may start at `now`, under a bound that covers it.
    pub fn free(&self, bound: &Bound, now: Timestamp) -> u32 {
        bound.limit.saturating_sub(self.used(bound, now))
    }

    /// Takes `n` starts at `now`. Whoever calls this asked before how many are free.
    pub fn take(&mut self, bound: &Bound, now: Timestamp, n: u32) {
        self.anchor(now);
        if n == 0 {
            // Forgetting stores that time went on, and only a start does that; else a clock that lags a little after this
            // would be a time at which what was forgotten still counts.
            return;
        }
        let gone = self.groups.partition_point(|(at, _)| !bound.counts(*at, now));
        self.groups.drain(..gone);
        let room = bound.group_starts_max();
        let mut left = n;
        if let Some((at, count)) = self.groups.last_mut() {
            // Starts of the very same time lose nothing by sharing a group, however many they are.
            let joined = if *at == now { left } else { left.min(room.saturating_sub(*count)) };
            let joined = joined.min(u32::MAX - *count);
            if joined > 0 {
                *at = now;
                *count += joined;
                left -= joined;
            }
        }
        if left > 0 {
            self.groups.push((now, left));
        }
        while self.groups.len() > GROUPS_MAX {
            let (_, count) = self.groups.remove(0);
            self.groups[0].1 = self.groups[0].1.saturating_add(count);
        }
    }

    /// When `n` more may start, if nothing else starts until then: `now` if they may at once, and
    /// [`Timestamp::MAX`] if that is more than the limit.
    pub fn retry_at(&self, bound: &Bound, now: Timestamp, n: u32) -> Timestamp {
        if n > bound.limit {
            return Timestamp::MAX;
        }
        let mut free = i64::from(bound.limit) - i64::from(self.used(bound, now));
        if free >= i64::from(n) {
            return now;
        }
        for (at, count) in &self.groups {
            let at = (*at).min(now);
            if bound.counts(at, now) {
                free += i64::from(*count);
                if free >= i64::from(n) {
                    return bound.forgets(at);
                }
            }
        }
        Timestamp::MAX
    }

    /// When there will be nothing left to remember, if nothing starts until then.
    pub fn idle_at(&self, bound: &Bound) -> Option<Timestamp> {
        self.groups.last().map(|(at, _)| bound.forgets(*at))
    }

    /// Whether there is nothing to remember at `now`, so that the state may be dropped.
    pub fn is_idle(&self, bound: &Bound, now: Timestamp) -> bool {
        self.used(bound, now) == 0
    }

    /// How many starts are remembered, those among them that no longer count.
    pub fn count(&self) -> u32 {
        self.groups.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The time of the last start that is remembered.
    pub fn last(&self) -> Option<Timestamp> {
        self.groups.last().map(|(at, _)| *at)
    }

    pub(super) fn used(&self, bound: &Bound, now: Timestamp) -> u32 {
        let counted = self.groups.iter().filter(|(at, _)| bound.counts((*at).min(now), now));
        counted.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The state as scripts keep it: for each group the time (8 bytes, microseconds) and the count (4 bytes), big-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let groups = self.groups.iter();
        groups.flat_map(|(at, count)| at.as_micros().to_be_bytes().into_iter().chain(count.to_be_bytes())).collect()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`StateError`] for a length that no state has.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let (groups, rest) = bytes.as_chunks::<GROUP_BYTES>();
        if !rest.is_empty() {
            return Err(StateError(bytes.len()));
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        let group = |bytes: &[u8; GROUP_BYTES]| {
            let (at, count) = bytes.split_at(8);
            (Timestamp::from_micros(number(at).cast_signed()), number(count) as u32)
        };
        let mut state = RateState { groups: groups.iter().map(group).collect() };
        // Everything above relies on the order.
        state.groups.sort_by_key(|(at, _)| *at);
        Ok(state)
    }

    /// How many groups there are.
    #[cfg(test)]
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }
}
