//! What a process logs, kept for tests that want to see it said. It is kept for the whole process, since a worker's
//! heartbeat logs from a thread of its own; tests that run beside each other tell their lines apart by the names of
//! their queues and the ports of their servers.

use std::fmt::{self, Write};
use std::sync::{Mutex, MutexGuard, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps everything from `INFO` up that is logged from now on.
///
/// # Panics
/// If somebody else listens already.
pub fn keep() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| tracing::subscriber::set_global_default(Keeper).expect("nobody else listens"));
}

/// The lines that hold all of these texts, oldest first: `WARN message queue=work error=...`.
pub fn with(texts: &[&str]) -> Vec<String> {
    lines().iter().filter(|line| texts.iter().all(|text| line.contains(text))).cloned().collect()
}

fn lines() -> MutexGuard<'static, Vec<String>> {
    LINES.lock().expect("nobody panicked with the lines")
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("ferroq")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line { message: String::new(), fields: String::new() };
        event.record(&mut line);
        lines().push(format!("{} {}{}", event.metadata().level(), line.message, line.fields));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("writing to a string");
    }
}
