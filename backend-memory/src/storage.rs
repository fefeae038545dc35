//! The storage itself: the queues by name, each under a lock of its own, the clock, and the hints. No call waits for
//! anything while it holds a lock, and every future is ready at its first poll, so a call whose future is dropped has
//! either happened or not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use ferroq_core::clock::{Clock, Timestamp};
use ferroq_core::job::QueueName;
use ferroq_core::storage::{Capabilities, ErrorCode, SignalHub, Storage, StorageError};

use crate::limits::Limiters;
use crate::queue::QueueState;
use crate::time::RuntimeClock;
use crate::turn::Hints;

/// A store in this process's memory. Clones are the same handle on the same store; nothing outlives the last of them.
///
/// Time is tokio's: under `#[tokio::test(start_paused = true)]` it jumps.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    pub(crate) store: Arc<Store>,
    closed: Arc<AtomicBool>,
}

/// What the handles share.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signals: SignalHub,
    limiters: Mutex<Limiters>,
    virtual_time: bool,
    /// A queue that was named once keeps its (then empty) state here, so that nobody can write to a state that was
    /// just taken out.
    queues: RwLock<BTreeMap<QueueName, Arc<Mutex<QueueState>>>>,
}

/// Opens a [`MemoryStorage`] with settings.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorageBuilder {
    clock: Option<Arc<dyn Clock>>,
}

impl MemoryStorageBuilder {
    /// Reads the time from this clock instead of tokio's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// An empty store.
    pub fn build(self) -> MemoryStorage {
        let virtual_time = self.clock.is_none();
        let clock = self.clock.unwrap_or_else(|| Arc::new(RuntimeClock::start()));
        let store = Store {
            clock,
            virtual_time,
            signals: SignalHub::default(),
            limiters: Mutex::default(),
            queues: RwLock::default(),
        };
        MemoryStorage { store: Arc::new(store), closed: Arc::default() }
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        MemoryStorage::new()
    }
}

impl MemoryStorage {
    /// An empty store whose time is tokio's.
    pub fn new() -> Self {
        MemoryStorage::builder().build()
    }

    /// A store with settings.
    pub fn builder() -> MemoryStorageBuilder {
        MemoryStorageBuilder::default()
    }

    /// Looks at a queue; at an empty state if it does not exist.
    pub(crate) fn read<T>(&self, name: &QueueName, look: impl FnOnce(&QueueState) -> T) -> Result<T, StorageError> {
        self.check_open()?;
        let queue = self.store.queues.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        Ok(match queue {
            Some(queue) => look(&lock(&queue)),
            None => look(&QueueState::default()),
        })
    }

    /// Works on a queue, given the clock's reading, and hints after.
    pub(crate) fn write<T>(
        &self,
        name: &QueueName,
        work: impl FnOnce(&mut QueueState, Timestamp) -> Result<(T, Hints), StorageError>,
    ) -> Result<T, StorageError> {
        self.check_open()?;
        let queue = self.state_of(name);
        let mut state = lock(&queue);
        let (answer, hints) = work(&mut state, self.store.clock.now())?;
        drop(state);
        self.hint(name, hints);
        Ok(answer)
    }

    /// Works on the limiters, given the clock's reading.
    pub(crate) fn limiters<T>(&self, work: impl FnOnce(&mut Limiters, Timestamp) -> T) -> Result<T, StorageError> {
        self.check_open()?;
        let mut limiters = self.store.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(work(&mut limiters, self.store.clock.now()))
    }

    /// The state of a queue, which may not exist.
    pub(crate) fn state_of(&self, name: &QueueName) -> Arc<Mutex<QueueState>> {
        if let Some(queue) = self.store.queues.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return queue.clone();
        }
        self.store.queues.write().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }

    /// Every queue's state, in the order of names; those that don't exist among them.
    pub(crate) fn states(&self) -> Vec<(QueueName, Arc<Mutex<QueueState>>)> {
        let queues = self.store.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|(name, queue)| (name.clone(), queue.clone())).collect()
    }

    /// Tells those who wait.
    pub(crate) fn hint(&self, name: &QueueName, hints: Hints) {
        let signals = &self.store.signals;
        if hints.control {
            signals.control(name);
        } else if hints.work {
            signals.work(name);
        }
        if !hints.ended.is_empty() {
            signals.ended(hints.ended);
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), StorageError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StorageError::new(ErrorCode::Closed, "the storage handle was closed"));
        }
        Ok(())
    }
}

/// Locks a queue. A panic while it was locked is a bug of this crate, and one that other callers can't undo; so they
/// go on.
pub(crate) fn lock(queue: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that makes no sense; nothing was changed.
pub(crate) fn invalid(why: impl Into<String>) -> StorageError {
    StorageError::new(ErrorCode::Invalid, why)
}

#[async_trait]
impl Storage for MemoryStorage {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none("memory");
        capabilities.reliable_signals = true;
        capabilities.virtual_time = self.store.virtual_time;
        capabilities
    }

    async fn second_handle(&self) -> Result<Arc<dyn Storage>, StorageError> {
        self.check_open()?;
        Ok(Arc::new(MemoryStorage { store: self.store.clone(), closed: Arc::default() }))
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
