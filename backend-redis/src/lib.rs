//! ferroq's Redis backend.
