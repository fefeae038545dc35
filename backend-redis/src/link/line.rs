//! The connection to one server, kept up: made when it is needed, by one attempt that all callers share, and made anew
//! after it was lost. The attempt is a task of its own, so that a caller who goes away takes nothing from the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferroq_core::storage::ErrorCode;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::dial::Dialer;
use super::live::Live;
use super::pace::Pace;
use super::sentinel;
use crate::error::CallError;
use crate::options::Address;

/// Who to connect to.
#[derive(Debug)]
pub(super) enum Target {
    /// This server.
    Fixed(Address),
    /// Whoever these sentinels call the master of this name.
    Master { sentinels: Vec<Address>, master: String },
}

/// The connection to one server, kept up.
#[derive(Debug)]
pub(super) struct Line {
    dialer: Arc<Dialer>,
    target: Target,
    place: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    attempt: Option<Attempt>,
    pace: Pace,
    closed: bool,
}

type Attempt = Shared<BoxFuture<'static, Result<Arc<Live>, CallError>>>;

impl Line {
    pub(super) fn new(dialer: Arc<Dialer>, target: Target) -> Arc<Self> {
        let place = match &target {
            Target::Fixed(address) => address.to_string().into(),
            Target::Master { master, .. } => master.as_str().into(),
        };
        Arc::new(Line { dialer, target, place, state: Mutex::default() })
    }

    /// Sends one command, after `ASKING` if so, and waits for its answer.
    pub(super) async fn call(self: &Arc<Self>, cmd: &Cmd, asking: bool) -> Result<Value, CallError> {
        let live = self.live().await?;
        let answer = if asking { live.call_asking(cmd).await } else { live.call(cmd).await };
        self.note(&live, answer.as_ref().err());
        answer
    }

    /// The present connection, made if there is none.
    pub(super) async fn live(self: &Arc<Self>) -> Result<Arc<Live>, CallError> {
        let attempt = {
            let mut state = self.state();
            if state.closed {
                return Err(CallError::closed());
            }
            match &state.live {
                Some(live) if live.is_good() => return Ok(live.clone()),
                Some(live) => {
                    let (live, why) = (live.clone(), CallError::not_connected(&self.place, UNAVAILABLE, "it was cut"));
                    state.drop_live(&live, why);
                }
                None => {}
            }
            match &state.attempt {
                Some(attempt) => attempt.clone(),
                None => {
                    if let Some(why) = state.pace.pausing(Instant::now()) {
                        return Err(why);
                    }
                    let attempt = self.clone().start();
                    state.attempt = Some(attempt.clone());
                    attempt
                }
            }
        };
        attempt.await
    }

    /// Learns from how a command went on a connection.
    pub(super) fn note(&self, live: &Arc<Live>, error: Option<&CallError>) {
        match error {
            // The server is at fault, or is no longer the one to talk to. Others may still wait for answers on this
            // connection, so it is only used no more.
            Some(error) if error.is_about_the_server() => self.state().fail_live(live, error.clone()),
            Some(error) if !live.is_good() => self.state().drop_live(live, error.clone()),
            _ => {
                if live.note_served() {
                    self.state().pace.served();
                }
            }
        }
    }

    /// Lets no call through any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.live = None;
        state.attempt = None;
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        self.state().live.as_ref().is_some_and(|live| live.is_good())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn start(self: Arc<Self>) -> Attempt {
        let place = self.place.clone();
        let task = tokio::spawn(async move {
            let mut finish = Finish { line: self, outcome: None };
            let outcome = finish.line.connect().await.map(Arc::new);
            finish.outcome = Some(outcome.clone());
            let closed = finish.line.is_closed();
            if closed { Err(CallError::closed()) } else { outcome }
        });
        task.map(move |outcome| {
            outcome.unwrap_or_else(|_| Err(CallError::not_connected(&place, UNAVAILABLE, "its runtime was shut down")))
        })
        .boxed()
        .shared()
    }

    async fn connect(&self) -> Result<Live, CallError> {
        match &self.target {
            Target::Fixed(address) => self.dialer.dial(address).await,
            Target::Master { sentinels, master } => sentinel::dial_master(&self.dialer, sentinels, master).await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held can't leave the state half changed: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const UNAVAILABLE: ErrorCode = ErrorCode::Unavailable;

impl State {
    /// The connection was lost. One that had served may be replaced at once; one that never did counts as a failed
    /// attempt, or a server that accepts and hangs up would be hammered.
    fn drop_live(&mut self, live: &Arc<Live>, why: CallError) {
        tracing::debug!(server = %live.place, error = %why, "the connection to Redis was lost");
        if live.has_served() {
            self.forget(live);
        } else {
            self.fail_live(live, why);
        }
    }

    /// The connection leads to a server that can't serve: the next attempt waits its turn.
    fn fail_live(&mut self, live: &Arc<Live>, why: CallError) {
        if self.forget(live) {
            self.pace.failed(Instant::now(), why.not_sent(), rand::random());
        }
    }

    /// Whether it was the present one.
    fn forget(&mut self, live: &Arc<Live>) -> bool {
        let present = self.live.as_ref().is_some_and(|present| Arc::ptr_eq(present, live));
        if present {
            self.live = None;
        }
        present
    }
}

/// Ends an attempt, even one whose task was dropped with its runtime.
struct Finish {
    line: Arc<Line>,
    outcome: Option<Result<Arc<Live>, CallError>>,
}

impl Drop for Finish {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.attempt = None;
        match self.outcome.take() {
            Some(Ok(live)) if !state.closed => {
                tracing::debug!(server = %live.place, "connected to Redis");
                state.live = Some(live);
            }
            Some(Err(why)) => {
                tracing::debug!(server = %self.line.place, error = %why, "not connected to Redis");
                state.pace.failed(Instant::now(), why, rand::random());
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("live", &self.live)
            .field("connecting", &self.attempt.is_some())
            .field("pace", &self.pace)
            .field("closed", &self.closed)
            .finish()
    }
}
