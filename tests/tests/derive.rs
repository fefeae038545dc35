//! Every setting has the effect that it names: on structs and enums, and with names that come through `macro_rules`.
use std::time::Duration;

use ferroq::{Backoff, CodecTag, Jitter, Job, JobOptions, KeepFor, Priority, UpcastError};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, Job)]
#[job(name = "email.welcome", queue = "emails", priority = 7, max_attempts = 5, max_crashes = 2, timeout = "30s")]
#[job(expires_in = "1h", backoff = "exponential(1s, 2.0, 10m)", jitter = "none", version = 2, upcast = "Welcome::v1")]
#[job(codec = "bincode", output = "Vec<u8>", keep_completed = "remove", keep_failed = "7days", crate = "::ferroq")]
struct Welcome {
    to: String,
}

impl Welcome {
    fn v1(from: u16, old: serde_json::Value) -> Result<Self, UpcastError> {
        match old.as_str() {
            Some(to) => Ok(Welcome { to: to.to_owned() }),
            None => Err(UpcastError { from, why: "no text".to_owned() }),
        }
    }
}

#[derive(Serialize, Deserialize, Job)]
#[job(name = "plain")]
enum Plain {
    One,
    Two(u8),
}

macro_rules! job {
    ($type:ident, $name:literal, $backoff:literal) => {
        #[derive(Serialize, Deserialize, Job)]
        #[job(name = $name, backoff = $backoff)]
        struct $type;
    };
}
job!(Fixed, "fixed", "fixed(5s)");
job!(Linear, "linear", "linear(1s, 1m)");
job!(List, "list", "list(1s, 5s)");

#[test]
fn every_setting_has_the_effect_that_it_names() {
    let s = Duration::from_secs;
    assert_eq!((Welcome::NAME, Welcome::QUEUE, Welcome::VERSION), ("email.welcome", "emails", 2));
    assert_eq!((Welcome::CODEC, Welcome::PRIORITY), (CodecTag::Bincode, Priority(7)));
    let _output: <Welcome as Job>::Output = vec![1u8];
    let set = Welcome::options();
    assert_eq!((set.max_attempts, set.max_crashes), (5, 2));
    assert_eq!((set.timeout, set.expires_in), (Some(s(30)), Some(s(3600))));
    assert_eq!(set.backoff, Backoff::exponential(s(1), 2.0, s(600)).jitter(Jitter::None));
    assert_eq!((set.keep.completed, set.keep.failed), (KeepFor::Remove, KeepFor::Age(s(7 * 24 * 3600))));
    assert_eq!(set.keep.cancelled, KeepFor::QueueDefault);
    assert_eq!(Welcome::upcast(1, "Ada".into()).expect("it is text"), Welcome { to: "Ada".into() });
    assert!(Welcome::upcast(1, 7.into()).is_err());

    assert_eq!((Plain::NAME, Plain::QUEUE, Plain::VERSION, Plain::CODEC), ("plain", "default", 1, CodecTag::Json));
    assert_eq!(Plain::options(), JobOptions::default());
    assert!(matches!(Plain::upcast(1, 7.into()), Err(UpcastError { from: 1, .. })));
    let _used = (Plain::One, Plain::Two(1));

    assert_eq!((Fixed::NAME, Fixed::options().backoff), ("fixed", Backoff::fixed(s(5))));
    assert_eq!(Linear::options().backoff, Backoff::linear(s(1), s(60)));
    assert_eq!(List::options().backoff, Backoff::list([s(1), s(5)]));
}
