//! The admin interface: what orchestrators and people ask. Runs on a thread and runtime of its own, so that it
//! answers under any load of the data interface.

mod explain;
mod log_level;
mod metrics;
mod process;
pub(crate) mod status;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    response::Redirect,
    routing::{delete, get},
};
use prometheus_client::registry::Registry;

pub(crate) use self::metrics::{register, register_process};
use self::status::Status;
use crate::{
    clock::Clock,
    key::LogHash,
    links::Links,
    telemetry::LogLevel,
    web::{
        edge::{self, Edge},
        probes::{self, Probes},
    },
};

#[expect(clippy::too_many_arguments, reason = "every part is handed over once, where the parts are put together")]
pub(crate) fn router(
    links: Links,
    probes: Probes,
    registry: Registry,
    status: Status,
    log_level: LogLevel,
    clock: &Clock,
    log_hash: &LogHash,
    allowed_hosts: &[String],
) -> Router {
    let routes = Router::new()
        .route("/v1/explain", get(explain::explain))
        .route("/v1/link", delete(explain::forget))
        .with_state(links)
        .route("/metrics", get(metrics::metrics))
        .with_state(Arc::new(registry))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/healthz", get(probes::readyz))
        .route("/startupz", get(probes::startupz))
        .with_state(probes.clone())
        .route("/log-level", get(log_level::tell).put(log_level::change))
        .with_state(log_level)
        .route("/", get(async || Redirect::temporary("/status")))
        .merge(status.routes());
    let edge = Edge {
        clock: clock.clone(),
        log_hash: log_hash.clone(),
        allowed_hosts: allowed_hosts.to_vec(),
        request_timeout: Duration::from_secs(5),
        readiness: probes.readiness,
        watched: None,
    };
    edge::layered(routes, Arc::new(edge))
}
