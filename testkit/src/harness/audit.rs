//! Whether a store agrees with itself. The suite runs this after each case and the property tests after each step: a
//! record in an index that its state does not name, a count that is off by one or a key whose holder is gone are bugs
//! even if no answer has shown them yet.

use std::collections::{BTreeMap, HashMap, HashSet};

use ferroq_core::job::{JobRecord, JobState, QueueName, Slot};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{JobFilter, ListRequest, Storage};

use super::scene::{QueueDump, dump_queue};

/// Checks everything about a queue that must hold whenever no call is under way, and answers what the store holds.
///
/// # Panics
/// If something does not hold; the message says what.
pub async fn audit(storage: &dyn Storage, queue: &QueueName) -> QueueDump {
    let dump = dump_queue(storage, queue, 1000).await;
    ids_and_seqs_are_unique(&dump);
    for record in &dump.jobs {
        record_is_whole(record, queue);
    }
    walk_is_ordered(&dump.jobs);
    keys_are_held(storage, queue, &dump).await;
    counts_equal_rows(storage, queue, &dump).await;
    every_index_agrees(storage, queue, &dump).await;
    if !dump.jobs.is_empty() {
        let queues = storage.queues().await.expect("queues");
        assert!(queues.contains(queue), "{queue:?} has jobs and is not among {queues:?}");
        assert!(queues.is_sorted(), "the queues are not in the order of names: {queues:?}");
    }
    dump
}

fn ids_and_seqs_are_unique(dump: &QueueDump) {
    let mut ids = HashSet::new();
    let mut seqs = HashSet::new();
    for record in &dump.jobs {
        assert!(ids.insert(record.id()), "{} is listed twice", record.id());
        assert!(seqs.insert(record.seq), "seq {} is given twice", record.seq);
        assert_eq!(record.seq < 0, record.spec.lifo, "the seq of {} has the wrong sign", record.id());
    }
}

fn record_is_whole(record: &JobRecord, queue: &QueueName) {
    let (id, state) = (record.id(), record.state);
    assert_eq!(&record.spec.queue, queue, "{id} is listed in a queue that is not its own");
    let active = state == JobState::Active;
    assert_eq!(record.lease_until.is_some(), active, "{id} is {state} with lease end {:?}", record.lease_until);
    assert_eq!(record.lease_term.is_some(), active, "{id} is {state} with lease term {:?}", record.lease_term);
    if active {
        assert!(record.worker.is_some() && record.started_at.is_some(), "{id} is active for nobody");
    }
    let ended = state.is_terminal();
    assert_eq!(record.finished_at.is_some(), ended, "{id} is {state}, finished at {:?}", record.finished_at);
    assert_eq!(record.prune_at.is_some(), ended, "{id} is {state}, to go at {:?}", record.prune_at);
    let failed = state == JobState::Failed;
    assert_eq!(record.failure.is_some(), failed, "{id} is {state} because of {:?}", record.failure);
    if record.notes.result.is_some() {
        assert_eq!(state, JobState::Completed, "{id} has a result");
    }
    if state != JobState::Waiting {
        assert_eq!(record.slot, Slot::Lane, "{id} is {state} and still in a line");
    } else if record.slot != Slot::Shelf {
        let last_crash = record.crashes.saturating_add(1) >= record.spec.options.max_crashes;
        assert_eq!(record.slot == Slot::Solo, last_crash, "{id} stands in the wrong line ({:?})", record.slot);
    }
    assert_eq!(record.runs > 0, record.started_at.is_some(), "{id} has {} runs", record.runs);
    assert!(record.epoch > 0 || record.runs == 0, "{id} was claimed without an epoch");
    assert!(record.attempts + record.crashes <= record.runs, "{id} failed more often than it ran");
    if !ended {
        assert!(record.attempts < record.spec.options.max_attempts, "{id} is {state} beyond its attempts");
        assert!(record.crashes < record.spec.options.max_crashes, "{id} is {state} beyond its crashes");
    }
}

/// The rank that a list orders a state's records by, before their seq.
pub(crate) fn rank(record: &JobRecord) -> i64 {
    match record.state {
        JobState::Waiting => i64::from(record.priority.0),
        JobState::Delayed => record.due_at.as_micros(),
        JobState::Blocked => record.batch.map_or(0, |batch| batch.0),
        JobState::Active => record.lease_until.map_or(0, |at| at.as_micros()),
        JobState::Completed | JobState::Failed | JobState::Cancelled => record.prune_at.map_or(0, |at| at.as_micros()),
    }
}

/// Lanes and shelves come in no stated order, so each is followed on its own; between them only the slots are ordered.
fn walk_is_ordered(jobs: &[JobRecord]) {
    assert!(jobs.is_sorted_by_key(|r| (r.state, r.slot)), "states or lines are walked out of order");
    let mut last: HashMap<(JobState, Slot, String), (i64, i64)> = HashMap::new();
    for record in jobs {
        let line = match record.slot {
            Slot::Lane if record.state == JobState::Waiting => record.spec.lane.name().unwrap_or_default().to_owned(),
            Slot::Shelf => record.spec.kind.to_string(),
            Slot::Lane | Slot::Solo => String::new(),
        };
        let place = (rank(record), record.seq);
        if let Some(before) = last.insert((record.state, record.slot, line), place) {
            assert!(before < place, "{} ({}) is walked at {place:?}, after {before:?}", record.id(), record.state);
        }
    }
}

async fn keys_are_held(storage: &dyn Storage, queue: &QueueName, dump: &QueueDump) {
    let now = storage.now(queue).await.expect("now");
    let records: HashMap<_, _> = dump.jobs.iter().map(|record| (record.id(), record)).collect();
    let holders: HashMap<_, _> = dump.dedup.iter().map(|entry| (&entry.key, entry.holder)).collect();
    assert_eq!(holders.len(), dump.dedup.len(), "a dedup key is listed twice");
    assert!(dump.dedup.is_sorted_by(|a, b| a.key < b.key), "dedup keys are not in their order");
    for entry in &dump.dedup {
        let pending = entry.holder.pending.map(|id| records.get(&id).map(|record| record.state));
        assert!(matches!(pending, None | Some(Some(JobState::Blocked))), "{:?} has {pending:?} pending", entry.key);
        let Some(record) = records.get(&entry.holder.id) else {
            assert!(entry.holder.until.is_some(), "{:?} is held by {}, which is gone", entry.key, entry.holder.id);
            continue;
        };
        let dedup = record.spec.dedup.as_ref();
        assert_eq!(dedup.map(|d| &d.key), Some(&entry.key), "{} holds a key that it does not name", record.id());
        match dedup.map(|d| d.mode) {
            Some(DedupMode::For(_)) => assert!(entry.holder.until.is_some(), "a hold for a time has no end"),
            Some(DedupMode::Debounce(_) | DedupMode::Coalesce { .. }) => {
                assert!(record.runs == 0 && !record.state.is_terminal(), "{} holds its key too long", record.id());
            }
            Some(DedupMode::UntilFinished | DedupMode::KeepLatest) => {
                assert!(!record.state.is_terminal(), "{} is {} and holds its key", record.id(), record.state);
            }
            _ => {}
        }
    }
    for record in &dump.jobs {
        let Some(dedup) = &record.spec.dedup else { continue };
        let is_pending =
            dedup.mode == DedupMode::KeepLatest && record.state == JobState::Blocked && record.batch.is_none();
        let pending = holders.get(&dedup.key).and_then(|holder| holder.pending);
        assert_eq!(pending == Some(record.id()), is_pending, "{} ({}), pending {pending:?}", record.id(), record.state);
        let must_hold = match dedup.mode {
            DedupMode::UntilFinished => !record.state.is_terminal(),
            DedupMode::KeepLatest => !record.state.is_terminal() && !is_pending,
            DedupMode::WhileKept => true,
            // Others may have taken the key once the time was over.
            _ => continue,
        };
        if must_hold {
            let holder = holders.get(&dedup.key);
            assert!(
                holder.is_some_and(|h| h.id == record.id() && h.holds(now)),
                "{} ({}) does not hold its key {:?}: {holder:?}",
                record.id(),
                record.state,
                dedup.key
            );
        }
    }
}

async fn counts_equal_rows(storage: &dyn Storage, queue: &QueueName, dump: &QueueDump) {
    let counts = storage.counts(queue).await.expect("counts");
    for state in JobState::ALL {
        let rows = dump.jobs.iter().filter(|r| r.state == state).count() as u64;
        assert_eq!(counts.of(state), rows, "the count of {state} jobs differs from the records");
    }
    let mut shelved = BTreeMap::new();
    for record in dump.jobs.iter().filter(|r| r.slot == Slot::Shelf) {
        *shelved.entry(record.spec.kind.clone()).or_insert(0u64) += 1;
    }
    let told: BTreeMap<_, _> = counts.shelved.iter().cloned().collect();
    assert_eq!(told.len(), counts.shelved.len(), "a kind is counted twice");
    assert_eq!(told, shelved, "the counts of shelved jobs differ from the records");
    assert_eq!(counts.paused, dump.config.paused, "counts and settings disagree on the pause");
}

/// The walk in small pages, each state's own walk and the look-up by id must tell the same as the dump.
async fn every_index_agrees(storage: &dyn Storage, queue: &QueueName, dump: &QueueDump) {
    // Small pages over a large queue cost much and show nothing new.
    let page = if dump.jobs.len() > 500 { 333 } else { 7 };
    let mut filters = vec![JobFilter::default()];
    filters.extend(JobState::ALL.map(|state| JobFilter::states([state])));
    for filter in filters {
        let mut listed = Vec::new();
        let mut after = None;
        for round in 0.. {
            assert!(round <= dump.jobs.len() + 8, "the list of {queue:?} by {filter:?} does not end");
            let request = ListRequest { queue: queue.clone(), filter: filter.clone(), after, max_items: page };
            let part = storage.list(request).await.expect("list");
            assert!(part.jobs.len() <= page, "a page holds more than it was asked for");
            listed.extend(part.jobs);
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = dump.jobs.iter().filter(|r| filter.allows(r.state)).collect();
        let same = listed.len() == expected.len() && listed.iter().zip(&expected).all(|(a, b)| a == *b);
        assert!(same, "the list by {:?} differs from the dump:\n{listed:#?}\n{expected:#?}", filter.states);
    }
    for record in dump.jobs.iter().take(200) {
        let found = storage.job(Some(queue), record.id()).await.expect("job");
        assert_eq!(found.as_ref(), Some(record), "the record by id differs from the dump");
    }
    if let Some(record) = dump.jobs.first() {
        let found = storage.job(None, record.id()).await.expect("job");
        assert_eq!(found.as_ref(), Some(record), "the record searched for in every queue differs from the dump");
    }
}
