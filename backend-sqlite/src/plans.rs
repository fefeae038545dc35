//! Each hot statement finds its rows by the index that it names, and sorts nothing: this is what keeps the cost of a
//! call from growing with the backlog.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Row, SqliteConnection};

async fn plan(conn: &mut SqliteConnection, sql: &str) -> String {
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(sql).fetch_all(conn).await.expect("a plan");
    rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_hot_statement_searches_and_sorts_nothing() {
    let mut conn = SqliteConnectOptions::new().in_memory(true).connect().await.expect("a database");
    sqlx::raw_sql(crate::schema::CREATE).execute(&mut conn).await.expect("the tables");
    for (sql, by) in crate::jobs::HOT.into_iter().chain([
        (crate::writes::BY_IDS, "ferroq_jobs_by_id"),
        (crate::writes::OLDEST, "ferroq_jobs_by_place"),
        (crate::writes::REMOVE, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::writes::COMPLETE, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::writes::SAVE, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::inspect::WALK, "ferroq_jobs_by_place"),
        (crate::explain::AHEAD, "ferroq_jobs_by_place"),
        (crate::explain::AHEAD, "(place=? AND rank=? AND rowid<?)"),
        (crate::explain::HEAD, "ferroq_jobs_by_place"),
        (crate::explain::LEADER, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::explain::BEFORE, "ferroq_lanes_by_turn (queue=? AND standing=? AND turn<?)"),
        (crate::memory::ABSENT, "ferroq_jobs_by_id"),
        (crate::memory::OLDEST, "ferroq_jobs_by_place"),
        (crate::queue::PROBE, "ferroq_jobs_by_place"),
        (crate::inspect::WALK_HEADS, "ferroq_jobs_by_place"),
        (crate::jobs::PURGE, "ferroq_dedup_by_until"),
        (crate::limits::DROP, "ferroq_limiters_by_time"),
        (crate::jobs::LAPSED, "ferroq_dedup_by_until"),
        (crate::jobs::FIRST, "ferroq_jobs_by_place"),
        (crate::lane_rows::BY_NAME, "ferroq_lanes_by_name"),
        (crate::lane_rows::BY_KEY, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::lane_rows::RING, "ferroq_lanes_by_turn"),
        (crate::jobs::MEMBERS, "ferroq_jobs_by_place"),
        (crate::batches::LOAD, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::batches::FATE, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::batches::FIRST_MEMBERS, "ferroq_jobs_by_place"),
        (crate::batches::FAILING, "ferroq_batches_failing"),
        (crate::batches::MET, "ferroq_jobs_by_place"),
        (crate::batches::LEFT, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::batches::DROP_ALL, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (crate::aside::OLD, "ferroq_lanes_by_turn"),
        (crate::aside::DUE, "ferroq_lanes_by_until"),
        (crate::aside::UNTIL, "ferroq_lanes_by_until"),
        (crate::aside::PARKED, "ferroq_lanes_by_class"),
        (crate::aside::PARKED_CLASSES, "ferroq_lanes_by_class"),
        (crate::aside::ACTIVE, "ferroq_lanes_active"),
        (crate::lane_rows::WITH_ACTIVE, "ferroq_lanes_active"),
        (crate::lane_rows::WRITE_TURNS, "INTEGER PRIMARY KEY (rowid=?)"),
        (crate::lane_rows::WITH_STARTS, "ferroq_lanes_by_starts"),
        (crate::lane_rows::OVER, "ferroq_lanes_by_starts"),
        (crate::lane_rows::FORGET, "ferroq_lanes_by_starts"),
        (crate::lane_rows::FORGET_STARTS, "ferroq_lanes_by_starts"),
        (crate::lane_rows::POLICIES, "ferroq_lanes_with_policy"),
        (crate::lane_rows::DROP_ALL, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ]) {
        let plan = plan(&mut conn, sql).await;
        assert!(plan.contains(by), "{sql}\n{plan}");
        assert!(!plan.contains("SCAN ferroq_"), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE FOR ORDER BY"), "{sql}\n{plan}");
    }
}
