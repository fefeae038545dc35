//! Restores to queues that have jobs already, on a real server, and how much of a record is stored.

use std::time::Duration;

use ferroq_core::job::{JobKind, JobRecord, JobSpec, JobState, LogLine, Payload, Priority, Slot};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::storage::{Act, Control, Inspect, Selection};

use super::*;
use crate::inspect::tests::{act, another, job, put, queue, send, store};

fn record() -> JobRecord {
    let (Ok(queue), Ok(kind)) = (QueueName::new("q"), JobKind::new("k")) else { panic!("good names") };
    let at = Timestamp::from_micros(5_000_000);
    JobRecord {
        spec: JobSpec::new(queue, kind, Payload::json("1")).into(),
        seq: -3,
        state: JobState::Waiting,
        slot: Slot::Lane,
        priority: Priority::default(),
        epoch: 0,
        attempts: 0,
        crashes: 0,
        runs: 0,
        coalesced: 1,
        batch: None,
        cancel_requested: false,
        created_at: at,
        due_at: at,
        expires_at: Some(at.after(Duration::from_secs(1))),
        started_at: None,
        finished_at: None,
        prune_at: None,
        lease_until: None,
        lease_term: None,
        worker: None,
        failure: None,
        waited_on: false,
        notes: Default::default(),
    }
}

#[test]
fn only_a_job_as_it_was_enqueued_needs_no_entry() {
    let implied = |change: fn(&mut JobRecord)| {
        let mut record = record();
        change(&mut record);
        let JobParts { spec, entry, .. } = record::write(&record);
        is_implied(&entry, &spec)
    };
    assert!(implied(|_| {}));
    let changes: [fn(&mut JobRecord); 8] = [
        |record| record.state = JobState::Blocked,
        |record| record.slot = Slot::Solo,
        |record| record.priority = Priority(1),
        |record| record.epoch = 1,
        |record| record.runs = 1,
        |record| record.due_at = Timestamp::from_micros(1),
        |record| record.waited_on = true,
        |record| record.notes.log.push(LogLine { at: record.due_at, run: 0, text: "x".into() }),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        assert!(!implied(change), "change {place} is in the entry alone");
    }
}

/// A page of as many jobs with seqs from `seq` on.
async fn page(from: &RedisStorage, jobs: usize, seq: i64) -> DumpPage {
    put(from, (0..jobs).map(|_| job())).await;
    let mut page = from.dump(&queue(), None, jobs).await.expect("dump");
    from.obliterate(&queue(), true, jobs).await.expect("obliterate");
    for (record, seq) in page.jobs.iter_mut().zip(seq..) {
        record.seq = seq;
    }
    DumpPage { jobs: page.jobs, ..DumpPage::default() }
}

#[tokio::test]
async fn a_seq_that_came_free_can_be_restored_and_a_taken_one_cant() {
    let (from, to) = (store().await, store().await);
    // So many that the look for them takes several steps.
    let there = put(&to, (0..3000).map(|_| job())).await;
    act(&to, Selection::Ids(there[500..600].to_vec()), Act::Remove).await;
    act(&to, Selection::Ids(there[600..700].to_vec()), Act::Cancel).await;
    for seq in [1, 500, 601, 2999, 3000] {
        let page = page(&from, 2, seq).await;
        let error = to.restore(&queue(), page).await.expect_err("a taken seq");
        assert_eq!(error.code(), ErrorCode::Invalid, "{seq}: {error}");
    }
    let before = to.counts(&queue()).await.expect("counts");
    let answer = to.restore(&queue(), page(&from, 100, 501).await).await.expect("restore");
    assert_eq!(answer, RestoreAnswer { restored: 100, existing: 0 });
    let again = to.restore(&queue(), page(&from, 1, 600).await).await.expect_err("taken now");
    assert_eq!(again.code(), ErrorCode::Invalid);
    assert_eq!(to.counts(&queue()).await.expect("counts").waiting, before.waiting + 100);
}

#[tokio::test]
async fn of_two_restores_at_once_one_gets_the_seq() {
    let (from, to) = (store().await, store().await);
    let other = another(&to.options.namespace).await;
    put(&to, (0..3000).map(|_| job())).await;
    for seq in [-1, -2, -3, -4] {
        let (one, two) = (page(&from, 1, seq).await, page(&from, 1, seq).await);
        let q = queue();
        let (one, two) = tokio::join!(to.restore(&q, one), other.restore(&q, two));
        let refused: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.iter().map(StorageError::code).collect::<Vec<_>>(), [ErrorCode::Invalid], "{seq}");
    }
}

#[tokio::test]
async fn seqs_that_leave_no_room_for_others_are_refused() {
    let (from, to) = (store().await, store().await);
    for seq in [SEQ_MAX, -SEQ_MAX, i64::MAX, i64::MIN] {
        let mut page = page(&from, 1, 1).await;
        page.jobs[0].seq = seq;
        let error = to.restore(&queue(), page).await.expect_err("too far out");
        assert_eq!(error.code(), ErrorCode::Invalid);
        assert!(error.to_string().contains(&seq.to_string()), "{error}");
    }
    for seq in [SEQ_MAX - 1, 1 - SEQ_MAX] {
        to.restore(&queue(), page(&from, 1, seq).await).await.expect("restore");
    }
    let new = put(&to, [job(), JobSpec { lifo: true, ..job() }]).await;
    let listed = to.dump(&queue(), None, 10).await.expect("dump").jobs;
    let seqs: Vec<_> = listed.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [-SEQ_MAX - 1, 1 - SEQ_MAX, SEQ_MAX - 1, SEQ_MAX]);
    assert_eq!([listed[3].id(), listed[0].id()], [new[0], new[1]]);
}

#[tokio::test]
async fn jobs_as_they_were_enqueued_are_restored_without_an_entry() {
    let (from, to) = (store().await, store().await);
    to.restore(&queue(), page(&from, 10, 1).await).await.expect("restore");
    assert_eq!(send(&to, "HLEN", "spec", &[]).await, Value::Int(10));
    assert_eq!(send(&to, "EXISTS", "run", &[]).await, Value::Int(0));
}

#[tokio::test]
async fn many_held_keys_are_dumped_in_their_order() {
    let (from, to) = (store().await, store().await);
    let key = |n: usize| DedupKey::new(format!("key {n:05}")).expect("a good key");
    let mode = DedupMode::WhileKept;
    let with_key = |n| {
        let dedup = Some(Dedup { key: key(n), mode });
        JobSpec { dedup, ..job() }
    };
    put(&from, (0..2500).rev().map(with_key)).await;
    let page = from.dump(&queue(), None, 1).await.expect("dump");
    assert!(page.dedup.iter().map(|entry| entry.key.clone()).eq((0..2500).map(key)));
    to.restore(&queue(), page.clone()).await.expect("restore");
    assert_eq!(to.dump(&queue(), None, 1).await.expect("dump").dedup, page.dedup);
}
