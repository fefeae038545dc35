//! One open connection. It knows whether it is still good, which the redis crate does not tell: a connection that ended
//! between two calls is found out before the next is sent, so that one fails with nothing changed or not at all.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use tokio::task::AbortHandle;

use crate::error::{CallError, checked};
use crate::options::Address;

/// One open connection, and the task that drives it.
pub(super) struct Live {
    connection: MultiplexedConnection,
    driver: AbortHandle,
    ended: Arc<AtomicBool>,
    /// Whether somebody is checking it after a caller went away.
    checking: AtomicBool,
    served: AtomicBool,
    pub(super) address: Address,
    pub(super) place: Arc<str>,
    call_timeout: Duration,
}

/// Notes that the driver is gone, however it went.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Live {
    pub(super) fn new(
        connection: MultiplexedConnection,
        driver: impl Future<Output = ()> + Send + 'static,
        address: Address,
        place: Arc<str>,
        call_timeout: Duration,
    ) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let note = Ended(ended.clone());
        let driver = tokio::spawn(async move {
            let _note = note;
            driver.await;
        })
        .abort_handle();
        let (checking, served) = (AtomicBool::new(false), AtomicBool::new(false));
        Live { connection, driver, ended, checking, served, address, place, call_timeout }
    }

    /// The first exchange. A server that answers at all, if only that this user may not ping, is there; one that is
    /// loading or wants a password can't be used.
    pub(super) async fn greet(&self) -> Result<(), CallError> {
        match self.connection.clone().send_packed_command(&redis::cmd("PING")).await {
            Ok(Value::ServerError(error)) if error.code() != "NOPERM" => Err(CallError::greeting(&self.place, &error)),
            Ok(_) => Ok(()),
            Err(error) => Err(CallError::connecting(&self.place, &error)),
        }
    }

    /// Sends a command and waits for its answer. A connection that fails to answer in time is of no more use: everybody
    /// who waits on it is told at once.
    pub(super) async fn call(self: &Arc<Self>, cmd: &Cmd) -> Result<Value, CallError> {
        let mut watch = Watch { live: self, answered: false };
        let answer = self.call_alone(cmd, self.call_timeout).await;
        watch.answered = true;
        answer
    }

    /// The same where the node would otherwise send us to another, which has just sent us here.
    pub(super) async fn call_asking(self: &Arc<Self>, cmd: &Cmd) -> Result<Value, CallError> {
        let mut watch = Watch { live: self, answered: false };
        let answer = self.call_alone_asking(cmd, self.call_timeout).await;
        watch.answered = true;
        answer
    }

    /// As [`call`](Self::call) where nobody else uses the connection, so that it may be ended if the caller goes away.
    pub(super) async fn call_alone(&self, cmd: &Cmd, timeout: Duration) -> Result<Value, CallError> {
        let mut connection = self.connection.clone();
        self.bounded(timeout, connection.send_packed_command(cmd)).await
    }

    /// As [`call_asking`](Self::call_asking), likewise.
    pub(super) async fn call_alone_asking(&self, cmd: &Cmd, timeout: Duration) -> Result<Value, CallError> {
        let mut connection = self.connection.clone();
        // Written at once, since ASKING holds for the next command of the connection, whoever sends it.
        let mut both = redis::pipe();
        both.add_command(redis::cmd("ASKING")).add_command(cmd.clone());
        let answers = connection.send_packed_commands(&both, 0, 2);
        self.bounded(timeout, answers.map(|answers| Ok(answers?.pop().unwrap_or(Value::Nil)))).await
    }

    async fn bounded(
        &self,
        timeout: Duration,
        answer: impl Future<Output = RedisResult<Value>>,
    ) -> Result<Value, CallError> {
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(value)) => checked(&self.place, value),
            Ok(Err(error)) => {
                self.end();
                Err(CallError::lost(&self.place, error))
            }
            Err(_) => {
                self.end();
                Err(CallError::silent(&self.place, timeout))
            }
        }
    }

    /// Whether it can still carry a command.
    pub(super) fn is_good(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    /// Ends it; whoever waits for an answer on it hears that it was lost.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.driver.abort();
    }

    /// Notes that a command was served; whether it was the first.
    pub(super) fn note_served(&self) -> bool {
        !self.served.load(Ordering::Relaxed) && !self.served.swap(true, Ordering::Relaxed)
    }

    pub(super) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("place", &self.place).field("good", &self.is_good()).finish()
    }
}

/// A caller that goes away before its answer leaves a ping behind. Without it, callers that are less patient than the
/// watchdog would keep a silent connection alive for ever.
struct Watch<'a> {
    live: &'a Arc<Live>,
    answered: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let live = self.live;
        if self.answered || !live.is_good() || live.checking.swap(true, Ordering::AcqRel) {
            return;
        }
        // Without a runtime there is no driver either, so nothing is left to check.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let live = live.clone();
        runtime.spawn(async move {
            let mut connection = live.connection.clone();
            let ping = redis::cmd("PING");
            let answer = tokio::time::timeout(live.call_timeout, connection.send_packed_command(&ping)).await;
            if !matches!(answer, Ok(Ok(_))) {
                live.end();
            }
            live.checking.store(false, Ordering::Release);
        });
    }
}
