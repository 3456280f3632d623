//! What the parts' `metrics` have in common: gauges that are read when somebody looks, and exemplars.
//!
//! Every part counts for itself and registers what it counted; `admin` shows it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, counter::ConstCounter, exemplar::HistogramWithExemplars, gauge::ConstGauge},
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

/// A histogram that is counted into without a lock, as the library's own is not. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Histogram(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    bounds: &'static [f64],
    /// One for each bound, and one for what is larger.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// `bounds` must ascend.
    pub(crate) fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Counts { bounds, counts, sum: AtomicU64::new(0) }))
    }

    pub(crate) fn observe(&self, value: f64) {
        let Counts { bounds, counts, sum } = &*self.0;
        counts[bounds.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // It is never refused.
        let _ = sum.fetch_update(Relaxed, Relaxed, add);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Counts { bounds, counts, sum } = &*self.0;
        let counts = counts.iter().map(|count| count.load(Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.iter().copied().chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let exemplars = None::<&HashMap<usize, prometheus_client::metrics::exemplar::Exemplar<Exemplar, f64>>>;
        encoder.encode_histogram(f64::from_bits(sum.load(Relaxed)), count, &buckets, exemplars)
    }

    fn metric_type(&self) -> MetricType {
        Histogram::TYPE
    }
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

/// The same, where there is no value as long as nothing is known.
pub(crate) fn reading_if_known(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    let encode = move |metric: MetricEncoder<'_>| read().map_or(Ok(()), |value| ConstGauge::new(value).encode(metric));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_shows_what_the_library_s_own_shows() {
        const BOUNDS: [f64; 3] = [0.5, 1.0, 60.0];
        let (own, other) = (Histogram::new(&BOUNDS), prometheus_client::metrics::histogram::Histogram::new(BOUNDS));
        for value in [0.0, 0.5, 0.5001, 1.0, 59.9, 60.0, 61.0, 1e9] {
            own.observe(value);
            other.observe(value);
        }
        fn shown(metric: impl prometheus_client::registry::Metric) -> String {
            let mut registry = Registry::default();
            registry.register("one", "help", metric);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        }
        assert_eq!(shown(own), shown(other));
    }
}
