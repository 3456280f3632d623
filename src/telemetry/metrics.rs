//! What the parts' `metrics` have in common: gauges that are read when somebody looks, and exemplars.
//!
//! Every part counts for itself and registers what it counted; `admin` shows it.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType, counter::ConstCounter, exemplar::HistogramWithExemplars, gauge::ConstGauge, histogram::Histogram,
    },
    registry::Registry,
};

use super::trace::TraceId;

/// Which trace an observation belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Exemplar {
    trace_id: String,
}

/// A latency histogram whose observations may name their trace.
pub(crate) type Latencies = HistogramWithExemplars<Exemplar>;

/// Notes an observation. Only sampled traces are worth naming: all others are kept nowhere.
pub(crate) fn observe(latencies: &Latencies, seconds: f64, trace_id: Option<TraceId>) {
    let exemplar = trace_id.map(|trace_id| Exemplar { trace_id: trace_id.to_string() });
    latencies.observe(seconds, exemplar, None);
}

/// A histogram of `bounds`, which must ascend.
pub(crate) fn histogram(bounds: &[f64]) -> Histogram {
    Histogram::new(bounds.iter().copied())
}

/// Registers a gauge whose value is read when it is looked at.
pub(crate) fn reading(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> f64 + Send + Sync + 'static,
) {
    let encode = move |metric: MetricEncoder<'_>| ConstGauge::new(read()).encode(metric);
    registry.register_collector(Box::new(Reading { name, help, kind: MetricType::Gauge, encode }));
}

/// Registers a counter that is kept elsewhere and read when it is looked at; `_total` is added to its name.
pub(crate) fn counting(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> u64 + Send + Sync + 'static,
) {
    let encode = move |metric: MetricEncoder<'_>| ConstCounter::new(read()).encode(metric);
    registry.register_collector(Box::new(Reading { name, help, kind: MetricType::Counter, encode }));
}

/// Registers a family of gauges, each with a label of its own.
pub(crate) fn readings<const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> [((&'static str, &'static str), f64); N] + Send + Sync + 'static,
) {
    let encode = move |mut family: MetricEncoder<'_>| {
        read().into_iter().try_for_each(|(label, value)| ConstGauge::new(value).encode(family.encode_family(&[label])?))
    };
    registry.register_collector(Box::new(Reading { name, help, kind: MetricType::Gauge, encode }));
}

struct Reading<F> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    encode: F,
}

impl<F> fmt::Debug for Reading<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F> Collector for Reading<F>
where
    F: Fn(MetricEncoder<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.encode)(encoder.encode_descriptor(self.name, self.help, None, self.kind)?)
    }
}
