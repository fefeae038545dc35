//! Lanes in the database: the rows of those that a transaction needs, and what is written back. Each question finds its lanes
//! by an index, however many others there are, and answers with one value.

use std::collections::HashMap;

use ferroq_core::job::{JobState, LaneKey, Slot};
use ferroq_core::policy::lanes::{LANES_BACK_MAX, LanePolicy};
use ferroq_core::storage::StorageError;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::unexpected;
use crate::inspect::WALK_HEADS;
use crate::lanes::{Changed, Lane, Standing, Stored};
use crate::record::numbers_json;
use crate::row::{key, place, seq_of, state_range};
use crate::script::{Script, Value};
use crate::unit::{Ask, NOTHING, Unit};

macro_rules! select_lanes {
    ($from:literal) => {
        concat!(
            "SELECT json_group_array(json_array(at,name,waiting,active,ifnull(standing,0),turn,credit,ifnull(until,0),",
            "starts,policy,gate)) FROM (SELECT ferroq_lanes.key AS at,name,waiting,active,standing,turn,credit,until,starts,",
            "policy,gate FROM ",
            $from,
            ")"
        )
    };
}

pub(crate) use select_lanes;

/// Lanes by their names, by `ferroq_lanes_by_name`.
pub(crate) const BY_NAME: &str = select_lanes!(
    "(SELECT value AS wanted FROM json_each(?)) CROSS JOIN ferroq_lanes INDEXED BY ferroq_lanes_by_name ON queue=? AND \
     name=wanted"
);
/// Lanes by their keys.
pub(crate) const BY_KEY: &str =
    select_lanes!("(SELECT value AS wanted FROM json_each(?)) CROSS JOIN ferroq_lanes ON ferroq_lanes.key=wanted");
/// The first lanes of the ring, by `ferroq_lanes_by_turn`.
pub(crate) const RING: &str =
    select_lanes!("ferroq_lanes INDEXED BY ferroq_lanes_by_turn WHERE queue=? AND standing=1 ORDER BY turn LIMIT ?+0");
/// Lanes to which Active jobs are counted, by `ferroq_lanes_active`.
pub(crate) const WITH_ACTIVE: &str =
    select_lanes!("ferroq_lanes INDEXED BY ferroq_lanes_active WHERE queue=? AND active>0");
/// Lanes of which starts are remembered, by `ferroq_lanes_by_starts`: so many after an instant and a key.
pub(crate) const WITH_STARTS: &str = select_lanes!(
    "ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND starts_until>=? AND \
     (starts_until,key)>(?,?) ORDER BY starts_until,key \
     LIMIT ?+0"
);
/// Whether there are lanes with starts of which nothing counts any more, by `ferroq_lanes_by_starts`.
pub(crate) const OVER: &str =
    "SELECT 1 FROM ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND starts_until<=? LIMIT 1";
/// Drops those rows of which nothing else is to be said, by `ferroq_lanes_by_starts`.
pub(crate) const FORGET: &str = "DELETE FROM ferroq_lanes WHERE waiting=0 AND active=0 AND policy IS NULL AND key IN (SELECT \
    key FROM ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND starts_until<=? ORDER BY starts_until LIMIT \
    ?+0)";
/// Drops starts of which nothing counts any more from the other rows, by `ferroq_lanes_by_starts`. A row of which nothing else
/// is to be said keeps them for the next sweep: without starts nobody would find it.
pub(crate) const FORGET_STARTS: &str = "UPDATE ferroq_lanes SET starts=NULL,starts_until=NULL WHERE (waiting>0 OR active>0 OR \
    policy IS NOT NULL) AND key IN (SELECT key FROM ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND \
    starts_until<=? ORDER BY starts_until LIMIT ?+0)";
/// Lanes with policies of their own, by `ferroq_lanes_with_policy`.
pub(crate) const POLICIES: &str = select_lanes!(
    "ferroq_lanes INDEXED BY ferroq_lanes_with_policy WHERE queue=? AND name>? AND policy IS NOT NULL ORDER BY name LIMIT ?+0"
);
const WRITE: &str = "INSERT INTO ferroq_lanes (key,queue,name,class,waiting,active,standing,turn,credit,until,parked,starts,\
    starts_until,policy,gate) SELECT value->>0,value->>1,value->>2,value->>3,value->>4,value->>5,value->>6,value->>7,value->>8,\
    value->>9,value->>10,value->>11,value->>12,value->>13,value->>14 FROM json_each(?) WHERE true ON CONFLICT (key) DO UPDATE SET \
    waiting=excluded.waiting,active=excluded.active,standing=excluded.standing,turn=excluded.turn,credit=excluded.credit,\
    until=excluded.until,parked=excluded.parked,starts=excluded.starts,starts_until=excluded.starts_until,\
    policy=excluded.policy,gate=excluded.gate";
/// How many lanes of the ring are read at once, at least.
const RING_ITEMS: usize = 512;
const DROP: &str = "DELETE FROM ferroq_lanes WHERE key IN (SELECT value FROM json_each(?))";
/// All lanes of a queue that goes, by key.
pub(crate) const DROP_ALL: &str = "DELETE FROM ferroq_lanes WHERE key BETWEEN ? AND ?";

/// Writes what changes with every turn.
pub(crate) const WRITE_TURNS: &str = "UPDATE ferroq_lanes SET waiting=v->>1,active=v->>2,standing=v->>3,turn=v->>4,\
    credit=v->>5 FROM (SELECT value AS v,value->>0 AS k FROM json_each(?)) WHERE key=k";
type StoredLane = (i64, String, i64, i64, i64, i64, Option<u32>, i64, Option<String>, Option<String>, Option<String>);

/// The text in the only column of the only row.
pub(crate) fn text(rows: &[SqliteRow]) -> Result<&str, StorageError> {
    let text = rows.first().map(|row| row.try_get_unchecked::<Option<&str>, _>(0)).transpose();
    Ok(text.map_err(|_| unexpected("lanes"))?.flatten().unwrap_or("[]"))
}

/// Reads lanes with their numbers. Limits that can't be read are none.
pub(crate) fn read_lanes(rows: &[SqliteRow]) -> Result<Vec<(i64, Lane)>, StorageError> {
    let stored: Vec<StoredLane> = serde_json::from_str(text(rows)?).map_err(|_| unexpected("lanes"))?;
    let lane = |(key, name, waiting, active, standing, turn, credit, until, starts, policy, gate): StoredLane| {
        let has_more = starts.is_some() || policy.is_some() || gate.is_some();
        let mut lane = Lane {
            key: LaneKey::new(name).map_err(|_| unexpected("a lane's name"))?,
            waiting,
            active,
            turn,
            credit,
            standing: Standing::from_number(standing),
            until,
            starts: starts.and_then(|starts| serde_json::from_str(&starts).ok()),
            policy: policy.and_then(|policy| serde_json::from_str::<LanePolicy>(&policy).ok()),
            gate: gate.and_then(|gate| serde_json::from_str(&gate).ok()).unwrap_or_default(),
            dirty: false,
            stored: Stored::All,
        };
        let has_instant = lane.standing == Standing::Held || lane.standing == Standing::Parked;
        if !has_instant && !has_more {
            lane.stored = Stored::Turn;
        }
        Ok((seq_of(key), lane))
    };
    stored.into_iter().map(lane).collect()
}

/// Writes lanes that changed.
pub(crate) fn write_lanes(script: &mut Script, queue: i64, changed: &Changed<'_>) {
    if !changed.dropped.is_empty() {
        script.add(DROP, [numbers_json(changed.dropped.iter().map(|number| key(queue, *number))).into()]);
    }
    let standing = |lane: &Lane| (lane.standing != Standing::Out).then_some(lane.standing as i64);
    if !changed.turned.is_empty() {
        let row = |(number, lane): &(i64, &Lane)| {
            (key(queue, *number), lane.waiting, lane.active, standing(lane), lane.turn, lane.credit)
        };
        let rows: Vec<_> = changed.turned.iter().map(row).collect();
        script.add(WRITE_TURNS, [serde_json::to_string(&rows).unwrap_or_default().into()]);
    }
    let is = |lane: &Lane, standing| lane.standing == standing;
    let rows: Vec<_> = changed
        .other
        .iter()
        .map(|(number, lane)| {
            let class = lane.key.class();
            let json = |value: Option<Result<String, serde_json::Error>>| value.and_then(Result::ok);
            (
                key(queue, *number),
                queue,
                lane.key.name(),
                class.as_ref().map(|class| class.as_str().to_owned()),
                lane.waiting,
                lane.active,
                standing(lane),
                lane.turn,
                lane.credit,
                is(lane, Standing::Held).then_some(lane.until),
                class.filter(|_| is(lane, Standing::Parked)).map(|class| class.as_str().to_owned()),
                json(lane.starts.as_ref().map(serde_json::to_string)),
                lane.starts.as_ref().map(|starts| starts.until().as_micros()),
                json(lane.policy.as_ref().map(serde_json::to_string)),
                json((!lane.gate.is_nothing()).then(|| serde_json::to_string(&lane.gate))),
            )
        })
        .collect();
    if !rows.is_empty() {
        script.add(WRITE, [serde_json::to_string(&rows).unwrap_or_default().into()]);
    }
}

pub(crate) fn limit(items: usize) -> Value {
    i64::try_from(items).unwrap_or(i64::MAX).into()
}

impl Unit<'_> {
    /// Does what jobs did to lanes, and gives the jobs that are to be written the numbers of their lanes.
    pub(crate) async fn resolve_lanes(&mut self) -> Result<(), StorageError> {
        let in_lane = |row: &crate::row::Row| row.has_lane() && row.is_in_lane();
        let mut rows: HashMap<i64, Vec<LaneKey>> = HashMap::new();
        for row in self.inserts.iter().chain(self.saves.values()).filter(|row| in_lane(row)) {
            rows.entry(row.queue()).or_default().push(row.lane());
        }
        if rows.is_empty() && !self.queues.iter().any(|queue| queue.lanes.has_steps()) {
            return Ok(());
        }
        for at in 0..self.queues.len() {
            let queue = &mut self.queues[at];
            if queue.removed {
                queue.lanes.forget_steps();
                continue;
            }
            let number = queue.number;
            let (mut names, keys) = queue.lanes.wanted();
            let own = rows.get(&number).into_iter().flatten();
            names.extend(own.filter(|lane| queue.lanes.known_number(lane).is_none()));
            names.sort();
            names.dedup();
            let names: Vec<&str> = names.into_iter().filter_map(|lane| lane.name()).collect();
            if !names.is_empty() || !keys.is_empty() {
                let asks = [by_name_ask(number, &names), by_key_ask(number, &keys)];
                let [by_name, by_key] = self.send(asks).await?;
                for (lane_number, lane) in read_lanes(&by_name)?.into_iter().chain(read_lanes(&by_key)?) {
                    self.queues[at].lanes.learn(lane_number, lane);
                }
            }
            let queue = &mut self.queues[at];
            let in_line = queue.in_line();
            queue.lanes.apply(in_line);
        }
        let queues = &mut self.queues;
        for row in self.inserts.iter_mut().chain(self.saves.values_mut()).filter(|row| in_lane(row)) {
            let queue = queues.iter_mut().find(|queue| queue.number == row.queue() && !queue.removed);
            let lane = row.lane();
            if let Some(queue) = queue.filter(|_| !lane.is_default()) {
                let lane = queue.lanes.number(&lane);
                row.place = place(queue.number, JobState::Waiting, Slot::Lane, lane);
            }
        }
        Ok(())
    }

    /// Reads the rows of lanes by their names.
    pub(crate) async fn load_lanes(&mut self, at: usize, lanes: &[LaneKey]) -> Result<(), StorageError> {
        let queue = &self.queues[at];
        let unknown = lanes.iter().filter(|lane| queue.lanes.known_number(lane).is_none());
        let mut names: Vec<&str> = unknown.filter_map(|lane| lane.name()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(());
        }
        let [rows] = self.ask([by_name_ask(queue.number, &names)]).await?;
        self.learn_lanes(at, &rows).map(drop)
    }

    /// Takes rows in, and says which lanes they are of.
    pub(crate) fn learn_lanes(&mut self, at: usize, rows: &[SqliteRow]) -> Result<Vec<i64>, StorageError> {
        let mut numbers = Vec::new();
        for (number, lane) in read_lanes(rows)? {
            self.queues[at].lanes.learn(number, lane);
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// Reads what the ring's first lanes are, if it is not known: so many, or all, with their turns.
    pub(crate) async fn ring_heads(&mut self, at: usize, most: usize) -> Result<Vec<(i64, i64)>, StorageError> {
        if let Some(heads) = self.queues[at].lanes.ring_heads(most) {
            return Ok(heads);
        }
        // More than are wanted now: the next claims want more.
        let most_read = most.max(RING_ITEMS);
        let [rows] = self.ask([(RING, vec![self.queues[at].number.into(), limit(most_read)])]).await?;
        let numbers = self.learn_lanes(at, &rows)?;
        let lanes = &mut self.queues[at].lanes;
        lanes.learn_ring(&numbers, numbers.len() < most_read);
        Ok(lanes.ring_heads(most).unwrap_or_default())
    }

    /// If the clock stepped back, starts follow it: some lanes at a time, because there may be many.
    pub(crate) async fn follow_clock(&mut self, at: usize) -> Result<(), StorageError> {
        let Some(before) = self.queues[at].lanes.stepped_back_from.take() else { return Ok(()) };
        if self.queues[at].removed {
            return Ok(());
        }
        let now = self.queues[at].now;
        self.queues[at].lanes.anchor_queue(before, now);
        // What counts no longer needs to follow nothing. Those that follow count for no longer than they did, so none is met
        // twice.
        let (mut until, mut after) = (now.as_micros(), i64::MAX);
        while self.queues[at].lanes.has_starts {
            let number = self.queues[at].number;
            let values = vec![number.into(), until.into(), until.into(), after.into(), limit(LANES_BACK_MAX)];
            let [rows] = self.ask([(WITH_STARTS, values)]).await?;
            let found = self.learn_lanes(at, &rows)?;
            let lanes = &mut self.queues[at].lanes;
            let Some(last) = found.last().copied() else { break };
            let starts = lanes.lane(last).and_then(|lane| lane.starts.as_ref());
            (until, after) = (starts.map_or(i64::MAX, |starts| starts.until().as_micros()), key(number, last));
            for lane in &found {
                lanes.anchor_lane(*lane, before, now);
            }
            if found.len() < LANES_BACK_MAX {
                break;
            }
            self.resolve_lanes().await?;
            self.flush();
            self.queues[at].lanes.shed();
        }
        Ok(())
    }

    /// Sees to it that Active jobs are counted by their lanes if, and only if, a limit asks for it. They are counted anew
    /// when such a limit appears, and when what was counted can't be right.
    pub(crate) async fn count_active(&mut self, at: usize) -> Result<(), StorageError> {
        if self.is_active_counted(at) {
            return Ok(());
        }
        let queue = &self.queues[at];
        let (active, needed) = (queue.count(JobState::Active), queue.lanes.needs_count(&queue.config));
        if queue.lanes.counted().is_some_and(|counted| counted > active) {
            self.queues[at].lanes.distrust();
        }
        self.resolve_lanes().await?;
        if self.queues[at].lanes.named_active() > 0 {
            let [rows] = self.ask([(WITH_ACTIVE, vec![self.queues[at].number.into()])]).await?;
            self.learn_lanes(at, &rows)?;
        }
        let mut counts: HashMap<LaneKey, i64> = HashMap::new();
        let (mut place, end) = state_range(self.queues[at].number, JobState::Active);
        let (mut rank, mut after) = (i64::MIN, i64::MIN);
        let mut more = needed && active > 0;
        while more {
            let values = vec![place.into(), rank.into(), after.into(), end.into(), limit(LANES_BACK_MAX)];
            let [rows] = self.ask([(WALK_HEADS, values)]).await?;
            let rows = self.rows(&rows, false).await?;
            for lane in rows.iter().map(crate::row::Row::lane).filter(|lane| !lane.is_default()) {
                *counts.entry(lane).or_default() += 1;
            }
            more = rows.len() == LANES_BACK_MAX;
            if let Some(last) = rows.last() {
                (place, rank, after) = (last.place, last.rank, last.key);
            }
        }
        let lanes: Vec<LaneKey> = counts.keys().cloned().collect();
        self.load_lanes(at, &lanes).await?;
        self.queues[at].lanes.set_active(needed.then_some(counts));
        Ok(())
    }

    /// Whether Active jobs are counted by their lanes if a limit asks for it, and only then.
    pub(crate) fn is_active_counted(&self, at: usize) -> bool {
        let queue = &self.queues[at];
        let (active, needed) = (queue.count(JobState::Active), queue.lanes.needs_count(&queue.config));
        match queue.lanes.counted() {
            Some(counted) => counted <= active && (needed || active > 0),
            None => !needed,
        }
    }

    /// Asks for lanes, and answers their numbers with what they are ordered by.
    pub(crate) async fn lanes_by(
        &mut self,
        at: usize,
        ask: Ask,
        order: impl Fn(&Lane) -> (i64, i64),
    ) -> Result<Vec<((i64, i64), i64)>, StorageError> {
        if ask.0 == NOTHING {
            return Ok(Vec::new());
        }
        let [rows] = self.ask([ask]).await?;
        let numbers = self.learn_lanes(at, &rows)?;
        let lanes = &self.queues[at].lanes;
        Ok(numbers.into_iter().filter_map(|number| Some((order(lanes.lane(number)?), number))).collect())
    }

    /// Drops up to so many lanes' starts of which nothing counts any more, and as many classes'.
    pub(crate) fn forget_starts(&mut self, at: usize, max_items: usize) {
        let now = self.queues[at].now;
        self.queues[at].lanes.forget_classes(now, max_items);
        if !self.queues[at].lanes.has_starts {
            return;
        }
        // Whoever remembers such a lane is told.
        self.queues[at].dirty = true;
        let queue = &self.queues[at];
        for sql in [FORGET, FORGET_STARTS] {
            let values = [queue.number.into(), queue.now.as_micros().into(), limit(max_items)];
            self.script.add(sql, values);
        }
    }
}
fn by_name_ask(queue: i64, names: &[&str]) -> Ask {
    if names.is_empty() {
        return (NOTHING, vec![]);
    }
    (BY_NAME, vec![serde_json::to_string(names).unwrap_or_default().into(), queue.into()])
}

fn by_key_ask(queue: i64, numbers: &[i64]) -> Ask {
    if numbers.is_empty() {
        return (NOTHING, vec![]);
    }
    (BY_KEY, vec![numbers_json(numbers.iter().map(|number| key(queue, *number))).into()])
}
