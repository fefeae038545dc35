//! Processes that race for a few dedup keys on one store, and are killed with SIGKILL at random moments: at every moment a
//! key has one holder, and in the end none is held by nobody.
#![cfg(unix)]

use std::time::Duration;

use ferroq_tests::child::Child;
use ferroq_tests::dedup::{Order, Place, every_key_comes_free, one_holder_each};
use ferroq_tests::redis::server::{namespace, shared};
use ferroq_tests::store;
use ferroq_tests::wait::seed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CHILD: &str = env!("CARGO_BIN_EXE_dedup_child");
const PROCESSES: usize = 3;
/// How many of them are killed, unless `FERROQ_KILLS` says otherwise.
const KILLS: u64 = 25;

async fn race(place: Place, test: &str) {
    let mut random = StdRng::seed_from_u64(seed("dedup_processes", test));
    let kills = std::env::var("FERROQ_KILLS").map_or(KILLS, |text| text.parse().expect("FERROQ_KILLS is a number"));
    let storage = place.open().await;
    let start = |random: &mut StdRng| Child::spawn(CHILD, &Order { place: place.clone(), seed: random.random() });
    let mut children: Vec<Child> = (0..PROCESSES).map(|_| start(&mut random)).collect();
    for child in &mut children {
        child.says("ready").await;
    }
    let mut pending = 0;
    for _ in 0..kills {
        for _ in 0..5 {
            // The moment of a look, as that of a kill, is the subject of the test; any time is as good as another.
            tokio::time::sleep(Duration::from_micros(random.random_range(0..10_000))).await;
            pending += one_holder_each(storage.as_ref()).await;
        }
        let victim = random.random_range(0..children.len());
        children[victim].kill().await;
        children[victim] = start(&mut random);
        children[victim].says("ready").await;
    }
    for child in &mut children {
        child.kill().await;
    }
    assert!(pending > 0, "no look saw a pending job; the test shows little");
    every_key_comes_free(storage.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_leave_one_holder_and_no_orphan_on_sqlite() {
    let directory = store::directory();
    race(Place::Sqlite(store::db_in(&directory)), "sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_leave_one_holder_and_no_orphan_on_redis() {
    race(Place::Redis(shared().url(), namespace()), "redis").await;
}
