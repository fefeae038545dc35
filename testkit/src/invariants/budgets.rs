//! Budgets are kept: a failed run uses up exactly one attempt, a lost lease exactly one crash, nothing else uses up
//! either, and a job over a budget is Failed (or Cancelled, if somebody asked for that) and runs no more.

use std::collections::HashMap;

use ferroq_core::job::{FailReason, JobState};
use ferroq_core::storage::{Outcome, SettleAnswer};

use super::{History, Lives, Step, Told, told};

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut lives = Lives::default();
    let mut claims = HashMap::new();
    for (step, one) in history.steps.iter().enumerate() {
        match one {
            Step::Call { call, answer, repeat: false, .. } => {
                for told in told(call, answer) {
                    lives.note(&told);
                    match told {
                        Told::Claimed(claim) => {
                            claims.insert((lives.of(call.queue(), claim.lease.id), claim.lease.epoch), claim.clone());
                        }
                        Told::Settled(settlement, SettleAnswer::Settled { state, .. }) => {
                            let key = (lives.of(call.queue(), settlement.lease.id), settlement.lease.epoch);
                            let Some(claim) = claims.remove(&key) else { continue };
                            let max = claim.spec.options.max_attempts;
                            let used_up = claim.attempts + 1 >= max;
                            let wrong = match (&settlement.outcome, state) {
                                (_, JobState::Cancelled) => false,
                                (Outcome::Retry { .. }, state) => (*state == JobState::Failed) != used_up,
                                (Outcome::Release | Outcome::Snooze { .. }, state) => state.is_terminal(),
                                (Outcome::Completed { .. }, state) => *state != JobState::Completed,
                                (Outcome::Abort { .. }, state) => *state != JobState::Failed,
                                (_, state) => !state.is_terminal(),
                            };
                            if wrong {
                                let run = format!("run with {} of {max} attempts used up", claim.attempts);
                                let what = format!(
                                    "{} is {state} after a {run} ended in {:?}",
                                    claim.lease.id, settlement.outcome
                                );
                                return Err((step, what));
                            }
                        }
                        _ => {}
                    }
                }
            }
            Step::Seen(snapshot) => {
                for (_, job) in snapshot.records() {
                    let options = &job.spec.options;
                    let kept = match job.failure {
                        Some(FailReason::AttemptsExhausted) => job.attempts >= options.max_attempts,
                        Some(FailReason::CrashesExhausted) => job.crashes >= options.max_crashes,
                        _ => job.attempts + job.crashes <= job.runs,
                    };
                    if !kept {
                        let used = format!("{} of {} attempts", job.attempts, options.max_attempts);
                        let lost = format!("{} of {} crashes in {} runs", job.crashes, options.max_crashes, job.runs);
                        return Err((
                            step,
                            format!("{} ({}, {:?}) used {used}, {lost}", job.id(), job.state, job.failure),
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
