//! The operations on limiters. They are about no queue, so they are no calls of a case; each is asked of every store and
//! of the model all the same, and looked at before and after.

use ferroq_core::job::LimiterName;
use ferroq_core::policy::rate::{CalendarUnit, Rate, TimeZoneName};
use ferroq_core::storage::AcquireRequest;

use super::case::{Case, Outcomes};
use super::op::{RateDraft, secs};
use crate::invariants::Step;

impl Case {
    pub(super) async fn acquire(&mut self, limiter: u8, draft: &RateDraft, permits: u16) -> Outcomes {
        let rate = rate_of(draft)?;
        let permits = u32::from(permits).clamp(1, rate.limit());
        let request = AcquireRequest { call: self.world.call_id(), limiter: name(limiter)?, rate, permits };
        self.peek(&request).await?;
        self.ask(&request, false).await?;
        self.peek(&request).await?;
        self.world.note_acquire(request);
        Ok(())
    }

    pub(super) async fn acquire_again(&mut self, back: u8) -> Outcomes {
        let open = &self.world.acquires;
        let Some(place) = open.len().checked_sub(1 + usize::from(back)) else { return Ok(()) };
        let request = open[place].clone();
        self.ask(&request, true).await
    }

    pub(super) async fn reset_limiter(&mut self, limiter: u8) -> Outcomes {
        self.forget_limiter(name(limiter)?).await
    }

    /// A limiter that is gone may have been dropped or not, which shows once the clock steps back. So they are dropped before.
    pub(super) async fn forget_gone_limiters(&mut self) -> Outcomes {
        for limiter in self.model.limiters_gone(self.now()) {
            self.forget_limiter(limiter).await?;
        }
        Ok(())
    }

    async fn forget_limiter(&mut self, limiter: LimiterName) -> Outcomes {
        self.told.push(format!("   reset limiter {limiter}"));
        for side in &self.sides {
            side.fixture.storage.reset(&limiter).await.map_err(|error| format!("reset: {error}"))?;
        }
        self.model.reset(&limiter);
        self.world.history.steps.push(Step::Reset(limiter));
        Ok(())
    }

    async fn ask(&mut self, request: &AcquireRequest, repeat: bool) -> Outcomes {
        let AcquireRequest { limiter, rate, permits, .. } = request;
        let again = if repeat { "again: " } else { "" };
        self.told.push(format!("   {again}acquire {permits} of limiter {limiter}, {rate}"));
        let at = self.now();
        let expected = self.model.acquire(at, request);
        let new = !repeat || !self.world.history.steps.iter().any(|step| is_grant(step, request));
        for side in &self.sides {
            let answer = side.fixture.storage.acquire(request.clone()).await;
            let answer = answer.map_err(|error| format!("acquire: {error}"))?;
            if answer != expected {
                return Err(format!("acquire on {}:\n  model: {expected:?}\n  seen:  {answer:?}", side.name));
            }
        }
        // A refusal that is repeated is decided anew.
        let step = Step::Acquired { at, request: request.clone(), answer: expected, repeat: !new };
        self.world.history.steps.push(step);
        Ok(())
    }

    async fn peek(&self, request: &AcquireRequest) -> Outcomes {
        let AcquireRequest { limiter, rate, permits, .. } = request;
        let expected = self.model.peek(self.now(), limiter, rate, *permits);
        for side in &self.sides {
            let answer = side.fixture.storage.peek(limiter, rate, *permits).await;
            let answer = answer.map_err(|error| format!("peek: {error}"))?;
            if answer != expected {
                return Err(format!("peek on {}:\n  model: {expected:?}\n  seen:  {answer:?}", side.name));
            }
        }
        Ok(())
    }
}

fn is_grant(step: &Step, of: &AcquireRequest) -> bool {
    matches!(step, Step::Acquired { request, answer, .. } if request.call == of.call && answer.granted)
}

fn name(number: u8) -> Result<LimiterName, String> {
    LimiterName::new(format!("limiter {}", number % 2)).map_err(|error| error.to_string())
}

fn rate_of(draft: &RateDraft) -> Result<Rate, String> {
    let zone = || TimeZoneName::new("UTC").map_err(|error| error.to_string());
    Ok(match *draft {
        RateDraft::Sliding(limit, seconds) => Rate::sliding(limit.into(), secs(seconds.max(1))),
        RateDraft::Minute(limit) => Rate::calendar(limit.into(), CalendarUnit::Minute, zone()?),
        RateDraft::Hour(limit) => Rate::calendar(limit.into(), CalendarUnit::Hour, zone()?),
        RateDraft::Day(limit) => Rate::calendar(limit.into(), CalendarUnit::Day, zone()?),
    })
}
