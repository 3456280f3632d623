//! `/status` and `/status.json`: whether links flow, for people, at a glance. The page is the same data, drawn.

mod headline;
mod history;
mod numbers;
mod page;
mod runbook;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router, extract,
    http::{HeaderMap, HeaderValue, header, uri::Authority},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::{
    headline::Headline,
    history::{History, Lines, Minute, STEP, Totals},
};
use super::{metrics::REVISION, process};
use crate::{
    clock::{self, Clock, Instant},
    credits::{self, Credits},
    fleet::{self, Fleet},
    key::{self, Keys},
    kind::Kind,
    links::{self, Found, Links, MintResult, Rule},
    readiness::Readiness,
    server::Address,
    shared::State,
    telemetry::{DroppedLines, Failure, Failures},
    upstream::{BreakerState, Calls, Condition, KeyState, Kie},
    web::{metrics::Requests, outcome::Outcome, problem::Problem},
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
    /// Those that are not as they are by default, with that default.
    pub(crate) changed: Vec<(String, Option<String>)>,
    /// Where callers ask.
    pub(crate) callers: Vec<Address>,
}

/// Keeps the last quarter of an hour. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Sources,
    started_at: Instant,
    host: String,
    history: Mutex<History>,
}

/// `/status.json`.
#[derive(Debug, Serialize)]
struct Snapshot<'a> {
    /// RFC 3339, UTC, whole seconds.
    at: String,
    /// The name of the machine, or of the container.
    host: &'a str,
    headline: Headline,
    version: &'static str,
    revision: &'static str,
    uptime_seconds: u64,
    ready: bool,
    draining: bool,
    /// Links asked for since the start, by outcome; items of batches included.
    outcomes: BTreeMap<&'static str, u64>,
    /// Of these, how many there should have been and were not.
    no_link: u64,
    last_minute: Minute,
    links: Cached,
    mints: Mints,
    kie: Upstream,
    /// The credits left, as last seen; `null` before they were.
    credits: Option<credits::Description>,
    key: key::Description,
    /// Whether kie.ai takes it.
    key_state: KeyState,
    /// The shared tier; `null` where there is none.
    shared: Option<fleet::Description>,
    /// Newest first.
    failures: Vec<Failure>,
    /// Since the start.
    log_lines_dropped: u64,
    history: Lines,
    settings: BTreeMap<&'a str, &'a str>,
    /// The default of those that are not as by default; `null` where there is none.
    settings_changed: BTreeMap<&'a str, Option<&'a str>>,
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
    /// How its last calls went, at most six.
    calls: Calls,
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
        Status(Arc::new(Inner { sources, started_at, host: process::host(), history: Mutex::default() }))
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
        let routes = Router::new().route("/status", get(show)).route("/status.json", get(json));
        routes.route("/runbook", get(runbook)).route("/docs", get(docs)).with_state(self)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let Inner { sources, started_at, .. } = &*self.0;
        let now = sources.clock.now();
        let wall = sources.clock.wall();
        let (last_minute, history) = {
            let totals = self.0.totals();
            let history = self.0.history();
            (history.minute(&totals), history.lines())
        };
        let tenths = |number: f64| (number * 10.0).round() / 10.0;
        let (most_tokens, tokens_per_second) = sources.kie.budget_bounds();
        let kie = Upstream {
            condition: sources.kie.condition(),
            calls: sources.kie.calls(),
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
        let (credits, shared) = (sources.credits.describe(), sources.fleet.as_ref().and_then(Fleet::describe));
        Snapshot {
            at: clock::rfc3339(wall),
            host: &self.0.host,
            headline: Headline::of(&headline::Facts {
                ready,
                draining,
                condition: kie.condition,
                calls: &kie.calls,
                key: sources.kie.key_state(),
                is_out_of_credits: sources.kie.is_out_of_credits(),
                credits: credits.as_ref().map(|credits| credits.left),
                is_tier_away: shared.as_ref().is_some_and(|fleet| fleet.tier.state != State::Up),
                asked,
                margin_seconds: sources.links.margin().as_secs(),
                last_minute: &last_minute,
                wall,
            }),
            version: env!("CARGO_PKG_VERSION"),
            revision: REVISION,
            uptime_seconds: now.since(*started_at).as_secs(),
            ready,
            draining,
            outcomes,
            no_link: sources.requests.failed() + sources.requests.turned_away(),
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
            credits,
            key: sources.keys.describe(),
            key_state: sources.kie.key_state(),
            shared,
            failures: sources.failures.recent(MOST_FAILURES),
            log_lines_dropped: sources.dropped_lines.count(),
            history,
            settings: sources.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            settings_changed: sources.changed.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect(),
        }
    }
}

impl Inner {
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let Sources { requests, links, .. } = &self.sources;
        (totals.no_link, totals.mistaken) = (requests.failed() + requests.turned_away(), requests.mistaken());
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
                MintResult::Failed(_) => totals.mints_failed += count,
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

async fn json(extract::State(status): extract::State<Status>) -> Response {
    let body = serde_json::to_string(&status.snapshot()).expect("numbers and texts serialise");
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

async fn show(extract::State(status): extract::State<Status>) -> Response {
    let policy = (header::CONTENT_SECURITY_POLICY, page::POLICY.clone());
    ([policy], Html(page::render(&status.snapshot()))).into_response()
}

async fn runbook() -> Response {
    let policy = (header::CONTENT_SECURITY_POLICY, runbook::POLICY.clone());
    ([policy], Html(runbook::render())).into_response()
}

/// The other interface's page about itself: at the name by which this one was asked, where it listens at all addresses.
async fn docs(extract::State(status): extract::State<Status>, headers: HeaderMap) -> Result<Redirect, Problem> {
    let callers = &status.0.sources.callers;
    let Some(address) = callers.iter().find(|address| matches!(address, Address::Tcp { .. })) else {
        let detail = "Callers ask over a Unix socket: GET /docs there describes the interface.";
        return Err(Problem::refused(Kind::NotFound, detail));
    };
    let asked = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    Ok(Redirect::temporary(&format!("http://{}/docs", docs_at(address, asked))))
}

/// Host and port.
fn docs_at(callers: &Address, asked: Option<&str>) -> String {
    match (callers, asked.and_then(|host| host.parse::<Authority>().ok())) {
        (Address::Tcp { host, port }, Some(asked)) if host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) => {
            format!("{}:{port}", asked.host())
        }
        (address, _) => address.local().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_the_interface_is_where_callers_ask() {
        for (listen, asked, at) in [
            ("127.0.0.1:8080", Some("127.0.0.1:9090"), "127.0.0.1:8080"),
            ("127.0.0.1:8080", Some("kielink:9090"), "127.0.0.1:8080"),
            ("0.0.0.0:8080", Some("kielink.shop.svc:9090"), "kielink.shop.svc:8080"),
            ("0.0.0.0:8080", Some("kielink"), "kielink:8080"),
            ("[::]:8080", Some("[::1]:9090"), "[::1]:8080"),
            ("0.0.0.0:8080", None, "127.0.0.1:8080"),
        ] {
            assert_eq!(docs_at(&listen.parse().unwrap(), asked), at, "{listen} {asked:?}");
        }
    }
}
