//! The heart: a link for a source URL, from memory when it can be, from kie.ai when it must be.
//!
//! Every call of `Links::get` ends with a link and how it was found, or with the reason why there is none. Misses,
//! refreshes and forced refreshes of one file share one flight. Does not know HTTP: callers bring a `Wish` and a
//! deadline.

mod entry;
mod failures;
mod first_ends;
mod flight;
mod freshness;
mod metrics;
mod mint;
mod outcome;
mod shares;
mod sweep;
mod sync;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foldhash::quality::RandomState;
use moka::notification::RemovalCause;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    entry::{Entry, Renewal},
    failures::Failure,
    freshness::{Freshness, Times, Wish},
    metrics::{Count, MintResult, Rule, Withheld},
    outcome::{Error, Found, Lookup},
    shares::{Share, Shares},
};
use self::{
    failures::Failures,
    first_ends::FirstEnds,
    flight::{Flights, Lead, Role, Waiter},
    metrics::Metrics,
};
use crate::{
    clock::{Clock, Instant, KieClock},
    key::LogHash,
    source::Source,
    telemetry::{
        self,
        trace::{Position, Span, Tracer},
    },
    upstream::{self, Mint, Party, Patience, Reason, Via, Welcome},
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
    /// Callers that may wait for flights at once. When all places are taken, addresses share them (`shares`). Callers
    /// that memory answers are not counted.
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
    entries: moka::sync::Cache<Source, Arc<Entry>, RandomState>,
    /// The second judge of every entry's life.
    kie_clock: KieClock,
    first_ends: FirstEnds,
    failures: Failures,
    noted: telemetry::Failures,
    flights: Flights<Source, Landed, Note>,
    waiting: Shares,
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
    /// Its position in a trace.
    pub span: Span,
    /// With whom it takes turns.
    pub party: Party,
}

/// A caller of whom nothing but the deadline is known.
impl From<Instant> for Caller {
    fn from(deadline: Instant) -> Caller {
        Caller { deadline, span: Span::default(), party: Party::default() }
    }
}

/// What is known of one file, for people; never the link.
#[derive(Debug)]
pub struct Explanation {
    pub now: Instant,
    pub entry: Option<(Arc<Entry>, Times)>,
    /// Why kie.ai is not asked for this file for a while.
    pub failure: Option<Failure>,
    /// Whether a mint is under way.
    pub in_flight: bool,
}

/// What a flight brings home. A failed refresh does not answer a caller that joined it: nobody waited when the refresh
/// set out, so it was allowed to give up early.
#[derive(Clone)]
struct Landed {
    result: Result<(Arc<Entry>, Via), Arc<upstream::Error>>,
    reason: Reason,
    /// Where the flight stands in a trace, for callers that joined it.
    position: Option<Position>,
}

/// What all waiters of one flight share. Cheap to clone: clones share it.
#[derive(Debug, Clone)]
struct Note {
    patience: Patience,
    /// The entry was forgotten meanwhile: what the flight brings is for the callers that wait for it now, and for
    /// nobody else.
    forgotten: Arc<AtomicBool>,
}

impl Note {
    fn until(deadline: Instant, party: Party) -> Note {
        Note { patience: Patience::until(deadline, party), forgotten: Arc::default() }
    }

    fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }
}

/// Why a flight sets out.
struct Purpose {
    reason: Reason,
    /// The caller insists on a fresh link.
    insists: bool,
    old: Option<Arc<Entry>>,
    note: Note,
    /// Whose request it is, or was.
    span: Span,
    party: Party,
    /// Of the caller that began it.
    wish: Wish,
}

/// What memory says.
enum Look {
    Serve { entry: Arc<Entry>, times: Times, due: bool },
    Failed(Failure),
    Mint { reason: Reason, old: Option<Arc<Entry>> },
}

/// What `Links` works with.
pub struct Parts {
    pub mint: Arc<dyn Mint>,
    pub clock: Clock,
    pub kie_clock: KieClock,
    pub log_hash: LogHash,
    pub tracer: Tracer,
    /// Where mints that fail are noted, for `/status`.
    pub noted: telemetry::Failures,
    /// Flights run on this tracker.
    pub tasks: TaskTracker,
    /// Flights end when this is cancelled.
    pub stop: CancellationToken,
}

/// How often one call goes round after a flight that did not serve it (lost, a failed refresh, dead on arrival).
const ROUNDS: u32 = 4;

impl Links {
    pub fn new(config: Config, parts: Parts) -> Links {
        let Parts { mint, clock, kie_clock, log_hash, tracer, noted, tasks, stop } = parts;
        let metrics = Metrics::default();
        let entries = moka::sync::Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(|source: &Source, entry: &Arc<Entry>| entry.weight(source.key()))
            // moka's clock stands still during suspend, and its queue of writes takes 32 bytes a link: `Times::judge`
            // decides about life, and `sweep` removes what is dead.
            .eviction_listener(metrics::listener(&metrics))
            // Seeded anew by each process, as the standard one is, and done in a tenth of the time.
            .build_with_hasher(RandomState::default());
        let failures = Failures::new(config.negative_ttl, config.max_bytes / 8);
        let first_ends = FirstEnds::new();
        let flights = Flights::new();
        let waiting = Shares::new(config.waiting);
        Links(Arc::new(Inner {
            config,
            clock,
            log_hash,
            mint,
            entries,
            kie_clock,
            first_ends,
            failures,
            noted,
            flights,
            waiting,
            metrics,
            tracer,
            tasks,
            stop,
        }))
    }

    /// A link that memory has for the source whose key is `source` at `now`, where there is nothing else to do: no mint,
    /// and no refresh to begin.
    pub fn remembered(&self, source: &str, wish: &Wish, now: Instant) -> Option<Lookup> {
        let (entry, times, freshness) = self.0.judged(source, wish, now)?;
        let due = match freshness {
            Freshness::Fresh => false,
            Freshness::Due if wish.only_if_cached || !entry.may_refresh(now) => true,
            Freshness::Due | Freshness::TooOld | Freshness::Dead => return None,
        };
        Some(Lookup::hit(entry, times, due, now))
    }

    /// What memory says of `source`, at once; `None` where it takes a mint.
    pub fn recall(&self, source: &Source, wish: &Wish, caller: &Caller) -> Option<Result<Lookup, Error>> {
        let now = self.0.clock.now();
        match self.0.look(source, wish, now) {
            Look::Serve { entry, times, due } => Some(Ok(self.0.serve(source, entry, times, due, wish, caller, now))),
            Look::Failed(failure) => Some(Err(told(failure, now))),
            Look::Mint { .. } if wish.only_if_cached => Some(Err(Error::NotCached)),
            Look::Mint { .. } => None,
        }
    }

    /// A live link for `source`, or the reason why there is none. Waits no longer than until the caller's deadline.
    ///
    /// Cancel safe: a caller that goes away leaves the flight it began to those who joined, and to the cache.
    pub async fn get(&self, source: &Source, wish: &Wish, caller: impl Into<Caller>) -> Result<Lookup, Error> {
        let inner = &self.0;
        let caller: Caller = caller.into();
        let deadline = caller.deadline;
        let (mut round, mut waited_out) = (0, false);
        while round < ROUNDS {
            let now = inner.clock.now();
            let wanted = match inner.look(source, wish, now) {
                Look::Serve { entry, times, due } => {
                    let lookup = inner.serve(source, entry, times, due, wish, &caller, now);
                    // A caller that has waited for a flight, even a lost one, has not had its link from memory.
                    let found = if round == 0 && !waited_out { lookup.found } else { Found::Joined };
                    return Ok(Lookup { found, ..lookup });
                }
                Look::Failed(failure) => return Err(told(failure, now)),
                Look::Mint { .. } if wish.only_if_cached => return Err(Error::NotCached),
                // Nobody would wait for the flight that it begins.
                Look::Mint { .. } if now >= deadline => return Err(Error::TimedOut),
                Look::Mint { reason, .. } => reason,
            };
            let place = inner.waiting.take(caller.party.address).ok_or(Error::Crowded)?;
            let note = Note::until(deadline, caller.party);
            let (waiter, found, reason, too_late) = match inner.flights.join(source, &note) {
                Role::Join(waiter, note) => {
                    note.patience.extend(deadline, caller.party);
                    // A forgotten flight's link was asked for before the entry was forgotten: the caller waits for the
                    // next flight, too. It does so once: forgetting again and again must keep nobody waiting for ever.
                    (waiter, Found::Joined, wanted, note.is_forgotten() && !waited_out)
                }
                Role::Lead(lead) => match inner.look(source, wish, now) {
                    // Between the look and the joining a flight landed: do not mint twice.
                    Look::Serve { entry, times, due } => {
                        drop(lead);
                        return Ok(inner.serve(source, entry, times, due, wish, &caller, now));
                    }
                    Look::Failed(failure) => return Err(told(failure, now)),
                    Look::Mint { reason, old } => {
                        let insists = wish.max_age.is_some() || wish.min_fresh.is_some();
                        let (span, party) = (caller.span.clone(), caller.party);
                        let purpose = Purpose { reason, insists, old, note, span, party, wish: *wish };
                        (inner.start(lead, source, purpose), Found::Miss, reason, false)
                    }
                },
            };
            let landed = tokio::select! {
                biased;
                landed = tokio::time::timeout(now.until(deadline), waiter.wait()) => landed,
                () = place.displaced() => return Err(Error::Crowded),
            };
            let landed = match landed {
                Err(_elapsed) => return Err(Error::TimedOut),
                Ok(None) => {
                    round += 1;
                    continue;
                }
                Ok(Some(_)) if too_late => {
                    waited_out = true;
                    continue;
                }
                Ok(Some(landed)) => landed,
            };
            if found == Found::Joined
                && let Some(position) = &landed.position
            {
                caller.span.link(position);
            }
            // The clock again: the wait may have been long, and the machine may have slept in it.
            let now = inner.clock.now();
            match landed.result {
                // Another replica's link, for which the flight's first caller did not mind its age: this one does.
                Ok((ref entry, via))
                    if found == Found::Joined
                        && via != Via::Kie
                        && now < deadline
                        && inner.times(entry, now).judge(wish, now) == Freshness::TooOld =>
                {
                    round += 1;
                }
                Ok((entry, via)) if inner.is_alive(&entry, now) => {
                    let times = inner.times(&entry, now);
                    let found = match via {
                        Via::Shared if found == Found::Miss => Found::Shared,
                        // The flight that was waited for is another replica's.
                        Via::Joined => Found::Joined,
                        Via::Kie | Via::Shared => found,
                    };
                    return Ok(Lookup { entry, times, found, forced: reason == Reason::Forced, now });
                }
                // Remembered, though not here.
                Err(error) if error.is_refusal() && matches!(&*error, upstream::Error::Relayed { .. }) => {
                    return Err(Error::Refused(error));
                }
                Err(error) if found == Found::Miss || landed.reason != Reason::Refresh => {
                    return Err(Error::Upstream(error));
                }
                Ok(_) | Err(_) if now >= deadline => return Err(Error::TimedOut),
                Ok(_) | Err(_) => round += 1,
            }
        }
        Err(Error::Lost)
    }

    /// Links that other replicas have minted, of files for which memory has none that will do: in the order asked,
    /// `None` where none was found. Takes next to no time, and none where there is no shared tier. Cancel safe.
    pub async fn find_shared(&self, sources: &[Source], wish: &Wish) -> Vec<Option<Lookup>> {
        let inner = &self.0;
        let welcome = Welcome { max_age: wish.max_age, min_fresh: wish.min_fresh, other_than: None };
        let found = inner.mint.find(sources, &welcome).await;
        sources.iter().zip(found).map(|(source, minted)| inner.adopt(source, minted?)).collect()
    }

    /// Whether there is a shared tier that may be asked now.
    pub fn may_find_shared(&self) -> bool {
        self.0.mint.can_find()
    }

    /// The points of an entry's life as they are known now.
    pub fn times(&self, entry: &Entry, now: Instant) -> Times {
        self.0.times(entry, now)
    }

    /// Whether kie.ai was seen to renew links without changing them.
    pub fn renews_links(&self) -> bool {
        self.0.first_ends.renews()
    }

    /// What memory holds of `source`. Begins no refresh.
    pub fn explain(&self, source: &Source) -> Explanation {
        let now = self.0.clock.now();
        let entry = self.0.entries.get(source).map(|entry| {
            let times = self.0.times(&entry, now);
            (entry, times)
        });
        Explanation {
            now,
            entry,
            failure: self.0.failures.recall(source, now),
            in_flight: self.0.flights.is_under_way(source),
        }
    }

    /// Forgets one entry, or the reason why there is none. A flight under way goes on for the callers that wait for it
    /// already; a caller that asks from now on gets a link that was asked for later.
    pub fn forget(&self, source: &Source) {
        // The mark comes first, so that the flight takes out again what it puts in meanwhile.
        if let Some(note) = self.0.flights.note(source) {
            note.forgotten.store(true, Ordering::Release);
        }
        self.0.remove(source, RemovalCause::Explicit);
        self.0.failures.forget(source);
    }

    /// Forgets all files of which this holds, as `forget` does. Looks at everything there is.
    pub fn forget_where(&self, is_meant: impl Fn(&Source) -> bool) {
        let known = self.0.entries.iter().map(|(source, _)| Source::clone(&source));
        let meant =
            known.chain(self.0.failures.sources()).chain(self.0.flights.keys()).filter(|source| is_meant(source));
        for source in meant.collect::<HashSet<_>>() {
            self.forget(&source);
        }
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
    fn times(&self, entry: &Entry, now: Instant) -> Times {
        entry.times(&self.kie_clock, self.config.margin, now)
    }

    fn is_alive(&self, entry: &Entry, now: Instant) -> bool {
        now < self.times(entry, now).deadline
    }

    /// Takes a link of another replica's into memory.
    fn adopt(self: &Arc<Inner>, source: &Source, minted: upstream::Minted) -> Option<Lookup> {
        let now = self.clock.now();
        // Whoever holds a file's flight is the only one to put its links into the cache.
        let Role::Lead(lead) = self.flights.join(source, &Note::until(now, Party::default())) else { return None };
        let minted = self.first_ends.bound(minted, &self.kie_clock);
        let entry = Arc::new(Entry::new(minted, &self.config, fastrand::f64(), None));
        if !self.is_alive(&entry, now) {
            return None;
        }
        self.entries.insert(source.clone(), Arc::clone(&entry));
        self.failures.forget(source);
        if self.flights.note(source).is_some_and(|note| note.is_forgotten()) {
            self.remove(source, RemovalCause::Explicit);
        }
        let times = self.times(&entry, now);
        // Whoever has joined meanwhile is served.
        let landed = Landed { result: Ok((Arc::clone(&entry), Via::Shared)), reason: Reason::Miss, position: None };
        lead.land(landed);
        Some(Lookup { entry, times, found: Found::Shared, forced: false, now })
    }

    /// The entry of the source with this key, and what it is good for.
    fn judged(&self, source: &str, wish: &Wish, now: Instant) -> Option<(Arc<Entry>, Times, Freshness)> {
        let entry = self.entries.get(source)?;
        let times = self.times(&entry, now);
        Some((entry, times, times.judge(wish, now)))
    }

    fn look(&self, source: &Source, wish: &Wish, now: Instant) -> Look {
        if let Some((entry, times, freshness)) = self.judged(source.key(), wish, now) {
            match freshness {
                Freshness::Fresh => return Look::Serve { entry, times, due: false },
                Freshness::Due => return Look::Serve { entry, times, due: true },
                Freshness::TooOld => {
                    let forced = entry.forced_at().is_some_and(|at| now.since(at) < self.config.force_interval);
                    // The wish was granted a moment ago, or no link can fulfil it: the caller gets the newest link
                    // there is.
                    if forced {
                        let due = now >= times.refresh_at;
                        return Look::Serve { entry, times, due };
                    }
                    return Look::Mint { reason: Reason::Forced, old: Some(entry) };
                }
                Freshness::Dead => {}
            }
        }
        match self.failures.recall(source, now) {
            // `no-cache` asks whether a refusal still stands, as seldom as it may force a mint.
            Some(failure)
                if failure.error.is_refusal()
                    && wish.max_age.is_some()
                    && now.since(failure.since) >= self.config.force_interval =>
            {
                Look::Mint { reason: Reason::Miss, old: None }
            }
            Some(failure) => Look::Failed(failure),
            None => Look::Mint { reason: Reason::Miss, old: None },
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a moment, and all that is known in it")]
    fn serve(
        self: &Arc<Inner>,
        source: &Source,
        entry: Arc<Entry>,
        times: Times,
        due: bool,
        wish: &Wish,
        caller: &Caller,
        now: Instant,
    ) -> Lookup {
        if due && !wish.only_if_cached && entry.claim_refresh(now, self.config.flight_timeout) {
            // The caller has its link already: an urgent refresh that must queue takes turns for itself.
            let party = Party { request: fastrand::u64(..), ..Party::default() };
            let note = Note::until(now + self.config.flight_timeout, party);
            // Somebody may be minting the file already (a forced refresh): then that flight is our refresh, too.
            if let Role::Lead(lead) = self.flights.join(source, &note)
                // Unless a flight has just landed.
                && self.entries.get(source).is_some_and(|newest| Arc::ptr_eq(&newest, &entry))
            {
                let (old, span) = (Some(Arc::clone(&entry)), caller.span.clone());
                let wish = Wish::default();
                let purpose = Purpose { reason: Reason::Refresh, insists: false, old, note, span, party, wish };
                self.start(lead, source, purpose);
            }
        }
        Lookup::hit(entry, times, due, now)
    }

    /// Sends a flight on its way, as a task of its own. A caller that `insists` on a fresh link gets one, cold file or
    /// not. For the rest of `force_interval` that link serves all other callers that insist: half a crowd may come when
    /// it has just landed.
    fn start(self: &Arc<Inner>, lead: Lead<Source, Landed, Note>, source: &Source, purpose: Purpose) -> Waiter<Landed> {
        let waiter = lead.waiter();
        let inner = Arc::clone(self);
        let source = source.clone();
        self.tasks.spawn(async move {
            let reason = purpose.reason;
            let is_awaited = reason != Reason::Refresh;
            let span = inner.tracer.mint(&purpose.span, is_awaited, reason.as_str(), source.host());
            let result = tokio::select! {
                result = inner.fly(&source, purpose, &span) => result,
                () = inner.stop.cancelled() => Err(Arc::new(upstream::Error::ShuttingDown)),
            };
            match &result {
                Ok(_) => span.note("kielink.result", "ok"),
                Err(error) => span.failed(error.kind().as_str()),
            }
            span.end();
            let position = span.position().cloned();
            // In the cache first, landed second: the next caller must find the entry.
            lead.land(Landed { result, reason, position });
        });
        waiter
    }
}

/// What a caller hears of a file for which there was no link a moment ago.
fn told(failure: Failure, now: Instant) -> Error {
    if failure.error.is_refusal() {
        return Error::Refused(failure.error);
    }
    let cause = Box::new(upstream::Error::clone(&failure.error));
    Error::Upstream(Arc::new(upstream::Error::Recalled { cause, retry_after: now.until(failure.until) }))
}

#[cfg(test)]
mod tests;
