//! An upcast of another type is pointed at where it is named.
use ferroq::Job;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "email.welcome", version = 2, upcast = "Welcome::read")]
struct Welcome {
    to: String,
}

impl Welcome {
    fn read(_old: String) -> Welcome {
        Welcome { to: String::new() }
    }
}

fn main() {}
