//! Where stores under test come from. A backend implements [`StorageBuilder`] (any async function that returns a
//! [`Fixture`] does it), and everything else in the kit asks it for a fresh, empty store as often as it likes.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use ferroq_core::clock::ManualClock;
use ferroq_core::storage::Storage;
use futures::future::BoxFuture;

/// Makes fresh, empty stores.
#[async_trait]
pub trait StorageBuilder: Send + Sync + 'static {
    /// A store that shares nothing with any other, running on the fixture's clock.
    async fn build(&self) -> Fixture;
}

#[async_trait]
impl<F, Fut> StorageBuilder for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Fixture> + Send + 'static,
{
    async fn build(&self) -> Fixture {
        self().await
    }
}

/// Opens the same store anew, after the old handle was closed.
pub type Reopen = Arc<dyn Fn() -> BoxFuture<'static, Arc<dyn Storage>> + Send + Sync>;

/// A store under test and what belongs to it. Dropping it drops the store first and the guard after.
pub struct Fixture {
    /// The store's handle.
    pub storage: Arc<dyn Storage>,
    /// The clock that the store reads.
    pub clock: ManualClock,
    reopen: Option<Reopen>,
    // Last, because fields are dropped in their order: temporary files go after the handle on them.
    _guard: Box<dyn Any + Send + Sync>,
}

impl Fixture {
    /// A store that ends with its handle. `guard` is dropped after the handle; temporary directories go there.
    pub fn new(storage: Arc<dyn Storage>, clock: ManualClock, guard: impl Any + Send + Sync) -> Self {
        Fixture { storage, clock, reopen: None, _guard: Box::new(guard) }
    }

    /// A store that outlives its handle: `open` opens it anew, on the same clock.
    pub fn with_reopen<F, Fut>(mut self, open: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Arc<dyn Storage>> + Send + 'static,
    {
        self.reopen = Some(Arc::new(move || Box::pin(open())));
        self
    }

    /// Whether the store can be opened anew.
    pub fn can_reopen(&self) -> bool {
        self.reopen.is_some()
    }

    /// Closes the store and opens it anew, with a new handle in [`storage`](Self::storage). Answers false, and does
    /// nothing, where the store does not outlive its handle.
    pub async fn reopen(&mut self) -> bool {
        let Some(open) = self.reopen.clone() else { return false };
        self.storage.close().await;
        self.storage = open().await;
        true
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("clock", &self.clock)
            .field("can_reopen", &self.can_reopen())
            .finish_non_exhaustive()
    }
}
