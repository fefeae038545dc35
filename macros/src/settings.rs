//! What `#[job(..)]` says, checked. Each setting is read by one arm of one `match`; a setting that is wrong is noted
//! and left out, so that the rest of the derive can go on and report its own mistakes.

use std::collections::HashMap;
use std::time::Duration;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::{DeriveInput, ExprPath, LitStr, Path, Type};

use crate::attributes::{Mistakes, Pair, Value, pairs};
use crate::backoff::Backoff;
use crate::values::{code, duration, name, number, parse_duration, text, word};

/// The settings, in the order in which they are listed to those who get one wrong.
const KNOWN: [&str; 17] = [
    "name",
    "queue",
    "priority",
    "max_attempts",
    "max_crashes",
    "timeout",
    "expires_in",
    "backoff",
    "jitter",
    "keep_completed",
    "keep_failed",
    "keep_cancelled",
    "codec",
    "output",
    "version",
    "upcast",
    "crate",
];

/// How much of a delay is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jitter {
    /// Nothing.
    None,
    /// Half of it.
    Equal,
    /// All of it.
    Full,
}

/// How payloads are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// As JSON.
    Json,
    /// As bincode.
    Bincode,
}

/// How long a record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepFor {
    /// Not at all.
    Remove,
    /// This long.
    Age(Duration),
}

/// What was said about a kind of job; `None` where nothing was.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) name: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) priority: Option<u8>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) max_crashes: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) jitter: Option<Jitter>,
    pub(crate) keep_completed: Option<KeepFor>,
    pub(crate) keep_failed: Option<KeepFor>,
    pub(crate) keep_cancelled: Option<KeepFor>,
    pub(crate) codec: Option<Codec>,
    pub(crate) output: Option<Type>,
    pub(crate) version: Option<u16>,
    pub(crate) upcast: Option<ExprPath>,
    pub(crate) krate: Option<Path>,
}

impl Settings {
    /// Reads the `#[job(..)]` attributes of a type.
    pub(crate) fn read(input: &DeriveInput, mistakes: &mut Mistakes) -> Self {
        let mut settings = Settings::default();
        let mut seen: HashMap<String, Span> = HashMap::new();
        for Pair { key, value } in pairs(&input.attrs, mistakes) {
            let word = key.to_string();
            if !KNOWN.contains(&word.as_str()) {
                mistakes.at(key.span(), format!("there is no setting `{word}`; the settings are {}", list(&KNOWN)));
            } else if seen.insert(word.clone(), key.span()).is_some() {
                mistakes.at(key.span(), format!("`{word}` is set twice; keep one of the two"));
            } else {
                let read = settings.set(&word, &value);
                mistakes.ok(read);
            }
        }
        if !seen.contains_key("name") {
            // Pointing at the attribute, where there is one: that is where the name goes.
            let attribute = input.attrs.iter().find(|attribute| attribute.path().is_ident("job"));
            mistakes.at(
                attribute.map_or(input.ident.span(), |attribute| attribute.path().span()),
                format!(
                    "`{}` has no job name: write `#[job(name = \"email.welcome\")]`; the name is stored with every job, so \
                     it is given by hand and outlives renames of the type",
                    input.ident
                ),
            );
        }
        if let (Some(upcast), None | Some(1)) = (&settings.upcast, settings.version)
            && !(seen.contains_key("version") && settings.version.is_none())
        {
            mistakes.at(
                upcast.span(),
                "`upcast` reads payloads older than `version`, and version 1 is the first: add `version = 2`",
            );
        }
        settings
    }

    fn set(&mut self, key: &str, value: &Value) -> syn::Result<()> {
        match key {
            "name" => self.name = Some(name(key, value, "email.welcome")?),
            "queue" => self.queue = Some(name(key, value, "emails")?),
            // At most u8::MAX, so the cast keeps the value.
            "priority" => self.priority = Some(number(key, value, 0, u32::from(u8::MAX))? as u8),
            "max_attempts" => self.max_attempts = Some(number(key, value, 1, u32::MAX)?),
            "max_crashes" => self.max_crashes = Some(number(key, value, 1, u32::MAX)?),
            "timeout" => self.timeout = Some(duration(key, value)?),
            "expires_in" => self.expires_in = Some(duration(key, value)?),
            "backoff" => {
                let text = text(key, value, "exponential(1s, 2.0, 10m)")?;
                self.backoff = Some(inside(key, &text, Backoff::parse(&text.value()))?);
            }
            "jitter" => {
                let words = [("none", Jitter::None), ("equal", Jitter::Equal), ("full", Jitter::Full)];
                self.jitter = Some(word(key, value, &words)?);
            }
            "keep_completed" => self.keep_completed = Some(keep(key, value)?),
            "keep_failed" => self.keep_failed = Some(keep(key, value)?),
            "keep_cancelled" => self.keep_cancelled = Some(keep(key, value)?),
            "codec" => self.codec = Some(word(key, value, &[("json", Codec::Json), ("bincode", Codec::Bincode)])?),
            "output" => self.output = Some(code(key, value, "a type", "Report")?),
            // At most u16::MAX, so the cast keeps the value.
            "version" => self.version = Some(number(key, value, 1, u32::from(u16::MAX))? as u16),
            "upcast" => self.upcast = Some(code(key, value, "the path of a function", "Welcome::upcast")?),
            "crate" => self.krate = Some(code(key, value, "the path of the ferroq crate", "::ferroq")?),
            _ => {}
        }
        Ok(())
    }
}

fn keep(key: &str, value: &Value) -> syn::Result<KeepFor> {
    let text = text(key, value, "24h")?;
    let written = text.value();
    if written == "remove" {
        return Ok(KeepFor::Remove);
    }
    match inside(key, &text, parse_duration(&written).map_err(|why| format!("\"remove\" or a duration: {why}")))? {
        Duration::ZERO => inside(key, &text, Err("write \"remove\" to keep no record".to_owned())),
        age => Ok(KeepFor::Age(age)),
    }
}

fn inside<T>(key: &str, text: &LitStr, result: Result<T, String>) -> syn::Result<T> {
    result.map_err(|why| syn::Error::new(text.span(), format!("`{key}`: {why}")))
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::quote;

    fn read(attributes: proc_macro2::TokenStream) -> (Settings, Vec<String>) {
        let input: DeriveInput =
            syn::parse2(quote!(#attributes struct Welcome { to: String })).expect("it is a struct");
        let mut mistakes = Mistakes::default();
        let settings = Settings::read(&input, &mut mistakes);
        (settings, mistakes.texts())
    }

    #[track_caller]
    fn refused(attributes: proc_macro2::TokenStream, why: &[&str]) {
        let (_, texts) = read(attributes);
        assert_eq!(texts.len(), why.len(), "{texts:#?}");
        for (text, why) in texts.iter().zip(why) {
            assert!(text.contains(why), "{text:?} does not say {why:?}");
        }
    }

    #[test]
    fn every_setting_is_read() {
        let (read, mistakes) = read(quote! {
            #[job(name = "email.welcome", queue = "emails", priority = 9, max_attempts = 5, max_crashes = 2)]
            #[job(timeout = "30s", expires_in = "1h", backoff = "fixed(5s)", jitter = "full", version = 3, upcast = "old::read",)]
            #[job(codec = "bincode", output = "Vec<(u8, u8)>", keep_completed = "remove", keep_failed = "7days")]
            #[job(keep_cancelled = "1h", crate = "crate::queue")]
        });
        assert_eq!(mistakes, [""; 0]);
        assert_eq!((read.name.as_deref(), read.queue.as_deref()), (Some("email.welcome"), Some("emails")));
        assert_eq!((read.max_attempts, read.max_crashes, read.version), (Some(5), Some(2), Some(3)));
        assert_eq!(read.priority, Some(9));
        assert_eq!(read.timeout, Some(Duration::from_secs(30)));
        assert_eq!(read.expires_in, Some(Duration::from_secs(3600)));
        assert_eq!(read.backoff, Some(Backoff::Fixed(Duration::from_secs(5))));
        assert_eq!((read.jitter, read.codec), (Some(Jitter::Full), Some(Codec::Bincode)));
        assert_eq!(read.keep_completed, Some(KeepFor::Remove));
        assert_eq!(read.keep_failed, Some(KeepFor::Age(Duration::from_secs(7 * 24 * 3600))));
        assert_eq!(read.keep_cancelled, Some(KeepFor::Age(Duration::from_secs(3600))));
        assert!(read.output.is_some() && read.upcast.is_some() && read.krate.is_some());
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        refused(
            quote!(#[job(nmae = "x", queue = "{a}", max_attempts = 0, timeout = "30", retries = 3, backoff = "soon")]),
            &[
                "no setting `nmae`",
                "braces are reserved",
                "at least 1",
                "no unit",
                "no setting `retries`",
                "not a backoff",
                "no job name",
            ],
        );
    }

    #[test]
    fn a_syntax_error_in_one_setting_hides_no_other_mistake() {
        refused(
            quote!(#[job(name = "x" queue = "y", timeout, , jitter =, "z", max_attempts = -1)]),
            &[
                "no setting before this comma",
                "a comma is missing",
                "`timeout` takes a value",
                "no value after it",
                "starts with its name",
                "at least 1",
                "no job name",
            ],
        );
    }

    #[test]
    fn a_name_is_required_and_follows_the_rule_for_names() {
        refused(quote!(), &["no job name"]);
        refused(quote!(#[job()]), &["no job name"]);
        refused(quote!(#[job]), &["in parentheses", "no job name"]);
        refused(quote!(#[job(name = "")]), &["this name is refused: it is empty"]);
        refused(quote!(#[job(name = "a\nb")]), &["control character '\\n' at byte 1"]);
        let longest = "x".repeat(128);
        assert_eq!(read(quote!(#[job(name = #longest)])).1, [""; 0]);
        let longer = "x".repeat(129);
        refused(quote!(#[job(name = #longer)]), &["129 bytes long, and at most 128"]);
        refused(quote!(#[job(name = NAME)]), &["text in quotes, not `NAME`"]);
    }

    #[test]
    fn a_setting_given_twice_is_refused_across_attributes_too() {
        refused(quote!(#[job(name = "a", queue = "b")] #[job(queue = "c")]), &["`queue` is set twice"]);
    }

    #[test]
    fn numbers_and_durations_of_the_wrong_form_show_the_right_one() {
        refused(quote!(#[job(name = "a", max_attempts = "5")]), &["without quotes"]);
        refused(quote!(#[job(name = "a", timeout = 30)]), &["`timeout = \"30s\"`"]);
        refused(quote!(#[job(name = "a", timeout = "0s")]), &["longer than zero"]);
        refused(quote!(#[job(name = "a", priority = 256)]), &["`priority` takes a whole number from 0 to 255"]);
        refused(quote!(#[job(name = "a", version = 65536)]), &["from 1 to 65535"]);
        refused(quote!(#[job(name = "a", keep_failed = "0s")]), &["write \"remove\""]);
        refused(quote!(#[job(name = "a", keep_failed = "forever")]), &["\"remove\" or a duration"]);
        refused(quote!(#[job(name = "a", codec = "xml")]), &["one of \"json\", \"bincode\", not \"xml\""]);
        refused(quote!(#[job(name = "a", output = "Vec<")]), &["takes a type in quotes"]);
    }

    #[test]
    fn an_upcast_needs_a_version_above_the_first() {
        refused(quote!(#[job(name = "a", upcast = "read")]), &["add `version = 2`"]);
        refused(quote!(#[job(name = "a", upcast = "read", version = 1)]), &["add `version = 2`"]);
        assert_eq!(read(quote!(#[job(name = "a", upcast = "read", version = 2)])).1, [""; 0]);
        refused(quote!(#[job(name = "a", upcast = "read", version = 0)]), &["from 1 to 65535"]);
    }
}
