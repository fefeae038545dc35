//! `ferroq-bench [FILTER] [--quick] [--runs N] [--json]`: measures throughput, latency and idle cost of each backend. benches/README.md
//! holds the method. A figure is printed only for a run in which every job ran exactly once.

mod backlog;
mod batches;
mod dead_letter;
mod dedup;
mod drain;
mod enqueue;
mod idle;
mod lanes;
mod latency;
mod limiter;
mod memory;
mod report;
mod starts;
mod store;
mod work;

use std::process::ExitCode;

use clap::Parser;

use report::Report;

/// Measures ferroq.
#[derive(Parser)]
struct Arguments {
    /// Only benches whose `bench/backend/settings` contains this.
    filter: Option<String>,
    /// Fewer jobs and runs: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// How often to measure each figure, instead of five times (once if quick).
    #[arg(long)]
    runs: Option<usize>,
    /// One JSON object a line: bench, backend, settings, unit, runs, min, median, max.
    #[arg(long)]
    json: bool,
    /// For the latency bench across processes: be the worker in the other process.
    #[arg(long, hide = true)]
    latency_worker: Option<String>,
}

/// What every bench is given.
pub(crate) struct Bench {
    pub(crate) quick: bool,
    runs: Option<usize>,
    filter: Option<String>,
    report: Report,
}

/// Why a bench stopped.
pub(crate) type BenchError = Box<dyn std::error::Error + Send + Sync>;

impl Bench {
    pub(crate) fn wants(&self, bench: &str, backend: &str, settings: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| format!("{bench}/{backend}/{settings}").contains(filter))
    }

    /// How often to measure a figure.
    pub(crate) fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    /// `full`, or a twentieth of it when quick.
    pub(crate) fn jobs(&self, full: usize) -> usize {
        if self.quick { (full / 20).max(100) } else { full }
    }

    pub(crate) fn record(&mut self, bench: &str, backend: &str, settings: &str, unit: &str, figures: &[f64]) {
        self.report.line(bench, backend, settings, unit, figures);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(url) = arguments.latency_worker {
        return finish(latency::worker(&url).await);
    }
    let mut bench = Bench {
        quick: arguments.quick,
        runs: arguments.runs,
        filter: arguments.filter,
        report: Report::new(arguments.json),
    };
    finish(all(&mut bench).await)
}

async fn all(bench: &mut Bench) -> Result<(), BenchError> {
    enqueue::run(bench).await?;
    drain::run(bench).await?;
    backlog::run(bench).await?;
    batches::run(bench).await?;
    dead_letter::run(bench).await?;
    dedup::run(bench).await?;
    lanes::run(bench).await?;
    limiter::run(bench).await?;
    starts::run(bench).await?;
    memory::run(bench).await?;
    latency::run(bench).await?;
    idle::run(bench).await
}

#[allow(clippy::print_stderr)]
fn finish(result: Result<(), BenchError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferroq-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
