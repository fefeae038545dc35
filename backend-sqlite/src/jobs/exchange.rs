//! Settle and claim in one atomic unit: a worker's steady state. What both need is asked in one command; only where a
//! settlement, a due job or a shelf changes the line is it read again.

use ferroq_core::job::QueueName;
use ferroq_core::storage::{ClaimSpec, ExchangeAnswer, ExchangeRequest, SettleAnswer, Settlement, StorageError};

use crate::error::invalid;
use crate::jobs::claim::{line_ask, next_due_ask};
use crate::row::Row;
use crate::unit::{NOTHING, Unit, first_int, ids_ask};

/// Refuses requests that make no sense, before anything is done.
pub(crate) fn check(request: &ExchangeRequest) -> Result<(), StorageError> {
    for settlement in &request.settlements {
        for job in &settlement.follow_ups {
            super::enqueue::check(&job.queue, [job])?;
        }
    }
    if let Some(claim) = &request.claim {
        if claim.max_items == 0 {
            return Err(invalid("a claim asks for 0 items; ask for at least 1"));
        }
        if claim.term < std::time::Duration::from_millis(1) {
            return Err(invalid("a claim asks for a lease of less than a millisecond"));
        }
    }
    Ok(())
}

impl Unit<'_> {
    /// Settles and claims.
    pub(crate) async fn exchange(
        &mut self,
        queue: &QueueName,
        settlements: &[Settlement],
        claim: Option<&ClaimSpec>,
    ) -> Result<ExchangeAnswer, StorageError> {
        let loaded = self.loaded(queue);
        let guess = loaded.map(|at| self.queues[at].number).or_else(|| self.names.queue_number(queue));
        let number = match guess {
            Some(number) => number,
            None => match self.queue(queue).await? {
                Some(at) => self.queues[at].number,
                None => return Ok(nothing(settlements, claim)),
            },
        };
        let loaded = self.loaded(queue);
        let ids = settlements.iter().map(|settlement| &settlement.lease.id);
        let [queue_rows, settle_rows, due_rows, line_rows] = self
            .ask([
                if loaded.is_some() { (NOTHING, vec![]) } else { self.queue_ask(queue) },
                if settlements.is_empty() { (NOTHING, vec![]) } else { ids_ask(number, ids) },
                if claim.is_some() { next_due_ask(number) } else { (NOTHING, vec![]) },
                claim.map_or((NOTHING, vec![]), |claim| line_ask(number, claim.max_items)),
            ])
            .await?;
        let at = match loaded {
            Some(at) => at,
            None => match self.load(queue, &queue_rows)? {
                Some(at) if self.queues[at].number == number => at,
                // The queue was obliterated and made anew since its number was learnt: what was read is of the old one.
                Some(_) => return Box::pin(self.exchange(queue, settlements, claim)).await,
                None => return Ok(nothing(settlements, claim)),
            },
        };
        self.attend(at).await?;
        let rows = self.rows(&settle_rows, false).await?;
        let rows = rows.into_iter().map(|row: Row| (row.id, row)).collect();
        let settled = self.settle(at, settlements, rows).await?;
        let claimed = match claim {
            None => None,
            Some(claim) => {
                let read = (!settled.line_changed).then_some((first_int(&due_rows), line_rows));
                Some(self.claim(at, claim, read).await?)
            }
        };
        self.queues[at].attend();
        Ok(ExchangeAnswer { settled: settled.answers, claimed })
    }
}

/// The answer about a queue that does not exist.
fn nothing(settlements: &[Settlement], claim: Option<&ClaimSpec>) -> ExchangeAnswer {
    ExchangeAnswer {
        settled: settlements.iter().map(|_| SettleAnswer::Gone).collect(),
        claimed: claim.map(|_| Default::default()),
    }
}
