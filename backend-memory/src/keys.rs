//! The dedup keys of a queue and who holds them. A hold can outlive its job's record (only
//! [`DedupMode::For`] does that), so keys are a table of their own and not a field of the records.

use std::collections::HashMap;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{DedupKey, JobId, JobSpec};
use ferroq_core::policy::dedup::{Exit, Holder};
use ferroq_core::storage::DedupEntry;

/// Below this many keys nobody looks for holds that ran out.
const PURGE_KEYS_MIN: usize = 1024;

/// Every held key of a queue.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    holders: HashMap<DedupKey, Holder>,
    /// How many keys there may be before the next look for holds that ran out: twice as many as the last look left, so
    /// that looking costs each new key a constant.
    purge_beyond: usize,
}

impl Keys {
    /// Who holds the job's key at `now`.
    pub(crate) fn holder(&self, spec: &JobSpec, now: Timestamp) -> Option<Holder> {
        let dedup = spec.dedup.as_ref()?;
        self.holders.get(&dedup.key).copied().filter(|holder| holder.holds(now))
    }

    /// Who is written down as the holder of the job's key, whether the hold is over or not.
    pub(crate) fn written_holder(&self, spec: &JobSpec) -> Option<JobId> {
        self.holders.get(&spec.dedup.as_ref()?.key).map(|holder| holder.id)
    }

    /// Gives a new job its key.
    pub(crate) fn take(&mut self, spec: &JobSpec, now: Timestamp) {
        let Some(dedup) = &spec.dedup else { return };
        if self.holders.len() >= self.purge_beyond.max(PURGE_KEYS_MIN) {
            self.holders.retain(|_, holder| holder.holds(now));
            self.purge_beyond = self.holders.len() * 2;
        }
        self.holders.insert(dedup.key.clone(), Holder::take(spec.id, dedup.mode, now));
    }

    /// Gives a job that an operator put back its key again, if its mode has it so.
    pub(crate) fn take_again(&mut self, spec: &JobSpec, now: Timestamp) {
        if spec.dedup.as_ref().is_some_and(|dedup| dedup.mode.is_taken_again()) {
            self.take(spec, now);
        }
    }

    /// Writes down the job that comes after the holder of its key.
    pub(crate) fn follow(&mut self, spec: &JobSpec) {
        if let Some(holder) = spec.dedup.as_ref().and_then(|dedup| self.holders.get_mut(&dedup.key)) {
            holder.pending = Some(spec.id);
        }
    }

    /// Frees the job's key if it still holds it, or is the one that comes next, and this way out frees it. Answers the
    /// job that holds it from then on, if one was pending.
    pub(crate) fn free(&mut self, spec: &JobSpec, exit: Exit) -> Option<JobId> {
        let dedup = spec.dedup.as_ref().filter(|dedup| dedup.mode.frees(exit))?;
        let holder = self.holders.get_mut(&dedup.key)?;
        let was_holder = holder.id == spec.id;
        match holder.without(spec.id) {
            Some(left) => *holder = left,
            None => drop(self.holders.remove(&dedup.key)),
        }
        let left = self.holders.get(&dedup.key).filter(|_| was_holder);
        left.map(|left| left.id)
    }

    /// Every key, in the order of keys.
    pub(crate) fn entries(&self) -> Vec<DedupEntry> {
        let mut entries: Vec<_> =
            self.holders.iter().map(|(key, holder)| DedupEntry { key: key.clone(), holder: *holder }).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries
    }

    /// Writes the keys of a dump that have no entry.
    pub(crate) fn restore(&mut self, entries: Vec<DedupEntry>) {
        for DedupEntry { key, holder } in entries {
            self.holders.entry(key).or_insert(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferroq_core::job::{JobKind, Payload, QueueName};
    use ferroq_core::policy::dedup::{Dedup, DedupMode};

    use super::*;

    #[test]
    fn holds_that_ran_out_do_not_pile_up() {
        let (Ok(queue), Ok(kind)) = (QueueName::new("q"), JobKind::new("k")) else { panic!("good names") };
        let mut keys = Keys::default();
        for second in 0..100_000 {
            let now = Timestamp::from_micros(second * 1_000_000);
            let mut spec = JobSpec::new(queue.clone(), kind.clone(), Payload::json("1"));
            let key = DedupKey::new(format!("key {second}")).unwrap_or_else(|error| panic!("{error}"));
            spec.dedup = Some(Dedup { key, mode: DedupMode::For(Duration::from_secs(10)) });
            keys.take(&spec, now);
            assert!(keys.holder(&spec, now).is_some());
            assert!(keys.entries_len() <= PURGE_KEYS_MIN);
        }
    }

    impl Keys {
        fn entries_len(&self) -> usize {
            self.holders.len()
        }
    }
}
