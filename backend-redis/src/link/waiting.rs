//! Calls that wait until replicas, or disks, have what they wrote. `WAIT` speaks of what its own connection has written,
//! and holds that connection up for as long as it takes; so each such call has a connection to itself meanwhile, which
//! is kept for the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, Value};

use super::Link;
use super::blocking::{Blocking, EndUnlessKept};
use super::live::Live;
use crate::error::CallError;
use crate::options::{Address, WaitFor};

/// How many connections are kept.
const KEPT: usize = 16;

/// How far a write has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reached {
    /// So many replicas have it; synced to disk, if that was asked for.
    pub replicas: u32,
    /// Whether the server itself has synced it to disk. False if nobody asked.
    pub fsynced_local: bool,
}

impl Reached {
    /// Whether it is as far as was asked for.
    pub(crate) fn is_enough(self, wait: &WaitFor) -> bool {
        self.replicas >= wait.replicas && (self.fsynced_local || !wait.fsync)
    }
}

impl Link {
    /// Sends a command about `key` and then waits until it has got as far as asked, or the time is over. That it did not
    /// get so far, or that nobody knows, does not undo it.
    pub(crate) async fn call_and_wait(
        &self,
        key: &str,
        cmd: &Cmd,
        wait: &WaitFor,
    ) -> Result<(Value, Result<Reached, CallError>), CallError> {
        let shared = self.line_of(key).await?.live().await?;
        let mut own = Blocking::over(self.clone(), key, self.spares.take(&shared.address));
        let call_timeout = self.dialer.call_timeout();
        let answer = own.call(cmd, call_timeout).await?;
        let reached = match own.into_live() {
            Some(live) => self.wait(live, wait).await,
            None => Err(CallError::unexpected(&shared.place, "and ended the connection before it could be asked")),
        };
        Ok((answer, reached))
    }
}

impl Link {
    /// Waits on the very connection that has written: another one would be told of what it wrote itself, which is
    /// nothing, and that at once.
    async fn wait(&self, live: Arc<Live>, wait: &WaitFor) -> Result<Reached, CallError> {
        let end = EndUnlessKept(Some(&live));
        let reached = live.call_alone(&wait_command(wait), self.dialer.call_timeout() + wait.timeout).await?;
        let reached = read(reached, wait, &live)?;
        end.keep();
        if !self.is_closed() {
            self.spares.keep(live);
        }
        Ok(reached)
    }
}

fn wait_command(wait: &WaitFor) -> Cmd {
    let ms = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX);
    let mut command = redis::cmd(if wait.fsync { "WAITAOF" } else { "WAIT" });
    if wait.fsync {
        command.arg(1);
    }
    command.arg(wait.replicas).arg(ms);
    command
}

fn read(answer: Value, wait: &WaitFor, live: &Live) -> Result<Reached, CallError> {
    let read = if wait.fsync {
        redis::from_redis_value(answer).map(|(local, replicas): (u32, u32)| (replicas, local > 0))
    } else {
        redis::from_redis_value(answer).map(|replicas: u32| (replicas, false))
    };
    let (replicas, fsynced_local) =
        read.map_err(|_| CallError::unexpected(&live.place, "something that is no count when asked to wait"))?;
    Ok(Reached { replicas, fsynced_local })
}

/// Connections that nobody uses at the moment.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<Arc<Live>>>);

impl Spares {
    fn take(&self, address: &Address) -> Option<Arc<Live>> {
        let mut spares = self.lock();
        spares.retain(|live| live.is_good());
        let found = spares.iter().position(|live| live.address == *address)?;
        Some(spares.swap_remove(found))
    }

    fn keep(&self, live: Arc<Live>) {
        let mut spares = self.lock();
        if spares.len() < KEPT {
            spares.push(live);
        }
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
