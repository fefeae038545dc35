//! What differs between what was expected and what was seen, in as few lines as will do: a failing property prints
//! these, and nobody reads two records of twenty fields each to find the one that is wrong.

use std::fmt::Debug;

use ferroq_core::job::JobRecord;
use ferroq_core::storage::{Claim, ClaimAnswer, MembersAnswer, MembersPage};

use super::Answer;
use super::walks::plain;

/// The differences between two answers; none if they mean the same.
pub fn differences(expected: &Answer, seen: &Answer) -> Vec<String> {
    match (expected, seen) {
        (Answer::Act(a), Answer::Act(b)) => {
            let mut wrong = debug_differences("answers", &a.answers, &b.answers);
            wrong.extend(debug_differences("next", &a.next.map(plain), &b.next.map(plain)));
            wrong
        }
        (Answer::Exchange(a), Answer::Exchange(b)) => {
            let mut wrong = debug_differences("settled", &a.settled, &b.settled);
            match (&a.claimed, &b.claimed) {
                (Some(a), Some(b)) => wrong.extend(claim_differences(a, b)),
                (a, b) => wrong.extend(debug_differences("claimed", a, b)),
            }
            wrong
        }
        (Answer::Members(MembersAnswer::Page(a)), Answer::Members(MembersAnswer::Page(b))) => {
            let full = |page: &MembersPage| page.members.iter().map(claim_text).collect::<Vec<_>>();
            let mut wrong = debug_differences("members", &full(a), &full(b));
            wrong.extend(debug_differences("page", &(a.next, a.formed), &(b.next, b.formed)));
            wrong
        }
        (a, b) => debug_differences("answer", a, b),
    }
}

fn claim_differences(expected: &ClaimAnswer, seen: &ClaimAnswer) -> Vec<String> {
    let full = |claims: &[Claim]| claims.iter().map(claim_text).collect::<Vec<_>>();
    let mut wrong = debug_differences("claims", &full(&expected.claims), &full(&seen.claims));
    wrong.extend(debug_differences("more", &expected.more, &seen.more));
    wrong.extend(debug_differences("look_again", &expected.look_again, &seen.look_again));
    wrong.extend(debug_differences("solo_waiting", &expected.solo_waiting, &seen.solo_waiting));
    wrong.extend(debug_differences("solo_held", &expected.solo_held, &seen.solo_held));
    if wrong.is_empty() && expected != seen {
        wrong.push("a claim's specification or checkpoint differs".to_owned());
    }
    wrong
}

/// Claim's own Debug leaves most of it out.
fn claim_text(claim: &Claim) -> String {
    format!(
        "{:?} run {}, coalesced {}, attempts {}, crashes {}, created {}, started {}, checkpoint {:?}, solo {}, batch {:?}",
        claim.lease,
        claim.run,
        claim.coalesced,
        claim.attempts,
        claim.crashes,
        claim.created_at,
        claim.started_at,
        claim.checkpoint,
        claim.solo,
        claim.batch
    )
}

/// The fields in which two records of one job differ.
pub fn record_differences(expected: &JobRecord, seen: &JobRecord) -> Vec<String> {
    if expected == seen {
        return Vec::new();
    }
    let fields = |job: &JobRecord| match serde_json::to_value(job) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (expected_fields, seen_fields) = (fields(expected), fields(seen));
    let mut wrong: Vec<String> = expected_fields
        .iter()
        .filter(|(name, value)| seen_fields.get(*name) != Some(value))
        .map(|(name, value)| {
            let other = seen_fields.get(name).map_or_else(|| "nothing".to_owned(), ToString::to_string);
            format!("{} ({}): {name}: expected {value}, seen {other}", expected.spec.id, expected.state)
        })
        .collect();
    if wrong.is_empty() {
        wrong.push(format!("{}: expected {expected:?}, seen {seen:?}", expected.spec.id));
    }
    wrong
}

/// One line that shows both values, if they differ.
pub(super) fn debug_differences<T: Debug + PartialEq>(what: &str, expected: &T, seen: &T) -> Vec<String> {
    if expected == seen {
        Vec::new()
    } else {
        vec![format!("{what}: expected {expected:?}\n    {what}: seen     {seen:?}")]
    }
}
