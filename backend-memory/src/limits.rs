//! The role of the limiter: a state per limiter, all under one lock, which nobody holds for longer than it takes to count.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use ferroq_core::clock::Timestamp;
use ferroq_core::job::LimiterName;
use ferroq_core::policy::rate::Rate;
use ferroq_core::policy::rate::limiter::{LimiterState, check};
use ferroq_core::storage::{AcquireAnswer, AcquireRequest, AnswerBook, CallAnswer, Limits, StorageError};

use crate::MemoryStorage;
use crate::jobs::other_call;

/// How many limiters that are gone a call drops at most: more than the one that it may make, so that they get fewer.
const DROPS_MAX: usize = 4;

/// Every limiter of a store.
#[derive(Debug, Default)]
pub(crate) struct Limiters {
    states: HashMap<LimiterName, LimiterState>,
    /// The same limiters by when they are gone.
    by_time: BTreeSet<(Timestamp, LimiterName)>,
    answers: AnswerBook,
}

impl Limiters {
    fn acquire(&mut self, request: &AcquireRequest, clock: Timestamp) -> Result<AcquireAnswer, StorageError> {
        match self.answers.recall(request.call) {
            Some(CallAnswer::Acquire(kept)) => return Ok(*kept),
            Some(_) => return Err(other_call()),
            None => {}
        }
        let mut state = self.states.get(&request.limiter).cloned().unwrap_or_default();
        let (answer, changed) = state.acquire(&request.rate, clock, request.permits);
        if changed {
            self.remove(&request.limiter);
            self.by_time.insert((state.gone_at, request.limiter.clone()));
            self.states.insert(request.limiter.clone(), state);
        }
        if answer.granted {
            self.answers.keep(request.call, clock, || CallAnswer::Acquire(answer));
        }
        for _ in 0..DROPS_MAX {
            let Some((gone_at, _)) = self.by_time.first() else { break };
            if *gone_at > clock {
                break;
            }
            if let Some((_, name)) = self.by_time.pop_first() {
                self.states.remove(&name);
            }
        }
        Ok(answer)
    }

    fn remove(&mut self, limiter: &LimiterName) {
        if let Some(state) = self.states.remove(limiter) {
            self.by_time.remove(&(state.gone_at, limiter.clone()));
        }
    }
}

#[async_trait]
impl Limits for MemoryStorage {
    async fn acquire(&self, request: AcquireRequest) -> Result<AcquireAnswer, StorageError> {
        check(&request.rate, request.permits)?;
        self.limiters(|limiters, clock| limiters.acquire(&request, clock))?
    }

    async fn peek(&self, limiter: &LimiterName, rate: &Rate, permits: u32) -> Result<AcquireAnswer, StorageError> {
        check(rate, permits)?;
        self.limiters(|limiters, clock| {
            let state = limiters.states.get(limiter).cloned().unwrap_or_default();
            state.peek(rate, clock, permits)
        })
    }

    async fn reset(&self, limiter: &LimiterName) -> Result<(), StorageError> {
        self.limiters(|limiters, _| limiters.remove(limiter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limiters_that_are_gone_are_dropped_by_later_calls() {
        let mut limiters = Limiters::default();
        for second in 0..10_000 {
            let limiter = LimiterName::new(format!("address {second}")).unwrap_or_else(|error| panic!("{error}"));
            let request = AcquireRequest { call: None, limiter, rate: Rate::per_second(1), permits: 1 };
            let answer = limiters.acquire(&request, Timestamp::from_micros(second * 1_000_000));
            assert!(answer.is_ok_and(|answer| answer.granted));
            assert!(limiters.states.len() <= 62 && limiters.states.len() == limiters.by_time.len());
        }
    }
}
