//! A server that dies: it is killed under load, and its append-only file comes back whole or cut off anywhere. What was
//! acknowledged is there as far as the server promised, nothing that was settled runs again, and what is left agrees with
//! itself. For a server that is full or emptied, see `redis_full.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroq_core::context::Context;
use ferroq_core::job::{JobId, QueueName};
use ferroq_core::storage::Storage;
use ferroq_core::worker::Worker;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{QueueDump, audit};
use ferroq_tests::redis::after::{Site, conserved};
use ferroq_tests::redis::load::{self, Load, keep_all};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::server::{Server, namespace};
use ferroq_tests::script::{Item, Script};
use ferroq_tests::wait::{seed, until_so};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn cases(default: usize) -> usize {
    std::env::var("FERROQ_CASES").map_or(default, |text| text.parse().expect("FERROQ_CASES is a number"))
}

async fn open(server: &Server, namespace: &str) -> Arc<dyn Storage> {
    let options = RedisOptions::from_url(&server.url()).expect("the server's URL").namespace(namespace);
    Arc::new(RedisStorage::open(options).await.expect("the server answers"))
}

/// A namespace whose queues keep everything, and two handles on it.
async fn under_load(server: &Server, namespace: &str) -> [Arc<dyn Storage>; 2] {
    let storages = [open(server, namespace).await, open(server, namespace).await];
    for queue in [load::QUEUE, load::FOLLOWERS] {
        let queue = QueueName::new(queue).expect("a name");
        storages[0].configure(&queue, keep_all()).await.expect("configure");
    }
    storages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_fsync_always_a_killed_server_loses_and_repeats_nothing_acknowledged() {
    let mut random = StdRng::seed_from_u64(seed("redis_server_faults", "with_fsync_always"));
    let server = Server::start(ServerOptions::new().aof("always"));
    let namespace = namespace();
    let storages = under_load(&server, &namespace).await;
    let site = Site::open(&server, &namespace).await;
    let (mut acknowledged, mut refused, mut failures) = (Vec::new(), Vec::new(), 0);
    for round in 0..cases(6) {
        let load = Load::start(&storages, random.random());
        until_so("the load has begun", || !load.book().inserted.is_empty()).await;
        // The moment of the kill is the subject of the test; any time is as good as another.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..300_000))).await;
        server.kill();
        // Calls fail meanwhile, and what failed without effect must not be there later.
        until_so("the load has noticed", || load.book().failures > 0).await;
        server.restart();
        let resumed = load.book().ended.len();
        until_so("the load goes on", || load.book().ended.len() > resumed).await;
        let book = load.stop().await;
        let snapshot = site.check().await;
        acknowledged.extend(book.inserted.keys().copied());
        conserved(&snapshot, acknowledged.iter().copied());
        book.nothing_ran_again(Instant::now());
        refused.extend(book.refused.iter().copied());
        failures += book.failures;
        let ghost = snapshot.records().find(|(_, job)| refused.contains(&job.id()));
        assert!(ghost.is_none(), "round {round}: refused with nothing changed, and there it is: {ghost:?}");
    }
    assert!(failures > 0 && acknowledged.len() > 100, "{} jobs, {failures} failures", acknowledged.len());
    let snapshot = site.drain_and_check(acknowledged.iter().copied(), load::worker).await;
    let ghost = snapshot.records().find(|(_, job)| refused.contains(&job.id()));
    assert!(ghost.is_none(), "refused with nothing changed, and there it is: {ghost:?}");
}

/// What is lost at most with `appendfsync everysec`: Redis syncs each second, and puts off a sync for one more second.
const WINDOW: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_fsync_everysec_what_is_lost_is_within_two_seconds_and_indexes_agree() {
    let mut random = StdRng::seed_from_u64(seed("redis_server_faults", "with_fsync_everysec"));
    let server = Server::start(ServerOptions::new().aof("everysec"));
    let namespace = namespace();
    let storages = under_load(&server, &namespace).await;
    let site = Site::open(&server, &namespace).await;
    // What was there after the last round is on disk for good.
    let mut settled: Vec<JobId> = Vec::new();
    for _ in 0..cases(2) {
        let load = Load::start(&storages, random.random());
        let over = Duration::from_millis(random.random_range(2_200..2_800));
        let (start, mut lengths) = (Instant::now(), Vec::new());
        while start.elapsed() < over {
            lengths.push((Instant::now(), server.aof_len_bytes()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.kill();
        let killed = Instant::now();
        // A kill alone loses nothing, since the system has the rest of the file. A power cut would lose what was not synced: at
        // most the last two seconds, of which this takes the last one and a half, because a write may reach the file
        // some time after its answer.
        let (_, kept) = lengths.iter().rfind(|(at, _)| killed - *at > WINDOW * 3 / 4).expect("a length that long ago");
        let end = server.aof_len_bytes();
        assert!(*kept < end, "there is something to lose");
        server.truncate_aof(random.random_range(*kept..=end));
        server.restart();
        rewrite_aof(&server).await;
        let book = load.stop().await;
        let snapshot = site.check().await;
        let in_window = killed.checked_sub(WINDOW).expect("the test is older than that");
        let acknowledged = book.inserted_before(in_window);
        assert!(!acknowledged.is_empty(), "nothing was acknowledged before the window; the test shows nothing");
        conserved(&snapshot, acknowledged.iter().chain(&settled).copied());
        book.nothing_ran_again(in_window);
        settled.extend(snapshot.records().map(|(_, job)| job.id()));
    }
    site.drain_and_check(settled, load::worker).await;
}

/// Has the append-only file written anew, as an operator should after a cut: Redis leaves out the transaction in which the file
/// ends, but not from the file, and at the next start runs its first half together with what was appended behind it.
async fn rewrite_aof(server: &Server) {
    let rewritten = || server.info("aof_rewrites").expect("a server tells");
    let before = rewritten();
    server.cli(&["BGREWRITEAOF"]);
    until_so("the append-only file is written anew", || {
        rewritten() != before && server.info("aof_rewrite_in_progress").as_deref() == Some("0")
    })
    .await;
    assert_eq!(server.info("aof_last_bgrewrite_status").as_deref(), Some("ok"));
}

/// The files of an append-only log, by path.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_of(server: &Server) -> Files {
    let entries = std::fs::read_dir(server.directory().join("appendonlydir")).expect("the directory of the files");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
}

/// Brings the files back as they were, with the one that was written last cut off after so many bytes.
fn bring_back(server: &Server, files: &Files, tail: &PathBuf, length: u64) {
    let directory = server.directory().join("appendonlydir");
    std::fs::remove_dir_all(&directory).expect("remove the files");
    std::fs::create_dir(&directory).expect("make the directory");
    for (path, bytes) in files {
        std::fs::write(path, bytes).expect("write a file");
    }
    assert_eq!(server.aof_tail(), *tail);
    server.truncate_aof(length);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_only_file_cut_anywhere_leaves_a_prefix_of_history_and_later_epochs() {
    let mut random = StdRng::seed_from_u64(seed("redis_server_faults", "an_append_only_file_cut_anywhere"));
    let server = Server::start(ServerOptions::new().aof("always").set("aof-load-truncated", "yes"));
    let namespace = namespace();
    let script = Script::on(open(&server, &namespace).await);
    // What the store held when its file was how long, call by call.
    let mut history: Vec<(u64, QueueDump)> = vec![(0, script.dump().await)];
    script.play(async || history.push((server.aof_len_bytes(), script.dump().await))).await;
    assert!(history.is_sorted_by_key(|(length, _)| *length), "the file was rewritten on the way");
    let epochs = history.iter().flat_map(|(_, dump)| dump.jobs.iter().map(|job| job.epoch));
    let last_epoch = epochs.max().expect("jobs");
    server.kill();
    let (files, tail) = (files_of(&server), server.aof_tail());
    let length = files[&tail].len() as u64;
    assert_eq!(history.last().map(|(length, _)| *length), Some(length), "each call was written when it was answered");

    let mut cuts: Vec<u64> = (0..cases(30)).map(|_| random.random_range(0..=length)).collect();
    // And close to where a call ends.
    for _ in 0..cases(30) / 3 {
        let (end, _) = history[random.random_range(0..history.len())];
        cuts.push((end + random.random_range(0..3)).saturating_sub(1).min(length));
    }
    cuts.extend([0, 1, length - 1, length]);
    for (place, cut) in cuts.into_iter().enumerate() {
        let what = format!("the file of {length} bytes was cut to {cut}");
        bring_back(&server, &files, &tail, cut);
        server.restart();
        let site = Site::open(&server, &namespace).await;
        let snapshot = site.check().await;
        let dump = audit(site.storage().as_ref(), &script.queue).await;
        let (_, expected) = history.iter().rev().find(|(noted, _)| *noted <= cut).expect("it was empty once");
        assert!(dump == *expected, "{what}, and the store is not what it was then:\n{dump:#?}\n{expected:#?}");
        if place % 4 == 0 {
            let script = Script::on(site.storage().clone());
            script.client.queue(ferroq_tests::script::QUEUE).expect("a name").resume().await.expect("resume");
            for claim in script.claim(10).await {
                let epoch = claim.lease.epoch;
                assert!(epoch > last_epoch, "{what}: epoch {epoch} comes after {last_epoch}, which was lost");
            }
            let there = snapshot.records().map(|(_, job)| job.id());
            site.drain_and_check(there, |client| {
                Worker::new(client).lease(Duration::from_millis(50)).handle(async |_: Item, _: Context| Ok(()))
            })
            .await;
        }
        site.storage().close().await;
        server.kill();
    }
}
