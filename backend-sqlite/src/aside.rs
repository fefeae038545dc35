//! Lanes that are set aside: how they come back, and when the next one does.

use ferroq_core::clock::Timestamp;
use ferroq_core::job::LaneClass;
use ferroq_core::policy::lanes::{LANES_BACK_MAX, Room};
use ferroq_core::storage::StorageError;

use crate::error::unexpected;
use crate::lane_rows::{limit, select_lanes, text};
use crate::lanes::{OWN, Standing};
use crate::unit::{NOTHING, Unit, first_int};

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
/// How many jobs of each class are Active, by `ferroq_lanes_active`.
pub(crate) const ACTIVE: &str = "SELECT json_group_array(json_array(value,(SELECT ifnull(sum(active),0) FROM ferroq_lanes \
    INDEXED BY ferroq_lanes_active WHERE queue=? AND class=value AND active>0))) FROM json_each(?)";
/// The classes with parked lanes, each found by one look into `ferroq_lanes_by_class`.
pub(crate) const PARKED_CLASSES: &str = "WITH RECURSIVE found(name) AS (SELECT (SELECT parked FROM ferroq_lanes INDEXED \
    BY ferroq_lanes_by_class WHERE queue=? AND parked>'' ORDER BY parked LIMIT 1) UNION ALL SELECT (SELECT parked FROM \
    ferroq_lanes INDEXED BY ferroq_lanes_by_class WHERE queue=? AND parked>found.name ORDER BY parked LIMIT 1) FROM found \
    WHERE found.name IS NOT NULL) SELECT json_group_array(name) FROM found WHERE name IS NOT NULL";

impl Unit<'_> {
    /// Counts the Active jobs of the classes that have limits.
    pub(crate) async fn count_classes(&mut self, at: usize) -> Result<(), StorageError> {
        let queue = &self.queues[at];
        let limited = queue.config.lanes.classes.iter().filter(|(_, policy)| policy.total.concurrency.is_some());
        let classes: Vec<&str> = limited.map(|(class, _)| class.as_str()).collect();
        if classes.iter().all(|class| queue.lanes.active_of_class.contains_key(*class)) {
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
}
