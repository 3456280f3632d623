//! `GET /metrics`: the Prometheus text format, or OpenMetrics where the request asks for it.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::info::Info,
    registry::Registry,
};

use super::process::Process;
use crate::{readiness::Readiness, telemetry::metrics::reading, web::problem::Problem};

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Which build this is, for `kielink_build_info`; the image's builder sets it.
pub(super) const REVISION: &str = match option_env!("KIELINK_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Adds `process_*`, whose names have no prefix, to what `/metrics` shows.
pub(crate) fn register_process(registry: &mut Registry) {
    registry.register_collector(Box::new(Process::default()));
}

/// Adds what is known of the life of this kielink.
pub(crate) fn register(registry: &mut Registry, readiness: &Readiness) {
    let build = [("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION)];
    registry.register("build", "Which kielink this is", Info::new(build));
    let of = readiness.clone();
    reading(registry, "ready", "1 where /readyz says so", move || f64::from(of.is_ready()));
    let of = readiness.clone();
    reading(registry, "draining", "1 from SIGTERM on", move || f64::from(of.is_draining()));
}

pub(super) async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Result<Response, Problem> {
    let open = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text")));
    let mut shown = String::new();
    let (encoded, content_type) = if open {
        (text::encode(&mut shown, &registry), OPEN_METRICS)
    } else {
        (prometheus_text::encode(&mut shown, &registry), PROMETHEUS)
    };
    encoded.map_err(|_| Problem::internal("The metrics cannot be shown."))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], shown).into_response())
}
