//! Processes that ask one limiter as fast as it lets them, and write down what they got and when. They can't know the storage
//! time of a permit, but they know that it lies between the question and the answer; so whatever the windows between
//! questions and answers prove to be too many is too many.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ferroq_core::client::Client;
use ferroq_core::clock::Timestamp;
use ferroq_core::policy::rate::Rate;
use ferroq_core::storage::Storage;
use ferroq_redis::{RedisOptions, RedisStorage};
use serde::{Deserialize, Serialize};

/// What a child process is to do: ask the limiter until it is killed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where the limiter is.
    pub place: Place,
    /// The limiter's name.
    pub limiter: String,
    /// How many in any window.
    pub limit: u32,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// The file to write permits to, which all processes share.
    pub trace: PathBuf,
}

/// A store that processes share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Place {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A Redis server and a namespace.
    Redis(String, String),
}

/// Permits that were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Before the question.
    pub asked: Timestamp,
    /// After the answer.
    pub answered: Timestamp,
    /// How many.
    pub permits: u32,
}

impl Order {
    /// The rate.
    pub fn rate(&self) -> Rate {
        Rate::sliding(self.limit, self.window())
    }

    /// Its window.
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }

    /// A client of the store.
    ///
    /// # Panics
    /// If the store can't be opened.
    pub async fn client(&self) -> Client {
        let storage: Arc<dyn Storage> = match &self.place {
            Place::Sqlite(db) => Arc::new(crate::store::sqlite(db).await),
            Place::Redis(url, namespace) => {
                let options = RedisOptions::from_url(url).expect("the server's URL").namespace(namespace);
                Arc::new(RedisStorage::open(options).await.expect("the server answers"))
            }
        };
        Client::new(storage)
    }

    /// Asks for ever, and writes down what was given: one, two or three permits at a time.
    ///
    /// # Errors
    /// The client's, and the file's.
    pub async fn ask_for_ever(&self, client: Client) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut trace = OpenOptions::new().create(true).append(true).open(&self.trace)?;
        for turn in 0_u32.. {
            let permits = 1 + turn % 3;
            let asked = now();
            let answer = client.limiter(&self.limiter, self.rate()).acquire(permits).await?;
            let given = Given { asked, answered: now(), permits };
            match answer.retry_after {
                Some(wait) if !answer.granted => tokio::time::sleep(wait).await,
                _ => write(&mut trace, given)?,
            }
        }
        Ok(())
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// One line in one write, so that lines of several processes don't mix.
fn write(trace: &mut File, given: Given) -> std::io::Result<()> {
    let Given { asked, answered, permits } = given;
    trace.write_all(format!("{} {} {permits}\n", asked.as_micros(), answered.as_micros()).as_bytes())
}

/// What was written down so far, without a line that is not finished.
pub fn read(trace: &Path) -> Vec<Given> {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line: &str| {
        let mut numbers = line.split(' ').map(|number| number.parse::<i64>().ok());
        let mut time = || Some(Timestamp::from_micros(numbers.next()??));
        let (asked, answered) = (time()?, time()?);
        Some(Given { asked, answered, permits: u32::try_from(time()?.as_micros()).ok()? })
    };
    whole.lines().filter_map(line).collect()
}

/// Checks that no window of the rate is proven to hold more permits than its limit: those asked for and answered within
/// one were given within it.
///
/// # Errors
/// The window, in words.
pub fn check(limit: u32, window: Duration, given: &[Given]) -> Result<(), String> {
    for from in given.iter().map(|one| one.asked) {
        let to = from.after(window);
        let within = given.iter().filter(|one| from <= one.asked && one.answered < to);
        let permits: u32 = within.map(|one| one.permits).sum();
        if permits > limit {
            return Err(format!("{permits} permits between {from} and {to}, and the limit is {limit}"));
        }
    }
    Ok(())
}
