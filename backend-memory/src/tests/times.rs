//! Time: steps of the clock, outages, sweeps, and the runtime's own clock.

use ferroq_core::clock::SystemClock;
use ferroq_core::job::{JobState, Start};
use ferroq_core::storage::{RenewRequest, Storage};

use super::*;

#[tokio::test]
async fn a_clock_that_steps_back_an_hour_gives_every_lease_its_full_term_again() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    b.take().await;
    b.clock.step_back(HOUR);
    b.sweep().await;
    let now = b.store.now(&b.q).await.unwrap();
    assert_eq!(b.record(id).await.lease_until, Some(now.after(TERM)));
    assert_eq!(b.log().await[2..], [EventKind::ClockSteppedBack]);
}

#[tokio::test]
async fn a_small_lag_stops_time_until_the_clock_has_caught_up() {
    let b = Bench::new();
    b.add(b.spec()).await;
    let before = b.store.now(&b.q).await.unwrap();
    b.clock.step_back(SECOND * 59);
    let id = b.add(b.spec()).await;
    assert_eq!(b.record(id).await.created_at, before);
}

#[tokio::test]
async fn after_an_outage_leases_are_extended_once_before_any_runs_out() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    b.take().await;
    b.clock.advance(HOUR * 87_600);
    assert_eq!(b.sweep().await.stalled, 0);
    let now = b.store.now(&b.q).await.unwrap();
    assert_eq!(b.record(id).await.lease_until, Some(now.after(TERM)));
    assert_eq!(b.log().await[2..], [EventKind::LeasesExtended]);
    assert_eq!(b.crash().await.stalled, 1, "its worker did not come back");
}

#[tokio::test]
async fn an_outage_extends_only_the_leases_that_are_short_for_it() {
    let b = Bench::new();
    let short = b.add(b.spec()).await;
    let short_lease = b.take().await.lease;
    let long = b.add(b.spec()).await;
    b.ask(ClaimSpec { term: HOUR, ..asking(&["k"], 1) }).await;
    let until = b.record(long).await.lease_until;
    b.clock.advance(TERM / 2 + Duration::from_micros(1));
    b.sweep().await;
    let now = b.store.now(&b.q).await.unwrap();
    assert_eq!(b.record(short).await.lease_until, Some(now.after(TERM)));
    assert_eq!(b.record(long).await.lease_until, until);
    b.settle(short_lease, done()).await;
    b.clock.advance(TERM);
    b.sweep().await;
    assert_eq!(b.log().await.iter().filter(|kind| **kind == EventKind::LeasesExtended).count(), 1);
}

#[tokio::test]
async fn a_gap_of_exactly_half_a_term_is_no_outage() {
    let b = Bench::new();
    b.add(b.spec()).await;
    b.take().await;
    b.clock.advance(TERM / 2);
    b.sweep().await;
    b.clock.advance(TERM / 2);
    assert_eq!(b.sweep().await.stalled, 1);
}

#[tokio::test]
async fn a_lease_whose_time_is_over_is_good_until_a_sweep_takes_it() {
    let b = Bench::new();
    b.add(b.spec()).await;
    let lease = b.take().await.lease;
    b.clock.advance(TERM / 2);
    b.sweep().await;
    b.clock.advance(TERM / 2);
    assert!(matches!(b.settle(lease, done()).await, SettleAnswer::Settled { .. }));
}

#[tokio::test]
async fn renewing_counts_as_attendance_and_sets_the_new_term() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    let lease = b.take().await.lease;
    b.clock.advance(SECOND * 10);
    b.store.renew(RenewRequest { queue: b.q.clone(), leases: vec![lease], term: SECOND * 4 }).await.unwrap();
    let record = b.record(id).await;
    assert_eq!(record.lease_term, Some(SECOND * 4));
    b.clock.advance(SECOND * 2);
    assert_eq!(b.sweep().await.next, Some(SECOND * 2));
    b.clock.advance(SECOND * 2);
    assert_eq!(b.sweep().await.stalled, 1);
}

#[tokio::test]
async fn a_sweep_shares_one_budget_among_leases_due_jobs_and_records() {
    let b = Bench::new();
    b.add(b.spec()).await;
    let lease = b.take().await.lease;
    b.configure(|config| config.retention.completed.age = TERM).await;
    b.settle(lease, done()).await;
    b.add(b.spec()).await;
    b.take().await;
    b.add(JobSpec { start: Start::After(TERM), ..b.spec() }).await;
    b.clock.advance(TERM / 2);
    assert_eq!(b.sweep().await.next, Some(TERM / 2));
    b.clock.advance(TERM / 2);
    let mut steps = Vec::new();
    loop {
        let answer = b.store.sweep(SweepRequest { queue: b.q.clone(), max_items: 1 }).await.unwrap();
        steps.push((answer.stalled, answer.promoted, answer.pruned));
        if !answer.more {
            assert_eq!(answer.next, None);
            break;
        }
        assert_eq!(answer.next, Some(Duration::ZERO));
    }
    assert_eq!(steps, [(1, 0, 0), (0, 1, 0), (0, 0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn under_a_paused_runtime_thirty_days_pass_at_once() {
    let store = MemoryStorage::new();
    let queue = q("q");
    let spec = JobSpec::new(queue.clone(), kind("k"), Payload::json("1"));
    let (id, jobs) = (spec.id, vec![Arc::new(JobSpec { start: Start::After(HOUR * 720), ..spec })]);
    store.enqueue(EnqueueRequest { call: None, queue: queue.clone(), jobs }).await.unwrap();
    tokio::time::sleep(HOUR * 720).await;
    assert_eq!(store.claim(None, &queue, asking(&["k"], 1)).await.unwrap().claims.len(), 1);
    assert_eq!(store.job(None, id).await.unwrap().unwrap().state, JobState::Active);
    assert!(store.capabilities().virtual_time);
}

#[test]
fn without_a_runtime_time_is_the_hosts() {
    let store = MemoryStorage::new();
    let read = |store: &MemoryStorage| futures_now(store.now(&q("q")));
    let (first, second) = (read(&store), read(&store));
    assert!(second >= first);
    let injected = MemoryStorage::builder().clock(Arc::new(SystemClock)).build();
    assert!(!injected.capabilities().virtual_time);
}

/// The answer of a future that is ready at once, as every future of this backend is.
fn futures_now<T>(future: impl Future<Output = Result<T, ferroq_core::storage::StorageError>>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => answer.unwrap(),
        std::task::Poll::Pending => panic!("the future was not ready"),
    }
}
