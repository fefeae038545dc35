//! How long a gate waits: for the job of the line that came due first, wherever in the line it stands, and for as long as
//! it stands there.

use ferroq_core::policy::explain::Reason;

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) gate_waits, __conformance_gate_waits:
    a_job_that_overtakes_makes_no_older_one_wait_longer,
    a_job_that_is_retried_makes_no_other_wait_longer,
    a_job_that_left_its_line_opens_no_gate,
    an_expired_job_opens_a_gate_for_nobody_else,
    a_shelved_job_opens_a_gate_for_nobody_else,
    a_job_that_comes_off_its_shelf_opens_the_gate_at_once,
    a_job_that_was_promoted_late_makes_its_lane_wait_for_less,
    those_that_a_full_batch_left_wait_as_long_as_they_would_have,
    a_job_that_was_put_first_counts_wherever_it_stands,
    a_changed_gate_counts_the_time_waited,
    the_first_thousand_of_a_line_are_looked_at,
    a_job_from_before_a_step_back_counts_as_of_the_step,
    a_restored_job_counts_from_when_it_came_due,
    a_restored_job_that_is_due_later_than_now_counts_as_of_now,
}

/// Every lane waits for so many jobs, or for a minute.
async fn gate(t: &Scene, size: u32) {
    t.configure(|config| config.lanes.every = batches(size, MINUTE)).await;
}

/// A claim finds nothing, and both it and an explanation say how long the lane of this job still waits.
async fn waits(t: &Scene, job: JobId, span: Duration) {
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((ids(&answer.claims), answer.more, answer.look_again), (vec![], false, Some(span)));
    assert_eq!(told(t, job).await, Some(t.clock().after(span)));
}

/// Until when the gate of a job's lane holds it, by its explanation.
async fn told(t: &Scene, job: JobId) -> Option<Timestamp> {
    let reasons = t.storage().explain(&t.queue, job).await.expect("explain").reasons;
    let [Reason::AtGate { until, .. }] = reasons[..] else {
        assert_eq!(reasons, [], "only its gate may hold {job}");
        return None;
    };
    Some(until)
}

/// The gate opens now, for a batch of these.
async fn opens(t: &Scene, jobs: &[JobId]) -> Claim {
    let leader = t.claim_one().await;
    assert_eq!(leader.lease.id, jobs[0]);
    assert_eq!(ids(&members(t, &leader).await), jobs[1..]);
    leader
}

async fn put(t: &Scene, job: JobSpec) -> JobId {
    t.put_one(job.lane("a")).await
}

/// The gate went by the job at the head of the line, so that each that overtook the others made them wait for a minute more.
async fn a_job_that_overtakes_makes_no_older_one_wait_longer(t: &mut Scene) {
    gate(t, 100).await;
    let first = put(t, t.spec().priority(128)).await;
    t.advance(50 * SECOND);
    let second = put(t, t.spec().priority(1)).await;
    t.advance(SECOND);
    assert_eq!(told(t, first).await, Some(t.clock().after(9 * SECOND)), "before anybody claims");
    waits(t, second, 9 * SECOND).await;
    t.advance(9 * SECOND - MICRO);
    waits(t, first, MICRO).await;
    t.advance(MICRO);
    opens(t, &[second, first]).await;
}

async fn a_job_that_is_retried_makes_no_other_wait_longer(t: &mut Scene) {
    gate(t, 100).await;
    let retried = put(t, t.spec()).await;
    t.advance(MINUTE);
    let leader = opens(t, &[retried]).await;
    t.advance(10 * SECOND);
    let other = put(t, t.spec()).await;
    t.settle(leader.lease, fail(20 * SECOND)).await;
    t.advance(30 * SECOND);
    waits(t, retried, 30 * SECOND).await;
    t.advance(30 * SECOND);
    opens(t, &[retried, other]).await;
}

/// What the gate once went by was kept after that job had left, so that others ran before they had waited at all.
async fn a_job_that_left_its_line_opens_no_gate(t: &mut Scene) {
    gate(t, 100).await;
    let acts = [
        (Act::Cancel, JobState::Cancelled),
        (Act::Remove, JobState::Waiting),
        (Act::Reschedule(Start::After(HOUR)), JobState::Delayed),
    ];
    for (act, state) in acts {
        let first = put(t, t.spec()).await;
        waits(t, first, MINUTE).await;
        t.advance(50 * SECOND);
        let second = put(t, t.spec()).await;
        t.advance(5 * SECOND);
        assert_eq!(t.act(first, act).await, ActAnswer::Done(state));
        t.advance(5 * SECOND);
        waits(t, second, 50 * SECOND).await;
        t.advance(50 * SECOND);
        let leader = opens(t, &[second]).await;
        t.settle(leader.lease, completed()).await;
    }
}

async fn an_expired_job_opens_a_gate_for_nobody_else(t: &mut Scene) {
    gate(t, 100).await;
    put(t, t.spec().expires_in(10 * SECOND)).await;
    t.advance(50 * SECOND);
    let second = put(t, t.spec()).await;
    t.advance(10 * SECOND);
    waits(t, second, 50 * SECOND).await;
    assert_eq!(t.counts().await.failed, 1);
}

async fn a_shelved_job_opens_a_gate_for_nobody_else(t: &mut Scene) {
    gate(t, 100).await;
    put(t, t.spec().of_kind("rare")).await;
    t.advance(50 * SECOND);
    let second = put(t, t.spec()).await;
    t.advance(10 * SECOND);
    waits(t, second, 50 * SECOND).await;
    assert_eq!(t.counts().await.shelved.len(), 1);
}

async fn a_job_that_comes_off_its_shelf_opens_the_gate_at_once(t: &mut Scene) {
    gate(t, 100).await;
    let shelved = put(t, t.spec().of_kind("rare")).await;
    t.advance(MINUTE);
    assert_eq!(t.claim(10).await, []);
    let second = put(t, t.spec()).await;
    waits(t, second, MINUTE).await;
    let claims = t.claim_as(t.asking_for(&["rare", KIND], 10)).await.claims;
    assert_eq!(ids(&claims), [shelved]);
    waits(t, second, MINUTE).await;
}

async fn a_job_that_was_promoted_late_makes_its_lane_wait_for_less(t: &mut Scene) {
    set_lane(t, "a", batches(100, MINUTE)).await;
    t.put((0..1000).map(|_| t.spec().lane("b").delay(10 * SECOND))).await;
    let late = put(t, t.spec().delay(20 * SECOND)).await;
    t.advance(50 * SECOND);
    let second = put(t, t.spec()).await;
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!((lanes_of(&answer.claims), told(t, second).await), (vec!["b"], Some(t.clock().after(MINUTE))));
    // A claim promotes a thousand jobs at most, so this is the first that sees the late one in line.
    let answer = t.claim_as(t.asking(1000)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (999, Some(30 * SECOND)));
    assert_eq!(told(t, late).await, Some(t.clock().after(30 * SECOND)));
    t.advance(30 * SECOND);
    opens(t, &[late, second]).await;
}

async fn those_that_a_full_batch_left_wait_as_long_as_they_would_have(t: &mut Scene) {
    gate(t, 3).await;
    let old = [put(t, t.spec()).await, put(t, t.spec()).await];
    t.advance(50 * SECOND);
    let new = [put(t, t.spec().priority(1)).await, put(t, t.spec().priority(1)).await];
    opens(t, &[new[0], old[0], new[1]]).await;
    waits(t, old[1], 10 * SECOND).await;
    t.advance(10 * SECOND);
    opens(t, &old[1..]).await;
}

async fn a_job_that_was_put_first_counts_wherever_it_stands(t: &mut Scene) {
    gate(t, 100).await;
    let first = put(t, t.spec().lifo()).await;
    t.advance(20 * SECOND);
    let second = put(t, t.spec().lifo()).await;
    t.advance(20 * SECOND);
    let third = put(t, t.spec()).await;
    waits(t, second, 20 * SECOND).await;
    t.act(first, Act::Cancel).await;
    t.advance(20 * SECOND);
    waits(t, third, 20 * SECOND).await;
    t.act(second, Act::SetPriority(Priority(200))).await;
    t.advance(20 * SECOND);
    opens(t, &[third, second]).await;
}

async fn a_changed_gate_counts_the_time_waited(t: &mut Scene) {
    gate(t, 100).await;
    let first = put(t, t.spec()).await;
    waits(t, first, MINUTE).await;
    t.advance(30 * SECOND);
    let second = put(t, t.spec().priority(1)).await;
    t.configure(|config| config.lanes.every = batches(100, 2 * MINUTE)).await;
    waits(t, second, 90 * SECOND).await;
    t.configure(|config| config.lanes.every = batches(100, 40 * SECOND)).await;
    waits(t, second, 10 * SECOND).await;
    t.advance(10 * SECOND);
    opens(t, &[second, first]).await;
}

async fn the_first_thousand_of_a_line_are_looked_at(t: &mut Scene) {
    gate(t, 5000).await;
    let last = put(t, t.spec().priority(200)).await;
    t.advance(50 * SECOND);
    put_in(t, "a", 999).await;
    waits(t, last, 10 * SECOND).await;
    let first = put(t, t.spec().priority(1)).await;
    gate(t, 4000).await;
    waits(t, first, MINUTE).await;
    t.act(first, Act::Cancel).await;
    gate(t, 5000).await;
    waits(t, last, 10 * SECOND).await;
}

async fn a_job_from_before_a_step_back_counts_as_of_the_step(t: &mut Scene) {
    t.configure(|config| config.lanes.every = batches(100, 2 * HOUR)).await;
    let first = put(t, t.spec()).await;
    t.fixture.clock.step_back(HOUR);
    assert_eq!(told(t, first).await, Some(t.clock().after(2 * HOUR)), "before anything is written");
    t.sweep(10).await;
    t.advance(10 * MINUTE);
    let second = put(t, t.spec()).await;
    waits(t, second, 110 * MINUTE).await;
    // The clock comes to when the first came due, and goes on.
    t.advance(80 * MINUTE);
    t.configure(|config| config.lanes.every = batches(99, 2 * HOUR)).await;
    waits(t, first, 30 * MINUTE).await;
    t.act(first, Act::Cancel).await;
    t.advance(30 * MINUTE);
    waits(t, second, 10 * MINUTE).await;
    // What comes after a step back is taken for no older than it is.
    t.fixture.clock.step_back(5 * MINUTE);
    let third = put(t, t.spec().priority(1)).await;
    t.act(second, Act::Cancel).await;
    waits(t, third, 2 * HOUR).await;
}

async fn a_restored_job_counts_from_when_it_came_due(t: &mut Scene) {
    gate(t, 100).await;
    put_in(t, "b", 4).await;
    let moved = put(t, t.spec()).await;
    let mut page = t.storage().dump(&t.queue, None, 100).await.expect("dump");
    page.jobs.retain(|job| job.id() == moved);
    let to = t.another_store().await;
    to.fixture.clock.set(t.clock());
    to.advance(50 * SECOND);
    let first = put(&to, to.spec()).await;
    to.storage().restore(&to.queue, page).await.expect("restore");
    waits(&to, first, 10 * SECOND).await;
    to.advance(10 * SECOND);
    opens(&to, &[first, moved]).await;
}

async fn a_restored_job_that_is_due_later_than_now_counts_as_of_now(t: &mut Scene) {
    gate(t, 100).await;
    let moved = put(t, t.spec()).await;
    let page = t.storage().dump(&t.queue, None, 100).await.expect("dump");
    let to = t.another_store().await;
    to.fixture.clock.set(t.clock().before(HOUR));
    to.storage().restore(&to.queue, page).await.expect("restore");
    to.advance(20 * SECOND);
    let second = put(&to, to.spec().priority(1)).await;
    waits(&to, moved, 40 * SECOND).await;
    to.advance(40 * SECOND);
    opens(&to, &[second, moved]).await;
}
