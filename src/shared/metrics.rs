//! What operators see of the shared tier.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};

use super::{fault::Error, life::Withheld, scripts::Operation, seal::Rejection, state::State};
use crate::telemetry::metrics::{Histogram, reading, readings};

/// Seconds. A trip takes half a millisecond; a caller waits 20 ms in all, but for another replica's mint and for
/// a turn; what took 25 ms at most was no more than a fault may cost.
const DURATIONS: [f64; 10] = [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Took {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    requests: Family<Asked, Counter>,
    durations: Family<Took, Histogram, fn() -> Histogram>,
    rejected: Family<Reason, Counter>,
    trips: Counter,
}

impl Default for Metrics {
    /// Every counter exists from the start, so that the first event is an increase for a watcher.
    fn default() -> Metrics {
        let requests = Family::default();
        for operation in Operation::ALL.into_iter().filter(|operation| *operation != Operation::Trial) {
            for result in ["ok"].into_iter().chain(Error::ALL.map(Error::as_str)) {
                let _: &Counter = &requests.get_or_create(&Asked { operation: operation.as_str(), result });
            }
        }
        let rejected = Family::default();
        for reason in Rejection::ALL.map(Rejection::as_str).into_iter().chain(Withheld::ALL.map(Withheld::as_str)) {
            let _: &Counter = &rejected.get_or_create(&Reason { reason });
        }
        let durations = Family::new_with_constructor((|| Histogram::new(&DURATIONS)) as fn() -> Histogram);
        Metrics { requests, durations, rejected, trips: Counter::default() }
    }
}

impl Metrics {
    pub(super) fn asked(&self, operation: Operation, error: Option<Error>, took: Option<Duration>) {
        let (operation, result) = (operation.as_str(), error.map_or("ok", Error::as_str));
        self.requests.get_or_create(&Asked { operation, result }).inc();
        // What was not sent took no time.
        if let Some(took) = took {
            self.durations.get_or_create(&Took { operation }).observe(took.as_secs_f64());
        }
    }

    pub(super) fn tripped(&self) {
        self.trips.inc();
    }

    /// Notes that a value was found and not believed.
    pub(super) fn rejected(&self, why: Rejection) {
        self.rejected.get_or_create(&Reason { reason: why.as_str() }).inc();
    }

    /// Notes that a link was found, and must not be served.
    pub(super) fn withheld(&self, why: Withheld) {
        self.rejected.get_or_create(&Reason { reason: why.as_str() }).inc();
    }

    /// Adds what is known of the tier to what `/metrics` shows; `state` tells whether it is used now.
    pub(super) fn register(&self, registry: &mut Registry, state: impl Fn() -> State + Clone + Send + Sync + 'static) {
        let Metrics { requests, durations, rejected, trips } = self.clone();
        registry.register("shared_requests", "Questions to the shared tier, by what came of them", requests);
        let help = "How long the shared tier took to answer, or was waited for";
        registry.register_with_unit("shared_request_duration", help, Unit::Seconds, durations);
        let help = "Values found in the shared tier that were not believed, or not alive";
        registry.register("shared_rejected", help, rejected);
        registry.register("shared_silences", "Times that the shared tier did not answer in time", trips);
        let help = "1 where the shared tier is used";
        let now = state.clone();
        reading(registry, "shared_up", help, move || f64::from(now() == State::Up));
        let help = "1 for the state that the connection to the shared tier is in";
        readings(registry, "shared_state", help, move || {
            let state = state();
            State::ALL.map(|one| (("state", one.as_str()), f64::from(one == state)))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        key::ApiKey,
        shared::{Config, Names, Request, Tier},
    };

    #[tokio::test]
    async fn all_is_there_from_the_start_and_questions_to_a_tier_that_is_away_count_as_such() {
        let names = Names::new(&ApiKey::new("first-key").unwrap().fleet_secret());
        let address = "redis://127.0.0.1:1".parse().unwrap();
        let config = Config { address, timeout: Duration::from_millis(20) };
        let (tier, _supervisor) = Tier::new(config, names.clone(), Clock::system());
        let mut registry = Registry::with_prefix("kielink");
        let known = tier.clone();
        tier.register(&mut registry, move || known.state());
        let pause = Request::pause(names.fleet(), Duration::from_secs(1));
        assert_eq!(tier.ask(pause, Duration::from_secs(1)).await, Err(Error::Away));
        tier.rejected(Rejection::Tag);
        tier.withheld(Withheld::Dead);
        let mut shown = String::new();
        prometheus_client::encoding::text::encode(&mut shown, &registry).unwrap();
        for line in [
            "kielink_shared_requests_total{operation=\"pause\",result=\"away\"} 1",
            "kielink_shared_requests_total{operation=\"look\",result=\"ok\"} 0",
            "kielink_shared_rejected_total{reason=\"tag\"} 1",
            "kielink_shared_rejected_total{reason=\"dead\"} 1",
            "kielink_shared_rejected_total{reason=\"no-clock\"} 0",
            "kielink_shared_silences_total 0",
            "kielink_shared_up 0",
            "kielink_shared_state{state=\"down\"} 1",
        ] {
            assert!(shown.lines().any(|shown| shown.starts_with(line)), "{line} in {shown}");
        }
        assert!(
            !shown.contains("kielink_shared_request_duration_seconds_count{operation=\"pause\"}"),
            "it was not sent"
        );
    }
}
