//! `#[derive(Job)]` for ferroq. The derive writes the `impl Job` that a hand would write, and its other half of the work
//! is to refuse mistakes: names, durations and budgets are checked when the app is compiled, every mistake is pointed
//! at where it stands, and all of them are reported at once. Apps use it through the `ferroq` crate.

mod attributes;
mod backoff;
mod expand;
mod settings;
mod values;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `ferroq::Job` for a struct or enum that serde can write and read.
///
/// ```text
/// #[derive(Serialize, Deserialize, Job)]
/// #[job(name = "email.welcome", queue = "emails", max_attempts = 5, timeout = "30s")]
/// struct Welcome { to: String }
/// ```
///
/// | setting | value | without it |
/// |---|---|---|
/// | `name` | the wire name, 1 to 128 bytes of printable text without braces | required |
/// | `queue` | the queue's name, as above | `"default"` |
/// | `priority` | how soon it is served, 0 to 255; lower runs sooner | 128 |
/// | `max_attempts` | how many runs may fail, at least 1 | 20 |
/// | `max_crashes` | how many times the process may die under it, at least 1 | 3 |
/// | `timeout` | how long a run may take: `"30s"`, `"1h 30m"` | no limit |
/// | `expires_in` | never start a job older than this | no limit |
/// | `backoff` | `"fixed(5s)"`, `"linear(1s, 1m)"`, `"exponential(1s, 2.0, 10m)"`, `"list(1s, 5s, 30s)"` | from 2 s, doubling, at most 6 h |
/// | `jitter` | `"none"`, `"equal"` or `"full"` | that of the backoff |
/// | `keep_completed`, `keep_failed`, `keep_cancelled` | `"remove"`, or how long: `"24h"` | as the queue says |
/// | `codec` | `"json"` or `"bincode"` | `"json"` |
/// | `output` | the type that a run returns, in quotes | `()` |
/// | `version` | the version of the payload's shape, from 1 | 1 |
/// | `upcast` | a `fn(u16, serde_json::Value) -> Result<Self, UpcastError>`, in quotes, that reads older versions | older versions are refused |
/// | `crate` | the path of the `ferroq` crate, in quotes, where it has another name | `"::ferroq"` |
#[proc_macro_derive(Job, attributes(job))]
pub fn derive_job(input: TokenStream) -> TokenStream {
    expand::derive(&parse_macro_input!(input as DeriveInput)).into()
}
