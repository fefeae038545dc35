//! Futures that are dropped half way, as `select!`, a timeout or a closed connection do it. Polling a future n times and
//! dropping it, for n from 0 until it completes, drops it once at every place where it can be dropped.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// What became of a future that was given only so many polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled<T> {
    /// It was ready in time.
    Ready(T),
    /// It was dropped, still pending.
    Dropped,
}

impl<T> Polled<T> {
    /// Its output, if it was ready in time.
    pub fn ready(self) -> Option<T> {
        match self {
            Polled::Ready(output) => Some(output),
            Polled::Dropped => None,
        }
    }
}

/// Polls a future at most `times` times, each time when it asked to be woken, and drops it then.
pub async fn polled<F: Future>(times: usize, future: F) -> Polled<F::Output> {
    let mut left = times;
    let mut future = pin!(future);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(Polled::Dropped);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Polled::Ready(output)),
            Poll::Pending if left == 0 => Poll::Ready(Polled::Dropped),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_gets_exactly_as_many_polls_as_it_was_given() {
        let yields = || async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            7
        };
        for times in 0..3 {
            assert_eq!(polled(times, yields()).await, Polled::Dropped, "{times} polls");
        }
        assert_eq!(polled(3, yields()).await, Polled::Ready(7));
    }
}
