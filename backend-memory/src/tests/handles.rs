//! The storage as a whole: repeats, handles, hints, and calls from many threads.

use ferroq_core::job::JobState;
use ferroq_core::policy::retention::KeepRule;
use ferroq_core::storage::{ErrorCode, ExchangeRequest, JobFilter, Storage};
use tokio::task::JoinHandle;

use super::*;

#[tokio::test]
async fn a_repeated_enqueue_inserts_once_and_answers_the_same() {
    let b = Bench::new();
    let jobs = vec![Arc::new(b.spec()), Arc::new(b.keyed(DedupMode::UntilFinished))];
    let request = EnqueueRequest { call: call(1), queue: b.q.clone(), jobs };
    let first = b.store.enqueue(request.clone()).await.unwrap();
    assert_eq!(b.store.enqueue(request).await.unwrap(), first);
    assert_eq!(b.store.counts(&b.q).await.unwrap().waiting, 2);
}

#[tokio::test]
async fn a_repeated_exchange_settles_once_and_hands_over_only_current_leases() {
    let b = Bench::new();
    for _ in 0..3 {
        b.add(b.spec()).await;
    }
    let settled = b.take().await.lease;
    let settlement = Settlement { lease: settled, outcome: done(), follow_ups: vec![Arc::new(b.spec())] };
    let request = ExchangeRequest {
        call: call(1),
        queue: b.q.clone(),
        settlements: vec![settlement],
        claim: Some(asking(&["k"], 2)),
    };
    let first = b.store.exchange(request.clone()).await.unwrap();
    assert_eq!(b.store.exchange(request.clone()).await.unwrap(), first);
    assert_eq!(b.store.counts(&b.q).await.unwrap().waiting, 1, "one follow-up");
    let claims = first.claimed.unwrap().claims;
    b.settle(claims[0].lease, done()).await;
    let again = b.store.exchange(request).await.unwrap();
    assert_eq!(again.settled, first.settled);
    assert_eq!(again.claimed.unwrap().claims, claims[1..]);
}

#[tokio::test]
async fn a_repeat_on_a_queue_that_did_not_exist_answers_as_before() {
    let b = Bench::new();
    let ask = || b.store.claim(call(1), &b.q, asking(&["k"], 1));
    assert!(ask().await.unwrap().claims.is_empty());
    b.add(b.spec()).await;
    assert!(ask().await.unwrap().claims.is_empty());
}

#[tokio::test]
async fn a_repeated_act_answers_as_before() {
    let b = Bench::new();
    let id = b.add(b.spec()).await;
    let request = ActRequest { call: call(1), queue: b.q.clone(), on: Selection::Ids(vec![id]), act: Act::Remove };
    let first = b.store.act(request.clone()).await.unwrap();
    assert_eq!(first.answers, [(id, ActAnswer::Done(JobState::Waiting))]);
    assert_eq!(b.store.act(request).await.unwrap(), first);
}

#[tokio::test]
async fn a_closed_handle_refuses_every_call_and_a_second_one_goes_on() {
    let b = Bench::new();
    let second = b.store.second_handle().await.unwrap();
    b.store.close().await;
    b.store.close().await;
    let closed = [
        b.store.counts(&b.q).await.unwrap_err(),
        b.store.claim(None, &b.q, asking(&["k"], 1)).await.unwrap_err(),
        b.store.second_handle().await.err().unwrap(),
    ];
    assert!(closed.iter().all(|error| error.code() == ErrorCode::Closed));
    assert!(second.counts(&b.q).await.is_ok());
}

#[tokio::test]
async fn work_is_hinted_where_it_appears_and_control_where_an_operator_acts() {
    let b = Bench::new();
    let (mut here, mut there) = (b.store.signals(&b.q), b.store.signals(&q("z")));
    let id = b.add(b.spec()).await;
    assert_eq!(here.changed().await, (true, false));
    let lease = b.take().await.lease;
    b.settle_with(lease, Outcome::Snooze { delay: HOUR }, vec![]).await;
    assert_eq!(here.changed().await, (true, false));
    b.act(id, Act::Promote).await;
    assert_eq!(here.changed().await, (true, true));
    let lease = b.take().await.lease;
    b.settle_with(lease, done(), vec![JobSpec { queue: q("z"), ..b.spec() }]).await;
    assert_eq!(there.changed().await, (true, false));
}

/// Each queue is the other's dead-letter queue, so that both locks are wanted from either side, by settlements, sweeps and
/// redrives alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_fail_and_redrive_between_two_queues_lose_none_and_wait_for_none() {
    const JOBS: usize = 200;
    const ROUNDS: usize = 40;
    let b = Arc::new(Bench::new());
    let ring = [q("a"), q("b")];
    for (queue, other) in [(&ring[0], &ring[1]), (&ring[1], &ring[0])] {
        let mut config = b.store.config(queue).await.unwrap();
        config.dead_letter = Some(other.clone());
        config.retention.failed = KeepRule::REMOVE;
        b.store.configure(queue, config).await.unwrap();
        let jobs = (0..JOBS).map(|_| Arc::new(JobSpec { queue: queue.clone(), ..b.spec() })).collect();
        b.store.enqueue(EnqueueRequest { call: None, queue: queue.clone(), jobs }).await.unwrap();
    }
    let workers = (0..4).map(|number| {
        let (b, here) = (b.clone(), ring[number % 2].clone());
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let claims = b.store.claim(None, &here, asking(&["k"], 10)).await.unwrap().claims;
                let error = RunError::new(ErrorKind::Abort, "of no use");
                let settle = |claim: &Claim| {
                    let outcome = Outcome::Abort { error: error.clone() };
                    Settlement { lease: claim.lease, outcome, follow_ups: vec![] }
                };
                b.store.settle(None, &here, claims.iter().map(settle).collect()).await.unwrap();
                let on = Selection::Filter { filter: JobFilter::default(), after: None, max_items: 5 };
                let request = ActRequest { call: None, queue: here.clone(), on, act: Act::Redrive };
                b.store.act(request).await.unwrap();
                b.store.sweep(SweepRequest { queue: here.clone(), max_items: 10 }).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    all_wait(&b, &ring, workers, 2 * JOBS as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_hand_jobs_between_two_queues_lose_none_and_wait_for_none() {
    const JOBS: usize = 200;
    const HOPS: u32 = 20;
    let b = Arc::new(Bench::new());
    let ring = [q("a"), q("b")];
    for queue in &ring {
        let jobs = (0..JOBS).map(|_| Arc::new(JobSpec { queue: queue.clone(), ..b.spec() })).collect();
        b.store.enqueue(EnqueueRequest { call: None, queue: queue.clone(), jobs }).await.unwrap();
    }
    let workers = (0..4).map(|number| {
        let (b, ring) = (b.clone(), ring.clone());
        tokio::spawn(async move {
            for _ in 0..HOPS {
                let (here, there) = (&ring[number % 2], &ring[(number + 1) % 2]);
                let claims = b.store.claim(None, here, asking(&["k"], 10)).await.unwrap().claims;
                let follow_up = || vec![Arc::new(JobSpec { queue: there.clone(), ..b.spec() })];
                let settle =
                    |claim: &Claim| Settlement { lease: claim.lease, outcome: done(), follow_ups: follow_up() };
                let settlements = claims.iter().map(settle).collect();
                for answer in b.store.settle(None, here, settlements).await.unwrap() {
                    assert!(matches!(answer, SettleAnswer::Settled { .. }));
                }
                tokio::task::yield_now().await;
            }
        })
    });
    all_wait(&b, &ring, workers, 2 * JOBS as u64).await;
}

/// Once the workers have ended, all jobs wait in one of the queues.
async fn all_wait(b: &Bench, ring: &[QueueName], workers: impl Iterator<Item = JoinHandle<()>>, jobs: u64) {
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let mut waiting = 0;
    for queue in ring {
        waiting += b.store.counts(queue).await.unwrap().waiting;
    }
    assert_eq!(waiting, jobs);
}
