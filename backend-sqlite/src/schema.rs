//! The tables, all named `ferroq_`, and their version. There is one table of jobs and two indexes on it: by id, and by
//! place, in which every job stands exactly where its state says; holds of dedup keys that end with time have one by that
//! time, and so have limiters. A lane that has a name has a row while there is anything to say of it: jobs in its line or at
//! work, starts that still count, a policy; what is to be known of lanes in any case stands in the queue's row. A batch has a
//! row until it has ended; its members are found by place. The app's own tables are never touched, nor is any
//! version table but `ferroq_meta`.

/// The version of the tables below.
pub(crate) const SCHEMA_VERSION: i64 = 1;

/// Creates what is not there. STRICT keeps a column's type what it says; the key of a job holds its queue and seq, so
/// `ferroq_jobs_by_place` orders by (place, rank, seq) without storing them again.
pub(crate) const CREATE: &str = "
CREATE TABLE IF NOT EXISTS ferroq_meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ferroq_queues (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL,
    counter INTEGER NOT NULL DEFAULT 0,
    last INTEGER NOT NULL,
    attended_at INTEGER NOT NULL,
    term_min INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    delayed INTEGER NOT NULL DEFAULT 0,
    blocked INTEGER NOT NULL DEFAULT 0,
    active INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    shelved INTEGER NOT NULL DEFAULT 0,
    solo INTEGER NOT NULL DEFAULT 0,
    event_first INTEGER NOT NULL DEFAULT 1,
    event_last INTEGER NOT NULL DEFAULT 0,
    work INTEGER NOT NULL DEFAULT 0,
    control INTEGER NOT NULL DEFAULT 0,
    stamp INTEGER NOT NULL DEFAULT 0,
    lanes TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS ferroq_names (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS ferroq_jobs (
    key INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    format INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    expires_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    lease_term INTEGER,
    failure INTEGER,
    batch INTEGER,
    id BLOB NOT NULL,
    extra BLOB,
    worker TEXT,
    notes BLOB,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS ferroq_jobs_by_id ON ferroq_jobs (id);
CREATE INDEX IF NOT EXISTS ferroq_jobs_by_place ON ferroq_jobs (place, rank);
CREATE TABLE IF NOT EXISTS ferroq_lanes (
    key INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    name TEXT NOT NULL,
    class TEXT,
    waiting INTEGER NOT NULL,
    active INTEGER NOT NULL,
    standing INTEGER,
    turn INTEGER NOT NULL,
    credit INTEGER,
    until INTEGER,
    parked TEXT,
    starts TEXT,
    starts_until INTEGER,
    policy TEXT,
    gate TEXT
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS ferroq_lanes_by_name ON ferroq_lanes (queue, name);
CREATE INDEX IF NOT EXISTS ferroq_lanes_by_turn ON ferroq_lanes (queue, standing, turn) WHERE standing IS NOT NULL;
CREATE INDEX IF NOT EXISTS ferroq_lanes_by_until ON ferroq_lanes (queue, until, turn) WHERE until IS NOT NULL;
CREATE INDEX IF NOT EXISTS ferroq_lanes_by_class ON ferroq_lanes (queue, parked, turn) WHERE parked IS NOT NULL;
CREATE INDEX IF NOT EXISTS ferroq_lanes_by_starts ON ferroq_lanes (queue, starts_until) WHERE starts_until IS NOT NULL;
CREATE INDEX IF NOT EXISTS ferroq_lanes_active ON ferroq_lanes (queue, class, active) WHERE active>0;
CREATE INDEX IF NOT EXISTS ferroq_lanes_with_policy ON ferroq_lanes (queue, name) WHERE policy IS NOT NULL;
CREATE TABLE IF NOT EXISTS ferroq_batches (
    key INTEGER PRIMARY KEY,
    leader INTEGER,
    size INTEGER NOT NULL,
    gathered INTEGER NOT NULL,
    members INTEGER NOT NULL,
    formed INTEGER NOT NULL,
    spent TEXT NOT NULL,
    doom TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS ferroq_batches_failing ON ferroq_batches (key) WHERE doom IS NOT NULL;
CREATE TABLE IF NOT EXISTS ferroq_dedup (
    queue INTEGER NOT NULL,
    key TEXT NOT NULL,
    holder BLOB NOT NULL,
    until INTEGER,
    pending BLOB,
    PRIMARY KEY (queue, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ferroq_dedup_by_until ON ferroq_dedup (queue, until) WHERE until IS NOT NULL;
CREATE TABLE IF NOT EXISTS ferroq_events (
    key INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS ferroq_limiters (
    name TEXT PRIMARY KEY,
    state BLOB NOT NULL,
    gone_at INTEGER NOT NULL,
    stamp INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ferroq_limiters_by_time ON ferroq_limiters (gone_at);
INSERT INTO ferroq_meta (name, value) VALUES ('schema', 1) ON CONFLICT (name) DO NOTHING;
";
