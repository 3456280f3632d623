//! What operators see of the fleet.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::Fleet;
use crate::telemetry::metrics::reading;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    duplicate: Counter,
}

impl Metrics {
    pub(super) fn duplicate(&self) {
        self.duplicate.inc();
    }
}

impl Fleet {
    /// Adds what is known of the fleet and its tier to what `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let fleet = self.clone();
        if let Some(realm) = self.0.realms().first() {
            realm.tier().register(registry, move || fleet.state());
        }
        let help = "Links that were minted here though another replica had minted a newer one";
        registry.register("mints_duplicate", help, self.0.metrics.duplicate.clone());
        let fleet = self.clone();
        let help = "Since kie.ai's clock was last seen in one of its answers, without which no link of another replica is served; NaN before";
        reading(registry, "kie_clock_age_seconds", help, move || {
            let age = fleet.0.kie_clock.age(fleet.0.clock.now());
            age.map_or(f64::NAN, |age| age.as_secs_f64())
        });
        let fleet = self.clone();
        let help = "Replicas that were live within the last minute; shared.replicas where none was seen";
        reading(registry, "shared_replicas", help, move || f64::from(fleet.0.local().replicas().get()));
    }
}
