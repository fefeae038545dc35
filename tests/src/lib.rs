//! What the fault tests share: child processes that can be killed, stopped and told apart by what they say; the jobs that
//! they run; stores to run them on; and waiting for what happens instead of guessing when. It is a library because the
//! child programs in `src/bin` need the same jobs as the tests.

pub mod child;
pub mod crowd;
pub mod dedup;
pub mod disk;
pub mod fixtures;
pub mod gates;
pub mod jobs;
pub mod limits;
pub mod logs;
pub mod redis;
pub mod script;
pub mod starts;
pub mod store;
pub mod trace;
pub mod wait;
