//! The answers that a storage keeps so that a call can be repeated: per session, only for numbers not yet
//! acknowledged. A backend that lives in its caller's process keeps this book in memory, because there an answer can
//! only be lost together with the one who would repeat the call.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use uuid::Uuid;

use super::{AcquireAnswer, ActReport, CallId, EnqueueAnswer, ExchangeAnswer};
use crate::clock::Timestamp;

/// A session that made no call for this long is forgotten; twice as long as a call is repeated.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(600);

/// An answer as it was given.
#[derive(Clone, Debug)]
pub enum CallAnswer {
    /// To an enqueue.
    Enqueue(Vec<EnqueueAnswer>),
    /// To an exchange.
    Exchange(ExchangeAnswer),
    /// To an act on jobs.
    Act(ActReport),
    /// To a limiter's acquire that gave permits.
    Acquire(AcquireAnswer),
}

/// The kept answers of all sessions.
#[derive(Debug, Default)]
pub struct AnswerBook {
    sessions: HashMap<Uuid, SessionAnswers>,
}

#[derive(Debug)]
struct SessionAnswers {
    last_call_at: Timestamp,
    answers: BTreeMap<u64, CallAnswer>,
}

impl AnswerBook {
    /// The answer that this very call got before, if it did.
    pub fn recall(&self, call: Option<CallId>) -> Option<&CallAnswer> {
        let call = call?;
        self.sessions.get(&call.session)?.answers.get(&call.number)
    }

    /// Keeps an answer, and drops the ones that the call acknowledges.
    pub fn keep(&mut self, call: Option<CallId>, at: Timestamp, answer: impl FnOnce() -> CallAnswer) {
        let Some(call) = call else { return };
        if !self.sessions.contains_key(&call.session) {
            // Sessions come rarely, so this is the moment to look for those that went.
            self.sessions.retain(|_, session| at.since(session.last_call_at) < SESSION_IDLE_MAX);
        }
        let session = self
            .sessions
            .entry(call.session)
            .or_insert_with(|| SessionAnswers { last_call_at: at, answers: BTreeMap::new() });
        session.last_call_at = at;
        while session.answers.first_key_value().is_some_and(|(number, _)| *number < call.acknowledged_below) {
            session.answers.pop_first();
        }
        session.answers.insert(call.number, answer());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_until_it_is_acknowledged() {
        let mut book = AnswerBook::default();
        let call =
            |number, acknowledged_below| Some(CallId { session: Uuid::from_u128(1), number, acknowledged_below });
        let at = Timestamp::default();
        book.keep(call(0, 0), at, || CallAnswer::Enqueue(vec![EnqueueAnswer::Inserted]));
        assert!(book.recall(call(0, 0)).is_some());
        book.keep(call(1, 0), at, || CallAnswer::Enqueue(vec![]));
        assert!(book.recall(call(0, 0)).is_some());
        book.keep(call(2, 2), at, || CallAnswer::Enqueue(vec![]));
        assert!(book.recall(call(0, 0)).is_none() && book.recall(call(1, 0)).is_none());
        assert!(book.recall(call(2, 2)).is_some());
    }
}
