//! The role that moves a queue between stores: records out and in as they are, with seqs, epochs and leases.

use std::collections::HashSet;

use async_trait::async_trait;
use ferroq_core::job::{JobRecord, JobState, LaneKey, QueueName};
use ferroq_core::policy::batch::SetBack;
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::storage::{DumpPage, ListCursor, PolicyEntry, RestoreAnswer, StorageError, Transfer};

use crate::MemoryStorage;
use crate::queue::QueueState;
use crate::storage::invalid;
use crate::turn::{Turn, wait};

#[async_trait]
impl Transfer for MemoryStorage {
    async fn dump(
        &self,
        queue: &QueueName,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<DumpPage, StorageError> {
        if max_items == 0 {
            return Err(invalid("a page of a dump holds one job at least"));
        }
        self.read(queue, |queue| {
            let mut page = DumpPage::default();
            if after.is_none() && queue.exists {
                page.config = Some(queue.config.clone());
                page.dedup = queue.keys.entries();
                let policies = queue.lane_policies.iter();
                let entry = |(lane, policy): (&LaneKey, &LanePolicy)| (lane.clone(), policy.clone());
                page.policies = policies.map(entry).map(|(lane, policy)| PolicyEntry { lane, policy }).collect();
                page.starts = queue.roster.usage.entries();
            }
            let found = queue.roster.walk(|_| true, after, max_items);
            page.next = found.last().map(|(place, _)| *place).filter(|_| found.len() == max_items);
            page.jobs = found.into_iter().map(|(_, key)| queue.roster.get(key).clone()).collect();
            page
        })
    }

    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Result<RestoreAnswer, StorageError> {
        page.check(queue)?;
        if let Some(stray) = page.jobs.iter().find(|record| record.spec.queue != *queue) {
            return Err(invalid(format!("a job of the queue {} can't be restored to {queue}", stray.spec.queue)));
        }
        self.write(queue, |queue, clock| {
            let mut answer = RestoreAnswer::default();
            let mut ids = HashSet::new();
            let is_new = |record: &JobRecord| ids.insert(record.id()) && queue.roster.key(record.id()).is_none();
            let (fresh, existing): (Vec<_>, Vec<_>) = page.jobs.into_iter().partition(is_new);
            (answer.restored, answer.existing) = (fresh.len(), existing.len());
            check_seqs(&fresh, queue)?;

            let mut turn = Turn::begin(queue, clock);
            turn.hints.work = true;
            turn.hints.control = page.config.is_some() || !page.policies.is_empty();
            let queue = &mut *turn.queue;
            queue.exists = true;
            queue.attended_at = turn.now;
            if let Some(config) = page.config {
                if queue.config.lanes != config.lanes {
                    queue.roster.lanes.reopen();
                }
                queue.config = config;
            }
            queue.keys.restore(page.dedup);
            for PolicyEntry { lane, policy } in page.policies {
                queue.set_policy(&lane, Some(policy));
            }
            queue.roster.usage.restore(page.starts, turn.now);
            let mut latest = turn.now;
            for record in fresh.into_iter().map(without_batch) {
                queue.seq_last = queue.seq_last.max(record.seq.saturating_abs());
                if record.state == JobState::Active {
                    queue.note_term(record.lease_term.unwrap_or_default());
                }
                if matches!(record.state, JobState::Waiting | JobState::Active) {
                    latest = latest.max(record.due_at);
                }
                queue.roster.insert(record);
            }
            if latest > turn.now {
                // As if the clock had stepped back from there.
                let lanes = &mut queue.roster.lanes;
                lanes.set_back = Some(SetBack::noted(lanes.set_back, queue.seq_last, latest, turn.now));
            }
            Ok((answer, turn.finish()))
        })
    }
}

/// A batch stays behind: its members wait in their lane again.
fn without_batch(mut record: JobRecord) -> JobRecord {
    if record.batch.take().is_some() && record.state == JobState::Blocked {
        wait(&mut record);
    }
    record
}

/// Refuses a page in which a job has the seq of another job.
fn check_seqs(fresh: &[JobRecord], queue: &QueueState) -> Result<(), StorageError> {
    let seqs: HashSet<i64> = fresh.iter().map(|record| record.seq).collect();
    // A seq beyond the counter is nobody's, so a restore to an empty queue looks at few records or none.
    let may_be_taken = seqs.iter().any(|seq| seq.saturating_abs() <= queue.seq_last);
    if seqs.len() < fresh.len() || may_be_taken && queue.roster.records().any(|record| seqs.contains(&record.seq)) {
        return Err(invalid("a seq of the restored page is taken by another job"));
    }
    Ok(())
}
