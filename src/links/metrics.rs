//! What operators see of the cache and of mints.

use std::{fmt, sync::Arc, time::Duration};

use moka::notification::RemovalCause;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};
use serde::{Serialize, Serializer};

use super::Links;
use crate::{
    kind::Kind,
    telemetry::{
        metrics::{Latencies, observe, reading},
        trace::TraceId,
    },
    upstream::{self, Reason},
};

/// Seconds. kie.ai's usual answer takes some hundred milliseconds; a mint may take three tries of 8 s, within 20 s in
/// all.
const DURATIONS: [f64; 15] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
    result: MintResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithheldLabels {
    reason: Reason,
    rule: Rule,
}

/// How a mint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MintResult {
    Ok,
    Failed(Kind),
}

impl MintResult {
    fn all() -> impl Iterator<Item = MintResult> {
        std::iter::once(MintResult::Ok).chain(upstream::Error::KINDS.map(MintResult::Failed))
    }

    /// `ok`, or the slug of a problem.
    pub fn as_str(self) -> &'static str {
        match self {
            MintResult::Ok => "ok",
            MintResult::Failed(kind) => kind.as_str(),
        }
    }
}

impl Serialize for MintResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl EncodeLabelValue for MintResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

/// What keeps a mint from kie.ai.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// `upstream.rate`.
    Budget,
    /// After a 429.
    Pause,
    Breaker,
    /// kie.ai refuses the account.
    Account,
}

impl Rule {
    pub const ALL: [Rule; 4] = [Rule::Budget, Rule::Pause, Rule::Breaker, Rule::Account];

    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Budget => "budget",
            Rule::Pause => "pause",
            Rule::Breaker => "breaker",
            Rule::Account => "account",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evicted {
    cause: &'static str,
}

/// How many mints were made for this reason and had this result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    pub reason: Reason,
    pub result: MintResult,
    pub count: u64,
}

/// How many mints a rule withheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Withheld {
    pub reason: Reason,
    pub rule: Rule,
    pub count: u64,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    mints: Family<Labels, Counter>,
    withheld: Family<WithheldLabels, Counter>,
    durations: Latencies,
    evictions: Family<Evicted, Counter>,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Rule {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl Default for Metrics {
    /// Every counter exists from the start, so that the first event is an increase for a watcher.
    fn default() -> Metrics {
        let metrics = Metrics {
            mints: Family::default(),
            withheld: Family::default(),
            durations: Latencies::new(DURATIONS.into_iter()),
            evictions: Family::default(),
        };
        for reason in Reason::ALL {
            for result in MintResult::all() {
                let _: &Counter = &metrics.mints.get_or_create(&Labels { reason, result });
            }
            for rule in Rule::ALL {
                let _: &Counter = &metrics.withheld.get_or_create(&WithheldLabels { reason, rule });
            }
        }
        for cause in [RemovalCause::Expired, RemovalCause::Explicit, RemovalCause::Size] {
            let _: &Counter = &metrics.evictions.get_or_create(&Evicted { cause: word(cause) });
        }
        metrics
    }
}

impl Metrics {
    /// Counts a mint that has ended. A mint that a rule of ours kept from kie.ai is none, and is counted apart.
    pub(super) fn minted(
        &self,
        reason: Reason,
        error: Option<&upstream::Error>,
        took: Duration,
        trace_id: Option<TraceId>,
    ) {
        let rule = match error {
            Some(upstream::Error::NoBudget { .. }) => Rule::Budget,
            Some(upstream::Error::Paused { .. }) => Rule::Pause,
            Some(upstream::Error::Unwell { .. }) => Rule::Breaker,
            Some(upstream::Error::Recalled { .. }) => Rule::Account,
            // Whoever asked kie.ai has counted it.
            Some(
                upstream::Error::ShuttingDown
                | upstream::Error::Relayed { .. }
                | upstream::Error::MintedElsewhere { .. },
            ) => return,
            _ => {
                let result = error.map_or(MintResult::Ok, |error| MintResult::Failed(error.kind()));
                self.mints.get_or_create(&Labels { reason, result }).inc();
                observe(&self.durations, took.as_secs_f64(), trace_id);
                return;
            }
        };
        self.withheld.get_or_create(&WithheldLabels { reason, rule }).inc();
    }

    /// Counts an entry that has left the cache.
    pub(super) fn evicted(&self, cause: RemovalCause) {
        self.evictions.get_or_create(&Evicted { cause: word(cause) }).inc();
    }

    #[cfg(test)]
    pub(super) fn evictions(&self, cause: &'static str) -> u64 {
        self.evictions.get_or_create(&Evicted { cause }).get()
    }

    fn counts(&self) -> Vec<Count> {
        let results = MintResult::all();
        let labels = results.flat_map(|result| Reason::ALL.map(|reason| Labels { reason, result }));
        labels
            .filter_map(|labels| {
                let count = self.mints.get(&labels)?.get();
                (count > 0).then_some(Count { reason: labels.reason, result: labels.result, count })
            })
            .collect()
    }
}

fn word(cause: RemovalCause) -> &'static str {
    match cause {
        RemovalCause::Expired => "expired",
        RemovalCause::Explicit => "explicit",
        RemovalCause::Replaced => "replaced",
        RemovalCause::Size => "size",
    }
}

impl Links {
    /// Adds what is known of links and mints to what `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let Metrics { mints, withheld, durations, evictions } = self.0.metrics.clone();
        registry.register("mints", "Mints that kie.ai has heard of, by why they were made and how they ended", mints);
        let help = "Mints that were wanted and not asked of kie.ai, by why and by the rule: budget (upstream.rate), pause (after a 429), breaker, account (which kie.ai refuses)";
        registry.register("mints_withheld", help, withheld);
        let help = "How long mints take, their retries and waits for the budget included";
        registry.register_with_unit("mint_duration", help, Unit::Seconds, durations);
        let help = "Links that left the cache: expired, explicit (forgotten on request), size (no room)";
        registry.register("cache_evictions", help, evictions);
        let read = |read: fn(&Links) -> u64| {
            let links = self.clone();
            move || read(&links) as f64
        };
        reading(registry, "mints_in_flight", "Mints under way", read(|links| links.flights_under_way() as u64));
        reading(registry, "cache_entries", "Links in the cache", read(Links::entry_count));
        reading(registry, "cache_bytes", "Memory that links in the cache take, estimated", read(Links::weight));
    }

    /// Mints withheld since the start; rules that never applied are left out.
    pub fn mints_withheld(&self) -> Vec<Withheld> {
        let labels = Rule::ALL.into_iter().flat_map(|rule| Reason::ALL.map(|reason| WithheldLabels { reason, rule }));
        labels
            .filter_map(|labels| {
                let count = self.0.metrics.withheld.get(&labels)?.get();
                (count > 0).then_some(Withheld { reason: labels.reason, rule: labels.rule, count })
            })
            .collect()
    }

    /// Mints since the start, by reason and result; those that never happened are left out.
    pub fn mints(&self) -> Vec<Count> {
        self.0.metrics.counts()
    }
}

/// The part that moka calls, for what it removes by itself. An entry that was replaced by a newer one has not left; what
/// `links` removes is `Explicit` to moka, expired or not, and is counted where it is removed.
pub(super) fn listener<K, V>(metrics: &Metrics) -> impl Fn(Arc<K>, V, RemovalCause) + Send + Sync + use<K, V> {
    let metrics = metrics.clone();
    move |_, _, cause| {
        if cause == RemovalCause::Size {
            metrics.evicted(cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::BreakerState;

    #[test]
    fn status_and_metrics_say_the_same_words() {
        let word = |json: serde_json::Result<String>| json.unwrap().trim_matches('"').to_owned();
        for reason in Reason::ALL {
            assert_eq!(word(serde_json::to_string(&reason)), reason.as_str());
        }
        for rule in Rule::ALL {
            assert_eq!(word(serde_json::to_string(&rule)), rule.as_str());
        }
        for state in BreakerState::ALL {
            assert_eq!(word(serde_json::to_string(&state)), state.as_str());
        }
    }
}
