//! Calls that may enqueue on other queues: follow-ups, dead letters, redrives. They hold several locks, all at once and
//! in the order of names, which keeps two such calls from waiting for each other, and nothing of a call is visible in
//! between. Which queues those are may depend on what the queue itself holds; then it is looked at first, and again
//! once all are locked.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobSpec, QueueName};
use ferroq_core::storage::{EnqueueAnswer, StorageError};

use crate::MemoryStorage;
use crate::queue::QueueState;
use crate::storage::lock;
use crate::turn::{Hints, Turn};

/// A queue and the others that a call may enqueue on, all locked.
pub(crate) struct Across<'q> {
    pub(crate) home: &'q mut QueueState,
    others: BTreeMap<&'q QueueName, &'q mut QueueState>,
    home_hints: Hints,
    hints: Vec<(QueueName, Hints)>,
}

/// The turns of one call: its own queue's, and one on each queue that a job was put on.
pub(crate) struct Turns<'t, 'q> {
    pub(crate) home: Turn<'t>,
    /// Locked, and untouched so far: a queue takes part only once a job comes to it.
    idle: BTreeMap<&'q QueueName, &'q mut QueueState>,
    foreign: BTreeMap<&'q QueueName, Turn<'q>>,
    clock: Timestamp,
}

impl MemoryStorage {
    /// Works on a queue and on the `others` that its state calls for, given the clock's reading, and hints after.
    pub(crate) fn write_across<T>(
        &self,
        name: &QueueName,
        others: impl Fn(&QueueState, Timestamp) -> Vec<QueueName>,
        work: impl FnOnce(&mut Across<'_>, Timestamp) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.check_open()?;
        let mut names: Vec<QueueName> = Vec::new();
        loop {
            let queues: Vec<_> = names.iter().map(|name| self.state_of(name)).collect();
            let home = self.state_of(name);
            let behind = names.partition_point(|other| other < name);
            let mut locked: Vec<_> = queues[..behind].iter().map(|queue| lock(queue)).collect();
            let mut home = lock(&home);
            locked.extend(queues[behind..].iter().map(|queue| lock(queue)));
            let clock = self.store.clock.now();
            let mut wanted = others(&home, clock);
            wanted.retain(|other| other != name && names.binary_search(other).is_err());
            if !wanted.is_empty() {
                names.extend(wanted);
                names.sort();
                names.dedup();
                continue;
            }
            let others = names.iter().zip(locked.iter_mut().map(|state| &mut **state)).collect();
            let mut across = Across { home: &mut home, others, home_hints: Hints::default(), hints: Vec::new() };
            let answer = work(&mut across, clock)?;
            let (home_hints, hints) = (across.home_hints, across.hints);
            drop((home, locked));
            for (name, hints) in hints {
                self.hint(&name, hints);
            }
            self.hint(name, home_hints);
            return Ok(answer);
        }
    }
}

impl<'q> Across<'q> {
    /// Takes a turn on the queue, and on those others that it puts jobs on.
    pub(crate) fn turn<T>(&mut self, clock: Timestamp, work: impl FnOnce(&mut Turns<'_, 'q>) -> T) -> T {
        let idle = std::mem::take(&mut self.others);
        let mut turns = Turns { home: Turn::begin(self.home, clock), idle, foreign: BTreeMap::new(), clock };
        let answer = work(&mut turns);
        turns.post();
        self.hints.extend(turns.foreign.into_iter().map(|(name, turn)| (name.clone(), turn.finish())));
        self.home_hints = turns.home.finish();
        answer
    }
}

impl Turns<'_, '_> {
    /// Enqueues what the turn on the queue itself has for others.
    pub(crate) fn post(&mut self) {
        for spec in std::mem::take(&mut self.home.letters) {
            self.enqueue(spec);
        }
    }

    /// Enqueues a job on the queue that it names.
    pub(crate) fn enqueue(&mut self, spec: Arc<JobSpec>) -> EnqueueAnswer {
        if let Some((name, queue)) = self.idle.remove_entry(&spec.queue) {
            self.foreign.insert(name, Turn::begin(queue, self.clock));
        }
        // What is neither idle nor foreign is the queue itself: every other queue was locked beforehand.
        match self.foreign.get_mut(&spec.queue) {
            Some(turn) => turn.enqueue(spec),
            None => self.home.enqueue(spec),
        }
    }
}
