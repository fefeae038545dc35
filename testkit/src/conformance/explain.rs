//! Why a job is not running: one case for each reason, where it stands in line, and that to ask changes nothing.

use ferroq_core::job::{DedupKey, JobRecord, LaneClass, LaneKey};
use ferroq_core::policy::explain::{COUNTED_MAX, Count, Explanation, PausedBy, Place, Reason};
use ferroq_core::policy::lanes::Limited;
use ferroq_core::policy::rate::{CalendarUnit, TimeZoneName};

use super::lane_words::{ClassPolicy, batches, LanePolicy, Rate, StartLimits, paused, slots, starts};
use super::prelude::*;

topic! {
    ($) explain, __conformance_explain:
    a_job_that_is_not_there_is_unknown,
    a_job_that_nothing_holds_back_is_ready,
    a_delayed_job_says_until_when,
    a_due_job_is_ready,
    a_paused_queue_is_named,
    a_paused_lane_is_named_and_so_is_whatever_pauses_it_from_above,
    an_expired_job_says_since_when_and_others_when_they_will_be,
    a_pending_job_names_the_holder_of_its_key,
    a_job_that_waits_for_others_is_blocked,
    a_member_of_a_batch_names_the_job_that_it_runs_with,
    a_lane_that_collects_a_batch_says_how_far_it_is,
    a_shelved_job_names_its_kind,
    concurrency_is_told_with_its_numbers,
    a_rate_says_when_the_next_may_start,
    a_rate_of_the_calendar_says_when_its_window_ends,
    an_active_job_says_who_has_it_and_until_when,
    an_ended_job_says_how_and_when,
    all_reasons_are_named_in_their_order,
    a_job_says_how_many_are_ahead_of_it_and_how_many_lanes,
    a_lane_that_is_set_aside_comes_after_all_others,
    a_long_line_is_counted_up_to_a_bound,
    the_first_of_the_solo_line_is_ready,
    those_ahead_may_use_up_the_room,
    limits_hold_after_a_move,
    a_clock_that_stepped_back_is_followed,
    to_ask_changes_nothing,
}

async fn explain(t: &Scene, id: JobId) -> Explanation {
    t.storage().explain(&t.queue, id).await.expect("explain")
}

async fn reasons(t: &Scene, id: JobId) -> Vec<Reason> {
    let explanation = explain(t, id).await;
    assert!(explanation.reasons.is_empty() || !explanation.is_ready, "{explanation}");
    explanation.reasons
}

/// Claims as many as there can be, without waiting for jobs that run alone.
async fn claim_all(t: &Scene) -> Vec<JobId> {
    ids(&t.claim_as(ClaimSpec { alone: false, ..t.asking(5000) }).await.claims)
}

fn lane(name: &str) -> LaneKey {
    if name.is_empty() { LaneKey::DEFAULT } else { LaneKey::new(name).expect("a good lane") }
}

fn class() -> LaneClass {
    LaneClass::new("x").expect("a good class")
}

fn in_lane(t: &Scene, name: &str) -> JobSpec {
    JobSpec { lane: lane(name), ..t.spec() }
}

async fn set_lane(t: &Scene, name: &str, policy: LanePolicy) {
    t.storage().configure_lane(&t.queue, &lane(name), Some(policy)).await.expect("configure_lane");
}

async fn a_job_that_is_not_there_is_unknown(t: &mut Scene) {
    let id = JobId::new();
    assert_eq!(explain(t, id).await, Explanation::unknown(id), "in a queue that does not exist");
    assert_eq!(t.storage().queues().await.expect("queues"), []);
    let removed = t.put_one(t.spec()).await;
    t.act(removed, Act::Remove).await;
    assert_eq!(explain(t, removed).await, Explanation::unknown(removed));
}

async fn a_job_that_nothing_holds_back_is_ready(t: &mut Scene) {
    let jobs = t.put([t.spec(), in_lane(t, "x/1"), t.spec().lifo(), t.spec().priority(1)]).await;
    for id in &jobs {
        let told = explain(t, *id).await;
        assert!(told.is_ready && told.reasons.is_empty(), "{told}");
        assert_eq!((told.id, told.at, told.state), (*id, Some(t.clock()), Some(JobState::Waiting)));
    }
    assert_eq!(claim_all(t).await.len(), jobs.len());
}

async fn a_delayed_job_says_until_when(t: &mut Scene) {
    let id = t.put_one(t.spec().delay(HOUR)).await;
    let until = t.clock().after(HOUR);
    assert_eq!(reasons(t, id).await, [Reason::Delayed { until }]);
    assert_eq!(explain(t, id).await.place, None);
    let retried = t.run(t.spec(), fail(MINUTE)).await;
    assert_eq!(reasons(t, retried).await, [Reason::Delayed { until: t.clock().after(MINUTE) }], "so is a retry");
}

async fn a_due_job_is_ready(t: &mut Scene) {
    let id = t.put_one(t.spec().delay(HOUR)).await;
    t.advance(HOUR);
    let told = explain(t, id).await;
    assert!(told.is_ready && told.state == Some(JobState::Delayed), "{told}");
    assert_eq!(claim_all(t).await, [id]);
}

async fn a_member_of_a_batch_names_the_job_that_it_runs_with(t: &mut Scene) {
    t.configure(|config| config.lanes.every = batches(2, HOUR)).await;
    let jobs = t.put_many(2).await;
    let leader = t.claim_one().await;
    let batch = leader.batch.expect("a batch");
    assert_eq!(reasons(t, jobs[1]).await, [Reason::InBatch { batch, leader: Some(jobs[0]) }]);
    t.settle(leader.lease, fail(MINUTE)).await;
    assert_eq!(reasons(t, jobs[1]).await, [Reason::InBatch { batch, leader: Some(jobs[0]) }], "it runs again with it");
    t.advance(MINUTE);
    let again = t.claim_one().await;
    t.settle(again.lease, abort()).await;
    assert_eq!(reasons(t, jobs[1]).await, [Reason::InBatch { batch, leader: None }], "and fails with it");
}

async fn a_lane_that_collects_a_batch_says_how_far_it_is(t: &mut Scene) {
    t.configure(|config| config.lanes.every = batches(3, HOUR)).await;
    let first = t.put_one(in_lane(t, "x/1")).await;
    let until = t.clock().after(HOUR);
    t.advance(MINUTE);
    let second = t.put_one(in_lane(t, "x/1")).await;
    for _ in 0..2 {
        for id in [first, second] {
            assert_eq!(reasons(t, id).await, [Reason::AtGate { waiting: 2, size: 3, until }]);
        }
        assert_eq!(claim_all(t).await, [], "it is so before and after a claim has asked");
    }
    let third = t.put_one(in_lane(t, "x/1")).await;
    let ready: Vec<bool> = [explain(t, first).await, explain(t, second).await, explain(t, third).await]
        .map(|told| {
            assert!(told.reasons.is_empty(), "{told}");
            told.is_ready
        })
        .into();
    assert_eq!(ready, [true, false, false], "the others go with the first");
    assert_eq!(claim_all(t).await, [first]);
}

async fn a_paused_queue_is_named(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    assert_eq!(reasons(t, id).await, [Reason::Paused { by: PausedBy::Queue }]);
    t.storage().set_paused(&t.queue, false).await.expect("set_paused");
    assert_eq!(reasons(t, id).await, []);
}

async fn a_paused_lane_is_named_and_so_is_whatever_pauses_it_from_above(t: &mut Scene) {
    let jobs = t.put([in_lane(t, "x/1"), in_lane(t, "x/2"), in_lane(t, "")]).await;
    let by = |by| Reason::Paused { by };
    set_lane(t, "x/1", paused()).await;
    set_lane(t, "", paused()).await;
    assert_eq!(reasons(t, jobs[0]).await, [by(PausedBy::Lane(lane("x/1")))]);
    assert_eq!(reasons(t, jobs[1]).await, []);
    assert_eq!(reasons(t, jobs[2]).await, [by(PausedBy::Lane(LaneKey::DEFAULT))]);
    t.configure(|config| {
        config.lanes.classes.insert(class(), ClassPolicy { each: paused(), ..ClassPolicy::default() });
    })
    .await;
    assert_eq!(reasons(t, jobs[1]).await, [by(PausedBy::Class(class()))]);
    t.configure(|config| config.lanes.every.paused = true).await;
    let all = [by(PausedBy::EveryLane), by(PausedBy::Class(class())), by(PausedBy::Lane(lane("x/1")))];
    assert_eq!(reasons(t, jobs[0]).await, all);
    assert_eq!(claim_all(t).await, []);
}

async fn an_expired_job_says_since_when_and_others_when_they_will_be(t: &mut Scene) {
    let id = t.put_one(t.spec().expires_in(MINUTE)).await;
    let at = t.clock().after(MINUTE);
    t.advance(MINUTE);
    let told = explain(t, id).await;
    assert!(told.is_ready && told.expires_at == Some(at), "{told}");
    t.advance(Duration::from_micros(1));
    assert_eq!(reasons(t, id).await, [Reason::Expired { at }]);
    assert_eq!(claim_all(t).await, []);
    let ended = Reason::Ended { state: JobState::Failed, at: t.clock(), failure: Some(FailReason::Expired) };
    assert_eq!(explain(t, id).await.reasons, [ended]);
    assert_eq!(explain(t, id).await.expires_at, None);
}

async fn a_pending_job_names_the_holder_of_its_key(t: &mut Scene) {
    let keyed = || t.spec().dedup("k", DedupMode::KeepLatest);
    let holder = t.put_one(keyed()).await;
    let claim = t.claim_one().await;
    let pending = t.put_one(keyed()).await;
    let key = DedupKey::new("k").expect("a good key");
    assert_eq!(reasons(t, pending).await, [Reason::Pending { key, holder }]);
    t.settle(claim.lease, completed()).await;
    assert!(explain(t, pending).await.is_ready);
}

async fn a_job_that_waits_for_others_is_blocked(t: &mut Scene) {
    let id = t.put_one(t.spec()).await;
    let blocked = JobRecord { state: JobState::Blocked, ..t.record(id).await };
    t.act(id, Act::Remove).await;
    let page = DumpPage { jobs: vec![blocked], ..DumpPage::default() };
    t.storage().restore(&t.queue, page).await.expect("restore");
    assert_eq!(reasons(t, id).await, [Reason::Blocked]);
}

async fn a_shelved_job_names_its_kind(t: &mut Scene) {
    let jobs = t.put([t.spec().of_kind("rare"), t.spec().of_kind("rare")]).await;
    assert_eq!(claim_all(t).await, []);
    let told = explain(t, jobs[1]).await;
    assert_eq!(told.reasons, [Reason::Shelved { kind: kind("rare") }]);
    let place = told.place.expect("a place");
    assert_eq!((place.line, place.ahead), (Slot::Shelf, Count::new(1)));
}

async fn concurrency_is_told_with_its_numbers(t: &mut Scene) {
    let of = |of, active, most| Reason::AtConcurrency { of, active, most };
    let jobs = t.put(["x/1", "x/1", "x/2", "y", ""].map(|name| in_lane(t, name))).await;
    set_lane(t, "x/1", slots(1)).await;
    assert_eq!(claim_all(t).await.len(), 4);
    assert_eq!(reasons(t, jobs[1]).await, [of(Limited::Lane(lane("x/1")), 1, 1)]);
    t.configure(|config| {
        config.limits.concurrency = Some(3);
        let total = StartLimits { concurrency: Some(2), rate: None };
        config.lanes.classes.insert(class(), ClassPolicy { total, ..ClassPolicy::default() });
    })
    .await;
    let all =
        [of(Limited::Queue, 4, 3), of(Limited::Class(class()), 2, 2), of(Limited::Lane(lane("x/1")), 1, 1)];
    assert_eq!(reasons(t, jobs[1]).await, all);
    set_lane(t, "", slots(1)).await;
    let id = t.put_one(in_lane(t, "")).await;
    assert_eq!(reasons(t, id).await, [of(Limited::Queue, 4, 3), of(Limited::Lane(LaneKey::DEFAULT), 1, 1)]);
    assert_eq!(claim_all(t).await, []);
}

async fn a_rate_says_when_the_next_may_start(t: &mut Scene) {
    let rates = [Rate::sliding(1, MINUTE), Rate::sliding(1, HOUR), Rate::sliding(1, 30 * SECOND)];
    let [of_queue, of_class, of_lane] = rates.clone();
    t.configure(|config| {
        config.limits.rate = Some(of_queue);
        let total = StartLimits { concurrency: None, rate: Some(of_class) };
        config.lanes.classes.insert(class(), ClassPolicy { total, ..ClassPolicy::default() });
    })
    .await;
    set_lane(t, "x/1", starts(&of_lane)).await;
    let jobs = t.put([in_lane(t, "x/1"), in_lane(t, "x/1")]).await;
    let start = t.clock();
    assert_eq!(claim_all(t).await, jobs[..1]);
    let at_rate = |of, rate: &Rate, span| Reason::AtRate { of, rate: rate.clone(), until: start.after(span) };
    let queue = at_rate(Limited::Queue, &rates[0], MINUTE);
    let of_class = at_rate(Limited::Class(class()), &rates[1], HOUR);
    let of_lane = at_rate(Limited::Lane(lane("x/1")), &rates[2], 30 * SECOND);
    assert_eq!(reasons(t, jobs[1]).await, [of_class.clone(), queue.clone(), of_lane]);
    t.advance(30 * SECOND);
    assert_eq!(reasons(t, jobs[1]).await, [of_class.clone(), queue]);
    t.advance(30 * SECOND);
    assert_eq!(reasons(t, jobs[1]).await, [of_class]);
    t.advance(HOUR - MINUTE);
    assert!(explain(t, jobs[1]).await.is_ready);
    assert_eq!(claim_all(t).await, jobs[1..]);
}

async fn a_rate_of_the_calendar_says_when_its_window_ends(t: &mut Scene) {
    let zone = TimeZoneName::new("America/New_York").expect("a zone");
    let rate = Rate::calendar(1, CalendarUnit::Day, zone.clone());
    set_lane(t, "x/1", starts(&rate)).await;
    let jobs = t.put([in_lane(t, "x/1"), in_lane(t, "x/1")]).await;
    assert_eq!(claim_all(t).await.len(), 1);
    let until = zone.window(CalendarUnit::Day, t.clock()).end;
    assert_eq!(reasons(t, jobs[1]).await, [Reason::AtRate { of: Limited::Lane(lane("x/1")), rate, until }]);
    t.fixture.clock.set(until);
    assert!(explain(t, jobs[1]).await.is_ready);
}

async fn an_active_job_says_who_has_it_and_until_when(t: &mut Scene) {
    let id = t.put_one(t.spec().expires_in(MINUTE)).await;
    let since = t.clock();
    let claim = t.claim_one().await;
    t.advance(SECOND);
    t.renew(claim.lease).await;
    let worker = t.record(id).await.worker;
    assert!(worker.is_some());
    let lease_until = t.clock().after(TERM);
    let active = |cancel_requested| Reason::Active { since, worker: worker.clone(), lease_until, cancel_requested };
    assert_eq!(reasons(t, id).await, [active(false)]);
    t.act(id, Act::Cancel).await;
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    let told = explain(t, id).await;
    assert_eq!(told.reasons, [active(true)], "a pause is nothing to it");
    assert_eq!((told.place, told.expires_at), (None, None));
}

async fn an_ended_job_says_how_and_when(t: &mut Scene) {
    let ends = [
        (completed(), JobState::Completed, None),
        (abort(), JobState::Failed, Some(FailReason::Aborted)),
        (Outcome::Cancelled, JobState::Cancelled, None),
    ];
    for (outcome, state, failure) in ends {
        let id = t.run(t.spec(), outcome).await;
        let at = t.clock();
        t.advance(SECOND);
        assert_eq!(reasons(t, id).await, [Reason::Ended { state, at, failure }]);
    }
}

async fn all_reasons_are_named_in_their_order(t: &mut Scene) {
    let rate = Rate::sliding(1, HOUR);
    t.configure(|config| config.limits = StartLimits { concurrency: Some(1), rate: Some(rate.clone()) }).await;
    t.put_one(t.spec()).await;
    let until = t.clock().after(HOUR);
    let claim = t.claim_one().await;
    let id = t.put_one(t.spec().delay(MINUTE).expires_in(SECOND)).await;
    let (delayed_until, expired_at) = (t.clock().after(MINUTE), t.clock().after(SECOND));
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    t.advance(2 * SECOND);
    let expected = [
        Reason::Expired { at: expired_at },
        Reason::Paused { by: PausedBy::Queue },
        Reason::AtConcurrency { of: Limited::Queue, active: 1, most: 1 },
        Reason::AtRate { of: Limited::Queue, rate: rate.clone(), until },
        Reason::Delayed { until: delayed_until },
    ];
    assert_eq!(reasons(t, id).await, expected);
    t.settle(claim.lease, completed()).await;
    assert_eq!(reasons(t, id).await.len(), 4);
}

async fn a_job_says_how_many_are_ahead_of_it_and_how_many_lanes(t: &mut Scene) {
    let jobs = t.put(["a", "b", "", "c", "c", "c"].map(|name| in_lane(t, name))).await;
    let urgent = t.put_one(in_lane(t, "c").priority(1)).await;
    let place = |ahead, lanes_before, name| {
        let (ahead, lanes_before) = (Count::new(ahead), Count::new(lanes_before));
        Some(Place { line: Slot::Lane, lane: lane(name), ahead, lanes_before, room: None })
    };
    assert_eq!(explain(t, jobs[0]).await.place, place(0, 0, "a"));
    assert_eq!(explain(t, jobs[2]).await.place, place(0, 2, ""));
    assert_eq!(explain(t, jobs[5]).await.place, place(3, 3, "c"));
    assert_eq!(explain(t, urgent).await.place, place(0, 3, "c"));
    assert_eq!(t.claim(1).await.len(), 1);
    assert_eq!(explain(t, jobs[5]).await.place, place(3, 2, "c"));
    t.configure(|config| config.limits.concurrency = Some(3)).await;
    let room = explain(t, jobs[5]).await.place.map(|place| place.room);
    assert_eq!(room, Some(Some(2)));
}

async fn a_lane_that_is_set_aside_comes_after_all_others(t: &mut Scene) {
    set_lane(t, "a", paused()).await;
    let jobs = t.put(["a", "b", "b", "c"].map(|name| in_lane(t, name))).await;
    assert_eq!(t.claim(1).await.len(), 1);
    let before = |told: Explanation| told.place.map(|place| place.lanes_before);
    assert_eq!(before(explain(t, jobs[0]).await), Some(Count::new(2)));
    assert_eq!(before(explain(t, jobs[2]).await), Some(Count::new(0)));
}

async fn a_long_line_is_counted_up_to_a_bound(t: &mut Scene) {
    t.put_many(COUNTED_MAX as usize - 1).await;
    let ids = t.put([t.spec(), t.spec(), t.spec()]).await;
    let exact = Some(COUNTED_MAX - 1);
    for (id, expected) in ids.iter().zip([exact, None, None]) {
        let told = explain(t, *id).await;
        let ahead = told.place.as_ref().map(|place| place.ahead).expect("a place");
        assert_eq!(ahead.exact(), expected);
        assert_eq!(told.to_string().contains("1,000 or more jobs ahead"), expected.is_none(), "{told}");
        assert!(told.is_ready);
    }
}

async fn the_first_of_the_solo_line_is_ready(t: &mut Scene) {
    let jobs = t.put([t.spec().crashes(1), t.spec().crashes(1)]).await;
    let [first, second] = [explain(t, jobs[0]).await, explain(t, jobs[1]).await];
    assert!(first.is_ready && !second.is_ready && second.reasons.is_empty(), "{first} {second}");
    let place = second.place.expect("a place");
    assert_eq!((place.line, place.ahead), (Slot::Solo, Count::new(1)));
    assert_eq!(ids(&t.claim(10).await), jobs[..1]);
}

async fn those_ahead_may_use_up_the_room(t: &mut Scene) {
    let every = slots(2);
    t.configure(|config| config.lanes.every = every).await;
    let jobs = t.put_many(3).await;
    let told = explain(t, jobs[2]).await;
    assert!(!told.is_ready && told.reasons.is_empty(), "{told}");
    assert_eq!(told.place.and_then(|place| place.room), Some(2));
    assert!(explain(t, jobs[1]).await.is_ready);
    assert_eq!(claim_all(t).await, jobs[..2]);
    assert_eq!(reasons(t, jobs[2]).await.len(), 1);
}

async fn limits_hold_after_a_move(t: &mut Scene) {
    let every = slots(1);
    t.configure(|config| config.lanes.every = every).await;
    let jobs = t.put([in_lane(t, "x/1"), in_lane(t, "x/1")]).await;
    assert_eq!(claim_all(t).await.len(), 1);
    let to = t.another_store().await;
    to.fixture.clock.set(t.clock());
    let page = t.storage().dump(&t.queue, None, 100).await.expect("dump");
    to.storage().restore(&to.queue, page).await.expect("restore");
    assert_eq!(reasons(&to, jobs[1]).await, reasons(t, jobs[1]).await);
}

async fn a_clock_that_stepped_back_is_followed(t: &mut Scene) {
    t.configure(|config| config.limits.rate = Some(Rate::sliding(1, MINUTE))).await;
    let jobs = t.put_many(2).await;
    t.claim_one().await;
    t.fixture.clock.step_back(HOUR);
    let until = t.clock().after(MINUTE);
    assert_eq!(reasons(t, jobs[1]).await, [Reason::AtRate { of: Limited::Queue, rate: Rate::sliding(1, MINUTE), until }]);
    let lease = explain(t, jobs[0]).await;
    let lasts = matches!(lease.reasons[..], [Reason::Active { lease_until, .. }] if lease_until == t.clock().after(TERM));
    assert!(lasts, "{lease}");
}

async fn to_ask_changes_nothing(t: &mut Scene) {
    let every = slots(1);
    t.configure(|config| config.lanes.every = every).await;
    let jobs = [t.spec(), t.spec(), in_lane(t, "x/1"), t.spec().delay(HOUR), t.spec().expires_in(SECOND)];
    let jobs = t.put(jobs).await;
    claim_all(t).await;
    t.advance(MINUTE);
    let (dump, event) = (t.dump().await, t.last_event().await);
    for id in jobs {
        assert_eq!(explain(t, id).await, explain(t, id).await);
    }
    assert_eq!((t.dump().await, t.last_event().await), (dump, event));
    // Storage time did not go on either: a lag that is small by the last write is none.
    let now = t.storage().now(&t.queue).await.expect("now");
    t.fixture.clock.step_back(MINUTE / 2);
    assert_eq!(t.storage().now(&t.queue).await.expect("now"), now.before(MINUTE / 2));
}
