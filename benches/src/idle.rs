//! What an idle worker costs: processor time of the whole process over some seconds in which nothing happens, as a share
//! of one core (read from /proc, so on Linux only); and on Redis the commands that it sends.

use std::time::Duration;

use ferroq::Worker;

use crate::store::Backend;
use crate::work::{Tally, tick};
use crate::{Bench, BenchError};

pub(crate) async fn run(bench: &mut Bench) -> Result<(), BenchError> {
    for backend in [Backend::Memory, Backend::SqliteNormal, Backend::Redis] {
        if !cfg!(target_os = "linux") || !bench.wants("idle", backend.name(), "one worker") {
            continue;
        }
        let span = Duration::from_secs(if bench.quick { 2 } else { 10 });
        let store = backend.store().await?;
        let worker = Worker::new(&store.client).state(Tally::new(0)).concurrency(10).handle(tick).start().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let commands = store.server().map(|server| server.commands());
        let before = cpu_seconds()?;
        tokio::time::sleep(span).await;
        let share = (cpu_seconds()? - before) / span.as_secs_f64() * 100.0;
        if let (Some(before), Some(server)) = (commands, store.server()) {
            let rate = (server.commands() - before) as f64 / span.as_secs_f64();
            bench.record("idle", backend.name(), "one worker", "commands/s", &[rate]);
        }
        worker.shutdown().await;
        bench.record("idle", backend.name(), "one worker", "% core", &[share]);
    }
    Ok(())
}

/// Processor time of all threads of this process, in seconds: the first number of each schedstat, in nanoseconds (see the
/// kernel's sched-stats document).
fn cpu_seconds() -> Result<f64, BenchError> {
    let mut total_ns = 0u64;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total_ns += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).ok_or("no schedstat")?;
    }
    Ok(total_ns as f64 / 1e9)
}
