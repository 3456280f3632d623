//! The credits left at kie.ai: what was seen last, asked anew where that is too old. Once for all who ask at a time, and
//! once a fleet. Nobody who waits for a link waits for this.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::{Clock, Instant},
    fleet::{Fleet, SeenBefore},
    telemetry::metrics::reading_if_known,
    upstream::{self, Amount, Chain, Kie},
};

/// However often callers ask, kie.ai hears of it no more often than this.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// After a failure kie.ai is asked again no sooner than this, doubled each time.
const FIRST_DELAY: Duration = Duration::from_secs(2);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// How often it is looked whether it is time to ask.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// An answer is good for so long. Zero: for the caller that it was asked for.
    pub every: Duration,
}

/// What it works with.
pub(crate) struct Parts {
    pub(crate) kie: Kie,
    pub(crate) fleet: Option<Fleet>,
    pub(crate) clock: Clock,
    /// Calls under way run on it, until `stop`.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Credits(Arc<Inner>);

struct Inner {
    config: Config,
    parts: Parts,
    state: Mutex<State>,
    calls: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

/// Without the call under way, whatever was seen and heard; decisions are made of it.
#[derive(Debug, Default)]
struct State {
    known: Known,
    flight: Option<watch::Receiver<Option<Landed>>>,
}

#[derive(Debug, Default)]
struct Known {
    seen: Option<Seen>,
    failure: Option<Failure>,
    asked: Option<Asked>,
}

/// What kie.ai said last.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) left: Amount,
    pub(crate) at: Instant,
    /// The version of the key that it was asked with: another key may be of another account.
    key: u64,
}

#[derive(Debug)]
struct Failure {
    error: Arc<upstream::Error>,
    failures: u32,
    until: Instant,
    key: u64,
}

/// When kie.ai was asked last, or would have been.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    key: u64,
    /// Links that had been minted by then.
    minted: u64,
}

type Landed = Result<Seen, Arc<upstream::Error>>;

/// How an answer was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Seen,
    Asked,
    Joined,
}

/// An answer for a caller.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) seen: Seen,
    pub(crate) found: Found,
    /// For how long it is good.
    pub(crate) left: Duration,
}

/// Why a caller gets none.
#[derive(Debug)]
pub(crate) enum Error {
    Upstream(Arc<upstream::Error>),
    /// The caller's patience ended.
    TimedOut,
    /// The call came to no end.
    Lost,
}

/// For people.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Description {
    pub(crate) left: f64,
    pub(crate) age_seconds: u64,
}

/// What is due by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// To look what other replicas have seen.
    Look,
    Ask,
}

impl Known {
    /// What can be said without asking: what was seen no longer ago than `within`, or a failure that still holds.
    fn recall(&self, within: Duration, key: u64, now: Instant) -> Option<Result<Seen, upstream::Error>> {
        if let Some(seen) = self.seen.as_ref().filter(|seen| seen.key == key && now.since(seen.at) <= within) {
            return Some(Ok(seen.clone()));
        }
        let failure = self.failure.as_ref().filter(|failure| failure.key == key && now < failure.until)?;
        let cause = Box::new(upstream::Error::clone(&failure.error));
        Some(Err(upstream::Error::Recalled { cause, retry_after: now.until(failure.until) }))
    }

    /// kie.ai was asked with this key, or another replica had asked.
    fn note(&mut self, landed: &Landed, key: u64, now: Instant) {
        match landed {
            Ok(seen) => (self.seen, self.failure) = (Some(seen.clone()), None),
            Err(error) if !is_to_be_remembered(error) => {}
            Err(error) => {
                let failures = self.failure.as_ref().filter(|failure| failure.key == key).map_or(0, |it| it.failures);
                let delay = FIRST_DELAY.saturating_mul(1 << failures.min(8)).min(LONGEST_DELAY);
                let until = now + error.retry_after().unwrap_or_default().max(delay);
                self.failure = Some(Failure { error: Arc::clone(error), failures: failures + 1, until, key });
            }
        }
    }

    /// At the start, with a new key, and where a link was minted since, for that may have cost something; where nothing
    /// was heard yet, too.
    fn due(&self, every: Duration, key: u64, minted: u64, now: Instant) -> Due {
        if self.failure.as_ref().is_some_and(|failure| failure.key == key && now < failure.until) {
            return Due::Nothing;
        }
        match self.asked {
            None => Due::Ask,
            Some(asked) if asked.key != key => Due::Ask,
            Some(asked) if now.since(asked.at) < every => Due::Nothing,
            Some(asked) if minted > asked.minted || self.seen.is_none() => Due::Ask,
            Some(_) => Due::Look,
        }
    }
}

/// A rule of our own is asked again each time: it knows best how long it holds.
fn is_to_be_remembered(error: &upstream::Error) -> bool {
    matches!(error, upstream::Error::Relayed { .. }) || !error.is_our_own()
}

impl Credits {
    pub(crate) fn new(config: Config, parts: Parts) -> Credits {
        Credits(Arc::new(Inner { config, parts, state: Mutex::default(), calls: Family::default() }))
    }

    /// What was seen last, with the key that is used next.
    pub(crate) fn last(&self) -> Option<Seen> {
        let key = self.0.parts.kie.key_version();
        self.0.state().known.seen.clone().filter(|seen| seen.key == key)
    }

    pub(crate) fn describe(&self) -> Option<Description> {
        let Seen { left, at, .. } = self.last()?;
        let age_seconds = self.0.parts.clock.now().since(at).as_secs();
        Some(Description { left: left.as_f64(), age_seconds })
    }

    /// What can be told at once; `None` where kie.ai must be asked.
    pub(crate) fn recall(&self) -> Option<Result<Given, Error>> {
        let now = self.0.parts.clock.now();
        let known = self.0.state().known.recall(self.0.good_for(), self.0.parts.kie.key_version(), now)?;
        Some(known.map(|seen| self.0.given(seen, Found::Seen)).map_err(|error| Error::Upstream(Arc::new(error))))
    }

    /// Asks, or joins whoever is asking; waits until `deadline` at most. Cancel safe: the call goes on without this
    /// caller.
    pub(crate) async fn get(&self, deadline: Instant) -> Result<Given, Error> {
        let clock = &self.0.parts.clock;
        loop {
            let (mut flight, found) = self.join(None);
            let left = clock.now().until(deadline);
            let landed = tokio::time::timeout(left, flight.wait_for(Option::is_some)).await;
            let landed = landed.map_err(|_| Error::TimedOut)?.ok().and_then(|landed| landed.clone());
            match landed.ok_or(Error::Lost)? {
                Ok(seen) => return Ok(self.0.given(seen, found)),
                Err(error) => match *error {
                    // Mints come first; there is room in time.
                    upstream::Error::NoBudget { retry_after } if clock.now() + retry_after < deadline => {
                        tokio::time::sleep(retry_after).await;
                    }
                    _ => return Err(Error::Upstream(error)),
                },
            }
        }
    }

    /// Asks at the start and whenever it is due, until `stop`. `minted` counts links.
    pub(crate) async fn watch(self, minted: impl Fn() -> u64 + Send + Sync, stop: CancellationToken) {
        if self.0.config.every.is_zero() {
            return;
        }
        let every = self.0.good_for();
        let asking = async {
            if let Some(fleet) = &self.0.parts.fleet {
                fleet.settled().await;
            }
            loop {
                let Parts { kie, clock, .. } = &self.0.parts;
                let (now, count) = (clock.now(), minted());
                let due = self.0.state().known.due(every, kie.key_version(), count, now);
                match due {
                    Due::Nothing => {}
                    Due::Look => self.0.look(now).await,
                    Due::Ask => {
                        let (mut flight, _) = self.join(Some(count));
                        // An error means that it came to no end: the next look finds it due again.
                        let _ = flight.wait_for(Option::is_some).await;
                    }
                }
                tokio::time::sleep(LOOK_EVERY.min(every)).await;
            }
        };
        stop.run_until_cancelled(asking).await;
    }

    /// The call under way, or a new one. `minted`: links minted by now, where somebody has counted them.
    fn join(&self, minted: Option<u64>) -> (watch::Receiver<Option<Landed>>, Found) {
        let mut state = self.0.state();
        // One whose sender is gone has ended without a word.
        if let Some(flight) = state.flight.as_ref().filter(|flight| flight.has_changed().is_ok()) {
            return (flight.clone(), Found::Joined);
        }
        let (sender, receiver) = watch::channel(None);
        state.flight = Some(receiver.clone());
        drop(state);
        let inner = Arc::clone(&self.0);
        self.0.parts.tasks.spawn(async move {
            let landed = tokio::select! {
                landed = inner.fly(minted) => landed,
                () = inner.parts.stop.cancelled() => Err(Arc::new(upstream::Error::ShuttingDown)),
            };
            // What was seen is there before the call is over: whoever asks next finds the one or the other.
            inner.state().flight = None;
            sender.send_replace(Some(landed));
        });
        (receiver, Found::Asked)
    }

    /// Adds what is known to what `/metrics` shows.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Credits left at kie.ai, as last seen; nothing before they were";
        let credits = self.clone();
        reading_if_known(registry, "credits", help, move || Some(credits.last()?.left.as_f64()));
        let help = "Calls for the credits left that kie.ai has heard of, by how they ended";
        registry.register("credits_requests", help, self.0.calls.clone());
        for result in std::iter::once("ok").chain(upstream::Error::KINDS.map(|kind| kind.as_str())) {
            if !result.starts_with("source-") {
                let _: &Counter = &self.0.calls.get_or_create(&Labels { result });
            }
        }
    }
}

impl Inner {
    fn good_for(&self) -> Duration {
        self.config.every.max(LEAST_AGE)
    }

    fn given(&self, seen: Seen, found: Found) -> Given {
        let left = self.parts.clock.now().until(seen.at + self.good_for());
        Given { seen, found, left }
    }

    /// One call, for all who wait and for the fleet.
    async fn fly(&self, minted: Option<u64>) -> Landed {
        let Parts { kie, fleet, clock, .. } = &self.parts;
        // Before the call: with a key that comes meanwhile, it is to be asked anew.
        let (began, key) = (clock.now(), kie.key_version());
        let mut turn = None;
        if let Some(fleet) = fleet {
            match fleet.turn_for_credits(self.good_for()).await {
                Ok(granted) => turn = Some(granted),
                Err(SeenBefore::Left { left, age }) => {
                    let now = clock.now();
                    return self.landed(Ok(Seen { left, at: now - age, key }), key, minted, now);
                }
                Err(SeenBefore::Failed(error)) => return self.landed(Err(Arc::new(error)), key, minted, began),
            }
        }
        let asked_at = clock.now();
        let result = kie.credits().await;
        self.tell(&result);
        if let Some(turn) = turn {
            turn.tell(&result, self.good_for());
        }
        self.landed(result.map(|left| Seen { left, at: asked_at, key }).map_err(Arc::new), key, minted, began)
    }

    fn landed(&self, landed: Landed, key: u64, minted: Option<u64>, began: Instant) -> Landed {
        let mut state = self.state();
        let known = &mut state.known;
        known.note(&landed, key, self.parts.clock.now());
        if landed.as_ref().err().is_none_or(|error| is_to_be_remembered(error)) {
            // What a caller asked tells as much, but nobody has counted links for it.
            let minted = minted.or(known.asked.map(|asked| asked.minted)).unwrap_or_default();
            known.asked = Some(Asked { at: began, key, minted });
        }
        landed
    }

    /// Takes what another replica has seen; nobody is asked.
    async fn look(&self, now: Instant) {
        let Parts { kie, fleet, clock, .. } = &self.parts;
        let Some(fleet) = fleet else { return };
        let found = fleet.look_for_credits(self.good_for()).await;
        let key = kie.key_version();
        let mut state = self.state();
        if let Some((left, age)) = found {
            state.known.note(&Ok(Seen { left, at: clock.now() - age, key }), key, now);
        }
        if let Some(asked) = &mut state.known.asked {
            asked.at = now;
        }
    }

    /// Counts and logs a call.
    fn tell(&self, result: &Result<Amount, upstream::Error>) {
        let error = match result {
            Ok(left) => {
                self.calls.get_or_create(&Labels { result: "ok" }).inc();
                return tracing::info!(credits = left.as_f64(), "kie.ai says how many credits are left");
            }
            Err(error) => error,
        };
        if error.is_our_own() {
            return tracing::debug!(error = %Chain(error), "the credits left are not asked for");
        }
        self.calls.get_or_create(&Labels { result: error.kind().as_str() }).inc();
        match error {
            // Only its operator can mend that.
            upstream::Error::KeyRefused(_) => {
                tracing::error!(error = %Chain(error), "the credits left are not known");
            }
            _ => tracing::warn!(error = %Chain(error), "the credits left are not known"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credits").field("config", &self.0.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Answer;

    const EVERY: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn seen(seconds: u64) -> Landed {
        Ok(Seen { left: Amount::read("5916.25").unwrap(), at: at(seconds), key: 1 })
    }

    fn limited(retry_after: Option<u64>) -> Landed {
        let answer = Answer { http_status: 200, code: Some(429), message: None };
        Err(Arc::new(upstream::Error::RateLimited { answer, retry_after: retry_after.map(Duration::from_secs) }))
    }

    /// `asks`, `told` for so many seconds, or `seen`.
    fn recalled(known: &Known, key: u64, now: u64) -> String {
        match known.recall(EVERY, key, at(now)) {
            None => "asks".to_owned(),
            Some(Ok(_)) => "seen".to_owned(),
            Some(Err(error)) => format!("told {}", error.retry_after().unwrap().as_secs()),
        }
    }

    #[test]
    fn what_was_seen_is_told_until_it_is_too_old_and_of_no_other_key() {
        let mut known = Known::default();
        assert_eq!(recalled(&known, 1, 100), "asks");
        known.note(&seen(100), 1, at(101));
        for (key, now, expected) in [(1, 100, "seen"), (1, 400, "seen"), (1, 401, "asks"), (2, 101, "asks")] {
            assert_eq!(recalled(&known, key, now), expected, "{key} {now}");
        }
    }

    #[test]
    fn a_failure_is_told_for_longer_each_time_and_not_once_there_was_an_answer() {
        let mut known = Known::default();
        let mut now = 100;
        for delay in [2, 4, 8, 16, 32, 60, 60] {
            known.note(&limited(None), 1, at(now));
            assert_eq!(recalled(&known, 1, now), format!("told {delay}"));
            assert_eq!(recalled(&known, 2, now), "asks", "another key");
            now += delay;
            assert_eq!(recalled(&known, 1, now), "asks");
        }
        known.note(&limited(Some(90)), 1, at(now));
        assert_eq!(recalled(&known, 1, now), "told 90", "as kie.ai wants it");
        known.note(&seen(now), 1, at(now));
        known.note(&limited(None), 1, at(now + 400));
        assert_eq!(recalled(&known, 1, now + 400), "told 2");
        let ours = Err(Arc::new(upstream::Error::Paused { retry_after: Duration::from_secs(9) }));
        known.note(&ours, 1, at(now + 500));
        assert_eq!(recalled(&known, 1, now + 500), "asks", "a rule of our own answers for itself");
    }

    #[test]
    fn it_is_asked_at_the_start_with_a_new_key_and_then_if_a_link_was_minted() {
        let mut known = Known::default();
        let due = |known: &Known, key, minted, now| known.due(EVERY, key, minted, at(now));
        assert_eq!(due(&known, 1, 0, 100), Due::Ask);
        known.asked = Some(Asked { at: at(100), key: 1, minted: 7 });
        known.note(&seen(100), 1, at(100));
        for (key, minted, now, expected) in [
            (1, 9, 101, Due::Nothing),
            (1, 9, 399, Due::Nothing),
            (1, 7, 400, Due::Look),
            (1, 8, 400, Due::Ask),
            (2, 7, 101, Due::Ask),
        ] {
            assert_eq!(due(&known, key, minted, now), expected, "{key} {minted} {now}");
        }
        known.seen = None;
        assert_eq!(due(&known, 1, 7, 399), Due::Nothing);
        assert_eq!(due(&known, 1, 7, 400), Due::Ask, "nothing was heard yet");
    }
}
