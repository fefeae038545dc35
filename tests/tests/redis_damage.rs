//! Stored jobs with damaged bytes: every bit flipped, cut off at every length, overwritten at random, in what never changes
//! of a job, and in what does of one that waits. The job is Failed as quarantined or is served for what it says now; its
//! neighbours are served, nobody's call fails for it, it can be looked at and removed, and what is left agrees with
//! itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::event::EventCursor;
use ferroq_core::job::{FailReason, JobId, JobSpec, JobState, Payload, Progress, Slot};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{
    Act, ActAnswer, Claim, EnqueueAnswer, JobFilter, Jobs, Lease, Note, NoteAnswer, Outcome, RenewAnswer, RenewRequest,
    SettleAnswer, Settlement, Storage,
};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{Fixture, KIND, Scene, SpecExt, TERM, audit, completed, fail, queue_name};
use ferroq_tests::redis::after::Site;
use ferroq_tests::redis::server::{Server, namespace, shared};
use ferroq_tests::wait::seed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Where copies of jobs go that failed for good.
const LETTERS: &str = "letters";
const HOUR: Duration = Duration::from_secs(3600);
const OTHER: &str = "other.kind";

/// What a victim is when it is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// Never claimed: it has no entry of its own for what changes.
    Fresh,
    /// It has run, left notes, and is in line again.
    Again,
    Delayed,
    Shelved,
    Solo,
    Active,
    Completed,
}

/// Which of a job's two parts is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Spec,
    Run,
}

impl Part {
    fn key(self) -> &'static str {
        match self {
            Part::Spec => "spec",
            Part::Run => "run",
        }
    }
}

struct Queue<'a> {
    server: &'a Server,
    namespace: &'a str,
    scene: Scene,
    scenario: Scenario,
}

impl Queue<'_> {
    fn key(&self, part: &str) -> String {
        format!("ferroq:{{{}:{}}}:{part}", self.namespace, self.scene.queue)
    }

    fn bytes(&self, part: Part, id: JobId) -> Vec<u8> {
        let mut connection = self.server.connection();
        let value: Option<Vec<u8>> =
            redis::cmd("HGET").arg(self.key(part.key())).arg(id.as_bytes()).query(&mut connection).expect("HGET");
        value.unwrap_or_default()
    }

    fn damage(&self, part: Part, id: JobId, bytes: &[u8]) {
        let mut connection = self.server.connection();
        let cmd = redis::cmd("HSET").arg(self.key(part.key())).arg(id.as_bytes()).arg(bytes).clone();
        assert_eq!(cmd.query::<u64>(&mut connection).expect("HSET"), 0, "it is there");
    }

    fn job(&self, n: usize) -> JobSpec {
        let mode = if self.scenario == Scenario::Completed { DedupMode::WhileKept } else { DedupMode::UntilFinished };
        let job = self.scene.spec().dedup(&key(n), mode).tag("a tag").payload("{\"n\":1}");
        match self.scenario {
            Scenario::Delayed => job.delay(HOUR),
            Scenario::Shelved => job.of_kind(OTHER),
            Scenario::Solo => job.crashes(1),
            _ => job.attempts(7),
        }
    }

    /// Makes so many jobs and brings them to where the scenario wants them; answers the leases of those that are Active.
    async fn prepare(&self, count: usize) -> (Vec<JobId>, Vec<Lease>) {
        let scene = &self.scene;
        let ids = scene.put((0..count).map(|n| self.job(n))).await;
        let mut leases = Vec::new();
        match self.scenario {
            Scenario::Fresh | Scenario::Delayed | Scenario::Solo => {}
            Scenario::Shelved => assert!(scene.claim(count).await.is_empty(), "nobody handles them"),
            Scenario::Again | Scenario::Active | Scenario::Completed => {
                for claim in scene.claim(count).await {
                    let note = Note {
                        progress: Some(Progress { done: 1, total: 2, note: None }),
                        log: vec!["a line".into()],
                        checkpoint: Some(Payload::json("[1]")),
                    };
                    assert_eq!(scene.annotate(claim.lease, note).await, NoteAnswer::Noted);
                    leases.push(claim.lease);
                }
                let outcome = match self.scenario {
                    Scenario::Again => fail(Duration::ZERO),
                    Scenario::Completed => Outcome::Completed { result: Some(Payload::json("2")) },
                    _ => return (ids, leases),
                };
                for lease in std::mem::take(&mut leases) {
                    scene.settle(lease, outcome.clone()).await;
                }
            }
        }
        (ids, leases)
    }

    /// Everything that only looks. None of it may fail, and each job is there.
    async fn look(&self, ids: &[JobId], what: &str) {
        let (scene, storage) = (&self.scene, self.scene.storage());
        let listed: HashSet<JobId> = scene.list(JobFilter::default(), 3).await.iter().map(|job| job.id()).collect();
        let dumped: HashSet<JobId> = scene.dump().await.jobs.iter().map(|job| job.id()).collect();
        for id in ids {
            assert!(listed.contains(id) && dumped.contains(id), "{what}: it is not in the list");
            let found = storage.job(Some(&scene.queue), *id).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(found.is_some(), "{what}: it is not found");
            let told = storage.explain(&scene.queue, *id).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(told.state.is_some(), "{what}: it is not explained");
        }
        assert!(storage.job(None, ids[0]).await.unwrap_or_else(|error| panic!("{what}: {error}")).is_some());
        for filter in [JobFilter { lane: Some(Default::default()), ..JobFilter::default() }, tagged("a tag")] {
            scene.list(filter, 3).await;
        }
        scene.counts().await;
        storage
            .events(&scene.queue, EventCursor::default(), 100)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    async fn settle(&self, leases: &[Lease], what: &str) -> Vec<SettleAnswer> {
        let settlements =
            leases.iter().map(|lease| Settlement { lease: *lease, outcome: completed(), follow_ups: vec![] });
        let request = ferroq_core::storage::ExchangeRequest {
            call: None,
            queue: self.scene.queue.clone(),
            settlements: settlements.collect(),
            claim: None,
        };
        let answer = self.scene.storage().exchange(request).await;
        answer.unwrap_or_else(|error| panic!("{what}: the runs could not be settled: {error}")).settled
    }

    async fn claim(&self, what: &str) -> Vec<Claim> {
        let claim = self.scene.asking_for(&[KIND, OTHER], 100);
        let request = ferroq_core::storage::ExchangeRequest {
            call: None,
            queue: self.scene.queue.clone(),
            settlements: Vec::new(),
            claim: Some(claim),
        };
        let answer = self.scene.storage().exchange(request).await;
        answer
            .unwrap_or_else(|error| panic!("{what}: nothing could be claimed: {error}"))
            .claimed
            .unwrap_or_default()
            .claims
    }

    /// Works everything off, as time passes.
    async fn serve(&self, what: &str) {
        let mut ended = HashSet::new();
        for _ in 0..8 {
            loop {
                let claims = self.claim(what).await;
                if claims.is_empty() {
                    break;
                }
                let leases: Vec<Lease> = claims.iter().map(|claim| claim.lease).collect();
                for (lease, answer) in leases.iter().zip(self.settle(&leases, what).await) {
                    assert!(matches!(answer, SettleAnswer::Settled { .. }), "{what}: {answer:?} to a lease just given");
                    assert!(ended.insert(lease.id), "{what}: {} was handed out after its end", lease.id);
                }
            }
            while self.scene.sweep(100).await.more {}
            // Of another kind now, for all that anybody can tell: it waits for a worker that handles it.
            let all = self.scene.list(JobFilter::default(), 100).await;
            if all.iter().all(|job| job.state.is_terminal() || job.slot == Slot::Shelf) {
                return;
            }
            self.scene.attend_for(TERM * 2).await;
            while self.scene.sweep(100).await.more {}
            self.scene.advance(HOUR);
        }
        let mut left = self.scene.list(JobFilter::default(), 100).await;
        left.retain(|job| !job.state.is_terminal());
        panic!("{what}: somebody holds up the queue: {left:#?}");
    }
}

fn key(n: usize) -> String {
    format!("key-{n}")
}

fn tagged(tag: &str) -> JobFilter {
    JobFilter { tag: Some(ferroq_core::job::Tag::new(tag).expect("a tag")), ..JobFilter::default() }
}

/// Whether the damaged spec still says that the job has this key; what it says of itself besides does not matter. The
/// layout is written out here anew: seq, times, priority, traits, kind, payload length, mode, span, key.
fn names_key(spec: &[u8], key: &str) -> bool {
    let read = || {
        let at = 26 + usize::from(*spec.get(25)?);
        let rest = spec.get(at + 4 + 1 + 8..)?;
        let (length, rest) = rest.split_first()?;
        Some(spec.get(24)? & 1 == 1 && rest.get(..usize::from(*length))? == key.as_bytes())
    };
    read().unwrap_or_default()
}

/// Damages all jobs of a queue but two, each as `damaged` says, and sees what becomes of all.
async fn check(
    server: &Server,
    namespace: &str,
    storage: &Arc<RedisStorage>,
    clock: &ManualClock,
    (scenario, part): (Scenario, Part),
    (name, damages): (String, Vec<(String, Damage)>),
) {
    let mut scene = Scene::new(Fixture::new(storage.clone(), clock.clone(), ()));
    scene.queue = queue_name(&format!("{scenario:?}-{part:?}-{name}"));
    // A copy of what fails is made of whatever can be read.
    scene.configure(|config| config.dead_letter = Some(queue_name(LETTERS))).await;
    let queue = Queue { server, namespace, scene, scenario };
    let (ids, leases) = queue.prepare(damages.len() + 2).await;
    // The good ones are the first and the last, so that the damaged are amidst.
    let (good, victims) = ([ids[0], ids[ids.len() - 1]], &ids[1..ids.len() - 1]);
    let what = format!("{scenario:?}, {part:?}, {name}");
    let mut damaged = Vec::new();
    for (id, (_, damage)) in victims.iter().zip(&damages) {
        let bytes = damage(&queue.bytes(part, *id));
        queue.damage(part, *id, &bytes);
        damaged.push(bytes);
    }
    queue.look(&ids, &what).await;
    if scenario == Scenario::Active {
        let request = RenewRequest { queue: queue.scene.queue.clone(), leases: leases.clone(), term: TERM };
        let renewed = storage.renew(request).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let note = || Note { log: vec!["another".into()], ..Note::default() };
        let notes = leases.iter().map(|lease| (*lease, note())).collect();
        let noted = storage.annotate(&queue.scene.queue, notes).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let settled = queue.settle(&leases, &what).await;
        for place in [0, leases.len() - 1] {
            assert_eq!(renewed[place], RenewAnswer::Renewed { cancel_requested: false }, "{what}");
            assert_eq!(noted[place], NoteAnswer::Noted, "{what}");
            assert!(matches!(settled[place], SettleAnswer::Settled { .. }), "{what}: {:?}", settled[place]);
        }
    }
    queue.serve(&what).await;
    queue.look(&ids, &what).await;
    for id in good {
        let record = queue.scene.record(id).await;
        assert_eq!((record.state, record.failure), (JobState::Completed, None), "{what}: a good one");
    }
    for (place, id) in victims.iter().enumerate() {
        let what = format!("{what}, {}", damages[place].0);
        let record = queue.scene.record(*id).await;
        let is_renamed = part == Part::Spec && record.slot == Slot::Shelf && &*record.spec.kind != KIND;
        assert!(record.state.is_terminal() || is_renamed, "{what}: {record:#?}");
        // What can still be read may say that the job is too old, or has used up what it had.
        let honest = [FailReason::Expired, FailReason::CrashesExhausted, FailReason::AttemptsExhausted];
        let is_fit = match (record.state, record.failure) {
            (_, Some(FailReason::Quarantined)) | (JobState::Completed | JobState::Cancelled, None) => true,
            (JobState::Failed, Some(reason)) => honest.contains(&reason),
            (JobState::Waiting, None) => is_renamed,
            _ => false,
        };
        assert!(is_fit, "{what}: {record:#?}");
        // Its key is free if what is stored says which it is; if it is kept with its record, once that goes.
        let spec = if part == Part::Spec { damaged[place].clone() } else { queue.bytes(Part::Spec, *id) };
        let key = key(place + 1);
        let answer = queue.scene.act(*id, Act::Remove).await;
        assert!(matches!(answer, ActAnswer::Done(_)), "{what}: it can't be removed: {answer:?}");
        if names_key(&spec, &key) {
            let again = queue.scene.spec().dedup(&key, DedupMode::UntilFinished);
            assert_eq!(queue.scene.enqueue([again]).await, [EnqueueAnswer::Inserted], "{what}: it keeps its key");
        } else {
            // Nobody can tell any more whose key it is.
            server.cli(&["HDEL", &queue.key("dedup"), &key]);
        }
    }
    queue.serve(&what).await;
    audit(storage.as_ref(), &queue.scene.queue).await;
    audit(storage.as_ref(), &queue_name(LETTERS)).await;
}

type Damage = Box<dyn Fn(&[u8]) -> Vec<u8>>;

fn flip(at: usize, bit: u8) -> (String, Damage) {
    let damage = move |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        bytes
    };
    (format!("bit {bit} of byte {at} flipped"), Box::new(damage))
}

fn cut(length: usize) -> (String, Damage) {
    (format!("cut to {length}"), Box::new(move |bytes| bytes[..length.min(bytes.len())].to_vec()))
}

fn noise(random: &mut StdRng) -> (String, Damage) {
    let seed = random.random();
    let damage = move |bytes: &[u8]| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = bytes.to_vec();
        match random.random_range(0..3) {
            0 => bytes.iter_mut().for_each(|byte| *byte = random.random()),
            1 => (0..random.random_range(1..20)).for_each(|_| {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }),
            _ => bytes.extend((0..random.random_range(1..200)).map(|_| random.random::<u8>())),
        }
        bytes
    };
    (format!("noise {seed}"), Box::new(damage))
}

/// Every damage there is, in groups that share a queue.
async fn check_all(test: &str, scenario: Scenario, part: Part) {
    let mut random = StdRng::seed_from_u64(seed("redis_damage", test));
    let (server, namespace, clock) = (shared(), namespace(), ManualClock::default());
    let options = RedisOptions::from_url(&server.url()).expect("the server's URL").namespace(&namespace);
    let storage = RedisStorage::open(options.clock(Arc::new(clock.clone()))).await.expect("the server answers");
    let storage = Arc::new(storage);
    // As long as it is, and a little longer.
    let bytes_max = 130;
    let mut groups: Vec<(String, Vec<(String, Damage)>)> = Vec::new();
    for at in 0..bytes_max {
        groups.push((format!("byte {at}"), (0..8).map(|bit| flip(at, bit)).collect()));
    }
    for from in (0..bytes_max).step_by(8) {
        groups.push((format!("cuts from {from}"), (from..from + 8).map(cut).collect()));
    }
    for group in 0..20 {
        groups.push((format!("noise {group}"), (0..8).map(|_| noise(&mut random)).collect()));
    }
    for group in groups {
        check(server, &namespace, &storage, &clock, (scenario, part), group).await;
    }
    storage.close().await;
    Site::open(server, &namespace).await.check().await;
}

#[tokio::test]
async fn a_job_whose_spec_is_damaged_in_line_harms_nobody() {
    check_all("a_job_whose_spec_is_damaged_in_line_harms_nobody", Scenario::Fresh, Part::Spec).await;
}

#[tokio::test]
async fn a_spec_damaged_between_two_runs_harms_nobody() {
    check_all("a_spec_damaged_between_two_runs_harms_nobody", Scenario::Again, Part::Spec).await;
}

#[tokio::test]
async fn an_entry_damaged_while_it_waits_for_its_time_harms_nobody() {
    check_all("an_entry_damaged_while_it_waits_for_its_time_harms_nobody", Scenario::Delayed, Part::Run).await;
}

#[tokio::test]
async fn an_entry_damaged_on_a_shelf_harms_nobody() {
    check_all("an_entry_damaged_on_a_shelf_harms_nobody", Scenario::Shelved, Part::Run).await;
}

#[tokio::test]
async fn an_entry_damaged_in_the_solo_line_harms_nobody() {
    check_all("an_entry_damaged_in_the_solo_line_harms_nobody", Scenario::Solo, Part::Run).await;
}

#[tokio::test]
async fn a_spec_damaged_while_it_runs_harms_nobody() {
    check_all("a_spec_damaged_while_it_runs_harms_nobody", Scenario::Active, Part::Spec).await;
}

#[tokio::test]
async fn a_spec_damaged_after_its_end_harms_nobody() {
    check_all("a_spec_damaged_after_its_end_harms_nobody", Scenario::Completed, Part::Spec).await;
}
