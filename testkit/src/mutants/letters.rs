//! Mutants that lose what a job leaves behind when it fails for good.

use async_trait::async_trait;
use ferroq_core::storage::{Act, ActReport, ActRequest, ExchangeAnswer, ExchangeRequest, Storage};

use super::wrap::{Answer, Twist};

/// Copies no job whose run fails it.
#[derive(Default)]
pub(super) struct NoCopies;

#[async_trait]
impl Twist for NoCopies {
    async fn exchange(&self, to: &dyn Storage, request: ExchangeRequest) -> Answer<ExchangeAnswer> {
        let queue = request.queue.clone();
        let config = to.config(&queue).await?;
        if config.dead_letter.is_none() {
            return to.exchange(request).await;
        }
        let mut without = config.clone();
        without.dead_letter = None;
        to.configure(&queue, without).await?;
        let answer = to.exchange(request).await;
        to.configure(&queue, config).await?;
        answer
    }
}

/// Takes a dead letter away, and brings nothing back.
#[derive(Default)]
pub(super) struct RedriveRemoves;

#[async_trait]
impl Twist for RedriveRemoves {
    async fn act(&self, to: &dyn Storage, mut request: ActRequest) -> Answer<ActReport> {
        if request.act == Act::Redrive {
            request.act = Act::Remove;
        }
        to.act(request).await
    }
}
