//! Mutants whose indexes, keys, counts or logs do not say what their records say.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ferroq_core::Timestamp;
use ferroq_core::job::{DedupKey, JobId, JobRecord, JobSpec, JobState, QueueName, Start};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{
    DumpPage, EnqueueAnswer, EnqueueRequest, EventPage, ExchangeAnswer, ExchangeRequest, JobWatch, Outcome,
    QueueCounts, SettleAnswer, Storage,
};

use super::wrap::{Answer, Twist};

/// Puts the second of two jobs that come together in no line: it shows as Waiting, and nobody ever gets it.
#[derive(Default)]
pub(super) struct OutOfLine {
    lost: Mutex<HashSet<(QueueName, JobId)>>,
}

#[async_trait]
impl Twist for OutOfLine {
    async fn enqueue(&self, to: &dyn Storage, mut request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        if let [_, second, ..] = request.jobs.as_mut_slice()
            && second.start == Start::Now
            && to.job(Some(&request.queue), second.id).await?.is_none()
        {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert((request.queue.clone(), second.id));
            *second = Arc::new(JobSpec { start: Start::At(Timestamp::MAX), ..JobSpec::clone(second) });
        }
        to.enqueue(request).await
    }

    fn shown(&self, mut record: JobRecord) -> JobRecord {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if record.state == JobState::Delayed && lost.contains(&(record.spec.queue.clone(), record.id())) {
            record.state = JobState::Waiting;
            record.due_at = record.created_at;
            record.spec = Arc::new(JobSpec { start: Start::Now, ..JobSpec::clone(&record.spec) });
        }
        record
    }
}

/// Never lets go of a key that was held until its job finished.
#[derive(Default)]
pub(super) struct KeysKept {
    held: Mutex<HashMap<(QueueName, DedupKey), JobId>>,
}

#[async_trait]
impl Twist for KeysKept {
    async fn enqueue(&self, to: &dyn Storage, mut request: EnqueueRequest) -> Answer<Vec<EnqueueAnswer>> {
        let key = |spec: &JobSpec| {
            let dedup = spec.dedup.as_ref().filter(|dedup| dedup.mode == DedupMode::UntilFinished)?;
            Some((spec.queue.clone(), dedup.key.clone()))
        };
        let jobs = request.jobs.clone();
        let refused: Vec<Option<JobId>> = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let holder = |spec: &Arc<JobSpec>| held.get(&key(spec)?).copied().filter(|holder| *holder != spec.id);
            jobs.iter().map(holder).collect()
        };
        let mut is_refused = refused.iter().map(Option::is_some);
        request.jobs.retain(|_| !is_refused.next().unwrap_or_default());
        let mut passed_on = to.enqueue(request).await?.into_iter();
        let answer = |holder: Option<JobId>| holder.map(EnqueueAnswer::Duplicate).or_else(|| passed_on.next());
        let answers: Vec<EnqueueAnswer> = refused.into_iter().filter_map(answer).collect();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (spec, answer) in jobs.iter().zip(&answers) {
            if let (Some(key), EnqueueAnswer::Inserted) = (key(spec), answer) {
                held.insert(key, spec.id);
            }
        }
        Ok(answers)
    }
}

/// Counts a job as Delayed once more each time that a run of it failed.
#[derive(Default)]
pub(super) struct Drifting {
    drift: AtomicU64,
}

#[async_trait]
impl Twist for Drifting {
    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        let outcomes = request.settlements.iter().map(|settlement| &settlement.outcome);
        let failed: Vec<bool> = outcomes.map(|outcome| matches!(outcome, Outcome::Retry { .. })).collect();
        let answer = to.exchange(request).await?;
        let settled = answer.settled.iter().map(|answer| matches!(answer, SettleAnswer::Settled { .. }));
        let drift = settled.zip(failed).filter(|(settled, failed)| *settled && *failed).count();
        self.drift.fetch_add(drift as u64, Ordering::Relaxed);
        Ok(answer)
    }

    fn counted(&self, _queue: &QueueName, mut counts: QueueCounts) -> QueueCounts {
        counts.delayed += self.drift.load(Ordering::Relaxed);
        counts
    }
}

/// Forgets the last event of each entry that has several.
#[derive(Default)]
pub(super) struct EventsLost;

impl Twist for EventsLost {
    fn told(&self, mut page: EventPage) -> EventPage {
        let events = std::mem::take(&mut page.events);
        let shares =
            |one: Option<usize>, other: usize| one.is_some_and(|one| events[one].cursor == events[other].cursor);
        let is_last = |place: usize| place + 1 == events.len() || !shares(Some(place + 1), place);
        let keeps = |place: &usize| !(is_last(*place) && shares(place.checked_sub(1), *place));
        page.events = (0..events.len()).filter(keeps).map(|place| events[place]).collect();
        page
    }
}

/// Hands out watches and marks nothing.
#[derive(Default)]
pub(super) struct Unwatched;

#[async_trait]
impl Twist for Unwatched {
    async fn watch(&self, to: &dyn Storage, queue: &QueueName, id: JobId) -> Answer<JobWatch> {
        // A watch on a queue without that job marks no record, and is hinted all the same.
        let elsewhere = QueueName::new(format!("not-{}", &queue[..queue.len().min(16)])).unwrap_or(queue.clone());
        to.watch(&elsewhere, id).await
    }
}

/// Restores jobs as if they had never been claimed, so that leases of the old store's are given out again.
#[derive(Default)]
pub(super) struct EpochsNotMoved;

impl Twist for EpochsNotMoved {
    fn restored(&self, mut page: DumpPage) -> DumpPage {
        page.jobs.iter_mut().for_each(|record| record.epoch = record.epoch.min(1));
        page
    }
}
