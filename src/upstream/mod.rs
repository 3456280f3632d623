//! The client of kie.ai: asks within the quota, asks again where that helps, and believes only what it has checked.
//!
//! Does not know that there is a cache, nor who waits. A mint goes through `Kie` (when, how often) to `Wire` (one
//! request), and every request passes the `gate`.

mod connections;
mod credits;
pub(crate) mod envelope;
mod error;
mod gate;
pub(crate) mod message;
mod metrics;
mod patience;
mod retry;
mod retry_after;
mod seen;
mod suspicion;
mod wire;

use std::{
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::retry_after::LONGEST as LONGEST_RETRY_AFTER;
#[cfg(any(test, fuzzing))]
pub(crate) use self::wire::{Life, life};
pub use self::{
    connections::{SetupError, check_roots, most_idle},
    credits::{Amount, CreditsFuture},
    error::{Answer, BadAnswer, Error, Said},
    gate::{BreakerState, Config as GateConfig},
    patience::Patience,
    seen::{Calls, KeyState},
    wire::{Config as WireConfig, Wire},
};
use self::{
    gate::{Gate, Permit, Priority, Refusal, Verdict, Wanted},
    metrics::Metrics,
    retry::{Retries, RetryBudget},
    seen::Seen,
    suspicion::FileId,
};
use crate::{
    clock::{Clock, Heard, Instant, KieClock},
    link::Link,
    source::Source,
    telemetry::trace::Span,
};

/// The paths of the endpoints, below `base_url`; also those under which kielink offers them.
pub const DOWNLOAD_URL: &str = "/api/v1/common/download-url";
pub const DOWNLOAD_URL_4O: &str = "/api/v1/gpt4o-image/download-url";

/// The path of the credits left, likewise.
pub const CREDIT: &str = "/api/v1/chat/credit";

/// A link takes at most 8 KiB; nothing that kie.ai says needs more than this, unpacked.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How to reach kie.ai, and how to ask it.
#[derive(Debug, Clone)]
pub struct Config {
    pub wire: WireConfig,
    pub kie: KieConfig,
}

/// When and how often to ask kie.ai.
#[derive(Debug, Clone)]
pub struct KieConfig {
    pub gate: GateConfig,
    /// One request, from connect to the last byte.
    pub attempt_timeout: Duration,
    /// Requests a mint, the first included.
    pub attempts: u32,
}

/// A link as it came from kie.ai.
#[derive(Debug, Clone)]
pub struct Minted {
    pub link: Link,
    /// The moment before the request was sent: life counts from here, since kie.ai may have signed at once.
    pub sent_at: Instant,
    /// The link's real end, by our clock.
    pub ends_at: Instant,
    /// What kie.ai's clock showed then.
    pub heard: Heard,
    /// Whether the end is written in the link; else it is as long after the mint as kie.ai's documentation says.
    pub says_its_end: bool,
    pub via: Via,
}

/// How a link was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    Kie,
    /// Another replica of the fleet had minted it.
    Shared,
    /// Another replica of the fleet was minting it, and was waited for.
    Joined,
}

/// Why a mint is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Callers wait for it.
    Miss,
    /// Nobody waits: the entry is past its refresh point.
    Refresh,
    /// Callers wait for one newer than the entry.
    Forced,
}

impl Reason {
    pub const ALL: [Reason; 3] = [Reason::Miss, Reason::Refresh, Reason::Forced];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Miss => "miss",
            Reason::Refresh => "refresh",
            Reason::Forced => "forced",
        }
    }
}

/// Who asks, so that callers that wait take turns: by their address, then by their connection, then by their request,
/// of which a batch is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Party {
    pub address: u64,
    pub connection: u64,
    pub request: u64,
}

/// A mint, asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    pub reason: Reason,
    pub party: Party,
    /// No request begins after this.
    pub patience: Patience,
    /// A refresh that must not be put off any more: callers will wait for its file in a moment.
    pub urgent: bool,
    /// Whether this file failed when it was last asked for.
    pub seen_to_fail: bool,
    /// Where it stands in a trace.
    pub span: Span,
    /// Which links that other replicas have minted will do; `None` where none will.
    pub welcome: Option<Welcome>,
    /// How far it has come.
    pub progress: Arc<Progress>,
}

impl Ask {
    /// For a request that mints nothing (credits, the greeting), as the fleet's quota sees it: `reason` says how long it may
    /// wait for a token, and how many it leaves to others.
    fn without_a_file(reason: Reason, party: Party, patience: Patience) -> Ask {
        Ask {
            reason,
            party,
            patience,
            urgent: false,
            seen_to_fail: false,
            span: Span::default(),
            welcome: None,
            progress: Arc::default(),
        }
    }
}

/// What a link that another replica has minted must be, so that nobody need ask kie.ai.
#[derive(Debug, Clone, Default)]
pub struct Welcome {
    /// No older than this; but whoever insists is content with a link that is younger than `cache.force_interval`.
    pub max_age: Option<Duration>,
    /// At least so much time to its deadline, or younger than `cache.force_interval`.
    pub min_fresh: Option<Duration>,
    /// Another one than this, which is there already.
    pub other_than: Option<Link>,
}

/// How far a mint has come, for those through whose hands it goes.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the first request to kie.ai was sent.
    first_sent_at: OnceLock<Instant>,
    /// Nanoseconds for which callers have waited for the shared tier.
    waited: AtomicU64,
}

impl Progress {
    pub fn first_sent_at(&self) -> Option<Instant> {
        self.first_sent_at.get().copied()
    }

    /// A request is sent to kie.ai. Only the first counts.
    pub fn sends(&self, now: Instant) {
        let _ = self.first_sent_at.set(now);
    }

    /// What is left of the time that one mint may wait for the shared tier.
    pub fn left_of(&self, budget: Duration) -> Duration {
        budget.saturating_sub(Duration::from_nanos(self.waited.load(Ordering::Relaxed)))
    }

    pub fn waited(&self, time: Duration) {
        self.waited.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What else there is that counts requests to kie.ai, besides the gate of this process: a fleet's common bucket.
pub trait Quota: Send + Sync + 'static {
    /// Waits for leave to send one request, which the gate has let through. Cancel safe; a token that the tier has given may be
    /// lost.
    ///
    /// # Errors
    /// When it may not be sent in time.
    fn take<'a>(&'a self, ask: &'a Ask) -> Pin<Box<dyn Future<Output = Result<(), Refused>> + Send + 'a>>;

    /// kie.ai has said 429, and nothing is asked of it for this time.
    fn limited(&self, pause: Duration);
}

/// Why a fleet's quota has no room for a request, and when it is worth coming back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full(Duration),
    /// kie.ai has said 429 to another replica.
    Paused(Duration),
}

pub type FindFuture<'a> = Pin<Box<dyn Future<Output = Vec<Option<Minted>>> + Send + 'a>>;

pub type MintFuture<'a> = Pin<Box<dyn Future<Output = Result<Minted, Error>> + Send + 'a>>;

/// Whatever makes links. `Kie` in earnest; a script in tests.
pub trait Mint: Send + Sync + 'static {
    /// Makes one link, asking as often as it takes. Cancel safe: dropping the future drops the request.
    fn mint<'a>(&'a self, source: &'a Source, ask: Ask) -> MintFuture<'a>;

    /// Links that are there already for many files at once, with no request to kie.ai; `None` where there is none that
    /// will do. Takes next to no time. Cancel safe.
    fn find<'a>(&'a self, sources: &'a [Source], _welcome: &'a Welcome) -> FindFuture<'a> {
        Box::pin(async { vec![None; sources.len()] })
    }

    /// Whether `find` can find anything at all.
    fn can_find(&self) -> bool {
        false
    }

    /// What became of a link that `mint` made: it is in memory, with the end that it really has; or, where it is `None`,
    /// it is of no use.
    fn kept(&self, _source: &Source, _minted: Option<&Minted>) {}
}

/// A file was refused with a key, perhaps for the file's own sake.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// The key's version.
    key: u64,
    file: FileId,
    answer: Answer,
}

/// Whatever carries one request to kie.ai. `Wire` in earnest; a model of kie.ai in simulations.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer, within `patience`. The request carries the newest key; where that is the doubted key
    /// and still on trial, the key that serves. Cancel safe: dropping the future closes the connection.
    fn send<'a>(
        &'a self,
        source: &'a Source,
        doubt: Option<&'a Doubt>,
        patience: Duration,
        span: &'a Span,
    ) -> MintFuture<'a>;

    /// A number that changes whenever the next request would carry another key.
    fn key_version(&self) -> u64;

    /// One request for the credits left, with the newest key, within `patience`. Cancel safe: dropping the future closes
    /// the connection.
    fn credits<'a>(&'a self, _patience: Duration) -> CreditsFuture<'a> {
        Box::pin(async { Err(Error::ShuttingDown) })
    }

    /// One request without a key, whose answer, whatever it is, shows kie.ai's clock. Cancel safe.
    fn greet<'a>(&'a self, _patience: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async {})
    }
}

/// kie.ai, asked with restraint. Cheap to clone.
#[derive(Clone)]
pub struct Kie(Arc<Inner>);

struct Inner {
    wire: Box<dyn Transport>,
    gate: Gate,
    retry_budget: RetryBudget,
    clock: Clock,
    attempt_timeout: Duration,
    attempts: u32,
    /// Files are told apart by a keyed hash.
    file_hash: RandomState,
    seen: Mutex<Seen>,
    metrics: Metrics,
    quota: Option<Arc<dyn Quota>>,
}

impl Kie {
    /// The queue of the gate is driven by a task on `tasks` until `stop`.
    pub fn new(
        config: &KieConfig,
        wire: impl Transport,
        clock: Clock,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Kie {
        Kie::within(None, config, wire, clock, tasks, stop)
    }

    /// As `new`, where a fleet's quota counts, too.
    pub fn within(
        quota: Option<Arc<dyn Quota>>,
        config: &KieConfig,
        wire: impl Transport,
        clock: Clock,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Kie {
        let gate = Gate::new(&config.gate, clock.clone());
        tasks.spawn(gate.clone().drive(stop));
        let KieConfig { attempt_timeout, attempts, .. } = *config;
        Kie(Arc::new(Inner {
            wire: Box::new(wire),
            gate,
            retry_budget: RetryBudget::new(),
            clock,
            attempt_timeout,
            attempts,
            file_hash: RandomState::new(),
            seen: Mutex::default(),
            metrics: Metrics::default(),
            quota,
        }))
    }
}

/// How kie.ai is, as far as the last answers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    Well,
    /// It has said 429, and nothing is asked for a while.
    Limiting,
    /// It fails or is under maintenance, and is asked now and then.
    Unwell,
    /// It refuses the account, and is asked now and then.
    Refusing,
}

impl Kie {
    /// Nothing is asked for this time: kie.ai has said 429 to another replica.
    pub fn pause(&self, pause: Duration) {
        self.0.gate.pause(pause);
    }

    pub fn condition(&self) -> Condition {
        self.0.gate.condition()
    }

    /// Changes whenever the next request would carry another key.
    pub fn key_version(&self) -> u64 {
        self.0.wire.key_version()
    }
}

/// How often kie.ai is greeted at most, and how long after the last time.
const GREETINGS: u32 = 5;
const GREETED_AGAIN: Duration = Duration::from_secs(2);

impl Kie {
    /// Has kie.ai show its clock, where it has not: another replica's links cannot be judged without. Takes a token, as
    /// any request does; gives up where nothing comes.
    pub async fn greet(&self, kie_clock: &KieClock) {
        for _ in 0..GREETINGS {
            let now = self.0.clock.now();
            if kie_clock.upper_bound(now).is_some() {
                return;
            }
            if !self.0.greet().await {
                tracing::debug!("kie.ai could not be asked what its clock shows");
            }
            if kie_clock.upper_bound(self.0.clock.now()).is_none() {
                tokio::time::sleep(GREETED_AGAIN).await;
            }
        }
    }
}

impl Mint for Kie {
    fn mint<'a>(&'a self, source: &'a Source, ask: Ask) -> MintFuture<'a> {
        Box::pin(self.0.mint(source, ask))
    }
}

impl fmt::Debug for Kie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kie").finish_non_exhaustive()
    }
}

impl Inner {
    async fn mint(&self, source: &Source, ask: Ask) -> Result<Minted, Error> {
        let (priority, attempts) = match ask.reason {
            Reason::Miss | Reason::Forced => (Priority::Caller, self.attempts),
            Reason::Refresh if ask.urgent => (Priority::UrgentRefresh, 1),
            // Nobody waits for a refresh, and its next try comes when the entry is used.
            Reason::Refresh => (Priority::Refresh, 1),
        };
        let file = self.file_hash.hash_one(source);
        let mut retries = Retries::new(attempts, fastrand::u64(..));
        self.retry_budget.deposit();
        let mut last: Option<Error> = None;
        let mut doubt: Option<Doubt> = None;
        loop {
            // What was refused with one key may well be served with another.
            let has_failed = last.as_ref().is_some_and(|error| !matches!(error, Error::KeyReplaced(_)));
            let seen_to_fail = ask.seen_to_fail || has_failed;
            let wanted = Wanted { priority, party: ask.party, file, seen_to_fail, key: self.wire.key_version() };
            let permit = match self.gate.pass(wanted, &ask.patience).await {
                Ok(permit) => permit,
                Err(refusal) => return Err(last.map_or_else(|| refused(refusal), |error| self.in_the_end(error))),
            };
            if let Some(quota) = &self.quota {
                match quota.take(&ask).await {
                    // Somebody may have been told 429 while this waited.
                    Ok(()) if self.gate.pause_left().is_some_and(|left| !left.is_zero()) => continue,
                    Ok(()) => {}
                    // The gate knows who may wait for the end of a pause.
                    Err(Refused::Paused(left)) => {
                        self.gate.pause(left);
                        continue;
                    }
                    Err(Refused::Full(retry_after)) => {
                        let error = || Error::NoBudget { retry_after };
                        return Err(last.map_or_else(error, |error| self.in_the_end(error)));
                    }
                }
            }
            if last.is_some() {
                self.metrics.retried();
            }
            ask.progress.sends(self.clock.now());
            let error = match self.attempt(source, &ask, doubt.as_ref(), permit).await {
                Ok(minted) => return Ok(minted),
                Err(error) => error,
            };
            let deadline = ask.patience.deadline();
            let Some(pause) = retries.after(&error, &self.retry_budget, self.clock.now(), deadline) else {
                return Err(self.in_the_end(error));
            };
            tracing::debug!(
                reason = ask.reason.as_str(),
                source_host = source.host(),
                error = %Chain(&error),
                pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "mint attempt failed, trying again",
            );
            ask.span.event("retry", "error.type", error.kind().as_str());
            if let Error::KeyReplaced(answer) = &error {
                doubt = Some(Doubt { key: wanted.key, file, answer: answer.clone() });
            }
            last = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the rules allowed it.
    async fn greet(&self) -> bool {
        let party = Party { request: fastrand::u64(..), ..Party::default() };
        let patience = Patience::until(self.clock.now() + self.attempt_timeout, party);
        let ask = Ask::without_a_file(Reason::Miss, party, patience);
        let (file, key) = (self.file_hash.hash_one(party.request), self.wire.key_version());
        let wanted = Wanted { priority: Priority::Caller, party, file, seen_to_fail: false, key };
        let Ok(_permit) = self.gate.pass(wanted, &ask.patience).await else { return false };
        if let Some(quota) = &self.quota
            && quota.take(&ask).await.is_err()
        {
            return false;
        }
        self.wire.greet(self.attempt_timeout).await;
        true
    }

    /// The error as callers hear it, when nothing more is tried.
    fn in_the_end(&self, error: Error) -> Error {
        match error {
            // Coming back before the pause is over is of no use, whatever kie.ai says.
            Error::RateLimited { answer, retry_after } => {
                Error::RateLimited { answer, retry_after: retry_after.max(self.gate.pause_left()) }
            }
            Error::KeyReplaced(answer) => Error::KeyRefused(answer),
            error => error,
        }
    }

    /// One request, bounded in time, reported to the gate. It has its full time even where its waiters have less: its
    /// link is there for the next caller.
    async fn attempt(
        &self,
        source: &Source,
        ask: &Ask,
        doubt: Option<&Doubt>,
        permit: Permit,
    ) -> Result<Minted, Error> {
        let key = self.wire.key_version();
        let result = self.wire.send(source, doubt, self.attempt_timeout, &ask.span).await;
        // With another key in place of one that is doubted, an answer says nothing of that one.
        let carried = if doubt.is_some() { None } else { Some(key) };
        self.saw(result.as_ref().err(), carried);
        permit.report(match &result {
            Ok(_) => Verdict::Well,
            Err(Error::RateLimited { retry_after, .. }) => Verdict::Limited(*retry_after),
            Err(error) if error.account_trouble().is_some() => Verdict::Account(error.clone()),
            Err(Error::SilentConnection) => Verdict::SilentConnection,
            Err(Error::DeadConnection(_)) => Verdict::Unknown,
            Err(error) if error.is_silence() => Verdict::Silent,
            // The answer says nothing of the key that is there by now.
            Err(Error::KeyReplaced(_)) => Verdict::Unknown,
            Err(error) if error.is_transient() => Verdict::Failed,
            // A gateway's page, which says nothing of the account, and does not clear it, either.
            Err(error) if error.answer().is_some_and(|answer| answer.code.is_none()) => Verdict::Account(error.clone()),
            Err(_) => Verdict::Well,
        });
        if let (Some(quota), Err(Error::RateLimited { .. })) = (&self.quota, &result) {
            quota.limited(self.gate.pause_left().unwrap_or_default());
        }
        result
    }
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Budget(retry_after) => Error::NoBudget { retry_after },
        Refusal::Paused(retry_after) => Error::Paused { retry_after },
        Refusal::Unwell(retry_after) => Error::Unwell { retry_after },
        Refusal::Account { error, retry_after } => Error::Recalled { cause: Box::new(error), retry_after },
        Refusal::ShuttingDown => Error::ShuttingDown,
    }
}

/// An error and everything behind it, in one line.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
