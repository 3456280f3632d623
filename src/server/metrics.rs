//! What the server counts of an interface's connections.

use prometheus_client::registry::Registry;

use super::Server;
use crate::telemetry::metrics::{counting, reading};

impl Server {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let crowd = self.crowd.clone();
        reading(registry, "connections", "Connections of callers", move || crowd.present() as f64);
        let crowd = self.crowd.clone();
        let help = "Connections of callers that were turned away, beyond limits.connections";
        counting(registry, "connections_turned_away", help, move || crowd.turned_away());
    }
}
