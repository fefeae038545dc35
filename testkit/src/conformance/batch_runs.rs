//! The run of a batch: its members are settled under the leader's lease, and what becomes of the leader becomes of them.

use super::lane_words::*;
use super::prelude::*;

topic! {
    ($) batch_runs, __conformance_batch_runs:
    members_are_settled_one_by_one_under_the_leaders_lease,
    a_member_is_settled_once,
    a_member_that_is_retried_waits_for_the_next_batch,
    members_can_be_settled_every_way,
    a_members_lease_is_good_for_settling_alone,
    only_the_leaders_lease_hands_out_members,
    members_come_in_pages,
    a_retried_batch_runs_again_as_it_was,
    a_released_batch_opens_no_gate_and_needs_none,
    a_lost_batch_fences_off_its_first_worker,
    a_batch_on_its_last_crash_runs_alone,
    members_bear_what_the_batch_spent,
    members_fail_with_a_batch_that_is_out_of_attempts,
    members_fail_with_a_batch_that_is_out_of_crashes,
    members_fail_with_a_batch_that_is_aborted,
    members_that_fail_go_to_the_dead_letter_queue,
    a_batch_that_fails_does_so_in_steps,
    a_member_takes_over_from_a_leader_that_completed,
    a_member_that_came_to_lead_is_settled_by_no_old_lease,
    a_member_takes_over_from_a_leader_that_was_cancelled_or_removed,
    a_member_takes_over_from_a_leader_that_expired,
    a_leader_without_members_is_a_job_like_others,
    a_cancelled_member_leaves_its_batch,
    a_paused_lane_does_not_stop_a_batch_that_runs,
    a_repeated_claim_shows_its_batch,
    an_obliterated_queue_leaves_no_batch,
    a_dump_is_restored_without_batches,
}

async fn gate(t: &Scene, size: u32) {
    t.configure(|config| config.lanes.every = batches(size, HOUR)).await;
}

/// A batch of so many, and its members.
async fn open(t: &Scene, size: usize) -> (Claim, Vec<Claim>) {
    open_of(t, size, |job| job).await
}

async fn open_of(t: &Scene, size: usize, mut like: impl FnMut(JobSpec) -> JobSpec) -> (Claim, Vec<Claim>) {
    gate(t, size as u32).await;
    let jobs: Vec<JobSpec> = (0..size).map(|_| like(t.spec())).collect();
    t.put(jobs).await;
    let leader = t.claim_one().await;
    let members = members(t, &leader).await;
    (leader, members)
}

async fn claim_again(t: &Scene, leader: &Claim) -> Claim {
    let again = t.claim_one().await;
    assert_eq!((again.lease.id, again.batch), (leader.lease.id, leader.batch));
    again
}

async fn members_are_settled_one_by_one_under_the_leaders_lease(t: &mut Scene) {
    let (leader, batch) = open(t, 4).await;
    for (settled_so_far, member) in batch.iter().enumerate() {
        assert_eq!(members(t, &leader).await.len(), 3 - settled_so_far);
        assert_eq!(t.settle(member.lease, completed()).await, settled(JobState::Completed));
        let record = t.record(member.lease.id).await;
        assert_eq!((record.state, record.batch, record.runs), (JobState::Completed, None, 1));
        assert_eq!(record.epoch, leader.lease.epoch);
    }
    assert_eq!(t.settle(leader.lease, completed()).await, settled(JobState::Completed));
    assert_eq!(t.record(leader.lease.id).await.batch, None);
    assert_eq!(t.counts().await.live(), 0);
}

async fn a_member_is_settled_once(t: &mut Scene) {
    let (_, batch) = open(t, 2).await;
    let member = batch[0].lease;
    let all = vec![settlement(member, completed()), settlement(member, fail(SECOND))];
    assert_eq!(t.settle_all(all).await, [settled(JobState::Completed), SettleAnswer::AlreadyDone]);
    t.act(member.id, Act::Remove).await;
    assert_eq!(t.settle(member, completed()).await, SettleAnswer::Gone);
}

async fn a_member_that_is_retried_waits_for_the_next_batch(t: &mut Scene) {
    let (leader, batch) = open(t, 3).await;
    let member = batch[0].lease;
    assert_eq!(t.settle(member, fail(SECOND)).await, settled(JobState::Delayed));
    assert_eq!(t.settle(member, fail(SECOND)).await, SettleAnswer::AlreadyDone);
    t.advance(SECOND);
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (0, Some(HOUR)), "its gate is closed");
    let record = t.record(member.id).await;
    assert_eq!((record.state, record.batch, record.attempts), (JobState::Waiting, None, 1));
    t.put_many(2).await;
    let next = t.claim_one().await;
    assert_eq!(next.lease.id, member.id, "first in line");
    assert_ne!(next.batch, leader.batch);
    assert_eq!((next.run, members(t, &next).await.len()), (2, 2));
}

async fn members_can_be_settled_every_way(t: &mut Scene) {
    let (leader, batch) = open(t, 6).await;
    let seen = t.last_event().await;
    let ways = [completed(), abort(), snoozed(SECOND), released(), Outcome::Cancelled];
    let expected =
        [JobState::Completed, JobState::Failed, JobState::Delayed, JobState::Waiting, JobState::Cancelled];
    let all = batch.iter().zip(ways).map(|(member, outcome)| settlement(member.lease, outcome)).collect();
    assert_eq!(t.settle_all(all).await, expected.map(settled));
    let kinds: Vec<_> = t.happened_after(seen).await.into_iter().map(|(kind, _)| kind).collect();
    use EventKind::{Cancelled, Completed, Failed, Released, Snoozed};
    assert_eq!(kinds, [Completed, Failed, Snoozed, Released, Cancelled]);
    for member in &batch {
        assert_eq!(t.record(member.lease.id).await.batch, None);
    }
    assert_eq!(t.record(batch[1].lease.id).await.failure, Some(FailReason::Aborted));
    t.settle(leader.lease, completed()).await;
}

async fn a_members_lease_is_good_for_settling_alone(t: &mut Scene) {
    let (_, batch) = open(t, 2).await;
    let member = batch[0].lease;
    assert_eq!(t.renew(member).await, RenewAnswer::LeaseLost);
    let note = Note { log: vec!["x".to_owned()], ..Note::default() };
    assert_eq!(t.annotate(member, note).await, NoteAnswer::LeaseLost);
    let gathered = t.storage().gather(&t.queue, member, 10).await.expect("gather");
    assert_eq!(gathered, GatherAnswer::LeaseLost);
    let wrong = Lease { epoch: member.epoch + 1, ..member };
    assert_eq!(t.settle(wrong, completed()).await, SettleAnswer::LeaseLost);
    let own = Lease { epoch: 0, ..member };
    assert_eq!(t.settle(own, completed()).await, SettleAnswer::LeaseLost);
    assert_eq!(t.state(member.id).await, JobState::Blocked);
}

async fn page(t: &Scene, lease: Lease, after: Option<i64>, max_items: usize, max_bytes: usize) -> MembersAnswer {
    let request = MembersRequest { queue: t.queue.clone(), lease, after, max_items, max_bytes };
    t.storage().members(request).await.expect("members")
}

async fn only_the_leaders_lease_hands_out_members(t: &mut Scene) {
    let (leader, _) = open(t, 2).await;
    t.configure(|config| config.lanes.every = LanePolicy::default()).await;
    t.put_many(1).await;
    let single = t.claim_one().await.lease;
    let stale = Lease { epoch: leader.lease.epoch - 1, ..leader.lease };
    let unknown = Lease { id: t.spec().id, epoch: 1 };
    for (lease, is_gone) in [(single, false), (stale, false), (unknown, true)] {
        let (no_members, no_gather) = if is_gone {
            (MembersAnswer::Gone, GatherAnswer::Gone)
        } else {
            (MembersAnswer::LeaseLost, GatherAnswer::LeaseLost)
        };
        assert_eq!(page(t, lease, None, 10, 1000).await, no_members);
        assert_eq!(t.storage().gather(&t.queue, lease, 10).await.expect("gather"), no_gather);
    }
    let nowhere = queue_name("nowhere");
    let request = MembersRequest { queue: nowhere, lease: single, after: None, max_items: 1, max_bytes: 1 };
    assert_eq!(t.storage().members(request.clone()).await.expect("members"), MembersAnswer::Gone);
    assert_eq!(t.storage().gather(&request.queue, single, 1).await.expect("gather"), GatherAnswer::Gone);
    let error = t.storage().members(MembersRequest { max_items: 0, ..request }).await.expect_err("no items");
    assert_eq!(error.code(), ErrorCode::Invalid);
}

async fn members_come_in_pages(t: &mut Scene) {
    let (leader, batch) = open_of(t, 8, |job| job.payload("0123456789")).await;
    let mut after = None;
    let mut seen = Vec::new();
    for (max_items, max_bytes, count) in [(2, 1000, 2), (10, 25, 2), (10, 3, 1), (10, 1000, 2)] {
        let MembersAnswer::Page(page) = page(t, leader.lease, after, max_items, max_bytes).await else {
            panic!("the lease is current")
        };
        assert_eq!(page.members.len(), count);
        assert!(page.formed);
        seen.extend(page.members);
        after = page.next;
    }
    assert_eq!(after, None);
    assert_eq!(seen, batch);
}

async fn a_retried_batch_runs_again_as_it_was(t: &mut Scene) {
    let (leader, batch) = open(t, 4).await;
    t.settle(batch[0].lease, completed()).await;
    assert_eq!(t.settle(leader.lease, fail(MINUTE)).await, settled(JobState::Delayed));
    assert_eq!(t.settle(batch[1].lease, completed()).await, SettleAnswer::LeaseLost, "its run is over");
    t.put_many(2).await;
    assert_eq!(t.claim_as(t.asking(10)).await.look_again, Some(MINUTE));
    t.advance(MINUTE);
    let again = claim_again(t, &leader).await;
    assert_eq!((again.attempts, again.run), (1, 2));
    let left = members(t, &again).await;
    assert_eq!(ids(&left), ids(&batch[1..]), "without the one that was settled, and without those that came since");
    assert!(left.iter().all(|member| (member.attempts, member.run) == (1, 2)));
    t.settle(left[0].lease, completed()).await;
    let record = t.record(left[0].lease.id).await;
    assert_eq!((record.attempts, record.runs, record.epoch), (1, 2, again.lease.epoch));
}

async fn a_released_batch_opens_no_gate_and_needs_none(t: &mut Scene) {
    let (leader, batch) = open(t, 3).await;
    t.put_many(1).await;
    assert_eq!(t.claim(10).await.len(), 0, "the lane waits for its next batch");
    t.settle(leader.lease, released()).await;
    let again = t.claim(10).await;
    assert_eq!(ids(&again), [leader.lease.id], "the one that came since goes on waiting");
    assert_eq!(ids(&members(t, &again[0]).await), ids(&batch));
    assert_eq!(again[0].attempts, 0);
}

async fn a_lost_batch_fences_off_its_first_worker(t: &mut Scene) {
    let (leader, batch) = open(t, 3).await;
    assert_eq!(t.let_leases_expire().await.stalled, 1, "one lease for all of them");
    let again = claim_again(t, &leader).await;
    assert_eq!(again.crashes, 1);
    for member in &batch {
        assert_eq!(t.settle(member.lease, completed()).await, SettleAnswer::LeaseLost);
    }
    let lost = t.storage().gather(&t.queue, leader.lease, 10).await.expect("gather");
    assert_eq!(lost, GatherAnswer::LeaseLost);
    for member in members(t, &again).await {
        assert_eq!(t.settle(member.lease, completed()).await, settled(JobState::Completed));
        assert_eq!(t.record(member.lease.id).await.crashes, 1);
    }
}

async fn a_batch_on_its_last_crash_runs_alone(t: &mut Scene) {
    let (leader, _) = open_of(t, 3, |job| job.crashes(2)).await;
    t.let_leases_expire().await;
    let busy = ClaimSpec { alone: false, ..t.asking(10) };
    assert_eq!(t.claim_as(busy).await.claims.len(), 0, "something else runs there");
    let answer = t.claim_as(ClaimSpec { alone: true, ..t.asking(10) }).await;
    let [again] = &answer.claims[..] else { panic!("{answer:?}") };
    assert!(again.solo && again.batch == leader.batch);
    assert_eq!(members(t, again).await.len(), 2);
}

async fn members_bear_what_the_batch_spent(t: &mut Scene) {
    // One of them has failed before.
    let first = t.put_one(t.spec().attempts(9)).await;
    t.settle(t.claim_one().await.lease, fail(Duration::ZERO)).await;
    t.advance(SECOND);
    gate(t, 3).await;
    let others = t.put([t.spec().attempts(9).priority(1), t.spec().attempts(2).crashes(2)]).await;
    let leader = t.claim_one().await;
    assert_eq!(leader.lease.id, others[0]);
    t.settle(leader.lease, fail(Duration::ZERO)).await;
    let again = claim_again(t, &leader).await;
    t.settle(again.lease, fail(Duration::ZERO)).await;
    t.claim_one().await;
    t.let_leases_expire().await;
    let last = claim_again(t, &leader).await;
    assert_eq!((last.attempts, last.crashes, last.run), (2, 1, 4));
    let batch = members(t, &last).await;
    let counters = |claim: &Claim| (claim.lease.id, claim.attempts, claim.crashes, claim.run);
    let expected = [(first, 3, 1, 5), (others[1], 1, 1, 4)];
    assert_eq!(batch.iter().map(counters).collect::<Vec<_>>(), expected, "with a try left to each");
    t.settle(batch[0].lease, released()).await;
    let record = t.record(first).await;
    assert_eq!((record.attempts, record.crashes, record.runs), (3, 1, 5));
    assert_eq!(t.settle(batch[1].lease, fail(SECOND)).await, settled(JobState::Failed));
}

async fn fails_with_its_batch(t: &Scene, member: &Claim, kind: ErrorKind, counters: (u32, u32, u32)) {
    let record = t.record(member.lease.id).await;
    assert_eq!((record.state, record.failure, record.batch), (JobState::Failed, Some(FailReason::WithBatch), None));
    assert_eq!((record.attempts, record.crashes, record.runs), counters);
    let error = record.notes.errors.last().expect("an error");
    assert_eq!((error.kind, error.run), (kind, record.runs));
}

async fn members_fail_with_a_batch_that_is_out_of_attempts(t: &mut Scene) {
    let (leader, batch) = open_of(t, 3, |job| job.attempts(2)).await;
    t.settle(leader.lease, fail(Duration::ZERO)).await;
    let again = claim_again(t, &leader).await;
    assert_eq!(t.settle(again.lease, fail(SECOND)).await, settled(JobState::Failed));
    assert_eq!(t.record(leader.lease.id).await.failure, Some(FailReason::AttemptsExhausted));
    let seen = t.last_event().await;
    let swept = t.sweep(10).await;
    assert_eq!((swept.failed, swept.more), (2, false));
    let told = batch.iter().map(|member| (EventKind::Failed, Some(member.lease.id)));
    assert_eq!(t.happened_after(seen).await, told.collect::<Vec<_>>());
    for member in &batch {
        fails_with_its_batch(t, member, ErrorKind::Error, (2, 0, 2)).await;
        assert_eq!(t.settle(member.lease, completed()).await, SettleAnswer::LeaseLost);
    }
}

async fn members_fail_with_a_batch_that_is_out_of_crashes(t: &mut Scene) {
    let (leader, batch) = open_of(t, 3, |job| job.crashes(2)).await;
    t.let_leases_expire().await;
    t.claim_as(ClaimSpec { alone: true, ..t.asking(10) }).await;
    t.let_leases_expire().await;
    assert_eq!(t.record(leader.lease.id).await.failure, Some(FailReason::CrashesExhausted));
    t.sweep(10).await;
    for member in &batch {
        fails_with_its_batch(t, member, ErrorKind::Crash, (0, 2, 2)).await;
    }
}

async fn members_fail_with_a_batch_that_is_aborted(t: &mut Scene) {
    let (leader, batch) = open(t, 3).await;
    t.settle(leader.lease, abort()).await;
    assert_eq!(t.sweep(10).await.failed, 2);
    for member in &batch {
        fails_with_its_batch(t, member, ErrorKind::Abort, (1, 0, 1)).await;
    }
}

async fn members_that_fail_go_to_the_dead_letter_queue(t: &mut Scene) {
    let dead = queue_name("dead");
    t.configure(|config| config.dead_letter = Some(dead.clone())).await;
    let (leader, batch) = open(t, 3).await;
    t.settle(leader.lease, abort()).await;
    t.sweep(10).await;
    let request = ListRequest { queue: dead, filter: JobFilter::default(), after: None, max_items: 10 };
    let letters = t.storage().list(request).await.expect("list").jobs;
    let origins: Vec<_> = letters.iter().filter_map(|letter| letter.spec.origin.as_ref()).collect();
    let from: Vec<_> = origins.iter().map(|origin| (origin.id, origin.reason)).collect();
    let mut expected = vec![(leader.lease.id, FailReason::Aborted)];
    expected.extend(batch.iter().map(|member| (member.lease.id, FailReason::WithBatch)));
    assert_eq!(from, expected);
}

async fn a_batch_that_fails_does_so_in_steps(t: &mut Scene) {
    let (leader, _) = open(t, 8).await;
    t.settle(leader.lease, abort()).await;
    for (left, more) in [(4, true), (1, true), (0, false)] {
        let swept = t.sweep(3).await;
        assert_eq!((t.counts().await.blocked, swept.more), (left, more));
    }
    assert_eq!(t.counts().await.failed, 8);
}

/// The first member leads the batch, whose members are the others.
async fn takes_over(t: &Scene, batch: &[Claim]) -> Claim {
    let record = t.record(batch[0].lease.id).await;
    assert_eq!((record.state, record.batch.is_some()), (JobState::Waiting, true));
    let leader = t.claim_one().await;
    assert_eq!(leader.lease.id, batch[0].lease.id);
    assert_eq!(ids(&members(t, &leader).await), ids(&batch[1..]));
    leader
}

async fn a_member_takes_over_from_a_leader_that_completed(t: &mut Scene) {
    let (leader, batch) = open(t, 4).await;
    let seen = t.last_event().await;
    t.settle(leader.lease, completed()).await;
    let told = [(EventKind::Completed, Some(leader.lease.id)), (EventKind::Promoted, Some(batch[0].lease.id))];
    assert_eq!(t.happened_after(seen).await, told);
    let next = takes_over(t, &batch).await;
    assert_eq!((next.batch, next.run), (leader.batch, 2));
    t.settle(next.lease, completed()).await;
    takes_over(t, &batch[1..]).await;
}

async fn a_member_that_came_to_lead_is_settled_by_no_old_lease(t: &mut Scene) {
    let (leader, batch) = open(t, 3).await;
    let all = [&leader, &batch[0], &batch[1]].map(|job| settlement(job.lease, completed()));
    let lost = SettleAnswer::LeaseLost;
    assert_eq!(t.settle_all(all.into()).await, [settled(JobState::Completed), lost.clone(), lost]);
    takes_over(t, &batch).await;
}

async fn a_member_takes_over_from_a_leader_that_was_cancelled_or_removed(t: &mut Scene) {
    let (leader, batch) = open(t, 6).await;
    t.settle(leader.lease, fail(MINUTE)).await;
    t.act(leader.lease.id, Act::Cancel).await;
    let second = takes_over(t, &batch).await;
    assert_eq!((second.attempts, second.run), (1, 2), "it bears what the batch has spent");
    t.settle(second.lease, released()).await;
    t.act(second.lease.id, Act::Remove).await;
    let third = takes_over(t, &batch[1..]).await;
    assert_eq!((third.attempts, third.run), (1, 3));
    t.act(third.lease.id, Act::Cancel).await;
    t.settle(third.lease, Outcome::Cancelled).await;
    let fourth = takes_over(t, &batch[2..]).await;
    assert_eq!((fourth.attempts, fourth.run), (1, 4));
}

async fn a_member_takes_over_from_a_leader_that_expired(t: &mut Scene) {
    let mut is_first = true;
    let first_expires = |job: JobSpec| if std::mem::take(&mut is_first) { job.expires_in(HOUR) } else { job };
    let (leader, batch) = open_of(t, 3, first_expires).await;
    t.settle(leader.lease, fail(HOUR * 2)).await;
    t.advance(HOUR * 2);
    let answer = t.claim_as(t.asking(1)).await;
    assert_eq!((answer.claims.len(), answer.more), (0, true));
    assert_eq!(t.record(leader.lease.id).await.failure, Some(FailReason::Expired));
    takes_over(t, &batch).await;
}

async fn a_leader_without_members_is_a_job_like_others(t: &mut Scene) {
    let (leader, batch) = open(t, 2).await;
    t.settle(batch[0].lease, completed()).await;
    t.settle(leader.lease, fail(SECOND)).await;
    assert_eq!(t.record(leader.lease.id).await.batch, None);
    t.advance(SECOND);
    let answer = t.claim_as(t.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (0, Some(HOUR)), "it waits for another batch");
}

async fn a_cancelled_member_leaves_its_batch(t: &mut Scene) {
    let (leader, batch) = open(t, 4).await;
    assert_eq!(t.act(batch[0].lease.id, Act::Cancel).await, ActAnswer::Done(JobState::Cancelled));
    t.act(batch[1].lease.id, Act::Remove).await;
    assert_eq!(ids(&members(t, &leader).await), ids(&batch[2..]));
    let answers = [SettleAnswer::LeaseLost, SettleAnswer::Gone];
    for (member, answer) in batch.iter().zip(answers) {
        assert_eq!(t.settle(member.lease, completed()).await, answer);
    }
    assert_eq!(t.act(batch[2].lease.id, Act::Promote).await, ActAnswer::Refused(JobState::Blocked));
}

async fn a_paused_lane_does_not_stop_a_batch_that_runs(t: &mut Scene) {
    let (leader, batch) = open(t, 2).await;
    t.configure(|config| config.lanes.every.paused = true).await;
    assert_eq!(members(t, &leader).await.len(), 1);
    assert_eq!(t.settle(batch[0].lease, completed()).await, settled(JobState::Completed));
    t.settle(leader.lease, released()).await;
    assert_eq!(t.claim(10).await.len(), 0);
}

async fn a_repeated_claim_shows_its_batch(t: &mut Scene) {
    gate(t, 3).await;
    t.put_many(6).await;
    let call = t.call();
    let claim = || Some(t.asking(10));
    let first = t.exchange(Some(call), Vec::new(), claim()).await.claimed.expect("claimed");
    let again = t.exchange(Some(call), Vec::new(), claim()).await.claimed.expect("claimed");
    assert_eq!(first.claims.len(), 2);
    assert_eq!(first, again);
    assert_eq!(t.counts().await.blocked, 4);
}

async fn an_obliterated_queue_leaves_no_batch(t: &mut Scene) {
    let (_, batch) = open(t, 5).await;
    obliterate(t).await;
    assert!(t.find(batch[0].lease.id).await.is_none());
    let (leader, batch) = open(t, 3).await;
    assert_eq!((leader.batch.map(|batch| batch.0), batch.len()), (Some(1), 2));
}

async fn a_dump_is_restored_without_batches(t: &mut Scene) {
    let (_, batch) = open(t, 3).await;
    let records = t.dump().await.jobs;
    obliterate(t).await;
    let page = DumpPage { jobs: records, ..DumpPage::default() };
    t.storage().restore(&t.queue, page).await.expect("restore");
    for member in &batch {
        let record = t.record(member.lease.id).await;
        assert_eq!((record.state, record.slot, record.batch), (JobState::Waiting, Slot::Lane, None));
    }
    assert_eq!(t.counts().await.active, 1, "the leader's lease goes on");
    assert_eq!(t.claim(10).await.len(), 2);
}
