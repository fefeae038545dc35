//! What is known of a job and of all that may hold it back, read in one transaction: `ferroq_core` says what it comes to.

use ferroq_core::job::{JobId, JobRecord, JobState, LaneKey, QueueName, Slot};
use ferroq_core::policy::batch::SetBack;
use ferroq_core::policy::explain::{
    ActiveJobs, AtGate, COUNTED_MAX, Explanation, Facts, RememberedStarts, WaitingJobs, explain,
};
use ferroq_core::storage::StorageError;
use sqlx::Row as _;

use crate::aside::ACTIVE;
use crate::error::unexpected;
use crate::inspect::BY_ID;
use crate::lane_rows::{limit, text};
use crate::lanes::OWN;
use crate::row::{Row, key, key_range};
use crate::unit::{Unit, first_int};

/// How many jobs of a place are ahead of a rank and key, up to so many, by `ferroq_jobs_by_place`.
pub(crate) const AHEAD: &str = "SELECT count(*) FROM (SELECT * FROM (SELECT 1 FROM ferroq_jobs INDEXED BY \
    ferroq_jobs_by_place WHERE place=?1 AND rank<?2 LIMIT ?4+0) UNION ALL SELECT * FROM (SELECT 1 FROM ferroq_jobs INDEXED BY \
    ferroq_jobs_by_place WHERE place=?1 AND rank=?2 AND key<?3 LIMIT ?4+0))";
/// How many lanes of the ring have a turn before this one, up to so many, by `ferroq_lanes_by_turn`.
pub(crate) const BEFORE: &str = "SELECT count(*) FROM (SELECT 1 FROM ferroq_lanes INDEXED BY ferroq_lanes_by_turn WHERE \
    queue=? AND standing=1 AND turn<? LIMIT ?+0)";

/// The batch of the first job of a place, by `ferroq_jobs_by_place`.
pub(crate) const HEAD: &str =
    "SELECT ifnull(batch,0) FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? ORDER BY rank,key LIMIT 1";
/// Who leads a batch, by key.
pub(crate) const LEADER: &str = "SELECT id FROM ferroq_jobs WHERE key=(SELECT leader FROM ferroq_batches WHERE key=?)";

impl Unit<'_> {
    /// Why a job is not running now.
    pub(crate) async fn explain(&mut self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError> {
        let Some(at) = self.queue(queue).await? else { return Ok(Explanation::unknown(id)) };
        let (low, high) = key_range(self.queues[at].number);
        let [rows] = self.ask([(BY_ID, vec![id.as_bytes().to_vec().into(), low.into(), high.into()])]).await?;
        let rows = self.rows(&rows, true).await?;
        let record = self.records(queue, &rows).await?.pop();
        let (Some(row), Some(record)) = (rows.first(), record) else { return Ok(Explanation::unknown(id)) };
        Ok(explain(&self.facts(at, row, record).await?))
    }

    async fn facts(&mut self, at: usize, row: &Row, record: JobRecord) -> Result<Facts, StorageError> {
        let lane = record.spec.lane.clone();
        let number = self.queues[at].number;
        self.load_lanes(at, std::slice::from_ref(&lane)).await?;
        let holder = match &record.spec.dedup {
            Some(dedup) => self.holder(number, dedup.key.as_str()).await?.map(|holder| holder.id),
            None => None,
        };
        let (mut ahead, mut lanes_before) = (0, 0);
        if record.state == JobState::Waiting {
            let most = limit(COUNTED_MAX as usize);
            let values = vec![row.place.into(), row.rank.into(), row.key.into(), most];
            let [rows] = self.ask([(AHEAD, values)]).await?;
            ahead = first_int(&rows).unwrap_or(0);
            if record.slot == Slot::Lane {
                lanes_before = self.lanes_before(at, &lane).await?;
            }
        }
        let at_gate = self.at_gate(at, row, &record).await?;
        // The last question, because what it finds is kept like what a transaction means to write.
        let of_class = self.active_of_class(at, &lane).await?;
        let queue = &self.queues[at];
        let lanes = &queue.lanes;
        let known = lanes.known_number(&lane).and_then(|number| lanes.lane(number));
        let count = |count: i64| count.max(0).unsigned_abs();
        let active = queue.count(JobState::Active);
        let of_lane =
            if lane.is_default() { active - lanes.named_active() } else { known.map_or(0, |lane| lane.active) };
        let (starts_of_queue, starts_of_class) = lanes.starts_above(&lane);
        Ok(Facts {
            last: Some(queue.last()),
            clock: self.clock,
            config: queue.config.clone(),
            policy: known.and_then(|lane| lane.policy.clone()),
            holder,
            active: ActiveJobs { queue: count(active), class: count(of_class), lane: count(of_lane) },
            starts: RememberedStarts {
                queue: starts_of_queue,
                class: starts_of_class,
                lane: known.and_then(|lane| lane.starts.clone()),
            },
            waiting: WaitingJobs {
                in_lanes: count(queue.in_line()),
                shelved: count(queue.shelved),
                delayed: count(queue.count(JobState::Delayed)),
            },
            ahead: count(ahead),
            lanes_before: count(lanes_before),
            at_gate,
            record,
        })
    }

    /// What the batch of a job, or the gate of its lane, goes by.
    async fn at_gate(&mut self, at: usize, row: &Row, record: &JobRecord) -> Result<AtGate, StorageError> {
        let mut at_gate = AtGate::default();
        let queue = &self.queues[at];
        if let Some(batch) = record.batch {
            let [rows] = self.ask([(LEADER, vec![key(queue.number, batch.0).into()])]).await?;
            let id = rows.first().map(|row| row.try_get::<&[u8], _>(0)).transpose();
            let id = id.map_err(|_| unexpected("a batch's leader"))?;
            at_gate.leader = id.and_then(|id| <[u8; 16]>::try_from(id).ok()).map(JobId::from_bytes);
            return Ok(at_gate);
        }
        let lanes = &queue.lanes;
        let number = lanes.known_number(&record.spec.lane);
        let gated = lanes.terms(&record.spec.lane, &queue.config).batch.is_some();
        let Some(number) = number.filter(|_| gated && record.state == JobState::Waiting && record.slot == Slot::Lane)
        else {
            return Ok(at_gate);
        };
        at_gate.waiting = lanes.waiting(number, queue.in_line()).max(0).unsigned_abs();
        let set_back = SetBack::read(lanes.set_back, queue.counter, Some(queue.last()), self.clock);
        let [rows] = self.ask([(HEAD, vec![row.place.into()])]).await?;
        at_gate.is_led = first_int(&rows).is_some_and(|batch| batch > 0);
        at_gate.since = self.first_due(at, number, set_back).await?;
        Ok(at_gate)
    }

    /// How many lanes of the ring take their turn before this one; all of them if it is set aside.
    async fn lanes_before(&mut self, at: usize, lane: &LaneKey) -> Result<i64, StorageError> {
        let queue = &self.queues[at];
        let number = queue.lanes.known_number(lane);
        let own = queue.lanes.own_turn(queue.in_line());
        let turn = if number == Some(OWN) { own } else { number.and_then(|number| queue.lanes.turn_in_ring(number)) };
        let turn = turn.unwrap_or(i64::MAX);
        let values = vec![queue.number.into(), turn.into(), limit(COUNTED_MAX as usize)];
        let [rows] = self.ask([(BEFORE, values)]).await?;
        let named = first_int(&rows).unwrap_or(0);
        Ok(named + i64::from(!lane.is_default() && own.is_some_and(|own| own < turn)))
    }

    /// How many jobs of the lane's class are Active, if there is a limit on that. Counts of lanes are seen to be right.
    async fn active_of_class(&mut self, at: usize, lane: &LaneKey) -> Result<i64, StorageError> {
        let right = self.is_active_counted(at);
        let queue = &self.queues[at];
        let limited = queue.config.lanes.class_total(lane).filter(|(_, total)| total.concurrency.is_some());
        let class = limited.map(|(class, _)| class);
        if !right {
            self.count_active(at).await?;
            let lanes = &self.queues[at].lanes;
            return Ok(class.map_or(0, |class| lanes.active_here(&class)));
        }
        let Some(class) = class else { return Ok(0) };
        let number = queue.number;
        let classes = serde_json::to_string(&[class.as_str()]).unwrap_or_default();
        let [rows] = self.ask([(ACTIVE, vec![number.into(), classes.into()])]).await?;
        let counts: Vec<(String, i64)> = serde_json::from_str(text(&rows)?).map_err(|_| unexpected("counts"))?;
        Ok(counts.first().map_or(0, |(_, count)| *count))
    }
}
