//! What operators see of the way to kie.ai.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::{BreakerState, Kie};
use crate::telemetry::metrics::{reading, readings};

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    retries: Counter,
}

impl Metrics {
    pub(super) fn retried(&self) {
        self.retries.inc();
    }
}

impl Kie {
    /// Adds what is known of kie.ai to what `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests to kie.ai that repeat one that failed; with the mints, all that it has seen";
        registry.register("mint_retries", help, self.0.metrics.retries.clone());
        let kie = self.clone();
        let help = "Requests that may go to kie.ai at once, by upstream.rate and upstream.burst";
        reading(registry, "budget_tokens", help, move || kie.tokens());
        let kie = self.clone();
        let help = "1 where kie.ai has said 429 and is not asked for a while";
        reading(registry, "upstream_paused", help, move || f64::from(kie.is_paused()));
        let kie = self.clone();
        let help = "1 for the state that the breaker is in; open: kie.ai has failed and is not asked";
        readings(registry, "breaker_state", help, move || {
            let state = kie.breaker();
            BreakerState::ALL.map(|one| (("state", one.as_str()), f64::from(one == state)))
        });
    }

    /// Whether nothing is asked for a while after a 429; the breaker may be open besides.
    pub fn is_paused(&self) -> bool {
        self.0.gate.pause_left().is_some()
    }

    /// Requests that may go to kie.ai at once.
    pub fn tokens(&self) -> f64 {
        self.0.gate.tokens()
    }

    /// The most tokens there can be, and how many are added a second.
    pub fn budget_bounds(&self) -> (f64, f64) {
        self.0.gate.budget_bounds()
    }

    pub fn breaker(&self) -> BreakerState {
        self.0.gate.breaker()
    }

    /// Requests repeated since the start.
    pub fn retries(&self) -> u64 {
        self.0.metrics.retries.get()
    }
}
