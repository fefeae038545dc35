//! Whether the calls about one job can have taken effect one after another. The search tries, again and again, every
//! call that nothing still open must precede, and follows those whose answers the state machine gives; a lost lease is a
//! step that some sweep may have made, because its answer does not name the jobs. The epochs in the answers leave
//! little choice, so the search is short.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use ferroq_core::job::{JobRecord, JobSpec, JobState};
use ferroq_core::policy::retention::KeepFor;
use ferroq_core::storage::{Act, ActAnswer, Claim, NoteAnswer, Outcome, RenewAnswer, SettleAnswer};

/// What a call did to a job, or said about it.
#[derive(Clone, Debug)]
pub enum What {
    /// It was inserted.
    Inserted,
    /// It was there already when it was enqueued.
    There,
    /// An enqueue under its dedup key changed it: it got the payload, or counts one more.
    Changed,
    /// It was handed out.
    Claimed(Claim),
    /// A run was settled, or not.
    Settled {
        /// The lease's epoch.
        epoch: i64,
        /// What the run ended in.
        outcome: Outcome,
        /// The answer.
        answer: SettleAnswer,
    },
    /// A lease was renewed, or not.
    Renewed {
        /// The lease's epoch.
        epoch: i64,
        /// The answer.
        answer: RenewAnswer,
    },
    /// A note was written, or not.
    Noted {
        /// The lease's epoch.
        epoch: i64,
        /// The answer.
        answer: NoteAnswer,
    },
    /// An operator's act.
    Acted {
        /// Which.
        act: Act,
        /// The answer.
        answer: ActAnswer,
    },
    /// Its lease was lost to a sweep; it may or may not have been this job's.
    Lost,
}

/// A call about a job.
#[derive(Clone, Debug)]
pub struct JobCall {
    /// Which task made it.
    pub task: usize,
    /// When it was made.
    pub made: u64,
    /// When it was answered.
    pub answered: u64,
    /// Its place among the parts of one call that are about this job.
    pub part: usize,
    /// What it was.
    pub what: What,
}

/// Everything about one job.
#[derive(Clone, Debug)]
pub struct JobHistory {
    /// The job.
    pub spec: Arc<JobSpec>,
    /// The calls about it, in the order of their making.
    pub calls: Vec<JobCall>,
    /// The sweeps that took leases of some jobs.
    pub sweeps: Vec<JobCall>,
    /// What was left of it.
    pub end: Option<JobRecord>,
}

impl JobHistory {
    /// How many times it was handed out.
    pub fn claims(&self) -> u64 {
        self.calls.iter().filter(|call| matches!(call.what, What::Claimed(_))).count() as u64
    }
}

/// No order of the calls explains their answers.
#[derive(Clone, Debug)]
pub struct Unexplained {
    history: JobHistory,
    explained: usize,
}

impl fmt::Display for Unexplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobHistory { spec, calls, sweeps, end } = &self.history;
        writeln!(
            f,
            "no order explains the calls about {} (attempts {}, crashes {}, {:?}); at most {} of {} can be:",
            spec.id,
            spec.options.max_attempts,
            spec.options.max_crashes,
            spec.options.keep,
            self.explained,
            calls.len()
        )?;
        let mut all: Vec<&JobCall> = calls.iter().chain(sweeps).collect();
        all.sort_by_key(|call| (call.made, call.part));
        for call in all {
            writeln!(f, "  {:>5} to {:<5} task {}: {:?}", call.made, call.answered, call.task, call.what)?;
        }
        match end {
            Some(job) => write!(
                f,
                "  at the end: {}, epoch {}, runs {}, attempts {}, crashes {}",
                job.state, job.epoch, job.runs, job.attempts, job.crashes
            ),
            None => write!(f, "  at the end: gone"),
        }
    }
}

/// A job, as far as the answers depend on it. Waiting and Delayed are one: time passes unrecorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Standing {
    /// `None`: there is no record.
    state: Option<Stage>,
    epoch: i64,
    /// Whether the lease of that epoch was lost, which raised the epoch to one that no answer names.
    lost: bool,
    attempts: u32,
    crashes: u32,
    runs: u32,
    cancel_requested: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    InLine,
    Active,
    Ended(JobState),
}

fn stage(state: JobState) -> Stage {
    match state {
        JobState::Waiting | JobState::Delayed | JobState::Blocked => Stage::InLine,
        JobState::Active => Stage::Active,
        ended => Stage::Ended(ended),
    }
}

/// Looks for an order of a job's calls that explains every answer and what was left at the end.
///
/// # Errors
/// The longest explanation that was found, if there is no whole one.
pub fn explain(history: &JobHistory) -> Result<(), Box<Unexplained>> {
    let mut search = Search { history, seen: HashSet::new(), most: 0 };
    let none = (vec![false; history.calls.len()], vec![false; history.sweeps.len()]);
    if search.go(none.0, none.1, Standing::default()) {
        return Ok(());
    }
    Err(Box::new(Unexplained { history: history.clone(), explained: search.most }))
}

struct Search<'a> {
    history: &'a JobHistory,
    seen: HashSet<(Vec<bool>, Vec<bool>, Standing)>,
    most: usize,
}

impl Search<'_> {
    fn go(&mut self, done: Vec<bool>, swept: Vec<bool>, standing: Standing) -> bool {
        if !self.seen.insert((done.clone(), swept.clone(), standing)) {
            return false;
        }
        let calls = &self.history.calls;
        let open = |place: &usize| !done[*place];
        self.most = self.most.max(done.iter().filter(|done| **done).count());
        if done.iter().all(|done| *done) && fits_end(&standing, self.history.end.as_ref()) {
            return true;
        }
        // Nothing can come next that was made only after an open call was answered.
        let first_answer = (0..calls.len()).filter(open).map(|place| calls[place].answered).min().unwrap_or(u64::MAX);
        let last_made = (0..calls.len()).filter(|place| !open(place)).map(|place| calls[place].made).max().unwrap_or(0);
        for place in (0..calls.len()).filter(open).collect::<Vec<_>>() {
            let call = &calls[place];
            let part_before =
                (0..calls.len()).filter(open).any(|p| calls[p].made == call.made && calls[p].part < call.part);
            if call.made > first_answer || part_before {
                continue;
            }
            if let Some(next) = step(standing, &self.history.spec, &call.what) {
                let mut done = done.clone();
                done[place] = true;
                if self.go(done, swept.clone(), next) {
                    return true;
                }
            }
        }
        for (place, sweep) in self.history.sweeps.iter().enumerate() {
            // A sweep that was answered before a call that is already in the order was made comes too early.
            if swept[place] || sweep.made > first_answer || sweep.answered < last_made {
                continue;
            }
            if let Some(next) = step(standing, &self.history.spec, &sweep.what) {
                let mut swept = swept.clone();
                swept[place] = true;
                if self.go(done.clone(), swept, next) {
                    return true;
                }
            }
        }
        false
    }
}

fn fits_end(standing: &Standing, end: Option<&JobRecord>) -> bool {
    match end {
        None => standing.state.is_none(),
        Some(job) => {
            standing.state == Some(stage(job.state))
                && (job.epoch == standing.epoch) != standing.lost
                && job.epoch >= standing.epoch
                && (job.attempts, job.crashes, job.runs) == (standing.attempts, standing.crashes, standing.runs)
                && job.cancel_requested == standing.cancel_requested
        }
    }
}

/// The job after a call, if the call can have answered as it did.
fn step(now: Standing, spec: &JobSpec, what: &What) -> Option<Standing> {
    let stays = |right: bool| right.then_some(now);
    let current = |epoch: i64| now.state == Some(Stage::Active) && now.epoch == epoch && !now.lost;
    match what {
        What::Inserted => now.state.is_none().then(|| Standing { state: Some(Stage::InLine), ..Standing::default() }),
        What::There => stays(now.state.is_some()),
        What::Changed => stays(now.state == Some(Stage::InLine) && now.runs == 0),
        What::Claimed(claim) => {
            let right = now.state == Some(Stage::InLine)
                && claim.lease.epoch > now.epoch
                && (claim.attempts, claim.crashes, claim.run) == (now.attempts, now.crashes, now.runs + 1);
            let epoch = claim.lease.epoch;
            let runs = now.runs + 1;
            right.then_some(Standing { state: Some(Stage::Active), epoch, lost: false, runs, ..now })
        }
        What::Settled { epoch, outcome, answer } => match answer {
            SettleAnswer::Gone => stays(now.state.is_none()),
            SettleAnswer::LeaseLost => stays(now.state.is_some() && (now.epoch != *epoch || now.lost)),
            SettleAnswer::AlreadyDone => {
                let ran = now.state.is_some() && now.state != Some(Stage::Active);
                stays(ran && now.epoch == *epoch && !now.lost)
            }
            SettleAnswer::Settled { state, .. } => {
                let next = settled(now, spec, outcome);
                let said = Some(stage(*state)) == next.state;
                (current(*epoch) && said).then(|| kept(next, spec))
            }
        },
        What::Renewed { epoch, answer } => match answer {
            RenewAnswer::Gone => stays(now.state.is_none()),
            RenewAnswer::LeaseLost => stays(now.state.is_some() && !current(*epoch)),
            RenewAnswer::Renewed { cancel_requested } => {
                stays(current(*epoch) && *cancel_requested == now.cancel_requested)
            }
        },
        What::Noted { epoch, answer } => match answer {
            NoteAnswer::Gone => stays(now.state.is_none()),
            NoteAnswer::LeaseLost => stays(now.state.is_some() && !current(*epoch)),
            NoteAnswer::Noted => stays(current(*epoch)),
        },
        What::Acted { act, answer } => acted(now, spec, act, *answer),
        What::Lost => {
            if now.state != Some(Stage::Active) {
                return None;
            }
            let crashes = now.crashes + 1;
            let state = if now.cancel_requested {
                Stage::Ended(JobState::Cancelled)
            } else if crashes >= spec.options.max_crashes {
                Stage::Ended(JobState::Failed)
            } else {
                Stage::InLine
            };
            Some(kept(Standing { state: Some(state), crashes, lost: true, ..now }, spec))
        }
    }
}

/// The job after a run that ended so, its record still there.
fn settled(now: Standing, spec: &JobSpec, outcome: &Outcome) -> Standing {
    let failed = matches!(outcome, Outcome::Retry { .. } | Outcome::Abort { .. });
    let attempts = now.attempts + u32::from(failed);
    let state = match outcome {
        Outcome::Completed { .. } => Stage::Ended(JobState::Completed),
        _ if now.cancel_requested => Stage::Ended(JobState::Cancelled),
        Outcome::Abort { .. } => Stage::Ended(JobState::Failed),
        Outcome::Retry { .. } if attempts >= spec.options.max_attempts => Stage::Ended(JobState::Failed),
        Outcome::Retry { .. } | Outcome::Snooze { .. } | Outcome::Release => Stage::InLine,
        _ => Stage::Ended(JobState::Cancelled),
    };
    Standing { state: Some(state), attempts, ..now }
}

/// The same, without its record if nothing of such an end is kept.
fn kept(standing: Standing, spec: &JobSpec) -> Standing {
    let keep = &spec.options.keep;
    let word = match standing.state {
        Some(Stage::Ended(JobState::Completed)) => keep.completed,
        Some(Stage::Ended(JobState::Cancelled)) => keep.cancelled,
        Some(Stage::Ended(_)) => keep.failed,
        _ => return standing,
    };
    if word == KeepFor::Remove { Standing { state: None, ..standing } } else { standing }
}

fn acted(now: Standing, spec: &JobSpec, act: &Act, answer: ActAnswer) -> Option<Standing> {
    let stays = |right: bool| right.then_some(now);
    let is = |state: JobState| now.state == Some(stage(state));
    match (act, answer) {
        (_, ActAnswer::NotFound) => stays(now.state.is_none()),
        (Act::Cancel, ActAnswer::Done(JobState::Cancelled)) => (now.state == Some(Stage::InLine))
            .then(|| kept(Standing { state: Some(Stage::Ended(JobState::Cancelled)), ..now }, spec)),
        (Act::Cancel, ActAnswer::Requested) => {
            (now.state == Some(Stage::Active)).then_some(Standing { cancel_requested: true, ..now })
        }
        (Act::Cancel, ActAnswer::Refused(state)) => {
            stays(is(state) && matches!(state, JobState::Completed | JobState::Failed))
        }
        (Act::Cancel, ActAnswer::Unchanged(state)) => stays(is(state) && state == JobState::Cancelled),
        (Act::Retry { reset }, ActAnswer::Done(JobState::Waiting)) => {
            let next = Standing { state: Some(Stage::InLine), cancel_requested: false, ..now };
            let next = if *reset { Standing { attempts: 0, crashes: 0, ..next } } else { next };
            matches!(now.state, Some(Stage::Ended(_))).then_some(next)
        }
        (Act::Retry { .. }, ActAnswer::DedupHeld(_)) => stays(matches!(now.state, Some(Stage::Ended(_)))),
        (Act::Retry { .. }, ActAnswer::Refused(JobState::Blocked)) => stays(now.state == Some(Stage::InLine)),
        (Act::Retry { .. }, ActAnswer::Unchanged(state)) => stays(is(state) && !state.is_terminal()),
        (Act::Remove, ActAnswer::Done(state)) => {
            (is(state) && state != JobState::Active).then_some(Standing { state: None, ..now })
        }
        (Act::Remove, ActAnswer::Refused(state)) => stays(is(state) && state == JobState::Active),
        _ => None,
    }
}
