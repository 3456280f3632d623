//! Whether anything happens on a connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tower::{Layer, Service};

/// Counts the requests of one connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    answered: AtomicU64,
}

/// One request under way; also when it is cancelled, it is over.
struct UnderWay(Arc<Counts>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

impl Activity {
    pub(super) fn layer(&self) -> Watch {
        Watch(self.clone())
    }

    /// Resolves when no request has been under way, and none has begun, for `how_long`; looked at that often.
    pub(super) async fn idle_for(&self, how_long: Duration) {
        let mut seen = None;
        loop {
            let (begun, answered) = (self.0.begun.load(Ordering::Relaxed), self.0.answered.load(Ordering::Relaxed));
            if begun == answered && seen == Some(begun) {
                return;
            }
            seen = (begun == answered).then_some(begun);
            tokio::time::sleep(how_long).await;
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Watch(Activity);

impl<S> Layer<S> for Watch {
    type Service = Watched<S>;

    fn layer(&self, service: S) -> Watched<S> {
        Watched { activity: self.0.clone(), service }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Watched<S> {
    activity: Activity,
    service: S,
}

impl<S, R> Service<R> for Watched<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.activity.0.begun.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(Arc::clone(&self.activity.0));
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(under_way);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_quiet_connection_is_idle_and_a_busy_one_is_not() {
        let activity = Activity::default();
        let began = tokio::time::Instant::now();
        activity.idle_for(LIMIT).await;
        assert_eq!(began.elapsed().as_secs(), 30);

        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let mut answered = Some(answered);
        let mut service = activity.layer().layer(tower::service_fn(move |()| answered.take().expect("called once")));
        let call = service.call(());
        let busy = tokio::time::timeout(LIMIT * 10, activity.idle_for(LIMIT)).await;
        assert!(busy.is_err(), "a request is under way");
        answer.send(()).unwrap();
        call.await.unwrap();
        activity.idle_for(LIMIT).await;
    }
}
