//! What lanes may do, in an operator's words: every lane of a queue, the lanes of a class, or one lane. What is not said
//! stays as it is, and what a lane does not say for itself is as its class says, or else as the queue says for every lane.

use super::{ClientError, LimitsChange, QueueHandle};
use crate::job::{LaneClass, LaneKey, NameError};
use crate::policy::batch::BatchGate;
use crate::policy::lanes::{ClassPolicy, LanePolicy, LaneRules, LaneTerms, Say};
use crate::policy::rate::Rate;

/// How many lanes' policies one storage call reads.
const PAGE_ITEMS: usize = 10_000;

/// What is to change of what lanes may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneChange {
    weight: Option<Option<u32>>,
    concurrency: Option<Say<u32>>,
    rate: Option<Say<Rate>>,
    batch: Option<Say<BatchGate>>,
    paused: Option<bool>,
}

impl LaneChange {
    /// How many times the quantum a turn is; `None`: as the policy above says, or 1.
    #[must_use]
    pub fn weight(mut self, weight: impl Into<Option<u32>>) -> Self {
        self.weight = Some(weight.into());
        self
    }

    /// How many jobs of the lane may be Active at once, over all processes; or [`Say::Unlimited`]; or [`Say::Inherit`]: as
    /// the policy above says.
    #[must_use]
    pub fn concurrency(mut self, jobs: impl Into<Say<u32>>) -> Self {
        self.concurrency = Some(jobs.into());
        self
    }

    /// How many jobs of the lane may start in a span of time; or [`Say::Unlimited`]; or [`Say::Inherit`]: as the policy
    /// above says.
    #[must_use]
    pub fn rate(mut self, rate: impl Into<Say<Rate>>) -> Self {
        self.rate = Some(rate.into());
        self
    }

    /// When the jobs of the lane run, together: [`BatchGate::new`]`(size, max_wait)`; or [`Say::Unlimited`]: one by one; or
    /// [`Say::Inherit`]: as the policy above says. Their handler is given with
    /// [`handle_batch`](crate::worker::WorkerBuilder::handle_batch).
    #[must_use]
    pub fn batch(mut self, gate: impl Into<Say<BatchGate>>) -> Self {
        self.batch = Some(gate.into());
        self
    }

    /// Whether nothing of the lane starts.
    #[must_use]
    pub fn paused(mut self, paused: bool) -> Self {
        self.paused = Some(paused);
        self
    }

    fn apply(&self, policy: &mut LanePolicy) {
        if let Some(weight) = self.weight {
            policy.weight = weight;
        }
        if let Some(concurrency) = self.concurrency {
            policy.concurrency = concurrency;
        }
        if let Some(rate) = &self.rate {
            policy.rate.clone_from(rate);
        }
        if let Some(batch) = self.batch {
            policy.batch = batch;
        }
        if let Some(paused) = self.paused {
            policy.paused = paused;
        }
    }

    fn policy(&self) -> LanePolicy {
        let mut policy = LanePolicy::default();
        self.apply(&mut policy);
        policy
    }
}

/// What every lane of a queue may do, to read and to change; made by [`QueueHandle::lanes`].
#[derive(Clone, Debug)]
#[must_use = "rules change when `set` is awaited"]
pub struct QueueLanes {
    queue: QueueHandle,
    quantum: Option<u32>,
    every: LaneChange,
}

/// The lanes of one class, to read and to change what they may do; made by [`QueueHandle::lane_class`].
#[derive(Clone, Debug)]
#[must_use = "a class's policy changes when `set`, `pause`, `resume` or `remove` is awaited"]
pub struct LaneClassHandle {
    queue: QueueHandle,
    class: Result<LaneClass, NameError>,
    each: LaneChange,
    total: LimitsChange,
}

/// One lane, to read and to change what it may do; made by [`QueueHandle::lane`].
#[derive(Clone, Debug)]
#[must_use = "a lane's policy changes when `set`, `pause`, `resume` or `remove` is awaited"]
pub struct LaneHandle {
    queue: QueueHandle,
    lane: Result<LaneKey, NameError>,
    change: LaneChange,
}

impl QueueHandle {
    /// What its lanes may do, unless their class or their own policy says otherwise; the default lane is one of them.
    ///
    /// ```
    /// # use ferroq_core::client::{Client, ClientError};
    /// # async fn one_at_a_time(client: &Client) -> Result<(), ClientError> {
    /// // One job at a time of each tenant.
    /// client.queue("reports")?.lanes().every(|lane| lane.concurrency(1)).set().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lanes(&self) -> QueueLanes {
        QueueLanes { queue: self.clone(), quantum: None, every: LaneChange::default() }
    }

    /// What the lanes named `class/key` may do: each of them, and all of them together. What is wrong with the name, the
    /// first call that needs it says.
    ///
    /// ```
    /// # use ferroq_core::client::Client;
    /// use ferroq_core::policy::rate::Rate;
    ///
    /// # async fn limit(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// // 50 posts a day for each user, and 20 at once on the platform.
    /// let daily = Rate::per_day(50).in_zone("America/New_York")?;
    /// let twitter = client.queue("posts")?.lane_class("twitter");
    /// twitter.each(|lane| lane.rate(daily)).total(|all| all.concurrency(20)).set().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lane_class(&self, class: impl AsRef<str>) -> LaneClassHandle {
        LaneClassHandle {
            queue: self.clone(),
            class: LaneClass::new(class),
            each: LaneChange::default(),
            total: LimitsChange::default(),
        }
    }

    /// What one lane may do: its own policy, which says more than that of its class. It stays when the lane has no jobs. What
    /// is wrong with the name, the first call that needs it says.
    ///
    /// ```
    /// # use ferroq_core::client::{Client, ClientError};
    /// # async fn change(client: &Client) -> Result<(), ClientError> {
    /// let posts = client.queue("posts")?;
    /// posts.lane("twitter/ada").weight(3).set().await?;
    /// posts.lane("twitter/mallory").pause().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lane(&self, lane: impl AsRef<str>) -> LaneHandle {
        LaneHandle { queue: self.clone(), lane: LaneKey::new(lane), change: LaneChange::default() }
    }

    /// The lane of the jobs that name none.
    pub fn default_lane(&self) -> LaneHandle {
        LaneHandle { queue: self.clone(), lane: Ok(LaneKey::DEFAULT), change: LaneChange::default() }
    }
}

impl QueueLanes {
    /// How many jobs a lane of weight 1 is served in one turn.
    pub fn quantum(mut self, jobs: u32) -> Self {
        self.quantum = Some(jobs);
        self
    }

    /// What every lane may do.
    pub fn every(mut self, change: impl FnOnce(LaneChange) -> LaneChange) -> Self {
        self.every = change(self.every);
        self
    }

    /// Stores what was said, for every process, from its next claim on. Answers whether that changed anything.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] with all that makes no sense; as [`QueueHandle::change`]. Nothing was changed.
    pub async fn set(self) -> Result<bool, ClientError> {
        let mut rules = LaneRules { every: self.every.policy(), ..LaneRules::default() };
        rules.quantum = self.quantum.unwrap_or(rules.quantum);
        ClientError::refuse(rules.problems())?;
        let change = |rules: &mut LaneRules| {
            rules.quantum = self.quantum.unwrap_or(rules.quantum);
            self.every.apply(&mut rules.every);
        };
        self.queue.change(|config| change(&mut config.lanes)).await
    }

    /// The rules as they are stored, those of classes among them.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn get(&self) -> Result<LaneRules, ClientError> {
        Ok(self.queue.config().await?.lanes)
    }

    /// The lanes that have policies of their own, in the order of their names, however many; the default lane comes first.
    ///
    /// # Errors
    /// [`ClientError::Storage`].
    pub async fn policies(&self) -> Result<Vec<(LaneKey, LanePolicy)>, ClientError> {
        let mut all: Vec<(LaneKey, LanePolicy)> = Vec::new();
        loop {
            let after = all.last().map(|(lane, _)| lane);
            let page = self.queue.client.storage().lane_policies(&self.queue.name, after, PAGE_ITEMS).await?;
            let is_last = page.len() < PAGE_ITEMS;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }
}

impl LaneClassHandle {
    /// What each of its lanes may do.
    pub fn each(mut self, change: impl FnOnce(LaneChange) -> LaneChange) -> Self {
        self.each = change(self.each);
        self
    }

    /// What all of its lanes together may do.
    pub fn total(mut self, change: impl FnOnce(LimitsChange) -> LimitsChange) -> Self {
        self.total = change(self.total);
        self
    }

    /// Stores what was said, for every process, from its next claim on. Answers whether that changed anything.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] with all that makes no sense; as [`QueueHandle::change`]. Nothing was changed.
    pub async fn set(self) -> Result<bool, ClientError> {
        self.change(|policy| self.apply(policy)).await
    }

    /// Stops claims from its lanes, in every process, and stores what else was said. Jobs that run go on, jobs can be
    /// enqueued. Answers whether that changed anything.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn pause(&self) -> Result<bool, ClientError> {
        self.change(|policy| {
            self.apply(policy);
            policy.each.paused = true;
        })
        .await
    }

    /// Lets claims from its lanes go on, but for those that their own policy, the policy for every lane or the queue's pause
    /// stops; and stores what else was said. Answers whether that changed anything.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn resume(&self) -> Result<bool, ClientError> {
        self.change(|policy| {
            self.apply(policy);
            policy.each.paused = false;
        })
        .await
    }

    /// Forgets all that is said of the class. Answers whether anything was.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn remove(&self) -> Result<bool, ClientError> {
        self.change(|policy| *policy = ClassPolicy::default()).await
    }

    /// What is said of the class.
    ///
    /// # Errors
    /// [`ClientError::Name`] if the name is not one; [`ClientError::Storage`].
    pub async fn get(&self) -> Result<ClassPolicy, ClientError> {
        let class = self.class.clone()?;
        Ok(self.queue.config().await?.lanes.classes.remove(&class).unwrap_or_default())
    }

    fn apply(&self, policy: &mut ClassPolicy) {
        self.each.apply(&mut policy.each);
        self.total.apply(&mut policy.total);
    }

    async fn change(&self, change: impl Fn(&mut ClassPolicy) + Send + Sync) -> Result<bool, ClientError> {
        let mut problems = Vec::new();
        if let Ok(class) = &self.class {
            let mut policy = ClassPolicy::default();
            self.apply(&mut policy);
            let rules = LaneRules { classes: [(class.clone(), policy)].into(), ..LaneRules::default() };
            problems.extend(rules.problems());
        }
        let class = named(&self.class, problems)?;
        self.queue
            .change(|config| {
                let mut policy = config.lanes.classes.remove(&class).unwrap_or_default();
                change(&mut policy);
                // Of a class of which nothing is said, nothing is kept.
                if policy != ClassPolicy::default() {
                    config.lanes.classes.insert(class.clone(), policy);
                }
            })
            .await
    }
}

impl LaneHandle {
    /// How many times the quantum its turn is; `None`: as its class or the queue says, or 1.
    pub fn weight(mut self, weight: impl Into<Option<u32>>) -> Self {
        self.change = self.change.weight(weight);
        self
    }

    /// How many of its jobs may be Active at once, over all processes; or [`Say::Unlimited`]; or [`Say::Inherit`]: as its
    /// class or the queue says.
    pub fn concurrency(mut self, jobs: impl Into<Say<u32>>) -> Self {
        self.change = self.change.concurrency(jobs);
        self
    }

    /// How many of its jobs may start in a span of time; or [`Say::Unlimited`]; or [`Say::Inherit`]: as its class or the
    /// queue says.
    pub fn rate(mut self, rate: impl Into<Say<Rate>>) -> Self {
        self.change = self.change.rate(rate);
        self
    }

    /// When its jobs run, together; or [`Say::Unlimited`]: one by one; or [`Say::Inherit`]: as its class or the queue says.
    pub fn batch(mut self, gate: impl Into<Say<BatchGate>>) -> Self {
        self.change = self.change.batch(gate);
        self
    }

    /// Stores what was said, for every process, from its next claim on. Answers whether that changed anything.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] with all that makes no sense; as [`QueueHandle::change`]. Nothing was changed.
    pub async fn set(self) -> Result<bool, ClientError> {
        self.change(|policy| self.change.apply(policy)).await
    }

    /// Stops claims from it, in every process, and stores what else was said. Jobs that run go on, jobs can be enqueued.
    /// Answers whether that changed anything.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn pause(&self) -> Result<bool, ClientError> {
        self.change(|policy| self.change.clone().paused(true).apply(policy)).await
    }

    /// Lets claims from it go on, unless its class, the policy for every lane or the queue's pause stops them; and stores what
    /// else was said. Answers whether that changed anything.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn resume(&self) -> Result<bool, ClientError> {
        self.change(|policy| self.change.clone().paused(false).apply(policy)).await
    }

    /// Forgets all that is said of this lane alone. Answers whether anything was.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn remove(&self) -> Result<bool, ClientError> {
        self.change(|policy| *policy = LanePolicy::default()).await
    }

    /// What is said of this lane alone.
    ///
    /// # Errors
    /// [`ClientError::Name`] if the name is not one; [`ClientError::Storage`].
    pub async fn get(&self) -> Result<LanePolicy, ClientError> {
        let lane = self.lane.clone()?;
        Ok(self.queue.client.storage().lane_policy(&self.queue.name, &lane).await?.unwrap_or_default())
    }

    /// What its own policy, its class's and the one for every lane come to: how many jobs a turn of it is, what may start of
    /// it, and whether it is paused. What all lanes of its class, or of the queue, may do together is not in it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn terms(&self) -> Result<LaneTerms, ClientError> {
        let lane = self.lane.clone()?;
        let own = self.get().await?;
        Ok(self.queue.config().await?.lanes.terms(&lane, Some(&own)))
    }

    async fn change(&self, change: impl Fn(&mut LanePolicy) + Send + Sync) -> Result<bool, ClientError> {
        let whom = match &self.lane {
            Ok(lane) => lane.name().map_or_else(|| "the default lane".to_owned(), |name| format!("the lane {name:?}")),
            Err(_) => "the lane".to_owned(),
        };
        let lane = named(&self.lane, self.change.policy().problems(&whom))?;
        self.queue.change_lane(&lane, change).await
    }
}

/// A checked name, unless it or something else is wrong: then all of that.
fn named<T: Clone>(name: &Result<T, NameError>, mut problems: Vec<String>) -> Result<T, ClientError> {
    match name {
        Ok(name) if problems.is_empty() => Ok(name.clone()),
        Ok(_) => Err(ClientError::Invalid { problems }),
        Err(error) => {
            problems.insert(0, error.to_string());
            Err(ClientError::Invalid { problems })
        }
    }
}
