//! The proof of the proof: each of the kit's mutants breaks one rule of the contract, and the kit must notice. A mutant
//! that gets through shows a rule that no conformance case and no property test watches. The wrapper that carries
//! the mistakes must itself go unnoticed, or it would be the wrapper that is caught.

use std::sync::Arc;

use ferroq_core::clock::ManualClock;
use ferroq_core::storage::Storage;
use ferroq_memory::MemoryStorage;
use ferroq_testkit::conformance;
use ferroq_testkit::harness::{Fixture, StorageBuilder};
use ferroq_testkit::mutants::{self, Mutant};
use ferroq_testkit::property;

/// How many random cases a mutant that no conformance case caught has to get through.
const PROPERTY_CASES: u32 = 64;
/// Where those cases start: the same every time, so that a mutant is caught today because it was yesterday.
const PROPERTY_SEED: u64 = 1;

fn mutated(mutant: Mutant) -> impl StorageBuilder {
    move || async move {
        let clock = ManualClock::default();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::builder().clock(Arc::new(clock.clone())).build());
        Fixture::new((mutant.build)(storage), clock, ())
    }
}

/// The first case that the mutant does not pass.
fn caught_by_conformance(mutant: Mutant) -> Option<String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let builder = mutated(mutant);
    let mut cases = conformance::cases().iter();
    cases.find_map(|case| runtime.block_on(case.run(&builder)).err()).map(|failure| failure.case)
}

fn caught_by_property(mutant: Mutant) -> Option<String> {
    let found = property::find_counterexample(&mutated(mutant), PROPERTY_CASES, PROPERTY_SEED);
    found.map(|found| found.to_string())
}

#[test]
fn every_mutant_is_caught() {
    let mutants = mutants::all();
    assert!(mutants.len() >= 12, "{} mutants", mutants.len());
    let caught = |mutant: &Mutant| caught_by_conformance(*mutant).or_else(|| caught_by_property(*mutant)).is_some();
    let escaped: Vec<_> = mutants.into_iter().filter(|mutant| !caught(mutant)).collect();
    assert!(escaped.is_empty(), "nothing in the kit notices these: {escaped:?}");
}

#[test]
fn the_wrapper_without_a_mistake_is_not_caught() {
    let sound = mutants::sound();
    assert_eq!(caught_by_conformance(sound), None);
    assert_eq!(caught_by_property(sound), None);
}
