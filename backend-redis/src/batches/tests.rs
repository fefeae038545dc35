//! Batches on a real server: those that take several steps to gather and several pages to hand out, entries that hold more
//! than the number of their batch, and what was damaged.

use std::time::Duration;

use ferroq_core::job::{BatchNumber, ErrorKind, FailReason, JobId, JobSpec, LaneKey, Payload, WorkerId};
use ferroq_core::policy::batch::{BatchGate, GATHER_ITEMS_MAX};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::policy::lanes::{LanePolicy, Say};
use ferroq_core::storage::{
    Act, ActAnswer, Claim, ClaimSpec, Control, Inspect, Jobs, Outcome, RunError, Selection, SettleAnswer, Settlement,
    StorageExt, SweepRequest,
};

use super::*;
use crate::inspect::tests::{act, job, put, queue, send, store};

/// A store whose default lane has a gate that opens for so many jobs.
async fn gated(size: u32) -> RedisStorage {
    let store = store().await;
    let gate = BatchGate::new(size, Duration::from_secs(3600));
    let policy = LanePolicy { batch: Say::Limit(gate), ..LanePolicy::default() };
    store.configure_lane(&queue(), &LaneKey::DEFAULT, Some(policy)).await.expect("configure_lane");
    store
}

async fn claim(store: &RedisStorage) -> Vec<Claim> {
    let spec = ClaimSpec {
        kinds: vec![job().kind].into(),
        max_items: 10,
        max_bytes: usize::MAX,
        term: Duration::from_secs(60),
        worker: WorkerId::new("the worker").expect("a good name"),
        alone: false,
    };
    store.claim(None, &queue(), spec).await.expect("claim").claims
}

async fn settle(store: &RedisStorage, lease: Lease, outcome: Outcome) -> SettleAnswer {
    let settlement = Settlement { lease, outcome, follow_ups: Vec::new() };
    store.settle(None, &queue(), vec![settlement]).await.expect("settle").remove(0)
}

async fn page(store: &RedisStorage, lease: Lease, after: Option<i64>, max: (usize, usize)) -> MembersPage {
    let request = MembersRequest { queue: queue(), lease, after, max_items: max.0, max_bytes: max.1 };
    match store.members(request).await.expect("members") {
        MembersAnswer::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

async fn sweep(store: &RedisStorage, max_items: usize) -> usize {
    store.sweep(SweepRequest { queue: queue(), max_items }).await.expect("sweep").failed
}

fn abort() -> Outcome {
    Outcome::Abort { error: RunError::new(ErrorKind::Panic, "boom") }
}

#[tokio::test]
async fn a_batch_of_thousands_is_gathered_in_steps_handed_out_in_pages_and_fails_in_sweeps() {
    let size = 2 * GATHER_ITEMS_MAX + 501;
    let store = gated(size as u32).await;
    let ids = put(&store, (0..size).map(|_| job())).await;
    let leader = claim(&store).await.remove(0);
    assert_eq!((leader.lease.id, leader.batch), (ids[0], Some(BatchNumber(1))));
    let mut steps = Vec::new();
    loop {
        let answer = store.gather(&queue(), leader.lease, GATHER_ITEMS_MAX).await.expect("gather");
        let GatherAnswer::Gathered { members, formed } = answer else { panic!("{answer:?}") };
        steps.push(members);
        if formed {
            break;
        }
    }
    assert_eq!(steps, [2000, 2500], "the claim gathered the first thousand");
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = page(&store, leader.lease, after, (700, usize::MAX)).await;
        assert!(page.formed);
        seen.extend(page.members.iter().map(|member| member.lease.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids[1..]);
    assert_eq!(store.counts(&queue()).await.expect("counts").blocked, 2500);
    settle(&store, leader.lease, abort()).await;
    assert_eq!([sweep(&store, 1000).await, sweep(&store, 2000).await, sweep(&store, 1000).await], [1000, 1500, 0]);
    let last = store.job(Some(&queue()), ids[size - 1]).await.expect("job").expect("a record");
    assert_eq!((last.failure, last.batch), (Some(FailReason::WithBatch), None));
    assert_eq!(last.notes.errors[0].message, "boom");
    for key in ["batches", "failing", "blocked"] {
        assert_eq!(send(&store, "EXISTS", key, &[]).await, Value::Int(0), "{key}");
    }
}

#[tokio::test]
async fn a_page_ends_at_its_bytes_however_large_payloads_are() {
    let store = gated(60).await;
    let large = |n: usize| JobSpec { payload: Payload::json("7".repeat(n * 100)), ..job() };
    put(&store, (1..=60).map(large)).await;
    let lease = claim(&store).await[0].lease;
    let (mut seen, mut after) = (0, None);
    loop {
        let page = page(&store, lease, after, (1000, 9000)).await;
        let bytes: usize = page.members.iter().map(|member| member.spec.payload.len()).sum();
        assert!(bytes <= 9000 && !page.members.is_empty(), "{bytes}");
        seen += page.members.len();
        after = page.next;
        if after.is_none() {
            break;
        }
        let next = page.members[0].spec.payload.len() + 100 * page.members.len();
        assert!(bytes + next > 9000, "one more would have had room: {bytes} and {next}");
    }
    assert_eq!(seen, 59);
}

#[tokio::test]
async fn a_job_that_stands_for_several_may_lead_a_batch_and_be_a_member() {
    let store = gated(2).await;
    for key in ["one", "two"] {
        let mode = DedupMode::Coalesce { count: 3, max_wait: Duration::from_secs(3600) };
        let dedup = Some(Dedup { key: ferroq_core::job::DedupKey::new(key).expect("a good key"), mode });
        put(&store, (0..3).map(|_| JobSpec { dedup: dedup.clone(), ..job() })).await;
    }
    let leader = claim(&store).await.remove(0);
    assert_eq!((leader.coalesced, leader.batch), (3, Some(BatchNumber(1))));
    let member = page(&store, leader.lease, None, (10, usize::MAX)).await.members.remove(0);
    assert_eq!((member.coalesced, member.run, member.batch), (3, 1, None));
    for (claim, batch) in [(&leader, Some(BatchNumber(1))), (&member, Some(BatchNumber(1)))] {
        let record = store.job(Some(&queue()), claim.lease.id).await.expect("job").expect("a record");
        assert_eq!((record.coalesced, record.batch), (3, batch));
        assert_eq!(record.worker.as_deref(), Some("the worker"));
    }
    settle(&store, leader.lease, Outcome::Release).await;
    let again = claim(&store).await.remove(0);
    assert_eq!((again.lease.id, again.coalesced, again.batch), (leader.lease.id, 3, leader.batch));
    let lease = Lease { id: member.lease.id, epoch: again.lease.epoch };
    assert!(matches!(settle(&store, lease, Outcome::Release).await, SettleAnswer::Settled { .. }));
    let record = store.job(Some(&queue()), lease.id).await.expect("job").expect("a record");
    assert_eq!((record.coalesced, record.batch, record.runs), (3, None, 2));
}

#[tokio::test]
async fn what_cant_be_read_is_no_member_and_fails() {
    let store = gated(5).await;
    let ids = put(&store, (0..6).map(|_| job())).await;
    send(&store, "HSET", "spec", &[ids[1].as_bytes(), b"garbage"]).await;
    let leader = claim(&store).await.remove(0);
    let failure = async |id: JobId| {
        let record = store.job(Some(&queue()), id).await.expect("job").expect("a record");
        (record.state.is_terminal(), record.failure)
    };
    assert_eq!(failure(ids[1]).await, (true, Some(FailReason::Quarantined)));
    send(&store, "HSET", "spec", &[ids[3].as_bytes(), b"garbage"]).await;
    send(&store, "HSET", "run", &[ids[4].as_bytes(), b"garbage"]).await;
    let members = page(&store, leader.lease, None, (10, usize::MAX)).await.members;
    assert_eq!(members.iter().map(|member| member.lease.id).collect::<Vec<_>>(), [ids[2], ids[5]]);
    settle(&store, leader.lease, abort()).await;
    assert_eq!(sweep(&store, 100).await, 4);
    for id in &ids[2..] {
        let (ended, failure) = failure(*id).await;
        assert!(ended && failure.is_some(), "{id} {failure:?}");
    }
    assert_eq!(send(&store, "HLEN", "batches", &[]).await, Value::Int(0));
}

#[tokio::test]
async fn jobs_of_a_batch_that_is_nowhere_can_still_be_settled_and_removed() {
    for damage in [&b""[..], b"short", &[255; 60]] {
        let store = gated(3).await;
        let ids = put(&store, (0..3).map(|_| job())).await;
        let lease = claim(&store).await[0].lease;
        match damage {
            b"" => send(&store, "DEL", "batches", &[]).await,
            damage => send(&store, "HSET", "batches", &[b"1", damage]).await,
        };
        store.gather(&queue(), lease, 10).await.expect("gather");
        let member = Lease { id: ids[1], epoch: lease.epoch };
        assert_eq!(settle(&store, member, Outcome::Completed { result: None }).await, SettleAnswer::LeaseLost);
        let settled = settle(&store, lease, Outcome::Completed { result: None }).await;
        assert!(matches!(settled, SettleAnswer::Settled { .. }), "{settled:?}");
        sweep(&store, 100).await;
        let answers = act(&store, Selection::Ids(ids[1..].to_vec()), Act::Remove).await;
        assert!(answers.iter().all(|(_, answer)| matches!(answer, ActAnswer::Done(_))), "{answers:?}");
        assert_eq!(store.counts(&queue()).await.expect("counts").blocked, 0);
    }
}
