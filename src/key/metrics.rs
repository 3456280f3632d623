//! What operators see of keys: `kielink_key_info`, `kielink_key_reloads_total`. Fingerprints only.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use super::Keys;

/// What became of a key that was read while kielink ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ReloadResult {
    /// A new key was read, and is on trial.
    Taken,
    /// It has minted, and serves.
    Minted,
    /// kie.ai refuses it; the old one goes on.
    Refused,
    /// The file gives no key; the one in use goes on.
    Unreadable,
}

impl EncodeLabelValue for ReloadResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl ReloadResult {
    const ALL: [ReloadResult; 4] =
        [ReloadResult::Taken, ReloadResult::Minted, ReloadResult::Refused, ReloadResult::Unreadable];

    fn as_str(self) -> &'static str {
        match self {
            ReloadResult::Taken => "taken",
            ReloadResult::Minted => "ok",
            ReloadResult::Refused => "refused",
            ReloadResult::Unreadable => "unreadable",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: ReloadResult,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Reloads(Family<Labels, Counter>);

impl Default for Reloads {
    /// Every counter exists from the start, so that the first event is an increase for a watcher.
    fn default() -> Reloads {
        let family = Family::default();
        for result in ReloadResult::ALL {
            let _: &Counter = &family.get_or_create(&Labels { result });
        }
        Reloads(family)
    }
}

impl Reloads {
    pub(super) fn count(&self, result: ReloadResult) {
        self.0.get_or_create(&Labels { result }).inc();
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let count = |result| self.0.get(&Labels { result }).map_or(0, |count| count.get());
        ReloadResult::ALL.into_iter().map(|result| (result.as_str(), count(result))).collect()
    }
}

impl Keys {
    /// Adds what is known of keys to what `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Key files read while running: a new key is taken on trial, and later ok or refused; or the file is unreadable";
        registry.register("key_reloads", help, self.reloads().0);
        registry.register_collector(Box::new(self.clone()));
    }
}

/// The key that serves now: read when asked, since a rotation changes the labels.
impl Collector for Keys {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The API key that serves, by fingerprint, and where it came from";
        let mut family = encoder.encode_descriptor("key_info", help, None, MetricType::Gauge)?;
        let serving = self.serving();
        let labels = [("fingerprint", serving.fingerprint()), ("source", self.source().kind())];
        ConstGauge::new(1i64).encode(family.encode_family(&labels)?)
    }
}
