//! The role that moves jobs, as work on a unit: one file per act.

mod annotate;
mod claim;
mod enqueue;
mod exchange;
mod gate;
mod meet;
mod renew;
mod serve;
mod settle;
mod solo;
mod sweep;

pub(crate) use claim::line_ask;
pub(crate) use enqueue::{check as check_jobs, read_holder, read_id};
pub(crate) use exchange::check as check_exchange;
pub(crate) use meet::LetGo;
pub(crate) use renew::check as check_renew;
pub(crate) use sweep::Pending;
#[cfg(test)]
pub(crate) use {enqueue::PURGE, gate::MEMBERS, serve::FIRST, sweep::LAPSED};

/// The statements of the steady state, and what each finds its rows by.
#[cfg(test)]
pub(crate) const HOT: [(&str, &str); 9] = [
    (claim::CLAIMABLE, "ferroq_jobs_by_place"),
    (claim::DUE, "ferroq_jobs_by_place"),
    (claim::NEXT_RANK, "ferroq_jobs_by_place"),
    (claim::CLAIM, "INTEGER PRIMARY KEY (rowid=?)"),
    (enqueue::EXISTING, "ferroq_jobs_by_id"),
    (gate::BATCH, "INTEGER PRIMARY KEY (rowid=?)"),
    (gate::FIRST_DUE, "ferroq_jobs_by_place"),
    (gate::FREE_KEYS, "PRIMARY KEY (queue=? AND key=?)"),
    (gate::GATHER, "INTEGER PRIMARY KEY (rowid=?)"),
];
