//! What the topics about lanes and limits speak of: a lane's name, policies that say one thing each, and in which lanes the
//! jobs of a claim were.

use std::collections::BTreeMap;

pub(super) use ferroq_core::job::{LaneClass, LaneKey};
pub(super) use ferroq_core::policy::batch::{BatchGate, GATHER_ITEMS_MAX};
pub(super) use ferroq_core::policy::lanes::{
    ClassPolicy, LANES_BACK_MAX, LANES_SET_ASIDE_MAX, LanePolicy, LaneRules, Say, StartLimits,
};
pub(super) use ferroq_core::policy::rate::Rate;

use super::prelude::*;

pub(super) const MICRO: Duration = Duration::from_micros(1);

pub(super) fn lane(name: &str) -> LaneKey {
    LaneKey::new(name).expect("a lane that follows the rule for names")
}

pub(super) fn class(name: &str) -> LaneClass {
    LaneClass::new(name).expect("a class that follows the rule for names")
}

/// At most so many Active at once.
pub(super) fn slots(concurrency: u32) -> LanePolicy {
    LanePolicy { concurrency: Say::Limit(concurrency), ..LanePolicy::default() }
}

/// At most so many starts in a span of time.
pub(super) fn starts(rate: &Rate) -> LanePolicy {
    LanePolicy { rate: Say::Limit(rate.clone()), ..LanePolicy::default() }
}

/// So many quanta a turn.
pub(super) fn weight(weight: u32) -> LanePolicy {
    LanePolicy { weight: Some(weight), ..LanePolicy::default() }
}

/// Nothing starts.
pub(super) fn paused() -> LanePolicy {
    LanePolicy { paused: true, ..LanePolicy::default() }
}

/// Limits of a queue, or of all lanes of a class together.
pub(super) fn at_once(concurrency: u32) -> StartLimits {
    StartLimits { concurrency: Some(concurrency), rate: None }
}

/// The same for the starts in a span of time.
pub(super) fn per(rate: &Rate) -> StartLimits {
    StartLimits { concurrency: None, rate: Some(rate.clone()) }
}

/// Jobs start together: so many, or when the first has waited so long.
pub(super) fn batches(size: u32, max_wait: Duration) -> LanePolicy {
    LanePolicy { batch: Say::Limit(BatchGate::new(size, max_wait)), ..LanePolicy::default() }
}

/// All members of the batch that this claim leads.
pub(super) async fn members(t: &Scene, leader: &Claim) -> Vec<Claim> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let (queue, lease) = (t.queue.clone(), leader.lease);
        let request = MembersRequest { queue, lease, after, max_items: 1000, max_bytes: usize::MAX };
        let MembersAnswer::Page(page) = t.storage().members(request).await.expect("members") else {
            panic!("{lease:?} is current and leads a batch")
        };
        all.extend(page.members);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// Stores what the queue as a whole may do.
pub(super) async fn set_limits(t: &Scene, limits: StartLimits) {
    t.configure(|config| config.limits = limits).await;
}

/// Stores a lane's own policy.
pub(super) async fn set_lane(t: &Scene, name: &str, policy: LanePolicy) {
    t.storage().configure_lane(&t.queue, &lane(name), Some(policy)).await.expect("configure_lane");
}

/// Removes a lane's own policy.
pub(super) async fn clear_lane(t: &Scene, name: &str) {
    t.storage().configure_lane(&t.queue, &lane(name), None).await.expect("configure_lane");
}

/// Stores what each lane of a class may do.
pub(super) async fn set_each(t: &Scene, name: &str, policy: LanePolicy) {
    t.configure(|config| config.lanes.classes.entry(class(name)).or_default().each = policy).await;
}

/// Stores what all lanes of a class may do together.
pub(super) async fn set_total(t: &Scene, name: &str, limits: StartLimits) {
    t.configure(|config| config.lanes.classes.entry(class(name)).or_default().total = limits).await;
}

/// Enqueues `count` jobs in a lane.
pub(super) async fn put_in(t: &Scene, name: &str, count: usize) -> Vec<JobId> {
    t.put((0..count).map(|_| t.spec().lane(name))).await
}

/// The lane of each claim, in their order; the default lane as the empty text.
pub(super) fn lanes_of(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.spec.lane.name().unwrap_or_default()).collect()
}

/// How many claims there are of each lane.
pub(super) fn by_lane(claims: &[Claim]) -> BTreeMap<String, usize> {
    let mut lanes = BTreeMap::new();
    for name in lanes_of(claims) {
        *lanes.entry(name.to_owned()).or_default() += 1;
    }
    lanes
}

/// Completes all of them.
pub(super) async fn complete(t: &Scene, claims: &[Claim]) {
    let settlements = claims.iter().map(|claim| settlement(claim.lease, completed())).collect();
    for answer in t.settle_all(settlements).await {
        assert_eq!(answer, settled(JobState::Completed));
    }
}

/// So many of each lane.
pub(super) fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.map(|(name, count)| (name.to_owned(), count)).into()
}

/// Claims as much as it can, completes it, and answers how many there were and when to look again.
pub(super) async fn start_all(t: &Scene) -> (usize, Option<Duration>) {
    let answer = t.claim_as(t.asking(1000)).await;
    complete(t, &answer.claims).await;
    (answer.claims.len(), answer.look_again)
}

/// Claims and completes one job after another until none comes, and answers their lanes.
pub(super) async fn work_off(t: &Scene) -> Vec<String> {
    let mut lanes = Vec::new();
    loop {
        let claims = t.claim(1).await;
        if claims.is_empty() {
            return lanes;
        }
        lanes.extend(lanes_of(&claims).iter().map(|name| (*name).to_owned()));
        complete(t, &claims).await;
    }
}

/// Takes the queue away with all that belongs to it, and the claims of it too.
pub(super) async fn obliterate(t: &Scene) {
    for _ in 0..1000 {
        match t.storage().obliterate(&t.queue, true, 100).await.expect("obliterate") {
            ObliterateAnswer::Done => return,
            ObliterateAnswer::More(_) => {}
            ObliterateAnswer::Active(active) => panic!("{active} jobs are active, and it was forced"),
        }
    }
    panic!("the obliteration does not end");
}
