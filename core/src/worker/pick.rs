//! What the loop does next: which queue to exchange with, and whether there is room to claim from it. Settlements go out
//! oldest first; claims go round the queues, so that none waits for another to be empty.

use std::time::Duration;

use tokio::time::Instant;

use super::line::{Line, SoloLine};
use super::turn::{GROUP_ITEMS_MAX, GROUP_WAIT, Turn};

/// How long a worker goes on with ordinary jobs while a job waits that must run alone. An idle worker takes such a job at
/// once; only where none is idle for this long does a busy one stop claiming, to be alone when its runs have ended.
const SOLO_PATIENCE: Duration = Duration::from_secs(10);

/// How the runs of a claim were let through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Shared(usize),
    Solo,
}

impl<S> Turn<S> {
    /// The line to exchange with now, if any.
    pub(super) fn pick(&mut self) -> Option<usize> {
        let now = Instant::now();
        for line in &mut self.lines {
            if line.look_at.is_some_and(|at| now >= at) {
                line.look_at = None;
                line.ready = true;
            }
        }
        let done: usize = self.lines.iter().map(|line| line.done.len()).sum();
        if done == 0 {
            return self.turn_of(now).filter(|_| self.has_room());
        }
        let group = self.figures.concurrency.div_ceil(2).min(GROUP_ITEMS_MAX / 2);
        let all_due = done >= group || self.running == 0;
        let due = |first_done_at: Instant| all_due || now >= first_done_at + GROUP_WAIT;
        (0..self.lines.len())
            .filter(|&place| !self.lines[place].is_down(now))
            .filter_map(|place| self.lines[place].first_done_at.map(|at| (at, place)))
            .filter(|&(at, _)| due(at))
            .min()
            .map(|(_, place)| place)
            // Where what is done can't be settled now, other queues go on.
            .or_else(|| self.turn_of(now).filter(|_| self.has_room() && self.is_stuck(now)))
    }

    /// Whether all that is done and not settled belongs to queues for which the storage fails.
    fn is_stuck(&self, now: Instant) -> bool {
        self.lines.iter().all(|line| line.done.is_empty() || line.is_down(now))
    }

    /// The line whose turn it is to be claimed from: the next that may have work.
    fn turn_of(&self, now: Instant) -> Option<usize> {
        (0..self.lines.len())
            .map(|step| (self.next_line + step) % self.lines.len())
            .find(|&place| self.lines[place].ready && !self.lines[place].is_down(now))
    }

    /// Whether another job may be claimed.
    pub(super) fn has_room(&self) -> bool {
        let patience_ended = || {
            let now = Instant::now();
            let waits = |line: &Line| line.solo_since.filter(|_| line.solo == SoloLine::Waiting);
            self.lines.iter().filter_map(waits).any(|since| now >= since + SOLO_PATIENCE)
        };
        !self.phases.drain.is_cancelled()
            && !self.solo
            && self.running < self.figures.concurrency
            && (self.running == 0 || !patience_ended())
    }

    /// Asks the gate for room; `None` if there is none now.
    pub(super) fn enter(&mut self, place: usize) -> Option<Entry> {
        if self.turn_of(Instant::now()) != Some(place) || !self.has_room() {
            return None;
        }
        self.next_line = (place + 1) % self.lines.len();
        let gate = self.client.gate();
        let shared = || {
            let room = (self.figures.concurrency - self.running).min(GROUP_ITEMS_MAX);
            gate.enter(room).then_some(Entry::Shared(room))
        };
        self.entered = match self.lines[place].solo {
            SoloLine::Waiting if self.running == 0 => {
                if !self.wants_solo {
                    self.wants_solo = true;
                    gate.want_solo();
                }
                gate.enter_solo().then_some(Entry::Solo)
            }
            // What held it back may be over, and then other jobs would take the room. Nobody is kept out for that.
            SoloLine::Held if self.running == 0 && gate.enter_solo_unasked() => Some(Entry::Solo),
            _ => shared(),
        };
        self.entered
    }

    /// Gives back the room that a claim did not use.
    pub(super) fn leave(&mut self, used: usize, solo: bool) {
        let gate = self.client.gate();
        match self.entered.take() {
            None => {}
            Some(Entry::Shared(room)) => gate.leave(room - used.min(room)),
            Some(Entry::Solo) => {
                if self.wants_solo {
                    self.wants_solo = false;
                    gate.unwant_solo();
                }
                if solo {
                    self.solo = true;
                } else {
                    gate.share(used);
                }
            }
        }
    }
}
