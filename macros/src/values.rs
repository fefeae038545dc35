//! The values that settings take: names, whole numbers, durations, types and paths. Each says what it wants in terms of
//! the setting that it was given to, and shows how to write it.

use std::time::Duration;

use syn::parse::Parse;
use syn::{Lit, LitStr};

use crate::attributes::{Value, Written};

/// The longest name, in bytes: the rule of ferroq-core's names, which are checked again at run time.
const NAME_BYTES_MAX: usize = 128;

/// The text of a value in quotes; `example` is what the message shows otherwise.
pub(crate) fn text(key: &str, value: &Value, example: &str) -> syn::Result<LitStr> {
    let found = match &value.lit {
        Written::Lit(Lit::Str(text)) => return Ok(text.clone()),
        Written::Other(other) if !other.is_empty() => format!(", not `{other}`"),
        _ => String::new(),
    };
    Err(syn::Error::new(value.span, format!("`{key}` takes text in quotes{found}: `{key} = \"{example}\"`")))
}

/// A name, by the rule for all names: 1 to 128 bytes of printable text without braces.
pub(crate) fn name(key: &str, value: &Value, example: &str) -> syn::Result<String> {
    let text = text(key, value, example)?;
    let name = text.value();
    let why = if name.is_empty() {
        "it is empty; give it 1 to 128 bytes of printable text".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("it is {} bytes long, and at most {NAME_BYTES_MAX} are allowed", name.len())
    } else if let Some((at, c)) = name.char_indices().find(|(_, c)| c.is_control()) {
        format!("it holds the control character {c:?} at byte {at}; use printable text")
    } else if let Some((at, c)) = name.char_indices().find(|(_, c)| matches!(c, '{' | '}')) {
        format!("it holds {c:?} at byte {at}; braces are reserved")
    } else {
        return Ok(name);
    };
    Err(syn::Error::new(text.span(), format!("this {key} is refused: {why}")))
}

/// A whole number from `min` to `max`.
pub(crate) fn number(key: &str, value: &Value, min: u32, max: u32) -> syn::Result<u32> {
    let wanted = if max == u32::MAX {
        format!("a whole number of at least {min}")
    } else {
        format!("a whole number from {min} to {max}")
    };
    let refuse = |hint: &str| syn::Error::new(value.span, format!("`{key}` takes {wanted}{hint}"));
    match &value.lit {
        Written::Lit(Lit::Int(number)) => match number.base10_parse::<u32>() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(refuse("")),
        },
        Written::Lit(Lit::Str(text)) => {
            let example = text.value().parse::<u32>().unwrap_or(min.max(5));
            Err(refuse(&format!(", without quotes: `{key} = {example}`")))
        }
        _ => Err(refuse("")),
    }
}

/// A duration longer than zero, with its unit.
pub(crate) fn duration(key: &str, value: &Value) -> syn::Result<Duration> {
    let text = match &value.lit {
        Written::Lit(Lit::Str(text)) => text,
        Written::Lit(Lit::Int(number)) => {
            return Err(syn::Error::new(
                value.span,
                format!("`{key}` takes a duration in quotes, with its unit: `{key} = \"{number}s\"`"),
            ));
        }
        _ => {
            return Err(syn::Error::new(
                value.span,
                format!("`{key}` takes a duration in quotes, with its unit: `{key} = \"30s\"`"),
            ));
        }
    };
    let span = parse_duration(&text.value()).map_err(|why| syn::Error::new(text.span(), format!("`{key}`: {why}")))?;
    if span.is_zero() {
        return Err(syn::Error::new(text.span(), format!("`{key}` must be longer than zero; leave it out for none")));
    }
    Ok(span)
}

/// A duration as people write it, or what is wrong with it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    use humantime::DurationError::{Empty, InvalidCharacter, NumberExpected, NumberOverflow, UnknownUnit};
    let examples = "write a number and a unit, such as \"500ms\", \"30s\", \"5m\", \"24h\" or \"1h 30m\"";
    humantime::parse_duration(text).map_err(|error| match error {
        UnknownUnit { unit, value, .. } if unit.is_empty() => {
            format!("the duration {text:?} has no unit; write \"{value}s\" for seconds, \"{value}m\" for minutes")
        }
        UnknownUnit { unit, .. } => format!("the duration {text:?} has the unknown unit {unit:?}; {examples}"),
        Empty => format!("the duration is empty; {examples}"),
        NumberOverflow => format!("the duration {text:?} is too long, or finer than a nanosecond"),
        InvalidCharacter(_) | NumberExpected(_) => format!("{text:?} is not a duration; {examples}"),
    })
}

/// One of a few words.
pub(crate) fn word<T: Copy>(key: &str, value: &Value, words: &[(&str, T)]) -> syn::Result<T> {
    let known = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let first = words.first().map_or("", |(word, _)| word);
    let text = text(key, value, first)?;
    let found = words.iter().find(|(word, _)| *word == text.value());
    found
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| syn::Error::new(text.span(), format!("`{key}` is one of {known}, not {:?}", text.value())))
}

/// Rust code in quotes: a type or a path.
pub(crate) fn code<T: Parse>(key: &str, value: &Value, what: &str, example: &str) -> syn::Result<T> {
    if let Written::Other(code) = &value.lit
        && !code.is_empty()
    {
        return Err(syn::Error::new(value.span, format!("`{key}` takes {what} in quotes: `{key} = \"{code}\"`")));
    }
    let text = text(key, value, example)?;
    text.parse().map_err(|_| {
        let found = text.value();
        syn::Error::new(
            text.span(),
            format!("`{key}` takes {what} in quotes, and {found:?} is none: `{key} = \"{example}\"`"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn a_refused_duration_says_what_is_wrong_and_how_to_write_it() {
        for (text, why) in [
            ("30", "has no unit; write \"30s\""),
            ("30 parsecs", "unknown unit \"parsecs\""),
            ("", "is empty"),
            ("soon", "is not a duration"),
            ("-5s", "is not a duration"),
            ("99999999999999999999s", "too long"),
        ] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
