//! What operators see of keys: `kielink_key_info`, `kielink_key_reloads_total`. Fingerprints only.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use super::Keys;

/// What became of a key that was read while kielink ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reload {
    /// A new key was read, and is on trial.
    Taken,
    /// It has minted, and serves.
    Ok,
    /// kie.ai refuses it; the old one goes on.
    Refused,
    /// The file gives no key; the one in use goes on.
    Unreadable,
}

impl EncodeLabelValue for Reload {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let word = match self {
            Reload::Taken => "taken",
            Reload::Ok => "ok",
            Reload::Refused => "refused",
            Reload::Unreadable => "unreadable",
        };
        word.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: Reload,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Reloads(Family<Labels, Counter>);

impl Default for Reloads {
    /// Every result from the start, so that the first one is an increase to whoever watches.
    fn default() -> Reloads {
        let family = Family::default();
        for result in [Reload::Taken, Reload::Ok, Reload::Refused, Reload::Unreadable] {
            let _: &Counter = &family.get_or_create(&Labels { result });
        }
        Reloads(family)
    }
}

impl Reloads {
    pub(super) fn count(&self, result: Reload) {
        self.0.get_or_create(&Labels { result }).inc();
    }
}

impl Keys {
    /// Adds what is known of keys to what `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Keys read while running: taken on trial, ok (it has minted), refused by kie.ai, unreadable";
        registry.register("key_reloads", help, self.reloads().0.clone());
        registry.register_collector(Box::new(self.clone()));
    }
}

/// The key that serves now: read when asked, since a rotation changes the labels.
impl Collector for Keys {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The API key that serves, by fingerprint, and where it came from";
        let mut family = encoder.encode_descriptor("key_info", help, None, MetricType::Gauge)?;
        let serving = self.serving();
        let labels = [("fingerprint", serving.fingerprint()), ("source", self.source_kind())];
        ConstGauge::new(1i64).encode(family.encode_family(&labels)?)
    }
}
