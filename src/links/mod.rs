//! The heart: a link for a source URL, from memory when it can be, from kie.ai when it must be.
//!
//! Every call of `Links::get` ends in exactly one `Outcome`. Misses, refreshes and forced refreshes of one file
//! share one flight. Does not know HTTP: callers bring a `Wish` and a deadline.

mod entry;
mod flight;
mod freshness;
mod metrics;
mod mint;
mod outcome;
mod refusals;
mod sync;

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    entry::{Entry, Renewal},
    freshness::{Freshness, Times, Wish},
    metrics::{Count, Withheld},
    outcome::{Error, Lookup, Outcome},
};
use self::{
    flight::{Boarding, Flights, Lead, Seat},
    metrics::Metrics,
    refusals::Refusals,
};
use crate::{
    clock::{Clock, Instant},
    key::LogHash,
    link,
    source::SourceUrl,
    telemetry::trace::{Place, Span, Tracer},
    upstream::{self, Mint, Reason},
};

/// How long links are kept and when they are renewed.
#[derive(Debug, Clone)]
pub struct Config {
    pub ttl: Duration,
    /// Life that a link must have left whenever it is handed out.
    pub margin: Duration,
    pub refresh_after: Duration,
    pub negative_ttl: Duration,
    pub force_interval: Duration,
    pub max_bytes: u64,
    /// How long one flight may take, retries included.
    pub flight_timeout: Duration,
    /// Callers that may wait for flights at once; those whom memory answers are not counted.
    pub waiting: usize,
}

#[cfg(test)]
impl Config {
    fn for_tests() -> Config {
        Config {
            ttl: Duration::from_secs(19 * 60),
            margin: Duration::from_secs(60),
            refresh_after: Duration::from_secs(12 * 60),
            negative_ttl: Duration::from_secs(30),
            force_interval: Duration::from_secs(10),
            max_bytes: 1 << 20,
            flight_timeout: Duration::from_secs(20),
            waiting: 64,
        }
    }
}

/// The cache and the flights that fill it. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("entries", &self.0.entries.entry_count()).finish_non_exhaustive()
    }
}

struct Inner {
    config: Config,
    clock: Clock,
    log_hash: LogHash,
    mint: Arc<dyn Mint>,
    entries: moka::sync::Cache<SourceUrl, Arc<Entry>>,
    refusals: Refusals,
    flights: Flights<SourceUrl, Landed>,
    waiting: Semaphore,
    metrics: Metrics,
    tracer: Tracer,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Who asks for a link.
#[derive(Debug, Clone)]
pub struct Caller {
    /// It waits no longer than until then.
    pub deadline: Instant,
    /// Its place in a trace.
    pub span: Span,
}

/// Somebody of whom nothing else is known.
impl From<Instant> for Caller {
    fn from(deadline: Instant) -> Caller {
        Caller { deadline, span: Span::default() }
    }
}

/// What is known of one file, for people; never the link.
#[derive(Debug)]
pub struct Explanation {
    pub now: Instant,
    pub entry: Option<Arc<Entry>>,
    /// A remembered refusal and when kie.ai gave it.
    pub refusal: Option<(Arc<upstream::Error>, Instant)>,
    /// Whether a mint is under way.
    pub in_flight: bool,
}

/// What a flight brings home. A caller who joined a refresh is not served by its failure: nobody waited when it
/// set out, so it was allowed to give up early.
#[derive(Clone)]
struct Landed {
    result: Result<Arc<Entry>, Arc<upstream::Error>>,
    reason: Reason,
    /// Where it stands in a trace, for those who joined it.
    place: Option<Place>,
}

/// Why a flight sets out.
struct Purpose {
    reason: Reason,
    /// The caller insists on a fresh link.
    insists: bool,
    old: Option<Arc<Entry>>,
    caller: Caller,
}

/// What memory says.
enum Look {
    Serve { entry: Arc<Entry>, due: bool },
    Refused(Arc<upstream::Error>),
    Mint { reason: Reason, old: Option<Arc<Entry>> },
}

/// How often one call goes round after a flight that did not serve it (lost, a failed refresh, dead on arrival).
const ROUNDS: u32 = 4;

impl Links {
    /// Flights run as tasks on `tasks` and end when `stop` is cancelled.
    pub fn new(
        config: Config,
        mint: Arc<dyn Mint>,
        clock: Clock,
        log_hash: LogHash,
        tracer: Tracer,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Links {
        let metrics = Metrics::default();
        let entries = moka::sync::Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(|source: &SourceUrl, entry: &Arc<Entry>| entry.weight(source.as_str()))
            // Memory only: moka's clock stands still during suspend. Freshness is decided by `Times::judge`.
            .time_to_live(link::LIFE)
            .eviction_listener(metrics::listener(&metrics))
            .build();
        let refusals = Refusals::new(config.negative_ttl, config.max_bytes / 8);
        let flights = Flights::new();
        let waiting = Semaphore::new(config.waiting.min(Semaphore::MAX_PERMITS));
        Links(Arc::new(Inner {
            config,
            clock,
            log_hash,
            mint,
            entries,
            refusals,
            flights,
            waiting,
            metrics,
            tracer,
            tasks,
            stop,
        }))
    }

    /// What memory says of `source`, at once; `None` where it takes a mint.
    pub fn recall(&self, source: &SourceUrl, wish: &Wish, caller: &Caller) -> Option<Result<Lookup, Error>> {
        let now = self.0.clock.now();
        match self.0.look(source, wish, now) {
            Look::Serve { entry, due } => Some(Ok(self.0.serve(source, entry, due, wish, caller, now))),
            Look::Refused(error) => Some(Err(Error::Refused(error))),
            Look::Mint { .. } if wish.only_if_cached => Some(Err(Error::NotCached)),
            Look::Mint { .. } => None,
        }
    }

    /// A live link for `source`, or the reason why there is none. Waits no longer than until the caller's deadline.
    ///
    /// Cancel safe: a caller that goes away leaves the flight it began to those who joined, and to the cache.
    pub async fn get(&self, source: &SourceUrl, wish: &Wish, caller: impl Into<Caller>) -> Result<Lookup, Error> {
        let inner = &self.0;
        let caller: Caller = caller.into();
        let deadline = caller.deadline;
        for round in 0..ROUNDS {
            let now = inner.clock.now();
            let wanted = match inner.look(source, wish, now) {
                Look::Serve { entry, due } => {
                    let lookup = inner.serve(source, entry, due, wish, &caller, now);
                    // Whoever has waited for a flight, even a lost one, has not had it from memory.
                    let outcome = if round == 0 { lookup.outcome } else { Outcome::Joined };
                    return Ok(Lookup { outcome, ..lookup });
                }
                Look::Refused(error) => return Err(Error::Refused(error)),
                Look::Mint { .. } if wish.only_if_cached => return Err(Error::NotCached),
                Look::Mint { reason, .. } => reason,
            };
            let _place = inner.waiting.try_acquire().map_err(|_| Error::Crowded)?;
            let (seat, outcome, reason) = match inner.flights.board(source) {
                Boarding::Join(seat) => (seat, Outcome::Joined, wanted),
                Boarding::Lead(lead) => match inner.look(source, wish, now) {
                    // Between the look and the boarding a flight landed: do not mint twice.
                    Look::Serve { entry, due } => {
                        drop(lead);
                        return Ok(inner.serve(source, entry, due, wish, &caller, now));
                    }
                    Look::Refused(error) => return Err(Error::Refused(error)),
                    Look::Mint { reason, old } => {
                        let insists = wish.max_age.is_some() || wish.min_fresh.is_some();
                        let purpose = Purpose { reason, insists, old, caller: caller.clone() };
                        (inner.take_off(lead, source, purpose), Outcome::Miss, reason)
                    }
                },
            };
            let landed = match tokio::time::timeout(now.until(deadline), seat.wait()).await {
                Err(_elapsed) => return Err(Error::TimedOut),
                Ok(None) => continue,
                Ok(Some(landed)) => landed,
            };
            if outcome == Outcome::Joined
                && let Some(place) = &landed.place
            {
                caller.span.link(place);
            }
            // The clock again: the wait may have been long, and the machine may have slept in it.
            let now = inner.clock.now();
            match landed.result {
                Ok(entry) if now < entry.times.deadline => {
                    return Ok(Lookup { entry, outcome, forced: reason == Reason::Forced, now });
                }
                Err(error) if outcome == Outcome::Miss || landed.reason != Reason::Refresh => {
                    return Err(Error::Upstream(error));
                }
                Ok(_) | Err(_) if now >= deadline => return Err(Error::TimedOut),
                Ok(_) | Err(_) => {}
            }
        }
        Err(Error::Lost)
    }

    /// What memory holds of `source`. Begins no refresh.
    pub fn explain(&self, source: &SourceUrl) -> Explanation {
        let now = self.0.clock.now();
        let entry = self.0.entries.get(source);
        Explanation {
            now,
            entry,
            refusal: self.0.refusals.recall(source, now).map(|refusal| (refusal.error, refusal.since)),
            in_flight: self.0.flights.is_under_way(source),
        }
    }

    /// Forgets one entry, or a refusal. A flight under way goes on and fills the cache anew.
    pub fn forget(&self, source: &SourceUrl) {
        self.0.entries.invalidate(source);
        self.0.refusals.forget(source);
    }

    /// Entries in memory, for people.
    pub fn entry_count(&self) -> u64 {
        self.0.entries.run_pending_tasks();
        self.0.entries.entry_count()
    }

    /// What the entries weigh, in bytes.
    pub fn weight(&self) -> u64 {
        self.0.entries.run_pending_tasks();
        self.0.entries.weighted_size()
    }

    /// What the entries may weigh, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.0.config.max_bytes
    }

    /// Life that every link still has when it is handed out.
    pub fn margin(&self) -> Duration {
        self.0.config.margin
    }

    /// Flights under way.
    pub fn flights_under_way(&self) -> usize {
        self.0.flights.len()
    }
}

impl Inner {
    fn look(&self, source: &SourceUrl, wish: &Wish, now: Instant) -> Look {
        if let Some(entry) = self.entries.get(source) {
            match entry.times.judge(wish, now) {
                Freshness::Fresh => return Look::Serve { entry, due: false },
                Freshness::Due => return Look::Serve { entry, due: true },
                Freshness::TooOld => {
                    let forced = entry.forced_at().is_some_and(|at| now.since(at) < self.config.force_interval);
                    // Its wish was granted a moment ago, or is beyond any link: it gets the newest there is.
                    if forced {
                        let due = now >= entry.times.refresh_at;
                        return Look::Serve { entry, due };
                    }
                    return Look::Mint { reason: Reason::Forced, old: Some(entry) };
                }
                Freshness::Dead => {}
            }
        }
        match self.refusals.recall(source, now) {
            // `no-cache` asks whether a refusal still stands, as seldom as it may force a mint.
            Some(refusal) if wish.max_age.is_none() || now.since(refusal.since) < self.config.force_interval => {
                Look::Refused(refusal.error)
            }
            Some(_) | None => Look::Mint { reason: Reason::Miss, old: None },
        }
    }

    fn serve(
        self: &Arc<Inner>,
        source: &SourceUrl,
        entry: Arc<Entry>,
        due: bool,
        wish: &Wish,
        caller: &Caller,
        now: Instant,
    ) -> Lookup {
        if due && !wish.only_if_cached && entry.claim_refresh(now, self.config.flight_timeout) {
            // Somebody may be minting it already (a forced refresh): then that one is our refresh, too.
            if let Boarding::Lead(lead) = self.flights.board(source)
                // Unless it has just landed.
                && self.entries.get(source).is_some_and(|newest| Arc::ptr_eq(&newest, &entry))
            {
                let caller = Caller { deadline: now + self.config.flight_timeout, span: caller.span.clone() };
                let old = Some(Arc::clone(&entry));
                self.take_off(lead, source, Purpose { reason: Reason::Refresh, insists: false, old, caller });
            }
        }
        let outcome = if due { Outcome::HitRefresh } else { Outcome::Hit };
        Lookup { entry, outcome, forced: false, now }
    }

    /// Sends a flight on its way, as a task of its own. Whoever `insists` on a fresh link gets one, cold file or not,
    /// and for the rest of `force_interval` so do the others: half a crowd may come when it has just landed.
    fn take_off(
        self: &Arc<Inner>,
        lead: Lead<SourceUrl, Landed>,
        source: &SourceUrl,
        purpose: Purpose,
    ) -> Seat<Landed> {
        let seat = lead.seat();
        let inner = Arc::clone(self);
        let source = source.clone();
        self.tasks.spawn(async move {
            let reason = purpose.reason;
            let is_awaited = reason != Reason::Refresh;
            let span = inner.tracer.mint(&purpose.caller.span, is_awaited, reason.as_str(), source.host());
            let result = tokio::select! {
                result = inner.fly(&source, purpose, &span) => result,
                () = inner.stop.cancelled() => Err(Arc::new(upstream::Error::ShuttingDown)),
            };
            match &result {
                Ok(_) => span.note("kielink.result", "ok"),
                Err(error) => span.failed(error.slug()),
            }
            span.end();
            let place = span.place().cloned();
            // In the cache first, landed second: who boards next must find it.
            lead.land(Landed { result, reason, place });
        });
        seat
    }
}

#[cfg(test)]
mod tests;
