//! The set-based statements that write rows of `ferroq_jobs`, and the questions shared by several methods. A batch
//! travels as one argument, a JSON array, except for new jobs, whose values are bound one by one, because their
//! payloads are blobs.

use std::collections::BTreeMap;

use ferroq_core::Timestamp;

use crate::row::{Row, select_heads};
use crate::script::{Script, Value};

/// Rows of ids in a queue, by `ferroq_jobs_by_id` (which ends in the key).
pub(crate) const BY_IDS: &str = select_heads!(
    "(SELECT unhex(value) AS wanted FROM json_each(?)) CROSS JOIN ferroq_jobs INDEXED BY ferroq_jobs_by_id \
     ON id=wanted AND key BETWEEN ? AND ?"
);
/// The records that may go soonest and that nobody may still wait for, by `ferroq_jobs_by_place`.
pub(crate) const OLDEST: &str = select_heads!(
    "(SELECT * FROM ferroq_jobs INDEXED BY ferroq_jobs_by_place WHERE place=? AND (flags&2=0 OR finished_at<=?) \
     ORDER BY rank,key LIMIT ?+0)"
);
/// Removes rows, by key.
pub(crate) const REMOVE: &str = "DELETE FROM ferroq_jobs WHERE key IN (SELECT value FROM json_each(?))";
/// Ends jobs that completed and left nothing to write, by key.
pub(crate) const COMPLETE: &str = "UPDATE ferroq_jobs SET place=?,rank=?,finished_at=?,lease_term=NULL \
    WHERE key IN (SELECT value FROM json_each(?))";

/// Writes what may have changed, by key.
pub(crate) const SAVE: &str = "UPDATE ferroq_jobs SET place=v->>1,rank=v->>2,priority=v->>3,epoch=v->>4,attempts=v->>5,\
    crashes=v->>6,runs=v->>7,flags=v->>8,due_at=v->>9,expires_at=v->>10,started_at=v->>11,finished_at=v->>12,\
    lease_term=v->>13,failure=v->>14,batch=v->>15,worker=v->>16,notes=iif(v->>17,CAST(v->>18 AS BLOB),notes) \
    FROM (SELECT value AS v,value->>0 AS k FROM json_each(?)) WHERE key=k";

const INSERT_COLUMNS: usize = 23;
const INSERT: &str = "INSERT INTO ferroq_jobs (key,place,rank,kind,format,priority,epoch,attempts,crashes,runs,flags,\
    created_at,due_at,expires_at,started_at,finished_at,lease_term,failure,id,extra,worker,notes,payload) \
    SELECT * FROM (VALUES ";
const NEW_COLUMNS: usize = 13;
const INSERT_NEW: &str = "INSERT INTO ferroq_jobs (key,place,rank,kind,format,priority,flags,created_at,due_at,\
    expires_at,id,extra,payload,epoch,attempts,crashes,runs) SELECT *,0,0,0,0 FROM (VALUES ";
/// How many rows one statement inserts at most.
const INSERT_ROWS_MAX: usize = 512;

fn time(at: Option<Timestamp>) -> Value {
    at.map(Timestamp::as_micros).into()
}

/// Inserts rows. Statements come in few sizes, the rest of the last one filled up with NULL keys and left out again,
/// so that they stay prepared.
pub(crate) fn insert(script: &mut Script, rows: Vec<Row>) {
    let new = rows.iter().all(|row| row.epoch == 0 && row.runs == 0 && row.finished_at.is_none());
    let (head, columns) = if new { (INSERT_NEW, NEW_COLUMNS) } else { (INSERT, INSERT_COLUMNS) };
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let left = rows.len().min(INSERT_ROWS_MAX);
        let size = left.next_power_of_two();
        let mut sql = String::with_capacity(head.len() + size * (2 * columns + 3) + 40);
        sql.push_str(head);
        for i in 0..size {
            sql.push_str(if i == 0 { "(?" } else { ",(?" });
            for _ in 1..columns {
                sql.push_str(",?");
            }
            sql.push(')');
        }
        sql.push_str(") WHERE column1 IS NOT NULL");
        let mut values = Vec::with_capacity(size * columns);
        for row in rows.by_ref().take(left) {
            let head = [row.key, row.place, row.rank, row.kind, row.format, row.priority];
            values.extend(head.map(Value::Int));
            if !new {
                values.extend([row.epoch, row.attempts.into(), row.crashes.into(), row.runs.into()].map(Value::Int));
            }
            values.extend([row.flags, row.created_at.as_micros(), row.due_at.as_micros()].map(Value::Int));
            values.push(time(row.expires_at));
            if !new {
                values.extend([time(row.started_at), time(row.finished_at), row.lease_term.into(), row.failure.into()]);
            }
            values.push(Value::Blob(row.id.as_bytes().to_vec()));
            values.push(row.extra.map_or(Value::Null, |extra| Value::Blob(extra.into_vec())));
            if !new {
                values.push(row.worker.map_or(Value::Null, |worker| Value::Text(worker.into())));
                values.push(row.notes.map_or(Value::Null, |notes| Value::Blob(notes.into_vec())));
            }
            values.push(Value::Blob(row.payload.into()));
        }
        values.resize(size * columns, Value::Null);
        script.add(&sql, values);
    }
}

/// Writes what may have changed of rows, by key.
pub(crate) fn save(script: &mut Script, rows: BTreeMap<i64, Row>) {
    if rows.is_empty() {
        return;
    }
    let mut json = String::from("[");
    for row in rows.values() {
        if json.len() > 1 {
            json.push(',');
        }
        json.push('[');
        let micros = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
        let numbers = [
            Some(row.key),
            Some(row.place),
            Some(row.rank),
            Some(row.priority),
            Some(row.epoch),
            Some(row.attempts.into()),
            Some(row.crashes.into()),
            Some(row.runs.into()),
            Some(row.flags),
            Some(row.due_at.as_micros()),
            micros(row.expires_at),
            micros(row.started_at),
            micros(row.finished_at),
            row.lease_term,
            row.failure,
            row.batch,
        ];
        for number in numbers {
            match number {
                Some(number) => json.push_str(&number.to_string()),
                None => json.push_str("null"),
            }
            json.push(',');
        }
        let text = |text: Option<&str>| serde_json::to_string(&text).unwrap_or_else(|_| "null".to_owned());
        json.push_str(&text(row.worker.as_deref()));
        let notes = row.notes.as_deref().filter(|_| row.notes_changed).map(String::from_utf8_lossy);
        json.push_str(if row.notes_changed { ",1," } else { ",0," });
        json.push_str(&text(notes.as_deref()));
        json.push(']');
    }
    json.push(']');
    script.add(SAVE, [json.into()]);
}
