//! The operation that asks why a job is not running. Every store has to say what the model says, and what they say has to be
//! true: a claim puts it to the test.

use ferroq_core::job::Slot;
use ferroq_core::policy::explain::{Explanation, Reason};
use ferroq_core::storage::{ClaimSpec, ExchangeRequest};

use super::case::{Case, Outcomes};
use crate::model::{Answer, Call};

impl Case {
    /// Has a job explained; and then `claim`s whatever can be claimed.
    pub(super) async fn explain(&mut self, job: u16, claim: bool) -> Outcomes {
        let Some(job) = self.world.job(job) else { return Ok(()) };
        let (at, queue, id) = (self.now(), job.queue.clone(), job.id);
        let mut told: Option<Explanation> = None;
        for side in &self.sides {
            let seen = side.fixture.storage.explain(&queue, id).await;
            let seen = seen.map_err(|error| format!("explain on {}: {error}", side.name))?;
            match &told {
                Some(first) if *first != seen => {
                    return Err(format!(
                        "explain {id}:\n  {}: {first:?}\n  {}: {seen:?}",
                        self.sides[0].name, side.name
                    ));
                }
                _ => told = Some(seen),
            }
        }
        let Some(told) = told else { return Ok(()) };
        self.told.push(format!("   explain {id}: {told}"));
        if self.sides.len() == 1 {
            self.model.check_explanation(at, &queue, id, &told).map_err(|refusal| refusal.to_string())?;
        }
        if !claim {
            return Ok(());
        }
        let mut spec = ClaimSpec { max_items: 1000, ..self.world.claim_all() };
        spec.alone = told.place.as_ref().is_some_and(|place| place.line == Slot::Solo);
        if told.reasons.iter().any(|reason| matches!(reason, Reason::Shelved { .. })) {
            spec.kinds = spec.kinds.iter().filter(|kind| **kind != job.kind).cloned().collect();
        }
        let request = ExchangeRequest { call: self.world.call_id(), queue, settlements: Vec::new(), claim: Some(spec) };
        let Answer::Exchange(answer) = self.call(Call::Exchange(request), false).await? else {
            return Err("an exchange had no answer of its own".to_owned());
        };
        let handed_out = answer.claimed.iter().flat_map(|claimed| &claimed.claims).any(|claim| claim.lease.id == id);
        // Jobs that come into line with the claim may make up the batch that others wait for.
        let may_form = matches!(told.reasons[..], [Reason::AtGate { .. }]);
        match (told.reasons.is_empty() || may_form, told.is_ready, handed_out) {
            (false, _, true) => Err(format!("a claim hands out {id} although something stands in its way: {told}")),
            (_, true, false) => Err(format!("a claim does not hand out {id} although it is ready: {told}")),
            _ => Ok(()),
        }
    }
}
