//! Limiters: a key each, in a slot of its own, and one script that decides. Scripts know no time zones, so the windows of a
//! calendar are computed here, for the time that this host's clock shows; the script picks the one that holds the
//! server's time, and if none does, it says what time it is there and is asked again.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use ferroq_core::clock::{Timestamp, micros};
use ferroq_core::job::LimiterName;
use ferroq_core::policy::rate::{Rate, Span, limiter};
use ferroq_core::storage::{AcquireAnswer, AcquireRequest, ErrorCode, Limits, StorageError};
use redis::{Cmd, Value};

use crate::RedisStorage;
use crate::exchange::strange;
use crate::inspect::{array, count};
use crate::keys::LimiterKeys;
use crate::record::bytes_of;
use crate::script::{ACQUIRE, PEEK, Script};
use crate::spec::{Reader, Unreadable};

/// How often a question is asked anew because its windows did not hold the server's time. Once is what a wrong clock takes, and
/// twice if a window ends just then.
const ROUNDS_MAX: usize = 5;

#[async_trait]
impl Limits for RedisStorage {
    async fn acquire(&self, request: AcquireRequest) -> Result<AcquireAnswer, StorageError> {
        let AcquireRequest { call, limiter, rate, permits } = request;
        limiter::check(&rate, permits)?;
        let keys = LimiterKeys::new(&self.options.namespace, &limiter, call.map(|call| call.session));
        let head = |cmd: &mut Cmd| {
            match call {
                Some(call) => cmd.arg(call.number).arg(call.acknowledged_below),
                None => cmd.arg("").arg(""),
            };
            cmd.arg(permits);
        };
        self.ask(&ACQUIRE, &keys, &rate, head).await
    }

    async fn peek(&self, limiter: &LimiterName, rate: &Rate, permits: u32) -> Result<AcquireAnswer, StorageError> {
        limiter::check(rate, permits)?;
        let keys = LimiterKeys::new(&self.options.namespace, limiter, None);
        let head = |cmd: &mut Cmd| {
            cmd.arg(permits);
        };
        self.ask(&PEEK, &keys, rate, head).await
    }

    async fn reset(&self, limiter: &LimiterName) -> Result<(), StorageError> {
        let keys = LimiterKeys::new(&self.options.namespace, limiter, None);
        let answer = self.link.call(redis::cmd("DEL").arg(&keys.state)).await;
        answer.map(drop).map_err(|error| error.about_key(&keys.state).into())
    }
}

impl RedisStorage {
    async fn ask(
        &self,
        script: &Script,
        keys: &LimiterKeys,
        rate: &Rate,
        head: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<AcquireAnswer, StorageError> {
        let clock = self.clock_arg();
        let mut now = match &self.options.clock {
            Some(clock) => clock.now(),
            None => SystemTime::now().into(),
        };
        for _ in 0..ROUNDS_MAX {
            let bounds = bounds(rate, now);
            let args = |cmd: &mut Cmd| {
                cmd.arg(&clock);
                head(cmd);
                cmd.arg(rate.limit());
                for bound in &bounds {
                    cmd.arg(bound);
                }
            };
            let answer = script.call_on(&self.link, &[&keys.state, &keys.given], args).await?;
            match read(answer).map_err(|Unreadable| strange("the answer of a limiter"))? {
                Told::Answer(answer) => return Ok(answer),
                Told::NotCovered(at) => now = at,
            }
        }
        Err(StorageError::new(ErrorCode::Other, "the server's clock does not stand still long enough for a calendar"))
    }
}

/// The bounds of a rate as `limiter.lua` takes them: of a calendar the window that holds the time and the next, so that a
/// window that ends on the way there costs nothing.
fn bounds(rate: &Rate, now: Timestamp) -> Vec<Vec<u8>> {
    let bytes = |at: Timestamp| at.as_micros().to_be_bytes().to_vec();
    match rate.bound_at(now).span {
        Span::Sliding(window) => vec![b"s".to_vec(), micros(window).to_be_bytes().to_vec()],
        Span::Window(window) => {
            let mut bounds = vec![b"c".to_vec(), bytes(window.start), bytes(window.end)];
            if let Span::Window(next) = rate.bound_at(window.end).span {
                bounds.extend([bytes(next.start), bytes(next.end)]);
            }
            bounds
        }
    }
}

enum Told {
    Answer(AcquireAnswer),
    /// No window held this time, which is the limiter's.
    NotCovered(Timestamp),
}

fn read(answer: Value) -> Result<Told, Unreadable> {
    let mut values = array(answer)?.into_iter();
    let what = count(values.next())?;
    if what == 2 {
        let at = values.next().map_or(Err(Unreadable), bytes_of)?;
        return Ok(Told::NotCovered(Timestamp::from_micros(Reader(&at).i64()?)));
    }
    let remaining = u32::try_from(count(values.next())?).map_err(|_| Unreadable)?;
    let retry_after = match what {
        1 => None,
        0 => {
            let wait = values.next().map_or(Err(Unreadable), bytes_of)?;
            Some(Duration::from_micros(Reader(&wait).i64()?.max(0).unsigned_abs()))
        }
        _ => return Err(Unreadable),
    };
    Ok(Told::Answer(AcquireAnswer { granted: what == 1, remaining, retry_after }))
}
