//! Limiters: a row each, in a table of their own. A question reads the row, lets the policy decide, and writes the row if
//! permits were given; and it drops a few of those that are gone, so that nobody has to tidy up.

use ferroq_core::Timestamp;
use ferroq_core::job::LimiterName;
use ferroq_core::policy::rate::limiter::LimiterState;
use ferroq_core::policy::rate::{Rate, RateState};
use ferroq_core::storage::{AcquireAnswer, AcquireRequest, ErrorCode, StorageError};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::unexpected;
use crate::unit::Unit;

const READ: &str = "SELECT state,gone_at,stamp FROM ferroq_limiters WHERE name=?";
const WRITE: &str = "INSERT INTO ferroq_limiters (name,state,gone_at,stamp) VALUES (?,?,?,?) ON CONFLICT (name) DO \
    UPDATE SET state=excluded.state,gone_at=excluded.gone_at,stamp=excluded.stamp";
const RESET: &str = "DELETE FROM ferroq_limiters WHERE name=?";
/// Drops limiters that are gone, by `ferroq_limiters_by_time`: more than the one that a call may make, so that they get
/// fewer.
pub(crate) const DROP: &str = "DELETE FROM ferroq_limiters WHERE name IN (SELECT name FROM ferroq_limiters INDEXED BY \
    ferroq_limiters_by_time WHERE gone_at<=? ORDER BY gone_at LIMIT 4)";

/// The first limiter that a transaction wrote, and the stamp that its row had before.
#[derive(Clone, Debug)]
pub(crate) struct LimiterMark {
    pub(crate) name: LimiterName,
    pub(crate) before: Option<i64>,
}

impl Unit<'_> {
    /// Takes permits, if they may be had. `stamp` is the transaction's.
    pub(crate) async fn acquire(
        &mut self,
        request: &AcquireRequest,
        stamp: i64,
    ) -> Result<AcquireAnswer, StorageError> {
        let (mut state, before) = self.limiter(&request.limiter).await?;
        let (answer, changed) = state.acquire(&request.rate, self.clock, request.permits);
        if changed {
            let name = request.limiter.as_str();
            let values = [name.into(), state.state.to_bytes().into(), state.gone_at.as_micros().into(), stamp.into()];
            self.script.add(DROP, [self.clock.as_micros().into()]);
            self.script.add(WRITE, values);
            self.limiter_mark.get_or_insert_with(|| LimiterMark { name: request.limiter.clone(), before });
        }
        Ok(answer)
    }

    /// What [`acquire`](Self::acquire) would answer.
    pub(crate) async fn peek(
        &mut self,
        limiter: &LimiterName,
        rate: &Rate,
        permits: u32,
    ) -> Result<AcquireAnswer, StorageError> {
        let (state, _) = self.limiter(limiter).await?;
        Ok(state.peek(rate, self.clock, permits))
    }

    /// Forgets a limiter.
    pub(crate) fn reset(&mut self, limiter: &LimiterName) {
        self.script.add(RESET, [limiter.as_str().into()]);
    }

    async fn limiter(&mut self, limiter: &LimiterName) -> Result<(LimiterState, Option<i64>), StorageError> {
        let [rows] = self.ask([(READ, vec![limiter.as_str().into()])]).await?;
        rows.first().map_or_else(|| Ok(Default::default()), |row| read(limiter, row))
    }
}

fn read(limiter: &LimiterName, row: &SqliteRow) -> Result<(LimiterState, Option<i64>), StorageError> {
    let what = |_| unexpected("a limiter");
    let state: &[u8] = row.try_get_unchecked(0).map_err(what)?;
    let (gone_at, stamp): (i64, i64) =
        (row.try_get_unchecked(1).map_err(what)?, row.try_get_unchecked(2).map_err(what)?);
    let state = RateState::from_bytes(state).map_err(|error| {
        let damaged = format!("the state of the limiter {limiter} can't be read; reset it");
        StorageError::new(ErrorCode::Corrupt, damaged).because(error)
    })?;
    Ok((LimiterState { state, gone_at: Timestamp::from_micros(gone_at) }, Some(stamp)))
}
