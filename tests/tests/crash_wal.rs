//! What a crash of the machine may leave of the write-ahead log: all of it, a part that ends between two frames, or one
//! that ends within a frame. Whatever is left, the store opens, is whole, and holds exactly what some acknowledged call
//! left: a prefix of history, never a mixture.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::{ErrorKind, Job, JobKind, JobOptions, JobState, Progress, QueueName, WorkerId};
use ferroq_core::policy::backoff::Backoff;
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{ClaimSpec, Claim, Jobs, Note, Outcome, RunError, Settlement, Storage, StorageExt};
use ferroq_core::worker::Worker;
use ferroq_sqlite::SqliteStorage;
use ferroq_testkit::harness::{QueueDump, audit, dump_queue};
use ferroq_tests::store;
use ferroq_tests::wait::{seed, within};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

const QUEUE: &str = "work";
/// Of a WAL file and of each of its frames (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;

#[derive(Clone, Serialize, Deserialize)]
struct Item {
    text: String,
}

impl Job for Item {
    const NAME: &'static str = "test.item";
    const QUEUE: &'static str = QUEUE;
    type Output = ();

    fn options() -> JobOptions {
        JobOptions { backoff: Backoff::fixed(Duration::from_millis(1)), ..JobOptions::default() }
    }
}

async fn handle(_job: Item, _cx: Context) -> JobResult {
    Ok(())
}

/// A store, its log, and what it held when its log was how long.
struct Scripted {
    directory: TempDir,
    db: PathBuf,
    storage: Arc<SqliteStorage>,
    client: Client,
    queue: QueueName,
    history: Vec<(u64, QueueDump)>,
}

fn wal_of(db: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", db.display()))
}

impl Scripted {
    async fn new() -> Self {
        let directory = store::directory();
        let db = store::db_in(&directory);
        let storage = Arc::new(store::sqlite(&db).await);
        let client = Client::new(storage.clone());
        let queue = QueueName::new(QUEUE).expect("a name");
        let mut scripted = Scripted { directory, db, storage, client, queue, history: Vec::new() };
        scripted.note().await;
        scripted
    }

    /// Takes note of what the store holds now.
    async fn note(&mut self) {
        let length = std::fs::metadata(wal_of(&self.db)).map_or(0, |found| found.len());
        let dump = dump_queue(self.storage.as_ref(), &self.queue, 1000).await;
        self.history.push((length, dump));
    }

    async fn claim(&self, max_items: usize) -> Vec<Claim> {
        let claim = ClaimSpec {
            kinds: Arc::new([JobKind::new(Item::NAME).expect("a kind")]),
            max_items,
            max_bytes: usize::MAX,
            term: Duration::from_millis(50),
            worker: WorkerId::new("scripted").expect("a name"),
            alone: false,
        };
        self.storage.claim(None, &self.queue, claim).await.expect("claim").claims
    }

    async fn settle(&self, claim: &Claim, outcome: Outcome, follow_ups: usize) {
        let follow_ups = (0..follow_ups)
            .map(|_| self.client.enqueue(Item { text: "a follow-up".into() }).into_spec().expect("a spec").1)
            .collect();
        let settlement = Settlement { lease: claim.lease, outcome, follow_ups };
        self.storage.settle(None, &self.queue, vec![settlement]).await.expect("settle");
    }

    /// Every kind of write, each noted.
    async fn play(&mut self) {
        for n in 0..6 {
            let enqueue = self.client.enqueue(Item { text: "x".repeat(n * 900) });
            enqueue.dedup(format!("key-{n}"), DedupMode::UntilFinished).await.expect("enqueue");
            self.note().await;
        }
        self.client.enqueue_all((0..30).map(|n| Item { text: n.to_string() })).await.expect("enqueue");
        self.note().await;
        let delayed = self.client.enqueue(Item { text: "later".into() }).delay(Duration::from_secs(3600));
        let delayed = delayed.await.expect("enqueue");
        self.note().await;
        for round in 0..4 {
            let claims = self.claim(4).await;
            self.note().await;
            let note = Note {
                progress: Some(Progress { done: round, total: 4, note: None }),
                log: vec!["a line".to_owned()],
                checkpoint: None,
            };
            self.storage.annotate(&self.queue, vec![(claims[0].lease, note)]).await.expect("annotate");
            self.note().await;
            self.settle(&claims[0], Outcome::Completed { result: None }, 2).await;
            self.note().await;
            let error = RunError::new(ErrorKind::Error, "it failed");
            self.settle(&claims[1], Outcome::Retry { error: error.clone(), delay: Duration::from_millis(1) }, 0).await;
            self.note().await;
            self.settle(&claims[2], Outcome::Abort { error }, 0).await;
            self.note().await;
            // The fourth stays Active, so that every cut holds leases as well.
        }
        delayed.cancel().await.expect("cancel");
        self.note().await;
        self.client.queue(QUEUE).expect("a name").pause().await.expect("pause");
        self.note().await;
        self.client.queue(QUEUE).expect("a name").resume().await.expect("resume");
        self.note().await;
    }

    /// What the store held when its log was this long: after the last call that had ended by then.
    fn at(&self, length: u64) -> &QueueDump {
        let held = self.history.iter().rev().find(|(noted, _)| *noted <= length);
        &held.expect("the log was empty at the start").1
    }
}

/// Opens a copy of the store whose log is cut to `length` bytes.
async fn open_cut(scripted: &Scripted, length: u64) -> (TempDir, SqliteStorage) {
    let directory = store::directory();
    let db = store::db_in(&directory);
    std::fs::copy(&scripted.db, &db).expect("copy");
    std::fs::copy(wal_of(&scripted.db), wal_of(&db)).expect("copy");
    let wal = std::fs::OpenOptions::new().write(true).open(wal_of(&db)).expect("the copied log");
    wal.set_len(length).expect("cut");
    drop(wal);
    let storage = store::sqlite(&db).await;
    (directory, storage)
}

async fn check_cut(scripted: &Scripted, length: u64, work_off: bool) {
    let (directory, storage) = open_cut(scripted, length).await;
    let dump = audit(&storage, &scripted.queue).await;
    let expected = scripted.at(length);
    assert_eq!(dump.jobs.len(), expected.jobs.len(), "the log was cut to {length} bytes");
    assert!(dump == *expected, "cut to {length} bytes, the store is not what it was then:\n{dump:#?}\n{expected:#?}");
    let app = store::app(&store::db_in(&directory)).await;
    let (check,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&app).await.expect("integrity_check");
    assert_eq!(check, "ok", "the log was cut to {length} bytes");
    app.close().await;
    if work_off {
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let client = Client::new(storage.clone());
        client.queue(QUEUE).expect("a name").resume().await.expect("resume");
        client.enqueue(Item { text: "one more".into() }).await.expect("usable");
        let worker = Worker::new(&client).lease(Duration::from_millis(50)).poll_interval(Duration::from_millis(10));
        within("everything is worked off", worker.handle(handle).run_until_idle()).await.expect("run");
        let dump = audit(storage.as_ref(), &scripted.queue).await;
        let left: Vec<_> = dump
            .jobs
            .iter()
            .filter(|record| matches!(record.state, JobState::Waiting | JobState::Active))
            .collect();
        assert!(left.is_empty(), "cut to {length} bytes: {left:#?}");
        assert_eq!(dump.jobs.len(), expected.jobs.len() + 1, "cut to {length} bytes: nothing is lost on the way");
        client.close().await;
    } else {
        storage.close().await;
    }
}

#[tokio::test]
async fn a_log_cut_anywhere_leaves_a_prefix_of_history_and_a_store_fit_for_use() {
    let mut random = StdRng::seed_from_u64(seed("crash_wal", "a_log_cut_anywhere"));
    let mut scripted = Scripted::new().await;
    scripted.play().await;
    let header = std::fs::read(wal_of(&scripted.db)).expect("the log");
    let page_bytes = u32::from_be_bytes(header[8..12].try_into().expect("four bytes"));
    let frame_bytes = FRAME_HEADER_BYTES + u64::from(page_bytes);
    let length = header.len() as u64;
    let frames = (length - WAL_HEADER_BYTES) / frame_bytes;
    assert!(frames > 100, "the script wrote only {frames} frames");
    let noted: Vec<_> = scripted.history.iter().map(|(length, _)| *length).collect();
    assert!(noted.is_sorted(), "the log was reset on the way, so its length tells nothing: {noted:?}");
    for frame in 0..=frames {
        let cut = WAL_HEADER_BYTES + frame * frame_bytes;
        check_cut(&scripted, cut, frame % 16 == 0 || frame == frames).await;
        if frame < frames && random.random_ratio(1, 4) {
            // Within the frame's header, at its last byte but one, and anywhere.
            let within = [random.random_range(1..FRAME_HEADER_BYTES), frame_bytes - 1, random.random_range(1..frame_bytes)];
            let within = within[random.random_range(0..within.len())];
            check_cut(&scripted, cut + within, false).await;
        }
    }
    for cut in [0, 1, WAL_HEADER_BYTES - 1] {
        check_cut(&scripted, cut, true).await;
    }
    scripted.client.close().await;
    drop(scripted.directory);
}
