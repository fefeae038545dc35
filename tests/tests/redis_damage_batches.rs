//! Batches of which something was destroyed by hand: the entry of the batch, or one of the two parts of its leader or of a
//! member. Nobody waits for it for ever: the members that can be read run, after few sweeps, and the queue agrees with itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{FailReason, JobId, JobState};
use ferroq_core::policy::batch::BatchGate;
use ferroq_core::policy::lanes::Say;
use ferroq_core::storage::{Claim, JobFilter, Lease, MembersAnswer, MembersRequest, Outcome, SettleAnswer, Settlement};
use ferroq_redis::{RedisOptions, RedisStorage};
use ferroq_testkit::harness::{Fixture, Scene, TERM, audit, completed, fail, queue_name, released, snoozed};
use ferroq_tests::redis::server::{Server, namespace, shared};
use ferroq_tests::wait::seed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SIZE: usize = 4;
const HOUR: Duration = Duration::from_secs(3600);
/// How many batches one sweep looks at.
const MEND_ITEMS: usize = 20;

/// Where counters stand in a batch's entry.
const COUNTERS: std::ops::Range<usize> = 9..33;

/// Where the batch's leader is when the damage is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Active,
    Waiting,
    Delayed,
}

const STANDINGS: [Standing; 3] = [Standing::Active, Standing::Waiting, Standing::Delayed];

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The batch's own entry.
    Batch,
    LeaderRun,
    LeaderSpec,
    Leader,
    MemberRun,
    MemberSpec,
}

const PARTS: [Part; 6] =
    [Part::Batch, Part::LeaderRun, Part::LeaderSpec, Part::Leader, Part::MemberRun, Part::MemberSpec];

struct Store {
    server: &'static Server,
    namespace: String,
    storage: Arc<RedisStorage>,
    clock: ManualClock,
}

struct Queue<'s> {
    store: &'s Store,
    scene: Scene,
}

/// One batch, with its number.
struct Batch {
    number: i64,
    lease: Lease,
    jobs: Vec<JobId>,
}

impl Store {
    async fn open() -> Store {
        let (server, namespace, clock) = (shared(), namespace(), ManualClock::default());
        let options = RedisOptions::from_url(&server.url()).expect("the server's URL").namespace(&namespace);
        let storage = RedisStorage::open(options.clock(Arc::new(clock.clone()))).await.expect("the server answers");
        Store { server, namespace, storage: Arc::new(storage), clock }
    }

    async fn queue(&self, name: &str) -> Queue<'_> {
        let mut scene = Scene::new(Fixture::new(self.storage.clone(), self.clock.clone(), ()));
        scene.queue = queue_name(name);
        scene.configure(|config| config.lanes.every.batch = Say::Limit(BatchGate::new(SIZE as u32, HOUR))).await;
        Queue { store: self, scene }
    }
}

impl Queue<'_> {
    fn cmd(&self, name: &str, part: &str) -> redis::Cmd {
        let key = format!("ferroq:{{{}:{}}}:{part}", self.store.namespace, self.scene.queue);
        redis::cmd(name).arg(key).clone()
    }

    fn get(&self, part: &str, field: &[u8]) -> Vec<u8> {
        let mut connection = self.store.server.connection();
        let value: Option<Vec<u8>> = self.cmd("HGET", part).arg(field).query(&mut connection).expect("HGET");
        value.unwrap_or_default()
    }

    /// Writes other bytes; none: takes the entry away.
    fn set(&self, part: &str, field: &[u8], bytes: Option<&[u8]>) {
        let mut connection = self.store.server.connection();
        let cmd = match bytes {
            Some(bytes) => self.cmd("HSET", part).arg(field).arg(bytes).clone(),
            None => self.cmd("HDEL", part).arg(field).clone(),
        };
        cmd.query::<u64>(&mut connection).expect("HSET or HDEL");
    }

    /// Opens a batch and brings its leader to where it is to stand.
    async fn batch(&self, standing: Standing) -> Batch {
        let jobs = self.scene.put_many(SIZE).await;
        let claim = self.scene.claim_one().await;
        let (number, lease) = (claim.batch.expect("a batch").0, claim.lease);
        match standing {
            Standing::Active => {}
            Standing::Waiting => drop(self.scene.settle(lease, released()).await),
            Standing::Delayed => drop(self.scene.settle(lease, snoozed(HOUR)).await),
        }
        Batch { number, lease, jobs }
    }

    /// Damages a part of a batch.
    fn damage(&self, batch: &Batch, part: Part, damage: &dyn Fn(&[u8]) -> Option<Vec<u8>>) {
        let (leader, member) = (batch.jobs[0].as_bytes(), batch.jobs[2].as_bytes());
        let number = batch.number.to_string();
        let entries: &[(&str, &[u8])] = match part {
            Part::Batch => &[("batches", number.as_bytes())],
            Part::LeaderRun => &[("run", leader)],
            Part::LeaderSpec => &[("spec", leader)],
            Part::Leader => &[("run", leader), ("spec", leader)],
            Part::MemberRun => &[("run", member)],
            Part::MemberSpec => &[("spec", member)],
        };
        for (part, field) in entries {
            self.set(part, field, damage(&self.get(part, field)).as_deref());
        }
    }

    /// The members of a batch, as far as they are told.
    async fn members(&self, claim: &Claim) -> Vec<Claim> {
        let request = MembersRequest {
            queue: self.scene.queue.clone(),
            lease: claim.lease,
            after: None,
            max_items: 100,
            max_bytes: usize::MAX,
        };
        match self.scene.storage().members(request).await.expect("members") {
            MembersAnswer::Page(page) => page.members,
            MembersAnswer::LeaseLost | MembersAnswer::Gone => Vec::new(),
        }
    }

    /// Works everything off, as time passes; in bounded time, which is the point.
    async fn serve(&self, what: &str) {
        let mut ended = HashSet::new();
        for _ in 0..12 {
            // A sweep looks at all batches of such a queue; what it brings back may have to be brought back once more.
            for _ in 0..3 {
                while self.scene.sweep(100).await.more {}
                loop {
                    let claims = self.scene.claim(100).await;
                    if claims.is_empty() {
                        break;
                    }
                    for claim in claims {
                        let members = if claim.batch.is_some() { self.members(&claim).await } else { Vec::new() };
                        let leases = members.iter().chain([&claim]).map(|claim| claim.lease);
                        let complete = |lease| Settlement { lease, outcome: completed(), follow_ups: Vec::new() };
                        let settlements: Vec<Settlement> = leases.map(complete).collect();
                        let answers = self.scene.settle_all(settlements.clone()).await;
                        for (settlement, answer) in settlements.iter().zip(answers) {
                            let is_settled = matches!(answer, SettleAnswer::Settled { .. });
                            let id = settlement.lease.id;
                            assert!(is_settled || id != claim.lease.id, "{what}: {answer:?} to a lease just given");
                            assert!(!is_settled || ended.insert(id), "{what}: {id} ended twice");
                        }
                    }
                }
            }
            let live = [JobState::Waiting, JobState::Delayed, JobState::Active, JobState::Blocked];
            let is_over = self.scene.list(JobFilter::states(live), 100).await.is_empty();
            // Whatever had a lease and is gone is forgotten with that.
            self.scene.attend_for(TERM * 2).await;
            self.scene.sweep(100).await;
            if is_over {
                return;
            }
            self.scene.advance(HOUR);
        }
        let mut left = self.scene.list(JobFilter::default(), 100).await;
        left.retain(|job| !job.state.is_terminal());
        panic!("{what}: somebody waits for ever: {left:#?}");
    }

    /// Damages one of two batches, works both off, and sees what became of them.
    async fn check(&self, standing: Standing, part: Part, what: &str, damage: &dyn Fn(&[u8]) -> Option<Vec<u8>>) {
        let (victim, good) = (self.batch(standing).await, self.batch(standing).await);
        self.damage(&victim, part, damage);
        if standing == Standing::Active {
            // Its worker knows nothing of all this.
            self.scene.settle(victim.lease, fail(Duration::ZERO)).await;
            self.scene.settle(good.lease, fail(Duration::ZERO)).await;
        }
        self.serve(what).await;
        for id in &good.jobs {
            assert_eq!(self.scene.state(*id).await, JobState::Completed, "{what}: of the other batch");
        }
        for (place, id) in victim.jobs.iter().enumerate() {
            let Some(record) = self.scene.find(*id).await else {
                let is_gone = matches!((part, place), (Part::LeaderSpec | Part::Leader, 0) | (Part::MemberSpec, 2));
                assert!(is_gone, "{what}: job {place} is lost");
                continue;
            };
            let is_fit = match (record.state, record.failure) {
                (JobState::Completed | JobState::Cancelled, None) => true,
                // What says of itself that it failed, or is too old, or used up what it had.
                (JobState::Failed, Some(reason)) => match part {
                    Part::Batch => reason == FailReason::WithBatch || reason == FailReason::AttemptsExhausted,
                    Part::MemberRun | Part::MemberSpec => place == 2,
                    _ => place == 0,
                },
                _ => false,
            };
            assert!(is_fit, "{what}: job {place}: {record:#?}");
        }
    }
}

#[tokio::test]
async fn nobody_waits_for_a_batch_of_which_a_part_is_gone() {
    let store = Store::open().await;
    for part in PARTS {
        for standing in STANDINGS {
            let what = format!("{part:?} gone, {standing:?}");
            let queue = store.queue(&format!("gone-{part:?}-{standing:?}")).await;
            queue.check(standing, part, &what, &|_| None).await;
            audit(queue.scene.storage(), &queue.scene.queue).await;
        }
    }
}

#[tokio::test]
async fn nobody_waits_for_a_batch_whose_entry_is_damaged() {
    let mut random =
        StdRng::seed_from_u64(seed("redis_damage_batches", "nobody_waits_for_a_batch_whose_entry_is_damaged"));
    let store = Store::open().await;
    let check = async |name: String, keeps_counters: bool, damage: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
        for standing in STANDINGS {
            let queue = store.queue(&format!("{name}-{standing:?}")).await;
            queue.check(standing, Part::Batch, &format!("{name}, {standing:?}"), damage).await;
            // Members bear what is written there, be it more than they ran.
            if keeps_counters {
                audit(queue.scene.storage(), &queue.scene.queue).await;
            }
        }
    };
    for at in 0..49 {
        check(format!("cut to {at}"), true, &|bytes| Some(bytes[..at].to_vec())).await;
        let bit = random.random_range(0..8);
        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1 << bit;
            Some(bytes)
        };
        check(format!("bit {bit} of byte {at} flipped"), !COUNTERS.contains(&at), &flip).await;
    }
    for bit in 0..8 {
        let flip = |bytes: &[u8]| Some([&[bytes[0] ^ 1 << bit], &bytes[1..]].concat());
        check(format!("bit {bit} of the standing flipped"), true, &flip).await;
    }
    check("longer".into(), true, &|bytes| Some([bytes, b"x"].concat())).await;
}

#[tokio::test]
async fn members_of_a_damaged_batch_run_together_and_its_old_lease_settles_nothing() {
    let store = Store::open().await;
    for part in [Part::Batch, Part::LeaderRun, Part::LeaderSpec] {
        let queue = store.queue(&format!("together-{part:?}")).await;
        let scene = &queue.scene;
        let batch = queue.batch(Standing::Active).await;
        queue.damage(&batch, part, &|_| None);
        assert!(scene.claim(10).await.is_empty());
        scene.sweep(100).await;
        let next = scene.claim_one().await;
        assert_eq!((next.lease.id, next.batch.map(|number| number.0)), (batch.jobs[1], Some(batch.number)), "{part:?}");
        let members: Vec<JobId> = queue.members(&next).await.iter().map(|member| member.lease.id).collect();
        assert_eq!(members, batch.jobs[2..], "{part:?}");
        let stale = batch.jobs[1..].iter().map(|id| Lease { id: *id, epoch: batch.lease.epoch });
        let settle = |lease| Settlement { lease, outcome: completed(), follow_ups: Vec::new() };
        let refused = scene.settle_all(stale.map(settle).collect()).await;
        assert_eq!(refused, [SettleAnswer::LeaseLost, SettleAnswer::LeaseLost, SettleAnswer::LeaseLost], "{part:?}");
        let old = queue.members(&Claim { lease: batch.lease, ..next.clone() }).await;
        assert!(old.is_empty(), "{part:?}: whoever led it before is told of no members");
        queue.serve(&format!("{part:?}")).await;
    }
}

#[tokio::test]
async fn a_failing_batch_that_is_not_among_the_failing_fails_all_the_same() {
    let store = Store::open().await;
    let queue = store.queue("failing").await;
    let batch = queue.batch(Standing::Active).await;
    let error = ferroq_core::storage::RunError::new(ferroq_core::job::ErrorKind::Error, "boom");
    queue.scene.settle(batch.lease, Outcome::Abort { error }).await;
    queue.cmd("DEL", "failing").query::<u64>(&mut store.server.connection()).expect("DEL");
    queue.serve("failing").await;
    for id in &batch.jobs[1..] {
        assert_eq!(queue.scene.record(*id).await.failure, Some(FailReason::WithBatch));
    }
    audit(queue.scene.storage(), &queue.scene.queue).await;
}

#[tokio::test]
async fn sweeps_look_at_all_batches_in_turn() {
    let store = Store::open().await;
    let queue = store.queue("many").await;
    let mut batches = Vec::new();
    for _ in 0..3 * MEND_ITEMS {
        batches.push(queue.batch(Standing::Delayed).await);
    }
    for round in 0..3 {
        // The last of them each time, so that none before it must be looked at twice.
        let last = batches.pop().expect("a batch");
        queue.damage(&last, Part::LeaderRun, &|_| None);
        for _ in 0..4 {
            queue.scene.sweep(100).await;
        }
        let claims = queue.scene.claim(10).await;
        let leaders: Vec<JobId> = claims.iter().map(|claim| claim.lease.id).collect();
        assert!(leaders.contains(&last.jobs[1]), "round {round}: {leaders:?}");
        for claim in claims {
            queue.scene.settle(claim.lease, snoozed(HOUR)).await;
        }
    }
}
