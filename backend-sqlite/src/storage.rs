//! The handle: each role's calls go to the writer or to a reader. What may turn out to have nothing to do is looked at
//! by a reader first, so that an idle worker opens no write transaction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ferroq_core::event::EventCursor;
use ferroq_core::job::{JobRecord, LaneKey, LimiterName, QueueName, Slot};
use ferroq_core::policy::explain::Explanation;
use ferroq_core::policy::lanes::LanePolicy;
use ferroq_core::policy::rate::{Rate, limiter};
use ferroq_core::storage::{
    AcquireAnswer, AcquireRequest, ActReport, ActRequest, Batches, Capabilities, ClaimAnswer, ClaimSpec, Control,
    DumpPage, DurabilityReport, EnqueueAnswer, EnqueueRequest, EventLog, EventPage, ExchangeAnswer, ExchangeRequest,
    GatherAnswer, Inspect, JobWatch, Jobs, Lease, Limits, ListCursor, ListRequest, Loss, MembersAnswer, MembersRequest,
    Note, NoteAnswer, ObliterateAnswer, Page, QueueConfig, QueueCounts, Reconfigured, RenewAnswer, RenewRequest,
    RestoreAnswer, SignalReceiver, Storage, StorageError, SweepAnswer, SweepRequest, Transfer,
};
use ferroq_core::{JobId, JobState, Timestamp};
use sqlx::Row as _;

use crate::common::Common;
use crate::error::{closed, invalid, unexpected};
use crate::jobs::{self, Pending};
use crate::options::{Durability, SqliteOptions};
use crate::reader::Readers;
use crate::watcher::{self, Watcher};
use crate::writer::{Answer, Call, Writer};

/// ferroq's storage in a SQLite database file.
#[derive(Debug)]
pub struct SqliteStorage {
    pub(crate) common: Arc<Common>,
    writer: Writer,
    readers: Readers,
    watcher: Mutex<Option<Watcher>>,
    closed: AtomicBool,
}

macro_rules! answer {
    ($self:ident, $call:expr, $variant:ident) => {
        match $self.call($call).await? {
            Answer::$variant(answer) => Ok(answer),
            _ => Err(unexpected("the writer's answer")),
        }
    };
}

impl SqliteStorage {
    /// Opens a database, and makes ferroq's tables in it if they are not there. No other table is touched, but the file
    /// is put into WAL mode (`PRAGMA journal_mode = WAL`) if it is not in it, and stays so for all who use it: readers
    /// and a writer then don't wait for each other, commits stand in `-wal` and `-shm` files beside it, and a copy of the
    /// file alone may lack the latest ones. The handle's work is done by tasks of the runtime that calls this.
    ///
    /// # Errors
    /// `SchemaTooNew` if a newer version of the library made the tables (they are not touched), `Unsupported` for a
    /// SQLite version with the WAL-reset bug, a network file system or a text encoding other than UTF-8, `ReadOnly`,
    /// `Unavailable`, `Corrupt`, `Busy`, `Full`, `Invalid` as they apply to the file.
    pub async fn open(options: SqliteOptions) -> Result<Self, StorageError> {
        crate::open::prepare(&options).await?;
        Self::with(Arc::new(Common::new(options))).await
    }

    async fn with(common: Arc<Common>) -> Result<Self, StorageError> {
        let conn = crate::open::writer(&common.options).await?;
        Ok(SqliteStorage {
            writer: Writer::start(conn, common.clone()),
            readers: Readers::new(common.clone()),
            watcher: Mutex::new(None),
            closed: AtomicBool::new(false),
            common,
        })
    }

    async fn call(&self, call: Call) -> Result<Answer, StorageError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        self.writer.call(call).await
    }

    fn listen(&self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        if let Some(watcher) = watcher::ensure(&self.common) {
            *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
        }
    }

    /// What a claim would answer, if it is clear that it changes nothing.
    async fn idle_claim(&self, queue: &QueueName, claim: &ClaimSpec) -> Result<Option<ClaimAnswer>, StorageError> {
        let mut in_lanes = false;
        let probe = async |unit: &mut crate::unit::Unit<'_>| {
            let delayed = crate::row::place(0, JobState::Delayed, Slot::Lane, 0);
            let [rows] = unit.ask([(crate::queue::PROBE, vec![delayed.into(), queue.as_str().into()])]).await?;
            let Some(at) = unit.load(queue, &rows)? else { return Ok(Some(ClaimAnswer::default())) };
            let next: Option<i64> = rows
                .first()
                .and_then(|row| row.try_get_unchecked(3).transpose())
                .transpose()
                .map_err(|_| unexpected("a due time"))?;
            let queue = &unit.queues[at];
            if !queue.may_look_idle() {
                return Ok(None);
            }
            if queue.config.paused {
                return Ok(Some(ClaimAnswer::default()));
            }
            if queue.shelved > 0 {
                return Ok(None);
            }
            if queue.in_line() > 0 || queue.solo > 0 {
                in_lanes = !queue.lanes.is_plain(&queue.config);
                if in_lanes || queue.in_line() > 0 || claim.alone {
                    return Ok(None);
                }
            }
            let (solo_waiting, now) = (queue.solo > 0, queue.now);
            let next = next.filter(|_| queue.count(JobState::Delayed) > 0).map(Timestamp::from_micros);
            if next.is_some_and(|next| next <= now) {
                return Ok(None);
            }
            let look_again = next.map(|next| next.since(now));
            Ok(Some(ClaimAnswer { look_again, solo_waiting, ..ClaimAnswer::default() }))
        };
        let answer = self.readers.look_once(probe).await?;
        if !in_lanes {
            return Ok(answer);
        }
        // There are jobs in line: perhaps in lanes that are all set aside, and solo jobs that are all held back.
        let look = async |unit: &mut crate::unit::Unit<'_>| match unit.queue(queue).await? {
            Some(at) => unit.idle_in_lanes(at, claim).await,
            None => Ok(None),
        };
        self.readers.look(look).await
    }

    /// What a sweep would answer, if it is clear that it changes nothing.
    async fn idle_sweep(&self, queue: &QueueName) -> Result<Option<SweepAnswer>, StorageError> {
        let probe = async |unit: &mut crate::unit::Unit<'_>| {
            let Some(at) = unit.queue(queue).await? else { return Ok(Some(SweepAnswer::default())) };
            let queue = &unit.queues[at];
            let now = queue.now;
            if queue.count(JobState::Active) > 0 || queue.is_stale() {
                return Ok(None);
            }
            let began_at = queue.lanes.mended();
            if unit.met_batches(at).await?.is_some_and(|met| !met.is_all_well(began_at)) {
                return Ok(None);
            }
            let asks = Pending::asks(&unit.queues[at]);
            let answers = unit.ask(asks).await?;
            let pending = Pending::read(&unit.queues[at], &answers);
            Ok(pending.is_nothing(now).then(|| pending.answer(now)))
        };
        self.readers.look(probe).await
    }
}

#[async_trait]
impl Jobs for SqliteStorage {
    async fn enqueue(&self, request: EnqueueRequest) -> Result<Vec<EnqueueAnswer>, StorageError> {
        jobs::check_jobs(&request.queue, &request.jobs)?;
        answer!(self, Call::Enqueue(request), Enqueue)
    }

    async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        jobs::check_exchange(&request)?;
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        if let Some(claim) = request.claim.as_ref().filter(|_| request.settlements.is_empty())
            && request.call.is_none_or(|call| !self.writer.knows(call))
            && !self.common.take_work(&request.queue)
            && let Some(answer) = self.idle_claim(&request.queue, claim).await?
        {
            let answer = ExchangeAnswer { settled: Vec::new(), claimed: Some(answer) };
            self.writer.keep(request.call, self.common.clock.now(), &answer);
            return Ok(answer);
        }
        answer!(self, Call::Exchange(request), Exchange)
    }

    async fn renew(&self, request: RenewRequest) -> Result<Vec<RenewAnswer>, StorageError> {
        jobs::check_renew(&request)?;
        answer!(self, Call::Renew(request), Renew)
    }

    async fn annotate(&self, queue: &QueueName, notes: Vec<(Lease, Note)>) -> Result<Vec<NoteAnswer>, StorageError> {
        answer!(self, Call::Annotate(queue.clone(), notes), Annotate)
    }

    async fn sweep(&self, request: SweepRequest) -> Result<SweepAnswer, StorageError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        if let Some(answer) = self.idle_sweep(&request.queue).await? {
            return Ok(answer);
        }
        answer!(self, Call::Sweep(request), Sweep)
    }

    fn signals(&self, queue: &QueueName) -> SignalReceiver {
        let receiver = self.common.hub.receiver(queue);
        self.listen();
        receiver
    }

    async fn watch(&self, queue: &QueueName, id: JobId) -> Result<JobWatch, StorageError> {
        let watch = self.common.hub.watch(id);
        self.listen();
        self.call(Call::Watch(queue.clone(), id)).await?;
        Ok(watch)
    }
}

#[async_trait]
impl Batches for SqliteStorage {
    async fn gather(&self, queue: &QueueName, lease: Lease, max_items: usize) -> Result<GatherAnswer, StorageError> {
        answer!(self, Call::Gather(queue.clone(), lease, max_items), Gather)
    }

    async fn members(&self, request: MembersRequest) -> Result<MembersAnswer, StorageError> {
        self.readers.look(async |unit| unit.members(&request).await).await
    }
}

#[async_trait]
impl Inspect for SqliteStorage {
    async fn job(&self, queue: Option<&QueueName>, id: JobId) -> Result<Option<JobRecord>, StorageError> {
        self.readers.look(async |unit| unit.job(queue, id).await).await
    }

    async fn explain(&self, queue: &QueueName, id: JobId) -> Result<Explanation, StorageError> {
        self.readers.look(async |unit| unit.explain(queue, id).await).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StorageError> {
        self.readers.look(async |unit| unit.list(&request).await).await
    }

    async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, StorageError> {
        self.readers.look(async |unit| unit.counts(queue).await).await
    }

    async fn queues(&self) -> Result<Vec<QueueName>, StorageError> {
        self.readers.look(async |unit| unit.queue_names().await).await
    }

    async fn now(&self, queue: &QueueName) -> Result<Timestamp, StorageError> {
        self.readers.look(async |unit| unit.time(queue).await).await
    }
}

#[async_trait]
impl Control for SqliteStorage {
    async fn act(&self, request: ActRequest) -> Result<ActReport, StorageError> {
        crate::control::check(&request)?;
        answer!(self, Call::Act(request), Act)
    }

    async fn config(&self, queue: &QueueName) -> Result<QueueConfig, StorageError> {
        let look = async |unit: &mut crate::unit::Unit<'_>| {
            let at = unit.queue(queue).await?;
            Ok(at.map(|at| unit.queues[at].config.clone()).unwrap_or_default())
        };
        self.readers.look(look).await
    }

    async fn configure(&self, queue: &QueueName, config: QueueConfig) -> Result<(), StorageError> {
        config.check(queue)?;
        self.call(Call::Configure(queue.clone(), config.into(), None)).await.map(drop)
    }

    async fn reconfigure(
        &self,
        queue: &QueueName,
        from: QueueConfig,
        to: QueueConfig,
    ) -> Result<Reconfigured<QueueConfig>, StorageError> {
        to.check(queue)?;
        answer!(self, Call::Configure(queue.clone(), to.into(), Some(from.into())), Configure)
    }

    async fn configure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        policy: Option<LanePolicy>,
    ) -> Result<(), StorageError> {
        crate::control::check_policy(policy.as_ref())?;
        self.call(Call::ConfigureLane(queue.clone(), lane.clone(), policy, None)).await.map(drop)
    }

    async fn reconfigure_lane(
        &self,
        queue: &QueueName,
        lane: &LaneKey,
        from: Option<LanePolicy>,
        to: Option<LanePolicy>,
    ) -> Result<Reconfigured<Option<LanePolicy>>, StorageError> {
        crate::control::check_policy(to.as_ref())?;
        answer!(self, Call::ConfigureLane(queue.clone(), lane.clone(), to, Some(from)), ConfigureLane)
    }

    async fn lane_policy(&self, queue: &QueueName, lane: &LaneKey) -> Result<Option<LanePolicy>, StorageError> {
        self.readers.look(async |unit| unit.lane_policy(queue, lane).await).await
    }

    async fn lane_policies(
        &self,
        queue: &QueueName,
        after: Option<&LaneKey>,
        max_items: usize,
    ) -> Result<Vec<(LaneKey, LanePolicy)>, StorageError> {
        if max_items == 0 {
            return Err(invalid("a page of 0 lane policies was asked for; ask for at least 1"));
        }
        self.readers.look(async |unit| unit.lane_policies(queue, after, max_items).await).await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, StorageError> {
        answer!(self, Call::SetPaused(queue.clone(), paused), SetPaused)
    }

    async fn obliterate(
        &self,
        queue: &QueueName,
        force: bool,
        max_items: usize,
    ) -> Result<ObliterateAnswer, StorageError> {
        if max_items == 0 {
            return Err(invalid("an obliteration in steps of 0 items was asked for; ask for at least 1"));
        }
        answer!(self, Call::Obliterate(queue.clone(), force, max_items), Obliterate)
    }
}

#[async_trait]
impl Limits for SqliteStorage {
    async fn acquire(&self, request: AcquireRequest) -> Result<AcquireAnswer, StorageError> {
        limiter::check(&request.rate, request.permits)?;
        answer!(self, Call::Acquire(request), Acquire)
    }

    async fn peek(&self, limiter: &LimiterName, rate: &Rate, permits: u32) -> Result<AcquireAnswer, StorageError> {
        limiter::check(rate, permits)?;
        self.readers.look_once(async |unit| unit.peek(limiter, rate, permits).await).await
    }

    async fn reset(&self, limiter: &LimiterName) -> Result<(), StorageError> {
        self.call(Call::Reset(limiter.clone())).await.map(drop)
    }
}

#[async_trait]
impl EventLog for SqliteStorage {
    async fn events(
        &self,
        queue: &QueueName,
        after: EventCursor,
        max_entries: usize,
    ) -> Result<EventPage, StorageError> {
        self.readers.look(async |unit| unit.events(queue, after, max_entries).await).await
    }

    async fn last_event(&self, queue: &QueueName) -> Result<EventCursor, StorageError> {
        self.readers.look(async |unit| unit.last_event(queue).await).await
    }
}

#[async_trait]
impl Transfer for SqliteStorage {
    async fn dump(
        &self,
        queue: &QueueName,
        after: Option<ListCursor>,
        max_items: usize,
    ) -> Result<DumpPage, StorageError> {
        self.readers.look(async |unit| unit.dump(queue, after, max_items).await).await
    }

    async fn restore(&self, queue: &QueueName, page: DumpPage) -> Result<RestoreAnswer, StorageError> {
        crate::transfer::check(queue, &page)?;
        answer!(self, Call::Restore(queue.clone(), page), Restore)
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none("sqlite");
        capabilities.persistent = true;
        capabilities.shared_across_processes = true;
        let power_loss = match self.common.options.durability {
            Durability::Normal => Loss::LastCommits,
            Durability::Full => Loss::Nothing,
        };
        let process_crash = Loss::Nothing;
        capabilities.durability = DurabilityReport { process_crash, power_loss, failover: Loss::NotApplicable };
        capabilities
    }

    async fn second_handle(&self) -> Result<Arc<dyn Storage>, StorageError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        Ok(Arc::new(SqliteStorage::with(self.common.clone()).await?))
    }

    async fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        drop(self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take());
        // The only error is that the writer has ended already.
        drop(self.writer.call(Call::Close).await);
        self.readers.close().await;
    }
}
