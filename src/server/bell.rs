//! A future that is polled when it rings, and not whenever its task is.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

use super::activity::Activity;

/// For a future that hardly ever has anything to say and takes a lock to say so, as a `CancellationToken` does, which all
/// connections share: each request polls its connection's task.
///
/// Wakes the connection's task through its activity, and not whoever polls it: only that task may, after `Turns::poll`.
pub(super) struct Ringing<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    rings: Waker,
}

struct Bell {
    has_rung: AtomicBool,
    activity: Activity,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.has_rung.store(true, Release);
        self.activity.wake();
    }
}

impl<F: Future> Ringing<F> {
    pub(super) fn new(future: F, activity: Activity) -> Ringing<F> {
        // It must be polled once to ring at all.
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), activity });
        Ringing { future: Box::pin(future), rings: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl<F: Future> Future for Ringing<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        // To look first costs each request less.
        if !this.bell.has_rung.load(Acquire) || !this.bell.has_rung.swap(false, AcqRel) {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.rings))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_once_and_then_when_it_rings() {
        let (token, mut polls) = (CancellationToken::new(), 0);
        let mut cancelled = Box::pin(token.cancelled());
        let activity = Activity::default();
        let mut ringing = Ringing::new(
            std::future::poll_fn(|cx| {
                polls += 1;
                cancelled.as_mut().poll(cx)
            }),
            activity.clone(),
        );
        for _ in 0..5 {
            assert!((&mut ringing).now_or_never().is_none());
        }
        let task = std::future::poll_fn(|cx| {
            activity.wakes(cx.waker());
            Pin::new(&mut ringing).poll(cx)
        });
        tokio::join!(task, async { token.cancel() });
        drop(ringing);
        assert_eq!(polls, 2);
    }
}
