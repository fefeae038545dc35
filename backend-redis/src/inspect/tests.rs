//! The looks at a queue on a real server: walks over ranks that a score can't tell apart, and over what is damaged.

mod layout;

use std::sync::Arc;

use ferroq_core::job::{JobSpec, Payload, Start};
use ferroq_core::storage::{
    Act, ActAnswer, ActRequest, Control, DumpPage, EnqueueRequest, ErrorCode, EventLog, JobFilter, Jobs, ListCursor,
    ObliterateAnswer, QueueConfig, Selection, Transfer,
};
use ferroq_tests::redis::server;

use super::*;
use crate::RedisOptions;
use crate::keys;

/// A store in a namespace of its own.
pub(crate) async fn store() -> RedisStorage {
    another(&server::namespace()).await
}

/// One more handle on a store.
pub(crate) async fn another(namespace: &str) -> RedisStorage {
    let options = RedisOptions::from_url(&server::shared().url()).expect("the server's URL").namespace(namespace);
    RedisStorage::open(options).await.expect("the server answers")
}

pub(crate) fn queue() -> QueueName {
    QueueName::new("q").expect("a good name")
}

pub(crate) fn job() -> JobSpec {
    JobSpec::new(queue(), JobKind::new("k").expect("a good name"), Payload::json("1"))
}

/// Enqueues jobs, and answers their ids.
pub(crate) async fn put(store: &RedisStorage, jobs: impl IntoIterator<Item = JobSpec>) -> Vec<JobId> {
    let jobs: Vec<_> = jobs.into_iter().map(Arc::new).collect();
    let ids = jobs.iter().map(|job| job.id).collect();
    store.enqueue(EnqueueRequest { call: None, queue: queue(), jobs }).await.expect("enqueue");
    ids
}

/// Sends a command on one of the queue's keys.
pub(crate) async fn send(store: &RedisStorage, command: &str, key: &str, args: &[&[u8]]) -> Value {
    let keys = store.keys(&queue());
    let key = keys.names().iter().find(|name| name.ends_with(&format!(":{key}"))).expect("a key of that name");
    let mut cmd = redis::cmd(command);
    cmd.arg(key);
    for arg in args {
        cmd.arg(arg);
    }
    store.link.call(&cmd).await.expect("an answer")
}

pub(crate) async fn act(store: &RedisStorage, on: Selection, act: Act) -> Vec<(JobId, ActAnswer)> {
    let request = ActRequest { call: None, queue: queue(), on, act };
    store.act(request).await.expect("act").answers
}

async fn listed(store: &RedisStorage, max_items: usize) -> Vec<JobId> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let request = ListRequest { queue: queue(), filter: JobFilter::default(), after, max_items };
        let page = store.list(request).await.expect("list");
        ids.extend(page.jobs.iter().map(JobRecord::id));
        after = page.next;
        if after.is_none() {
            return ids;
        }
        assert!(ids.len() < 1000, "the walk does not end");
    }
}

fn at(micros: i64) -> JobSpec {
    JobSpec { start: Start::At(Timestamp::from_micros(micros)), ..job() }
}

#[tokio::test]
async fn pages_end_anywhere_among_ranks_that_a_score_cant_tell_apart() {
    let store = store().await;
    let never = i64::MAX;
    // Doubles skip numbers from 2^53 on, and 2^63 - 1 is not one of them.
    let huge = [1 << 62, (1 << 62) + 1, 1 << 62, (1 << 62) + 2, (1 << 53) + 1, 1 << 53, never, never, never - 1, never];
    let put = put(&store, huge.map(at).into_iter().chain((0..5).map(|_| job()))).await;
    let all = listed(&store, 1000).await;
    assert_eq!(all.len(), put.len());
    for page in 1..=put.len() + 1 {
        assert_eq!(listed(&store, page).await, all, "in pages of {page}");
    }
    // The order is by time as far as a double goes, and by seq beyond.
    let by_seq = |places: &[usize]| places.iter().map(|place| put[*place]).collect::<Vec<_>>();
    assert_eq!(all, by_seq(&[10, 11, 12, 13, 14, 4, 5, 0, 1, 2, 3, 6, 7, 8, 9]));
}

#[tokio::test]
async fn a_walk_goes_on_from_ranks_below_zero() {
    let store = store().await;
    let put = put(&store, [at(never_yet()), at(never_yet()), at(never_yet())]).await;
    let page = store.dump(&queue(), None, 10).await.expect("dump");
    let mut jobs = page.jobs;
    for (record, due) in jobs.iter_mut().zip([-5, -5, -6]) {
        record.due_at = Timestamp::from_micros(due);
    }
    assert_eq!(store.obliterate(&queue(), false, 10).await.expect("obliterate"), ObliterateAnswer::Done);
    store.restore(&queue(), DumpPage { jobs, ..DumpPage::default() }).await.expect("restore");
    for page in 1..=4 {
        assert_eq!(listed(&store, page).await, [put[2], put[0], put[1]], "in pages of {page}");
    }
}

/// A time at which a job is still delayed whenever this runs.
fn never_yet() -> i64 {
    1 << 52
}

#[tokio::test]
async fn a_made_up_cursor_is_a_place_like_any_other() {
    let store = store().await;
    put(&store, (0..3).map(|_| job())).await;
    let extremes = [i64::MIN, -1, 0, 1, 128, i64::MAX];
    let slots = [ferroq_core::job::Slot::Lane, ferroq_core::job::Slot::Solo, ferroq_core::job::Slot::Shelf];
    for (state, slot) in JobState::ALL.into_iter().flat_map(|state| slots.map(|slot| (state, slot))) {
        for (line, rank, seq) in extremes
            .iter()
            .flat_map(|line| extremes.iter().flat_map(move |rank| extremes.map(|seq| (*line, *rank, seq))))
        {
            let after = ListCursor { state, slot, line, rank, seq };
            let first = ListCursor { state: JobState::Waiting, slot: slots[0], line: 0, rank: 128, seq: 0 };
            let expected = (1..=3).filter(|seq| ListCursor { seq: *seq, ..first } > after).count();
            let request =
                ListRequest { queue: queue(), filter: JobFilter::default(), after: Some(after), max_items: 10 };
            let page = store.list(request).await.expect("list");
            assert_eq!(page.jobs.len(), expected, "after {after}");
        }
    }
}

#[tokio::test]
async fn what_cant_be_read_is_shown_and_can_be_removed() {
    let store = store().await;
    let put = put(&store, (0..6).map(|n| if n < 4 { job() } else { at(never_yet()) })).await;
    for (place, garbage) in [(0, &b""[..]), (1, b"garbage"), (2, &[255; 200])] {
        send(&store, "HSET", "spec", &[put[place].as_bytes(), garbage]).await;
    }
    send(&store, "HSET", "run", &[put[4].as_bytes(), b"short"]).await;
    send(&store, "HSET", "run", &[put[5].as_bytes(), &[255; 100]]).await;
    for page in 1..=7 {
        assert_eq!(listed(&store, page).await, put, "in pages of {page}");
    }
    for (place, id) in put.iter().enumerate() {
        let record = store.job(Some(&queue()), *id).await.expect("job").expect("a record");
        assert_eq!(record.failure.is_some(), place != 3, "{place}: {record:?}");
    }
    let all = Selection::Filter { filter: JobFilter::default(), after: None, max_items: 100 };
    let answers = act(&store, all, Act::Remove).await;
    assert_eq!(answers.len(), 6);
    assert!(answers.iter().all(|(_, answer)| matches!(answer, ActAnswer::Done(_))), "{answers:?}");
    assert_eq!(store.counts(&queue()).await.expect("counts"), QueueCounts::default());
    for key in ["spec", "run"] {
        assert_eq!(send(&store, "EXISTS", key, &[]).await, Value::Int(0), "{key}");
    }
}

#[tokio::test]
async fn a_place_without_a_job_is_passed_over_and_goes_with_the_queue() {
    let store = store().await;
    let put = put(&store, (0..5).map(|_| job())).await;
    send(&store, "HDEL", "spec", &[put[1].as_bytes(), put[2].as_bytes()]).await;
    for page in 1..=3 {
        assert_eq!(listed(&store, page).await, [put[0], put[3], put[4]], "in pages of {page}");
    }
    assert_eq!(store.job(Some(&queue()), put[1]).await.expect("job"), None);
    for step in 0..10 {
        match store.obliterate(&queue(), false, 2).await.expect("obliterate") {
            ObliterateAnswer::More(_) => assert!(step < 9, "the obliteration does not end"),
            answer => {
                assert_eq!(answer, ObliterateAnswer::Done);
                break;
            }
        }
    }
    assert_eq!(store.counts(&queue()).await.expect("counts"), QueueCounts::default());
}

#[tokio::test]
async fn a_queue_of_a_newer_layout_is_neither_read_nor_written() {
    let store = store().await;
    let put = put(&store, [job(), at(never_yet())]).await;
    let page = store.dump(&queue(), None, 10).await.expect("dump");
    send(&store, "HSET", "meta", &[b"layout", b"2"]).await;
    let contents = async || {
        let mut all = Vec::new();
        for (command, key) in [("HGETALL", "meta"), ("DUMP", "spec"), ("DUMP", "waiting"), ("DUMP", "delayed")] {
            all.push(send(&store, command, key, &[]).await);
        }
        all
    };
    let before = contents().await;
    let (q, all) = (&queue(), JobFilter::default());
    let request = |on| ActRequest { call: None, queue: queue(), on, act: Act::Remove };
    let list = ListRequest { queue: queue(), filter: all.clone(), after: None, max_items: 10 };
    let errors = [
        store.act(request(Selection::Ids(put.clone()))).await.err(),
        store.act(request(Selection::Filter { filter: all, after: None, max_items: 10 })).await.err(),
        store.config(q).await.err(),
        store.configure(q, QueueConfig::default()).await.err(),
        store.set_paused(q, true).await.err(),
        store.obliterate(q, true, 10).await.err(),
        store.job(Some(q), put[0]).await.err(),
        store.job(None, put[0]).await.err(),
        store.list(list).await.err(),
        store.counts(q).await.err(),
        store.now(q).await.err(),
        store.events(q, Default::default(), 10).await.err(),
        store.last_event(q).await.err(),
        store.dump(q, None, 10).await.err(),
        store.restore(q, page).await.err(),
    ];
    for (place, error) in errors.into_iter().enumerate() {
        assert_eq!(error.map(|error| error.code()), Some(ErrorCode::SchemaTooNew), "call {place}");
    }
    assert_eq!(contents().await, before);
}

#[tokio::test]
async fn a_name_in_the_registry_alone_is_no_queue() {
    let store = store().await;
    put(&store, [job()]).await;
    let mut cmd = redis::cmd("SADD");
    cmd.arg(keys::registry(&store.options.namespace)).arg("another").arg("{no name}").arg(b"\xff");
    store.link.call(&cmd).await.expect("an answer");
    assert_eq!(store.queues().await.expect("queues"), [queue()]);
    assert_eq!(store.job(None, JobId::new()).await.expect("job"), None);
}
