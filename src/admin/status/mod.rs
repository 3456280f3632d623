//! `/status` and `/status.json`: whether links flow, for people, at a glance. The page is the same data, drawn.

mod headline;
mod history;
mod page;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::{
    headline::Headline,
    history::{History, Lines, Minute, STEP, Totals},
};
use super::metrics::REVISION;
use crate::{
    clock::{self, Clock, Instant},
    credits::{self, Credits},
    fleet::{self, Fleet},
    key::{self, Keys},
    kind::Kind,
    links::{self, Found, Links, MintResult, Rule},
    readiness::Readiness,
    telemetry::{DroppedLines, Failure, Failures},
    upstream::{BreakerState, Condition, Kie},
    web::{metrics::Requests, outcome::Outcome},
};

/// How many failures are shown.
const MOST_FAILURES: usize = 12;

/// What the status is read from.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) readiness: Readiness,
    pub(crate) requests: Requests,
    pub(crate) links: Links,
    pub(crate) kie: Kie,
    pub(crate) credits: Credits,
    pub(crate) fleet: Option<Fleet>,
    pub(crate) keys: Keys,
    pub(crate) failures: Failures,
    pub(crate) dropped_lines: DroppedLines,
    pub(crate) clock: Clock,
    /// Every setting as it took effect, without secrets.
    pub(crate) settings: Vec<(String, String)>,
}

/// Keeps the last quarter of an hour. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Sources,
    started_at: Instant,
    history: Mutex<History>,
}

/// `/status.json`.
#[derive(Debug, Serialize)]
struct Snapshot<'a> {
    /// RFC 3339, UTC, whole seconds.
    at: String,
    headline: Headline,
    version: &'static str,
    revision: &'static str,
    uptime_seconds: u64,
    ready: bool,
    draining: bool,
    /// Links asked for since the start, by outcome; items of batches included.
    outcomes: BTreeMap<&'static str, u64>,
    last_minute: Minute,
    links: Cached,
    mints: Mints,
    kie: Upstream,
    /// The credits left, as last seen; `null` before they were.
    credits: Option<credits::Description>,
    key: key::Description,
    /// The shared tier; `null` where there is none.
    shared: Option<fleet::Description>,
    /// Newest first.
    failures: Vec<Failure>,
    /// Since the start.
    log_lines_dropped: u64,
    history: Lines,
    settings: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct Cached {
    entries: u64,
    bytes: u64,
    max_bytes: u64,
    /// No link with less life left is handed out.
    margin_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Mints {
    in_flight: usize,
    /// Since the start.
    results: Vec<links::Count>,
    /// Wanted, and not asked of kie.ai, by the rule that withheld them.
    withheld: Vec<links::Withheld>,
    retries: u64,
}

#[derive(Debug, Serialize)]
struct Upstream {
    /// `well`, `limiting` (it has said 429), `unwell` (the breaker is open, or it is under maintenance), `refusing`
    /// (the account).
    condition: Condition,
    /// kie.ai was seen to give links again after their end, so that a link that it gives again counts as a new one.
    renews_links: bool,
    breaker: BreakerState,
    /// Requests that may go at once.
    budget_tokens: f64,
    /// Requests that may go at once after a quiet time, and how many are added a second: a little less than
    /// `upstream.burst` and `.rate`.
    budget_most_tokens: f64,
    budget_tokens_per_second: f64,
}

impl Status {
    pub(crate) fn new(sources: Sources) -> Status {
        let started_at = sources.clock.now();
        Status(Arc::new(Inner { sources, started_at, history: Mutex::default() }))
    }

    /// Takes a sample every five seconds until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut began = self.0.started_at;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(STEP) => {}
            }
            let now = self.0.sources.clock.now();
            let recent = self.0.sources.requests.take_recent();
            let totals = self.0.totals();
            self.0.history().sample(began.until(now), totals, recent);
            began = now;
        }
    }

    /// The sentence at the top.
    pub(crate) fn headline(&self) -> String {
        self.snapshot().headline.text
    }

    pub(super) fn routes(self) -> Router {
        Router::new().route("/status", get(show)).route("/status.json", get(json)).with_state(self)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let Inner { sources, started_at, .. } = &*self.0;
        let now = sources.clock.now();
        let wall = sources.clock.wall();
        let (last_minute, history) = {
            let history = self.0.history();
            (history.minute(), history.lines())
        };
        let tenths = |number: f64| (number * 10.0).round() / 10.0;
        let (most_tokens, tokens_per_second) = sources.kie.budget_bounds();
        let kie = Upstream {
            condition: sources.kie.condition(),
            renews_links: sources.links.renews_links(),
            breaker: sources.kie.breaker(),
            budget_tokens: tenths(sources.kie.tokens()),
            budget_most_tokens: most_tokens,
            budget_tokens_per_second: tenths(tokens_per_second),
        };
        let (ready, draining) = (sources.readiness.is_ready(), sources.readiness.is_draining());
        let outcomes: BTreeMap<_, _> =
            sources.requests.outcomes().into_iter().map(|(outcome, count)| (outcome.as_str(), count)).collect();
        let asked = outcomes.values().sum();
        Snapshot {
            at: clock::rfc3339(wall),
            headline: Headline::of(&headline::Facts {
                ready,
                draining,
                condition: kie.condition,
                asked,
                margin_seconds: sources.links.margin().as_secs(),
                last_minute: &last_minute,
            }),
            version: env!("CARGO_PKG_VERSION"),
            revision: REVISION,
            uptime_seconds: now.since(*started_at).as_secs(),
            ready,
            draining,
            outcomes,
            last_minute,
            links: Cached {
                entries: sources.links.entry_count(),
                bytes: sources.links.weight(),
                max_bytes: sources.links.max_bytes(),
                margin_seconds: sources.links.margin().as_secs(),
            },
            mints: Mints {
                in_flight: sources.links.flights_under_way(),
                results: sources.links.mints(),
                withheld: sources.links.mints_withheld(),
                retries: sources.kie.retries(),
            },
            kie,
            credits: sources.credits.describe(),
            key: sources.keys.describe(),
            shared: sources.fleet.as_ref().and_then(Fleet::describe),
            failures: sources.failures.recent(MOST_FAILURES),
            log_lines_dropped: sources.dropped_lines.count(),
            history,
            settings: sources.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        }
    }
}

impl Inner {
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let Sources { requests, links, .. } = &self.sources;
        (totals.errors, totals.turned_away) = (requests.failed(), requests.turned_away());
        for (outcome, count) in requests.outcomes() {
            totals.asked += count;
            match outcome {
                Outcome::Found(Found::Hit | Found::HitRefresh) => totals.hits += count,
                Outcome::Found(Found::Shared | Found::Miss | Found::Joined) | Outcome::NoLink(_) => {}
            }
        }
        for links::Count { result, count, .. } in links.mints() {
            match result {
                MintResult::Ok => totals.minted += count,
                // kie.ai's word on the file, which is the caller's affair.
                MintResult::Failed(Kind::SourceRefused | Kind::SourceNotFound) => {}
                MintResult::Failed(kind) => {
                    totals.mints_failed += count;
                    if kind == Kind::KeyRefused {
                        totals.key_refused += count;
                    }
                }
            }
        }
        for links::Withheld { rule, count, .. } in links.mints_withheld() {
            match rule {
                Rule::Budget => totals.withheld_by_budget += count,
                Rule::Pause | Rule::Breaker | Rule::Account => totals.withheld_for_a_while += count,
            }
        }
        totals
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // A panic in the middle leaves one step out.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn json(State(status): State<Status>) -> Response {
    let body = serde_json::to_string(&status.snapshot()).expect("numbers and texts serialise");
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

async fn show(State(status): State<Status>) -> Response {
    let policy = (header::CONTENT_SECURITY_POLICY, page::POLICY.clone());
    ([policy], Html(page::render(&status.snapshot()))).into_response()
}
