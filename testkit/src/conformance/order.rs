//! In which order jobs are served: by priority, then by seq, whatever happened to them meanwhile.

use super::prelude::*;

topic! {
    ($) order, __conformance_order:
    jobs_of_one_priority_are_served_first_in_first_out,
    a_lower_priority_number_is_served_sooner,
    the_extreme_priorities_are_ordered,
    a_lifo_job_goes_first_in_its_priority,
    a_released_job_keeps_its_place,
    a_job_whose_run_failed_keeps_its_place,
    a_job_whose_lease_was_lost_keeps_its_place,
    a_promoted_job_takes_the_place_of_its_seq,
    lanes_without_policies_take_turns_all_the_same,
}

async fn jobs_of_one_priority_are_served_first_in_first_out(t: &mut Scene) {
    let mut put = t.put_many(5).await;
    put.extend(t.put_many(5).await);
    let mut served = ids(&t.claim(3).await);
    served.extend(ids(&t.claim(10).await));
    assert_eq!(served, put);
}

async fn a_lower_priority_number_is_served_sooner(t: &mut Scene) {
    let put = t.put([5, 1, 9, 1, 5].map(|priority| t.spec().priority(priority))).await;
    let served = ids(&t.claim(10).await);
    assert_eq!(served, [put[1], put[3], put[0], put[4], put[2]]);
}

async fn the_extreme_priorities_are_ordered(t: &mut Scene) {
    let put = t.put([255, 128, 127, 0].map(|priority| t.spec().priority(priority))).await;
    let served = ids(&t.claim(10).await);
    assert_eq!(served, [put[3], put[2], put[1], put[0]]);
}

async fn a_lifo_job_goes_first_in_its_priority(t: &mut Scene) {
    let jobs = [t.spec(), t.spec().lifo(), t.spec().lifo(), t.spec().priority(1), t.spec().priority(200).lifo()];
    let put = t.put(jobs).await;
    let served = ids(&t.claim(10).await);
    assert_eq!(served, [put[3], put[2], put[1], put[0], put[4]]);
}

async fn a_released_job_keeps_its_place(t: &mut Scene) {
    let put = t.put_many(3).await;
    let claim = t.claim_one().await;
    assert_eq!(t.settle(claim.lease, released()).await, settled(JobState::Waiting));
    assert_eq!(ids(&t.claim(3).await), put);
}

async fn a_job_whose_run_failed_keeps_its_place(t: &mut Scene) {
    let put = t.put_many(3).await;
    let claim = t.claim_one().await;
    assert_eq!(t.settle(claim.lease, fail(SECOND)).await, settled(JobState::Delayed));
    t.advance(SECOND);
    assert_eq!(ids(&t.claim(3).await), put);
}

async fn a_job_whose_lease_was_lost_keeps_its_place(t: &mut Scene) {
    let put = t.put_many(3).await;
    t.claim_one().await;
    assert_eq!(t.let_leases_expire().await.stalled, 1);
    assert_eq!(ids(&t.claim(3).await), put);
}

async fn a_promoted_job_takes_the_place_of_its_seq(t: &mut Scene) {
    let put = t.put([t.spec().delay(2 * SECOND), t.spec().delay(SECOND), t.spec()]).await;
    t.advance(2 * SECOND);
    assert_eq!(ids(&t.claim(3).await), put);
}

async fn lanes_without_policies_take_turns_all_the_same(t: &mut Scene) {
    let in_lane = |name: &str| t.spec().lane(name);
    let put = t.put([in_lane("a/1"), t.spec(), in_lane("b"), in_lane("a/1").priority(1), in_lane("a/2")]).await;
    assert_eq!(ids(&t.claim(10).await), [put[3], put[0], put[1], put[2], put[4]]);
}
