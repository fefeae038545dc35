//! Batches as SQLite keeps them: what stays in the database while they last and when they are over, what another handle and a
//! reopened file find, and what is done with members whose rows are damaged.

use std::sync::Arc;
use std::time::Duration;

use ferroq_core::clock::ManualClock;
use ferroq_core::job::{
    ErrorKind, FailReason, JobId, JobKind, JobRecord, JobSpec, JobState, LaneKey, Payload, QueueName, WorkerId,
};
use ferroq_core::policy::batch::BatchGate;
use ferroq_core::policy::lanes::{LanePolicy, Say};
use ferroq_core::storage::{
    Claim, ClaimAnswer, ClaimSpec, EnqueueRequest, ExchangeRequest, GatherAnswer, Lease, ListRequest, MembersAnswer,
    MembersPage, MembersRequest, ObliterateAnswer, Outcome, RunError, SettleAnswer, Settlement, Storage, SweepRequest,
};
use ferroq_sqlite::{SqliteOptions, SqliteStorage};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(3600);

fn queue() -> QueueName {
    QueueName::new("emails").expect("a name")
}

fn ada() -> LaneKey {
    LaneKey::new("user/ada").expect("a name")
}

struct Store {
    directory: Arc<TempDir>,
    clock: ManualClock,
    storage: Arc<dyn Storage>,
}

impl Store {
    /// A store in which the lane of Ada has a gate.
    async fn gated(size: u32) -> Store {
        let (directory, clock) = (Arc::new(tempfile::tempdir().expect("a directory")), ManualClock::default());
        let storage = open(&directory, &clock).await;
        let policy = LanePolicy { batch: Say::Limit(BatchGate::new(size, LONG)), ..LanePolicy::default() };
        storage.configure_lane(&queue(), &ada(), Some(policy)).await.expect("it is stored");
        Store { directory, clock, storage }
    }

    async fn put(&self, count: usize) -> Vec<JobId> {
        let job = |_| {
            let mut spec = JobSpec::new(queue(), JobKind::new("welcome").expect("a name"), Payload::json("{}"));
            spec.lane = ada();
            Arc::new(spec)
        };
        let jobs: Vec<Arc<JobSpec>> = (0..count).map(job).collect();
        let ids = jobs.iter().map(|job| job.id).collect();
        self.storage.enqueue(EnqueueRequest { call: None, queue: queue(), jobs }).await.expect("an enqueue");
        ids
    }

    async fn claim(&self) -> ClaimAnswer {
        let claim = ClaimSpec {
            kinds: Arc::from([JobKind::new("welcome").expect("a name")]),
            max_items: 10,
            max_bytes: 1 << 20,
            term: Duration::from_secs(30),
            worker: WorkerId::new("w").expect("a name"),
            alone: false,
        };
        let request = ExchangeRequest { call: None, queue: queue(), settlements: Vec::new(), claim: Some(claim) };
        self.storage.exchange(request).await.expect("an exchange").claimed.expect("a claim")
    }

    /// The leader of the only batch that can be claimed.
    async fn leader(&self) -> Lease {
        let mut claims = self.claim().await.claims;
        assert_eq!(claims.len(), 1);
        assert!(claims[0].batch.is_some());
        claims.remove(0).lease
    }

    async fn settle(&self, leases: &[Lease], outcome: &Outcome) -> Vec<SettleAnswer> {
        let settle = |lease: &Lease| Settlement { lease: *lease, outcome: outcome.clone(), follow_ups: Vec::new() };
        let settlements = leases.iter().map(settle).collect();
        let request = ExchangeRequest { call: None, queue: queue(), settlements, claim: None };
        self.storage.exchange(request).await.expect("an exchange").settled
    }

    async fn page(&self, lease: Lease, after: Option<i64>, max_items: usize) -> MembersPage {
        let request = MembersRequest { queue: queue(), lease, after, max_items, max_bytes: 1 << 20 };
        match self.storage.members(request).await.expect("members") {
            MembersAnswer::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }

    async fn members(&self, lease: Lease) -> Vec<Claim> {
        let (mut members, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(lease, after, 300).await;
            members.extend(page.members);
            after = page.next;
            if after.is_none() {
                return members;
            }
        }
    }

    async fn sweep(&self) {
        let request = SweepRequest { queue: queue(), max_items: 100 };
        self.storage.sweep(request).await.expect("a sweep");
    }

    async fn records(&self) -> Vec<JobRecord> {
        let request = ListRequest { queue: queue(), filter: Default::default(), after: None, max_items: 10_000 };
        self.storage.list(request).await.expect("a list").jobs
    }

    async fn sql(&self, sql: &str) -> i64 {
        let options = SqliteConnectOptions::new().filename(self.directory.path().join("q.db"));
        let mut conn = options.connect().await.expect("a connection");
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut conn).await.expect("rows");
        rows.first().map_or(0, |row| row.get(0))
    }
}

async fn open(directory: &TempDir, clock: &ManualClock) -> Arc<dyn Storage> {
    let options = SqliteOptions::new(directory.path().join("q.db")).clock(Arc::new(clock.clone()));
    Arc::new(SqliteStorage::open(options).await.expect("it opens"))
}

fn completed() -> Outcome {
    Outcome::Completed { result: None }
}

fn aborted() -> Outcome {
    Outcome::Abort { error: RunError { kind: ErrorKind::Error, message: "boom".to_owned() } }
}

fn leases(members: &[Claim]) -> Vec<Lease> {
    members.iter().map(|member| member.lease).collect()
}

#[tokio::test]
async fn a_large_batch_is_gathered_in_steps_and_read_in_pages_and_leaves_no_row_behind() {
    let store = Store::gated(2500).await;
    let ids = store.put(2600).await;
    let leader = store.leader().await;
    let gather = async || store.storage.gather(&queue(), leader, 1000).await;
    assert!(!store.page(leader, None, 1).await.formed);
    let gathered = |members, formed| GatherAnswer::Gathered { members, formed };
    assert_eq!(gather().await.expect("an answer"), gathered(2000, false));
    assert_eq!(gather().await.expect("an answer"), gathered(2499, true));
    assert_eq!(gather().await.expect("an answer"), gathered(2499, true));
    let members = store.members(leader).await;
    assert!(members.iter().map(|member| member.lease.id).eq(ids[1..2500].iter().copied()), "in the order of seq");
    for some in leases(&members).chunks(500) {
        assert!(
            store.settle(some, &completed()).await.iter().all(|answer| matches!(answer, SettleAnswer::Settled { .. }))
        );
    }
    assert_eq!(store.sql("SELECT members FROM ferroq_batches").await, 0);
    store.settle(&[leader], &completed()).await;
    assert_eq!(store.sql("SELECT count(*) FROM ferroq_batches").await, 0);
    assert_eq!(store.sql("SELECT count(*) FROM ferroq_jobs WHERE batch IS NOT NULL").await, 0);
    let answer = store.claim().await;
    assert!(answer.claims.is_empty(), "a hundred are too few");
    assert_eq!(answer.look_again, Some(LONG));
}

#[tokio::test]
async fn what_a_gate_waits_for_is_found_when_the_file_is_opened_again() {
    let mut store = Store::gated(3).await;
    store.put(1).await;
    store.clock.advance(Duration::from_secs(60));
    assert_eq!(store.claim().await.look_again, Some(LONG - Duration::from_secs(60)));
    store.storage.close().await;
    store.storage = open(&store.directory, &store.clock).await;
    store.clock.advance(Duration::from_secs(60));
    store.put(1).await;
    assert_eq!(store.claim().await.look_again, Some(LONG - Duration::from_secs(120)));
    store.put(1).await;
    let leader = store.leader().await;
    assert_eq!(store.members(leader).await.len(), 2);
}

#[tokio::test]
async fn members_are_settled_through_another_handle_than_the_one_that_claimed() {
    let here = Store::gated(3).await;
    here.put(3).await;
    let leader = here.leader().await;
    let there = Store {
        storage: here.storage.second_handle().await.expect("a handle"),
        directory: here.directory.clone(),
        clock: here.clock.clone(),
    };
    let members = leases(&there.members(leader).await);
    assert!(matches!(there.settle(&members[..1], &completed()).await[..], [SettleAnswer::Settled { .. }]));
    assert!(matches!(
        here.settle(&members, &completed()).await[..],
        [SettleAnswer::AlreadyDone, SettleAnswer::Settled { .. }]
    ));
    assert!(matches!(there.settle(&[leader], &completed()).await[..], [SettleAnswer::Settled { .. }]));
}

#[tokio::test]
async fn members_of_a_batch_that_failed_fail_in_steps() {
    let store = Store::gated(100).await;
    store.put(100).await;
    let leader = store.leader().await;
    store.settle(&[leader], &aborted()).await;
    let sweep = |max_items| store.storage.sweep(SweepRequest { queue: queue(), max_items });
    let first = sweep(60).await.expect("a sweep");
    assert_eq!((first.failed, first.more), (60, true));
    let second = sweep(39).await.expect("a sweep");
    assert_eq!((second.failed, second.more), (39, false));
    assert_eq!(store.sql("SELECT count(*) FROM ferroq_batches").await, 0);
    let with_batch = |record: &&JobRecord| record.failure == Some(FailReason::WithBatch);
    assert_eq!(store.records().await.iter().filter(with_batch).count(), 99);
}

#[tokio::test]
async fn a_job_that_can_not_be_read_is_quarantined_instead_of_gathered() {
    let store = Store::gated(3).await;
    store.put(3).await;
    store.sql("UPDATE ferroq_jobs SET notes=x'00' WHERE (key & 1099511627775)=2").await;
    let leader = store.leader().await;
    assert_eq!(store.members(leader).await.len(), 1);
    let quarantined = |record: &&JobRecord| record.failure == Some(FailReason::Quarantined);
    assert_eq!(store.records().await.iter().filter(quarantined).count(), 1);
}

#[tokio::test]
async fn a_member_that_can_not_be_read_is_left_out_and_fails_once_it_leads() {
    let store = Store::gated(3).await;
    store.put(3).await;
    let leader = store.leader().await;
    store.sql("UPDATE ferroq_jobs SET notes=x'00' WHERE (key & 1099511627775)=2").await;
    assert_eq!(store.members(leader).await.len(), 1);
    store.settle(&[leader], &completed()).await;
    let first = store.claim().await;
    assert!(first.claims.is_empty() && first.more, "the one that can be read leads once the other has failed");
    let next = store.leader().await;
    let failed: Vec<JobRecord> =
        store.records().await.into_iter().filter(|record| record.state == JobState::Failed).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].failure, Some(FailReason::Quarantined));
    store.settle(&[next], &completed()).await;
    assert_eq!(store.sql("SELECT count(*) FROM ferroq_batches").await, 0);
}

#[tokio::test]
async fn a_batch_leaves_with_its_queue() {
    let store = Store::gated(3).await;
    store.put(5).await;
    store.leader().await;
    while store.storage.obliterate(&queue(), true, 2).await.expect("a step") != ObliterateAnswer::Done {}
    assert_eq!(store.sql("SELECT count(*) FROM ferroq_batches").await, 0);
}

#[tokio::test]
async fn nobody_waits_for_a_batch_of_which_a_row_is_gone_or_damaged() {
    const LEADER: &str = "(key & 1099511627775)=1";
    let damages = [
        format!("DELETE FROM ferroq_jobs WHERE {LEADER}"),
        format!("UPDATE ferroq_jobs SET batch=NULL WHERE {LEADER}"),
        format!("UPDATE ferroq_jobs SET place=place | (7 << 37) WHERE {LEADER}"),
        format!("UPDATE ferroq_jobs SET notes=x'00' WHERE {LEADER}"),
        "DELETE FROM ferroq_batches".to_owned(),
        "UPDATE ferroq_batches SET leader=NULL".to_owned(),
        "UPDATE ferroq_batches SET leader=leader+1".to_owned(),
        "UPDATE ferroq_batches SET leader=leader+1,members=0,spent='none'".to_owned(),
    ];
    let delayed = Outcome::Retry { error: RunError::new(ErrorKind::Error, "boom"), delay: Duration::from_secs(1) };
    for damage in &damages {
        for outcome in [None, Some(&Outcome::Release), Some(&delayed)] {
            let what = format!("{damage}, {outcome:?}");
            let mut store = Store::gated(4).await;
            let ids = store.put(4).await;
            let leader = store.leader().await;
            if let Some(outcome) = outcome {
                store.settle(&[leader], outcome).await;
            }
            // What this process remembers of Active jobs is not read again.
            store.storage.close().await;
            store.sql(damage).await;
            store.storage = open(&store.directory, &store.clock).await;
            let mut rounds = 0;
            loop {
                store.sweep().await;
                let claims = store.claim().await.claims;
                for claim in &claims {
                    let mut held = Vec::new();
                    if claim.batch.is_some() {
                        held = leases(&store.members(claim.lease).await);
                    }
                    held.push(claim.lease);
                    store.settle(&held, &completed()).await;
                }
                let lives = |record: &JobRecord| !record.state.is_terminal() && record.id() != ids[0];
                if !store.records().await.iter().any(lives) {
                    break;
                }
                // Often enough for leases to end, and far enough for the gate to open.
                if claims.is_empty() {
                    store.clock.advance(if rounds % 8 == 7 { LONG } else { Duration::from_secs(10) });
                }
                rounds += 1;
                assert!(rounds < 50, "{what}: somebody waits for ever: {:#?}", store.records().await);
            }
            let is_done = |record: &JobRecord| record.state == JobState::Completed;
            let done = store.records().await.into_iter().filter(|record| record.id() != ids[0]).filter(is_done).count();
            assert_eq!(done, 3, "{what}");
            store.sweep().await;
            assert_eq!(store.sql("SELECT count(*) FROM ferroq_batches").await, 0, "{what}");
        }
    }
}

#[tokio::test]
async fn members_of_a_damaged_batch_run_together_and_its_old_leader_takes_them_from_nobody() {
    let mut store = Store::gated(4).await;
    let ids = store.put(4).await;
    let old = store.leader().await;
    store.storage.close().await;
    store.sql("DELETE FROM ferroq_batches").await;
    store.storage = open(&store.directory, &store.clock).await;
    store.sweep().await;
    let next = store.leader().await;
    assert_eq!(next.id, ids[1]);
    let members = store.members(next).await;
    assert!(members.iter().map(|member| member.lease.id).eq(ids[2..].iter().copied()));
    let stale: Vec<Lease> = ids[1..].iter().map(|id| Lease { id: *id, epoch: old.epoch }).collect();
    assert_eq!(store.settle(&stale, &completed()).await, [const { SettleAnswer::LeaseLost }; 3]);
    assert!(matches!(store.settle(&[old], &completed()).await[..], [SettleAnswer::Settled { .. }]));
    let mut held = leases(&members);
    held.push(next);
    let settled = store.settle(&held, &completed()).await;
    assert!(settled.iter().all(|answer| matches!(answer, SettleAnswer::Settled { .. })), "{settled:?}");
    assert_eq!(store.sql("SELECT count(*) FROM ferroq_batches").await, 0);
}

#[tokio::test]
async fn sweeps_look_at_all_batches_in_turn() {
    let mut store = Store::gated(2).await;
    store.put(2 * 60).await;
    for _ in 0..6 {
        let leaders: Vec<Lease> = store.claim().await.claims.iter().map(|claim| claim.lease).collect();
        assert_eq!(leaders.len(), 10);
        store.settle(&leaders, &Outcome::Snooze { delay: LONG }).await;
    }
    for number in [60, 30, 1] {
        store.storage.close().await;
        store.sql(&format!("DELETE FROM ferroq_batches WHERE (key & 1099511627775)={number}")).await;
        store.storage = open(&store.directory, &store.clock).await;
        for _ in 0..4 {
            store.sweep().await;
        }
        let next = store.leader().await;
        store.settle(&[next], &completed()).await;
        assert!(store.claim().await.claims.is_empty(), "batch {number} was the only one");
    }
}
