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
    fleet::Fleet,
    key::LogHash,
    links::Links,
    telemetry::{Failures, LogLevel},
    web::{
        edge::{self, Edge},
        probes::{self, Probes},
    },
};

/// What the admin interface works with.
pub(crate) struct Parts {
    pub(crate) links: Links,
    pub(crate) fleet: Option<Fleet>,
    pub(crate) probes: Probes,
    pub(crate) registry: Registry,
    pub(crate) status: Status,
    pub(crate) failures: Failures,
    pub(crate) log_level: LogLevel,
    pub(crate) clock: Clock,
    pub(crate) log_hash: LogHash,
    pub(crate) allowed_hosts: Vec<String>,
}

pub(crate) fn router(parts: Parts) -> Router {
    let Parts { links, fleet, probes, registry, status, failures, log_level, clock, log_hash, allowed_hosts } = parts;
    let routes = Router::new()
        .route("/v1/explain", get(explain::explain))
        .with_state(links.clone())
        .route("/v1/link", delete(explain::forget))
        .with_state((links, fleet))
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
        clock,
        log_hash,
        allowed_hosts,
        request_timeout: Duration::from_secs(5),
        readiness: probes.readiness,
        failures,
        watched: None,
    };
    edge::layered(routes, Arc::new(edge))
}
