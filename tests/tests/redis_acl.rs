//! The least that ferroq may be allowed on a Redis server: `docs/redis-acl.md` says what the code says, the rule is enough
//! (every suite of these tests runs as a user who has it and no more, see `ferroq_tests::fixtures`), nothing in it can be
//! spared, and whoever lacks some of it is told what. `FERROQ_BLESS=1 cargo test -p ferroq-tests --test redis_acl`
//! writes the page anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::client::Client;
use ferroq_core::clock::ManualClock;
use ferroq_core::event::EventCursor;
use ferroq_core::job::{JobSpec, LaneKey, LimiterName, QueueName};
use ferroq_core::policy::batch::BatchGate;
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::policy::lanes::{LanePolicy, Say};
use ferroq_core::policy::rate::Rate;
use ferroq_core::policy::retention::KeepRule;
use ferroq_core::storage::{
    AcquireRequest, Act, ActRequest, Batches, Claim, ClaimSpec, Control, Effect, EnqueueRequest, ErrorCode, EventLog,
    ExchangeRequest, Inspect, JobFilter, Jobs, Limits, ListRequest, MembersRequest, Note, Outcome, QueueConfig,
    RenewRequest, Selection, Session, Settlement, StorageError, SweepRequest, Transfer,
};
use ferroq_redis::{RedisOptions, RedisStorage, WaitFor};
use ferroq_testkit::harness::{KIND, SpecExt, TERM, abort, completed, fail, kind, queue_name, spec};
use ferroq_tests::fixtures::as_user;
use ferroq_tests::logs;
use ferroq_tests::redis::server::{namespace, shared};
use ferroq_tests::redis::tally::{Step, Tally, expected};
use ferroq_tests::wait::until_so;

/// A user's options: those of the shared server, in a namespace of its own, as a user of the same name with exactly the
/// rights that they need.
fn user(namespace: &str) -> RedisOptions {
    let options = RedisOptions::from_url(&shared().url()).expect("a good URL").namespace(namespace);
    as_user([shared()], namespace, options)
}

/// The commands that the user is allowed.
fn allowed(options: &RedisOptions) -> Vec<String> {
    options.acl_rule().split(' ').filter_map(|word| word.strip_prefix('+')).map(str::to_owned).collect()
}

fn change_user(user: &str, rules: &[&str]) {
    shared().cli(&[&["ACL", "SETUSER", user][..], rules].concat());
}

async fn refused(options: RedisOptions) -> StorageError {
    match RedisStorage::open(options).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

/// A denial that says which right is missing and where to read about it.
fn names(error: &StorageError, missing: &str) -> bool {
    let text = error.to_string();
    error.code() == ErrorCode::Denied
        && text.contains(&format!("lacks a right: {missing};"))
        && text.contains("docs/redis-acl.md")
}

#[tokio::test]
async fn whoever_lacks_a_right_is_refused_and_told_which() {
    let name = namespace();
    let options = user(&name);
    let commands = allowed(&options);
    assert!(commands.len() > 30, "{commands:?}");
    for command in &commands {
        user(&name);
        change_user(&name, &[&format!("-{command}")]);
        let error = refused(options.clone()).await;
        // What asks for the rights is a script too: Redis itself names that.
        let told = if command == "eval" {
            error.code() == ErrorCode::Denied && error.to_string().contains("'eval'")
        } else {
            error.to_string().contains(&format!("lacks a right: +{command}")) && error.code() == ErrorCode::Denied
        };
        assert!(told && error.to_string().contains("docs/redis-acl.md"), "without {command}: {error}");
        assert_eq!(error.effect(), Effect::None, "{error}");
    }
    user(&name);
    change_user(&name, &["-info", "-srem", "-hset", "-publish"]);
    let error = refused(options.clone()).await;
    let all =
        format!("+info, +srem on ~ferroq:{{{name}}}:*, +hset on ~ferroq:{{{name}:*, +publish on &ferroq:{{{name}:*");
    assert!(names(&error, &all), "{error}");

    for (place, missing) in [
        (format!("~ferroq:{{{name}:*"), format!("~ferroq:{{{name}:*")),
        (format!("~ferroq:{{{name}}}:*"), format!("+sadd +sismember +smembers +srem on ~ferroq:{{{name}}}:*")),
        (format!("&ferroq:{{{name}:*"), format!("+publish +subscribe on &ferroq:{{{name}:*")),
    ] {
        let rule = options.acl_rule().split(' ').filter(|word| *word != place).map(str::to_owned).collect::<Vec<_>>();
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        change_user(&name, &rule);
        let error = refused(options.clone()).await;
        assert!(names(&error, &missing), "without {place}: {error}");
    }
}

#[tokio::test]
async fn what_only_some_options_need_is_missed_by_them_alone() {
    let name = namespace();
    let plain = RedisOptions::from_url(&shared().url()).expect("a good URL").namespace(&name);
    let wait = WaitFor { replicas: 1, fsync: false, timeout: Duration::from_secs(1) };
    for (options, right) in [(plain.clone().database(1), "select"), (plain.clone().replicas_wait(wait), "wait")] {
        RedisStorage::open(as_user([shared()], &name, options.clone())).await.expect("all that is needed");
        // The same user with the rule for plain options.
        let user = as_user([shared()], &name, plain.clone());
        RedisStorage::open(user).await.expect("all that is needed");
        let error = refused(options.user(&name).password("secret")).await;
        assert_eq!(error.code(), ErrorCode::Denied, "{error}");
        let told = [format!("lacks a right: +{right};"), format!("'{right}'")];
        assert!(told.iter().any(|told| error.to_string().contains(told)), "{error}");
        assert!(error.to_string().contains("docs/redis-acl.md"), "{error}");
    }
}

/// One of everything that a storage can be asked, and what was refused.
struct Day {
    storage: Arc<RedisStorage>,
    clock: ManualClock,
    /// The same store by the server's clock.
    by_its_own_clock: RedisStorage,
    queue: QueueName,
    session: Session,
    refused: Vec<StorageError>,
}

impl Day {
    fn note<T>(&mut self, answer: Result<T, StorageError>) -> Option<T> {
        answer.map_err(|error| self.refused.push(error)).ok()
    }

    async fn enqueue(&mut self, jobs: impl IntoIterator<Item = JobSpec>) {
        let jobs: Vec<_> = jobs.into_iter().map(Arc::new).collect();
        let (queue, storage) = (self.queue.clone(), self.storage.clone());
        let request = |call| EnqueueRequest { call: Some(call), queue: queue.clone(), jobs: jobs.clone() };
        let answer = self.session.call(|call| storage.enqueue(request(call))).await;
        self.note(answer);
    }

    async fn exchange(&mut self, settlements: Vec<Settlement>, max_items: usize) -> Vec<Claim> {
        let claim = (max_items > 0).then(|| ClaimSpec {
            kinds: [kind(KIND), kind("test.shelved")].into(),
            max_items,
            max_bytes: usize::MAX,
            term: TERM,
            worker: ferroq_core::job::WorkerId::new("worker").expect("a name"),
            alone: false,
        });
        let storage = self.storage.clone();
        let request = |call| ExchangeRequest {
            call: Some(call),
            queue: self.queue.clone(),
            settlements: settlements.clone(),
            claim: claim.clone(),
        };
        let answer = self.session.call(|call| storage.exchange(request(call))).await;
        self.note(answer).and_then(|answer| answer.claimed).unwrap_or_default().claims
    }

    async fn act(&mut self, on: Selection, act: Act) {
        let request = ActRequest { call: None, queue: self.queue.clone(), on, act };
        let answer = self.storage.act(request).await;
        self.note(answer);
    }

    /// Work, looking on, and everything that an operator can do.
    async fn pass(&mut self) {
        let (storage, queue, other) = (self.storage.clone(), self.queue.clone(), queue_name("other"));
        let plain = || spec(&queue);
        let mut config = QueueConfig::default();
        config.retention.cancelled = KeepRule { age: Duration::from_secs(60), count: 1 };
        let answer = storage.configure(&queue, config).await;
        self.note(answer);
        let held = DedupMode::For(Duration::from_secs(1));
        self.enqueue([plain(), plain(), plain(), plain(), plain().delay(TERM), plain().dedup("held", held)]).await;
        self.enqueue([plain().dedup("held", held), plain().of_kind("test.nobodys").priority(1), plain().crashes(1)])
            .await;

        let claims = self.exchange(Vec::new(), 6).await;
        let answer = storage.counts(&queue).await;
        self.note(answer);
        if let Some(claim) = claims.first() {
            let answer = storage.watch(&queue, claim.lease.id).await.map(drop);
            self.note(answer);
            let note =
                Note { log: vec!["a line".into()], checkpoint: Some(JobSpec::clone(&plain()).payload), progress: None };
            let answer = storage.annotate(&queue, vec![(claim.lease, note)]).await;
            self.note(answer);
        }
        let leases = claims.iter().map(|claim| claim.lease).collect();
        let answer = storage.renew(RenewRequest { queue: queue.clone(), leases, term: TERM }).await;
        self.note(answer);
        let outcomes = [completed(), abort(), fail(TERM), Outcome::Cancelled, Outcome::Release];
        let settlements = claims.iter().zip(outcomes).map(|(claim, outcome)| {
            let follow_ups = [plain(), spec(&other)].map(Arc::new).into();
            Settlement { lease: claim.lease, outcome, follow_ups }
        });
        let settlements = settlements.collect();
        self.exchange(settlements, 2).await;

        let jobs = storage
            .list(ListRequest { queue: queue.clone(), filter: JobFilter::default(), after: None, max_items: 3 })
            .await;
        let jobs: Vec<_> =
            self.note(jobs).map(|page| page.jobs).unwrap_or_default().iter().map(|job| job.id()).collect();
        for (id, act) in jobs.iter().zip([Act::Cancel, Act::SetPriority(7.into()), Act::Remove]) {
            self.act(Selection::Ids(vec![*id]), act).await;
        }
        let all = || Selection::Filter { filter: JobFilter::default(), after: None, max_items: 100 };
        for act in [Act::Promote, Act::Retry { reset: true }, Act::Cancel] {
            self.act(all(), act).await;
        }
        self.clock.advance(TERM * 2);
        for _ in 0..2 {
            let answer = storage.sweep(SweepRequest { queue: queue.clone(), max_items: 100 }).await;
            self.note(answer);
            self.clock.advance(TERM);
        }
        for paused in [true, false] {
            let answer = storage.set_paused(&queue, paused).await;
            self.note(answer);
        }

        let lanes = ["x/1", "x/2"].map(|name| LaneKey::new(name).expect("a lane that follows the rule for names"));
        let policy = LanePolicy { concurrency: Say::Limit(1), ..LanePolicy::default() };
        let answer = storage.configure_lane(&queue, &lanes[0], Some(policy)).await;
        self.note(answer);
        self.enqueue(lanes.map(|lane| JobSpec { lane, ..plain() })).await;
        self.exchange(Vec::new(), 2).await;

        let gated = LaneKey::new("gated").expect("a lane that follows the rule for names");
        let gate = LanePolicy { batch: Say::Limit(BatchGate::new(3, TERM)), ..LanePolicy::default() };
        let answer = storage.configure_lane(&queue, &gated, Some(gate)).await;
        self.note(answer);
        self.enqueue([0; 3].map(|_| JobSpec { lane: gated.clone(), ..plain() })).await;
        let claims = self.exchange(Vec::new(), 10).await;
        if let Some(leader) = claims.iter().find(|claim| claim.batch.is_some()) {
            let lease = leader.lease;
            let answer = storage.gather(&queue, lease, 10).await;
            self.note(answer);
            let request =
                MembersRequest { queue: queue.clone(), lease, after: None, max_items: 10, max_bytes: usize::MAX };
            let answer = storage.members(request).await;
            self.note(answer);
            self.exchange(vec![Settlement { lease, outcome: abort(), follow_ups: Vec::new() }], 0).await;
            let answer = storage.sweep(SweepRequest { queue: queue.clone(), max_items: 100 }).await;
            self.note(answer);
        }

        let limiter = LimiterName::new("limiter").expect("a limiter name that follows the rule for names");
        let call = self.session.call(|call| {
            let (limiter, rate) = (limiter.clone(), Rate::per_minute(2));
            storage.acquire(AcquireRequest { call: Some(call), limiter, rate, permits: 1 })
        });
        let answer = call.await;
        self.note(answer);
        let answer = storage.peek(&limiter, &Rate::per_minute(2), 1).await;
        self.note(answer);
        let answer = storage.reset(&limiter).await;
        self.note(answer);

        let answer = storage.config(&queue).await;
        self.note(answer);
        let answer = self.by_its_own_clock.now(&queue).await;
        self.note(answer);
        let answer = storage.queues().await;
        self.note(answer);
        let answer = storage.last_event(&queue).await;
        self.note(answer);
        let answer = storage.events(&queue, EventCursor::default(), 10).await;
        self.note(answer);
        if let Some(id) = jobs.last() {
            let answer = storage.job(None, *id).await;
            self.note(answer);
        }
        let answer = storage.dump(&queue, None, 100).await;
        if let Some(page) = self.note(answer) {
            for max_items in [1, 1000] {
                let answer = storage.obliterate(&queue, true, max_items).await;
                self.note(answer);
            }
            let answer = storage.restore(&queue, page).await;
            self.note(answer);
        }
    }
}

/// Commands that a day's work does without.
const NOT_OF_A_DAY: [(&str, &str); 4] = [
    ("info", "asked at opening, which is refused without it"),
    ("ping", "a refused ping is an answer too, but leaves an entry in the server's ACL LOG each time"),
    ("blpop", "what only wakes is not called by anybody: the next test is about it"),
    ("subscribe", "likewise"),
];

#[tokio::test]
async fn nothing_can_be_spared_and_what_is_taken_away_at_work_is_named() {
    let mut spared = BTreeSet::new();
    for command in allowed(&user(&namespace())) {
        let name = namespace();
        let clock = ManualClock::default();
        let by_its_own_clock = RedisStorage::open(user(&name)).await.expect("all that is needed");
        let options = user(&name).clock(Arc::new(clock.clone()));
        let storage = Arc::new(RedisStorage::open(options).await.expect("all that is needed"));
        if command == "eval" {
            shared().cli(&["SCRIPT", "FLUSH"]);
        }
        change_user(&name, &[&format!("-{command}")]);
        let (queue, session) = (queue_name("work"), Session::new());
        let mut day = Day { storage, clock, by_its_own_clock, queue, session, refused: Vec::new() };
        day.pass().await;
        let denied: Vec<_> = day.refused.iter().filter(|error| error.code() == ErrorCode::Denied).collect();
        for error in &denied {
            let text = error.to_string();
            let told = text.contains(&format!("lacks a right: +{command}")) || text.contains(&format!("'{command}'"));
            assert!(told && text.contains("docs/redis-acl.md"), "without {command}: {text}");
            // Nothing undoes what a script had done before it met what it may not do.
            match command.as_str() {
                "eval" | "evalsha" => assert_eq!(error.effect(), Effect::None, "without {command}: {error:?}"),
                "hset" | "zadd" | "xadd" => assert_eq!(error.effect(), Effect::Unknown, "without {command}: {error:?}"),
                _ => {}
            }
        }
        if denied.is_empty() {
            assert!(day.refused.is_empty(), "without {command}: {:?}", day.refused);
            spared.insert(command);
        }
    }
    let spared: BTreeSet<&str> = spared.iter().map(String::as_str).collect();
    assert_eq!(spared, NOT_OF_A_DAY.into_iter().map(|(command, _why)| command).collect());
}

#[tokio::test]
async fn hints_that_may_not_be_had_are_logged_once_and_polling_does_without_them() {
    logs::keep();
    for (taken, given, missing) in
        [("-blpop", "+blpop", "+blpop on ~"), ("-subscribe", "+subscribe", "+subscribe on &")]
    {
        let name = namespace();
        let storage = Arc::new(RedisStorage::open(user(&name)).await.expect("all that is needed"));
        change_user(&name, &[taken]);
        let client = Client::new(storage.clone());
        let tally = Tally::default();
        client.enqueue_all((0..20).map(|n| Step { n })).await.expect("enqueue");
        let worker = tally.worker(&client).start().await.expect("start");
        let of_this = [missing.to_owned() + &format!("ferroq:{{{name}:*; docs/redis-acl.md"), "polling".to_owned()];
        let told = || logs::with(&of_this.each_ref().map(String::as_str));
        until_so("the missing right is logged", || !told().is_empty()).await;
        until_so("the jobs have run all the same", || tally.jobs() == expected(20).len()).await;
        let tries = server_count("rejected_calls", taken.trim_start_matches('-'));
        until_so("it was tried again", || server_count("rejected_calls", taken.trim_start_matches('-')) > tries + 2)
            .await;
        let lines: BTreeSet<String> = told().into_iter().collect();
        assert_eq!(lines.len(), told().len(), "each key and channel once: {:?}", told());

        // A token goes to whoever blocks, a message to whoever listens.
        change_user(&name, &[given]);
        let listens = || match taken {
            "-blpop" => shared()
                .cli(&["CLIENT", "LIST"])
                .lines()
                .any(|line| line.contains(&format!("user={name} ")) && line.contains("cmd=blpop")),
            _ => shared().cli(&["PUBSUB", "NUMSUB", &format!("ferroq:{{{name}:work}}:meta")]).ends_with("\n1"),
        };
        until_so("hints are had again", listens).await;
        worker.shutdown().await;
    }
}

/// How often the server has refused a command.
fn server_count(what: &str, command: &str) -> u64 {
    let line = shared().info(&format!("cmdstat_{command}")).unwrap_or_default();
    let count = line.split(',').find_map(|field| field.strip_prefix(what)?.strip_prefix('='));
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_namespace_is_all_that_the_user_can_reach() {
    let (name, other) = (namespace(), namespace());
    user(&name);
    shared().cli(&["HSET", &format!("ferroq:{{{other}:queue}}:meta"), "layout", "1"]);
    let mut connection = redis::Client::open(shared().url_as(&name, "secret"))
        .and_then(|client| client.get_connection())
        .expect("a connection");
    let mut ask = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut connection);
    let elsewhere = |key: &str| key.replace("{n}", &other);
    for words in [
        &["HGET", "ferroq:{{n}:queue}:meta", "layout"][..],
        &["UNLINK", "ferroq:{{n}:queue}:meta"],
        &["SADD", "ferroq:{{n}}:queues", "mine"],
        &["EVAL", "return 1", "1", "ferroq:{{n}:queue}:meta"],
        &["EVAL", "return redis.call('HGET', 'ferroq:{{n}:queue}:meta', 'layout')", "0"],
        &["EVAL", "return redis.call('FLUSHALL')", "0"],
        &["PUBLISH", "ferroq:{{n}:queue}:meta", "c"],
        &["SUBSCRIBE", "ferroq:{{n}:queue}:meta"],
        &["PSUBSCRIBE", "*"],
        &["EXISTS", "session:7"],
        &["GET", "session:7"],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["FLUSHALL"],
        &["SCRIPT", "FLUSH"],
        &["CONFIG", "GET", "*"],
        &["ACL", "LIST"],
        &["CLIENT", "LIST"],
        &["MONITOR"],
        &["SHUTDOWN"],
    ] {
        let words: Vec<String> = words.iter().map(|word| elsewhere(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let error = ask(&words).expect_err("not allowed").to_string().to_lowercase();
        let is_denied =
            ["no permissions", "can't run this command", "can't access"].iter().any(|says| error.contains(says));
        assert!(is_denied, "{words:?}: {error}");
    }
    assert_eq!(shared().cli(&["HGET", &format!("ferroq:{{{other}:queue}}:meta"), "layout"]), "1");
}

const START: &str = "<!-- rights: generated from backend-redis/src/acl.rs by tests/tests/redis_acl.rs -->\n";
const END: &str = "<!-- end of rights -->";

fn page() -> String {
    let plain = RedisOptions::new("localhost", 6379);
    let mut text = format!("```text\n{}\n```\n\n", plain.acl_rule());
    let wait = |fsync| WaitFor { replicas: 1, fsync, timeout: Duration::from_secs(1) };
    text += "| where | more |\n|---|---|\n";
    for (place, options) in [
        ("a database other than 0", plain.clone().database(1)),
        ("behind Sentinels", RedisOptions::sentinel([("localhost", 26379)], "mymaster")),
        ("in a Cluster", RedisOptions::cluster([("localhost", 6379)])),
        ("`wait_replicas`", plain.clone().replicas_wait(wait(false))),
        ("`wait_fsync`", plain.clone().replicas_wait(wait(true))),
    ] {
        let words = |options: &RedisOptions| options.acl_rule().split(' ').map(str::to_owned).collect::<Vec<_>>();
        let known = words(&plain);
        let more: Vec<String> = words(&options).into_iter().filter(|word| !known.contains(word)).collect();
        writeln!(text, "| {place} | `{}` |", more.join(" ").replace('|', "\\|")).expect("writing to a string");
    }
    text += "\n| right | what it is for |\n|---|---|\n";
    for (command, what) in plain.acl_uses() {
        writeln!(text, "| `+{}` | {what} |", command.replace('|', "\\|")).expect("writing to a string");
    }
    text
}

#[test]
fn the_page_says_what_the_code_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/redis-acl.md");
    let text = std::fs::read_to_string(&path).expect("docs/redis-acl.md is there");
    let start = text.find(START).expect("the start marker is there") + START.len();
    let end = start + text[start..].find(END).expect("the end marker is there");
    if std::env::var_os("FERROQ_BLESS").is_some() {
        std::fs::write(&path, format!("{}{}{}", &text[..start], page(), &text[end..])).expect("it can be written");
        return;
    }
    assert_eq!(&text[start..end], page(), "run it with FERROQ_BLESS=1 to write the page anew");
}
