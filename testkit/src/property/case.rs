//! Runs one case: makes its operations into calls on one store or several, and compares what they answer and hold with
//! the model or with each other. At the end, workers without faults work everything off.

use std::time::Duration;

use ferroq_core::Timestamp;
use ferroq_core::clock::{Clock, ManualClock};
use ferroq_core::job::{JobId, JobState, QueueName, Start};
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, LaneRules};
use ferroq_core::policy::retention::{KeepRule, Retention};
use ferroq_core::storage::{
    Act, ActRequest, Claim, EnqueueRequest, ExchangeRequest, JobFilter, Lease, ListCursor, MembersAnswer,
    MembersRequest, Note, Outcome, QueueConfig, REPEAT_MAX, RenewRequest, Selection, SettleAnswer, Settlement,
    SweepRequest,
};

use super::op::{ActDraft, LaneDraft, LimitDraft, NoteDraft, Op, Pass, SettleDraft, secs};
use super::world::{Names, World, gate, lane_policy, limits, outcome};
use crate::harness::Fixture;
use crate::invariants::{self, History, Step};
use crate::model::{Answer, Call, Model, QueueModel, Refusal, Snapshot, differences, walk};

/// After how many operations everything that a store holds is compared.
const SNAPSHOT_EVERY: usize = 4;
/// How many rounds the work that is left may take at the end.
const DRAIN_ROUNDS_MAX: usize = 3000;

/// One of the stores under test.
pub(super) struct Side {
    pub(super) name: String,
    pub(super) fixture: Fixture,
}

/// Runs a case on one store against the model, or on several against each other.
pub(super) struct Case {
    pub(super) sides: Vec<Side>,
    clocks: Vec<ManualClock>,
    pub(super) model: Model,
    pub(super) world: World,
    /// What was done, for a person to read.
    pub(super) told: Vec<String>,
}

/// 2026-11-01T03:00:00Z, an hour before a day of New York in which an hour is shown twice.
const BEGIN: Timestamp = Timestamp::from_micros(1_793_502_000_000_000);

pub(super) type Outcomes = Result<(), String>;

impl Case {
    pub(super) fn new(sides: Vec<Side>) -> Result<Case, String> {
        let names = Names::new().map_err(|error| error.to_string())?;
        let clocks: Vec<ManualClock> = sides.iter().map(|side| side.fixture.clock.clone()).collect();
        clocks.iter().for_each(|clock| clock.set(BEGIN));
        Ok(Case { sides, clocks, model: Model::new(), world: World::new(names), told: Vec::new() })
    }

    /// Runs all operations, compares, works off what is left, compares again, and checks the invariants.
    pub(super) async fn run(&mut self, ops: &[Op]) -> Outcomes {
        for (place, op) in ops.iter().enumerate() {
            self.told.push(format!("{place}. at {}:", self.now()));
            self.perform(op).await?;
            if place % SNAPSHOT_EVERY == SNAPSHOT_EVERY - 1 {
                self.compare_contents().await?;
            }
        }
        self.compare_contents().await?;
        self.check_invariants()?;
        self.told.push("the faults are gone, and everything is worked off".to_owned());
        self.drain().await?;
        self.compare_contents().await?;
        self.check_invariants()
    }

    /// Closes the stores, and hands out what was done and answered.
    pub(super) async fn close(self) -> History {
        for side in &self.sides {
            side.fixture.storage.close().await;
        }
        self.world.history
    }

    fn check_invariants(&self) -> Outcomes {
        match invariants::check_all(&self.world.history) {
            Ok(()) => Ok(()),
            Err(violations) => Err(violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clocks[0].now()
    }

    fn pass(&self, span: Duration) {
        self.clocks.iter().for_each(|clock| clock.advance(span));
    }

    /// Makes a call on every store and compares the answers.
    pub(super) async fn call(&mut self, call: Call, repeat: bool) -> Result<Answer, String> {
        let at = self.now();
        self.told.push(format!("   {}{call}", if repeat { "again: " } else { "" }));
        let mut answers = Vec::new();
        for side in &self.sides {
            answers.push(call.make(&*side.fixture.storage).await);
        }
        let predicted = self.model.check(at, &call, &answers[0]);
        if let [first, others @ ..] = self.sides.as_slice()
            && !others.is_empty()
        {
            for (other, answer) in others.iter().zip(&answers[1..]) {
                let differences = differences(&answers[0], answer);
                if !differences.is_empty() {
                    let what = format!("the answer to {} ({} and {})", call.name(), first.name, other.name);
                    return Err(Refusal { what, differences }.to_string());
                }
            }
        } else {
            predicted.map_err(|refusal| refusal.to_string())?;
        }
        let answer = answers.swap_remove(0);
        self.world.note(at, &call, &answer);
        self.world.history.call(at, call, answer.clone(), repeat);
        Ok(answer)
    }

    /// Lets every lane of a queue go on. Its limits stay: work must come to an end under them.
    async fn resume_lanes(&mut self, queue: &QueueName) -> Outcomes {
        let mut config = self.config(queue);
        config.lanes.every.paused = false;
        config.lanes.classes.values_mut().for_each(|class| class.each.paused = false);
        self.call(Call::Configure { queue: queue.clone(), config }, false).await?;
        for (lane, mut policy) in self.model.queue(queue).map(|queue| queue.lane_policies()).unwrap_or_default() {
            policy.paused = false;
            self.call(Call::ConfigureLane { queue: queue.clone(), lane, policy: Some(policy) }, false).await?;
        }
        Ok(())
    }

    async fn compare_contents(&mut self) -> Outcomes {
        let mut snapshots = Vec::new();
        for side in &self.sides {
            let snapshot = Snapshot::take(&*side.fixture.storage).await;
            snapshots.push(snapshot.map_err(|error| format!("reading all of {}: {error}", side.name))?);
        }
        let first = snapshots.swap_remove(0);
        if snapshots.is_empty() {
            self.model.check_snapshot(&first).map_err(|refusal| refusal.to_string())?;
        }
        for (snapshot, side) in snapshots.iter().zip(&self.sides[1..]) {
            compare_sides(&self.sides[0].name, &first, &side.name, snapshot)?;
        }
        self.world.history.seen(first);
        Ok(())
    }

    async fn perform(&mut self, op: &Op) -> Outcomes {
        match op {
            Op::Enqueue { queue, jobs } => {
                let queue = self.world.names.queue(*queue);
                let jobs = jobs.iter().map(|draft| self.world.make(&queue, draft)).collect();
                let call = self.world.call_id();
                self.call(Call::Enqueue(EnqueueRequest { call, queue, jobs }), false).await?;
            }
            Op::EnqueueAlike { queue, job, number } => {
                let queue = self.world.names.queue(*queue);
                let jobs = (0..*number).map(|_| self.world.make(&queue, job)).collect();
                let call = self.world.call_id();
                self.call(Call::Enqueue(EnqueueRequest { call, queue, jobs }), false).await?;
            }
            Op::EnqueueAgain { jobs } => {
                let Some(first) = jobs.first().and_then(|place| self.world.job(*place)) else { return Ok(()) };
                let queue = first.queue.clone();
                let jobs = jobs.iter().filter_map(|place| self.world.job(*place));
                let jobs = jobs.filter(|job| job.queue == queue).collect();
                self.call(Call::Enqueue(EnqueueRequest { call: None, queue, jobs }), false).await?;
            }
            Op::Exchange { queue, settle, claim } => {
                let (queue, settlements) = self.settlements(*queue, settle);
                let claim = claim.as_ref().map(|draft| self.world.claim(draft));
                if settlements.is_empty() && claim.is_none() {
                    return Ok(());
                }
                let call = self.world.call_id();
                self.call(Call::Exchange(ExchangeRequest { call, queue, settlements, claim }), false).await?;
            }
            Op::Renew { leases, term } => {
                let leases: Vec<_> = leases.iter().filter_map(|pick| self.world.lease(*pick)).collect();
                let Some((queue, _)) = leases.first().cloned() else { return Ok(()) };
                let leases = leases.into_iter().map(|(_, lease)| lease).collect();
                self.call(Call::Renew(RenewRequest { queue, leases, term: secs(*term) }), false).await?;
            }
            Op::Annotate { notes } => {
                let picked = notes.iter().filter_map(|(pick, draft)| Some((self.world.lease(*pick)?, note(draft))));
                let picked: Vec<_> = picked.collect();
                let Some(((queue, _), _)) = picked.first().cloned() else { return Ok(()) };
                let notes = picked.into_iter().map(|((_, lease), note)| (lease, note)).collect();
                self.call(Call::Annotate { queue, notes }, false).await?;
            }
            Op::Gather { lease, max_items } => {
                let Some((queue, lease)) = self.world.lease(*lease) else { return Ok(()) };
                self.call(Call::Gather { queue, lease, max_items: usize::from(*max_items) }, false).await?;
            }
            Op::Members { lease, after, max_items, max_bytes } => {
                let Some((queue, lease)) = self.world.lease(*lease) else { return Ok(()) };
                let max_bytes = if *max_bytes == u16::MAX { usize::MAX } else { usize::from(*max_bytes) };
                let max_items = usize::from(*max_items).max(1);
                let request = MembersRequest { queue, lease, after: after.map(i64::from), max_items, max_bytes };
                self.call(Call::Members(request), false).await?;
            }
            Op::Sweep { queue, max_items } => {
                self.sweep(self.world.names.queue(*queue), usize::from(*max_items)).await?;
            }
            Op::Act { jobs, act } => {
                let Some(first) = jobs.first().and_then(|place| self.world.job(*place)) else { return Ok(()) };
                let on = Selection::Ids(jobs.iter().filter_map(|p| self.world.job(*p)).map(|job| job.id).collect());
                let call = self.world.call_id();
                let request = ActRequest { call, queue: first.queue.clone(), on, act: act_of(act) };
                self.call(Call::Act { request, order: Vec::new() }, false).await?;
            }
            Op::ActFilter { queue, states, kind, tag, ended_before, max_items, go_on, act } => {
                let filter = JobFilter {
                    states: JobState::ALL.into_iter().filter(|state| states & (1 << state.number()) != 0).collect(),
                    kind: kind.map(|kind| self.world.names.kind(kind)),
                    lane: None,
                    tag: tag.map(|tag| self.world.names.tag(tag)),
                    ended_before: ended_before.map(secs),
                };
                self.act_filter(self.world.names.queue(*queue), filter, usize::from(*max_items), *go_on, act).await?;
            }
            Op::Pause { queue, paused } => {
                let queue = self.world.names.queue(*queue);
                self.call(Call::SetPaused { queue, paused: *paused }, false).await?;
            }
            Op::Configure { queue, rules } => {
                let queue = self.world.names.queue(*queue);
                let [completed, failed, cancelled] =
                    rules.map(|(age, count)| KeepRule { age: secs(age), count: u64::from(count) });
                let mut config = self.config(&queue);
                config.retention = Retention { completed, failed, cancelled };
                self.call(Call::Configure { queue, config }, false).await?;
            }
            Op::Reconfigure { queue, rules, stale } => {
                let queue = self.world.names.queue(*queue);
                if self.clock_lags(&queue) {
                    return Ok(());
                }
                let [completed, failed, cancelled] =
                    rules.map(|(age, count)| KeepRule { age: secs(age), count: u64::from(count) });
                let (mut from, mut to) = (self.config(&queue), self.config(&queue));
                from.event_entries_kept += u64::from(*stale);
                to.retention = Retention { completed, failed, cancelled };
                self.call(Call::Reconfigure { queue, from: from.into(), to: to.into() }, false).await?;
            }
            Op::DeadLetter { queue, on } => {
                let queue = self.world.names.queue(*queue);
                let mut config = self.config(&queue);
                config.dead_letter = on.then(|| self.world.names.other(&queue));
                self.call(Call::Configure { queue, config }, false).await?;
            }
            Op::Redrive { jobs } => {
                let there = self.model.records().filter(|(_, job)| job.spec.origin.is_some());
                let there: Vec<_> = there.map(|(queue, job)| (queue.clone(), job.id())).collect();
                let mut picked = jobs.iter().filter_map(|place| there.get(usize::from(*place) % there.len().max(1)));
                let Some((queue, first)) = picked.next().cloned() else { return Ok(()) };
                let others = picked.filter(|(name, _)| *name == queue).map(|(_, id)| *id);
                let on = Selection::Ids([first].into_iter().chain(others).collect());
                let request = ActRequest { call: self.world.call_id(), queue, on, act: Act::Redrive };
                self.call(Call::Act { request, order: Vec::new() }, false).await?;
            }
            Op::Limit { queue, whole, quantum, every, each, class: total, other } => {
                let queue = self.world.names.queue(*queue);
                let mut config = self.config(&queue);
                config.limits = limits(*whole).map_err(illegal)?;
                let of_class = |(total, each): (LimitDraft, LaneDraft)| {
                    let (each, total) = (lane_policy(each).map_err(illegal)?, limits(total).map_err(illegal)?);
                    Ok::<_, String>(ClassPolicy { each, total })
                };
                let [class, another] = self.world.names.classes();
                let classes = [(class, of_class((*total, *each))?), (another, of_class(*other)?)];
                config.lanes = LaneRules {
                    quantum: u32::from(*quantum).max(1),
                    every: lane_policy(*every).map_err(illegal)?,
                    classes: classes.into(),
                };
                self.call(Call::Configure { queue, config }, false).await?;
            }
            Op::Gate { queue, batch } => {
                let queue = self.world.names.queue(*queue);
                let mut config = self.config(&queue);
                config.lanes.every.batch = gate(*batch, false);
                self.call(Call::Configure { queue, config }, false).await?;
            }
            Op::LanePolicy { queue, lane, policy } => {
                let (queue, lane) = (self.world.names.queue(*queue), self.world.names.lane(*lane));
                let policy = policy.map(lane_policy).transpose().map_err(illegal)?;
                self.call(Call::ConfigureLane { queue, lane, policy }, false).await?;
            }
            Op::LanePolicyFrom { queue, lane, policy, stale } => {
                let (queue, lane) = (self.world.names.queue(*queue), self.world.names.lane(*lane));
                if self.clock_lags(&queue) {
                    return Ok(());
                }
                let to = policy.map(lane_policy).transpose().map_err(illegal)?;
                let mut from = self.model.queue(&queue).and_then(|queue| queue.lane_policy(&lane));
                if *stale {
                    from = Some(LanePolicy { weight: Some(77), ..from.unwrap_or_default() });
                }
                self.call(Call::ReconfigureLane { queue, lane, from, to }, false).await?;
            }
            Op::Watch { job } => {
                let Some(job) = self.world.job(*job) else { return Ok(()) };
                self.call(Call::Watch { queue: job.queue.clone(), id: job.id }, false).await?;
            }
            Op::Explain { job, claim } => self.explain(*job, *claim).await?,
            Op::Obliterate { queue, force, max_items } => {
                let queue = self.world.names.queue(*queue);
                if self.clock_lags(&queue) {
                    return Ok(());
                }
                let Some(order) = self.walk(&queue, &[], None).await? else { return Ok(()) };
                self.world.cursors.retain(|(name, ..)| *name != queue);
                let (force, max_items) = (*force, usize::from(*max_items));
                self.call(Call::Obliterate { queue, force, max_items, order }, false).await?;
            }
            Op::Acquire { limiter, rate, permits } => self.acquire(*limiter, rate, *permits).await?,
            Op::AcquireAgain { back } => self.acquire_again(*back).await?,
            Op::ResetLimiter { limiter } => self.reset_limiter(*limiter).await?,
            Op::Advance(pass) => self.advance(pass),
            Op::Lapse { queue } => self.lapse(self.world.names.queue(*queue)).await?,
            Op::StepBack => {
                self.forget_gone_limiters().await?;
                self.told.push("   the clock goes back by an hour".to_owned());
                self.clocks.iter().for_each(|clock| clock.step_back(secs(3600u64)));
            }
            Op::Reopen => self.reopen().await,
            Op::Repeat { back } => {
                let calls = &self.world.repeatable;
                let Some(place) = calls.len().checked_sub(1 + usize::from(*back)) else { return Ok(()) };
                let (at, call) = calls[place].clone();
                if self.now().since(at) > REPEAT_MAX {
                    return Ok(());
                }
                let kept = self.world.repeatable.clone();
                self.call(call, true).await?;
                // A repeat is not a call of its own: what can be repeated is what could be before.
                self.world.repeatable = kept;
            }
        }
        Ok(())
    }

    /// The settings that a queue has now.
    fn config(&self, queue: &QueueName) -> QueueConfig {
        self.model.queue(queue).map(|queue| queue.config.clone()).unwrap_or_default()
    }

    fn settlements(&mut self, queue: u8, drafts: &[SettleDraft]) -> (QueueName, Vec<Settlement>) {
        let picked: Vec<_> =
            drafts.iter().filter_map(|draft| self.world.lease(draft.lease).map(|lease| (lease, draft))).collect();
        let queue = match picked.first() {
            Some(((queue, _), _)) => queue.clone(),
            None => self.world.names.queue(queue),
        };
        let mut settlements = Vec::new();
        for ((_, lease), draft) in picked {
            let follow_ups = self.world.follow_ups(&queue, &draft.follow_ups);
            settlements.push(Settlement { lease, outcome: outcome(&draft.outcome), follow_ups });
        }
        (queue, settlements)
    }

    async fn act_filter(
        &mut self,
        queue: QueueName,
        filter: JobFilter,
        max_items: usize,
        go_on: bool,
        act: &ActDraft,
    ) -> Outcomes {
        if self.clock_lags(&queue) {
            return Ok(());
        }
        let place = self.world.cursors.iter().position(|(name, ..)| *name == queue).filter(|_| go_on);
        let (states, after) = match place.map(|place| self.world.cursors.remove(place)) {
            Some((_, states, cursor)) => (states, Some(cursor)),
            None => (filter.states.clone(), None),
        };
        let Some(order) = self.walk(&queue, &states, after).await? else { return Ok(()) };
        let filter = JobFilter { states: states.clone(), ..filter };
        let on = Selection::Filter { filter, after, max_items };
        let request = ActRequest { call: self.world.call_id(), queue: queue.clone(), on, act: act_of(act) };
        let answer = self.call(Call::Act { request, order }, false).await?;
        if let Answer::Act(report) = answer
            && let Some(next) = report.next
            && self.sides.len() == 1
        {
            self.world.cursors.push((queue, states, next));
        }
        Ok(())
    }

    /// Whether the queue's next call finds that the clock stepped back. It then gives every lease its full term before
    /// all else, so the order in which jobs are walked over before the call is not the one that the call finds.
    fn clock_lags(&self, queue: &QueueName) -> bool {
        self.model.queue(queue).is_some_and(|queue| queue.time_at(self.now()) < queue.now())
    }

    /// The order in which the store walks over these jobs; `None` if several stores differ in what is left to them.
    async fn walk(
        &self,
        queue: &QueueName,
        states: &[JobState],
        after: Option<ListCursor>,
    ) -> Result<Option<Vec<JobId>>, String> {
        let mut walks = Vec::new();
        for side in &self.sides {
            let walked = walk(&*side.fixture.storage, queue, states, after).await;
            walks.push(walked.map_err(|error| format!("listing {}: {error}", side.name))?);
        }
        let first = walks.swap_remove(0);
        if walks.is_empty() {
            self.model.check_walk(queue, states, after, &first).map_err(|refusal| refusal.to_string())?;
        }
        Ok(walks.iter().all(|walk| *walk == first).then_some(first))
    }

    /// The leases of the members of a batch that this claim leads.
    async fn members(&mut self, queue: &QueueName, claim: &Claim) -> Result<Vec<Lease>, String> {
        let mut leases = Vec::new();
        if claim.batch.is_none() {
            return Ok(leases);
        }
        let mut after = None;
        loop {
            let (lease, max_bytes) = (claim.lease, usize::MAX);
            let request = MembersRequest { queue: queue.clone(), lease, after, max_items: 50, max_bytes };
            let Answer::Members(MembersAnswer::Page(page)) = self.call(Call::Members(request), false).await? else {
                return Err("a leader that was just claimed has no members' page".to_owned());
            };
            leases.extend(page.members.iter().map(|member| member.lease));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(leases),
            }
        }
    }

    async fn sweep(&mut self, queue: QueueName, max_items: usize) -> Result<Answer, String> {
        self.call(Call::Sweep(SweepRequest { queue, max_items }), false).await
    }

    fn advance(&mut self, pass: &Pass) {
        let span = match pass {
            Pass::Seconds(seconds) => secs(*seconds),
            Pass::Hours(hours) => secs(3600 * u64::from(*hours)),
            Pass::ToNext(queue, by) => {
                let next = self.model.queue(&self.world.names.queue(*queue)).and_then(|queue| queue.next_instant());
                let to = next.map(|at| Timestamp::from_micros(at.as_micros().saturating_add(i64::from(*by))));
                to.map_or(Duration::ZERO, |at| at.since(self.now()))
            }
        };
        self.pass(span);
        self.told.push(format!("   {span:?} pass"));
    }

    /// Nobody renews, but sweeps attend often enough that leases are not extended: they run out.
    async fn lapse(&mut self, queue: QueueName) -> Outcomes {
        for _ in 0..8 {
            let Some(term) = self.model.queue(&queue).and_then(|queue| queue.shortest_term()) else { return Ok(()) };
            self.pass(term / 2);
            self.told.push(format!("   {:?} pass", term / 2));
            if let Answer::Sweep(swept) = self.sweep(queue.clone(), 200).await?
                && swept.stalled > 0
            {
                break;
            }
        }
        Ok(())
    }

    async fn reopen(&mut self) {
        let mut all = true;
        for side in &self.sides {
            all &= side.fixture.can_reopen();
        }
        // Several stores go through the same, or their call ids would mean different things.
        if !all {
            return;
        }
        self.told.push("   the store is closed and opened again".to_owned());
        for side in &mut self.sides {
            side.fixture.reopen().await;
        }
        self.model.reopen();
        self.world.new_session();
        self.world.history.steps.push(Step::Reopened);
    }

    /// Works off everything: workers that handle every kind, succeed, and are never too late.
    async fn drain(&mut self) -> Outcomes {
        // The first once more, because what fails in the last may leave copies in it.
        let queues = self.world.names.queues();
        for queue in queues.iter().chain(queues.first()).cloned().collect::<Vec<_>>() {
            self.call(Call::SetPaused { queue: queue.clone(), paused: false }, false).await?;
            self.resume_lanes(&queue).await?;
            let mut settlements = Vec::new();
            for _ in 0..DRAIN_ROUNDS_MAX {
                let call = self.world.call_id();
                let claim = Some(self.world.claim_all());
                let settle = std::mem::take(&mut settlements);
                let request = ExchangeRequest { call, queue: queue.clone(), settlements: settle, claim };
                let Answer::Exchange(answer) = self.call(Call::Exchange(request), false).await? else {
                    return Err("an exchange had no answer of its own".to_owned());
                };
                if answer.settled.iter().any(|answer| !matches!(answer, SettleAnswer::Settled { .. })) {
                    return Err(format!("a run that was on time was not settled: {:?}", answer.settled));
                }
                let claimed = answer.claimed.unwrap_or_default();
                for claim in &claimed.claims {
                    // The members first, as a worker does: the leader's lease is what they are settled under.
                    for lease in self.members(&queue, claim).await? {
                        let outcome = Outcome::Completed { result: None };
                        settlements.push(Settlement { lease, outcome, follow_ups: Vec::new() });
                    }
                    let outcome = Outcome::Completed { result: None };
                    settlements.push(Settlement { lease: claim.lease, outcome, follow_ups: Vec::new() });
                }
                if !settlements.is_empty() || claimed.more {
                    continue;
                }
                let swept = self.sweep(queue.clone(), 200).await?;
                let lost_some = matches!(swept, Answer::Sweep(swept) if swept.stalled > 0 || swept.failed > 0);
                let active = self.model.queue(&queue).is_some_and(|queue| queue.shortest_term().is_some());
                match claimed.look_again {
                    // Step by step while others hold leases, so that these are lost and not extended.
                    _ if active => self.pass(secs(4u64)),
                    Some(wait) => self.pass(wait),
                    // One may have come to the solo line after the claim had looked there.
                    None if self.model.queue(&queue).is_some_and(QueueModel::has_solo) || lost_some => {}
                    None => break,
                }
            }
        }
        self.world.history.steps.push(Step::Drained);
        Ok(())
    }
}

fn illegal(error: ferroq_core::policy::rate::RateError) -> String {
    format!("a case drew an illegal rate: {error}")
}

fn compare_sides(a: &str, first: &Snapshot, b: &str, second: &Snapshot) -> Outcomes {
    let names: Vec<_> = first.queues.keys().collect();
    let others: Vec<_> = second.queues.keys().collect();
    if names != others {
        return Err(format!("{a} has the queues {names:?}, and {b} has {others:?}"));
    }
    for (name, queue) in &first.queues {
        let differences = queue.differences(&second.queues[name]);
        if !differences.is_empty() {
            let what = format!("the content of queue {name:?} ({a} and {b})");
            return Err(Refusal { what, differences }.to_string());
        }
    }
    Ok(())
}

fn note(draft: &NoteDraft) -> Note {
    Note {
        progress: draft.progress.map(|done| ferroq_core::job::Progress {
            done: u64::from(done),
            total: 100,
            note: None,
        }),
        log: (0..draft.lines).map(|line| format!("line {line}")).collect(),
        checkpoint: draft.checkpoint.map(|bytes| ferroq_core::Payload::json(vec![b'7'; usize::from(bytes)])),
    }
}

fn act_of(draft: &ActDraft) -> Act {
    match draft {
        ActDraft::Cancel => Act::Cancel,
        ActDraft::Retry(reset) => Act::Retry { reset: *reset },
        ActDraft::Promote => Act::Promote,
        ActDraft::Reschedule(0) => Act::Reschedule(Start::Now),
        ActDraft::Reschedule(seconds) => Act::Reschedule(Start::After(secs(*seconds))),
        ActDraft::SetPriority(priority) => Act::SetPriority(ferroq_core::Priority(*priority)),
        ActDraft::Remove => Act::Remove,
        ActDraft::Redrive => Act::Redrive,
    }
}
