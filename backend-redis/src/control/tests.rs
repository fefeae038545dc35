//! Operators' acts on a real server, where what they leave behind can be seen.

use ferroq_core::job::{DedupKey, JobSpec};
use ferroq_core::policy::dedup::{Dedup, DedupMode};
use ferroq_core::storage::{ClaimSpec, Inspect, JobFilter, Jobs, StorageExt};

use super::*;
use crate::inspect::tests::{act, another, job, put, queue, send, store};
use crate::keys;

async fn keys_left(store: &RedisStorage) -> Vec<String> {
    let mut left = Vec::new();
    for name in store.keys(&queue()).names() {
        if store.link.call(redis::cmd("EXISTS").arg(name)).await.expect("an answer") == Value::Int(1) {
            left.push(name.rsplit(':').next().unwrap_or_default().to_owned());
        }
    }
    left
}

fn with_key(key: &str) -> JobSpec {
    let key = DedupKey::new(key).expect("a good key");
    JobSpec { dedup: Some(Dedup { key, mode: DedupMode::WhileKept }), ..job() }
}

#[tokio::test]
async fn an_obliterated_queue_leaves_no_key() {
    let store = store().await;
    for max_items in [1, 2, 3, 100] {
        let put = put(&store, [job(), with_key("a"), with_key("b"), job(), job()]).await;
        act(&store, Selection::Ids(put[..2].to_vec()), Act::Cancel).await;
        store.watch(&queue(), put[0]).await.expect("watch");
        store.configure(&queue(), QueueConfig::default()).await.expect("configure");
        let mut steps = 1;
        while store.obliterate(&queue(), false, max_items).await.expect("obliterate") != ObliterateAnswer::Done {
            steps += 1;
        }
        assert_eq!(steps, 5_usize.div_ceil(max_items), "in steps of {max_items}");
        assert_eq!(keys_left(&store).await, [""; 0], "in steps of {max_items}");
        let registry = redis::cmd("EXISTS").arg(keys::registry(&store.options.namespace)).clone();
        assert_eq!(store.link.call(&registry).await.expect("an answer"), Value::Int(0));
    }
}

#[tokio::test]
async fn what_waits_for_other_queues_outlives_the_queue() {
    let store = store().await;
    put(&store, [job()]).await;
    send(&store, "ZADD", "outbox", &[b"7", b"an entry"]).await;
    send(&store, "HSET", "ledger", &[b"o:another", b"7"]).await;
    assert_eq!(store.obliterate(&queue(), false, 10).await.expect("obliterate"), ObliterateAnswer::Done);
    assert_eq!(keys_left(&store).await, ["outbox", "ledger"]);
    assert_eq!(store.queues().await.expect("queues"), []);
    let named = redis::cmd("SISMEMBER").arg(keys::registry(&store.options.namespace)).arg("q").clone();
    assert_eq!(store.link.call(&named).await.expect("an answer"), Value::Int(1), "others find the outbox by it");
    send(&store, "DEL", "outbox", &[]).await;
    assert_eq!(store.obliterate(&queue(), false, 10).await.expect("obliterate"), ObliterateAnswer::Done);
    assert_eq!(keys_left(&store).await, ["ledger"], "for a relay that is still under way");
    assert!(expires(&store, "ledger").await);
    put(&store, [job()]).await;
    assert!(!expires(&store, "ledger").await, "a new queue keeps it");
}

async fn expires(store: &RedisStorage, key: &str) -> bool {
    send(store, "PTTL", key, &[]).await != Value::Int(-1)
}

#[tokio::test]
async fn an_obliteration_frees_keys_step_by_step() {
    let store = store().await;
    put(&store, [with_key("a"), with_key("b"), job()]).await;
    assert_eq!(store.obliterate(&queue(), false, 1).await.expect("obliterate"), ObliterateAnswer::More(1));
    let again = [with_key("a"), with_key("b")];
    let (free, held) = (again[0].id, again[1].id);
    put(&store, again).await;
    assert!(store.job(Some(&queue()), free).await.expect("job").is_some());
    assert!(store.job(Some(&queue()), held).await.expect("job").is_none());
}

#[tokio::test]
async fn what_a_newer_library_put_into_the_settings_survives_a_pause() {
    let store = store().await;
    let newer = br#"{"paused":true,"event_entries_kept":55,"lanes":{"a":3}}"#;
    store.configure(&queue(), QueueConfig::default()).await.expect("configure");
    send(&store, "HSET", "meta", &[b"config", newer]).await;
    assert!(store.set_paused(&queue(), true).await.expect("set_paused"));
    assert!(store.set_paused(&queue(), false).await.expect("set_paused"));
    assert_eq!(send(&store, "HGET", "meta", &[b"config"]).await, Value::BulkString(newer.to_vec()));
    let config = store.config(&queue()).await.expect("config");
    assert_eq!((config.paused, config.event_entries_kept), (false, 55));
}

#[tokio::test]
async fn damaged_settings_say_so_and_can_be_replaced() {
    let store = store().await;
    store.set_paused(&queue(), false).await.expect("set_paused");
    send(&store, "HSET", "meta", &[b"config", b"{"]).await;
    assert_eq!(store.config(&queue()).await.expect_err("damaged").code(), ErrorCode::Corrupt);
    store.configure(&queue(), QueueConfig::default()).await.expect("configure");
    assert_eq!(store.config(&queue()).await.expect("config"), QueueConfig::default());
}

#[tokio::test]
async fn numbers_that_the_server_cant_count_to_are_kept_as_settings() {
    let store = store().await;
    let mut config = QueueConfig::default();
    config.event_entries_kept = u64::MAX;
    config.retention.completed.count = u64::MAX;
    config.retention.failed.age = std::time::Duration::MAX;
    store.configure(&queue(), config.clone()).await.expect("configure");
    let mut stored = config;
    // The longest span that any backend stores.
    stored.retention.failed.age = std::time::Duration::from_micros(i64::MAX as u64);
    assert_eq!(store.config(&queue()).await.expect("config"), stored);
    put(&store, [job()]).await;
    assert!(store.set_paused(&queue(), true).await.expect("set_paused"), "and events can be logged");
}

#[tokio::test]
async fn an_act_and_a_claim_at_once_leave_one_of_two_truths() {
    let store = store().await;
    let other = another(&store.options.namespace).await;
    let claim = ClaimSpec {
        kinds: vec![job().kind].into(),
        max_items: 100,
        max_bytes: usize::MAX,
        term: std::time::Duration::from_secs(60),
        worker: ferroq_core::job::WorkerId::new("w").expect("a good name"),
        alone: false,
    };
    let put = put(&store, (0..100).map(|_| job())).await;
    let q = queue();
    let (report, claimed) = tokio::join!(act(&store, Selection::Ids(put), Act::Remove), other.claim(None, &q, claim));
    let claimed = claimed.expect("claim").claims;
    for (id, answer) in report {
        let is_claimed = claimed.iter().any(|claim| claim.lease.id == id);
        let expected =
            if is_claimed { ActAnswer::Refused(JobState::Active) } else { ActAnswer::Done(JobState::Waiting) };
        assert_eq!(answer, expected);
    }
    let left = Selection::Filter { filter: JobFilter::default(), after: None, max_items: 1000 };
    assert_eq!(act(&store, left, Act::Cancel).await.len(), claimed.len());
}
