//! Every other round is worked under limits of the queue, of a class, of its lanes and of one lane. What the event log tells
//! must keep them all, in the order in which it happened and by storage time.

use std::collections::HashMap;

use ferroq_core::event::{Event, EventCursor, EventKind};
use ferroq_core::job::{JobId, LaneClass, LaneKey, QueueName};
use ferroq_core::policy::lanes::{ClassPolicy, LanePolicy, Say, StartLimits};
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::{QueueConfig, Storage, StorageError};

use super::tasks::TERM;
use crate::invariants::limits::{check_concurrency, check_rate};

/// The lanes that jobs are in; the empty text is the default lane.
pub(super) const LANES: [&str; 6] = ["", "", "own", "c/1", "c/2", "c/3"];
const CLASS: &str = "c";
const OWN: &str = "own";

const QUEUE_SLOTS: u32 = 6;
const CLASS_SLOTS: u32 = 3;
const LANE_SLOTS: u32 = 2;
const OWN_SLOTS: u32 = 1;
const QUEUE_RATE: Rate = Rate::sliding(14, TERM);
const LANE_RATE: Rate = Rate::sliding(4, TERM);

/// The lane of this name.
pub(super) fn lane(name: &str) -> LaneKey {
    LaneKey::new(name).unwrap_or_default()
}

/// Whether a round with this seed has limits.
pub(super) fn has_limits(seed: u64) -> bool {
    seed % 2 == 1
}

/// Sets the limits.
pub(super) async fn configure(storage: &dyn Storage, queue: &QueueName) -> Result<(), String> {
    let failed = |error: StorageError| format!("setting limits: {error}");
    let class = LaneClass::new(CLASS).map_err(|error| error.to_string())?;
    let slots = |most| LanePolicy { concurrency: Say::Limit(most), ..LanePolicy::default() };
    let each = LanePolicy { rate: Say::Limit(LANE_RATE), ..slots(LANE_SLOTS) };
    let mut config = QueueConfig::default();
    config.event_entries_kept = 10_000_000;
    config.limits = StartLimits { concurrency: Some(QUEUE_SLOTS), rate: Some(QUEUE_RATE) };
    config.lanes.quantum = 2;
    let total = StartLimits { concurrency: Some(CLASS_SLOTS), rate: None };
    config.lanes.classes.insert(class, ClassPolicy { each, total });
    storage.configure(queue, config).await.map_err(failed)?;
    storage.configure_lane(queue, &lane(OWN), Some(slots(OWN_SLOTS))).await.map_err(failed)
}

/// Checks all that happened.
pub(super) async fn check(
    storage: &dyn Storage,
    queue: &QueueName,
    lanes: &HashMap<JobId, LaneKey>,
) -> Result<(), String> {
    let mut log: Vec<(Event, Option<&LaneKey>)> = Vec::new();
    let mut after = EventCursor::default();
    loop {
        let page = storage.events(queue, after, 1000).await.map_err(|error| format!("reading events: {error}"))?;
        if page.missed {
            return Err("events are gone that were to be kept".to_owned());
        }
        if page.events.is_empty() {
            break;
        }
        after = page.next;
        log.extend(page.events.into_iter().map(|event| (event, event.job.and_then(|job| lanes.get(&job)))));
    }
    let of = |is_of: &dyn Fn(&LaneKey) -> bool| -> Vec<Event> {
        log.iter().filter(|(_, lane)| lane.is_some_and(is_of)).map(|(event, _)| *event).collect()
    };
    let in_class = |lane: &LaneKey| lane.class().is_some_and(|class| class.as_str() == CLASS);
    let whole = of(&|_| true);
    check_concurrency(|_| QUEUE_SLOTS, whole.iter().copied()).map_err(|what| format!("the queue: {what}"))?;
    check_rate(&QUEUE_RATE, starts(&whole)).map_err(|what| format!("the queue: {what}"))?;
    check_concurrency(|_| CLASS_SLOTS, of(&in_class)).map_err(|what| format!("the class: {what}"))?;
    for name in LANES {
        let own = of(&|lane: &LaneKey| lane.name().unwrap_or_default() == name);
        let wrong = |what: String| format!("the lane {name:?}: {what}");
        if name == OWN {
            check_concurrency(|_| OWN_SLOTS, own).map_err(wrong)?;
        } else if in_class(&lane(name)) {
            check_rate(&LANE_RATE, starts(&own)).map_err(wrong)?;
            check_concurrency(|_| LANE_SLOTS, own).map_err(wrong)?;
        }
    }
    Ok(())
}

fn starts(events: &[Event]) -> impl Iterator<Item = ferroq_core::Timestamp> + '_ {
    events.iter().filter(|event| event.kind == EventKind::Started).map(|event| event.at)
}
