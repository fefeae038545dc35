//! Lanes in the database: the rows of those that a transaction needs, those that are set aside, and what is written back.
//! Each question finds its lanes by an index, however many others there are, and answers with one value.

use std::collections::HashMap;

use ferroq_core::clock::Timestamp;
use ferroq_core::job::{JobState, LaneClass, LaneKey, Slot};
use ferroq_core::policy::lanes::{LANES_BACK_MAX, LanePolicy, Room};
use ferroq_core::storage::StorageError;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::unexpected;
use crate::lanes::{Lane, OWN, Standing};
use crate::record::numbers_json;
use crate::row::{key, place, seq_of};
use crate::script::{Script, Value};
use crate::unit::{Ask, NOTHING, Unit, first_int};

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
/// Lanes that stand so since before rules changed, by `ferroq_lanes_by_turn`.
pub(crate) const OLD: &str = select_lanes!(
    "ferroq_lanes INDEXED BY ferroq_lanes_by_turn WHERE queue=? AND standing=? AND turn<=? ORDER BY turn LIMIT ?+0"
);
/// Held lanes whose instant has come, by `ferroq_lanes_by_until`.
pub(crate) const DUE: &str = select_lanes!(
    "ferroq_lanes INDEXED BY ferroq_lanes_by_until WHERE queue=? AND until<=? ORDER BY until,turn LIMIT ?+0"
);
/// The first instant of a held lane, by `ferroq_lanes_by_until`.
pub(crate) const UNTIL: &str =
    "SELECT until FROM ferroq_lanes INDEXED BY ferroq_lanes_by_until WHERE queue=? AND until>=? ORDER BY until LIMIT 1";
/// The first parked lanes of a class, by `ferroq_lanes_by_class`.
pub(crate) const PARKED: &str =
    select_lanes!("ferroq_lanes INDEXED BY ferroq_lanes_by_class WHERE queue=? AND parked=? ORDER BY turn LIMIT ?+0");
/// The classes with parked lanes, each found by one look into `ferroq_lanes_by_class`.
pub(crate) const PARKED_CLASSES: &str = "WITH RECURSIVE found(name) AS (SELECT (SELECT parked FROM ferroq_lanes INDEXED \
    BY ferroq_lanes_by_class WHERE queue=? AND parked>'' ORDER BY parked LIMIT 1) UNION ALL SELECT (SELECT parked FROM \
    ferroq_lanes INDEXED BY ferroq_lanes_by_class WHERE queue=? AND parked>found.name ORDER BY parked LIMIT 1) FROM found \
    WHERE found.name IS NOT NULL) SELECT json_group_array(name) FROM found WHERE name IS NOT NULL";
/// How many jobs of each class are Active, by `ferroq_lanes_active`.
pub(crate) const ACTIVE: &str = "SELECT json_group_array(json_array(value,(SELECT ifnull(sum(active),0) FROM ferroq_lanes \
    INDEXED BY ferroq_lanes_active WHERE queue=? AND class=value AND active>0))) FROM json_each(?)";
/// Lanes of which starts are remembered, by `ferroq_lanes_by_starts`.
pub(crate) const WITH_STARTS: &str =
    select_lanes!("ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND starts_until>?");
/// Whether there are lanes with starts of which nothing counts any more, by `ferroq_lanes_by_starts`.
pub(crate) const OVER: &str =
    "SELECT 1 FROM ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND starts_until<=? LIMIT 1";
/// Drops those rows of which nothing else is to be said, by `ferroq_lanes_by_starts`.
pub(crate) const FORGET: &str = "DELETE FROM ferroq_lanes WHERE waiting=0 AND active=0 AND policy IS NULL AND key IN (SELECT \
    key FROM ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND starts_until<=? ORDER BY starts_until LIMIT \
    ?+0)";
/// Drops starts of which nothing counts any more, by `ferroq_lanes_by_starts`.
pub(crate) const FORGET_STARTS: &str = "UPDATE ferroq_lanes SET starts=NULL,starts_until=NULL WHERE key IN (SELECT key FROM \
    ferroq_lanes INDEXED BY ferroq_lanes_by_starts WHERE queue=? AND starts_until<=? ORDER BY starts_until LIMIT ?+0)";
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
const DROP: &str = "DELETE FROM ferroq_lanes WHERE key IN (SELECT value FROM json_each(?))";
/// All lanes of a queue that goes, by key.
pub(crate) const DROP_ALL: &str = "DELETE FROM ferroq_lanes WHERE key BETWEEN ? AND ?";

type Stored = (i64, String, i64, i64, i64, i64, Option<u32>, i64, Option<String>, Option<String>, Option<String>);

/// The text in the only column of the only row.
fn text(rows: &[SqliteRow]) -> Result<&str, StorageError> {
    let text = rows.first().map(|row| row.try_get_unchecked::<Option<&str>, _>(0)).transpose();
    Ok(text.map_err(|_| unexpected("lanes"))?.flatten().unwrap_or("[]"))
}

/// Reads lanes with their numbers. Limits that can't be read are none.
pub(crate) fn read_lanes(rows: &[SqliteRow]) -> Result<Vec<(i64, Lane)>, StorageError> {
    let stored: Vec<Stored> = serde_json::from_str(text(rows)?).map_err(|_| unexpected("lanes"))?;
    let lane = |(key, name, waiting, active, standing, turn, credit, until, starts, policy, gate): Stored| {
        let lane = Lane {
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
        };
        Ok((seq_of(key), lane))
    };
    stored.into_iter().map(lane).collect()
}

/// Writes lanes that changed, and drops the rows of those of which nothing is to be said.
pub(crate) fn write_lanes(script: &mut Script, queue: i64, lanes: Vec<(i64, Lane)>) {
    let (nothing, lanes): (Vec<_>, Vec<_>) = lanes.into_iter().partition(|(_, lane)| lane.is_nothing());
    if !nothing.is_empty() {
        script.add(DROP, [numbers_json(nothing.iter().map(|(number, _)| key(queue, *number))).into()]);
    }
    let is = |lane: &Lane, standing| lane.standing == standing;
    let rows: Vec<_> = lanes
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
                (!is(lane, Standing::Out)).then_some(lane.standing as i64),
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

fn limit(items: usize) -> Value {
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

    /// If the clock stepped back, starts follow it.
    pub(crate) async fn follow_clock(&mut self, at: usize) -> Result<(), StorageError> {
        let Some(before) = self.queues[at].lanes.stepped_back_from.take() else { return Ok(()) };
        if self.queues[at].removed {
            return Ok(());
        }
        if self.queues[at].lanes.has_starts {
            let [rows] = self.ask([(WITH_STARTS, vec![self.queues[at].number.into(), i64::MIN.into()])]).await?;
            self.learn_lanes(at, &rows)?;
        }
        let queue = &mut self.queues[at];
        queue.lanes.anchor(before, queue.now);
        Ok(())
    }

    /// Counts the Active jobs of the classes that have limits.
    async fn count_classes(&mut self, at: usize) -> Result<(), StorageError> {
        let queue = &self.queues[at];
        let limited = queue.config.lanes.classes.iter().filter(|(_, policy)| policy.total.concurrency.is_some());
        let classes: Vec<&str> = limited.map(|(class, _)| class.as_str()).collect();
        if classes.is_empty() {
            return Ok(());
        }
        let classes = serde_json::to_string(&classes).unwrap_or_default();
        let [rows] = self.ask([(ACTIVE, vec![queue.number.into(), classes.into()])]).await?;
        let counts: Vec<(String, i64)> = serde_json::from_str(text(&rows)?).map_err(|_| unexpected("counts"))?;
        let counts = counts.into_iter().filter_map(|(class, count)| Some((LaneClass::new(class).ok()?, count)));
        self.queues[at].lanes.active_of_class = counts.collect();
        Ok(())
    }

    /// Brings back lanes that were set aside and need no longer be.
    pub(crate) async fn bring_back(&mut self, at: usize) -> Result<(), StorageError> {
        self.resolve_lanes().await?;
        self.count_classes(at).await?;
        self.reopen(at).await?;
        let (number, now) = (self.queues[at].number, self.queues[at].now.as_micros());
        let held = self.queues[at].lanes.count(Standing::Held) > 0;
        let ask = if held { (DUE, vec![number.into(), now.into(), limit(LANES_BACK_MAX)]) } else { (NOTHING, vec![]) };
        let mut due = self.lanes_by(at, ask, |lane| (lane.until, lane.turn)).await?;
        let in_line = self.queues[at].in_line();
        let own = self.queues[at].lanes.own_aside(in_line);
        if let Some(own) = own.filter(|own| own.standing == Standing::Held && own.until <= now) {
            due.push(((own.until, own.turn), OWN));
            due.sort_unstable();
        }
        for (_, lane) in due.into_iter().take(LANES_BACK_MAX) {
            self.queues[at].lanes.rejoin(lane);
        }
        for class in self.parked_classes(at).await? {
            let room = usize::try_from(self.room_of_parked(at, &class).free).unwrap_or(usize::MAX).min(LANES_BACK_MAX);
            if room == 0 {
                continue;
            }
            let ask = (PARKED, vec![number.into(), class.as_str().into(), limit(room)]);
            for (_, lane) in self.lanes_by(at, ask, |lane| (0, lane.turn)).await? {
                self.queues[at].lanes.rejoin(lane);
            }
        }
        Ok(())
    }

    /// Lanes that were set aside before rules changed come back.
    async fn reopen(&mut self, at: usize) -> Result<(), StorageError> {
        let queue = &self.queues[at];
        let to = queue.lanes.reopen_to;
        if to == 0 {
            return Ok(());
        }
        let number = queue.number;
        let mut old: Vec<((i64, i64), i64)> = Vec::new();
        for standing in [Standing::Held, Standing::Parked, Standing::Closed] {
            if self.queues[at].lanes.count(standing) > 0 {
                let values = vec![number.into(), (standing as i64).into(), to.into(), limit(LANES_BACK_MAX + 1)];
                old.extend(self.lanes_by(at, (OLD, values), |lane| (lane.turn, 0)).await?);
            }
        }
        let in_line = self.queues[at].in_line();
        let lanes = &mut self.queues[at].lanes;
        old.extend(lanes.own_aside(in_line).filter(|own| own.turn <= to).map(|own| ((own.turn, 0), OWN)));
        old.sort_unstable();
        if old.len() <= LANES_BACK_MAX {
            lanes.reopen_to = 0;
            lanes.changed = true;
        }
        old.iter().take(LANES_BACK_MAX).for_each(|(_, lane)| lanes.rejoin(*lane));
        Ok(())
    }

    /// Asks for lanes, and answers their numbers with what they are ordered by.
    async fn lanes_by(
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

    /// The classes with parked lanes, in the order of names.
    pub(crate) async fn parked_classes(&mut self, at: usize) -> Result<Vec<LaneClass>, StorageError> {
        if self.queues[at].lanes.count(Standing::Parked) == 0 {
            return Ok(Vec::new());
        }
        let number = self.queues[at].number;
        let [rows] = self.ask([(PARKED_CLASSES, vec![number.into(), number.into()])]).await?;
        let names: Vec<String> = serde_json::from_str(text(&rows)?).map_err(|_| unexpected("classes"))?;
        Ok(names.into_iter().filter_map(|name| LaneClass::new(name).ok()).collect())
    }

    /// The room of a class with parked lanes; all the room there is, if it has no limits any more.
    pub(crate) fn room_of_parked(&self, at: usize, class: &LaneClass) -> Room {
        let queue = &self.queues[at];
        let limits = queue.config.lanes.classes.get(class).map(|class| class.total.clone()).unwrap_or_default();
        queue.lanes.room_of_class(class, &limits, queue.now)
    }

    /// The first instant until which a lane is held.
    pub(crate) async fn held_until(&mut self, at: usize) -> Result<Option<Timestamp>, StorageError> {
        let queue = &self.queues[at];
        let own = queue.lanes.own_aside(queue.in_line()).filter(|own| own.standing == Standing::Held);
        let own = own.map(|own| own.until);
        let mut first = None;
        if queue.lanes.count(Standing::Held) > 0 {
            let [rows] = self.ask([(UNTIL, vec![queue.number.into(), i64::MIN.into()])]).await?;
            first = first_int(&rows);
        }
        Ok([own, first].into_iter().flatten().min().map(Timestamp::from_micros))
    }

    /// Drops up to so many lanes' starts of which nothing counts any more.
    pub(crate) fn forget_starts(&mut self, at: usize, max_items: usize) {
        let queue = &self.queues[at];
        if !queue.lanes.has_starts {
            return;
        }
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
