//! Moving a queue between stores: everything goes along, and order and fencing survive.

use ferroq_core::job::{JobRecord, LaneKey};

use super::lane_words::{ClassPolicy, LanePolicy, Rate, Say, StartLimits, paused, slots};
use super::prelude::*;

topic! {
    ($) transfer, __conformance_transfer:
    a_restored_queue_is_the_dumped_one,
    a_restored_queue_serves_in_the_same_order,
    an_active_job_keeps_its_lease,
    a_stale_lease_stays_stale,
    epochs_rise_beyond_the_restored_ones,
    new_jobs_come_after_the_restored_ones,
    keys_stay_held,
    a_restore_twice_changes_nothing,
    what_is_there_already_stays,
    a_taken_seq_refuses_the_whole_page,
    settings_and_keys_come_on_the_first_page_only,
    a_pause_goes_along,
    records_go_along_to_the_letter,
    policies_of_lanes_go_along,
    active_jobs_count_for_the_limits_of_their_lanes,
    starts_before_the_move_count_after_it,
    starts_from_a_later_clock_count_as_of_now,
    starts_from_later_in_the_day_count_until_it_ends,
    restored_settings_let_set_aside_lanes_take_their_turns,
    every_lane_is_served_after_the_move,
    a_policy_that_lets_nothing_start_refuses_the_page,
}

async fn restore(to: &Scene, page: DumpPage) -> RestoreAnswer {
    to.storage().restore(&to.queue, page).await.expect("restore")
}

/// Moves the scene's queue into a fresh store, in pages of `page`.
async fn moved(t: &Scene, page: usize) -> Scene {
    let to = t.another_store().await;
    to.fixture.clock.set(t.clock());
    let mut after = None;
    loop {
        let part = t.storage().dump(&t.queue, after, page).await.expect("dump");
        after = part.next;
        let jobs = part.jobs.len();
        assert_eq!(restore(&to, part).await, RestoreAnswer { restored: jobs, existing: 0 });
        if after.is_none() {
            audit(to.storage(), &to.queue).await;
            return to;
        }
    }
}

async fn populate(t: &Scene) {
    for outcome in [completed(), abort(), Outcome::Cancelled] {
        t.run(t.spec().dedup("gone", DedupMode::UntilFinished), outcome).await;
    }
    t.run(t.spec().dedup("kept", DedupMode::WhileKept).tag("x"), completed()).await;
    t.run(t.spec().options(|o| o.keep.completed = KeepFor::Remove).dedup("timed", DedupMode::For(DAY)), completed())
        .await;
    t.put([t.spec(), t.spec().lifo(), t.spec().priority(3), t.spec().delay(HOUR), t.spec().crashes(1)]).await;
    t.put_one(t.spec().of_kind("rare").priority(0)).await;
    assert_eq!(t.claim_as(ClaimSpec { alone: false, ..t.asking(1) }).await.claims, []);
    t.put_one(t.spec().priority(1)).await;
    assert_eq!(t.claim_as(ClaimSpec { alone: false, ..t.asking(1) }).await.claims.len(), 1);
    t.configure(|config| config.retention.failed.count = 12).await;
}

async fn a_restored_queue_is_the_dumped_one(t: &mut Scene) {
    populate(t).await;
    let dump = t.dump().await;
    for page in [1, 3, 1000] {
        assert_eq!(moved(t, page).await.dump().await, dump, "in pages of {page}");
    }
}

async fn a_restored_queue_serves_in_the_same_order(t: &mut Scene) {
    populate(t).await;
    let to = moved(t, 2).await;
    let asking = t.asking_for(&[KIND, "rare"], 1);
    for _ in 0..20 {
        let (here, there) = (t.claim_as(asking.clone()).await, to.claim_as(asking.clone()).await);
        assert_eq!(ids(&here.claims), ids(&there.claims));
        assert_eq!((here.more, here.look_again), (there.more, there.look_again));
        assert_eq!((here.solo_waiting, here.solo_held), (there.solo_waiting, there.solo_held));
    }
    assert_eq!(t.counts().await, to.counts().await);
}

async fn an_active_job_keeps_its_lease(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    let to = moved(t, 10).await;
    assert_eq!(to.renew(claims[0].lease).await, RenewAnswer::Renewed { cancel_requested: false });
    assert_eq!(to.settle(claims[0].lease, completed()).await, settled(JobState::Completed));
    assert_eq!(to.let_leases_expire().await.stalled, 1, "and loses it like any other");
}

async fn a_stale_lease_stays_stale(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let stale = t.claim_one().await.lease;
    t.let_leases_expire().await;
    t.claim_one().await;
    let to = moved(t, 10).await;
    assert_eq!(to.settle(stale, completed()).await, SettleAnswer::LeaseLost);
}

async fn epochs_rise_beyond_the_restored_ones(t: &mut Scene) {
    t.put_one(t.spec()).await;
    let claim = t.claim_one().await;
    t.settle(claim.lease, released()).await;
    let to = moved(t, 10).await;
    // The other store's clock may be behind.
    to.fixture.clock.step_back(DAY);
    assert!(to.claim_one().await.lease.epoch > claim.lease.epoch);
}

async fn new_jobs_come_after_the_restored_ones(t: &mut Scene) {
    t.put([t.spec(), t.spec(), t.spec().lifo(), t.spec().lifo()]).await;
    t.act(t.list(JobFilter::default(), 10).await[0].id(), Act::Remove).await;
    let to = moved(t, 10).await;
    let new = to.put([to.spec(), to.spec().lifo()]).await;
    let [ordinary, lifo] = [to.record(new[0]).await.seq, to.record(new[1]).await.seq];
    assert!(ordinary > 3 && lifo < -3, "{ordinary} {lifo}");
}

async fn keys_stay_held(t: &mut Scene) {
    populate(t).await;
    let to = moved(t, 2).await;
    for key in ["kept", "timed"] {
        let jobs = [t.spec().dedup(key, DedupMode::UntilFinished)];
        assert_eq!(to.enqueue(jobs.clone()).await, t.enqueue(jobs).await, "{key}");
    }
    to.put_one(t.spec().dedup("gone", DedupMode::UntilFinished)).await;
    to.advance(DAY);
    to.put_one(t.spec().dedup("timed", DedupMode::UntilFinished)).await;
}

async fn a_restore_twice_changes_nothing(t: &mut Scene) {
    populate(t).await;
    let to = moved(t, 1000).await;
    let page = t.storage().dump(&t.queue, None, 1000).await.expect("dump");
    let before = to.dump().await;
    let jobs = page.jobs.len();
    assert_eq!(restore(&to, page).await, RestoreAnswer { restored: 0, existing: jobs });
    assert_eq!(to.dump().await, before);
}

async fn what_is_there_already_stays(t: &mut Scene) {
    t.put([t.spec().dedup("k", DedupMode::UntilFinished), t.spec()]).await;
    let page = t.storage().dump(&t.queue, None, 1000).await.expect("dump");
    let to = moved(t, 1000).await;
    let claim = to.claim_one().await;
    to.settle(claim.lease, completed()).await;
    let before = to.dump().await;
    assert_eq!(before.dedup, []);
    let jobs_only = DumpPage { jobs: page.jobs, ..DumpPage::default() };
    assert_eq!(restore(&to, jobs_only).await, RestoreAnswer { restored: 0, existing: 2 });
    assert_eq!(to.dump().await, before, "a job that went on is not put back");
}

async fn a_taken_seq_refuses_the_whole_page(t: &mut Scene) {
    t.put_many(2).await;
    let dump = t.dump().await;
    let to = t.another_store().await;
    to.put_many(1).await;
    let before = to.dump().await;
    let page = DumpPage { jobs: dump.jobs, ..DumpPage::default() };
    let error = to.storage().restore(&to.queue, page).await.expect_err("seq 1 is taken");
    assert_eq!((error.code(), error.effect()), (ErrorCode::Invalid, Effect::None));
    assert_eq!(to.dump().await, before);
}

async fn settings_and_keys_come_on_the_first_page_only(t: &mut Scene) {
    t.put([1, 2, 3].map(|n| t.spec().dedup(&format!("key {n}"), DedupMode::WhileKept))).await;
    let first = t.storage().dump(&t.queue, None, 1).await.expect("dump");
    assert_eq!((first.config.is_some(), first.dedup.len(), first.jobs.len()), (true, 3, 1));
    let second = t.storage().dump(&t.queue, first.next, 1).await.expect("dump");
    assert_eq!((second.config, second.dedup, second.jobs.len()), (None, vec![], 1));
    let to = t.another_store().await;
    to.configure(|config| config.event_entries_kept = 321).await;
    restore(&to, DumpPage { jobs: second.jobs, ..DumpPage::default() }).await;
    assert_eq!(to.dump().await.config.event_entries_kept, 321, "a page without settings leaves them");
    to.act(to.dump().await.jobs[0].id(), Act::Remove).await;
}

async fn a_pause_goes_along(t: &mut Scene) {
    t.put_one(t.spec()).await;
    t.storage().set_paused(&t.queue, true).await.expect("set_paused");
    let to = moved(t, 10).await;
    assert!(to.counts().await.paused);
    assert_eq!(to.claim(1).await, []);
}

async fn records_go_along_to_the_letter(t: &mut Scene) {
    let id = t.put_one(t.spec().payload((0..=255).collect::<Vec<u8>>()).tag("a'\"%").attempts(9)).await;
    let claim = t.claim_one().await;
    let note = Note {
        progress: Some(ferroq_core::job::Progress { done: 1, total: u64::MAX >> 1, note: Some("x".to_owned()) }),
        log: vec!["a line".to_owned()],
        checkpoint: Some(Scene::bytes(&[0, 255])),
    };
    t.annotate(claim.lease, note).await;
    t.act(id, Act::Cancel).await;
    t.act(id, Act::SetPriority(Priority(255))).await;
    drop(t.storage().watch(&t.queue, id).await.expect("watch"));
    let active = t.record(id).await;
    let to = moved(t, 10).await;
    assert_eq!(to.record(id).await, active);
    // A record in a state that no caller can bring about yet goes along as well.
    let blocked = t.put_one(t.spec()).await;
    let record = JobRecord { state: JobState::Blocked, ..t.record(blocked).await };
    restore(&to, DumpPage { jobs: vec![record.clone()], ..DumpPage::default() }).await;
    assert_eq!(to.record(blocked).await, record);
    assert_eq!(to.counts().await.blocked, 1);
}

fn lane(name: &str) -> LaneKey {
    if name.is_empty() { LaneKey::DEFAULT } else { LaneKey::new(name).expect("a good lane") }
}

fn in_lane(t: &Scene, name: &str) -> JobSpec {
    JobSpec { lane: lane(name), ..t.spec() }
}

async fn set_lane(t: &Scene, name: &str, policy: LanePolicy) {
    t.storage().configure_lane(&t.queue, &lane(name), Some(policy)).await.expect("configure_lane");
}

async fn policies_of_lanes_go_along(t: &mut Scene) {
    t.put([in_lane(t, "x/held"), in_lane(t, ""), in_lane(t, "free")]).await;
    set_lane(t, "x/held", paused()).await;
    set_lane(t, "", LanePolicy { weight: Some(3), ..paused() }).await;
    set_lane(t, "nobody", slots(1)).await;
    let to = moved(t, 1).await;
    assert_eq!(to.dump().await, t.dump().await);
    let policies = to.storage().lane_policies(&to.queue, None, 10).await.expect("lane_policies");
    assert_eq!(policies.len(), 3);
    let claims = to.claim(10).await;
    assert_eq!(claims.iter().map(|claim| claim.spec.lane.name()).collect::<Vec<_>>(), [Some("free")]);
}

async fn active_jobs_count_for_the_limits_of_their_lanes(t: &mut Scene) {
    t.configure(|config| {
        config.lanes.every = slots(1);
        let total = StartLimits { concurrency: Some(2), rate: None };
        config.lanes.classes.insert("x".parse().expect("a class"), ClassPolicy { total, ..ClassPolicy::default() });
    })
    .await;
    let lanes = ["x/1", "x/2", "x/3", ""];
    t.put(lanes.iter().chain(&lanes).map(|name| in_lane(t, name))).await;
    let claims = t.claim(10).await;
    assert_eq!(claims.len(), 3, "two of the class, and one of the default lane");
    for page in [1, 100] {
        let to = moved(t, page).await;
        assert_eq!(to.claim(10).await, [], "in pages of {page}");
        let of_class = claims.iter().find(|claim| claim.spec.lane == lane("x/1")).expect("the lane's job");
        to.settle(of_class.lease, completed()).await;
        assert_eq!(to.claim(10).await.len(), 1, "its slot, and no other, is free");
    }
}

async fn starts_before_the_move_count_after_it(t: &mut Scene) {
    t.configure(|config| {
        config.limits.rate = Some(Rate::sliding(5, HOUR));
        config.lanes.every.rate = Say::Limit(Rate::sliding(2, MINUTE));
        let total = StartLimits { concurrency: None, rate: Some(Rate::sliding(3, 2 * MINUTE)) };
        config.lanes.classes.insert("x".parse().expect("a class"), ClassPolicy { total, ..ClassPolicy::default() });
    })
    .await;
    t.put(["x/1", "x/1", "x/1", "x/2", "x/2", ""].map(|name| in_lane(t, name))).await;
    assert_eq!(t.claim(10).await.len(), 4, "two of a lane, three of the class, and one of the default lane");
    let to = moved(t, 2).await;
    assert_eq!(to.dump().await.starts, t.dump().await.starts);
    let now = to.claim_as(to.asking(10)).await;
    assert_eq!((now.claims.len(), now.look_again), (0, Some(MINUTE)));
    to.advance(2 * MINUTE);
    assert_eq!(to.claim(10).await.len(), 1, "the queue's rate lets one more start");
    to.advance(HOUR - 2 * MINUTE);
    assert_eq!(to.claim(10).await.len(), 1, "the last one");
    let page = t.storage().dump(&t.queue, None, 1000).await.expect("dump");
    let before = to.dump().await.starts;
    restore(&to, DumpPage { jobs: Vec::new(), ..page }).await;
    assert_eq!(to.dump().await.starts, before, "what is remembered is not put back");
}

async fn starts_from_a_later_clock_count_as_of_now(t: &mut Scene) {
    t.configure(|config| config.limits.rate = Some(Rate::sliding(1, MINUTE))).await;
    t.put_many(2).await;
    t.claim_one().await;
    let page = t.storage().dump(&t.queue, None, 1000).await.expect("dump");
    let to = t.another_store().await;
    to.fixture.clock.set(t.clock().before(DAY));
    restore(&to, page).await;
    assert_eq!(to.claim_as(to.asking(1)).await.look_again, Some(MINUTE));
    to.advance(MINUTE);
    assert_eq!(to.claim(1).await.len(), 1);
}

async fn starts_from_later_in_the_day_count_until_it_ends(t: &mut Scene) {
    let daily = Rate::per_day(2).in_zone("UTC").expect("a zone");
    set_clock(t, "2026-06-10T23:59:00Z");
    t.configure(|config| config.limits.rate = Some(daily)).await;
    t.put_many(4).await;
    assert_eq!(t.claim(10).await.len(), 2);
    let page = t.storage().dump(&t.queue, None, 1000).await.expect("dump");
    let to = t.another_store().await;
    set_clock(&to, "2026-06-10T21:59:00Z");
    restore(&to, page).await;
    to.advance(MINUTE);
    let answer = to.claim_as(to.asking(10)).await;
    assert_eq!((answer.claims.len(), answer.look_again), (0, Some(2 * HOUR)));
    to.advance(2 * HOUR);
    assert_eq!(to.claim(10).await.len(), 2);
}

async fn restored_settings_let_set_aside_lanes_take_their_turns(t: &mut Scene) {
    let page = {
        t.configure(|config| config.lanes.quantum = 5).await;
        t.storage().dump(&t.queue, None, 1).await.expect("dump")
    };
    let to = t.another_store().await;
    to.put([in_lane(&to, "a"), in_lane(&to, "b")]).await;
    to.configure(|config| config.lanes.every.paused = true).await;
    assert_eq!(to.claim(10).await, []);
    restore(&to, page).await;
    assert_eq!(to.claim(10).await.len(), 2);
}

async fn every_lane_is_served_after_the_move(t: &mut Scene) {
    t.put(["", "a", "b/1", "", "b/2"].map(|name| in_lane(t, name))).await;
    for page in [1, 2, 100] {
        let to = moved(t, page).await;
        assert_eq!(to.claim(10).await.len(), 5, "in pages of {page}");
    }
}

async fn a_policy_that_lets_nothing_start_refuses_the_page(t: &mut Scene) {
    let policy = slots(0);
    let page = DumpPage { policies: vec![PolicyEntry { lane: lane("a"), policy }], ..DumpPage::default() };
    let error = t.storage().restore(&t.queue, page).await.expect_err("nothing could start");
    assert_eq!((error.code(), error.effect()), (ErrorCode::Invalid, Effect::None));
    assert_eq!(t.storage().queues().await.expect("queues"), []);
}
