//! A writer remembers what its last commits left, and relies on it while nobody else wrote. These tests have somebody
//! else write in between: another handle on the same file, which is what another process would be.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{JobId, JobKind, JobSpec, JobState, Payload, Priority, QueueName, WorkerId};
use ferroq_core::policy::retention::{KeepRule, Retention};
use ferroq_core::storage::{
    Act, ActRequest, Claim, ClaimSpec, Control, EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest,
    Inspect, Jobs, Note, Outcome, QueueConfig, Selection, SettleAnswer, Settlement,
};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use tempfile::TempDir;

fn queue() -> QueueName {
    QueueName::new("emails").expect("a name")
}

fn kind() -> JobKind {
    JobKind::new("welcome").expect("a name")
}

fn job() -> Arc<JobSpec> {
    Arc::new(JobSpec::new(queue(), kind(), Payload::json("{}")))
}

/// Two handles on one file that share nothing else.
async fn two() -> (TempDir, SqliteStorage, SqliteStorage) {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(ManualClock::default());
    let options = || SqliteOptions::new(directory.path().join("app.db")).clock(clock.clone());
    let ours = SqliteStorage::open(options()).await.expect("it opens");
    let theirs = SqliteStorage::open(options()).await.expect("it opens");
    (directory, ours, theirs)
}

async fn enqueue(storage: &SqliteStorage, jobs: Vec<Arc<JobSpec>>) -> Vec<EnqueueAnswer> {
    storage.enqueue(EnqueueRequest { call: None, queue: queue(), jobs }).await.expect("enqueued")
}

/// Completes what is given and claims up to so many.
async fn exchange(storage: &SqliteStorage, done: &[Claim], max_items: usize) -> ExchangeAnswer {
    let outcome = Outcome::Completed { result: None };
    let settlement =
        |claim: &Claim| Settlement { lease: claim.lease, outcome: outcome.clone(), follow_ups: Vec::new() };
    let claim = ClaimSpec {
        kinds: Arc::from([kind()]),
        max_items,
        max_bytes: 1 << 20,
        term: Duration::from_secs(30),
        worker: WorkerId::new("w").expect("a name"),
        alone: false,
    };
    let settlements = done.iter().map(settlement).collect();
    let request = ExchangeRequest { call: None, queue: queue(), settlements, claim: Some(claim) };
    storage.exchange(request).await.expect("an exchange")
}

fn claims(answer: ExchangeAnswer) -> Vec<Claim> {
    answer.claimed.expect("a claim was asked for").claims
}

fn ids(claims: &[Claim]) -> Vec<JobId> {
    claims.iter().map(|claim| claim.lease.id).collect()
}

async fn act(storage: &SqliteStorage, id: JobId, act: Act) {
    let request = ActRequest { call: None, queue: queue(), on: Selection::Ids(vec![id]), act };
    storage.act(request).await.expect("an act");
}

#[tokio::test]
async fn two_writers_that_take_turns_hand_out_each_job_once_and_in_order() {
    let (_directory, ours, theirs) = two().await;
    let jobs: Vec<_> = (0..200).map(|_| job()).collect();
    enqueue(&ours, jobs.clone()).await;
    let (mut a, mut b, mut order) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..200 {
        // Runs of several turns, so that memory is relied on, and changes of hands, so that it is outdated.
        let (storage, held) = if turn % 17 < 9 { (&ours, &mut a) } else { (&theirs, &mut b) };
        *held = claims(exchange(storage, held, 1).await);
        order.extend(ids(held));
    }
    assert_eq!(order, jobs.iter().map(|job| job.id).collect::<Vec<_>>());
    exchange(&ours, &a, 1).await;
    exchange(&theirs, &b, 1).await;
    let counts = ours.counts(&queue()).await.expect("counts");
    assert_eq!((counts.waiting, counts.active, counts.completed), (0, 0, 200));
}

#[tokio::test]
async fn a_line_read_ahead_is_not_used_once_somebody_else_changed_it() {
    let (_directory, ours, theirs) = two().await;
    let jobs: Vec<_> = (0..5).map(|_| job()).collect();
    enqueue(&ours, jobs.clone()).await;
    let first = claims(exchange(&ours, &[], 1).await);
    act(&theirs, jobs[1].id, Act::Cancel).await;
    act(&theirs, jobs[3].id, Act::SetPriority(Priority(1))).await;
    let second = claims(exchange(&ours, &first, 1).await);
    assert_eq!(ids(&second), [jobs[3].id]);
    let third = claims(exchange(&ours, &second, 1).await);
    assert_eq!(ids(&third), [jobs[2].id]);
}

#[tokio::test]
async fn a_line_read_ahead_is_not_used_once_this_handle_changed_it() {
    let (_directory, ours, _theirs) = two().await;
    enqueue(&ours, (0..5).map(|_| job()).collect()).await;
    let first = claims(exchange(&ours, &[], 1).await);
    let mut urgent = JobSpec::new(queue(), kind(), Payload::json("{}"));
    urgent.priority = Priority(1);
    enqueue(&ours, vec![Arc::new(urgent.clone())]).await;
    assert_eq!(ids(&claims(exchange(&ours, &first, 1).await)), [urgent.id]);
}

/// Enqueues that share a statement left what was read ahead in place for an exchange in the same commit, which then passed
/// over what they had put in front.
#[tokio::test]
async fn a_line_read_ahead_is_not_used_once_enqueues_in_the_same_commit_changed_it() {
    let (_directory, ours, _theirs) = two().await;
    enqueue(&ours, (0..5).map(|_| job()).collect()).await;
    let first = claims(exchange(&ours, &[], 1).await);
    let urgent = || {
        let mut urgent = JobSpec::new(queue(), kind(), Payload::json("{}"));
        urgent.priority = Priority(1);
        Arc::new(urgent)
    };
    let (one, other) = (urgent(), urgent());
    let (_, _, second) = tokio::join!(
        enqueue(&ours, vec![one.clone()]),
        enqueue(&ours, vec![other.clone()]),
        exchange(&ours, &first, 1)
    );
    assert_eq!(ids(&claims(second)), [one.id]);
}

#[tokio::test]
async fn what_somebody_else_did_to_a_running_job_is_seen_when_it_is_settled() {
    let (_directory, ours, theirs) = two().await;
    enqueue(&ours, (0..4).map(|_| job()).collect()).await;
    let mut config = QueueConfig::default();
    config.retention = Retention { completed: KeepRule::REMOVE, ..Retention::default() };
    ours.configure(&queue(), config).await.expect("configured");
    let held = claims(exchange(&ours, &[], 4).await);

    theirs.watch(&queue(), held[0].lease.id).await.expect("watched");
    exchange(&ours, &held[..1], 1).await;
    let kept = ours.job(Some(&queue()), held[0].lease.id).await.expect("a look");
    assert_eq!(kept.map(|record| record.state), Some(JobState::Completed), "a watched record outlives its end");

    let note = Note { checkpoint: Some(Payload::json("[1]")), ..Note::default() };
    theirs.annotate(&queue(), vec![(held[1].lease, note)]).await.expect("noted");
    let retry = Outcome::Release;
    let settlements = vec![Settlement { lease: held[1].lease, outcome: retry, follow_ups: Vec::new() }];
    let request = ExchangeRequest { call: None, queue: queue(), settlements, claim: None };
    ours.exchange(request).await.expect("released");
    let record = ours.job(Some(&queue()), held[1].lease.id).await.expect("a look").expect("the record");
    assert_eq!((record.state, record.notes.checkpoint), (JobState::Waiting, Some(Payload::json("[1]"))));

    exchange(&theirs, &held[2..3], 1).await;
    let answer = exchange(&ours, &held[2..3], 1).await;
    assert_eq!(answer.settled, [SettleAnswer::Gone]);
}

#[tokio::test]
async fn a_job_that_somebody_else_enqueued_is_a_duplicate() {
    let (_directory, ours, theirs) = two().await;
    enqueue(&ours, vec![job()]).await;
    let twice = job();
    assert_eq!(enqueue(&theirs, vec![twice.clone()]).await, [EnqueueAnswer::Inserted]);
    assert_eq!(enqueue(&ours, vec![twice.clone()]).await, [EnqueueAnswer::Duplicate(twice.id)]);
    assert_eq!(enqueue(&ours, vec![twice.clone()]).await, [EnqueueAnswer::Duplicate(twice.id)]);
    assert_eq!(ours.counts(&queue()).await.expect("counts").waiting, 2);
}

#[tokio::test]
async fn a_queue_that_somebody_else_obliterated_begins_anew() {
    let (_directory, ours, theirs) = two().await;
    enqueue(&ours, vec![job(), job()]).await;
    let held = claims(exchange(&ours, &[], 1).await);
    theirs.obliterate(&queue(), true, 100).await.expect("obliterated");
    assert_eq!(exchange(&ours, &held, 1).await.settled, [SettleAnswer::Gone]);
    assert_eq!(enqueue(&ours, vec![job()]).await, [EnqueueAnswer::Inserted]);
    assert_eq!(ours.counts(&queue()).await.expect("counts").waiting, 1);
}

#[tokio::test]
async fn records_are_pruned_by_count_with_and_without_memory_alike() {
    let (_directory, ours, theirs) = two().await;
    let mut config = QueueConfig::default();
    config.retention.completed.count = 3;
    ours.configure(&queue(), config).await.expect("configured");
    let jobs: Vec<_> = (0..30).map(|_| job()).collect();
    enqueue(&ours, jobs.clone()).await;
    theirs.watch(&queue(), jobs[4].id).await.expect("watched");
    let mut held = Vec::new();
    for turn in 0..=30 {
        held = claims(exchange(&ours, &held, 1).await);
        if turn == 20 {
            act(&theirs, jobs[4].id, Act::Cancel).await;
        }
    }
    let counts = ours.counts(&queue()).await.expect("counts");
    assert_eq!((counts.waiting, counts.active, counts.completed), (0, 0, 3));
    for (at, job) in jobs.iter().enumerate() {
        // The watched one is passed over, and counts.
        let kept = ours.job(Some(&queue()), job.id).await.expect("a look").is_some();
        assert_eq!(kept, [4, 28, 29].contains(&at), "job {at}");
    }
}
