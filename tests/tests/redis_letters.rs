//! Dead letters and redriven jobs go through the outbox like follow-ups: whoever dies between the script that wrote them
//! and the end of the relay, each failure leaves one copy, and each redrive one job, in their order.

#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;

use ferroq_core::storage::{ObliterateAnswer, Storage, SweepRequest};
use ferroq_testkit::harness::queue_name;
use ferroq_tests::child::Child;
use ferroq_tests::redis::after::Site;
use ferroq_tests::redis::letters::{DEAD, Deed};
use ferroq_tests::redis::relay::Order;
use ferroq_tests::redis::server::{Server, namespace, shared};

const CHILD: &str = env!("CARGO_BIN_EXE_relay_child");
const SIGABRT: i32 = 6;

fn in_outbox(server: &Server, namespace: &str, queue: &str) -> usize {
    server.cli(&["ZCARD", &format!("ferroq:{{{namespace}:{queue}}}:outbox")]).parse().expect("a number")
}

/// Sweeps a queue, as every worker on it does, until its outbox is empty or as short as it gets.
async fn sweep(storage: &dyn Storage, queue: &str) {
    while storage.sweep(SweepRequest { queue: queue_name(queue), max_items: 10 }).await.expect("sweep").more {}
}

async fn die_at(deed: Deed, step: &str, visit: u64) {
    let (server, namespace) = (shared(), namespace());
    let order =
        Order { url: server.url(), namespace: namespace.clone(), step: step.to_owned(), visit, deed: Some(deed) };
    let status = Child::spawn(CHILD, &order).exit().await;
    assert_eq!(status.signal(), Some(SIGABRT), "{deed:?}: the child died at its visit {visit} to {step:?}");
    let site = Site::open(server, &namespace).await;
    let left = in_outbox(server, &namespace, deed.source());
    assert!(left > 0 || (step, visit) == ("cleared", 3), "{deed:?} {step} {visit}: there was something left to relay");
    sweep(site.storage().as_ref(), deed.source()).await;
    assert_eq!(in_outbox(server, &namespace, deed.source()), 0, "nothing is left on its way");
    site.check().await;
    deed.all_arrived(site.storage().as_ref()).await;
}

#[tokio::test]
async fn a_process_that_dies_before_its_relay_begins_loses_and_doubles_no_letter() {
    // A sweep relays as the call that it is; it has no step before.
    for deed in Deed::ALL.into_iter().filter(|deed| *deed != Deed::Crash) {
        die_at(deed, "settled", 1).await;
    }
}

#[tokio::test]
async fn a_process_that_dies_once_it_has_read_the_outbox_loses_and_doubles_no_letter() {
    for deed in Deed::ALL {
        for visit in 1..=3 {
            die_at(deed, "read", visit).await;
        }
    }
}

#[tokio::test]
async fn a_process_that_dies_once_it_has_delivered_loses_and_doubles_no_letter() {
    for deed in Deed::ALL {
        for visit in 1..=3 {
            die_at(deed, "delivered", visit).await;
        }
    }
}

#[tokio::test]
async fn a_process_that_dies_once_it_has_cleared_loses_and_doubles_no_letter() {
    for deed in Deed::ALL {
        for visit in 1..=3 {
            die_at(deed, "cleared", visit).await;
        }
    }
}

#[tokio::test]
async fn whoever_comes_to_the_end_has_relayed_everything() {
    for deed in Deed::ALL {
        let (server, namespace) = (shared(), namespace());
        deed.run(&server.url(), &namespace, |_, _| {}).await;
        assert_eq!(in_outbox(server, &namespace, deed.source()), 0, "{deed:?}");
        let site = Site::open(server, &namespace).await;
        deed.all_arrived(site.storage().as_ref()).await;
    }
}

/// Letters that were on their way when their queue was obliterated come to a queue that is made anew; what had come before
/// went with it.
#[tokio::test]
async fn letters_for_an_obliterated_queue_make_it_anew() {
    let (server, namespace) = (shared(), namespace());
    let (step, visit) = ("read".to_owned(), 1);
    let order = Order { url: server.url(), namespace: namespace.clone(), step, visit, deed: Some(Deed::Abort) };
    assert_eq!(Child::spawn(CHILD, &order).exit().await.signal(), Some(SIGABRT));
    let site = Site::open(server, &namespace).await;
    let gone = site.storage().obliterate(&queue_name(DEAD), true, 1000).await.expect("obliterate");
    assert_eq!(gone, ObliterateAnswer::Done);
    sweep(site.storage().as_ref(), Deed::Abort.source()).await;
    site.check().await;
    Deed::Abort.all_arrived(site.storage().as_ref()).await;
}
