//! What operators see of requests: counts and histograms for `/metrics`, and the last minutes' figures for people.
//!
//! Recording a hit costs well under a microsecond (`benches/recording.rs`).

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};

use super::{
    latencies::{Counting, Recent},
    outcome::{NoLink, Outcome},
    route::{Gives, Route},
};
use crate::telemetry::{
    metrics::{Histogram, Latencies, observe, reading},
    trace::TraceId,
};

/// Seconds. Hits take microseconds, mints hundreds of milliseconds, and nobody waits longer than 20 s by default.
const DURATIONS: [f64; 17] =
    [10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];

/// Seconds. The first is the default of `cache.margin`: by default nothing may ever be counted there.
const LIVES: [f64; 13] = [60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 420.0, 480.0, 600.0, 780.0, 960.0, 1140.0, 1200.0];

/// The route of a request, or none that is known. As a label it has few values, however many paths callers try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint(Option<Route>);

impl Endpoint {
    const COUNT: usize = Route::ALL.len() + 1;

    fn index(self) -> usize {
        self.0.map_or(Route::ALL.len(), |route| route as usize)
    }

    pub fn as_str(self) -> &'static str {
        self.0.map_or("other", Route::path)
    }

    fn gives_links(self) -> bool {
        self.0.is_some_and(|route| route.gives() == Gives::Links)
    }

    /// From the route that matched, or from a path.
    pub fn of(path: Option<&str>) -> Endpoint {
        path.and_then(Route::of).map_or(Endpoint(None), Endpoint::from)
    }
}

/// What became of a request, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// Of a request that is about one link, or of an item of a batch.
    Of(Outcome),
    /// A batch as a whole: its items have outcomes of their own.
    Batch,
    /// A request that is about no link: probes, the description of the interface.
    None,
}

impl Label {
    const COUNT: usize = Outcome::ALL.len() + 2;

    fn index(self) -> usize {
        match self {
            Label::Of(outcome) => outcome.index(),
            Label::Batch => Outcome::ALL.len(),
            Label::None => Outcome::ALL.len() + 1,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Label::Of(outcome) => outcome.as_str(),
            Label::Batch => "batch",
            Label::None => "none",
        }
    }
}

/// Two routes with one label count as one, or the label would be there twice.
impl From<Route> for Endpoint {
    fn from(route: Route) -> Endpoint {
        Endpoint(Some(if route == Route::NamedRedirect { Route::Redirect } else { route }))
    }
}

impl EncodeLabelValue for Endpoint {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    endpoint: Endpoint,
    outcome: Label,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    endpoint: Endpoint,
    outcome: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ItemLabels {
    outcome: Label,
}

/// One request, answered.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    pub endpoint: Endpoint,
    pub outcome: Label,
    /// The HTTP status.
    pub status: u16,
    pub took: Duration,
    /// What the link that was handed out had left of its life.
    pub life_left: Option<Duration>,
    /// Where the request's trace is kept.
    pub trace_id: Option<TraceId>,
}

/// What is counted of requests with the same labels.
#[derive(Clone)]
struct Series {
    status: u16,
    total: Counter,
    durations: Latencies,
}

/// Counts requests. Cheap to clone.
#[derive(Clone)]
pub struct Requests(Arc<Inner>);

struct Inner {
    /// What the two families below have for the usual status of each route and outcome: to find it there takes a hash of
    /// the labels and a lock.
    usual: [[OnceLock<Series>; Label::COUNT]; Endpoint::COUNT],
    total: Family<Labels, Counter>,
    durations: Family<DurationLabels, Latencies, fn() -> Latencies>,
    lives: Histogram,
    /// What the family behind it has, to be found without a hash and a lock.
    usual_items: [OnceLock<Counter>; Outcome::ALL.len()],
    items: Family<ItemLabels, Counter>,
    abandoned: Family<EndpointLabels, Counter>,
    /// Links asked for, by outcome in the order of `Outcome::ALL`, items of batches included.
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// How many of these links kie.ai was asked for and did not give, though their callers asked for nothing wrong.
    failed: AtomicU64,
    turned_away: AtomicU64,
    mistaken: AtomicU64,
    /// Since somebody last took them.
    recent: Counting,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Default for Requests {
    fn default() -> Requests {
        Requests(Arc::new(Inner {
            usual: Default::default(),
            total: Family::default(),
            durations: Family::new_with_constructor(|| Latencies::new(DURATIONS.into_iter())),
            lives: Histogram::new(&LIVES),
            usual_items: Default::default(),
            items: Family::default(),
            abandoned: Family::default(),
            outcomes: Default::default(),
            failed: AtomicU64::default(),
            turned_away: AtomicU64::default(),
            mistaken: AtomicU64::default(),
            recent: Counting::default(),
        }))
    }
}

impl Requests {
    /// Notes a request that has been answered.
    pub fn answered(&self, answered: &Answered) {
        let inner = &*self.0;
        let &Answered { endpoint, outcome, status, took, life_left, trace_id } = answered;
        let usual =
            inner.usual[endpoint.index()][outcome.index()].get_or_init(|| inner.series(endpoint, outcome, status));
        if usual.status == status {
            usual.note(took, trace_id);
        } else {
            inner.series(endpoint, outcome, status).note(took, trace_id);
        }
        if let Some(life_left) = life_left {
            inner.lives.observe(life_left.as_secs_f64());
        }
        if let Label::Of(outcome) = outcome
            && endpoint.gives_links()
        {
            inner.count(outcome, status);
            inner.recent.latency(took);
            if let Some(life_left) = life_left {
                inner.recent.life(life_left);
            }
        }
    }

    /// Notes an item of a batch and the status that it would have had alone. It has no latency of its own: items wait
    /// for each other.
    pub fn item(&self, outcome: Outcome, status: u16, life_left: Option<Duration>) {
        let inner = &*self.0;
        let labels = || ItemLabels { outcome: Label::Of(outcome) };
        inner.usual_items[outcome.index()].get_or_init(|| inner.items.get_or_create(&labels()).clone()).inc();
        inner.count(outcome, status);
        if let Some(life_left) = life_left {
            inner.lives.observe(life_left.as_secs_f64());
            inner.recent.life(life_left);
        }
    }

    /// Notes a caller that hung up before it had its answer; it is in no other count.
    pub fn abandoned(&self, endpoint: Endpoint) {
        self.0.abandoned.get_or_create(&EndpointLabels { endpoint }).inc();
    }

    /// Links asked for since the start, by outcome.
    pub fn outcomes(&self) -> Vec<(Outcome, u64)> {
        let counts = self.0.outcomes.iter().map(|count| count.load(Ordering::Relaxed));
        Outcome::ALL.into_iter().zip(counts).collect()
    }

    /// Links asked for since the start for which kie.ai was asked and gave none. What it says of a file (404, 422) is
    /// no failure.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Links asked for since the start that were turned away without asking kie.ai, though their callers asked for
    /// nothing wrong: overload, no budget, a pause, an open breaker (429, 503).
    pub fn turned_away(&self) -> u64 {
        self.0.turned_away.load(Ordering::Relaxed)
    }

    /// Links asked for since the start in a way that no link could come of, whatever kielink does: a malformed request, a
    /// source that is not allowed.
    pub fn mistaken(&self) -> u64 {
        self.0.mistaken.load(Ordering::Relaxed)
    }

    /// What has happened since the last call.
    pub fn take_recent(&self) -> Recent {
        self.0.recent.take()
    }

    /// Adds what is known of requests to what `/metrics` shows, and how many are `under_way`.
    pub(crate) fn register(&self, registry: &mut Registry, under_way: impl Fn() -> usize + Send + Sync + 'static) {
        let help = "Requests answered, by route, outcome and HTTP status";
        registry.register("requests", help, self.0.total.clone());
        let help = "From a request's head to its answer's head";
        registry.register_with_unit("request_duration", help, Unit::Seconds, self.0.durations.clone());
        let help = "Time to the real end of links, at the moment they were handed out";
        registry.register_with_unit("link_life_left", help, Unit::Seconds, self.0.lives.clone());
        let help = "Items of batches, by outcome; the batch itself is a request with the outcome batch";
        registry.register("batch_items", help, self.0.items.clone());
        let help = "Callers that hung up before they had an answer; they are in no other count";
        registry.register("requests_abandoned", help, self.0.abandoned.clone());
        let help = "Requests that wait for a link, and batches that are being answered";
        reading(registry, "requests_in_flight", help, move || under_way() as f64);
    }
}

impl Series {
    fn note(&self, took: Duration, trace_id: Option<TraceId>) {
        self.total.inc();
        observe(&self.durations, took.as_secs_f64(), trace_id);
    }
}

impl Inner {
    fn series(&self, endpoint: Endpoint, outcome: Label, status: u16) -> Series {
        Series {
            status,
            total: self.total.get_or_create_owned(&Labels { endpoint, outcome, status }),
            durations: self.durations.get_or_create_owned(&DurationLabels { endpoint, outcome }),
        }
    }

    fn count(&self, outcome: Outcome, status: u16) {
        self.outcomes[outcome.index()].fetch_add(1, Ordering::Relaxed);
        let trouble = match (outcome, status) {
            (Outcome::NoLink(NoLink::Error), 404 | 422) => return,
            (Outcome::NoLink(NoLink::Error), _) => &self.failed,
            (Outcome::NoLink(NoLink::Refused), 429 | 503) => &self.turned_away,
            // But for a caller that wants what is in memory alone (504).
            (Outcome::NoLink(NoLink::Refused), 400..500) => &self.mistaken,
            _ => return,
        };
        trouble.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Found;

    #[test]
    fn a_path_that_is_no_route_has_no_label_of_its_own() {
        assert_eq!(Endpoint::of(Some("/v1/link")).as_str(), "/v1/link");
        assert_eq!(
            Endpoint::of(Some("/v1/redirect/{name}")),
            Endpoint::of(Some("/v1/redirect")),
            "one label, one series"
        );
        assert_eq!(Endpoint::of(Some("/v1/links/{any}")).as_str(), "other");
        assert_eq!(Endpoint::of(None).as_str(), "other");
    }

    #[test]
    fn what_callers_did_wrong_is_no_trouble() {
        let requests = Requests::default();
        for (outcome, status) in [
            (Outcome::NoLink(NoLink::Error), 502),
            (Outcome::NoLink(NoLink::Error), 404),
            (Outcome::NoLink(NoLink::Error), 422),
            (Outcome::NoLink(NoLink::Refused), 429),
            (Outcome::NoLink(NoLink::Refused), 503),
            (Outcome::NoLink(NoLink::Refused), 400),
            (Outcome::NoLink(NoLink::Refused), 504),
            (Outcome::Found(Found::Hit), 200),
        ] {
            requests.item(outcome, status, None);
        }
        assert_eq!((requests.failed(), requests.turned_away(), requests.mistaken()), (1, 2, 1));
    }

    #[test]
    fn what_is_taken_is_gone_and_totals_stay() {
        let requests = Requests::default();
        let hit = Answered {
            endpoint: Endpoint::of(Some("/v1/link")),
            outcome: Label::Of(Outcome::Found(Found::Hit)),
            status: 200,
            took: Duration::from_micros(40),
            life_left: Some(Duration::from_secs(700)),
            trace_id: None,
        };
        requests.answered(&hit);
        requests.answered(&Answered { life_left: Some(Duration::from_secs(90)), ..hit });
        requests.answered(&Answered { outcome: Label::None, ..hit });
        requests.item(Outcome::Found(Found::Miss), 200, None);
        let recent = requests.take_recent();
        assert_eq!((recent.latencies.count(), recent.least_life), (2, Some(Duration::from_secs(90))));
        assert_eq!(requests.take_recent().latencies.count(), 0);
        let outcomes = requests.outcomes();
        assert!(
            outcomes.contains(&(Outcome::Found(Found::Hit), 2)) && outcomes.contains(&(Outcome::Found(Found::Miss), 1))
        );
        // Far beyond the scale: counted as its end.
        requests.answered(&Answered { took: Duration::from_secs(4000), ..hit });
        assert_eq!(requests.take_recent().latencies.count(), 1);
    }
}
