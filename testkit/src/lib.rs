//! ferroq's proof tools: a conformance suite for anything that implements
//! [`Storage`](ferroq_core::storage::Storage), a reference model, property and history checks, and mutants that show
//! that the kit catches what it should.

pub mod conformance;
pub mod faults;
pub mod harness;
pub mod history;
pub mod invariants;
pub mod model;
pub mod property;
