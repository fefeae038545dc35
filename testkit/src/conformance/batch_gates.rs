//! The gate of a lane: when its jobs start together, who is among them, and what that counts for under limits.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) batch_gates, __conformance_batch_gates:
    a_gate_opens_at_its_size,
    a_gate_opens_when_the_first_has_waited_long_enough,
    a_gate_counts_from_when_a_delayed_job_came_due,
    a_lane_that_waits_for_its_batch_blocks_no_other,
    a_batch_holds_no_more_than_its_size,
    what_is_left_waits_for_a_batch_of_its_own,
    several_batches_of_a_lane_run_at_once,
    a_batch_ends_before_a_job_of_another_kind,
    expired_jobs_are_no_members,
    a_job_that_leaves_its_line_is_not_counted,
    a_batch_takes_one_place_under_concurrency,
    a_batch_is_one_start_under_a_rate,
    a_gate_can_be_said_of_a_lane_of_its_class_and_of_all,
    a_lane_without_a_gate_hands_out_single_jobs,
    a_changed_gate_counts_at_the_next_claim,
    a_gate_that_was_taken_away_holds_nothing_back,
    a_gate_of_no_jobs_is_refused,
    a_gate_of_one_makes_batches_of_one,
    members_are_blocked_and_have_started,
    members_free_their_keys_as_started_jobs_do,
    a_large_batch_is_gathered_in_steps,
    a_claim_gathers_one_step_for_all_its_batches,
    a_formed_batch_takes_no_more,
    a_clock_that_steps_back_holds_no_gate_for_longer_than_its_wait,
    every_handle_sees_the_job_that_opens_a_gate,
}

/// Every lane waits for so many jobs, or for a minute.
async fn gate(t: &Scene, size: u32) {
    t.configure(|config| config.lanes.every = batches(size, MINUTE)).await;
}

async fn a_gate_opens_at_its_size(t: &mut Scene) {
    gate(t, 3).await;
    let mut put = put_in(t, "org/1", 2).await;
    assert_eq!(t.claim(10).await.len(), 0, "two are not three");
    put.extend(put_in(t, "org/1", 1).await);
    let leader = t.claim_one().await;
    assert_eq!(leader.lease.id, put[0]);
    assert!(leader.batch.is_some());
    assert_eq!(ids(&members(t, &leader).await), put[1..], "in the order in which they came");
    assert_eq!(t.claim(10).await.len(), 0, "all of them are in the batch");
}

async fn a_gate_opens_when_the_first_has_waited_long_enough(t: &mut Scene) {
    gate(t, 100).await;
    let first = put_in(t, "a", 1).await;
    t.advance(SECOND * 40);
    let second = put_in(t, "a", 1).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.more, answer.look_again), (0, false, Some(SECOND * 20)));
    t.advance(SECOND * 20 - MICRO);
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MICRO));
    t.advance(MICRO);
    let leader = t.claim_one().await;
    assert_eq!(leader.lease.id, first[0]);
    assert_eq!(ids(&members(t, &leader).await), second, "the one that waited less comes along");
}

async fn a_gate_counts_from_when_a_delayed_job_came_due(t: &mut Scene) {
    gate(t, 100).await;
    t.put_one(t.spec().lane("a").delay(SECOND * 30)).await;
    t.advance(SECOND * 45);
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(SECOND * 45), "it came due 15 seconds ago");
    t.advance(SECOND * 45);
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_lane_that_waits_for_its_batch_blocks_no_other(t: &mut Scene) {
    set_lane(t, "batched", batches(100, MINUTE)).await;
    put_in(t, "batched", 99).await;
    let free = put_in(t, "free", 2).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!(ids(&answer.claims), free);
    assert!(!answer.more, "the other lane can't be served");
}

async fn a_batch_holds_no_more_than_its_size(t: &mut Scene) {
    let put = put_in(t, "a", 7).await;
    gate(t, 3).await;
    let leaders = t.claim(1).await;
    assert_eq!(ids(&leaders), put[..1]);
    assert_eq!(ids(&members(t, &leaders[0]).await), put[1..3]);
    assert_eq!(t.counts().await.waiting, 4);
}

async fn what_is_left_waits_for_a_batch_of_its_own(t: &mut Scene) {
    gate(t, 3).await;
    put_in(t, "a", 2).await;
    t.advance(SECOND * 50);
    put_in(t, "a", 2).await;
    assert_eq!(t.claim(10).await.len(), 1, "three of the four");
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (0, Some(MINUTE)), "the fourth came only now");
    t.advance(MINUTE);
    let leader = t.claim_one().await;
    assert_eq!(members(t, &leader).await.len(), 0);
}

async fn several_batches_of_a_lane_run_at_once(t: &mut Scene) {
    gate(t, 2).await;
    let put = t.put_many(6).await;
    let leaders = t.claim(10).await;
    assert_eq!(ids(&leaders), [put[0], put[2], put[4]]);
    let numbers: Vec<_> = leaders.iter().map(|leader| leader.batch.expect("a batch").0).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?} rise");
    for (leader, member) in leaders.iter().zip([put[1], put[3], put[5]]) {
        assert_eq!(ids(&members(t, leader).await), [member]);
    }
}

async fn a_batch_ends_before_a_job_of_another_kind(t: &mut Scene) {
    gate(t, 3).await;
    let put = t.put([t.spec(), t.spec(), t.spec().of_kind("another"), t.spec(), t.spec()]).await;
    let leader = t.claim_one().await;
    assert_eq!(ids(&members(t, &leader).await), put[1..2]);
    let next = t.claim_as(t.asking_for(&["another", t.spec().kind.as_str()], 10)).await.claims;
    assert_eq!(ids(&next), put[2..3], "three are left, so the gate is open");
    assert_eq!(members(t, &next[0]).await.len(), 0, "and a batch is of one kind");
}

async fn expired_jobs_are_no_members(t: &mut Scene) {
    gate(t, 4).await;
    let put = t.put([t.spec(), t.spec().expires_in(SECOND), t.spec(), t.spec()]).await;
    t.advance(SECOND * 2);
    let leader = t.claim_one().await;
    assert_eq!(leader.lease.id, put[0]);
    assert_eq!(ids(&members(t, &leader).await), put[2..]);
    let expired = t.record(put[1]).await;
    assert_eq!((expired.state, expired.failure), (JobState::Failed, Some(FailReason::Expired)));
}

async fn a_job_that_leaves_its_line_is_not_counted(t: &mut Scene) {
    gate(t, 3).await;
    let put = put_in(t, "a", 2).await;
    assert_eq!(t.claim(10).await.len(), 0);
    t.act(put[1], Act::Cancel).await;
    put_in(t, "a", 1).await;
    assert_eq!(t.claim(10).await.len(), 0, "there are two again");
    put_in(t, "a", 1).await;
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_batch_takes_one_place_under_concurrency(t: &mut Scene) {
    let mut policy = batches(3, MINUTE);
    policy.concurrency = Say::Limit(1);
    set_lane(t, "a", policy).await;
    put_in(t, "a", 9).await;
    let first = t.claim_one().await;
    assert_eq!(t.claim(10).await.len(), 0, "one batch at a time");
    let members = members(t, &first).await;
    for member in &members {
        t.settle(member.lease, completed()).await;
        assert_eq!(t.claim(10).await.len(), 0, "its leader still runs");
    }
    t.settle(first.lease, completed()).await;
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_batch_is_one_start_under_a_rate(t: &mut Scene) {
    gate(t, 10).await;
    set_limits(t, per(&Rate::per_minute(2))).await;
    put_in(t, "a", 30).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (2, Some(MINUTE)));
    t.advance(MINUTE);
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_gate_can_be_said_of_a_lane_of_its_class_and_of_all(t: &mut Scene) {
    gate(t, 2).await;
    set_each(t, "org", batches(3, MINUTE)).await;
    set_lane(t, "org/1", batches(4, MINUTE)).await;
    set_lane(t, "org/2", LanePolicy { batch: Say::Unlimited, ..LanePolicy::default() }).await;
    for name in ["x", "org/0", "org/1", "org/2"] {
        put_in(t, name, 4).await;
    }
    let claims = t.claim(100).await;
    let mut sizes = Vec::new();
    for claim in &claims {
        let size = if claim.batch.is_some() { 1 + members(t, claim).await.len() } else { 0 };
        sizes.push((claim.spec.lane.name().unwrap_or_default(), size));
    }
    sizes.sort();
    let single = ("org/2", 0);
    assert_eq!(sizes, [("org/0", 3), ("org/1", 4), single, single, single, single, ("x", 2), ("x", 2)]);
}

async fn a_lane_without_a_gate_hands_out_single_jobs(t: &mut Scene) {
    t.put_many(3).await;
    assert!(t.claim(10).await.iter().all(|claim| claim.batch.is_none()));
}

async fn a_changed_gate_counts_at_the_next_claim(t: &mut Scene) {
    gate(t, 10).await;
    put_in(t, "a", 5).await;
    assert_eq!(t.claim(10).await.len(), 0);
    gate(t, 5).await;
    let leader = t.claim_one().await;
    gate(t, 2).await;
    assert_eq!(members(t, &leader).await.len(), 4, "an open batch stays as it is");
    put_in(t, "a", 1).await;
    assert_eq!(t.claim(10).await.len(), 0);
    t.configure(|config| config.lanes.every = batches(2, Duration::ZERO)).await;
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn a_gate_that_was_taken_away_holds_nothing_back(t: &mut Scene) {
    gate(t, 10).await;
    put_in(t, "a", 5).await;
    assert_eq!(t.claim(10).await.len(), 0);
    t.configure(|config| config.lanes.every = LanePolicy::default()).await;
    assert!(t.claim(5).await.iter().all(|claim| claim.batch.is_none()));
    assert_eq!(t.counts().await.active, 5);
}

async fn a_gate_of_no_jobs_is_refused(t: &mut Scene) {
    let policy = Some(batches(0, MINUTE));
    let error = t.storage().configure_lane(&t.queue, &lane("a"), policy).await.expect_err("a size of 0");
    assert_eq!(error.code(), ErrorCode::Invalid);
    assert!(error.to_string().contains("batch"), "{error}");
}

async fn a_gate_of_one_makes_batches_of_one(t: &mut Scene) {
    gate(t, 1).await;
    t.put_many(3).await;
    let claims = t.claim(10).await;
    assert!(claims.len() == 3 && claims.iter().all(|claim| claim.batch.is_some()));
    for claim in &claims {
        assert_eq!(members(t, claim).await.len(), 0);
    }
}

async fn members_are_blocked_and_have_started(t: &mut Scene) {
    gate(t, 3).await;
    let put = put_in(t, "a", 3).await;
    let seen = t.last_event().await;
    let leader = t.claim_one().await;
    assert_eq!(t.happened_after(seen).await, put.iter().map(|id| (EventKind::Started, Some(*id))).collect::<Vec<_>>());
    let counts = t.counts().await;
    assert_eq!((counts.waiting, counts.blocked, counts.active), (0, 2, 1));
    for id in &put {
        let record = t.record(*id).await;
        assert_eq!((record.batch, record.runs, record.worker.clone()), (leader.batch, 1, t.record(put[0]).await.worker));
        assert_eq!(record.started_at, Some(leader.started_at));
    }
    let member = t.record(put[1]).await;
    assert_eq!((member.state, member.lease_until, member.epoch), (JobState::Blocked, None, leader.lease.epoch));
    let shown = &members(t, &leader).await[0];
    assert_eq!(shown.lease, Lease { id: put[1], epoch: leader.lease.epoch });
    assert_eq!((shown.run, shown.attempts, shown.crashes, shown.batch), (1, 0, 0, None));
    assert_eq!((shown.created_at, shown.started_at), (member.created_at, leader.started_at));
    assert_eq!(ids_of(t, JobState::Blocked).await, put[1..]);
}

async fn ids_of(t: &Scene, state: JobState) -> Vec<JobId> {
    t.list(JobFilter::states([state]), 1).await.iter().map(|record| record.id()).collect()
}

async fn members_free_their_keys_as_started_jobs_do(t: &mut Scene) {
    let debounced = |t: &Scene, key| t.spec().dedup(key, DedupMode::Debounce(SECOND));
    let put = t.put([debounced(t, "a"), debounced(t, "b"), t.spec().dedup("c", DedupMode::UntilFinished)]).await;
    gate(t, 3).await;
    t.advance(SECOND);
    let leader = t.claim_one().await;
    assert_eq!(members(t, &leader).await.len(), 2);
    let again = t.enqueue([debounced(t, "a"), debounced(t, "b")]).await;
    assert_eq!(again, [EnqueueAnswer::Inserted; 2], "they have started");
    let third = t.enqueue([t.spec().dedup("c", DedupMode::UntilFinished)]).await;
    assert_eq!(third, [EnqueueAnswer::Duplicate(put[2])]);
}

async fn a_large_batch_is_gathered_in_steps(t: &mut Scene) {
    let size = 2 * GATHER_ITEMS_MAX + 100;
    gate(t, size as u32).await;
    t.put_many(size).await;
    let leader = t.claim_one().await;
    assert_eq!(t.counts().await.blocked, GATHER_ITEMS_MAX as u64, "one step");
    let gathered = |members, formed| GatherAnswer::Gathered { members, formed };
    assert_eq!(gather(t, leader.lease, 500).await, gathered(1500, false));
    assert_eq!(gather(t, leader.lease, GATHER_ITEMS_MAX).await, gathered(size as u64 - 1, true));
    assert_eq!(gather(t, leader.lease, GATHER_ITEMS_MAX).await, gathered(size as u64 - 1, true), "a repeat");
    assert_eq!(members(t, &leader).await.len(), size - 1);
}

async fn a_claim_gathers_one_step_for_all_its_batches(t: &mut Scene) {
    gate(t, 600).await;
    t.put_many(1800).await;
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.more), (2, true));
    assert_eq!(t.counts().await.blocked, GATHER_ITEMS_MAX as u64);
    let [first, second] = [0, 1].map(|place| answer.claims[place].lease);
    assert_eq!(gather(t, first, 1000).await, GatherAnswer::Gathered { members: 599, formed: true });
    assert_eq!(gather(t, second, 1000).await, GatherAnswer::Gathered { members: 599, formed: true });
    assert_eq!(t.claim(10).await.len(), 1);
    assert_eq!(t.counts().await.waiting, 0);
}

async fn gather(t: &Scene, lease: Lease, max_items: usize) -> GatherAnswer {
    t.storage().gather(&t.queue, lease, max_items).await.expect("gather")
}

async fn a_formed_batch_takes_no_more(t: &mut Scene) {
    gate(t, 100).await;
    t.put_many(2).await;
    t.advance(MINUTE);
    let leader = t.claim_one().await;
    t.put_many(5).await;
    assert_eq!(gather(t, leader.lease, 10).await, GatherAnswer::Gathered { members: 1, formed: true });
}

async fn a_clock_that_steps_back_holds_no_gate_for_longer_than_its_wait(t: &mut Scene) {
    gate(t, 100).await;
    put_in(t, "a", 1).await;
    assert_eq!(t.claim(10).await.len(), 0);
    t.fixture.clock.step_back(HOUR);
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MINUTE));
    t.advance(MINUTE);
    assert_eq!(t.claim(10).await.len(), 1);
}

async fn every_handle_sees_the_job_that_opens_a_gate(t: &mut Scene) {
    gate(t, 2).await;
    put_in(t, "a", 1).await;
    assert_eq!(t.claim(10).await.len(), 0);
    let other = t.storage().second_handle().await.expect("second_handle");
    let request = EnqueueRequest { call: None, queue: t.queue.clone(), jobs: vec![t.spec().lane("a").into()] };
    other.enqueue(request).await.expect("enqueue");
    let leader = t.claim_one().await;
    assert_eq!(members(t, &leader).await.len(), 1);
    other.close().await;
}
