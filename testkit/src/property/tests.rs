//! The generator is a pure function of its seed, gives repeats and stale leases their third, and what is stored can be
//! read back.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config as ProptestConfig, TestRunner};

use super::op::op;
use super::regressions::{Stored, load, store};
use super::runner::rng;
use super::*;

fn drawn(seed: u64, many: usize) -> Vec<Op> {
    let mut random = TestRunner::new_with_rng(ProptestConfig::default(), rng(seed));
    (0..many).map(|_| op().new_tree(&mut random).expect("nothing is filtered out").current()).collect()
}

#[test]
fn the_same_seed_makes_the_same_operations() {
    assert_eq!(drawn(7, 50), drawn(7, 50));
    assert_ne!(drawn(7, 50), drawn(8, 50));
}

#[test]
fn repeats_and_stale_leases_are_about_a_third() {
    let of_that_sort = |op: &Op| match op {
        Op::EnqueueAgain { .. } | Op::AcquireAgain { .. } | Op::Repeat { .. } => true,
        Op::Exchange { settle, .. } => settle.iter().any(|one| one.lease.stale),
        Op::Renew { leases, .. } => leases.iter().any(|lease| lease.stale),
        Op::Annotate { notes } => notes.iter().any(|(lease, _)| lease.stale),
        _ => false,
    };
    let ops = drawn(1, 10_000);
    let share = ops.iter().filter(|op| of_that_sort(op)).count() * 100 / ops.len();
    assert!((28..=38).contains(&share), "{share} %");
}

#[test]
fn a_stored_counterexample_reads_back_as_it_was() {
    let directory = std::env::temp_dir().join(format!("ferroq-property-{}", std::process::id()));
    let ops = drawn(3, 200);
    store(&directory, "name", 3, &Stored { failure: "why".to_owned(), ops: ops.clone() }).expect("written");
    let all = load(&directory).expect("read");
    std::fs::remove_dir_all(&directory).expect("removed");
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].1.ops, ops);
}
