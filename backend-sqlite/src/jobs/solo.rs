//! The solo line where lanes or limits are in use. Whoever is alone gets its first job that no limit holds back, and everybody
//! is told whether there is one. A claim goes past those that are held back, so that a job which waits for days keeps no other
//! from its turn; what limits leave to a lane is worked out once for all of its jobs.

use std::collections::HashMap;

use ferroq_core::Timestamp;
use ferroq_core::job::{JobKind, JobState, LaneKey, Slot};
use ferroq_core::policy::lanes::Room;
use ferroq_core::storage::{ClaimSpec, SOLO_ITEMS_MAX, StorageError};

use crate::jobs::claim::{HEADS, Look, Looked, limit};
use crate::row::{Row, place};
use crate::unit::{Unit, unpack};

/// So many jobs are read at first: mostly one of them may start, or there are no more.
const READ_FIRST: usize = 32;

/// What stands in the solo line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SoloLine {
    /// A job that may start.
    pub(super) waiting: bool,
    /// None that may, and one that is held back.
    pub(super) held: bool,
    /// When one that a rate holds back may start, as far as can be told.
    pub(super) opens_at: Option<Timestamp>,
}

impl Unit<'_> {
    /// Looks at jobs of the solo line that no limit holds back, and claims one at most, if the claim is made alone. Answers what
    /// the line has then.
    pub(super) async fn claim_solo_within(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        kinds: &HashMap<i64, &JobKind>,
        looked: &mut Looked,
    ) -> Result<SoloLine, StorageError> {
        let (rows, line) = self.go_through_solo(at, if claim.alone { claim.max_items } else { 1 }).await?;
        if rows.is_empty() || !claim.alone {
            return Ok(line);
        }
        for row in rows {
            let lane = row.lane();
            if self.look_at(at, claim, kinds, row, true, looked).await? == Look::Claimed {
                self.resolve_lanes().await?;
                let terms = self.terms(at, &lane);
                self.started(at, &lane, &terms, 1);
                break;
            }
        }
        self.hand_out(at, claim, looked);
        self.solo_line(at).await
    }

    /// What stands in the solo line now.
    pub(super) async fn solo_line(&mut self, at: usize) -> Result<SoloLine, StorageError> {
        self.go_through_solo(at, 1).await.map(|(_, line)| line)
    }

    /// Goes through the first jobs of the solo line until so many are found that no limit holds back: those, and what was met.
    async fn go_through_solo(&mut self, at: usize, most: usize) -> Result<(Vec<Row>, SoloLine), StorageError> {
        if self.queues[at].solo <= 0 {
            return Ok(Default::default());
        }
        let of_queue = self.room(at);
        if of_queue.free == 0 {
            return Ok((Vec::new(), SoloLine { waiting: false, held: true, opens_at: of_queue.opens_at }));
        }
        let solo = place(self.queues[at].number, JobState::Waiting, Slot::Solo, 0);
        let mut read = READ_FIRST.max(most).min(SOLO_ITEMS_MAX);
        loop {
            let [heads] = self.ask([(HEADS, vec![solo.into(), limit(read).into()])]).await?;
            let rows = unpack(&heads, false)?;
            let are_all = rows.len() < read || read == SOLO_ITEMS_MAX;
            let lanes: Vec<LaneKey> = rows.iter().map(Row::lane).collect();
            self.load_lanes(at, &lanes).await?;
            let mut rooms: HashMap<LaneKey, Room> = HashMap::new();
            let (mut free, mut line) = (Vec::new(), SoloLine::default());
            for (row, lane) in rows.into_iter().zip(lanes) {
                let room = *rooms.entry(lane).or_insert_with_key(|lane| self.room_under_all(at, lane));
                if room.free == 0 {
                    line.held = true;
                    line.opens_at = [line.opens_at, room.opens_at].into_iter().flatten().min();
                } else if free.len() < most {
                    free.push(row);
                }
            }
            if !free.is_empty() {
                line = SoloLine { waiting: true, held: false, opens_at: None };
            }
            if are_all || free.len() == most {
                return Ok((free, line));
            }
            read = SOLO_ITEMS_MAX;
        }
    }

    /// What the limits of a lane, its class and the queue together leave to it.
    fn room_under_all(&self, at: usize, lane: &LaneKey) -> Room {
        let terms = self.terms(at, lane);
        if terms.paused {
            return Room { free: 0, opens_at: None };
        }
        let above = self.room_of_class(at, lane).map_or(self.room(at), |of_class| self.room(at).and(of_class));
        above.and(self.room_of_lane(at, lane, &terms))
    }
}
