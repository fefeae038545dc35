//! The role that moves jobs: each call finds its queue, answers a repeat from the kept answers, and otherwise takes a
//! turn. What happens in the turn is in the file named after the call.

use async_trait::async_trait;
use ferroq_core::job::{JobId, QueueName};
use ferroq_core::storage::{
    CallAnswer, EnqueueAnswer, EnqueueRequest, ExchangeAnswer, ExchangeRequest, JobWatch, Jobs, Lease, Note,
    NoteAnswer, RenewAnswer, RenewRequest, SignalReceiver, StorageError, SweepAnswer, SweepRequest,
};

use crate::MemoryStorage;
use crate::queue::QueueState;
use crate::storage::invalid;
use crate::turn::{Hints, Turn};

#[async_trait]
impl Jobs for MemoryStorage {
    async fn enqueue(&self, request: EnqueueRequest) -> Result<Vec<EnqueueAnswer>, StorageError> {
        let EnqueueRequest { call, queue, jobs } = request;
        if let Some(stray) = jobs.iter().find(|spec| spec.queue != queue) {
            return Err(invalid(format!("a job of the queue {} can't be enqueued on {queue}", stray.queue)));
        }
        self.write(&queue, |queue, clock| {
            match queue.answers.recall(call) {
                Some(CallAnswer::Enqueue(kept)) => return Ok((kept.clone(), Hints::default())),
                Some(_) => return Err(other_call()),
                None if jobs.is_empty() => return Ok((Vec::new(), Hints::default())),
                None => {}
            }
            let mut turn = Turn::begin(queue, clock);
            let answers: Vec<_> = jobs.into_iter().map(|spec| turn.enqueue(spec)).collect();
            let (now, hints) = (turn.now, turn.finish());
            queue.answers.keep(call, now, || CallAnswer::Enqueue(answers.clone()));
            Ok((answers, hints))
        })
    }

    async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangeAnswer, StorageError> {
        self.exchange_now(request)
    }

    async fn renew(&self, request: RenewRequest) -> Result<Vec<RenewAnswer>, StorageError> {
        self.write(&request.queue, |queue, clock| {
            if !queue.exists {
                return Ok((vec![RenewAnswer::Gone; request.leases.len()], Hints::default()));
            }
            let mut turn = Turn::begin(queue, clock);
            turn.attend();
            let answers = request.leases.into_iter().map(|lease| turn.renew(lease, request.term)).collect();
            Ok((answers, turn.finish()))
        })
    }

    async fn annotate(&self, queue: &QueueName, notes: Vec<(Lease, Note)>) -> Result<Vec<NoteAnswer>, StorageError> {
        self.write(queue, |queue, clock| {
            if !queue.exists {
                return Ok((vec![NoteAnswer::Gone; notes.len()], Hints::default()));
            }
            let mut turn = Turn::begin(queue, clock);
            let answers = notes.into_iter().map(|(lease, note)| turn.annotate(lease, note)).collect();
            Ok((answers, turn.finish()))
        })
    }

    async fn sweep(&self, request: SweepRequest) -> Result<SweepAnswer, StorageError> {
        let others = |queue: &QueueState, _| queue.config.dead_letter.iter().cloned().collect();
        self.write_across(&request.queue, others, |across, clock| {
            if !across.home.exists {
                return Ok(Default::default());
            }
            Ok(across.turn(clock, |turns| {
                turns.home.attend();
                turns.home.sweep(request.max_items)
            }))
        })
    }

    fn signals(&self, queue: &QueueName) -> SignalReceiver {
        self.store.signals.receiver(queue)
    }

    async fn watch(&self, queue: &QueueName, id: JobId) -> Result<JobWatch, StorageError> {
        // Watched first and marked after, so that an end in between is hinted.
        let watch = self.store.signals.watch(id);
        self.write(queue, |queue, _| {
            if let Some(key) = queue.roster.key(id) {
                queue.roster.get_mut(key).waited_on = true;
            }
            Ok(((), Hints::default()))
        })?;
        Ok(watch)
    }
}

/// A call number came twice with different requests.
pub(crate) fn other_call() -> StorageError {
    invalid("this call id was used for a call of another sort")
}
