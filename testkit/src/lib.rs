//! ferroq's proof tools: a conformance suite for anything that implements
//! [`Storage`](ferroq_core::storage::Storage), a reference model, property and history checks, and mutants that show
//! that the kit catches what it should.
//!
//! An author of a backend says how to make a fresh store on a clock that the kit moves, and gets a test of each case:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ferroq_core::clock::ManualClock;
//! use ferroq_core::storage::Storage;
//! use ferroq_testkit::harness::Fixture;
//!
//! /// `open` stands for the backend's own constructor.
//! fn fixture(open: impl Fn(ManualClock) -> Arc<dyn Storage>) -> Fixture {
//!     let clock = ManualClock::default();
//!     // The last argument is dropped after the store: the place for a temporary directory.
//!     Fixture::new(open(clock.clone()), clock, ())
//! }
//! ```
//!
//! With an async function `my_store` that returns such a fixture, `ferroq_testkit::conformance!(my_store);` in a test
//! file does the rest; [`conformance::run_all`] runs the same cases and collects what failed.

pub mod conformance;
pub mod faults;
pub mod harness;
pub mod history;
pub mod invariants;
pub mod model;
pub mod mutants;
pub mod property;
