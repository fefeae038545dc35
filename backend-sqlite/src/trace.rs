//! What a transaction leaves in the database to be recognised by: a COMMIT that answers with an error may have happened
//! all the same, and the caller must not be told that nothing was changed unless that is certain. Each commit leaves a
//! stamp of its own in the row of every queue and limiter that it changes.

use ferroq_core::job::LimiterName;
use sqlx::SqliteConnection;

use crate::limits::LimiterMark;
use crate::queue::Queue;
use crate::script::Script;
use crate::unit::first_int;
use crate::writer::Call;

/// A queue's stamp, whether its number was ever given, and a limiter's stamp.
const STAMP: &str = "SELECT stamp FROM ferroq_queues WHERE number=?";
const LIMITER_STAMP: &str = "SELECT stamp FROM ferroq_limiters WHERE name=?";
const NUMBER_GIVEN: &str = "SELECT 1 FROM sqlite_sequence WHERE name='ferroq_queues' AND seq>=?";

/// Where it shows whether a COMMIT that failed has happened all the same.
#[derive(Debug)]
pub(crate) enum Trace {
    /// In a queue's row: by the stamps before the transaction (`None` if that made the row) and after it (`None` if it
    /// removed the row).
    Row {
        number: i64,
        before: Option<i64>,
        after: Option<i64>,
    },
    /// In a limiter's row: by the stamps before the transaction (`None` if there was no row) and after it.
    Limiter {
        name: LimiterName,
        before: Option<i64>,
        after: i64,
    },
    /// The calls may be taken not to have happened, because to repeat them does no harm.
    NotNeeded,
    Nowhere,
}

impl Trace {
    /// Where a transaction with this stamp left its trace.
    pub(crate) fn of(queues: &[Queue], limiter: Option<LimiterMark>, stamp: i64, calls: &[Call]) -> Trace {
        let row = |queue: &Queue| Trace::Row {
            number: queue.number,
            before: queue.found_stamp,
            after: (!queue.removed).then_some(stamp),
        };
        let left = queues.iter().find(|queue| queue.stamp == stamp || queue.removed).map(row);
        let limiter = limiter.map(|mark| Trace::Limiter { name: mark.name, before: mark.before, after: stamp });
        let only_watches = calls.iter().all(|call| matches!(call, Call::Watch(..)));
        left.or(limiter).unwrap_or(if only_watches { Trace::NotNeeded } else { Trace::Nowhere })
    }

    /// Whether the COMMIT has happened; `None` if that can't be told.
    pub(crate) async fn look(&self, conn: &mut SqliteConnection) -> Result<Option<bool>, sqlx::Error> {
        let mut script = Script::default();
        let (number, before, after) = match self {
            Trace::Row { number, before, after } => (*number, *before, *after),
            Trace::Limiter { name, before, after } => {
                script.add(LIMITER_STAMP, [name.as_str().into()]);
                let answers = script.run(conn, 0).await?;
                let found = answers.first().and_then(|rows| first_int(rows));
                // A row that is not there any more was reset, or is gone: then it does not count whether it was there.
                return Ok(happened(*before, Some(*after), found, false));
            }
            Trace::NotNeeded => return Ok(Some(false)),
            Trace::Nowhere => return Ok(None),
        };
        script.add(STAMP, [number.into()]);
        script.add(NUMBER_GIVEN, [number.into()]);
        let answers = script.run(conn, 0).await?;
        let found = answers.first().and_then(|rows| first_int(rows));
        let given = answers.get(1).is_some_and(|rows| !rows.is_empty());
        Ok(happened(before, after, found, given))
    }
}

/// Whether a COMMIT has happened, by the stamps in a queue's row before it, after it, and now, and by whether the
/// row's number was ever given; `None` if that does not tell. A stamp that is neither of the two is a later writer's.
fn happened(before: Option<i64>, after: Option<i64>, found: Option<i64>, given: bool) -> Option<bool> {
    match found {
        Some(_) if found == after => Some(true),
        Some(_) if found == before => Some(false),
        // Numbers are given once, so a row that was never there was not committed.
        None if before.is_none() && !given => Some(false),
        None if after.is_none() => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stamp that was not ours was once taken to say that our commit had not happened, although it may have been
    /// followed by another process's; and a row that a failed COMMIT would have made was taken to say nothing.
    #[test]
    fn only_what_the_stamps_show_is_said_of_a_failed_commit() {
        let (before, after, later) = (Some(7), Some(8), Some(9));
        assert_eq!(happened(before, after, after, true), Some(true));
        assert_eq!(happened(before, after, before, true), Some(false));
        assert_eq!(happened(before, after, later, true), None, "another writer may have come before us or after us");
        assert_eq!(happened(before, after, None, true), None, "the queue was obliterated by another");
        assert_eq!(happened(None, after, None, false), Some(false), "the row that we made is not there");
        assert_eq!(happened(None, after, None, true), None, "it may have been made, and then obliterated");
        assert_eq!(happened(None, after, later, true), None, "another's queue may have got the number");
        assert_eq!(happened(before, None, None, true), Some(true), "the row that we removed is gone");
        assert_eq!(happened(before, None, before, true), Some(false));
    }
}
