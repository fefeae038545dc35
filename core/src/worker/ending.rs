//! How the loop comes to its end: what each phase of a shutdown asks for, and when there is nothing left to wait for.

use std::collections::HashSet;

use tokio::time::Instant;
use tracing::warn;

use super::line::Line;
use super::shutdown::{LAST_WORDS, Phases};
use super::turn::Turn;
use crate::context::StopReason;
use crate::job::QueueName;
use crate::storage::{Outcome, Settlement};

impl<S: Send + Sync + 'static> Turn<S> {
    /// Does what the phase of the shutdown asks for.
    pub(super) fn follow_phases(&mut self) {
        if self.phases.abort.is_cancelled() && !self.dropped {
            self.stop_all();
            self.drop_all();
        } else if self.phases.stop.is_cancelled() && self.drop_at.is_none() {
            self.stop_all();
            self.drop_at = Some(Instant::now() + LAST_WORDS);
        } else if self.drop_at.is_some_and(|at| Instant::now() >= at) && !self.dropped {
            self.drop_all();
        }
    }

    fn stop_all(&self) {
        for line in &self.lines {
            line.registry.stop_all(StopReason::Shutdown);
        }
    }

    /// Drops the handlers that still run, and gives their jobs back. A handler that blocks its thread can't be dropped;
    /// its lease is given back all the same, and the epoch keeps it from writing to the job.
    fn drop_all(&mut self) {
        self.dropped = true;
        for line in &self.lines {
            line.registry.abort_all();
        }
        // What ended until now counts. What comes later finds the door closed: its lease is given back below.
        self.ends.close();
        self.collect();
        for line in &mut self.lines {
            let settled: HashSet<_> = line.done.iter().map(|settlement| settlement.lease).collect();
            for lease in line.registry.leases().into_iter().filter(|lease| !settled.contains(lease)) {
                line.add_done(Settlement { lease, outcome: Outcome::Release, follow_ups: Vec::new() });
            }
        }
        if self.solo {
            self.client.gate().leave_solo();
        } else {
            self.client.gate().leave(self.running);
        }
        self.solo = false;
        self.running = 0;
    }

    /// Whether the loop is over.
    pub(super) async fn is_finished(&mut self) -> bool {
        if self.running > 0 {
            return false;
        }
        let unsettled: usize = self.lines.iter().map(|line| line.done.len()).sum();
        if self.phases.drain.is_cancelled() {
            if unsettled > 0 && self.dropped && self.lines.iter().any(|line| line.down.is_some()) {
                warn!(
                    unsettled,
                    "ended with outcomes that the storage did not take; the jobs run again when their leases run out"
                );
                return true;
            }
            return unsettled == 0;
        }
        if !self.until_idle || unsettled > 0 || self.lines.iter().any(|line| line.ready || line.down.is_some()) {
            return false;
        }
        let queues: Vec<QueueName> = self.lines.iter().map(|line| line.name.clone()).collect();
        // Twice over, because a job may move from a queue that is not counted yet to one that was.
        for queue in queues.iter().chain(&queues) {
            match self.storage.counts(queue).await {
                Err(_) => return false,
                Ok(counts) => {
                    let shelved: u64 = counts.shelved.iter().map(|(_, jobs)| jobs).sum();
                    let in_line = if counts.paused { 0 } else { counts.waiting.saturating_sub(shelved) };
                    let line = self.lines.iter_mut().find(|line| line.name == *queue);
                    let held_back = |line: &mut Line| line.are_held_back(in_line);
                    if counts.active > 0 || in_line > 0 && !line.is_some_and(held_back) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// Ready when a shutdown is so far gone that a call that still hangs is given up.
pub(super) async fn out_of_patience(phases: &Phases) {
    tokio::select! {
        () = phases.stop.cancelled() => {}
        () = phases.abort.cancelled() => {}
    }
    tokio::time::sleep(LAST_WORDS * 2).await;
}
