//! The claim where lanes or limits are in use: lanes are served in their turn, those of which nothing may start are set
//! aside. The heads of the ring are read by one question and their first jobs by another, however many lanes there are; the
//! visits themselves are made here, lane by lane, because what one may start depends on what others did.

use std::collections::{HashMap, VecDeque};

use ferroq_core::Timestamp;
use ferroq_core::job::{JobKind, JobState, LaneKey, Slot};
use ferroq_core::policy::lanes::{LANES_SET_ASIDE_MAX, LaneTerms, Room};
use ferroq_core::storage::{ClaimAnswer, ClaimSpec, StorageError};

use crate::jobs::claim::{Look, Looked, NEXT_RANK, SHELF_HAS, SHORT_BYTES, limit, read_line};
use crate::jobs::gate::Gated;
use crate::jobs::solo::SoloLine;
use crate::lanes::{ByNumber, OWN, Standing};
use crate::record::numbers_json;
use crate::row::{INLINE_BYTES_MAX, Row, packed, place, slot_of};
use crate::unit::{Unit, first_int};

/// The first jobs of some lanes in their order, by `ferroq_jobs_by_place`: so many of each.
pub(crate) const FIRST: &str = concat!(
    "SELECT group_concat(head,''),? FROM (SELECT (SELECT group_concat(",
    packed!("iif(octet_length(payload)<=?,payload,NULL)"),
    ",'') FROM (SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=wanted.value ORDER BY rank,key LIMIT \
     ?+0)) AS head FROM json_each(?) AS wanted)"
);
/// How many lanes more than jobs are asked for are read of the ring, for those that nothing may start of.
const HEADS_SPARE: usize = 8;

/// The next lanes of the ring, and their first jobs.
#[derive(Debug, Default)]
struct Heads {
    lanes: VecDeque<i64>,
    /// Whether these are all lanes of the ring, so that one that goes to its end is here as well.
    are_all: bool,
    jobs: ByNumber<VecDeque<Row>>,
}

impl Unit<'_> {
    /// Claims, after shelves and promotion.
    pub(super) async fn claim_from_lanes(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        kinds: &HashMap<i64, &JobKind>,
    ) -> Result<ClaimAnswer, StorageError> {
        self.resolve_lanes().await?;
        self.count_active(at).await?;
        self.bring_back(at).await?;
        let mut looked = Looked::with_capacity(claim.max_items);
        // Before the lanes are served: they may take the room that a solo job would have had.
        let solo = self.claim_solo_within(at, claim, kinds, &mut looked).await?;
        if looked.claims.is_empty() {
            self.serve(at, claim, kinds, &mut looked).await?;
        }
        self.hand_out(at, claim, &mut looked);
        self.post().await?;
        self.place_heirs().await?;
        self.look_ahead(at, claim, looked, solo).await
    }

    /// Serves the lanes in their turn.
    async fn serve(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        kinds: &HashMap<i64, &JobKind>,
        looked: &mut Looked,
    ) -> Result<(), StorageError> {
        let mut heads = Heads::default();
        let mut looked_at = 0;
        let mut free = self.room(at).free;
        for _ in 0..claim.max_items.saturating_add(LANES_SET_ASIDE_MAX) {
            if looked_at == claim.max_items || free == 0 {
                return Ok(());
            }
            if heads.lanes.is_empty() {
                self.hand_out(at, claim, looked);
                heads = self.heads(at, claim.max_items - looked_at).await?;
                self.fetch_first(at, claim, claim.max_items - looked_at, free, &mut heads).await?;
            }
            let Some(number) = heads.lanes.pop_front() else { return Ok(()) };
            let Some(lane) = self.queues[at].lanes.lane(number).map(|lane| lane.key.clone()) else { continue };
            let terms = self.terms(at, &lane);
            if let Some((standing, until)) = self.stands_aside(at, &lane, &terms) {
                let lanes = &mut self.queues[at].lanes;
                lanes.set_standing(number, standing);
                lanes.lane_mut(number).until = until.unwrap_or_default().as_micros();
                continue;
            }
            let room = self.room_for(at, &lane, &terms, free);
            let in_line = self.queues[at].in_line();
            let lanes = &mut self.queues[at].lanes;
            let waiting = usize::try_from(lanes.waiting(number, in_line)).unwrap_or(0);
            let credit = lanes.credit(number, terms.turn_jobs, in_line);
            let most = (claim.max_items - looked_at).min(waiting).min(usize::try_from(credit).unwrap_or(usize::MAX));
            let (mut looked_at_here, mut started, mut too_large) = (0, 0, false);
            if let Some(gate) = &terms.batch {
                let rows = heads.jobs.remove(&number).unwrap_or_default();
                let gated = Gated { lane: number, gate, max_items: most, room, rows };
                let visit = self.visit_gate(at, claim, kinds, gated, looked).await?;
                if visit.held {
                    looked_at += visit.looked_at;
                    free -= visit.started;
                    self.started(at, &lane, &terms, visit.started);
                    continue;
                }
                (looked_at_here, started, too_large) = (visit.looked_at, visit.started, visit.too_large);
            }
            while terms.batch.is_none() && looked_at_here < most && started < room {
                if heads.jobs.get(&number).is_none_or(VecDeque::is_empty) {
                    self.hand_out(at, claim, looked);
                    self.resolve_lanes().await?;
                    heads.lanes.push_front(number);
                    let max_items = claim.max_items - looked_at - looked_at_here;
                    self.fetch_first(at, claim, max_items, free - started, &mut heads).await?;
                    heads.lanes.pop_front();
                }
                let Some(row) = heads.jobs.get_mut(&number).and_then(VecDeque::pop_front) else { break };
                match self.look_at(at, claim, kinds, row, false, looked).await? {
                    Look::Claimed => started += 1,
                    Look::Passed => {}
                    Look::TooLarge => {
                        too_large = true;
                        break;
                    }
                }
                looked_at_here += 1;
            }
            // What the visit did to lanes, at once: nothing of it says whether the next job is looked at.
            self.resolve_lanes().await?;
            looked_at += looked_at_here;
            free -= started;
            self.started(at, &lane, &terms, started);
            let queue = &mut self.queues[at];
            let in_line = queue.in_line();
            let looked_at_here = u32::try_from(looked_at_here).unwrap_or(u32::MAX);
            let is_over = queue.lanes.visited(number, looked_at_here, in_line);
            if too_large {
                return Ok(());
            }
            if queue.lanes.waiting(number, in_line) <= 0 {
                continue;
            }
            if !is_over {
                // It still has its turn, and is only short of room.
                heads.lanes.push_front(number);
            } else if heads.are_all {
                heads.lanes.push_back(number);
            }
        }
        Ok(())
    }

    /// The next lanes of the ring, enough for so many jobs.
    async fn heads(&mut self, at: usize, jobs: usize) -> Result<Heads, StorageError> {
        self.resolve_lanes().await?;
        let wanted = jobs.saturating_add(HEADS_SPARE);
        let mut lanes = self.ring_heads(at, wanted).await?;
        let are_all = lanes.len() < wanted;
        let queue = &self.queues[at];
        if let Some(turn) = queue.lanes.own_turn(queue.in_line())
            && (are_all || lanes.last().is_some_and(|(last, _)| turn < *last))
        {
            lanes.push((turn, OWN));
        }
        lanes.sort_unstable();
        Ok(Heads { lanes: lanes.into_iter().map(|(_, number)| number).collect(), are_all, jobs: ByNumber::default() })
    }

    /// Reads the jobs that the next visits will look at, as far as can be told: all anew, because what was read before is
    /// still the head of its line.
    async fn fetch_first(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        max_items: usize,
        free: u32,
        heads: &mut Heads,
    ) -> Result<(), StorageError> {
        let queue = &self.queues[at];
        let in_line = queue.in_line();
        let mut wanted: Vec<(i64, i64)> = Vec::with_capacity(heads.lanes.len());
        let mut left = limit(max_items);
        let alone = queue.lanes.is_alone(in_line);
        let mut round: Vec<(usize, i64, i64)> = Vec::new();
        for number in &heads.lanes {
            let Some(lane) = queue.lanes.lane(*number) else { continue };
            let terms = self.terms(at, &lane.key);
            let free = i64::from(self.room_for(at, &lane.key, &terms, free));
            let credit = if alone { u32::MAX } else { queue.lanes.credit_left(*number, terms.turn_jobs) };
            // Behind a gate one is enough, to lead the others.
            let most = if terms.batch.is_some() { free.min(1) } else { free };
            let most = most.min(queue.lanes.waiting(*number, in_line));
            let first = most.min(i64::from(credit)).min(left);
            if first > 0 {
                left -= first;
                round.push((wanted.len(), most - first, i64::from(terms.turn_jobs)));
                wanted.push((*number, first));
            }
            if left == 0 {
                break;
            }
        }
        // Further rounds, if these are all lanes and there is more to ask for.
        while left > 0 && heads.are_all && !round.is_empty() {
            round.retain_mut(|(nth, more, turn_jobs)| {
                let next = (*more).min(*turn_jobs).min(left);
                *more -= next;
                left -= next;
                wanted[*nth].1 += next;
                next > 0 && *more > 0
            });
        }
        let Some(most) = wanted.iter().map(|(_, most)| *most).max() else { return Ok(()) };
        let inline = limit((claim.max_bytes / claim.max_items.max(1)).clamp(SHORT_BYTES, INLINE_BYTES_MAX));
        let number = queue.number;
        let places = wanted.iter().map(|(lane, _)| place(number, JobState::Waiting, Slot::Lane, *lane));
        let places = numbers_json(places);
        let [answer] = self.ask([(FIRST, vec![inline.into(), inline.into(), most.into(), places.into()])]).await?;
        heads.jobs.clear();
        for mut row in read_line(&answer)? {
            let jobs = heads.jobs.entry(slot_of(row.place).1).or_default();
            if let Some(before) = jobs.back() {
                row.share_extra(before);
            }
            jobs.push_back(row);
        }
        Ok(())
    }

    /// What a claim would answer for whom nothing can start: no lane of the ring has room, and none is to come back. `None` if
    /// it might change something.
    pub(crate) async fn idle_in_lanes(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
    ) -> Result<Option<ClaimAnswer>, StorageError> {
        let queue = &self.queues[at];
        let counts = queue.lanes.counted().is_some() || !queue.lanes.needs_count(&queue.config);
        if !queue.may_look_idle() || queue.config.paused || queue.shelved > 0 || !counts {
            return Ok(None);
        }
        let now = queue.now;
        self.count_classes(at).await?;
        if self.held_until(at).await?.is_some_and(|until| until <= now) {
            return Ok(None);
        }
        let solo = self.solo_line(at).await?;
        if solo.waiting && claim.alone {
            return Ok(None);
        }
        // What stands aside and may start, what is to come back because rules changed, and what is due all mean more.
        let answer = self.look_ahead(at, claim, Looked::default(), solo).await?;
        Ok((!answer.more).then_some(answer))
    }

    /// Says when to ask again.
    async fn look_ahead(
        &mut self,
        at: usize,
        claim: &ClaimSpec,
        looked: Looked,
        solo: SoloLine,
    ) -> Result<ClaimAnswer, StorageError> {
        self.place_heirs().await?;
        self.resolve_lanes().await?;
        let mut due = None;
        if self.queues[at].count(JobState::Delayed) > 0 {
            let delayed = self.queues[at].place(JobState::Delayed).into();
            let [rows] = self.ask([(NEXT_RANK, vec![delayed])]).await?;
            due = first_int(&rows).map(Timestamp::from_micros);
        }
        let now = self.queues[at].now;
        let held = self.held_until(at).await?;
        let mut parked: Vec<Room> = Vec::new();
        for class in self.parked_classes(at).await? {
            parked.push(self.room_of_parked(at, &class));
        }
        let queue = &self.queues[at];
        let room = self.room(at);
        let ring = queue.lanes.count(Standing::Ring) > 0 || queue.lanes.own_turn(queue.in_line()).is_some();
        let class_opens_at = parked.iter().filter_map(|room| room.opens_at).min();
        let to_serve = ring || queue.lanes.reopen_to > 0 || parked.iter().any(|room| room.free > 0);
        let opens_at = room.opens_at.filter(|_| to_serve);
        let instants = [due, opens_at, held, class_opens_at, solo.opens_at];
        let look_again = instants.into_iter().flatten().min().map(|instant| instant.since(now));
        let mut more = (to_serve && room.free > 0) || due.is_some_and(|due| due <= now);
        if !more && queue.shelved > 0 {
            let shelves = self.shelves(at, &claim.kinds).await?;
            let [rows] = self.ask([(SHELF_HAS, vec![numbers_json(shelves).into()])]).await?;
            more = !rows.is_empty();
        }
        Ok(ClaimAnswer { claims: looked.claims, more, look_again, solo_waiting: solo.waiting, solo_held: solo.held })
    }

    pub(super) fn terms(&self, at: usize, lane: &LaneKey) -> LaneTerms {
        self.queues[at].lanes.terms(lane, &self.queues[at].config)
    }

    /// The room of the queue.
    pub(super) fn room(&self, at: usize) -> Room {
        let queue = &self.queues[at];
        queue.lanes.room(&queue.config.limits, queue.count(JobState::Active), queue.now)
    }

    pub(super) fn room_of_lane(&self, at: usize, lane: &LaneKey, terms: &LaneTerms) -> Room {
        let queue = &self.queues[at];
        queue.lanes.room_of_lane(lane, &terms.limits, queue.count(JobState::Active), queue.now)
    }

    pub(super) fn room_of_class(&self, at: usize, lane: &LaneKey) -> Option<Room> {
        let queue = &self.queues[at];
        let (class, limits) = queue.config.lanes.class_total(lane)?;
        Some(queue.lanes.room_of_class(&class, limits, queue.now))
    }

    /// How many jobs of a lane may start now, under every limit, where the queue has so much room.
    fn room_for(&self, at: usize, lane: &LaneKey, terms: &LaneTerms, free: u32) -> u32 {
        if terms.paused {
            return 0;
        }
        let of_class = self.room_of_class(at, lane).map_or(u32::MAX, |room| room.free);
        free.min(of_class).min(self.room_of_lane(at, lane, terms).free)
    }

    /// Where a lane stands that nothing may start of, whatever room the queue has, and until when it is held.
    fn stands_aside(&self, at: usize, lane: &LaneKey, terms: &LaneTerms) -> Option<(Standing, Option<Timestamp>)> {
        if terms.paused {
            return Some((Standing::Closed, None));
        }
        let room = self.room_of_lane(at, lane, terms);
        if room.free == 0 {
            let standing = room.opens_at.map_or(Standing::Closed, |_| Standing::Held);
            return Some((standing, room.opens_at));
        }
        let room = self.room_of_class(at, lane)?;
        (room.free == 0).then_some((Standing::Parked, None))
    }

    /// Takes note of starts.
    pub(super) fn started(&mut self, at: usize, lane: &LaneKey, terms: &LaneTerms, n: u32) {
        let queue = &mut self.queues[at];
        queue.lanes.started(lane, &queue.config, terms, queue.now, n);
    }
}
