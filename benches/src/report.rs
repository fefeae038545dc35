//! Prints one line per figure, for a person or for a program.

use serde::Serialize;

pub(crate) struct Report {
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    bench: &'a str,
    backend: &'a str,
    settings: &'a str,
    unit: &'a str,
    runs: usize,
    min: f64,
    median: f64,
    max: f64,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Report { json }
    }

    #[allow(clippy::print_stdout)]
    pub(crate) fn line(&self, bench: &str, backend: &str, settings: &str, unit: &str, figures: &[f64]) {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let [min, .., max] = sorted.as_slice() else {
            if let [only] = sorted.as_slice() {
                self.print(&Line { bench, backend, settings, unit, runs: 1, min: *only, median: *only, max: *only });
            }
            return;
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        self.print(&Line { bench, backend, settings, unit, runs: sorted.len(), min: *min, median, max: *max });
    }

    #[allow(clippy::print_stdout)]
    fn print(&self, line: &Line<'_>) {
        if self.json {
            match serde_json::to_string(line) {
                Ok(text) => println!("{text}"),
                Err(error) => println!("{{\"error\":\"{error}\"}}"),
            }
        } else {
            let Line { bench, backend, settings, unit, runs, min, median, max } = line;
            println!(
                "{bench:<10} {backend:<14} {settings:<34} {} {unit:<8} ({runs} runs, {}..{})",
                number(*median),
                number(*min).trim_start(),
                number(*max).trim_start()
            );
        }
    }
}

fn number(figure: f64) -> String {
    if figure >= 100.0 { format!("{figure:>12.0}") } else { format!("{figure:>12.3}") }
}
