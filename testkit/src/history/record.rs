//! Records calls as they are made and answered, and sorts them by the jobs they are about.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ferroq_core::job::{JobId, JobSpec};
use ferroq_core::storage::{EnqueueAnswer, Selection, SettleAnswer, Storage};

use super::linear::{JobCall, JobHistory, What};
use crate::model::{Answer, Call, Snapshot};

/// A call with the moments at which it was made and answered, on a counter that all tasks share.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Which task made it.
    pub task: usize,
    /// When it was made.
    pub made: u64,
    /// When it was answered.
    pub answered: u64,
    /// The call.
    pub call: Call,
    /// Its answer.
    pub answer: Answer,
}

/// Makes calls and records them.
#[derive(Debug, Default)]
pub struct Recorder {
    moment: AtomicU64,
    calls: Mutex<Vec<Recorded>>,
}

impl Recorder {
    /// Makes a call.
    pub async fn call(&self, task: usize, storage: &dyn Storage, call: Call) -> Answer {
        let made = self.moment.fetch_add(1, Ordering::SeqCst);
        let answer = call.make(storage).await;
        let answered = self.moment.fetch_add(1, Ordering::SeqCst);
        let recorded = Recorded { task, made, answered, call, answer: answer.clone() };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
        answer
    }

    /// Every call so far, in the order of their making.
    pub fn calls(&self) -> Vec<Recorded> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        calls.sort_by_key(|call| call.made);
        calls
    }
}

/// How many leases the sweeps took.
pub(super) fn losses(calls: &[Recorded]) -> u64 {
    let stalled = calls.iter().map(|recorded| match &recorded.answer {
        Answer::Sweep(answer) => answer.stalled as u64,
        _ => 0,
    });
    stalled.sum()
}

/// The calls about each job, with what was left of it at the end.
///
/// # Errors
/// If a call failed as a whole, or a job is in the store that nobody enqueued.
pub fn job_histories(calls: &[Recorded], end: &Snapshot) -> Result<Vec<JobHistory>, String> {
    let mut specs: HashMap<JobId, Arc<JobSpec>> = HashMap::new();
    let mut all: BTreeMap<JobId, Vec<JobCall>> = BTreeMap::new();
    let mut sweeps = Vec::new();
    for recorded in calls {
        if let Answer::Error(_, error) = &recorded.answer {
            return Err(format!("{} failed: {error}", recorded.call));
        }
        for (id, what) in about(recorded, &mut specs) {
            let of_job = all.entry(id).or_default();
            let part = of_job.iter().filter(|call| call.made == recorded.made).count();
            of_job.push(JobCall { task: recorded.task, made: recorded.made, answered: recorded.answered, part, what });
        }
        if matches!(&recorded.answer, Answer::Sweep(answer) if answer.stalled > 0) {
            let (task, made, answered) = (recorded.task, recorded.made, recorded.answered);
            sweeps.push(JobCall { task, made, answered, part: 0, what: What::Lost });
        }
    }
    let mut histories = Vec::new();
    for (queue, record) in end.records() {
        if !all.contains_key(&record.id()) {
            return Err(format!("{} of queue {queue:?} came from nowhere", record.id()));
        }
    }
    for (id, calls) in all {
        let Some(spec) = specs.get(&id).cloned() else { continue };
        let end = end.job(&spec.queue, id).cloned();
        histories.push(JobHistory { spec, calls, sweeps: sweeps.clone(), end });
    }
    Ok(histories)
}

/// What a call was about, job by job.
fn about(recorded: &Recorded, specs: &mut HashMap<JobId, Arc<JobSpec>>) -> Vec<(JobId, What)> {
    let mut all = Vec::new();
    let mut inserted = |jobs: &[Arc<JobSpec>], answers: &[EnqueueAnswer], all: &mut Vec<(JobId, What)>| {
        for (job, answer) in jobs.iter().zip(answers) {
            specs.entry(job.id).or_insert_with(|| job.clone());
            match answer {
                EnqueueAnswer::Inserted => all.push((job.id, What::Inserted)),
                EnqueueAnswer::Duplicate(id) if *id == job.id => all.push((job.id, What::There)),
                EnqueueAnswer::Replaced(id) | EnqueueAnswer::Coalesced(id, _) => all.push((*id, What::Changed)),
                _ => {}
            }
        }
    };
    match (&recorded.call, &recorded.answer) {
        (Call::Enqueue(request), Answer::Enqueue(answers)) => inserted(&request.jobs, answers, &mut all),
        (Call::Exchange(request), Answer::Exchange(answer)) => {
            for (settlement, settled) in request.settlements.iter().zip(&answer.settled) {
                let (epoch, outcome) = (settlement.lease.epoch, settlement.outcome.clone());
                all.push((settlement.lease.id, What::Settled { epoch, outcome, answer: settled.clone() }));
                if let SettleAnswer::Settled { follow_ups, .. } = settled {
                    inserted(&settlement.follow_ups, follow_ups, &mut all);
                }
            }
            for claim in answer.claimed.iter().flat_map(|claimed| &claimed.claims) {
                all.push((claim.lease.id, What::Claimed(claim.clone())));
            }
        }
        (Call::Renew(request), Answer::Renew(answers)) => {
            for (lease, answer) in request.leases.iter().zip(answers) {
                all.push((lease.id, What::Renewed { epoch: lease.epoch, answer: *answer }));
            }
        }
        (Call::Annotate { notes, .. }, Answer::Annotate(answers)) => {
            for ((lease, _), answer) in notes.iter().zip(answers) {
                all.push((lease.id, What::Noted { epoch: lease.epoch, answer: *answer }));
            }
        }
        (Call::Act { request, .. }, Answer::Act(report)) if matches!(request.on, Selection::Ids(_)) => {
            for (id, answer) in &report.answers {
                all.push((*id, What::Acted { act: request.act.clone(), answer: *answer }));
            }
        }
        _ => {}
    }
    all
}
