//! Storages with one mistake each, to prove the kit itself: every mutant must be caught by a conformance case or by the
//! property tests, or the kit would not notice the same mistake in a backend. A mutant wraps any sound storage, so the
//! proof can be repeated on each backend.

mod bookkeeping;
mod leases;
mod letters;
mod operators;
mod repeats;
mod said;
mod wrap;

use std::fmt;
use std::sync::Arc;

use ferroq_core::storage::Storage;

use said::Misheard;
use wrap::mutate;

/// A storage with one mistake.
#[derive(Clone, Copy)]
pub struct Mutant {
    /// Its name, as a test can carry it.
    pub name: &'static str,
    /// The rule that it breaks.
    pub breaks: &'static str,
    /// Makes it out of a sound storage.
    pub build: fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
}

impl fmt::Debug for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.breaks)
    }
}

/// The wrapper that carries the mistakes, without one: it must not be caught.
pub fn sound() -> Mutant {
    Mutant { name: "sound", breaks: "nothing", build: mutate::<wrap::Sound> }
}

/// Every mutant.
pub fn all() -> Vec<Mutant> {
    let mutant = |name, breaks, build| Mutant { name, breaks, build };
    vec![
        mutant("accepts_stale_leases", "a write under an old epoch changes nothing", mutate::<leases::StaleAccepted>),
        mutant("claims_twice", "a job has one current lease", mutate::<leases::ClaimedTwice>),
        mutant("settles_for_old_batches", "a batch has one current lease", mutate::<leases::OldBatchAccepted>),
        mutant("shows_members_to_anyone", "its lease shows a batch's members", mutate::<leases::ReadByAnyone>),
        mutant("repeats_epochs", "each claim raises the epoch", mutate::<leases::SameEpoch>),
        mutant("keeps_dead_leases", "a lease that ran out is taken by a sweep", mutate::<leases::NeverStalled>),
        mutant("runs_solo_jobs_in_company", "a job on its last crash runs alone", mutate::<leases::InCompany>),
        mutant("forgets_calls", "a repeated call gets the same answer", mutate::<repeats::Forgetful>),
        mutant("doubles_follow_ups", "a settlement is applied once", mutate::<repeats::FollowUpsDoubled>),
        mutant("drops_follow_ups", "follow-ups come with their settlement", mutate::<repeats::FollowUpsDropped>),
        mutant("loses_an_index_entry", "a Waiting job is in line", mutate::<bookkeeping::OutOfLine>),
        mutant("never_frees_keys", "an end frees the dedup key", mutate::<bookkeeping::KeysKept>),
        mutant("counts_drift", "counts equal records", mutate::<bookkeeping::Drifting>),
        mutant("loses_events", "every change is in the event log", mutate::<bookkeeping::EventsLost>),
        mutant("ignores_watches", "a waited-on record outlives its end", mutate::<bookkeeping::Unwatched>),
        mutant("restores_old_epochs", "a restored job keeps its epoch", mutate::<bookkeeping::EpochsNotMoved>),
        mutant("takes_permits_twice", "permits are given once", mutate::<repeats::PermitsTwice>),
        mutant("gives_one_permit_too_many", "a rate is never exceeded", mutate::<operators::TooGenerous>),
        mutant("burns_attempts", "a release uses up no attempt", mutate::<operators::ReleaseFails>),
        mutant("ignores_priority", "service is by (priority, seq)", mutate::<operators::NoPriority>),
        mutant("ignores_cancel", "an Active job's worker is asked to cancel", mutate::<operators::CancelIgnored>),
        mutant("claims_while_paused", "a paused queue hands out nothing", mutate::<operators::PauseIgnored>),
        mutant("starts_expired_jobs", "an expired job is not started", mutate::<operators::NeverExpires>),
        mutant("copies_nothing", "a job that failed for good leaves a dead letter", mutate::<letters::NoCopies>),
        mutant("loses_redriven_jobs", "a redrive brings a dead letter home", mutate::<letters::RedriveRemoves>),
        mutant("gives_one_slot_too_many", "a concurrency is never exceeded", mutate::<Misheard<said::OneSlotMore>>),
        mutant("gives_one_start_too_many", "a queue's and a lane's rate hold", mutate::<Misheard<said::OneStartMore>>),
        mutant("claims_from_paused_lanes", "a paused lane starts nothing", mutate::<Misheard<said::NoPause>>),
        mutant("ignores_class_totals", "a class shares its limits", mutate::<Misheard<said::NoTotals>>),
        mutant("ignores_weights", "a turn is as long as its lane's weight", mutate::<Misheard<said::NoWeights>>),
        mutant("lifts_no_limits", "a lane's policy may lift a limit", mutate::<Misheard<said::NoLifting>>),
        mutant("ignores_gates", "a lane's gate lets its jobs start together", mutate::<Misheard<said::NoGates>>),
        mutant("opens_gates_at_once", "a gate waits for as many as its size", mutate::<Misheard<said::NoWait>>),
        mutant("ignores_max_wait", "a job waits max_wait for others at most", mutate::<Misheard<said::EndlessWait>>),
        mutant("makes_batches_too_large", "a batch keeps to its size", mutate::<Misheard<said::OneMemberMore>>),
        mutant("ignores_lanes", "lanes take turns", mutate::<operators::OneLane>),
        mutant("ignores_bytes", "a claim keeps to max_bytes", mutate::<operators::AnySize>),
    ]
}
