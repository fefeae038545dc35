//! Order by (priority, seq) within a line: a claim hands out jobs in that order, and right after it no job of its kinds
//! stands in the line before one that was handed out.

use ferroq_core::job::{JobRecord, JobState, Slot};
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
        let place = |id| queue.jobs.iter().find(|job| job.id() == id).map(|job| (job.priority, job.seq));
        let places: Vec<_> = claimed.claims.iter().filter_map(|claim| place(claim.lease.id)).collect();
        if let Some(pair) = places.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err((step, format!("{:?} was handed out before {:?}", pair[0], pair[1])));
        }
        let slot = if claimed.claims.iter().any(|claim| claim.solo) { Slot::Solo } else { Slot::Lane };
        // A job that is pending behind a key's holder comes into line when the holder leaves, which the claim itself may
        // bring about, by finding it expired: then it comes after those that the claim looked at.
        let was_pending =
            |job: &&JobRecord| matches!(&job.spec.dedup, Some(dedup) if dedup.mode == DedupMode::KeepLatest);
        let in_line = queue.jobs.iter().filter(|job| job.state == JobState::Waiting && job.slot == slot);
        let in_line = in_line.filter(|job| !was_pending(job));
        let passed_over = places.last().and_then(|last| in_line.clone().find(|job| (job.priority, job.seq) < *last));
        if let Some(job) = passed_over {
            return Err((step, format!("{} was passed over by a later job", job.id())));
        }
    }
    Ok(())
}
