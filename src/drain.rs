//! The end, in order: not ready, a delay for balancers, no new connections, what was accepted is answered, late
//! replies, the last spans and lines; all of it within the grace.

use std::time::Duration;

use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    readiness::Readiness,
    server::Ending,
    telemetry::{LAST_LINES, trace::Tracer},
};

#[derive(Debug, Clone)]
pub struct Config {
    /// For how long it still accepts, though it is not ready any more.
    pub delay: Duration,
    /// How long it takes at most after that.
    pub grace: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything accepted was answered.
    Drained,
    /// The grace ran out first.
    CutShort,
}

/// What was sent before the stop arrives, and what waits in the listeners' backlog, is still accepted for this long:
/// closing at once would reset it.
const LINGER: Duration = Duration::from_millis(100);

/// The part of the grace in which callers who waited in vain are told so; it is one small answer each.
const LATE_REPLIES: Duration = Duration::from_millis(500);

/// How long a collector of traces may take for the last ones; part of the grace, too.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// What has to end. Where it is dropped half-way, all of it ends at once.
#[derive(Debug)]
pub(crate) struct Drain {
    config: Config,
    readiness: Readiness,
    /// The interface for callers.
    pub(crate) callers: Ending,
    /// Refreshes, mints and whatever watches.
    pub(crate) background: TaskTracker,
    /// Ends the background tasks, and with them the mints that callers wait for.
    pub(crate) cut: CancellationToken,
    /// The tasks that sum up what the log left out; `sum_up` tells them that nothing more will come.
    pub(crate) sums: TaskTracker,
    pub(crate) sum_up: CancellationToken,
    _guards: [DropGuard; 4],
}

impl Drain {
    pub(crate) fn new(config: Config, readiness: Readiness) -> Drain {
        let callers = Ending::default();
        let (cut, sum_up) = (CancellationToken::new(), CancellationToken::new());
        let guards = [&callers.drain, &callers.kill, &cut, &sum_up].map(|token| token.clone().drop_guard());
        let (background, sums) = (TaskTracker::new(), TaskTracker::new());
        Drain { config, readiness, callers, background, cut, sums, sum_up, _guards: guards }
    }

    pub(crate) async fn end(self, tracer: Tracer) -> Ended {
        let Drain { config: Config { delay, grace }, callers, .. } = &self;
        self.readiness.drain();
        tracing::info!(drain_delay = ?delay, "not ready any more, still serving");
        tokio::time::sleep(*delay + LINGER).await;
        callers.drain.cancel();
        callers.tasks.close();
        let late_replies = LATE_REPLIES.min(*grace / 4);
        let last_spans = if tracer.is_on() { LAST_SPANS.min(*grace / 4) } else { Duration::ZERO };
        // The log's last lines are waited for after this, at the process's end, where nobody reads them.
        let last_lines = LAST_LINES.min(*grace / 4);
        let patience = (*grace - late_replies - last_spans - last_lines).saturating_sub(LINGER);
        let ended = match tokio::time::timeout(patience, callers.tasks.wait()).await {
            Ok(()) => Ended::Drained,
            Err(_elapsed) => Ended::CutShort,
        };
        let left = callers.tasks.len();
        // Refreshes and mints whose callers have gone; and, where the grace ran out, those that callers still wait for.
        // They are told so, which takes a moment, before their connections are dropped.
        self.cut.cancel();
        self.background.close();
        let late = async {
            self.background.wait().await;
            callers.tasks.wait().await;
        };
        let _ = tokio::time::timeout(late_replies, late).await;
        callers.kill.cancel();
        match ended {
            Ended::Drained => tracing::info!("every accepted request was answered"),
            Ended::CutShort => tracing::warn!(connections = left, "the grace ran out; connections were cut"),
        }
        // What the tracer has not sent by then is lost: traces are worth less than an orderly end.
        let _ = tokio::task::spawn_blocking(move || tracer.shutdown(last_spans)).await;
        self.sum_up.cancel();
        self.sums.close();
        self.sums.wait().await;
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    const CONFIG: Config = Config { delay: Duration::from_secs(3), grace: Duration::from_secs(8) };

    fn drain() -> (Drain, Readiness) {
        let (readiness, []) = Readiness::waiting_for([]);
        (Drain::new(CONFIG, readiness.clone()), readiness)
    }

    #[tokio::test(start_paused = true)]
    async fn it_accepts_for_the_delay_and_a_moment_more_though_it_is_not_ready() {
        let (drain, readiness) = drain();
        let (began, token) = (Instant::now(), drain.callers.drain.clone());
        let accepting = async move {
            token.cancelled().await;
            began.elapsed()
        };
        let looks = async {
            tokio::task::yield_now().await;
            readiness.is_ready()
        };
        let (ended, accepted, is_ready) = tokio::join!(drain.end(Tracer::default()), accepting, looks);
        assert_eq!((ended, accepted, is_ready), (Ended::Drained, CONFIG.delay + Duration::from_millis(100), false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_waited_in_vain_is_told_before_its_connection_is_dropped() {
        let (drain, _) = drain();
        let (cut, kill) = (drain.cut.clone(), drain.callers.kill.clone());
        let told = Arc::new(Mutex::new(None));
        let (tells, began) = (Arc::clone(&told), Instant::now());
        drain.callers.tasks.spawn(async move {
            let reply = async {
                cut.cancelled().await;
                tokio::time::sleep(Duration::from_millis(499)).await;
            };
            let is_told = tokio::select! {
                () = reply => true,
                () = kill.cancelled() => false,
            };
            *tells.lock().unwrap() = Some(is_told);
        });
        assert_eq!(drain.end(Tracer::default()).await, Ended::CutShort);
        assert_eq!(*told.lock().unwrap(), Some(true));
        assert!(began.elapsed() < CONFIG.delay + CONFIG.grace);
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_it_is_within_the_grace_whatever_does_not_end() {
        let (drain, _) = drain();
        drain.callers.tasks.spawn(std::future::pending::<()>());
        drain.background.spawn(std::future::pending::<()>());
        let began = Instant::now();
        assert_eq!(drain.end(Tracer::default()).await, Ended::CutShort);
        // What is left of it is for the log's last lines.
        assert_eq!(began.elapsed(), CONFIG.delay + CONFIG.grace - LAST_LINES);
    }
}
