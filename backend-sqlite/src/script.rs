//! Statements that travel together. Each command to a connection is a hand-over between threads, which costs more than
//! most statements, so a transaction collects its writes here and sends them in front of its next question, or of the
//! COMMIT, as one text with many statements. Arguments are anonymous, because the driver counts those on from one
//! statement to the next; and the texts take few shapes, because it caches prepared statements by text.

use futures::StreamExt;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Either, Executor, SqliteConnection};

/// An argument.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// NULL.
    Null,
    /// INTEGER.
    Int(i64),
    /// TEXT.
    Text(String),
    /// BLOB.
    Blob(Vec<u8>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        number.map_or(Value::Null, Value::Int)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Blob(bytes)
    }
}

/// Statements with their arguments.
#[derive(Debug, Default)]
pub(crate) struct Script {
    sql: String,
    values: Vec<Value>,
    statements: usize,
}

impl Script {
    /// Adds one statement.
    pub(crate) fn add(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(sql);
        self.sql.push(';');
        self.values.extend(values);
        self.statements += 1;
    }

    /// Adds another script's statements.
    pub(crate) fn append(&mut self, other: Script) {
        if self.statements == 0 {
            *self = other;
            return;
        }
        self.sql.push_str(&other.sql);
        self.values.extend(other.values);
        self.statements += other.statements;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.statements == 0
    }

    pub(crate) fn statements(&self) -> usize {
        self.statements
    }

    /// Runs all statements as one command and answers the rows of each one from the `skip`-th on. Stops at the first
    /// that fails.
    pub(crate) async fn run(
        self,
        conn: &mut SqliteConnection,
        skip: usize,
    ) -> Result<Vec<Vec<SqliteRow>>, sqlx::Error> {
        let mut arguments = SqliteArguments::default();
        arguments.reserve(self.values.len(), 0);
        for value in self.values {
            let added = match value {
                Value::Null => arguments.add(None::<i64>),
                Value::Int(number) => arguments.add(number),
                Value::Text(text) => arguments.add(text),
                Value::Blob(bytes) => arguments.add(bytes),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        let mut answers: Vec<Vec<SqliteRow>> = Vec::new();
        answers.resize_with(self.statements - skip, Vec::new);
        let query = sqlx::query_with(AssertSqlSafe(self.sql), arguments);
        let mut steps = conn.fetch_many(query);
        let mut statement = 0usize;
        while let Some(step) = steps.next().await {
            match step? {
                Either::Left(_) => statement += 1,
                Either::Right(row) => {
                    if let Some(rows) = statement.checked_sub(skip).and_then(|at| answers.get_mut(at)) {
                        rows.push(row);
                    }
                }
            }
        }
        Ok(answers)
    }
}
