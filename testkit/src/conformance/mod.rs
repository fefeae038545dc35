//! The conformance suite: what any storage must do, by topic.
