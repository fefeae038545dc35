//! What is known of a job and of all that may hold it back, from what one script reads: `ferroq_core` says what it comes to.

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobId, QueueName};
use ferroq_core::policy::explain::{ActiveJobs, AtGate, Explanation, Facts, RememberedStarts, WaitingJobs, explain};
use ferroq_core::policy::lanes::Starts;
use ferroq_core::storage::StorageError;
use redis::Value;

use crate::RedisStorage;
use crate::control::{config_of, policy_of};
use crate::exchange::strange;
use crate::inspect::{array, count, records};
use crate::record::{bytes_of, id_of};
use crate::script::EXPLAIN;
use crate::spec::{Reader, Unreadable};

impl RedisStorage {
    pub(crate) async fn explain_now(&self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError> {
        let read = self.look(&EXPLAIN, queue, |cmd| cmd.arg(id.as_bytes())).await?;
        let facts = facts_of(queue, read).map_err(|Unreadable| strange("what is known of a job"))?;
        Ok(match facts.transpose()? {
            Some(facts) => explain(&facts),
            None => Explanation::unknown(id),
        })
    }
}

/// What `explain.lua` answers, if there is such a job; an error of its own if settings or a policy are damaged.
fn facts_of(queue: &QueueName, read: Value) -> Result<Option<Result<Facts, StorageError>>, Unreadable> {
    let mut values = array(read)?.into_iter();
    let Some(times) = values.next() else { return Ok(None) };
    let times = bytes_of(times)?;
    let mut times = Reader(&times);
    let (now, last) = (Timestamp::from_micros(times.i64()?), Timestamp::from_micros(times.i64()?));
    let paused = count(values.next())? == 1;
    let [config, policy, holder] = [(); 3].map(|()| values.next().map_or(Err(Unreadable), bytes_of));
    let (config, policy, holder) = (config?, policy?, holder?);
    let holder = if holder.is_empty() { None } else { Some(id_of(&holder)?) };
    let [queue_active, class, lane] = [(); 3].map(|()| count(values.next()));
    let active = ActiveJobs { queue: queue_active?, class: class?, lane: lane? };
    let [in_lanes, shelved, delayed] = [(); 3].map(|()| count(values.next()));
    let waiting = WaitingJobs { in_lanes: in_lanes?, shelved: shelved?, delayed: delayed? };
    let (ahead, lanes_before) = (count(values.next())?, count(values.next())?);
    // What can't be read is taken for nothing, as by the scripts.
    let [of_queue, of_class, of_lane] = [(); 3].map(|()| values.next().map_or(Err(Unreadable), bytes_of));
    let starts = RememberedStarts {
        queue: Starts::from_bytes(&of_queue?).ok(),
        class: Starts::from_bytes(&of_class?).ok(),
        lane: Starts::from_bytes(&of_lane?).ok(),
    };
    let leader = values.next().map_or(Err(Unreadable), bytes_of)?;
    let in_lane = count(values.next())?;
    let since = values.next().map_or(Err(Unreadable), bytes_of)?;
    let at_gate = AtGate {
        leader: if leader.is_empty() { None } else { Some(id_of(&leader)?) },
        waiting: in_lane,
        since: Reader(&since).i64().ok().map(Timestamp::from_micros),
        is_led: count(values.next())? == 1,
    };
    let record = records(queue, values)?.pop().ok_or(Unreadable)?;
    let settings = config_of(paused, &config).and_then(|config| Ok((config, policy_of(&policy)?)));
    Ok(Some(settings.map(|(config, policy)| Facts {
        record,
        last: Some(last),
        clock: now,
        config,
        policy,
        holder,
        active,
        starts,
        waiting,
        ahead,
        lanes_before,
        at_gate,
    })))
}
