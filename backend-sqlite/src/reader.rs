//! The connections that only look. Each question is a read transaction, so that what it answers was true at one
//! moment; a connection on which one fails is rolled back, or replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferroq_core::storage::StorageError;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use crate::common::Common;
use crate::error::{closed, storage_error};
use crate::script::Script;
use crate::unit::{Begin, Unit};

const READERS: usize = 2;

/// The readers of a handle.
#[derive(Debug)]
pub(crate) struct Readers {
    common: Arc<Common>,
    connections: [Mutex<Slot>; READERS],
    next: AtomicUsize,
}

#[derive(Debug)]
enum Slot {
    Unopened,
    Open(Box<SqliteConnection>),
    Closed,
}

impl Readers {
    /// Readers that connect when they are first asked.
    pub(crate) fn new(common: Arc<Common>) -> Self {
        let connections = [Mutex::new(Slot::Unopened), Mutex::new(Slot::Unopened)];
        Readers { common, connections, next: AtomicUsize::new(0) }
    }

    async fn free(&self) -> MutexGuard<'_, Slot> {
        for slot in &self.connections {
            if let Ok(slot) = slot.try_lock() {
                return slot;
            }
        }
        self.connections[self.next.fetch_add(1, Ordering::Relaxed) % READERS].lock().await
    }

    /// Looks, in one read transaction.
    pub(crate) async fn look<T>(
        &self,
        question: impl AsyncFnOnce(&mut Unit<'_>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.look_as(Begin::Read, question).await
    }

    /// Looks by a single statement, which spares the commands that begin and end a transaction.
    pub(crate) async fn look_once<T>(
        &self,
        question: impl AsyncFnOnce(&mut Unit<'_>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.look_as(Begin::Once, question).await
    }

    async fn look_as<T>(
        &self,
        begin: Begin,
        question: impl AsyncFnOnce(&mut Unit<'_>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut slot = self.free().await;
        // Taken out while it is used: if the caller is dropped midway, a new connection takes the place of one whose
        // transaction is still open.
        let mut conn = match std::mem::replace(&mut *slot, Slot::Unopened) {
            Slot::Open(conn) => conn,
            Slot::Unopened => Box::new(crate::open::reader(&self.common.options).await?),
            Slot::Closed => {
                *slot = Slot::Closed;
                return Err(closed());
            }
        };
        let mut unit = Unit::new(&mut conn, &self.common.names, self.common.clock.now(), begin);
        let answer = question(&mut unit).await;
        // A look writes nothing, whatever the unit has collected.
        unit.script = Script::default();
        if answer.is_ok() {
            unit.learn();
        }
        let begun = unit.begun;
        drop(unit);
        if begun {
            let mut end = Script::default();
            end.add("ROLLBACK", []);
            match end.run(&mut conn, 0).await {
                Ok(_) => {}
                Err(error) if crate::error::primary_code(&error) == Some(1) => {}
                Err(error) => {
                    drop(storage_error(error));
                    return answer;
                }
            }
        }
        *slot = Slot::Open(conn);
        answer
    }

    /// Closes them; later questions answer `Closed`.
    pub(crate) async fn close(&self) {
        for slot in &self.connections {
            let slot = std::mem::replace(&mut *slot.lock().await, Slot::Closed);
            if let Slot::Open(conn) = slot {
                drop(conn.close().await);
            }
        }
    }
}
