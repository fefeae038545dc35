//! Power cuts, on a real file system in an image file: what is in the image at a moment is what the device had been told
//! to write by then, so a copy of it is what a power cut leaves. With full durability every acknowledged call is in it;
//! with normal durability the last ones may be missing, and what is there is a prefix of history.
#![cfg(target_os = "linux")]

use std::sync::Arc;

use ferroq_core::storage::{Loss, Storage};
use ferroq_sqlite::{Durability, SqliteOptions, SqliteStorage};
use ferroq_testkit::harness::{QueueDump, audit};
use ferroq_tests::disk::{self, Disk};
use ferroq_tests::script::Script;
use ferroq_tests::store;

/// Every so many acknowledged calls the power is cut.
const CALLS_A_CUT: usize = 4;

/// Plays the script, cutting the power now and then, and answers for each cut how many calls were lost by it.
async fn lost_by_cuts(durability: Durability) -> Vec<usize> {
    let directory = store::directory();
    let image = directory.path().join("disk.img");
    disk::make_image(&image, 24);
    let disk = Disk::of_image(&image);
    let options = SqliteOptions::new(disk.db()).durability(durability);
    let script = Script::on(Arc::new(SqliteStorage::open(options).await.expect("open")));
    // What opening wrote is not the subject.
    disk::sync();
    let mut history: Vec<QueueDump> = vec![script.dump().await];
    let mut cuts = Vec::new();
    script
        .play(async || {
            history.push(script.dump().await);
            if history.len().is_multiple_of(CALLS_A_CUT) {
                let copy = directory.path().join(format!("cut-{}.img", cuts.len()));
                std::fs::copy(&image, &copy).expect("copy");
                cuts.push((history.len() - 1, copy));
            }
        })
        .await;
    script.client.close().await;
    drop(disk);

    let mut lost = Vec::new();
    for (acknowledged, copy) in cuts {
        let what = format!("{durability:?}: a power cut after {acknowledged} calls");
        let disk = Disk::of_image(&copy);
        let storage: Arc<dyn Storage> = Arc::new(store::sqlite(&disk.db()).await);
        let script = Script::on(storage.clone());
        let dump = audit(storage.as_ref(), &script.queue).await;
        let held = history[..=acknowledged].iter().rposition(|then| *then == dump);
        let held = held.unwrap_or_else(|| panic!("{what} left no prefix of history: {dump:#?}"));
        let app = store::app(&disk.db()).await;
        let (check,): (String,) =
            sqlx::query_as("PRAGMA integrity_check").fetch_one(&app).await.expect("integrity_check");
        assert_eq!(check, "ok", "{what}");
        app.close().await;
        script.work_off(&what).await;
        storage.close().await;
        lost.push(acknowledged - held);
    }
    lost
}

#[tokio::test]
async fn with_full_durability_a_power_cut_loses_no_acknowledged_call() {
    let lost = lost_by_cuts(Durability::Full).await;
    assert!(lost.len() >= 5 && lost.iter().all(|calls| *calls == 0), "{lost:?}");
}

#[tokio::test]
async fn with_normal_durability_a_power_cut_leaves_a_prefix_of_history() {
    let lost = lost_by_cuts(Durability::Normal).await;
    assert!(lost.iter().any(|calls| *calls > 0), "no cut lost anything, so the other test shows nothing: {lost:?}");
}

#[tokio::test]
async fn what_is_lost_when_is_what_the_store_reports() {
    let directory = store::directory();
    for (durability, power_loss) in [(Durability::Normal, Loss::LastCommits), (Durability::Full, Loss::Nothing)] {
        let options = SqliteOptions::new(store::db_in(&directory)).durability(durability);
        let storage = SqliteStorage::open(options).await.expect("open");
        let report = storage.capabilities().durability;
        assert_eq!((report.process_crash, report.power_loss), (Loss::Nothing, power_loss), "{durability:?}");
        storage.close().await;
    }
    let report = ferroq_memory::MemoryStorage::new().capabilities().durability;
    assert_eq!((report.process_crash, report.power_loss), (Loss::Everything, Loss::Everything));
}
