//! What a crash may leave of the write-ahead log: all of it, a part that ends between two frames, or one that ends
//! within a frame. Whatever is left, the store opens, is whole, and holds exactly what some acknowledged call left: a
//! prefix of history, never a mixture.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferroq_core::storage::Storage;
use ferroq_testkit::harness::{QueueDump, audit};
use ferroq_tests::script::Script;
use ferroq_tests::store;
use ferroq_tests::wait::seed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Of a WAL file and of each of its frames (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;

/// What the store held when its log was how long, call by call.
type History = Vec<(u64, QueueDump)>;

fn wal_of(db: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", db.display()))
}

/// Cuts the log of a copy of the store to `length` bytes, and checks what comes back.
async fn check_cut(db: &Path, history: &History, length: u64, work_off: bool) {
    let what = format!("the log was cut to {length} bytes");
    let directory = store::directory();
    let copy = store::db_in(&directory);
    std::fs::copy(db, &copy).expect("copy");
    std::fs::copy(wal_of(db), wal_of(&copy)).expect("copy");
    let wal = std::fs::OpenOptions::new().write(true).open(wal_of(&copy)).expect("the copied log");
    wal.set_len(length).expect("cut");
    drop(wal);

    let storage: Arc<dyn Storage> = Arc::new(store::sqlite(&copy).await);
    let script = Script::on(storage.clone());
    let dump = audit(storage.as_ref(), &script.queue).await;
    // After the last call that had ended when the log was this long.
    let (_, expected) = history.iter().rev().find(|(noted, _)| *noted <= length).expect("the log was empty once");
    assert!(dump == *expected, "{what}, and the store is not what it was then:\n{dump:#?}\n{expected:#?}");
    let app = store::app(&copy).await;
    let (check,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&app).await.expect("integrity_check");
    assert_eq!(check, "ok", "{what}");
    app.close().await;
    if work_off {
        script.work_off(&what).await;
    }
    storage.close().await;
}

#[tokio::test]
async fn a_log_cut_anywhere_leaves_a_prefix_of_history_and_a_store_fit_for_use() {
    let mut random = StdRng::seed_from_u64(seed("crash_wal", "a_log_cut_anywhere"));
    let directory = store::directory();
    let db = store::db_in(&directory);
    let script = Script::on(Arc::new(store::sqlite(&db).await));
    let length_now = || std::fs::metadata(wal_of(&db)).map_or(0, |found| found.len());
    // A log that is not there yet is cut to nothing.
    let mut history: History = vec![(0, script.dump().await)];
    script.play(async || history.push((length_now(), script.dump().await))).await;

    let wal = std::fs::read(wal_of(&db)).expect("the log");
    let page_bytes = u32::from_be_bytes(wal[8..12].try_into().expect("four bytes"));
    let frame_bytes = FRAME_HEADER_BYTES + u64::from(page_bytes);
    let frames = (wal.len() as u64 - WAL_HEADER_BYTES) / frame_bytes;
    assert!(frames > 100, "the script wrote only {frames} frames");
    assert!(
        history.is_sorted_by_key(|(length, _)| *length),
        "the log was reset on the way, so its length tells nothing"
    );
    for frame in 0..=frames {
        let cut = WAL_HEADER_BYTES + frame * frame_bytes;
        check_cut(&db, &history, cut, frame % 16 == 0 || frame == frames).await;
        if frame < frames && random.random_ratio(1, 4) {
            // Within the frame's header, at its last byte, or anywhere in it.
            let places =
                [random.random_range(1..FRAME_HEADER_BYTES), frame_bytes - 1, random.random_range(1..frame_bytes)];
            check_cut(&db, &history, cut + places[random.random_range(0..places.len())], false).await;
        }
    }
    for cut in [0, 1, WAL_HEADER_BYTES - 1] {
        check_cut(&db, &history, cut, true).await;
    }
    script.client.close().await;
}
