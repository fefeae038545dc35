//! The backoff's small language: `fixed(5s)`, `linear(1s, 1m)`, `exponential(1s, 2.0, 10m)`, `list(1s, 5s, 30s)`. Text
//! rather than code, because the same words serve in configuration files.

use std::time::Duration;

use crate::values::parse_duration;

/// A backoff as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Backoff {
    /// The same delay every time.
    Fixed(Duration),
    /// From the first, growing by it, to the second.
    Linear(Duration, Duration),
    /// From the first, growing by the factor, to the second.
    Exponential(Duration, f64, Duration),
    /// These, then the last again and again.
    List(Vec<Duration>),
}

const FORMS: &str = "\"fixed(5s)\", \"linear(1s, 1m)\", \"exponential(1s, 2.0, 10m)\" or \"list(1s, 5s, 30s)\"";

impl Backoff {
    /// Reads a backoff, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (curve, arguments) = text
            .trim()
            .strip_suffix(')')
            .and_then(|text| text.split_once('('))
            .ok_or_else(|| format!("{text:?} is not a backoff; write {FORMS}"))?;
        let arguments: Vec<&str> = arguments.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
        match (curve.trim(), arguments.as_slice()) {
            ("fixed", [delay]) => Ok(Backoff::Fixed(parse_duration(delay)?)),
            ("fixed", _) => Err("`fixed` takes one delay: \"fixed(5s)\"".to_owned()),
            ("linear", [base, max]) => {
                let (base, max) = rising(base, max)?;
                Ok(Backoff::Linear(base, max))
            }
            ("linear", _) => Err("`linear` takes the first delay and the longest: \"linear(1s, 1m)\"".to_owned()),
            ("exponential", [base, factor, max]) => {
                let (base, max) = rising(base, max)?;
                Ok(Backoff::Exponential(base, parse_factor(factor)?, max))
            }
            ("exponential", _) => Err(
                "`exponential` takes the first delay, the factor and the longest delay: \"exponential(1s, 2.0, 10m)\""
                    .to_owned(),
            ),
            ("list", []) => Err("`list` takes at least one delay: \"list(1s, 5s, 30s)\"".to_owned()),
            ("list", delays) => {
                delays.iter().map(|delay| parse_duration(delay)).collect::<Result<_, _>>().map(Self::List)
            }
            (other, _) => Err(format!("there is no backoff `{other}`; write {FORMS}")),
        }
    }
}

fn rising(base: &str, max: &str) -> Result<(Duration, Duration), String> {
    let (base_read, max_read) = (parse_duration(base)?, parse_duration(max)?);
    if base_read > max_read {
        return Err(format!("the first delay ({base}) is longer than the longest ({max})"));
    }
    Ok((base_read, max_read))
}

fn parse_factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if (1.0..=1000.0).contains(&factor) => Ok(factor),
        _ => Err(format!("the factor is a number from 1 to 1000, not `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn every_form_reads_back() {
        assert_eq!(Backoff::parse("fixed(5s)"), Ok(Backoff::Fixed(S(5))));
        assert_eq!(Backoff::parse(" linear( 1s ,1m )"), Ok(Backoff::Linear(S(1), S(60))));
        assert_eq!(Backoff::parse("exponential(1s, 1.5, 10m)"), Ok(Backoff::Exponential(S(1), 1.5, S(600))));
        assert_eq!(Backoff::parse("list(1s, 5s)"), Ok(Backoff::List(vec![S(1), S(5)])));
    }

    #[test]
    fn a_refused_backoff_says_what_is_wrong() {
        for (text, why) in [
            ("", "is not a backoff"),
            ("5s", "is not a backoff"),
            ("fixed(5s", "is not a backoff"),
            ("fixed()", "takes one delay"),
            ("fixed(5)", "has no unit"),
            ("linear(1s)", "the first delay and the longest"),
            ("linear(2m, 1m)", "longer than the longest"),
            ("exponential(1s, 10m)", "the factor"),
            ("exponential(1s, 0.5, 10m)", "from 1 to 1000"),
            ("exponential(1s, NaN, 10m)", "from 1 to 1000"),
            ("list()", "at least one delay"),
            ("quadratic(1s)", "there is no backoff `quadratic`"),
        ] {
            let error = Backoff::parse(text).expect_err(text);
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
