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
        (crate::memory::ABSENT, "ferroq_jobs_by_id"),
        (crate::memory::OLDEST, "ferroq_jobs_by_place"),
        (crate::queue::PROBE, "ferroq_jobs_by_place"),
        (crate::inspect::WALK_HEADS, "ferroq_jobs_by_place"),
        (crate::jobs::PURGE, "ferroq_dedup_by_until"),
        (crate::limits::DROP, "ferroq_limiters_by_time"),
        (crate::jobs::LAPSED, "ferroq_dedup_by_until"),
    ]) {
        let plan = plan(&mut conn, sql).await;
        assert!(plan.contains(by), "{sql}\n{plan}");
        assert!(!plan.contains("SCAN ferroq_"), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE FOR ORDER BY"), "{sql}\n{plan}");
    }
}
