//! Every case of the public conformance suite on every backend: what holds the backends together. A case that fails
//! here says which rule of `docs/contract.md` a backend broke.

mod memory {
    use ferroq_tests::fixtures::memory as memory_store;

    ferroq_testkit::conformance!(memory_store);
}

mod sqlite {
    use ferroq_tests::fixtures::sqlite as sqlite_store;

    ferroq_testkit::conformance!(sqlite_store);
}

mod redis {
    use ferroq_tests::fixtures::redis as redis_store;

    ferroq_testkit::conformance!(redis_store);
}
