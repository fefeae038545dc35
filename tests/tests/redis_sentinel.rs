//! Queues on a server that Sentinels watch over. When another becomes the master, workers find it by themselves and go on
//! there, and write nothing to the old one, even if it was only cut off and comes back. A master has acknowledged some
//! writes that its replica does not have yet; those are what a failover may lose, and nothing else. Everybody here is
//! a user with the rights of `docs/redis-acl.md` and no others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroq_core::client::Client;
use ferroq_core::context::Context;
use ferroq_core::handler::JobResult;
use ferroq_core::job::QueueName;
use ferroq_core::storage::Storage;
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_tests::logs;
use ferroq_tests::redis::after::{Site, conserved};
use ferroq_tests::redis::load::{self, Book, Load};
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::sentinel::{MASTER, SentinelGroup};
use ferroq_tests::redis::server::{Server, namespace};
use ferroq_tests::redis::tally::{ECHOES, Step, Tally, WORK};
use ferroq_tests::wait::{seed, until, until_so};

/// A group, and a namespace for whose user its servers and Sentinels were set up.
struct Setting {
    group: SentinelGroup,
    namespace: String,
    tally: Tally,
}

async fn item(_job: load::Item, _cx: Context<Tally>) -> JobResult {
    Ok(())
}

impl Setting {
    async fn start() -> Setting {
        let namespace = namespace();
        // Which Sentinels there are makes no difference to the rights.
        let rule = RedisOptions::sentinel([("localhost", 26379)], MASTER).namespace(&namespace).acl_rule();
        let group = SentinelGroup::start_with(ServerOptions::new().user(&format!("app on >secret {rule}"))).await;
        for sentinel in group.sentinels() {
            sentinel.cli(&["ACL", "SETUSER", "asks", "on", ">hidden", "-@all", "+sentinel|get-master-addr-by-name"]);
            // Nobody else may ask: it is this user that makes it work.
            sentinel.cli(&["ACL", "SETUSER", "default", "resetpass"]);
        }
        Setting { group, namespace, tally: Tally::default() }
    }

    async fn open(&self) -> Arc<dyn Storage> {
        let url = self.group.url_with(&format!("namespace={}&call_timeout=500ms", self.namespace));
        let options = RedisOptions::from_url(&url).expect("the Sentinels' URL").user("app").password("secret");
        let options = options.sentinel_user("asks").sentinel_password("hidden");
        Arc::new(RedisStorage::open(options).await.expect("the Sentinels know the master"))
    }

    /// Two handles on queues that keep everything.
    async fn handles(&self) -> [Arc<dyn Storage>; 2] {
        let storages = [self.open().await, self.open().await];
        for queue in [load::QUEUE, load::FOLLOWERS] {
            let queue = QueueName::new(queue).expect("a name");
            storages[0].configure(&queue, load::keep_all()).await.expect("configure");
        }
        storages
    }

    fn master(&self) -> &Server {
        self.group.master().expect("a master")
    }

    /// When everything that was acknowledged had got to the replica.
    async fn replicated(&self) -> Instant {
        let now = Instant::now();
        let offset = |server: &Server, field| server.info(field).and_then(|offset| offset.parse::<u64>().ok());
        let master = self.master();
        let written = offset(master, "master_repl_offset").expect("a master tells");
        let replica = self.group.servers().iter().find(|server| server.port() != master.port()).expect("a replica");
        let has_it = || offset(replica, "slave_repl_offset") >= Some(written);
        until_so("the replica has what the master wrote", has_it).await;
        now
    }

    /// What was acknowledged before one instant and after another is there, and stays when all is worked off.
    async fn check(&self, book: &Book, before: Instant, after: Instant) {
        let site = Site::of(vec![self.master()], &self.namespace, self.open().await);
        let (early, late) = (book.inserted_before(before), book.inserted_after(after));
        assert!(early.len() > 50 && !late.is_empty(), "{} jobs before and {} after", early.len(), late.len());
        let kept = early.union(&late).copied();
        conserved(&site.check().await, kept.clone());
        book.nothing_ran_again(before);
        let worker = |client: &Client| {
            self.tally.worker(client).queue(load::QUEUE).queue(load::FOLLOWERS).queue(WORK).queue(ECHOES).handle(item)
        };
        site.drain_and_check(kept, worker).await;
    }
}

/// Waits until some more jobs have ended.
async fn goes_on(load: &Load) {
    let ended = load.book().ended.len();
    until_so("the load goes on", || load.book().ended.len() > ended + 50).await;
}

/// How often a server has run scripts, or was asked to and refused.
fn asked(server: &Server) -> (Option<String>, Option<String>) {
    (server.info("cmdstat_evalsha"), server.info("errorstat_READONLY"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_takes_only_what_its_replica_had_not_and_workers_find_the_new_one() {
    logs::keep();
    let setting = Setting::start().await;
    let seed = seed("redis_sentinel", "a_killed_master");
    for round in 0..2 {
        let client = Client::new(setting.open().await);
        let worker = setting.tally.worker(&client).lease(Duration::from_secs(2)).start().await.expect("start");
        let elections = setting.group.elections();
        let load = Load::start(&setting.handles().await, seed.wrapping_add(round));
        goes_on(&load).await;
        let before = setting.replicated().await;
        assert_eq!(setting.group.elections(), elections, "the Sentinels chose another master without a cause");
        setting.group.fail_over().await;
        let after = Instant::now();
        goes_on(&load).await;
        // After a failed attempt, calls fail at once for up to half a second.
        let enqueued = async || client.enqueue_all((0..20).map(|n| Step { n })).await.ok();
        until("this handle finds the new master too", enqueued).await;
        let runs = setting.tally.runs();
        until_so("the worker goes on", || setting.tally.runs() > runs).await;
        let book = load.stop().await;
        worker.shutdown().await;
        setting.group.heal().await;
        setting.check(&book, before, after).await;
    }
    // Down, up, down, up: each once.
    let lines = logs::with(&[&format!("queue={WORK}"), "the storage"]);
    let changes: Vec<bool> = lines.iter().map(|line| line.contains("the storage fails")).collect();
    assert!(changes.first() == Some(&true) && changes.windows(2).all(|pair| pair[0] != pair[1]), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_left_and_not_written_to() {
    let setting = Setting::start().await;
    let load = Load::start(&setting.handles().await, seed("redis_sentinel", "a_demoted_master"));
    goes_on(&load).await;
    let (old, before) = (setting.master(), setting.replicated().await);
    setting.group.switch_over().await;
    let after = Instant::now();
    goes_on(&load).await;
    let was_asked = asked(old);
    goes_on(&load).await;
    assert_eq!(asked(old), was_asked, "somebody still talks to the old master");
    let book = load.stop().await;
    setting.check(&book, before, after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_was_cut_off_and_comes_back_is_not_written_to() {
    let setting = Setting::start().await;
    let handles = setting.handles().await;
    let load = Load::start(&handles, seed("redis_sentinel", "a_master_that_was_cut_off"));
    goes_on(&load).await;
    let (old, before) = (setting.master(), setting.replicated().await);
    // Connections stay open, and nothing is answered.
    setting.group.fail_over_from(old, Server::stop).await;
    let after = Instant::now();
    goes_on(&load).await;
    // It still takes itself for the master, until a Sentinel tells it.
    old.cont();
    goes_on(&load).await;
    let mut book = load.stop().await;
    setting.group.is_ok().await;
    let was_asked = asked(old);
    let load = Load::start(&handles, 0);
    goes_on(&load).await;
    assert_eq!(asked(old), was_asked, "somebody still talks to the old master");
    book.inserted.extend(load.stop().await.inserted);
    setting.check(&book, before, after).await;
}
