//! Limits hold: no window of D has more than N starts, no window of the calendar more than its limit, and never are more
//! jobs Active at once than may be. The checkers are given every start that ever was, with its storage time, or all that
//! happened in its order, and know nothing of how a storage counts.

use std::collections::{BTreeMap, HashMap, HashSet};

use ferroq_core::Timestamp;
use ferroq_core::clock::LAG_MAX;
use ferroq_core::event::{Event, EventKind};
use ferroq_core::job::{JobId, LimiterName};
use ferroq_core::policy::rate::{Per, Rate};

use super::{History, Step};

/// Checks that a rate held over all starts, given in any order. `starts` are those under this rate and no other.
///
/// # Errors
/// The window with too many starts, in words.
pub fn check_rate(rate: &Rate, starts: impl IntoIterator<Item = Timestamp>) -> Result<(), String> {
    let mut starts: Vec<Timestamp> = starts.into_iter().collect();
    starts.sort_unstable();
    let limit = rate.limit() as usize;
    match rate.per() {
        // A window [t, t + D) with N + 1 starts is there exactly if some start and the N-th after it are less than D apart.
        Per::Sliding(window) => {
            let pairs = starts.iter().zip(starts.iter().skip(limit));
            match pairs.into_iter().find(|(first, last)| last.since(**first) < *window) {
                None => Ok(()),
                Some((first, last)) => Err(format!("{rate}: {} starts from {first} to {last}", limit + 1)),
            }
        }
        Per::Calendar { unit, zone } => {
            let mut windows: BTreeMap<Timestamp, usize> = BTreeMap::new();
            for start in &starts {
                *windows.entry(zone.window(*unit, *start).start).or_default() += 1;
            }
            match windows.into_iter().find(|(_, count)| *count > limit) {
                None => Ok(()),
                Some((start, count)) => Err(format!("{rate}: {count} starts in the {unit} from {start} on")),
            }
        }
    }
}

/// Checks that a rate whose window slides was used: that from `from` to `to`, while somebody always waited, `share` of what it
/// allows was started.
///
/// # Errors
/// How much it was, in words; a rate of the calendar.
pub fn check_used(
    rate: &Rate,
    starts: impl IntoIterator<Item = Timestamp>,
    from: Timestamp,
    to: Timestamp,
    share: f64,
) -> Result<(), String> {
    let Per::Sliding(window) = rate.per() else { return Err(format!("{rate} has no window that slides")) };
    let used = starts.into_iter().filter(|at| (from..to).contains(at)).count() as f64;
    let allowed = f64::from(rate.limit()) * to.since(from).as_secs_f64() / window.as_secs_f64();
    if used >= share * allowed {
        Ok(())
    } else {
        Err(format!("{rate}: {used} starts from {from} to {to}, where {allowed} were allowed"))
    }
}

/// Checks that never more jobs were Active at once than may be when one starts, which `most` says. `events` are all that
/// happened to the jobs that are counted together, in the order in which it happened.
///
/// # Errors
/// The moment at which there were too many, in words.
pub fn check_concurrency(
    most: impl Fn(Timestamp) -> u32,
    events: impl IntoIterator<Item = Event>,
) -> Result<(), String> {
    for (at, active) in active_at_starts(events) {
        let most = most(at);
        if active > most as usize {
            return Err(format!("{active} are Active at {at}, where {most} may be"));
        }
    }
    Ok(())
}

/// How many jobs were Active at once when one started, at most, from `from` to `to`.
pub fn most_active(events: impl IntoIterator<Item = Event>, from: Timestamp, to: Timestamp) -> usize {
    let within = active_at_starts(events).filter(|(at, _)| (from..to).contains(at));
    within.map(|(_, active)| active).max().unwrap_or(0)
}

/// At each start, how many were Active with it.
fn active_at_starts(events: impl IntoIterator<Item = Event>) -> impl Iterator<Item = (Timestamp, usize)> {
    let mut active: HashSet<JobId> = HashSet::new();
    events.into_iter().filter_map(move |event| {
        let job = event.job?;
        match event.kind {
            EventKind::Started => {
                active.insert(job);
                return Some((event.at, active.len()));
            }
            EventKind::Completed
            | EventKind::Retrying
            | EventKind::Snoozed
            | EventKind::Released
            | EventKind::Failed
            | EventKind::Stalled
            | EventKind::Cancelled => {
                active.remove(&job);
            }
            _ => {}
        }
        None
    })
}

/// The permits that limiters gave, each held against the rate that it was given under, for as long as nobody changed the
/// rate or made the limiter forget. Storage time follows from the clock: it does not go back, unless the clock lags by a
/// minute; what was given before such a step may count as given later than it was, so that the check begins anew there.
pub(super) fn check(history: &History) -> Result<(), (usize, String)> {
    let mut given: HashMap<&LimiterName, (&Rate, Vec<Timestamp>)> = HashMap::new();
    for (step, one) in history.steps.iter().enumerate() {
        match one {
            Step::Acquired { at, request, answer, repeat } => {
                if *repeat || !answer.granted {
                    continue;
                }
                let (rate, starts) = given.entry(&request.limiter).or_insert((&request.rate, Vec::new()));
                let last = starts.last().copied().unwrap_or(*at);
                if *rate != &request.rate || last.since(*at) >= LAG_MAX {
                    (*rate, *starts) = (&request.rate, Vec::new());
                }
                let now = starts.last().copied().unwrap_or(*at).max(*at);
                starts.extend((0..request.permits).map(|_| now));
                check_rate(rate, starts.iter().copied()).map_err(|what| (step, what))?;
            }
            Step::Reset(limiter) => {
                given.remove(limiter);
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferroq_core::policy::rate::RateState;
    use proptest::prelude::*;

    use super::*;

    const S: fn(i64) -> Timestamp = |second| Timestamp::from_micros(second * 1_000_000);

    #[test]
    fn the_checker_sees_one_start_too_many_and_one_microsecond_too_soon() {
        let rate = Rate::sliding(2, Duration::from_secs(10));
        assert!(check_rate(&rate, [S(0), S(5), S(10), S(15)]).is_ok());
        assert!(check_rate(&rate, [S(0), S(5), S(10).before(Duration::from_micros(1))]).is_err());
        assert!(check_rate(&rate, [S(9), S(0), S(1)]).is_err(), "in whatever order");
        let daily = Rate::per_day(2).in_zone("America/New_York").expect("a zone");
        let midnight = S(1_795_237_200);
        let before = midnight.before(Duration::from_secs(1));
        assert!(check_rate(&daily, [before, before, midnight, midnight]).is_ok());
        assert!(check_rate(&daily, [before, before, before, midnight]).is_err());
    }

    #[test]
    fn the_checker_of_use_sees_one_start_too_few() {
        let rate = Rate::sliding(2, Duration::from_secs(10));
        let starts = [0, 1, 10, 11, 20, 25].map(S);
        assert_eq!(check_used(&rate, starts, S(0), S(30), 1.0), Ok(()));
        assert!(check_used(&rate, starts.into_iter().skip(1), S(0), S(30), 0.98).is_err());
        assert!(check_used(&rate, starts, S(0), S(40), 0.98).is_err(), "a window without a start counts too");
        let daily = Rate::per_day(2).in_zone("UTC").expect("a zone");
        assert!(check_used(&daily, starts, S(0), S(30), 0.0).is_err(), "it is not made for that");
    }

    #[test]
    fn the_checker_of_concurrency_sees_one_job_too_many() {
        let jobs: Vec<JobId> = (0..3).map(|n| JobId::from(uuid::Uuid::from_u128(n))).collect();
        let event = |(kind, job): (EventKind, usize)| Event {
            cursor: ferroq_core::event::EventCursor(1),
            at: S(0),
            kind,
            job: jobs.get(job).copied(),
        };
        let check = |events: &[(EventKind, usize)]| check_concurrency(|_| 2, events.iter().copied().map(event));
        let (started, left) = (EventKind::Started, [EventKind::Completed, EventKind::Failed, EventKind::Cancelled]);
        let back = [EventKind::Retrying, EventKind::Snoozed, EventKind::Released, EventKind::Stalled];
        for way in left.into_iter().chain(back) {
            assert_eq!(check(&[(started, 0), (started, 1), (way, 0), (started, 2)]), Ok(()), "{way:?}");
            assert_eq!(check(&[(started, 0), (started, 1), (way, 0), (started, 0)]), Ok(()), "{way:?}");
            assert!(check(&[(started, 0), (way, 0), (way, 0), (started, 0), (started, 1), (started, 2)]).is_err());
        }
        let three = [(started, 0), (started, 1), (started, 2)];
        assert!(check(&three).is_err());
        assert_eq!(most_active(three.map(event), S(0), S(1)), 3);
        assert_eq!(most_active(three.map(event), S(1), S(2)), 0);
        let fewer_later = |at: Timestamp| if at < S(0) { 3 } else { 2 };
        assert!(check_concurrency(fewer_later, three.map(event)).is_err());
        for way in [EventKind::CancelRequested, EventKind::Progress, EventKind::Paused, EventKind::Enqueued] {
            assert!(check(&[(started, 0), (started, 1), (way, 0), (started, 2)]).is_err(), "{way:?} ends no run");
        }
    }

    /// A limiter under callers who come at these times and ask for so many. Answers the starts.
    fn play(rate: &Rate, asked: &[(i64, u32)]) -> Vec<Timestamp> {
        let (mut state, mut starts, mut clock) = (RateState::default(), Vec::new(), 1_793_000_000_000_000);
        for (passed, many) in asked {
            clock += passed;
            let (now, _) = state.time(Timestamp::from_micros(clock));
            let bound = rate.bound_at(now);
            let free = state.free(&bound, now);
            let granted = free.min(*many);
            for n in 1..=rate.limit() {
                let at = state.retry_at(&bound, now, n);
                assert_eq!(at <= now, n <= free, "{n} of {free} free at {now}, told to come at {at}");
                if at > now && bound.covers(at) {
                    assert!(state.free(&bound, at) >= n, "too few are free when told to come");
                }
            }
            state.take(&bound, now, granted);
            state = RateState::from_bytes(&state.to_bytes()).expect("its own bytes");
            assert_eq!(state.free(&bound, now), free - granted);
            starts.extend((0..granted).map(|_| now));
        }
        starts
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let sliding = (1..300_u32, 1..50_u64).prop_map(|(limit, ms)| Rate::sliding(limit, Duration::from_millis(ms)));
        let zones = prop::sample::select(vec!["UTC", "America/Havana", "Australia/Lord_Howe"]);
        let calendar = (1..50_u32, zones, 0..3_u8).prop_map(|(limit, zone, unit)| {
            let rate =
                [Rate::per_minute(limit), Rate::per_hour(limit), Rate::per_day(limit)][usize::from(unit)].clone();
            rate.in_zone(zone).expect("a zone")
        });
        prop_oneof![2 => sliding, 1 => calendar]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whoever comes when, some of them while the clock runs back a little.
        #[test]
        fn no_window_has_more_starts_than_the_policy_promises(
            rate in rates(),
            asked in prop::collection::vec((-2_000..20_000_i64, 0..40_u32), 1..120),
            scale in prop::sample::select(vec![1, 100, 100_000]),
        ) {
            // The calendar's windows are longer, so time runs faster there; steps back stay under a minute.
            let scale = if matches!(rate.per(), Per::Calendar { .. }) { scale } else { 1 };
            let asked: Vec<_> = asked.into_iter().map(|(passed, many)| ((passed * scale).max(-20_000), many)).collect();
            let starts = play(&rate, &asked);
            prop_assert_eq!(check_rate(&rate, starts), Ok(()));
        }
    }

    /// Somebody always waits: each start happens as soon as the limiter lets it, whatever happened at first.
    #[test]
    fn a_saturated_limiter_is_used_to_98_percent() {
        let window = Duration::from_secs(1);
        for limit in [1_u32, 7, 64, 65, 100, 101, 150, 199, 201, 1_000, 5_000] {
            for (burst, step) in [(limit, 0), (1, 1_000_000 / i64::from(limit) + 1), (3, 777), (limit / 3 + 1, 300_001)]
            {
                let bound = Rate::sliding(limit, window).bound_at(S(0));
                let (mut state, mut starts, mut now) = (RateState::default(), Vec::new(), S(0));
                // At first they come in all sorts of ways; then the waiting ones take whatever comes free.
                while starts.len() < limit as usize && now < S(1) {
                    let many = burst.min(state.free(&bound, now)).min(limit);
                    state.take(&bound, now, many);
                    starts.extend((0..many).map(|_| now));
                    now = if step == 0 { S(1) } else { Timestamp::from_micros(now.as_micros() + step) };
                }
                while now < S(60) {
                    now = state.retry_at(&bound, now, 1);
                    let many = state.free(&bound, now);
                    state.take(&bound, now, many);
                    starts.extend((0..many).map(|_| now));
                }
                let rate = Rate::sliding(limit, window);
                assert_eq!(check_rate(&rate, starts.iter().copied()), Ok(()));
                let used = starts.iter().filter(|at| (S(2)..S(52)).contains(at)).count() as f64;
                let share = used / (50.0 * f64::from(limit));
                assert!(share >= 0.98, "{share:.4} of {limit}, begun as {burst} every {step} µs");
            }
        }
    }
}
