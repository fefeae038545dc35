//! Wake-ups. For work there is a list per queue that holds a token while there may be work for one more worker: a process
//! whose workers are idle blocks on it, and the server hands each token to one of them, so a job wakes one worker however
//! many wait. Whatever concerns everybody (an operator's acts, the end of a job that somebody waits for) is published
//! on the queue's channel. Both are hints: what is lost costs at most a poll interval.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferroq_core::job::{QueueName, WorkerId};
use ferroq_core::storage::{ClaimAnswer, ClaimSpec, SignalHub};
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::error::CallError;
use crate::keys::QueueKeys;
use crate::link::{Link, Message};
use crate::record::id_of;
use crate::script::TOKEN;

/// How long one wait for a token takes at most, and so how often an idle process says anything.
const BLOCK: Duration = Duration::from_secs(5);
/// How long a worker that was given a token may take to claim before the token goes to another.
const CLAIM_WITHIN: Duration = Duration::from_millis(50);
/// How long to wait after a lost connection: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What this process knows about a queue that somebody here listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// The last claim of some worker got all there was, and had room for more.
    is_idle: bool,
    /// How many claims there were.
    claims: u64,
}

/// Listens for hints on behalf of everyone who uses one handle. Nothing is sent before somebody asks.
#[derive(Debug)]
pub(crate) struct Listener {
    link: Link,
    hub: SignalHub,
    /// The runtime that the handle was opened on.
    runtime: Handle,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<QueueName, Waiting>,
    tasks: Vec<AbortHandle>,
    channels: Option<mpsc::UnboundedSender<QueueKeys>>,
    closed: bool,
}

/// One queue that somebody here listens to.
#[derive(Debug)]
struct Waiting {
    standing: watch::Sender<Standing>,
    /// The workers whose last claim got all there was.
    idle: HashSet<WorkerId>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listener {
    pub(crate) fn new(link: Link, hub: SignalHub, runtime: Handle) -> Self {
        Listener { link, hub, runtime, state: Arc::default() }
    }

    /// Somebody here, who has a receiver already, wants to know when the queue may have work.
    pub(crate) fn listen(&self, keys: &QueueKeys) {
        let mut state = lock(&self.state);
        if state.closed || state.queues.contains_key(&keys.queue) {
            return;
        }
        let (standing, changes) = watch::channel(Standing::default());
        state.queues.insert(keys.queue.clone(), Waiting { standing, idle: HashSet::new() });
        let tokens = Tokens {
            link: self.link.clone(),
            hub: self.hub.clone(),
            keys: keys.clone(),
            state: self.state.clone(),
            changes,
        };
        let task = self.runtime.spawn(tokens.wait());
        state.tasks.retain(|task| !task.is_finished());
        state.tasks.push(task.abort_handle());
        drop(state);
        self.subscribe(keys);
    }

    /// Somebody here wants to know what concerns everybody.
    pub(crate) fn subscribe(&self, keys: &QueueKeys) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        if state.channels.is_none() {
            let (channels, wanted) = mpsc::unbounded_channel();
            let task = self.runtime.spawn(follow_channels(self.link.clone(), self.hub.clone(), wanted));
            state.tasks.push(task.abort_handle());
            state.channels = Some(channels);
        }
        if let Some(channels) = &state.channels {
            // The task ends only with the handle.
            let _closing = channels.send(keys.clone()).is_err();
        }
    }

    /// A worker's claim was answered.
    pub(crate) fn claimed(&self, keys: &QueueKeys, asked: &ClaimSpec, answer: &ClaimAnswer) {
        let mut state = lock(&self.state);
        if let Some(Waiting { standing, idle }) = state.queues.get_mut(&keys.queue) {
            if !answer.more && answer.claims.len() < asked.max_items {
                idle.insert(asked.worker.clone());
            } else {
                idle.remove(&asked.worker);
            }
            standing.send_modify(|standing| {
                standing.is_idle = !idle.is_empty();
                standing.claims += 1;
            });
        }
    }

    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.channels = None;
        for task in state.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Says once, and not each time that it is tried again, that hints can't be had for want of a right. Everything else that
/// can be wrong here is met by whoever works on the queue, who tells of it.
#[derive(Debug, Default)]
struct Refusals {
    told: bool,
}

impl Refusals {
    fn note(&mut self, of: &str, error: &CallError) {
        if error.lacks_a_right() && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(of, %error, "hints can't be had; workers find their jobs by polling");
        }
    }
}

/// Waits for tokens of one queue while workers here are idle.
struct Tokens {
    link: Link,
    hub: SignalHub,
    keys: QueueKeys,
    state: Arc<Mutex<State>>,
    changes: watch::Receiver<Standing>,
}

impl Tokens {
    /// Until nobody here listens any more.
    async fn wait(mut self) {
        let (mut pause, mut refusals) = (PAUSE_MIN, Refusals::default());
        let mut connection = None;
        while self.somebody_is_idle().await {
            let opened = match &mut connection {
                Some(connection) => connection,
                None => match self.link.blocking(self.keys.wake()).await {
                    Ok(opened) => connection.insert(opened),
                    Err(error) => {
                        refusals.note(self.keys.wake(), &error);
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                        continue;
                    }
                },
            };
            let mut cmd = redis::cmd("BLPOP");
            cmd.arg(self.keys.wake()).arg(BLOCK.as_secs());
            match opened.call(&cmd, BLOCK * 2).await {
                Ok(token) => {
                    if token != Value::Nil {
                        self.hand_on().await;
                    }
                    (pause, refusals) = (PAUSE_MIN, Refusals::default());
                }
                Err(error) => {
                    refusals.note(self.keys.wake(), &error);
                    connection = None;
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    // A token may have gone down with the connection.
                    self.hub.work(&self.keys.queue);
                }
            }
        }
    }

    /// Waits until a worker here is idle; false, and forgotten, once nobody here listens.
    async fn somebody_is_idle(&mut self) -> bool {
        loop {
            if self.hub.is_listened(&self.keys.queue) {
                let idle = self.changes.wait_for(|standing| standing.is_idle);
                match tokio::time::timeout(BLOCK, idle).await {
                    Ok(answer) => return answer.is_ok(),
                    Err(_) => continue,
                }
            }
            // Who comes from here on finds the queue missing and starts another task; who came meanwhile is seen.
            let mut state = lock(&self.state);
            if !self.hub.is_listened(&self.keys.queue) {
                state.queues.remove(&self.keys.queue);
                return false;
            }
        }
    }

    /// Wakes the workers here with a token, or leaves it for another process if nobody here takes it up. In either case no
    /// other is waited for until a claim here comes back empty-handed: after giving one back that would be the same.
    async fn hand_on(&mut self) {
        let before = *self.changes.borrow();
        if let Some(Waiting { standing, idle }) = lock(&self.state).queues.get_mut(&self.keys.queue) {
            idle.clear();
            standing.send_modify(|standing| standing.is_idle = false);
        }
        if before.is_idle && self.hub.is_listened(&self.keys.queue) {
            self.hub.work(&self.keys.queue);
            let claimed = self.changes.wait_for(|standing| standing.claims != before.claims);
            if tokio::time::timeout(CLAIM_WITHIN, claimed).await.is_ok() {
                return;
            }
        }
        // By a script, so that there is never more than one.
        if let Err(error) = TOKEN.call(&self.link, &self.keys, &self.keys.answers(None), |_| {}).await {
            tracing::debug!(queue = %self.keys.queue, %error, "a wake-up was lost; a poll will make up for it");
        }
    }
}

/// Follows the channels of the queues that are asked for.
async fn follow_channels(link: Link, hub: SignalHub, mut wanted: mpsc::UnboundedReceiver<QueueKeys>) {
    let mut queues: HashMap<String, QueueName> = HashMap::new();
    let (mut pause, mut refusals) = (PAUSE_MIN, Refusals::default());
    loop {
        if queues.is_empty() {
            let Some(keys) = wanted.recv().await else { return };
            queues.insert(keys.meta().to_owned(), keys.queue);
        }
        if let Ok((mut sink, mut messages)) = link.subscriber().await {
            let mut is_up = true;
            for channel in queues.keys() {
                if let Err(error) = sink.subscribe(channel).await {
                    refusals.note(channel, &link.explain(error).await);
                    is_up = false;
                    break;
                }
            }
            // What was published while nobody listened is lost, so everybody looks.
            for queue in queues.values() {
                hub.control(queue);
            }
            hub.ended(hub.watched());
            while is_up {
                (pause, refusals) = (PAUSE_MIN, Refusals::default());
                tokio::select! {
                    message = messages.next() => match message {
                        Some(message) => tell(&hub, &queues, &message),
                        None => is_up = false,
                    },
                    keys = wanted.recv() => {
                        let Some(keys) = keys else { return };
                        if !queues.contains_key(keys.meta()) {
                            is_up = sink.subscribe(keys.meta()).await.is_ok();
                            queues.insert(keys.meta().to_owned(), keys.queue);
                        }
                    }
                }
            }
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A message is `c` (something was changed by hand), or `e` and the ids of jobs that ended.
fn tell(hub: &SignalHub, queues: &HashMap<String, QueueName>, message: &Message) {
    let Some(queue) = queues.get(&message.channel) else { return };
    match message.payload.split_first() {
        Some((b'c', _)) => hub.control(queue),
        Some((b'e', ids)) => hub.ended(ids.chunks_exact(16).filter_map(|id| id_of(id).ok())),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
