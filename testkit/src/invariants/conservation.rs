//! Conservation: acknowledged = live + ended + removed. Every job that an answer called inserted is in the store for as
//! long as no call can have removed it, and nothing is in the store that no answer called inserted.

use std::collections::HashMap;

use ferroq_core::job::{JobId, JobState, QueueName};
use ferroq_core::storage::{Act, ActAnswer, SettleAnswer};

use super::{History, Lives, Step, Told, told};
use crate::model::{Answer, Call};

/// How a live job can have come to its end, or a record to its, since a job was last seen.
#[derive(Clone, Copy, Default)]
struct Excuse {
    /// Somebody removed it, or its whole queue.
    removed: bool,
    /// It ended, and records of ended jobs come and go.
    ended: bool,
}

type Life = (QueueName, JobId, usize);

#[derive(Default)]
struct Ledger {
    lives: Lives,
    /// The jobs that must be there, with their last known state.
    jobs: HashMap<Life, (JobState, Option<ferroq_core::Timestamp>)>,
    excuses: HashMap<Life, Excuse>,
}

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut ledger = Ledger::default();
    for (step, one) in history.steps.iter().enumerate() {
        match one {
            Step::Call { call, answer, repeat: false, .. } => ledger.post(call, answer),
            Step::Seen(snapshot) => {
                for (queue, job) in snapshot.records() {
                    let life = ledger.lives.of(queue, job.id());
                    // A dead letter comes with its job's failure, and what is redriven with the act; no answer names them.
                    if life.2 == 0 && job.spec.origin.is_none() {
                        return Err((step, format!("{} of queue {queue:?} came from nowhere", job.id())));
                    }
                }
                for (life, (state, _)) in &ledger.jobs {
                    let (queue, id, _) = life;
                    let excuse = ledger.excuses.get(life).copied().unwrap_or_default();
                    let superseded = ledger.lives.of(queue, *id) != *life;
                    let there = !superseded && snapshot.job(queue, *id).is_some();
                    let may_be_gone = excuse.removed || excuse.ended || state.is_terminal();
                    if !there && !may_be_gone {
                        return Err((step, format!("{id} of queue {queue:?} was {state} and is lost")));
                    }
                }
                ledger.jobs.clear();
                ledger.excuses.clear();
                for (queue, job) in snapshot.records() {
                    let life = ledger.lives.of(queue, job.id());
                    ledger.jobs.insert(life, (job.state, job.expires_at));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

impl Ledger {
    fn post(&mut self, call: &Call, answer: &Answer) {
        for told in told(call, answer) {
            match &told {
                Told::Settled(settlement, SettleAnswer::Settled { state, .. }) if state.is_terminal() => {
                    self.excuse(call.queue(), settlement.lease.id).ended = true;
                }
                Told::Claimed(claim) => {
                    let life = self.lives.of(call.queue(), claim.lease.id);
                    let expires_at = self.jobs.get(&life).and_then(|(_, expires_at)| *expires_at);
                    self.jobs.insert(life, (JobState::Active, expires_at));
                }
                _ => {}
            }
            self.lives.note(&told);
            if let Told::Inserted((queue, id)) = &told {
                let life = self.lives.of(queue, *id);
                // Whether it can expire is seen in the first snapshot; until then it counts as if it could.
                self.jobs.insert(life, (JobState::Waiting, Some(ferroq_core::Timestamp::MAX)));
            }
        }
        match (call, answer) {
            (Call::Act { request, .. }, Answer::Act(report)) => {
                for (id, answer) in &report.answers {
                    match (&request.act, answer) {
                        (Act::Remove | Act::Redrive, ActAnswer::Done(_)) => {
                            self.excuse(call.queue(), *id).removed = true
                        }
                        (Act::Cancel, ActAnswer::Done(_)) => self.excuse(call.queue(), *id).ended = true,
                        _ => {}
                    }
                }
            }
            (Call::Obliterate { queue, .. }, _) => self.excuse_where(queue, |_, excuse| excuse.removed = true),
            // The answers do not name the jobs whose leases were lost, nor those that had expired.
            (Call::Sweep(request), Answer::Sweep(swept)) if swept.stalled > 0 || swept.failed > 0 => {
                // Members of a batch were last seen Waiting, if they were gathered since.
                let in_batch = |state| swept.failed > 0 && matches!(state, JobState::Waiting | JobState::Blocked);
                self.excuse_where(&request.queue, |state, excuse| {
                    excuse.ended |= state == JobState::Active || in_batch(state);
                });
            }
            (Call::Gather { queue, .. }, _) => self.excuse_expired(queue),
            (Call::Exchange(request), _) if request.claim.is_some() => self.excuse_expired(&request.queue),
            _ => {}
        }
    }

    fn excuse(&mut self, queue: &QueueName, id: JobId) -> &mut Excuse {
        self.excuses.entry(self.lives.of(queue, id)).or_default()
    }

    fn excuse_where(&mut self, queue: &QueueName, which: impl Fn(JobState, &mut Excuse)) {
        for (life, (state, _)) in self.jobs.iter().filter(|(life, _)| life.0 == *queue) {
            which(*state, self.excuses.entry(life.clone()).or_default());
        }
    }

    fn excuse_expired(&mut self, queue: &QueueName) {
        for (life, (_, expires_at)) in self.jobs.iter().filter(|(life, _)| life.0 == *queue) {
            if expires_at.is_some() {
                self.excuses.entry(life.clone()).or_default().ended = true;
            }
        }
    }
}
