//! Lists, dumps and restores.

use ferroq_core::job::{JobState, Priority, Start};
use ferroq_core::storage::{DumpPage, ErrorCode, JobFilter, ListRequest, RestoreAnswer, Transfer};

use super::*;

async fn fill(b: &Bench) {
    for number in 0..4 {
        b.add(JobSpec { priority: Priority(number), lifo: number == 2, ..b.spec() }).await;
        b.add(JobSpec { kind: kind("u"), ..b.spec() }).await;
        b.add(JobSpec { start: Start::After(HOUR * u32::from(number)), ..b.keyed(DedupMode::For(HOUR)) }.clone_free())
            .await;
    }
    let claims = b.claim(6).await;
    b.settle(claims[0].lease, done()).await;
    b.settle(claims[1].lease, failed(SECOND)).await;
}

trait CloneFree {
    fn clone_free(self) -> JobSpec;
}

impl CloneFree for JobSpec {
    /// The same job with a key of its own.
    fn clone_free(mut self) -> JobSpec {
        if let Some(dedup) = &mut self.dedup {
            dedup.key = self.id.to_string().try_into().unwrap();
        }
        self
    }
}

async fn dump(b: &Bench) -> Vec<DumpPage> {
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = b.store.dump(&b.q, after, 2).await.unwrap();
        after = page.next;
        pages.push(page);
        if after.is_none() {
            return pages;
        }
    }
}

#[tokio::test]
async fn a_list_in_steps_shows_every_job_once_in_the_order_of_the_walk() {
    let b = Bench::new();
    fill(&b).await;
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let request = ListRequest { queue: b.q.clone(), filter: JobFilter::default(), after, max_items: 3 };
        let page = b.store.list(request).await.unwrap();
        seen.extend(page.jobs.into_iter().map(|record| (record.state, record.id())));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(seen.is_sorted_by_key(|(state, _)| *state));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 12);
}

#[tokio::test]
async fn a_restored_queue_is_the_dumped_one() {
    let (from, to) = (Bench::new(), Bench::new());
    fill(&from).await;
    let pages = dump(&from).await;
    for page in &pages {
        let answer = to.store.restore(&to.q, page.clone()).await.unwrap();
        assert_eq!(answer, RestoreAnswer { restored: page.jobs.len(), existing: 0 });
    }
    assert_eq!(dump(&to).await, pages);
    for page in &pages {
        let answer = to.store.restore(&to.q, page.clone()).await.unwrap();
        assert_eq!(answer, RestoreAnswer { restored: 0, existing: page.jobs.len() });
    }
    assert_eq!(dump(&to).await, pages);
    let next = to.add(to.spec()).await;
    assert_eq!(to.record(next).await.seq, 13);
}

#[tokio::test]
async fn a_restored_lease_goes_on() {
    let (from, to) = (Bench::new(), Bench::new());
    let id = from.add(from.spec()).await;
    let lease = from.take().await.lease;
    for page in dump(&from).await {
        to.store.restore(&to.q, page).await.unwrap();
    }
    assert!(matches!(to.settle(lease, done()).await, SettleAnswer::Settled { .. }));
    assert_eq!(to.record(id).await.state, JobState::Completed);
}

#[tokio::test]
async fn a_seq_that_is_taken_refuses_the_whole_page() {
    let (from, to) = (Bench::new(), Bench::new());
    from.add(from.spec()).await;
    to.add(to.spec()).await;
    let page = dump(&from).await.remove(0);
    let error = to.store.restore(&to.q, page).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Invalid);
    assert_eq!(to.store.counts(&to.q).await.unwrap().waiting, 1);
}
