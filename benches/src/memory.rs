//! What a waiting job costs a Redis server: the memory that a backlog adds, less the payloads, per job.

use crate::store::Backend;
use crate::work::fill;
use crate::{Bench, BenchError};

/// The length of a payload, in bytes.
const PAYLOAD: f64 = 100.0;

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for full in [10_000, 100_000, 1_000_000] {
        let settings = format!("waiting={full}");
        if !bench.wants("memory", Backend::Redis.name(), &settings) {
            continue;
        }
        let jobs = bench.jobs(full);
        let store = Backend::Redis.store().await?;
        let server = store.server().ok_or("the Redis store is on a server")?;
        // The first job brings the scripts along.
        fill(&store.client, 0, 1).await?;
        let before = server.memory_bytes();
        fill(&store.client, 1, jobs + 1).await?;
        let each = server.memory_bytes().saturating_sub(before) as f64 / jobs as f64;
        bench.record("memory", Backend::Redis.name(), &settings, "bytes/job beyond payload", &[each - PAYLOAD]);
    }
    Ok(())
}
