//! Settle and claim in one atomic unit: a worker's steady state. What both need is asked in one command; only where a
//! settlement, a due job or a shelf changes the line is it read again.

use std::collections::HashMap;

use ferroq_core::job::{JobId, JobState, QueueName, Slot};
use ferroq_core::storage::{ClaimSpec, ExchangeAnswer, ExchangeRequest, SettleAnswer, Settlement, StorageError};
use sqlx::sqlite::SqliteRow;

use crate::error::invalid;
use crate::jobs::claim::line_ask;
use crate::memory::{oldest_ask, read_oldest};
use crate::row::Row;
use crate::unit::{NOTHING, Unit, ids_ask};

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
        let loaded = self.recall(queue);
        let guess = loaded.map(|at| self.queues[at].number).or_else(|| self.names.queue_number(queue));
        let number = match guess {
            Some(number) => number,
            None => match self.queue(queue).await? {
                Some(at) => self.queues[at].number,
                None => return Ok(nothing(settlements, claim)),
            },
        };
        let loaded = self.loaded(queue);
        let remembered = self.handed_out(queue, settlements);
        let mut line = claim.and_then(|claim| self.line_ahead(loaded?, claim));
        let none = || (NOTHING, vec![]);
        let ids = settlements.iter().map(|settlement| &settlement.lease.id);
        // Lanes are asked for one by one, once it is known whose turn it is.
        let one_line = loaded.is_none_or(|at| self.queues[at].lanes.is_plain(&self.queues[at].config));
        let (ask_line, ask_oldest) =
            (claim.filter(|_| line.is_none() && one_line), loaded.map_or(0, |at| self.oldest_wanted(at, settlements)));
        let asks = [
            if loaded.is_some() { none() } else { self.queue_ask(queue) },
            if settlements.is_empty() || remembered.is_some() { none() } else { ids_ask(number, ids) },
            ask_line.map_or_else(none, |claim| line_ask(number, Slot::Lane, claim.max_items, claim.max_bytes)),
            match loaded {
                Some(at) if ask_oldest > 0 => oldest_ask(&self.queues[at], ask_oldest),
                _ => none(),
            },
        ];
        let mut settle_rows = Vec::new();
        let at = if asks.iter().all(|(sql, _)| *sql == NOTHING)
            && let Some(at) = loaded
        {
            at
        } else {
            let [queue_rows, found, line_rows, oldest] = self.ask(asks).await?;
            settle_rows = found;
            let at = match loaded {
                Some(at) => at,
                None => match self.load(queue, &queue_rows)? {
                    Some(at) if self.queues[at].number == number => at,
                    // The queue was obliterated and made anew since its number was learnt: what was read is of the old
                    // one.
                    Some(_) => return Box::pin(self.exchange(queue, settlements, claim)).await,
                    None => return Ok(nothing(settlements, claim)),
                },
            };
            if ask_line.is_some() {
                line = Some(line_rows);
            }
            if ask_oldest > 0 {
                self.queues[at].oldest = read_oldest(&oldest);
            }
            at
        };
        self.attend(at).await?;
        let rows = match remembered {
            Some(rows) => rows,
            None => self.rows(&settle_rows, false).await?.into_iter().map(|row: Row| (row.id, row)).collect(),
        };
        let settled = self.settle(at, settlements, rows).await?;
        let claimed = match claim {
            None => None,
            Some(claim) => {
                let line = line.filter(|_| !settled.line_changed);
                Some(self.claim(at, claim, line).await?)
            }
        };
        self.queues[at].attend();
        Ok(ExchangeAnswer { settled: settled.answers, claimed })
    }

    /// The rows that settlements are about, if this writer handed out all of them and remembers them.
    fn handed_out(&mut self, queue: &QueueName, settlements: &[Settlement]) -> Option<HashMap<JobId, Row>> {
        let active = self.active.get_mut(queue)?;
        if !settlements.iter().all(|settlement| active.contains_key(&settlement.lease.id)) {
            // What is settled is not to be remembered as Active.
            for settlement in settlements {
                active.remove(&settlement.lease.id);
            }
            return None;
        }
        Some(settlements.iter().filter_map(|settlement| active.remove_entry(&settlement.lease.id)).collect())
    }

    /// The answer to [`line_ask`], if it was read ahead or is known to be nothing.
    fn line_ahead(&mut self, at: usize, claim: &ClaimSpec) -> Option<Vec<SqliteRow>> {
        let queue = &self.queues[at];
        let ahead = self.ahead.take().filter(|(name, _)| *name == queue.name).map(|(_, ahead)| ahead);
        if queue.in_line() <= 0 && queue.count(JobState::Delayed) <= 0 {
            return Some(Vec::new());
        }
        let ahead = ahead.filter(|ahead| ahead.items >= claim.max_items)?;
        self.queues[at].oldest = ahead.oldest;
        Some(ahead.line)
    }

    /// How many completed records should be read because they may have to go.
    fn oldest_wanted(&self, at: usize, settlements: &[Settlement]) -> usize {
        let queue = &self.queues[at];
        if !queue.oldest.is_empty() || !queue.may_prune(settlements.len()) { 0 } else { settlements.len() }
    }
}

/// The answer about a queue that does not exist.
fn nothing(settlements: &[Settlement], claim: Option<&ClaimSpec>) -> ExchangeAnswer {
    ExchangeAnswer {
        settled: settlements.iter().map(|_| SettleAnswer::Gone).collect(),
        claimed: claim.map(|_| Default::default()),
    }
}
