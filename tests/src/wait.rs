//! Waiting for an event that another process or task brings about. Looking again and again is all that works across
//! processes; a deadline far beyond any honest duration turns a hang into a failure that says what was waited for.

use std::time::{Duration, Instant};

/// After this an event is taken never to come.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Looks until there is something to see, and answers it.
///
/// # Panics
/// If nothing is there by the [`DEADLINE`]; the message names `what`.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Looks until something is so, without asking anybody but this thread.
///
/// # Panics
/// As [`until`].
pub async fn until_so(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Gives a future until the [`DEADLINE`].
///
/// # Panics
/// If it is not ready by then; the message names `what`.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_late) => panic!("waited {DEADLINE:?} in vain: {what}"),
    }
}

/// The seed of a test that draws at random: from `FERROQ_SEED`, or a new one. It is printed with the command that
/// replays it, which the test runner shows if the test fails.
///
/// # Panics
/// If `FERROQ_SEED` is set and no number.
#[expect(clippy::print_stderr, reason = "a test says how to replay it")]
pub fn seed(file: &str, test: &str) -> u64 {
    let seed = match std::env::var("FERROQ_SEED") {
        Ok(text) => text.parse().expect("FERROQ_SEED is a whole number"),
        Err(_) => rand::random(),
    };
    eprintln!("replay: FERROQ_SEED={seed} cargo test -p ferroq-tests --test {file} {test}");
    seed
}
