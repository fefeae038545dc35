//! How long a job waits after a failed run. The worker computes the delay (it knows the attempt and holds the random
//! source), and the storage gets a plain duration; so no storage needs to know these formulas.

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::micros;

/// The shape of the delays between attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// How the delay grows.
    pub curve: Curve,
    /// How much of it is left to chance, so that jobs that failed together don't come back together.
    #[serde(default)]
    pub jitter: Jitter,
}

/// How a delay grows with the number of failed attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// The same every time.
    Fixed(#[serde(with = "micros")] Duration),
    /// `base`, 2 x `base`, 3 x `base`, at most `max`.
    Linear {
        /// The first delay and each step.
        #[serde(with = "micros")]
        base: Duration,
        /// The longest delay.
        #[serde(with = "micros")]
        max: Duration,
    },
    /// `base`, `base` x `factor`, `base` x `factor`^2, at most `max`.
    Exponential {
        /// The first delay.
        #[serde(with = "micros")]
        base: Duration,
        /// What each delay is multiplied with to give the next, in thousandths: 2000 doubles.
        factor_milli: u32,
        /// The longest delay.
        #[serde(with = "micros")]
        max: Duration,
    },
    /// These, in order; the last one again and again. No delay if there are none.
    List(#[serde(with = "micros::list")] Vec<Duration>),
}

/// How much of a delay is random. The names are those of the AWS Architecture Blog, "Exponential Backoff and Jitter".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Nothing: the delay is exact.
    None,
    /// All of it: between zero and the delay.
    Full,
    /// Half of it: between half the delay and the delay.
    #[default]
    Equal,
}

impl Backoff {
    /// The same delay every time, exactly.
    pub fn fixed(delay: Duration) -> Self {
        Backoff { curve: Curve::Fixed(delay), jitter: Jitter::None }
    }

    /// `base`, 2 x `base`, 3 x `base` and so on, at most `max`, with equal jitter.
    pub fn linear(base: Duration, max: Duration) -> Self {
        Backoff { curve: Curve::Linear { base, max }, jitter: Jitter::Equal }
    }

    /// `base`, then `factor` times longer with each attempt, at most `max`, with equal jitter.
    pub fn exponential(base: Duration, factor: f64, max: Duration) -> Self {
        // Kept in thousandths: floats have no total equality, and the setting is stored and compared.
        let factor_milli = (factor.max(0.0) * 1000.0).round() as u32;
        Backoff { curve: Curve::Exponential { base, factor_milli, max }, jitter: Jitter::Equal }
    }

    /// Exactly these delays in order, then the last one again and again.
    pub fn list(delays: impl IntoIterator<Item = Duration>) -> Self {
        Backoff { curve: Curve::List(delays.into_iter().collect()), jitter: Jitter::None }
    }

    /// The same curve with another jitter.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The delay after the `failed`-th failed attempt (counting from 1), with jitter drawn from `random`.
    pub fn delay(&self, failed: u32, random: &mut impl Rng) -> Duration {
        let full = self.curve.delay(failed);
        match self.jitter {
            Jitter::None => full,
            Jitter::Full => full.mul_f64(random.random::<f64>()),
            Jitter::Equal => full / 2 + (full / 2).mul_f64(random.random::<f64>()),
        }
    }
}

impl Default for Backoff {
    /// Exponential from 2 seconds, doubling, at most 6 hours, with equal jitter: 20 attempts span about two days.
    fn default() -> Self {
        Backoff::exponential(Duration::from_secs(2), 2.0, Duration::from_secs(6 * 3600))
    }
}

impl Curve {
    fn delay(&self, failed: u32) -> Duration {
        let failed = failed.max(1);
        match self {
            Curve::Fixed(delay) => *delay,
            Curve::Linear { base, max } => base.saturating_mul(failed).min(*max),
            Curve::Exponential { base, factor_milli, max } => {
                let factor = f64::from(*factor_milli) / 1000.0;
                let seconds = base.as_secs_f64() * factor.powi(i32::try_from(failed - 1).unwrap_or(i32::MAX));
                // An overflow (infinite, or beyond what a Duration holds) is beyond any max as well.
                Duration::try_from_secs_f64(seconds).map_or(*max, |delay| delay.min(*max))
            }
            Curve::List(delays) => {
                let place = (failed as usize).min(delays.len());
                place.checked_sub(1).map_or(Duration::ZERO, |i| delays[i])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn seconds(backoff: &Backoff, attempts: impl IntoIterator<Item = u32>) -> Vec<u64> {
        let mut random = StdRng::seed_from_u64(7);
        attempts.into_iter().map(|n| backoff.delay(n, &mut random).as_secs()).collect()
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn each_curve_grows_as_documented_and_stops_at_its_max() {
        assert_eq!(seconds(&Backoff::fixed(S(5)), 1..4), [5, 5, 5]);
        assert_eq!(seconds(&Backoff::linear(S(5), S(12)).jitter(Jitter::None), 1..5), [5, 10, 12, 12]);
        let exponential = Backoff::exponential(S(1), 3.0, S(20)).jitter(Jitter::None);
        assert_eq!(seconds(&exponential, [1, 2, 3, 4, 1000, u32::MAX]), [1, 3, 9, 20, 20, 20]);
        assert_eq!(seconds(&Backoff::list([S(1), S(9)]), 1..5), [1, 9, 9, 9]);
        assert_eq!(seconds(&Backoff::list([]), 1..3), [0, 0]);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_repeats_with_its_seed() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..1000 {
            let full = Backoff::fixed(S(10)).jitter(Jitter::Full).delay(1, &mut random);
            assert!(full <= S(10));
            let equal = Backoff::fixed(S(10)).jitter(Jitter::Equal).delay(1, &mut random);
            assert!((S(5)..=S(10)).contains(&equal));
        }
        let b = Backoff::default();
        assert_eq!(seconds(&b, 1..20), seconds(&b, 1..20));
    }
}
