//! Order by (priority, seq) within a lane: a claim hands out a lane's jobs in that order, and right after it no job of the lane
//! stands in line before one that was handed out.

use std::collections::BTreeMap;

use ferroq_core::job::{JobRecord, JobState, LaneKey, Priority, Slot};
use ferroq_core::policy::dedup::DedupMode;

use super::{History, Step};
use crate::model::{Answer, Call};

pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    for (step, pair) in history.steps.windows(2).enumerate() {
        let [Step::Call { call: Call::Exchange(request), answer: Answer::Exchange(answer), repeat: false, .. }, after] =
            pair
        else {
            continue;
        };
        let Some(claimed) = &answer.claimed else { continue };
        if claimed.claims.iter().any(|claim| claim.solo) && claimed.claims.len() > 1 {
            return Err((step, "a job that must run alone was not handed out alone".to_owned()));
        }
        let Step::Seen(snapshot) = after else { continue };
        let Some(queue) = snapshot.queues.get(&request.queue) else { continue };
        let slot = if claimed.claims.iter().any(|claim| claim.solo) { Slot::Solo } else { Slot::Lane };
        // A job that is pending behind a key's holder comes into line when the holder leaves, which the claim itself may
        // bring about, by finding it expired: then it comes after those that the claim looked at.
        let was_pending =
            |job: &&JobRecord| matches!(&job.spec.dedup, Some(dedup) if dedup.mode == DedupMode::KeepLatest);
        let in_line = queue.jobs.iter().filter(|job| job.state == JobState::Waiting && job.slot == slot);
        // So does one that leads its batch from now on, because the one that led it had expired.
        let in_line: Vec<_> = in_line.filter(|job| !was_pending(job) && job.batch.is_none()).collect();
        // Between lanes turns decide, and limits; within one nobody is passed over.
        let mut last: BTreeMap<&LaneKey, (Priority, i64)> = BTreeMap::new();
        for claim in &claimed.claims {
            let Some(job) = queue.jobs.iter().find(|job| job.id() == claim.lease.id) else { continue };
            let place = (job.priority, job.seq);
            if let Some(before) = last.insert(&job.spec.lane, place).filter(|before| *before >= place) {
                return Err((step, format!("{before:?} was handed out before {place:?}")));
            }
        }
        let is_late = |job: &&&JobRecord| last.get(&job.spec.lane).is_some_and(|last| (job.priority, job.seq) < *last);
        if let Some(job) = in_line.iter().find(is_late) {
            return Err((step, format!("{} was passed over by a later job", job.id())));
        }
    }
    Ok(())
}
